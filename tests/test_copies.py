"""What later starts need not do again: reading pickles, and hashing large files."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectro_render.atomic import new_file
from spectro_render.checkpoints import copies, load_checkpoint, manifest
from spectro_render.checkpoints.copies import RECORD, find_copy, verify_copy
from spectro_render.checkpoints.files import PICKLE, TENSORS
from spectro_render.checkpoints.find import fingerprint_of, resolve_model
from spectro_render.checkpoints.kept import VARIABLE
from spectro_render.checkpoints.manifest import known_sha256, sha256, verify, write_checksums
from spectro_render.cli import app as cli
from spectro_render.errors import WeightsCorrupt
from tests.support.golden import PIPELINE
from tests.support.limits import file_size_limit
from tests.support.processes import PIPE, REPOSITORY, start_program, wait_until

REPO, COMMIT = "owner/tiny", "0123456789" * 4
LINE = "spectro-render: keeping the weights as safetensors in "


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a model with .bin files in a cache of its own, without links."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    repository = tmp_path / "huggingface" / "hub" / "models--owner--tiny"
    path = Path(shutil.copytree(PIPELINE, repository / "snapshots" / COMMIT))
    for file in path.glob(f"*/{TENSORS}"):
        torch.save(load_file(file), file.with_name(PICKLE))
        file.unlink()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Where the copy is."""
    return tmp_path / "spectro-render" / "weights" / f"owner--tiny--{COMMIT}"


def load(name: Any = REPO) -> dict[str, torch.Tensor]:
    """The weights of a model, not as mapped files, which a test may change."""
    state = load_checkpoint(name, vocoder="griffin-lim").model.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


# --- copies -----------------------------------------------------------------------------------


def test_the_second_start_reads_the_copy(
    model: Path, copy: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(model.parents[1])
    first = load()
    said = capfd.readouterr().err
    size = sum(4 * tensor.numel() for tensor in first.values())
    assert said == f"{LINE}{copy}: {size / 1e6:.1f} MB (none with {VARIABLE}=off)\n"
    parts = ("continuous_encoder", "decoder", "notes_encoder")
    assert names(copy) == sorted([RECORD, *(f"{part}/{TENSORS}" for part in parts)])
    for part in parts:
        ours, theirs = load_file(copy / part / TENSORS), load_file(PIPELINE / part / TENSORS)
        assert same(ours, theirs)
    assert names(model.parents[1]) == before  # nothing is added to the Hub's folder
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr("spectro_render.checkpoints.files.is_finite", None)
    assert same(load(), first)
    assert capfd.readouterr().err == ""
    assert cli.run(["models", "verify", REPO]) == 0


@pytest.mark.parametrize("why", ["off", "elsewhere", "safetensors"])
def test_no_copy(model: Path, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name: str | Path = REPO
    if why == "off":
        monkeypatch.setenv(VARIABLE, "off")
    elif why == "elsewhere":
        name = Path(shutil.copytree(model, tmp_path / "mine"))
    else:
        shutil.rmtree(model)
        shutil.copytree(PIPELINE, model)
    load(name)
    assert not (tmp_path / "spectro-render").exists() and find_copy(model) is None


@pytest.mark.parametrize("changed", ["source", "copy", "record", "owner"])
def test_a_copy_that_is_outdated_is_made_again(
    model: Path, copy: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    file = {
        "source": model / "decoder" / PICKLE,
        "copy": copy / "decoder" / TENSORS,
        "record": copy / RECORD,
    }.get(changed)
    if changed == "source":
        state = torch.load(file)
        state["decoder_norm.weight"] += 1
        torch.save(state, file)
    elif file:
        file.write_bytes(file.read_bytes()[:-7])
    else:
        monkeypatch.setattr(copies, "_user", lambda: 12345)
        os.chown(copy / RECORD, 54321, -1) if os.geteuid() == 0 else pytest.skip("only root may")
    assert find_copy(model) is None
    second = load()
    assert same(second, first) == (changed != "source")
    if changed != "owner":
        assert find_copy(model) == copy and same(load(), second)
        verify_copy(model)


def test_a_damaged_copy(model: Path, copy: Path) -> None:
    """Bytes that changed by themselves, which sizes and times do not show."""
    first, file = load(), copy / "decoder" / TENSORS
    status, whole = file.stat(), file.read_bytes()

    def write(content: bytes) -> None:
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    write(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsCorrupt, match=r"has the SHA-256 .*; remove ") as caught:
        verify_copy(model)
    assert str(file) in str(caught.value)
    assert cli.run(["models", "verify", REPO]) == 1
    write(b"\xff" * 8 + whole[8:])  # no header
    assert same(load(), first)
    verify_copy(model)
    assert find_copy(model) == copy and same(load(), first)


def test_a_folder_that_cannot_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spectro-render").touch()
    load()
    said = capfd.readouterr().err
    assert said.startswith("spectro-render: no copy of the weights is kept for later starts: ")
    assert said.count("\n") == 1


def test_a_full_disk(model: Path, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with file_size_limit(1_000_000):  # the decoder is larger
        load()
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith(LINE) and "file too large" in said[1] and len(said) == 2
    assert find_copy(model) is None and not (copy / RECORD).exists()
    assert not any(name.endswith(".part") for name in names(copy))
    load()
    assert find_copy(model) == copy


def test_too_little_room(
    copy: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=copies.LEAST_ROOM)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    load()
    assert f"later starts: {copy} needs more room" in capfd.readouterr().err
    assert names(copy) == []


def test_one_process_makes_it(model: Path, copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt), new_file(copy / RECORD):  # as another process
        load()
        assert capfd.readouterr().err == "" and find_copy(model) is None
        raise KeyboardInterrupt
    load()
    assert find_copy(model) == copy


def test_a_process_that_is_killed_meanwhile(model: Path, copy: Path) -> None:
    code = """
import time
from spectro_render.checkpoints import copies, load_checkpoint
write = copies._write
def slow(path, tensors):
    made = write(path, tensors)
    if "decoder" in path.parts:
        time.sleep(1000)
    return made
copies._write = slow
load_checkpoint("owner/tiny", vocoder="griffin-lim")
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    program = [sys.executable, "-c", code]
    with start_program(program, stderr=PIPE, env=environment) as process:
        part = copy / "decoder"
        wait_until(lambda: any(path.stat().st_size for path in part.glob(".*")), process)
        load()  # another process goes on meanwhile
        assert find_copy(model) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert find_copy(model) is None and not (copy / RECORD).exists()
    assert not (copy / "decoder" / TENSORS).exists()
    load()
    assert find_copy(model) == copy
    assert not any(name.endswith(".part") for name in names(copy))


# --- checksums --------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are hashed; all of more than 10 kB count as large."""
    found: list[str] = []

    def note(path: Path) -> str:
        if path.stat().st_size > 10_000:
            found.append(path.name)
        return sha256(path)

    monkeypatch.setattr(manifest, "sha256", note)
    monkeypatch.setattr(manifest, "LARGE", 10_000)
    monkeypatch.setattr(manifest, "SETTLED", 0)
    return found


def test_a_batch_does_not_hash_large_files_again(model: Path, hashed: list[str]) -> None:
    files = resolve_model(REPO, vocoder="griffin-lim")
    first = fingerprint_of(files)
    assert hashed.count(PICKLE) == 3
    hashed.clear()
    assert fingerprint_of(files) == first and hashed == []
    os.utime(model / "decoder" / PICKLE)
    assert fingerprint_of(files) == first and hashed == [PICKLE]


def test_a_converted_model_is_hashed_once(tmp_path: Path, hashed: list[str]) -> None:
    path = Path(shutil.copytree(PIPELINE, tmp_path / "mine"))
    write_checksums(path)
    hashed.clear()
    load(path)
    assert hashed.count(TENSORS) == 3
    hashed.clear()
    load(path)
    assert hashed == []
    assert verify(path)  # reads them whatever is known
    assert hashed.count(TENSORS) == 3
    file = path / "decoder" / TENSORS
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsCorrupt, match="SHA-256"):
        load(path)


def test_a_file_that_has_just_changed_is_not_remembered(
    model: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "SETTLED", 60_000_000_000)
    file = model / "decoder" / PICKLE
    os.utime(file)
    assert known_sha256(file) == known_sha256(file) == sha256(file)
    assert hashed == [PICKLE, PICKLE]


def test_what_is_remembered_is_compared(model: Path, tmp_path: Path, hashed: list[str]) -> None:
    file = model / "decoder" / PICKLE
    known_sha256(file)
    kept = tmp_path / "spectro-render" / "checksums.json"
    facts = json.loads(kept.read_text())
    for wrong in ("text", [], [1, 2, 3, 4, "x"], None):
        kept.write_text(json.dumps({**facts, str(file.resolve()): wrong}))
        assert known_sha256(file) == sha256(file)
