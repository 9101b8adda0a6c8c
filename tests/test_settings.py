"""Model directories with any value in any setting: loaded and usable, or refused in one line."""

import itertools
import json
import math
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.load import Defaults, save_model
from spectro_render.checkpoints.manifest import CHECKSUMS, INDEX
from spectro_render.checkpoints.names import (
    AUTOREGRESSIVE_SETTINGS,
    FOLDERS,
    OWN_SETTINGS,
    SCHEDULER,
    SETTINGS,
    read_config,
    write_config,
    write_schedule,
)
from spectro_render.checkpoints.settings import (
    BAND_SETTINGS,
    DEFAULTS_SETTINGS,
    INDEX_SETTINGS,
    NETWORK_SETTINGS,
    SCHEDULER_SETTINGS,
    VOCODER_SETTINGS,
)
from spectro_render.diffusion import DiscreteSchedule, sampling_levels
from spectro_render.errors import OptionError, WeightsError
from spectro_render.network.autoregressive import AutoregressiveModel
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import SpectrogramModel
from spectro_render.network.presets import PRESETS
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.vocoder.melgan import MelGAN, VocoderConfig, count_weights
from tests.support.golden import PIPELINE
from tests.support.songs import MakeSong
from tests.support.toys import toy_config, write_toy_band

NESTED: Any = []
for _ in range(500):
    NESTED = [NESTED]

VALUES = {
    "0": 0,
    "-1": -1,
    "1": 1,
    "2": 2,
    "1.5": 1.5,
    "NaN": math.nan,
    "inf": math.inf,
    "1e9": 1e9,
    "10**9": 10**9,
    "2**31": 2**31,
    "2**70": 2**70,
    "65535": 65_535,
    "65536": 65_536,
    "text of 10": "10",
    "text": "a",
    "no text": "",
    "null": None,
    "true": True,
    "false": False,
    "[]": [],
    "[0]": [0],
    "[-1]": [-1],
    "[1.5]": [1.5],
    "[text]": ["a"],
    "[2**70]": [2**70],
    "[null, null]": [None, None],
    "[text, 2**70]": ["ddim", 2**70],
    "1000 ones": [1] * 1000,
    "{}": {},
    "deep": NESTED,
}

# File -> all settings that are read from it; those in `defaults` have a place of their own.
FILES = {
    INDEX: INDEX_SETTINGS,
    "defaults": DEFAULTS_SETTINGS,
    SCHEDULER.as_posix(): SCHEDULER_SETTINGS,
    **{f"{FOLDERS[part]}/config.json": NETWORK_SETTINGS[part] for part in FOLDERS},
    "melgan/config.json": VOCODER_SETTINGS,
    "band/config.json": BAND_SETTINGS,
}
MAX_CPU = 5.0  # seconds for one directory; most take a few milliseconds
MAX_MEMORY = 300 << 20  # bytes that the peak may grow by, over all directories


def write_variants(folder: Path, layout: str, tiny_model: Path) -> Path:
    """Copy a model directory: the published layout, this project's, or an autoregressive one."""
    path = folder / layout
    if layout == "autoregressive":
        torch.manual_seed(0)
        config = toy_config(decoder="autoregressive", target="x0")
        save_model(path, AutoregressiveModel(config))
    else:
        shutil.copytree(PIPELINE if layout == "published" else tiny_model, path)
        if layout == "own":
            write_toy_band(path)
    (path / CHECKSUMS).unlink(missing_ok=True)
    return path


def change(path: Path, file: str, name: str, value: object) -> None:
    target = path / (INDEX if file == "defaults" else file)
    content = json.loads(target.read_text())
    (content.setdefault("defaults", {}) if file == "defaults" else content)[name] = value
    target.write_text(json.dumps(content))


def try_to_use(path: Path, song: Path) -> str | None:
    """Load a directory and render a song: None if all goes well, else the one line of the error."""
    try:
        loaded = load_checkpoint(path)
        for quality in (None, "fast", "best"):
            sampler, steps = loaded.defaults.sampler_and_steps(quality)
            assert len(sampling_levels(sampler, steps, loaded.schedule)) == steps + 1
        few = None if isinstance(loaded.model, AutoregressiveModel) else 2
        sampler = None if few is None else "diffusers"
        renderer = Renderer(loaded, torch.device("cpu"), torch.float32)
        try:
            audio = renderer.render(song, RenderOptions(steps=few, sampler=sampler, duration=0.5))
        except OptionError:  # schedules of a single step cannot take two
            audio = renderer.render(song, RenderOptions(steps=1, sampler="ddim", duration=0.5))
    except WeightsError as error:
        line = str(error)
        assert "\n" not in line and len(line) < 1000
        return line
    assert audio.samples.shape[-1] == 8000
    return None


def cases(layout: str) -> Iterator[tuple[str, str]]:
    """All settings of a layout's files."""
    for file, settings in FILES.items():
        if layout == "own" or not file.startswith(("melgan", "band")):
            yield from ((file, name) for name in settings)


@pytest.mark.parametrize("layout", ["own", "published", "autoregressive"])
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))]
)
def test_any_value_of_any_setting(
    tmp_path: Path, tiny_model: Path, song: MakeSong, layout: str, part: int
) -> None:
    """Part 0 is a quarter of the values for each setting, the others are the rest."""
    path = write_variants(tmp_path, layout, tiny_model)
    short = song(seconds=0.5)
    assert try_to_use(path, short) is None
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tried = refused = 0
    for number, (file, name) in enumerate(cases(layout)):
        target = path / (INDEX if file == "defaults" else file)
        before = target.read_text()
        for label in itertools.islice(VALUES, (number + part) % 4, None, 4):
            change(path, file, name, VALUES[label])
            start = time.process_time()
            line = try_to_use(path, short)
            assert time.process_time() - start < MAX_CPU, (file, name, label)
            tried += 1
            if line is not None:
                refused += 1
                assert str(path) in line, (file, name, label, line)
        target.write_text(before)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory)
    assert grown < MAX_MEMORY
    assert tried > 300 and refused > tried / 2


@pytest.mark.parametrize(
    ("file", "name", "value", "expected"),
    [
        ("decoder/config.json", "num_layers", 65_536, "a whole number from 1 to 128"),
        ("notes_encoder/config.json", "d_model", 33, "a multiple of 2 from 4 to 65536"),
        ("melgan/config.json", "iterations", 10**9, "a whole number from 0 to 100"),
        ("band/config.json", "width", 0, "a whole number from 1 to 4096"),
        ("melgan/config.json", "dilations", [0], "each a whole number from 1 to 256"),
        (SCHEDULER.as_posix(), "steps_offset", 1000, "below 1000"),
        ("defaults", "gain", "10", "a number from -60 to 60 or null"),
        ("defaults", "fast", ["ddim", 0], "and a whole number from 1 to 100000"),
    ],
)
def test_the_line_names_file_setting_value_and_what_is_allowed(
    tmp_path: Path,
    tiny_model: Path,
    song: MakeSong,
    file: str,
    name: str,
    value: Any,
    expected: str,
) -> None:
    path = write_variants(tmp_path, "own", tiny_model)
    change(path, file, name, value)
    line = try_to_use(path, song())
    assert line is not None
    assert f"{path / (INDEX if file == 'defaults' else file)}: {name} is " in line
    assert str(value) in line and expected in line


def test_ids_without_an_embedding(tmp_path: Path, tiny_model: Path, song: MakeSong) -> None:
    path = write_variants(tmp_path, "published", tiny_model)
    change(path, "notes_encoder/config.json", "vocab_size", 1000)
    assert "vocab_size is 1000, but there are 1391 token ids" in str(try_to_use(path, song()))


def test_vocoders_that_would_take_much_memory(
    tmp_path: Path, tiny_model: Path, song: MakeSong
) -> None:
    path = write_variants(tmp_path, "own", tiny_model)
    file = "melgan/config.json"
    change(path, file, "channels", 4096)
    assert "163840 features of a frame are more than 131072" in str(try_to_use(path, song()))
    wide = VocoderConfig(channels=2, dilations=(1,), window=5120, patch=64, iterations=100)
    save_model(path, SpectrogramModel(toy_config()), MelGAN(wide))
    assert "frames of context, more than 1024" in str(try_to_use(path, song()))


@pytest.mark.parametrize(
    "config",
    [
        VocoderConfig(),
        VocoderConfig(lines=7),
        VocoderConfig(channels=16, dilations=(), window=640, patch=8, lines=1),
        VocoderConfig(head="waveform", channels=32, upsample=(8, 8, 5)),
        VocoderConfig(head="waveform", channels=8, upsample=(5, 64), stage_dilations=(1,)),
    ],
)
def test_weights_are_counted_before_they_are_made(config: VocoderConfig) -> None:
    state = MelGAN(config).state_dict()
    assert count_weights(config) == sum(tensor.numel() for tensor in state.values())


def test_the_table_has_every_setting() -> None:
    assert set(VOCODER_SETTINGS) == {field.name for field in fields(VocoderConfig)}
    assert set(DEFAULTS_SETTINGS) == {field.name for field in fields(Defaults)}
    for part in FOLDERS:
        names = {*SETTINGS[part].values(), *OWN_SETTINGS[part]}
        assert names <= set(NETWORK_SETTINGS[part])
    assert set(AUTOREGRESSIVE_SETTINGS) <= set(NETWORK_SETTINGS["decoder"])
    read = {name for part in SETTINGS for name in (*SETTINGS[part], *OWN_SETTINGS[part])}
    read |= {*AUTOREGRESSIVE_SETTINGS, "target"}  # the target is the scheduler's prediction_type
    assert read == {field.name for field in fields(ModelConfig)}


def test_every_preset_is_within_the_ranges() -> None:
    for config in PRESETS.values():
        read_config(write_config(config), write_schedule(config, DiscreteSchedule()))
