"""The checkpoints of the authors: each parameter finds its place, damage is named in one line."""

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectro_render.checkpoints.t5x import read_t5x
from spectro_render.errors import WeightsCorrupt, WeightsError, WeightsNotFound, install_hint
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import SpectrogramModel
from tests.support.golden import arrays, checkpoint, tokens

pytest.importorskip("msgpack", reason="the extra t5x is not installed")
pytest.importorskip("tensorstore", reason="the extra t5x is not installed")

from tests.support.t5x_writer import (
    Arrays,
    t5x_arrays,
    write_index,
    write_t5x,
    write_zarr,
    zarr_elsewhere,
)

SMALL = ModelConfig(
    width=16,
    heads=3,
    head_width=64,
    mlp_width=24,
    note_layers=2,
    context_layers=1,
    decoder_layers=1,
    level_width=64,
)
STEP = "checkpoint_500000"
KERNEL = "decoder.spec_out_dense.kernel"
GIN = "network.T5Config.head_dim = 16\nnetwork.T5Config.num_heads = 4\n"


def make_model(config: ModelConfig) -> SpectrogramModel:
    torch.manual_seed(0)
    return SpectrogramModel(config).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5x") / "small_with_context"
    write_t5x(folder / STEP, t5x_arrays(make_model(SMALL)))
    return folder


@pytest.fixture
def damaged(written: Path, tmp_path: Path) -> Path:
    """A checkpoint folder, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "damaged")) / STEP


def refusal(path: Path, kind: type[WeightsError] = WeightsCorrupt) -> str:
    """The one line that reading ends in."""
    with pytest.raises(kind) as caught:
        read_t5x(path)
    assert type(caught.value) is kind
    assert caught.value.hint
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def rewrite(folder: Path, change: Callable[[Arrays], Any]) -> None:
    before = t5x_arrays(make_model(SMALL))
    after = dict(before)
    change(after)
    changed = {name for name in after if before.get(name) is not after[name]}
    write_t5x(folder, after, only=changed)


# --- what is read -----------------------------------------------------------------------------


def test_the_same_numbers_as_in_diffusers_layout(tmp_path: Path) -> None:
    published = checkpoint().model
    write_t5x(tmp_path / STEP, t5x_arrays(published))
    (tmp_path / "config.gin").write_text(GIN)
    config, tensors = read_t5x(tmp_path)
    assert config == checkpoint().config
    model = SpectrogramModel(config)
    model.load_state_dict(tensors)
    model.eval()
    mel = torch.randn(2, 1, 256, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = [
            network.denoise(mel[0], torch.tensor([0.3]), network.encode(tokens(1), mel[1]))
            for network in (model, published)
        ]
    assert torch.equal(*outputs)
    assert arrays("runs")  # the numbers that `published` is held to elsewhere


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        ModelConfig(24, 1, 64, 16, 1, 2, 3, 96),
        ModelConfig(16, 1, 64, 16, 1, 0, 1, 64),
        ModelConfig(16, 1, 64, 16, 1, 1, 1, 64, num_embeddings=1664, velocity_bins=127),
    ],
)
def test_the_shapes_tell_the_network(tmp_path: Path, config: ModelConfig) -> None:
    model = make_model(config)
    write_t5x(tmp_path, t5x_arrays(model))
    found, tensors = read_t5x(tmp_path)
    assert found == config
    assert set(tensors) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("place", [".", STEP])
@pytest.mark.parametrize(
    ("text", "heads"), [(GIN, 12), ("network.T5Config:\n  num_heads = 4\n  head_dim = 32\n", 6)]
)
def test_heads_as_the_gin_file_has_them(
    written: Path, tmp_path: Path, place: str, text: str, heads: int
) -> None:
    folder = Path(shutil.copytree(written, tmp_path / "model"))
    (folder / place / "config.gin").write_text(text)
    for path in (folder, folder / STEP, folder / STEP / "checkpoint"):
        assert read_t5x(path)[0].heads == heads


def test_numbers_of_half_the_width(damaged: Path) -> None:
    rewrite(damaged, lambda stored: stored.update({KERNEL: stored[KERNEL].astype("float16")}))
    _, tensors = read_t5x(damaged)
    expected = make_model(SMALL).decoder.output.weight
    assert tensors["decoder.output.weight"].dtype == torch.float32
    assert torch.equal(tensors["decoder.output.weight"], expected.half().float())


def test_the_latest_of_several(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / STEP, tmp_path / "checkpoint_1000000")
    (tmp_path / "checkpoint_999999").mkdir()
    (tmp_path / "checkpoint_999999" / "checkpoint").write_bytes(b"")
    assert read_t5x(tmp_path)[0] == SMALL


@pytest.mark.parametrize("driver", ["file", "gfile", "gcs"])
def test_where_it_was_written_does_not_matter(damaged: Path, driver: str) -> None:
    stored = t5x_arrays(make_model(SMALL))
    there = zarr_elsewhere(f"target.{KERNEL}/")
    there["kvstore"]["driver"] = driver
    write_index(damaged, {**stored, KERNEL: there})
    assert read_t5x(damaged)[0] == SMALL


# --- zip files --------------------------------------------------------------------------------


def make_zip(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("prefix", ["", "small_with_context/", "a/b/"])
def test_a_zip_file(written: Path, tmp_path: Path, prefix: str) -> None:
    path = make_zip(written, tmp_path / "small.zip", prefix)
    config, tensors = read_t5x(path)
    assert config == SMALL
    assert torch.equal(tensors["decoder.output.weight"], make_model(SMALL).decoder.output.weight)
    assert os.listdir(tmp_path) == ["small.zip"]


def test_a_zip_of_the_innermost_folder(written: Path, tmp_path: Path) -> None:
    assert read_t5x(make_zip(written / STEP, tmp_path / "inner.zip"))[0] == SMALL


def test_the_gin_file_in_a_zip(written: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written, tmp_path / "model"))
    (folder / "config.gin").write_text(GIN)
    assert read_t5x(make_zip(folder, tmp_path / "model.zip", "model/"))[0].heads == 12


@pytest.mark.parametrize("size", [0, 100, 0.5, -10])
def test_cut_off_zips(written: Path, tmp_path: Path, size: float) -> None:
    path = make_zip(written, tmp_path / "cut.zip")
    os.truncate(path, int(size if size > 1 or size == 0 else path.stat().st_size * size % 1e9))
    refusal(path)


def test_a_changed_byte_in_a_zip(written: Path, tmp_path: Path) -> None:
    path = make_zip(written, tmp_path / "changed.zip")
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{STEP}/target.{KERNEL}/0.0")
    content = bytearray(path.read_bytes())
    content[member.header_offset + 200] ^= 0xFF
    path.write_bytes(content)
    assert KERNEL in refusal(path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_index_in_a_zip(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "changed.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr(f"{STEP}/checkpoint", bytes(range(256)))
    content = bytearray(path.read_bytes())
    content[60:100] = b"\xff" * 40
    path.write_bytes(content)
    assert f"{STEP}/checkpoint cannot be unpacked" in refusal(path)


def test_a_zip_bomb(written: Path, tmp_path: Path) -> None:
    path = make_zip(written, tmp_path / "bomb.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", bytes(130 * path.stat().st_size + 2_000_000))
    assert "claims to hold" in refusal(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "songs.zip", "w") as archive:
        archive.writestr("song.mid", b"MThd")
    assert "no file named checkpoint" in refusal(tmp_path / "songs.zip", WeightsNotFound)


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [KERNEL, "token_encoder.token_embedder.embedding", "decoder.decoder_norm.scale"]
)
def test_a_missing_parameter(damaged: Path, name: str) -> None:
    rewrite(damaged, lambda stored: stored.pop(name))
    assert f"{damaged} lacks {name}" in refusal(damaged)


def test_a_missing_layer(damaged: Path) -> None:
    start = "token_encoder.layers_0."

    def drop(stored: Arrays) -> None:
        for name in [name for name in stored if name.startswith(start)]:
            del stored[name]

    rewrite(damaged, drop)
    assert start in refusal(damaged)


@pytest.mark.parametrize(
    "name", ["decoder.layers_0.MultiHeadDotProductAttention_1.query.kernel", "adapter.kernel"]
)
def test_an_unknown_parameter(damaged: Path, name: str) -> None:
    rewrite(damaged, lambda stored: stored.update({name: np.zeros((4, 4), "float32")}))
    assert f"holds unknown {name}" in refusal(damaged)


@pytest.mark.parametrize("shape", [(128, 16), (16, 64), (2048,), (16, 128, 1)])
def test_another_shape(damaged: Path, shape: tuple[int, ...]) -> None:
    rewrite(damaged, lambda stored: stored.update({KERNEL: np.ones(shape, "float32")}))
    line = refusal(damaged)
    assert f"{KERNEL} has the shape {list(shape)}, not [16, 128] like the rest" in line


def test_another_shape_in_the_index(damaged: Path) -> None:
    name = "decoder.decoder_norm.scale"
    rewrite(damaged, lambda stored: stored.update({name: np.ones(3, "float32")}))
    assert f"{name} has the shape [3], not [16]" in refusal(damaged)


@pytest.mark.parametrize("name", [KERNEL, "decoder.decoder_norm.scale"])
def test_not_a_number(damaged: Path, name: str) -> None:
    rewrite(damaged, lambda stored: stored.update({name: stored[name] * np.float32("nan")}))
    assert f"{name} holds NaN or infinity" in refusal(damaged)


@pytest.mark.parametrize("name", [KERNEL, "decoder.decoder_norm.scale"])
def test_integers(damaged: Path, name: str) -> None:
    rewrite(damaged, lambda stored: stored.update({name: stored[name].astype("int32")}))
    line = refusal(damaged)
    assert name in line and "int32" in line


def test_heads_that_do_not_divide(damaged: Path) -> None:
    (damaged / "config.gin").write_text("  head_dim = 7\n")
    assert "192 is not a multiple of a head's width, 7" in refusal(damaged, WeightsError)


def test_an_unknown_vocabulary(damaged: Path) -> None:
    name = "token_encoder.token_embedder.embedding"
    rewrite(damaged, lambda stored: stored.update({name: np.ones((99, 16), "float32")}))
    assert "99 token embeddings" in refusal(damaged, WeightsError)


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_piece_cut_off(damaged: Path, size: int) -> None:
    os.truncate(damaged / f"target.{KERNEL}" / "0.0", size)
    assert f"{KERNEL} cannot be read" in refusal(damaged)


@pytest.mark.parametrize("name", ["0.0", "1.0", ".zarray"])
def test_a_piece_that_is_not_there(damaged: Path, name: str) -> None:
    (damaged / f"target.{KERNEL}" / name).unlink()
    assert f"{KERNEL} cannot be read" in refusal(damaged)


def test_a_description_of_a_huge_array(damaged: Path) -> None:
    path = damaged / f"target.{KERNEL}" / ".zarray"
    path.write_text(json.dumps({**json.loads(path.read_text()), "shape": [10**9, 10**9]}))
    assert "has the shape [1000000000, 1000000000]" in refusal(damaged)


# --- paths that lead astray -------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "a/../../secret",
        "/etc/secret",
        "gs://bucket/secret",
        "file:///etc/secret",
        "C:\\secret",
        "",
        7,
        None,
    ],
)
def test_nothing_outside_is_opened(damaged: Path, path: Any) -> None:
    stored = t5x_arrays(make_model(SMALL))
    write_zarr(damaged.parent, "secret", stored[KERNEL])
    write_index(damaged, {**stored, KERNEL: zarr_elsewhere(path)})
    assert f"{KERNEL} should be at {path!r}, outside" in refusal(damaged)


def test_addresses_are_not_paths(damaged: Path) -> None:
    leaf = {"driver": "zarr", "kvstore": "gs://bucket/secret"}
    write_index(damaged, {**t5x_arrays(make_model(SMALL)), KERNEL: leaf})
    assert "outside the checkpoint" in refusal(damaged)


def test_only_zarr(damaged: Path) -> None:
    leaf = zarr_elsewhere() | {"driver": "n5"}
    write_index(damaged, {**t5x_arrays(make_model(SMALL)), KERNEL: leaf})
    assert f"{KERNEL} is stored as 'n5', not as zarr" in refusal(damaged)


# --- no checkpoint ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_cut_off_index(damaged: Path, length: int) -> None:
    path = damaged / "checkpoint"
    path.write_bytes(path.read_bytes()[:length])
    assert "not whole msgpack" in refusal(damaged)


@pytest.mark.parametrize("content", [b"\x80", b"\xc0", b"\x93\x01\x02\x03", b"\x07"])
def test_an_index_of_something_else(damaged: Path, content: bytes) -> None:
    (damaged / "checkpoint").write_bytes(content)
    assert "no T5X checkpoint of version 3" in refusal(damaged)


def test_another_version(damaged: Path) -> None:
    write_index(damaged, t5x_arrays(make_model(SMALL)), version=2)
    assert "version 3" in refusal(damaged)


@pytest.mark.parametrize("leaf", [None, 7, "x", [1, 2], b"bytes"])
def test_leaves_that_are_no_arrays(damaged: Path, leaf: Any) -> None:
    write_index(damaged, {**t5x_arrays(make_model(SMALL)), KERNEL: leaf})
    assert f"{KERNEL} is no array" in refusal(damaged)


def test_no_checkpoint(tmp_path: Path) -> None:
    assert "no file named checkpoint" in refusal(tmp_path, WeightsNotFound)
    assert "is missing" in refusal(tmp_path / "nowhere", WeightsNotFound)


@pytest.mark.parametrize("package", ["msgpack", "tensorstore"])
def test_without_the_packages(written: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WeightsError) as caught:
        read_t5x(written)
    expected = f"a T5X checkpoint needs the package {package}, which is not installed"
    assert str(caught.value) == f"{expected}; {install_hint('t5x')}"
