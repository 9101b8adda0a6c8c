"""A short run of what tests/fuzz does at length, and the same through the whole command line."""

import itertools
import os
import sys
from pathlib import Path

import pytest

from spectro_render.batch import history as resume
from spectro_render.cli.app import run
from tests.fuzz.mutations import SEEDS, mutations, seeds
from tests.support.processes import PIPE, REPOSITORY, run_program

FILES, SONGS = 3000, 60


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_damaged_files_give_a_score_or_one_line() -> None:
    command = [sys.executable, "-m", "tests.fuzz.structured", "--count", str(FILES), "--seed", "1"]
    done = run_program(command, stdout=PIPE, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"{FILES} files, 0 findings")


def test_files_found_by_what_they_reach() -> None:
    pytest.importorskip("atheris", reason="has no wheel for this Python or system")
    # Linux counts the memory of the process that starts a program as the program's own; that of a
    # shell is small, while this process may be beyond the limit for memory.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", "tests.fuzz.coverage"]
    command += ["-runs=2000", "-seed=1"]
    done = run_program(command, stderr=PIPE, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "Done 2000 runs" in done.stderr


def test_damaged_files_on_the_command_line(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line for each that fails, a sound for each other one, and no file anywhere else."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    files = [data for data in seeds(SEEDS) if len(data) < 5000]
    for number, data in enumerate(itertools.islice(mutations(files, seed=2), SONGS)):
        Path("in", f"{number}.mid").write_bytes(data)
    options = ["--steps", "1", "--duration", "1", "-q", "--model", str(tiny_model)]
    assert run(["in", "-o", "out", *options]) in (0, 1)
    failures = capsys.readouterr().err.splitlines()
    assert all(line.startswith("spectro-render: in/") for line in failures)
    sounds = [path for path in Path("out").iterdir() if path.name != resume.NAME]
    assert {path.suffix for path in sounds} == {".wav"}
    assert len(sounds) + len(failures) == SONGS
    assert len(sounds) > SONGS / 4 and len(failures) > SONGS / 20
    assert sorted(os.listdir()) == ["in", "out"]
    assert len(os.listdir("in")) == SONGS
