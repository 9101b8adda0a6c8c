"""What tests start starts as from a prompt, and ends with them: the helpers' own tests."""

import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import (
    LIMIT,
    PIPE,
    REPOSITORY,
    is_idle,
    is_running,
    run_program,
    start_program,
    usage,
    wait_until,
)

SILENT = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
# A program with a child that has left its group; both would go on for an hour.
FAMILY = f"""
import subprocess, sys, time
{SILENT}
child = [sys.executable, "-c", "{SILENT}; print(1, flush=True); import time; time.sleep(3600)"]
child = subprocess.Popen(child, start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(3600)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux only")


@needs_proc
def test_nothing_is_left_of_a_program_that_goes_on() -> None:
    with pytest.raises(ZeroDivisionError):
        with start_program([sys.executable, "-c", FAMILY], stdout=PIPE, text=True) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            raise ZeroDivisionError
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not is_running(child))


def test_what_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.processes.LIMIT", 0.5)
    hanging = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with start_program(hanging, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert process.returncode == -signal.SIGKILL


def test_waiting_ends_where_what_is_waited_for_cannot_come() -> None:
    with start_program([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        with pytest.raises(AssertionError, match="ended with 3"):
            wait_until(lambda: False, process)


THREADS = """
import threading, time
print(1, flush=True)
while True:
    threads = [threading.Thread(target=time.sleep, args=(0.001,)) for _ in range(20)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
"""


@needs_proc
def test_looks_at_a_process_whose_threads_come_and_go() -> None:
    """A thread may end between the look at the folder and the look at its file."""
    with start_program([sys.executable, "-c", THREADS], stdout=PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert not is_idle(process.pid)
        process.kill()
        process.wait()
        assert not is_idle(process.pid)
        assert usage(process.pid) is None


# --- whoever starts the tests -------------------------------------------------------------------

INSIDE = """
import os, signal, sys
from tests.support.processes import run_program, start_program, wait_until

PROGRAM = "import os, signal; print([signal.getsignal(n) == signal.SIG_IGN for n in (1, 2, 3, 15)])"
SHOWN = "import os, sys; print(sys.stdin.read(), dict(os.environ), oct(os.umask(0)))"

def test_signals():
    done = run_program([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "[False, False, False, False]\\n"

def test_surroundings():
    done = run_program([sys.executable, "-c", SHOWN], capture_output=True, text=True, check=True)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "HF_TOKEN", "SPECTRO_RENDER_SOUNDFONT"):
        assert name not in done.stdout
    assert os.listdir(os.environ["HOME"]) == []
    assert done.stdout.endswith("0o22\\n")
"""


def command_of(folder: Path, text: str) -> list[str]:
    """The command that runs tests of their own, with our conftest."""
    (folder / "test_inside.py").write_text(text)
    options = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    settings = ["-c", str(REPOSITORY / "pyproject.toml")]
    return [sys.executable, "-m", "pytest", *options, *settings, str(folder / "test_inside.py")]


@pytest.mark.parametrize(
    "before",
    [
        # The background of a shell, under nohup, without standard input.
        "trap '' HUP INT QUIT TERM; exec <&-",
        "umask 077; unset HOME; export NO_COLOR=1 FORCE_COLOR=1 COLUMNS=40 TERM=vt52 LC_ALL=C"
        " HF_TOKEN=x SPECTRO_RENDER_SOUNDFONT=/x PYTHONWARNINGS=error",
    ],
)
def test_whoever_starts_the_tests(tmp_path: Path, before: str) -> None:
    line = f"{before}; exec {shlex.join(command_of(tmp_path, INSIDE))}"
    done = run_program(["sh", "-c", line], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout


LEAVING = """
import subprocess, sys

def test_that_fails():
    child = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True)
    with open("pids", "w") as file:
        file.write(f"{child.pid} {child.stdout.readline()}")
"""


@needs_proc
@pytest.mark.parametrize(
    ("then", "number", "code"),
    [
        ("assert False", None, pytest.ExitCode.TESTS_FAILED),
        ("child.wait()", signal.SIGINT, pytest.ExitCode.INTERRUPTED),
        ("child.wait()", signal.SIGTERM, pytest.ExitCode.INTERRUPTED),
        ("child.wait()", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_nothing_is_left_of_what_tests_start_in_another_way(
    tmp_path: Path, then: str, number: int | None, code: int
) -> None:
    text = f"FAMILY = {FAMILY!r}\n{LEAVING}    {then}\n".replace('"pids"', repr(f"{tmp_path}/pids"))
    pids = tmp_path / "pids"
    command = command_of(tmp_path, text)
    with start_program(command, stdout=PIPE, text=True, cwd=REPOSITORY) as tests:
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        if number is not None:
            tests.send_signal(number)
        out, _ = tests.communicate(timeout=LIMIT)
        assert tests.returncode == code, out
        for pid in map(int, pids.read_text().split()):
            wait_until(lambda pid=pid: not is_running(pid))
