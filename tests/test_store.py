"""Files of tensors: pickles are read but never run, and large files take little time and memory."""

import errno
import os
import pickle
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.files import (
    PICKLE,
    TENSORS,
    fill,
    is_finite,
    open_tensors,
    tensors_file,
    without_numbers,
    write_part,
)
from spectro_render.errors import WeightsCorrupt, WeightsError
from tests.support.golden import PIPELINE, checkpoint, tokens
from tests.support.limits import file_size_limit
from tests.support.processes import run_program


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """The published layout with pickles, as early releases of diffusers saved it."""
    path = Path(shutil.copytree(PIPELINE, tmp_path / "pickled"))
    for file in path.glob(f"*/{TENSORS}"):
        torch.save(load_file(file), file.with_name(PICKLE))
        file.unlink()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / PICKLE


def refusal(path: Path) -> str:
    """The one line that opening a file ends in."""
    with pytest.raises(WeightsCorrupt) as caught:
        open_tensors(path)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line and caught.value.hint
    return line


# --- pickles ----------------------------------------------------------------------------------


def test_a_directory_of_pickles(pickled: Path) -> None:
    model, expected = load_checkpoint(pickled, vocoder="griffin-lim").model, checkpoint().model
    noisy, time = torch.ones(1, 256, 128), torch.tensor([0.5])
    with torch.no_grad():
        outputs = [
            network.denoise(noisy, time, network.encode(tokens(0), None))
            for network in (model, expected)
        ]
    assert torch.equal(*outputs)


def test_safetensors_win(pickled: Path) -> None:
    folder = pickled / "decoder"
    assert tensors_file(folder) == folder / PICKLE
    (folder / TENSORS).touch()
    assert tensors_file(folder) == folder / TENSORS


def test_neither_is_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        tensors_file(tmp_path)
    assert str(caught.value) == f"{tmp_path / TENSORS} is missing; get the model again"


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.system, (f"touch {self.path}",)


def save_pickled(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


WRITERS = [torch.save, save_legacy, save_pickled]


@pytest.mark.parametrize("save", WRITERS)
def test_code_is_not_run(file: Path, tmp_path: Path, save: Callable[..., None]) -> None:
    sprung = tmp_path / "sprung"
    save({"spec_out.weight": torch.zeros(2), "trap": Trap(sprung)}, file)
    said = refusal(file)
    assert "holds more than float32 tensors: '" in said and "', which was not run" in said
    assert not sprung.exists()


def test_the_trap_works(file: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save(Trap(sprung), file)
    torch.load(file, weights_only=False)
    assert sprung.exists()


@pytest.mark.parametrize("save", WRITERS)
def test_a_network_as_a_whole(file: Path, save: Callable[..., None]) -> None:
    save(nn.Linear(2, 2), file)
    assert "more than float32 tensors" in refusal(file)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        torch.zeros(2),
        {"epoch": 3},
        {"state_dict": {"weight": torch.zeros(2)}},
        {"weight": torch.eye(2).to_sparse()},
        {"weight": torch.zeros(2, device="meta")},
        {3: torch.zeros(2)},
    ],
)
def test_something_else_than_named_tensors(file: Path, content: object) -> None:
    torch.save(content, file)
    said = refusal(file)
    assert "other things than tensors" in said or "more than float32 tensors" in said


@pytest.mark.parametrize("size", [0, 1, 4, 100, 1000, -1])
@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_cut_off_pickles(file: Path, save: Callable[..., None], size: int) -> None:
    save({"weight": torch.zeros(1000)}, file)
    os.truncate(file, size if size >= 0 else file.stat().st_size + size)
    refusal(file)


@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_changed_bytes_do_no_harm(file: Path, save: Callable[..., None]) -> None:
    """Whatever they turn the pickle into, it is read or refused in one line."""
    save({"first": torch.zeros(3), "second": torch.ones(2, 2)}, file)
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        try:
            stored = open_tensors(file)
        except WeightsError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(stored.read(name), Tensor) for name in stored.names)


def test_other_archives(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.txt", "nothing")
    refusal(file)
    with tarfile.open(file, "w") as tar:
        tar.add(__file__, "storages")
    refusal(file)
    with zipfile.ZipFile(file, "w") as archive:  # what torch takes for a compiled program
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"archive/{name}", "3\n")
    refusal(file)


@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_tensors_as_other_programs_save_them(file: Path, save: Callable[..., None]) -> None:
    """Turned matrices, and two names for one tensor."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    network["c"] = nn.Embedding(4, 3)
    shared = torch.randn(3, 3)
    state = {
        "a.weight": shared.T,
        "b.weight": shared,
        "c.weight": torch.randn(4, 3),
    }
    save(state, file)
    fill(network, file, {name: name for name in state})
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous()
        assert torch.equal(tensor, state[name].float())


def test_tied_tensors_are_written_apart(tmp_path: Path) -> None:
    tied = torch.randn(3, 3)
    write_part(tmp_path, {}, {"a": tied, "b": tied, "c": torch.zeros(1)}, "float32")
    stored = load_file(tmp_path / TENSORS)
    assert torch.equal(stored["a"], tied) and torch.equal(stored["b"], tied)


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_finite(value: float, dtype: torch.dtype) -> None:
    tensor = torch.randn(100, 33, dtype=dtype)
    assert is_finite(tensor)
    tensor[70, 5] = value
    assert not is_finite(tensor)
    assert is_finite(torch.zeros(0, 3, dtype=dtype))


def test_too_large_for_float32(tmp_path: Path) -> None:
    save_file({"weight": torch.full((2, 2), 1e300, dtype=torch.float64)}, tmp_path / TENSORS)
    with pytest.raises(WeightsCorrupt, match="holds NaN or infinity"):
        fill(nn.Linear(2, 2, bias=False), tmp_path / TENSORS, {"weight": "weight"})


def test_nothing_is_initialised(tmp_path: Path) -> None:
    """And no compiler is imported for it, which would take a second of every start."""
    program = """
import sys
from torch import nn
from spectro_render.checkpoints.files import without_numbers
with without_numbers():
    network = nn.Sequential(nn.Embedding(1 << 20, 1 << 20), nn.Linear(1 << 20, 1 << 20))
assert all(parameter.is_meta for parameter in network.parameters())
assert "torch._dynamo" not in sys.modules
"""
    run_program([sys.executable, "-c", program], check=True)
    with without_numbers():
        assert nn.Linear(2, 2).weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


# --- full disk --------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes here")
def test_what_the_system_refuses_to_write(tmp_path: Path) -> None:
    with file_size_limit(100_000), pytest.raises(OSError) as caught:
        write_part(tmp_path, {}, {"weight": torch.zeros(100_000)}, "float32")
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / TENSORS)


# --- size -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
@pytest.mark.parametrize("kind", ["float32", "float16", "bin"])
def test_loading_takes_little_time_and_memory(tmp_path: Path, kind: str) -> None:
    """55 M parameters: their memory in float32 and a fifth, and a share of ten seconds."""
    from tests.support.costs import MEDIUM, measure_loading, write_model

    write_model(tmp_path / "model", MEDIUM, kind)
    cost = measure_loading(tmp_path / "model")
    assert cost.peak < 1.2 * cost.weights + 30e6  # what a first call allocates does not grow
    assert cost.cpu_seconds < 10 * cost.weights / 1.64e9 + 1
