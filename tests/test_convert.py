"""Model directories made of other people's files: whole and equal, or not there at all."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectro_render.checkpoints import convert as convert_module
from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.convert import convert
from spectro_render.checkpoints.files import PICKLE, TENSORS
from spectro_render.checkpoints.load import Defaults
from spectro_render.checkpoints.manifest import CHECKSUMS, INDEX, ONNX, verify
from spectro_render.cli import app as cli
from spectro_render.errors import OptionError, OutputError, WeightsCorrupt, WeightsNotFound
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import SpectrogramModel
from tests.support.golden import PIPELINE, tokens
from tests.support.limits import file_size_limit

TINY = ModelConfig(16, 1, 64, 16, 1, 1, 1, 64)


def files_of(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def denoised(path: Path) -> Tensor:
    """What the model in a directory makes of some tokens and noise."""
    model = load_checkpoint(path, vocoder="griffin-lim").model
    noise = torch.randn(1, 256, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        memory = model.encode(tokens(0), noise.tanh())
        predicted: Tensor = model.denoise(noise, torch.tensor([0.4]), memory)
    return predicted


@pytest.fixture
def t5x(tmp_path: Path) -> Path:
    pytest.importorskip("msgpack", reason="the extra t5x is not installed")
    pytest.importorskip("tensorstore", reason="the extra t5x is not installed")
    from tests.support.t5x_writer import t5x_arrays, write_t5x

    torch.manual_seed(0)
    path = tmp_path / "small_with_context"
    write_t5x(path / "checkpoint_500000", t5x_arrays(SpectrogramModel(TINY)))
    return path


# --- model directories ------------------------------------------------------------------------


def test_the_published_layout_gets_checksums(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    convert(PIPELINE, copy, quiet=True)
    assert verify(copy)
    assert files_of(copy) == files_of(PIPELINE) | {CHECKSUMS}
    for name in files_of(PIPELINE):
        if name.endswith(".json"):
            assert json.loads((copy / name).read_text()) == json.loads(
                (PIPELINE / name).read_text()
            )
    assert (copy / ONNX).read_bytes() == (PIPELINE / ONNX).read_bytes()
    assert torch.equal(denoised(copy), denoised(PIPELINE))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_pickles_become_safetensors(tmp_path: Path, dtype: str) -> None:
    source, copy = Path(shutil.copytree(PIPELINE, tmp_path / "source")), tmp_path / "copy"
    for file in source.glob(f"*/{TENSORS}"):
        torch.save(load_file(file), file.with_name(PICKLE))
        file.unlink()
    convert(source, copy, dtype=dtype)
    for file in PIPELINE.glob(f"*/{TENSORS}"):
        before, after = load_file(file), load_file(copy / file.relative_to(PIPELINE))
        assert set(before) == set(after)
        for name, tensor in before.items():
            assert torch.equal(after[name], tensor.to(getattr(torch, dtype)))


def test_our_own_models_keep_all_they_have(tiny_model: Path, tmp_path: Path) -> None:
    source, copy = Path(shutil.copytree(tiny_model, tmp_path / "own")), tmp_path / "copy"
    (source / CHECKSUMS).unlink()
    for card in ("README.md", "MODEL_CARD.md"):
        (source / card).write_text("a model card")
    convert(source, copy, dtype="bfloat16")
    before, after = load_checkpoint(source), load_checkpoint(copy)
    assert after.config == before.config
    assert after.defaults == before.defaults == Defaults("dpm++", 2)
    assert after.vocoder_kind == "melgan"
    log_mel = torch.randn(1, 8, 128, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(after.vocoder(log_mel), before.vocoder(log_mel), atol=0.02)
    stored = load_file(copy / "melgan" / TENSORS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert all(card in (copy / CHECKSUMS).read_text() for card in ("README.md", "MODEL_CARD.md"))


def test_the_source_stays(tiny_model: Path, tmp_path: Path) -> None:
    before = {name: (tiny_model / name).read_bytes() for name in files_of(tiny_model)}
    convert(tiny_model, tmp_path / "copy")
    assert before == {name: (tiny_model / name).read_bytes() for name in files_of(tiny_model)}


def test_a_copy_may_be_read_by_those_who_may_read_the_source(tmp_path: Path) -> None:
    convert(PIPELINE, tmp_path / "copy", quiet=True)
    modes = {(tmp_path / "copy" / name).stat().st_mode for name in files_of(tmp_path / "copy")}
    assert len(modes) == 1


# --- T5X --------------------------------------------------------------------------------------


def test_a_t5x_checkpoint(t5x: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "small"
    convert(t5x, copy)
    assert capsys.readouterr().err == (
        f"spectro-render: {copy} holds no vocoder: Griffin-Lim is used unless --vocoder names "
        "another model's\n"
    )
    assert verify(copy)
    loaded = load_checkpoint(copy)
    assert loaded.config == TINY
    assert loaded.vocoder_kind == "griffin-lim"
    assert loaded.defaults == Defaults("diffusers", 100, 2.0)
    torch.manual_seed(0)
    expected = SpectrogramModel(TINY).state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_zip_file(t5x: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", t5x))
    convert(archive, tmp_path / "copy", dtype="float16", quiet=True)
    assert capsys.readouterr().err == ""
    assert load_checkpoint(tmp_path / "copy").config == TINY
    assert not list(tmp_path.glob(".*"))


# --- refusals ---------------------------------------------------------------------------------


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    for path in (tmp_path, link):
        with pytest.raises(OutputError, match="is there already"):
            convert(PIPELINE, path)
    assert os.listdir(tmp_path) == ["link"]


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    with pytest.raises(WeightsNotFound, match="neither a model directory nor a T5X checkpoint"):
        convert(tmp_path / "songs", tmp_path / "copy")
    (tmp_path / "song.mid").write_bytes(b"MThd")
    with pytest.raises(WeightsCorrupt, match=r"song\.mid is neither a folder nor a whole zip"):
        convert(tmp_path / "song.mid", tmp_path / "copy")
    assert sorted(os.listdir(tmp_path)) == ["song.mid", "songs"]


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown number format 'int8'"):
        convert(PIPELINE, tmp_path / "copy", dtype="int8")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        convert(PIPELINE, tmp_path / "models" / "copy")
    assert caught.value.hint == "make the folder first"


def test_damage_leaves_nothing(tmp_path: Path) -> None:
    source = Path(shutil.copytree(PIPELINE, tmp_path / "source"))
    os.truncate(source / "decoder" / TENSORS, 1000)
    with pytest.raises(WeightsCorrupt):
        convert(source, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["source"]


def test_room_is_looked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_checkpoint(PIPELINE).model
    needed = sum(4 * tensor.numel() for tensor in model.state_dict().values())
    needed += (PIPELINE / ONNX).stat().st_size
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="are needed"):
        convert(PIPELINE, tmp_path / "copy")
    assert os.listdir(tmp_path) == []
    convert(PIPELINE, tmp_path / "copy", dtype="float16")
    assert (tmp_path / "copy" / INDEX).is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes here")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with file_size_limit(100_000), pytest.raises(OutputError) as caught:
        convert(PIPELINE, copy)
    assert caught.value.message == f"{copy}: cannot write: file too large"
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(folder: Path) -> None:
        """Ctrl-C, when all but the last file is written."""
        assert folder.parent == tmp_path and (folder / "decoder" / TENSORS).is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_module, "write_checksums", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(PIPELINE, tmp_path / "copy")
    assert os.listdir(tmp_path) == []


def test_a_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "default").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.run(["models", "convert", "default", "copy", "--dtype", "float16"]) == 0
    assert load_checkpoint("copy").config == load_checkpoint("default").config
