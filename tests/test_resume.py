"""A folder's second run: only what is missing, changed or was made in another way."""

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from spectro_render import atomic
from spectro_render.audio import destination
from spectro_render.batch import jobs
from spectro_render.batch.history import NAME, History
from spectro_render.cli.app import run
from tests.support.processes import LIMIT, PIPE, run_program, start_program, wait_until
from tests.support.songs import MakeSong

SONGS = ("a.mid", "b.mid", "deep/c.mid")


@pytest.fixture
def library(song: MakeSong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(SONGS):
        song(f"in/{name}", seconds=1.0 + number)
    return tmp_path


@pytest.fixture
def again(
    library: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, str]]:
    """Renders the library once more; the status of each song."""

    def again(*options: str, model: Path = tiny_model, code: int = 0) -> dict[str, str]:
        arguments = ["in", "-o", "out", "--json", "-q", "--steps", "1", "--model", str(model)]
        assert run([*arguments, *options]) == code
        lines = capsys.readouterr().out.splitlines()
        return {Path(r["input"]).stem: r["status"][0] for r in map(json.loads, lines)}

    return again


Again = Callable[..., dict[str, str]]
ALL, NONE = {"a": "r", "b": "r", "c": "r"}, {"a": "s", "b": "s", "c": "s"}


def test_nothing_is_rendered_twice(again: Again) -> None:
    assert again() == ALL
    before = contents("out")
    assert again() == NONE
    assert contents("out") == before


def contents(folder: str | Path) -> dict[str, bytes]:
    """All files, but for what the folder remembers."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name != NAME
    }


def test_what_is_missing_is_made(again: Again) -> None:
    again()
    Path("out/deep/c.wav").unlink()
    assert again() == {**NONE, "c": "r"}


def test_a_song_that_changed_is_rendered_again(again: Again, song: MakeSong) -> None:
    again()
    before = contents("out")
    song("in/b.mid", seconds=3.0)
    assert again() == {**NONE, "b": "r"}
    assert {name for name, data in contents("out").items() if data != before[name]} == {"b.wav"}
    assert again() == NONE


@pytest.mark.parametrize("option", [("--seed", "7"), ("--gain", "-3"), ("--bit-depth", "24")])
def test_other_settings_render_again(again: Again, option: tuple[str, str]) -> None:
    again()
    assert again(*option) == ALL
    assert again(*option) == NONE
    assert again() == ALL


def test_another_model_renders_again(again: Again, tiny_model: Path, tmp_path: Path) -> None:
    again()
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    assert again(model=moved) == NONE  # where it lies is all the same
    index = json.loads((moved / "model_index.json").read_text())
    (moved / "model_index.json").write_text(json.dumps({**index, "_comment": "changed"}))
    (moved / "SHA256SUMS").unlink(missing_ok=True)
    assert again(model=moved) == ALL


def test_another_vocoder_renders_again(again: Again) -> None:
    again()
    assert again("--vocoder", "griffin-lim") == ALL


def test_standard_input_is_read_once(library: Path, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "spectro_render", "-", "-o", "out/", "--steps", "1"]
    command += ["--json", "--model", str(tiny_model)]
    status = []
    for name in ("a.mid", "a.mid", "b.mid"):
        data = Path("in", name).read_bytes()
        done = run_program(command, input=data, stdout=PIPE, check=True)
        status.append(json.loads(done.stdout)["status"])
    assert status == ["rendered", "skipped", "rendered"]


def test_an_output_of_which_nothing_is_known_is_the_users_own(again: Again) -> None:
    Path("out").mkdir()
    Path("out/a.wav").write_bytes(b"mine")
    assert again() == {**ALL, "a": "s"}
    assert Path("out/a.wav").read_bytes() == b"mine"


def test_what_failed_is_said_and_tried_again(again: Again, song: MakeSong) -> None:
    Path("in/b.mid").write_bytes(b"no MIDI at all")
    assert again(code=1) == {**ALL, "b": "f"}
    (failure,) = [record for record in records() if record["status"] == "failed"]
    assert failure["output"] == "b.wav"
    assert "in/b.mid" in failure["input"] and failure["error"]
    song("in/b.mid")
    assert again() == {**NONE, "b": "r"}


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out", NAME).read_text().splitlines()]


def test_a_song_that_went_bad_keeps_its_old_sound(again: Again) -> None:
    again()
    before = contents("out")
    Path("in/b.mid").write_bytes(b"no MIDI at all")
    assert again(code=1) == {**NONE, "b": "f"}
    assert contents("out") == before


def test_a_folder_may_be_moved(again: Again, tmp_path: Path) -> None:
    again()
    os.rename("out", "elsewhere")
    os.symlink("elsewhere", "out")
    assert again("--seed", "0") == NONE


def test_a_line_half_written_is_passed_over(again: Again) -> None:
    again()
    path = Path("out", NAME)
    path.write_bytes(path.read_bytes()[:-20])  # the last song's
    Path("out/deep/c.wav").unlink()
    assert again() == {**NONE, "c": "r"}
    assert again("--seed", "1") == ALL  # so all three are known
    assert path.read_text().count("\n") == 3 + 1 + 3


def test_nothing_heavy_is_loaded_where_there_is_nothing_to_do(
    again: Again, tiny_model: Path
) -> None:
    again()
    code = "import sys; from spectro_render.cli.app import run; assert run(sys.argv[1:]) == 0"
    code += "; assert not {'torch', 'note_seq'} & sys.modules.keys()"
    arguments = ["in", "-o", "out", "--steps", "1", "--model", str(tiny_model)]
    done = run_program([sys.executable, "-c", code, *arguments], stderr=PIPE)
    assert done.returncode == 0
    assert done.stderr.endswith(b"spectro-render: 3 skipped\n")


def test_a_history_that_cannot_be_written_fails_the_run_once(
    library: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out", NAME).mkdir(parents=True)
    arguments = ["in", "-o", "out", "-q", "--steps", "1", "--model", str(tiny_model)]
    assert run(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"spectro-render: out/{NAME}: cannot write: is a directory"
    assert len(contents("out")) == 3


@pytest.mark.parametrize("line", [b"[" * 200_000, b'{"output": ' + b"[" * 900, b"x" * (3 << 20)])
def test_a_damaged_line_costs_only_itself(again: Again, line: bytes) -> None:
    again()
    path = Path("out", NAME)
    path.write_bytes(line + b"\n" + path.read_bytes() + line)
    assert again() == NONE
    assert again("--seed", "1") == ALL


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link"])
def test_a_history_that_cannot_be_read_fails_the_run_once(
    again: Again, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    again()
    path = Path("out", NAME)
    path.rename("records")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "../records")
    for song in ("a", "b"):
        Path("out", song).with_suffix(".wav").unlink()
    assert run(["in", "-o", "out", "-q", "--seed", "7"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spectro-render: out/{NAME}: cannot ")
    assert len(contents("out")) == 3
    assert Path("records").read_text().count("\n") == 3


def test_a_history_that_fails_to_close_fails_the_run(
    library: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    close = History.close

    def failing(history: History) -> None:
        close(history)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(History, "close", failing)
    assert run(["in", "-o", "out", "-q", "--steps", "1", "--model", str(tiny_model)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"spectro-render: out/{NAME}: cannot write: disk quota exceeded"


class TestMeanwhile:
    """The files are not the program's alone."""

    def test_an_input_that_is_gone_when_its_turn_comes(
        self, again: Again, monkeypatch: pytest.MonkeyPatch, song: MakeSong
    ) -> None:
        read = jobs.Job.read

        def late(job: jobs.Job) -> bytes:
            if job.source == Path("in/b.mid"):
                job.source.unlink()
            return read(job)

        monkeypatch.setattr(jobs.Job, "read", late)
        assert again(code=1) == {**ALL, "b": "f"}
        assert sorted(contents("out")) == ["a.wav", "deep/c.wav"]
        monkeypatch.setattr(jobs.Job, "read", read)
        song("in/b.mid")
        assert again() == {**NONE, "b": "r"}

    def test_an_input_replaced_while_it_is_rendered(
        self, again: Again, monkeypatch: pytest.MonkeyPatch, song: MakeSong
    ) -> None:
        """What was read is what counts: the next run knows that it is another song now."""
        read = jobs.Job.read

        def early(job: jobs.Job) -> bytes:
            data = read(job)
            if job.source == Path("in/b.mid"):
                song("in/b.mid", seconds=4.0)
            return data

        monkeypatch.setattr(jobs.Job, "read", early)
        assert again() == ALL
        before = contents("out")
        monkeypatch.setattr(jobs.Job, "read", read)
        assert again() == {**NONE, "b": "r"}
        assert len(contents("out")["b.wav"]) > len(before["b.wav"])

    def test_a_folder_that_has_become_read_only(
        self, again: Again, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_file = os.open

        def refusing(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            if flags & os.O_CREAT and Path(path).parent == Path("out/deep").resolve():
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return open_file(path, flags, *rest, **options)

        monkeypatch.setattr(os, "open", refusing)
        assert again(code=1) == {**ALL, "c": "f"}
        (failure,) = [record for record in records() if record["status"] == "failed"]
        assert failure["error"] == (
            "out/deep/c.wav: cannot write: read-only file system; choose a place that you may"
            " write to"
        )
        monkeypatch.setattr(os, "open", open_file)
        assert again() == {**NONE, "c": "r"}


class TestTwoRuns:
    """At once, on the same folder."""

    def test_an_output_under_way_is_left_to_whoever_writes_it(self, again: Again) -> None:
        Path("out").mkdir()
        other = destination.open_destination("out/b.wav")
        other.write(b"by another")
        assert again() == {**ALL, "b": "s"}
        assert not Path("out/b.wav").exists()
        other.commit()
        assert Path("out/b.wav").read_bytes() == b"by another"

    def test_what_another_run_finished_meanwhile_is_not_made_again(
        self, again: Again, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = jobs.Job.read

        def slow(job: jobs.Job) -> bytes:
            if job.source == Path("in/b.mid"):
                Path("out/b.wav").write_bytes(b"by another")
            return read(job)

        monkeypatch.setattr(jobs.Job, "read", slow)
        assert again() == {**ALL, "b": "s"}
        assert Path("out/b.wav").read_bytes() == b"by another"

    def test_both_end_well(self, library: Path, tiny_model: Path) -> None:
        command = [sys.executable, "-m", "spectro_render", "in", "-o", "out", "--json"]
        command += ["--model", str(tiny_model)]
        with start_program(command, stdout=PIPE) as one, start_program(command, stdout=PIPE) as two:
            said = [run.communicate(timeout=LIMIT)[0] for run in (one, two)]
            assert (one.returncode, two.returncode) == (0, 0)
        made = [json.loads(line)["status"] for out in said for line in out.splitlines()]
        assert sorted(made) == ["rendered"] * 3 + ["skipped"] * 3
        assert sorted(contents("out")) == ["a.wav", "b.wav", "deep/c.wav"]


class TestKilled:
    """`kill -9` at random moments after the start or the end of a song, then again."""

    @pytest.fixture
    def undisturbed(self, again: Again) -> dict[str, bytes]:
        again("--batch-size", "1")
        sounds = contents("out")
        shutil.rmtree("out")
        return sounds

    @pytest.mark.parametrize("moments", [pytest.param(3), pytest.param(50, marks=pytest.mark.slow)])
    def test_the_end_is_the_same(
        self, undisturbed: dict[str, bytes], tiny_model: Path, moments: int
    ) -> None:
        command = [sys.executable, "-m", "spectro_render", "in", "-o", "out", "--steps", "1"]
        command += ["--batch-size", "1", "--json", "--model", str(tiny_model)]
        r = random.Random(0)
        for moment in range(moments):
            shutil.rmtree("out", ignore_errors=True)
            with start_program(command, stdout=PIPE, text=True) as process:
                wait_until(Path("out").exists, process)
                out = "".join(process.stdout.readline() for _ in range(moment % (len(SONGS) + 1)))
                time.sleep(r.uniform(0.0, 0.1))
                process.send_signal(signal.SIGKILL)
                out += process.communicate(timeout=LIMIT)[0]
            made = [json.loads(line) for line in complete_lines(out)]
            done = run_program(command, stdout=PIPE, text=True, check=True)
            again = [json.loads(line) for line in done.stdout.splitlines()]
            assert contents("out") == undisturbed
            rendered = [one["output"] for one in (*made, *again) if one["status"] == "rendered"]
            assert len(rendered) == len(set(rendered))


def complete_lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines(keepends=True) if line.endswith("\n"))


def test_what_others_left_behind_is_swept_away(again: Again) -> None:
    left = Path("out/deep/.spectro-render-0123456789abcdef.part")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a song")
    other = destination.open_destination("out/deep/other.wav")
    again()
    assert not left.exists()
    other.write(b"whole")
    other.commit()  # whose file was not taken for such a one
    assert Path("out/deep/other.wav").read_bytes() == b"whole"


def test_a_file_that_is_being_written_stays_on_nfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, flock(2) says, an exclusive lock needs a file that is open for writing."""
    flock = fcntl.flock

    def nfs_flock(file: IO[bytes], operation: int) -> None:
        if not file.writable():
            raise OSError(errno.EBADF, "bad file descriptor")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", nfs_flock)
    output = destination.open_destination(tmp_path / "a.wav")
    atomic.sweep(tmp_path)
    output.write(b"sound")
    output.commit()
    assert (tmp_path / "a.wav").read_bytes() == b"sound"


def test_records_are_read_from_where_they_were_written(tmp_path: Path) -> None:
    one = History(tmp_path, {"steps": 3}, lambda: "model")
    one.add(tmp_path / "a.wav", "1" * 64, {"status": "rendered"})
    one.close()
    same, other = (History(tmp_path, {"steps": n}, lambda: "model") for n in (3, 4))
    assert not same.is_outdated(tmp_path / "a.wav", "1" * 64)
    assert same.is_outdated(tmp_path / "a.wav", "2" * 64)
    assert other.is_outdated(tmp_path / "a.wav", "1" * 64)
    assert other.knows(tmp_path / "a.wav")
    assert not other.knows(tmp_path / "b.wav")
