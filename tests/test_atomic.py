"""Files and directories that are complete or not there at all."""

import errno
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectro_render import atomic
from spectro_render.atomic import NewFile, new_directory, new_file, sweep, work_directory
from spectro_render.errors import OutputBusy, OutputError
from tests.support.limits import deep_folder, file_size_limit
from tests.support.processes import LIMIT, PIPE, start_program


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


class FailsToClose(io.FileIO):
    """A file of a system that says only when it is closed that it does not fit."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_a_file_that_fails_to_close_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fdopen = os.fdopen

    def failing(number: int, mode: str, **options: Any) -> Any:
        if mode == "r+b":
            return io.BufferedRandom(FailsToClose(number, mode))
        return fdopen(number, mode, **options)

    monkeypatch.setattr(atomic.os, "fdopen", failing)
    path = tmp_path / "a.pt"
    path.write_bytes(b"older")
    with pytest.raises(OutputError, match="disk quota exceeded"), new_file(path) as temporary:
        temporary.write_bytes(b"newer")
    assert path.read_bytes() == b"older" and os.listdir(tmp_path) == ["a.pt"]


def test_all_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the name is there when the program goes on."""
    steps: list[str] = []

    def noting(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: Any) -> None:
            is_open = isinstance(arguments[0], int)
            of = os.readlink(f"/proc/self/fd/{arguments[0]}") if is_open else str(arguments[0])
            steps.append(f"{name} {Path(of).suffix or Path(of).name}")
            call(*arguments)

        return noted

    for name in ("fsync", "replace"):
        monkeypatch.setattr(atomic.os, name, noting(name, getattr(os, name)))
    with new_file(tmp_path / "a.pt") as temporary:
        temporary.write_bytes(b"new")
    assert steps == ["fsync .part", "replace .part", f"fsync {tmp_path.name}"]
    steps.clear()
    with new_directory(tmp_path / "model") as folder:
        (folder / "file.pt").write_bytes(b"new")
    assert steps == ["fsync .pt", "fsync .part", f"fsync {tmp_path.name}"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.pt"
    path.touch()
    path.chmod(mode)
    with new_file(path) as temporary:
        assert temporary.stat().st_mode & 0o777 == mode | 0o600
        temporary.write_bytes(b"newer")
    assert path.read_bytes() == b"newer"
    assert path.stat().st_mode & 0o777 == mode


def test_a_sweep_is_not_taken_for_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that has locked what a killed program left, while another begins the same file."""
    path = tmp_path / "a.pt"
    with new_file(path) as temporary:
        left = temporary
    left.touch()
    unlink, is_locked, is_met = Path.unlink, threading.Event(), threading.Event()

    def slow(removed: Path) -> None:
        is_locked.set()
        is_met.wait()
        unlink(removed)

    monkeypatch.setattr(Path, "unlink", slow)
    monkeypatch.setattr(atomic.time, "sleep", lambda seconds: is_met.set())
    sweeper = threading.Thread(target=sweep, args=(tmp_path,))
    sweeper.start()
    assert is_locked.wait(LIMIT)
    with new_file(path) as temporary:
        temporary.write_bytes(b"new")
        sweeper.join()
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.pt"]


def test_a_sweep_stops_at_no_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with deep_folder(1100):
        left = Path(".spectro-render-0123456789abcdef.part")
        left.touch()
        sweep(tmp_path)
        assert not left.exists()


LEAVING = """
import sys
from pathlib import Path
from spectro_render.atomic import work_directory
with work_directory(Path(sys.argv[1]), "work") as work:
    (work / "weights").write_bytes(bytes(1000))
    print(work.name, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks")
@pytest.mark.parametrize("by_sweep", [True, False])
def test_a_directory_of_a_killed_program_is_removed(tmp_path: Path, by_sweep: bool) -> None:
    """By a sweep or the next program that makes one there; one that is in use stays."""
    command = [sys.executable, "-c", LEAVING, str(tmp_path)]
    with start_program(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        for is_left in (True, False):
            if by_sweep:
                sweep(tmp_path)
            else:
                with work_directory(tmp_path, "other"):
                    pass
            assert os.listdir(tmp_path) == ([name] if is_left else [])
            process.kill()
            process.wait()
