"""Files and directories that are complete or not there at all."""

import os
from pathlib import Path

import pytest
import torch

from spectro_render.atomic import NewFile, new_directory, new_file, work_directory
from spectro_render.errors import OutputBusy, OutputError
from tests.support.limits import file_size_limit


def test_a_file_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"older")
    with new_file(path) as temporary:
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
        temporary.write_bytes(b"newer")
        assert path.read_bytes() == b"older"
    assert path.read_bytes() == b"newer" and os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"older")
    with pytest.raises(error), new_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"older" and os.listdir(tmp_path) == ["a.pt"]


def test_a_file_is_written_by_one_program_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with new_file(path) as temporary:
        temporary.write_bytes(b"first")
        with pytest.raises(OutputBusy, match=r"a\.pt: another run is writing it"), new_file(path):
            pass
    assert path.read_bytes() == b"first" and not NewFile._unfinished


def test_torch_fails_to_write_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with (
        file_size_limit(10_000),
        pytest.raises(OutputError, match=r"a\.pt: cannot write: "),
        new_file(path) as temporary,
    ):
        torch.save(torch.zeros(10_000), temporary)
    assert os.listdir(tmp_path) == []


def test_a_directory_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with new_directory(path) as folder:
        (folder / "file").touch()
        assert not path.exists()
    assert os.listdir(tmp_path) == ["model"] and os.listdir(path) == ["file"]
    with pytest.raises(OutputError, match="is there already"), new_directory(path):
        pass


def test_a_directory_that_fails_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt), new_directory(path) as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    with pytest.raises(OutputError, match=r"model: cannot write: no such file"):
        with new_directory(path) as folder:
            (folder / "missing" / "file").touch()
    assert os.listdir(tmp_path) == []


def test_a_work_directory_does_not_stay(tmp_path: Path) -> None:
    with work_directory(tmp_path, "model") as folder:
        (folder / "file").touch()
        (folder / "file").rename(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
