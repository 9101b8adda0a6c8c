"""The command `spectro-render doctor`: what is installed, how fast it is, and what is missing."""

from __future__ import annotations

import json as json_format
import os
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Annotated, Any

import typer

from spectro_render.errors import SpectroRenderError, install_hint
from spectro_render.report import as_size, one_line

_PACKAGES = ("torch", "numpy", "soundfile", "soxr", "note-seq", "pretty-midi", "mido", "typer")
_SIZE = 1024  # of the square matrices that are multiplied
_MEASURED = 0.5  # seconds of multiplications
_SONG = 10.0  # seconds of music that are rendered


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure no speed, which takes seconds for each model.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show what is installed, how fast it is, and what is missing.

    The speed of a model is that of a song of ten seconds with the model's default options, after a
    first one.
    """
    facts = {**versions(), **_places(), **({} if quick else _speeds()), "missing": _missing()}
    if json:
        print(json_format.dumps(facts))
        return 0
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        print(one_line(f"{name:<16} {lines[0] if lines else 'nothing'}"))
        for line in lines[1:]:
            print(one_line(f"{'':<16} {line}"))
    return 0


def versions() -> dict[str, Any]:
    """The versions and the devices of this installation, for reports of faults."""
    import soundfile
    import torch

    from spectro_render import __version__

    devices = ["cpu"]
    for number in range(torch.cuda.device_count()):
        devices.append(f"cuda:{number} ({torch.cuda.get_device_name(number)})")
    if torch.backends.mps.is_available():
        devices.append("mps")
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
    return {
        "spectro-render": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "packages": [f"{name} {_version(name)}" for name in _PACKAGES],
        "torch": f"built {build}; {torch.backends.cpu.get_cpu_capability()}",
        "devices": devices,
        "threads": torch.get_num_threads(),
        "libsndfile": soundfile.__libsndfile_version__,
    }


def _places() -> dict[str, Any]:
    """The formats that can be written, the models at hand, and the folders that are used."""
    import soundfile

    from spectro_render.audio.encoders import FORMATS
    from spectro_render.checkpoints.find import model_entries
    from spectro_render.checkpoints.hub_cache import cache_folder
    from spectro_render.cli.defaults import PREFIX, config_path

    can = {"mp3": "MP3" in soundfile.available_formats()}
    can["opus"] = "OPUS" in soundfile.available_subtypes("OGG")
    here = [entry for entry in model_entries() if entry.path is not None]
    cache = Path(cache_folder())
    parent = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    file = config_path()
    return {
        "sound devices": _sound_devices(),
        "formats": ", ".join(name for name in FORMATS if can.get(name, True)),
        "models": [f"{entry.name}: {entry.state}, {as_size(entry.size)}" for entry in here],
        "model cache": f"{cache}, {as_size(shutil.disk_usage(parent).free)} free",
        "working folder": f"{Path.cwd()}, {as_size(shutil.disk_usage('.').free)} free",
        "configuration": f"{file}{'' if file.exists() else ' (no such file)'}",
        "variables": sorted(name for name in os.environ if name.startswith(PREFIX)),
    }


def _sound_devices() -> list[str] | str:
    """The devices that can play, or why none can."""
    from spectro_render.audio.player import output_devices

    try:
        return output_devices() or "none"
    except SpectroRenderError as error:
        return str(error)


def _speeds() -> dict[str, Any]:
    """How fast matrices are multiplied, and how fast each model at hand renders."""
    import torch

    from spectro_render.checkpoints.find import models_at_hand
    from spectro_render.midi.score import Note, Score
    from spectro_render.render.renderer import Renderer
    from spectro_render.report import times_real_time

    matrix = torch.rand(_SIZE, _SIZE)
    matrix @ matrix
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < _MEASURED:
        matrix @ matrix
        count += 1
    rate = 2 * _SIZE**3 * count / (time.perf_counter() - begun) / 1e9
    beats = range(int(2 * _SONG))
    notes = [
        Note(beat / 2, beat / 2 + 0.5, pitch, 90, program, False)
        for beat in beats
        for pitch, program in ((60, 0), (64, 0), (67, 48), (36, 33))
    ]
    score = Score(notes=tuple(notes), duration=_SONG)
    models = []
    for name in models_at_hand():
        try:
            renderer = Renderer.load(name, quiet=True)
            renderer.render(score, duration=1.0)
            begun = time.perf_counter()
            sound = renderer.render(score)
            factor = times_real_time(sound.seconds, time.perf_counter() - begun)
            models.append(f"{name} on {renderer.device}: {factor:.1f} times real time")
        except SpectroRenderError as error:
            models.append(f"{name}: {error}")
    return {"multiplication": f"{rate:.0f} GFLOP/s (float32, {_SIZE} x {_SIZE})", "speed": models}


def _missing() -> list[str]:
    """The extras that are not installed, each with the command that installs it."""
    try:
        extras = metadata("spectro-render").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return []
    lines = []
    for extra in extras:
        end = ["extra", "==", f"'{extra}'"]
        needed = [
            line.split(";")[0]
            for line in requires("spectro-render") or []
            if line.split()[-3:] == end
        ]
        names = [line.split(">")[0].split("[")[0].strip() for line in needed]
        if extra != "dev" and any(not _version(name) for name in names):
            lines.append(f"{extra}: {install_hint(extra)}")
    if shutil.which("fluidsynth") is None:
        lines.append("FluidSynth, for train and evaluate (Debian: apt install fluidsynth)")
    return lines


def _version(package: str) -> str:
    """The version of an installed package; "" if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
