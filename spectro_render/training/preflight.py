"""Checks all that a training will need before its first minute, so that it does not fail late."""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import soundfile

from spectro_render.checkpoints.find import find_model
from spectro_render.checkpoints.load import read_vocabulary
from spectro_render.constants import FRAME_RATE, N_MELS, WINDOW_SECONDS
from spectro_render.errors import (
    MidiError,
    OptionError,
    OutputError,
    SpectroRenderError,
    install_hint,
)
from spectro_render.midi.read import read_midi
from spectro_render.report import as_size
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.training.data import midi_files
from spectro_render.training.job import Job
from spectro_render.training.layouts import Pair
from spectro_render.training.soundfont import read_recordings
from spectro_render.training.synth import Synthesizer

MUSIC_BYTES = 280e6  # on disk, of an hour of music: samples and mels
NOTE_BYTES = 46e6  # of an hour of single notes
BASE_MEMORY, MUSIC_MEMORY = 2e9, 2 * 3600 * FRAME_RATE * N_MELS * 2.0  # of the program, of an hour
CURVES_MEMORY = 0.35e9  # of each window of a step in which curves of notes are learned, too
HELD_OUT_TRIES = 20  # held-out files that are read


def check_job(job: Job, output: Path) -> None:
    """Raise SpectroRenderError where something is missing that the training will need later."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SpectroRenderError(
            "matplotlib is not installed", "install spectro-render with the extra train"
        )
    _check_places(job, output)
    hours = _check_recordings(job) if job.pairs or job.unused else 0.0
    if job.soundfont is not None:
        Synthesizer(job.soundfont)
        if job.learns_notes:
            read_recordings(job.soundfont, job.config.velocity_bins)
        _check_midi(job)
        hours += job.hours
    if job.start_from is not None:
        own = Vocabulary(job.config.velocity_bins, job.config.programs)
        if read_vocabulary(find_model(job.start_from)) != own:
            raise OptionError(
                f"the model {job.start_from} has another vocabulary than this preset",
                "leave --preset out, or start from another model",
            )
    _check_room(job, hours)


def why_unmeasured() -> str | None:
    """Why it cannot be measured how good a new model sounds; None where it can."""
    for package in ("mir_eval", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed; {install_hint('evaluate')}"
    return None


def _check_places(job: Job, output: Path) -> None:
    """Raise OutputError where the work folder or the model cannot be written."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file", "name a folder for the model")
    if output.is_dir() and any(output.iterdir()) and not (output / "model_index.json").exists():
        raise OutputError(
            f"{output} has files that are no model", "name a new folder, or empty this one"
        )
    for place in (job.work, output):
        existing = next(path for path in (place, *place.absolute().parents) if path.exists())
        if not os.access(existing, os.W_OK):
            raise OutputError(f"{place} cannot be written", "choose a place that you may write to")


def _check_recordings(job: Job) -> float:
    """The hours of the recordings. Raises SpectroRenderError for too little to learn from."""
    if not job.pairs:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in job.unused[:3])
        raise SpectroRenderError(
            f"no recording under {job.source} can be used ({reasons})",
            "put NAME.mid beside NAME.wav",
        )
    seconds = sum(map(_seconds, job.pairs))
    needed = (job.diffusion.batch_size + 2) * WINDOW_SECONDS
    if job.soundfont is None and seconds < needed:
        raise SpectroRenderError(
            f"{seconds:.0f} s of recordings are too few: a step needs {needed:.0f} s",
            "add recordings, or --hours of synthesised music, or choose a smaller --batch-size",
        )
    return seconds / 3600


def _seconds(pair: Pair) -> float:
    """The length of a recording by its header; 0 for one that cannot be read."""
    try:
        return float(soundfile.info(pair.sound).duration)
    except (OSError, soundfile.SoundFileError):
        return 0.0


def _check_midi(job: Job) -> None:
    """Raise SpectroRenderError where no file that is held out has music."""
    files = midi_files(job.source, held_out=True)
    if not any(map(_has_notes, files[:HELD_OUT_TRIES])):
        raise SpectroRenderError(
            f"no music in {len(files)} held-out files of {job.source}", "give more MIDI files"
        )


def _has_notes(path: Path) -> bool:
    try:
        return bool(read_midi(path).notes)
    except MidiError:
        return False


def _check_room(job: Job, hours: float) -> None:
    """Raise SpectroRenderError where disk or memory do not suffice for `hours` hours of music."""
    notes = job.note_hours if job.learns_notes else 0.0
    existing = next(path for path in (job.work, *job.work.absolute().parents) if path.exists())
    made = sum(path.stat().st_size for path in _shards(job.work))
    disk = max(0.0, hours * MUSIC_BYTES + notes * NOTE_BYTES - made) + 1e9
    free = shutil.disk_usage(existing).free
    if free < disk:
        raise SpectroRenderError(
            f"the data need {as_size(disk)}, but {existing} has {as_size(free)} left",
            "choose another --work, or fewer --hours",
        )
    memory = BASE_MEMORY + max(hours * MUSIC_MEMORY, notes * NOTE_BYTES)
    if job.diffusion.curve_rate is not None:
        memory += CURVES_MEMORY * job.diffusion.batch_size
    left = _free_memory()
    if left is not None and left < memory:
        raise SpectroRenderError(
            f"the training needs {as_size(memory)} of memory, but {as_size(left)} are free",
            "end other programs, or choose fewer --hours",
        )


def _shards(work: Path) -> Sequence[Path]:
    return [*work.glob("*/shard-*.safetensors"), *work.glob("notes/*.safetensors")]


def _free_memory() -> float | None:
    """Bytes of memory that programs could take; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024 * float(line.split()[1])
    return None
