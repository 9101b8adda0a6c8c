"""Songs in several processes: the same files as in one, whatever happens to a process."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from spectro_render.batch import worker_engine
from spectro_render.batch.history import NAME
from spectro_render.batch.tasks import Event, Settings, Task
from spectro_render.batch.worker_engine import Member, OpenTask, WorkerEngine
from spectro_render.cli.app import run
from spectro_render.errors import SpectroRenderError
from spectro_render.options import Encoding, ModelChoice, RenderOptions
from spectro_render.report import Reporter
from tests.support.processes import (
    LIMIT,
    PIPE,
    is_running,
    run_program,
    start_program,
    stat_fields,
    wait_until,
)
from tests.support.songs import MakeSong

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes as Linux does")
SECONDS = (9.0, 1.0, 6.0, 3.0, 1.5, 2.0)


@pytest.fixture
def library(song: MakeSong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, seconds in enumerate(SECONDS):
        song(f"in/{number}.mid", seconds=seconds)
    return tmp_path


def command(model: Path, *options: str, program: tuple[str, ...] = ("-m", "spectro_render")) -> Any:
    arguments = ["in", "-o", "out", "--json", "--workers", "2", "--model", str(model), *options]
    return [sys.executable, *program, *arguments]


def finish(command: list[str], code: int = 0) -> tuple[dict[str, str], str]:
    """The status of each song, and the messages of a run."""
    done = run_program(command, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({record["input"] for record in records}) == len(records)
    return {Path(record["input"]).stem: record["status"] for record in records}, done.stderr


def render_here(model: Path, *options: str) -> dict[str, bytes]:
    assert run(["in", "-o", "here", "-q", "--model", str(model), *options]) == 0
    return contents("here")


def contents(folder: str) -> dict[str, bytes]:
    """All files, except the records of the folder."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != NAME}


def children(parent: int) -> list[int]:
    """The running processes that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        state = stat_fields(folder)
        if state and int(state[1]) == parent and state[0] != "Z":
            found.append(int(folder.name))
    return found


def workers(program: int) -> list[int]:
    """The workers of a program, which are children of the server that starts them."""
    return [worker for server in children(program) for worker in children(server)]


@pytest.mark.parametrize("number", ["2", "3"])
def test_the_bytes_are_those_of_one_process(library: Path, tiny_model: Path, number: str) -> None:
    expected = render_here(tiny_model)
    Path("in/sub").mkdir()
    Path("in/sub/bad.mid").write_bytes(b"no MIDI at all")
    status, said = finish(command(tiny_model, "--workers", number), code=1)
    assert status == {**dict.fromkeys("012345", "rendered"), "bad": "failed"}
    assert "spectro-render: in/sub/bad.mid: not a MIDI file" in said
    assert "6 rendered, 1 failed" in said
    assert contents("out") == expected  # without the folder of the bad file


def test_the_number_of_threads_does_not_change_the_bytes(library: Path) -> None:
    """As the last songs have more cores than the first ones: of the bundled model, too."""
    for number in range(2, 6):
        Path(f"in/{number}.mid").unlink()
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        arguments = ["in", "-o", threads, "-q", "--workers", "2"]
        run_program(
            [sys.executable, "-m", "spectro_render", *arguments], env=environment, check=True
        )
    assert contents("1") == contents("3")
    assert len(contents("1")) == 2


def test_a_killed_worker_loses_nothing(library: Path, song: MakeSong, tiny_model: Path) -> None:
    for number in range(6, 12):
        song(f"in/{number}.mid", seconds=12)
    expected = render_here(tiny_model, "--steps", "100")
    with start_program(
        command(tiny_model, "--steps", "100"), stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        rest, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    records = [json.loads(line) for line in (first + rest).splitlines()]
    assert sorted(record["status"] for record in records) == ["rendered"] * 12
    assert contents("out") == expected
    assert "a worker is lost (it was ended by SIGKILL); 1 song for other workers\n" in said
    assert "Traceback" not in said


PROGRAM = """
import sys
import engine_of_test
from spectro_render.batch import process_engine, worker_engine
from spectro_render.cli import app

worker_engine.LEAST_DEADLINE, worker_engine.SLOWEST = 15.0, 0
process_engine.ProcessEngine.__init__.__defaults__ = (engine_of_test.make_engine,)
if __name__ == "__main__":
    sys.exit(app.run(sys.argv[1:]))
"""
ENGINE = """
import os, time
from pathlib import Path
from spectro_render.batch import engine

class Engine(engine.LocalEngine):
    def begin(self, task):
        if task.job.source.name == "3.mid":
            CHANGE
        super().begin(task)

def make_engine(settings, cores):
    made = engine.make_engine(settings, cores)
    made.__class__ = Engine
    return made
"""


def changed(library: Path, change: str) -> tuple[str, ...]:
    """The program with a change of what workers do when they begin 3.mid."""
    (library / "engine_of_test.py").write_text(ENGINE.replace("CHANGE", change))
    (library / "program.py").write_text(PROGRAM)
    return ("program.py",)


def test_a_song_that_kills_two_workers_fails_alone(library: Path, tiny_model: Path) -> None:
    program = changed(library, "os._exit(7)")
    status, said = finish(command(tiny_model, program=program), code=1)
    assert status == {**dict.fromkeys("01245", "rendered"), "3": "failed"}
    lost = (
        "spectro-render: a worker is lost (it ended with exit code 7); 1 song for other workers\n"
    )
    assert said.count(lost) == 2
    assert said.count("in/3.mid: 2 workers were lost while rendering it; free some memory") == 1
    assert sorted(contents("out")) == [f"{k}.wav" for k in (0, 1, 2, 4, 5)]


def test_a_worker_that_hangs_is_replaced(library: Path, tiny_model: Path) -> None:
    once = "Path('seen').exists() or (Path('seen').touch(), time.sleep(3600))"
    expected = render_here(tiny_model)
    status, said = finish(command(tiny_model, program=changed(library, once)))
    assert status == dict.fromkeys("012345", "rendered")
    assert "a worker is lost (it has not answered for 1" in said
    assert contents("out") == expected


def test_an_error_in_a_worker_fails_its_song(library: Path, tiny_model: Path) -> None:
    program = changed(library, "raise MemoryError")
    status, said = finish(command(tiny_model, program=program), code=1)
    assert status == {**dict.fromkeys("01245", "rendered"), "3": "failed"}
    assert "in/3.mid: there is not enough memory; " in said


def test_workers_that_cannot_start_end_the_run(library: Path, tiny_model: Path) -> None:
    (library / "engine_of_test.py").write_text("import os\ndef make_engine(*_): os._exit(1)\n")
    (library / "program.py").write_text(PROGRAM)
    status, said = finish(command(tiny_model, program=("program.py",)), code=1)
    assert status == dict.fromkeys("012345", "failed")
    assert "no worker can be started: it ended with exit code 1; free some memory" in said
    assert contents("out") == {}


def test_a_damaged_model_is_one_line(library: Path, tiny_model: Path) -> None:
    damaged = library / "damaged"
    shutil.copytree(tiny_model, damaged)
    weights = next(damaged.glob("decoder/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    status, said = finish(command(damaged), code=1)
    assert status == dict.fromkeys("012345", "failed")
    assert said.count("\n") == 1 and weights.name in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["starting", "rendering"])
def test_an_interrupt_leaves_nothing(
    library: Path, tiny_model: Path, number: signal.Signals, when: str
) -> None:
    """Sent to all processes of the group, as a terminal does for Ctrl-C."""
    options = ("--steps", "300", "--force")
    with start_program(
        command(tiny_model, *options), stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if when == "rendering":
            process.stdout.readline()
        else:
            wait_until(lambda: children(process.pid), process)
        started = [*children(process.pid), *workers(process.pid)]
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=LIMIT)
        assert process.returncode == 128 + number
        assert "Traceback" not in said
        assert said.endswith("spectro-render: interrupted\n") == (number == signal.SIGINT)
        assert all(name.endswith(".wav") for name in os.listdir("out") if name != NAME)
        for pid in started:
            wait_until(lambda pid=pid: not is_running(pid))


def test_workers_end_with_a_program_that_is_killed(library: Path, tiny_model: Path) -> None:
    with start_program(command(tiny_model, "--steps", "100"), stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = [*children(process.pid), *workers(process.pid)]
        assert len(started) >= 3
        process.kill()
        for pid in started:
            wait_until(lambda pid=pid: not is_running(pid))


def test_workers_are_for_this_machine(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["in", "-o", "out", "--engine", "ray", "--workers", "2"]) == 2
    assert "--workers is for this machine; use --ray-workers" in capsys.readouterr().err


# --- the deadline -------------------------------------------------------------------------------


class Silent:
    """A worker that never answers."""

    is_stopped = False

    def render(self, songs: Any, seconds: float) -> None: ...

    def result(self) -> Any: ...

    def stop(self) -> None:
        self.is_stopped = True


class Engine(WorkerEngine[Any, Any]):
    most_losses, lost_hint, start_hint = 2, "", ""
    has_room = True

    def start_workers(self) -> None: ...

    def begin(self, task: Task) -> None: ...

    def admit(self, member: Any, ready: Any) -> None: ...

    def first_done(self, timeout: float) -> list[Member[Any, Any]]:
        return []

    def complete(self, song: OpenTask, made: Any) -> Event:
        return SpectroRenderError("never")

    def report_seconds(self) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("slowest", "seconds", "is_lost"),
    [
        *((0.0, 3500, False), (0.0, 3700, True)),
        *((1.0, 290, False), (1.0, 310, True)),
        *((20.0, 590, False), (20.0, 610, True)),
    ],
)
def test_the_deadline_follows_the_measured_speed(
    slowest: float, seconds: float, is_lost: bool
) -> None:
    settings = Settings(ModelChoice(), RenderOptions(), Encoding("wav"))
    engine, remote = Engine(settings, Reporter(quiet=True)), Silent()
    engine._slowest = slowest
    engine.members.append(Member(remote, 0.0, size=1))
    for _ in range(int(seconds)):
        engine._end_hanging(1.0)
    assert remote.is_stopped == is_lost
    assert worker_engine.LEAST_DEADLINE == 300
