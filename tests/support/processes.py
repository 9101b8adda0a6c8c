"""Starts programs for tests: they end with the test, and after a time limit.

Each program leads its own session and process group, so Ctrl-C in the terminal of the tests reaches
only the tests, which then end the programs. All programs have a mark in their environment, by which
they can be found on Linux even if they have left the group.
"""

import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, Popen
from types import FrameType
from typing import Any, NamedTuple

__all__ = ["DEVNULL", "LIMIT", "PIPE", "REPOSITORY", "STDOUT", "CompletedProcess", "Popen"]
__all__ += [
    "Usage",
    "end_marked",
    "guard_session",
    "is_idle",
    "is_running",
    "read_all",
    "run_on_terminal",
    "run_program",
]
__all__ += ["start_program", "stat_fields", "take_default_signals", "usage", "wait_until"]

REPOSITORY = Path(__file__).parents[2]
LIMIT = 600.0  # seconds until a program is ended; one that does not hang takes much less
MARK = "TESTS_OF_SPECTRO_RENDER"  # name of an environment variable
_numbers = itertools.count()


def take_default_signals() -> None:
    """Start programs with the default signals, even if this process ignores some.

    A program inherits ignored and blocked signals (SIGINT from the background of a shell, SIGHUP
    from nohup), but not handlers. So what is ignored gets a handler that does nothing.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def guard_session(folder: str) -> Popen:
    """Start a process that waits until this one has ended, and then ends its programs.

    It also removes a folder. So even SIGKILL leaves nothing behind (on Linux). It does this at once
    when its standard input is closed.
    """
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    mark = os.environ[MARK] = f"{os.environ.get(MARK, '')}/{os.getpid()}"
    code = "import shutil, sys; from tests.support.processes import end_marked; sys.stdin.read()"
    code += "; end_marked(sys.argv[1]); shutil.rmtree(sys.argv[2], ignore_errors=True)"
    command = [sys.executable, "-c", code, mark, folder]
    options: dict[str, Any] = {"env": unmarked, "cwd": REPOSITORY, "start_new_session": True}
    return Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, **options)


@contextmanager
def start_program(arguments: Sequence[str | os.PathLike[str]], **options: Any) -> Iterator[Popen]:
    """Start a program; at the end of the context, it and all its children are ended.

    `options` are those of `subprocess.Popen`. Standard input is empty unless one is given.
    """
    environment = dict(options.pop("env", None) or os.environ)
    mark = f"{environment.get(MARK) or os.environ.get(MARK, '')}/{os.getpid()}-{next(_numbers)}"
    environment[MARK] = mark
    options.setdefault("stdin", DEVNULL)
    process = Popen(arguments, env=environment, start_new_session=True, **options)

    def end() -> None:
        with suppress(ProcessLookupError, PermissionError):  # the latter for zombies on macOS
            os.killpg(process.pid, signal.SIGKILL)
        end_marked(mark)

    watchdog = threading.Timer(LIMIT, end)  # so that no read or wait can hang
    watchdog.daemon = True
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        end()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(OSError):  # the rest cannot be written if the reader has ended
                    stream.close()
        process.wait()


def run_program(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    input: Any = None,
    check: bool = False,
    capture_output: bool = False,
    **options: Any,
) -> CompletedProcess:
    """Start a program and wait until it has ended, as `subprocess.run` does."""
    if input is not None:
        options["stdin"] = PIPE
    if capture_output:
        options |= {"stdout": PIPE, "stderr": PIPE}
    with start_program(arguments, **options) as process:
        out, err = process.communicate(input, timeout=LIMIT)
    done = CompletedProcess(process.args, process.returncode, out, err)
    if check:
        assert done.returncode == 0, done
    return done


def run_on_terminal(
    arguments: Sequence[str | os.PathLike[str]],
    streams: tuple[str, ...],
    columns: int = 120,
    interrupt_at: str = "",
    **options: Any,
) -> tuple[int, str]:
    """The exit code of a program, and what it writes to a terminal with some of its streams.

    Ctrl-C is pressed once the terminal has got the text `interrupt_at`.
    """
    import pty

    environment = {**(options.pop("env", None) or os.environ), "TERM": "xterm"}
    environment["COLUMNS"] = str(columns)
    terminal, other_end = pty.openpty()
    with open(terminal, "rb", buffering=0) as shown, open(other_end, "wb", buffering=0) as shows:
        options |= {"env": environment, **dict.fromkeys(streams, shows)}
        with start_program(arguments, **options) as process:
            shows.close()
            said = b""
            while interrupt_at.encode() not in said:
                said += os.read(terminal, 4096)
            if interrupt_at:
                os.write(terminal, b"\x03")  # which the terminal shows as ^C
                process.send_signal(signal.SIGINT)
            said += read_all(shown.fileno())
            return process.wait(), said.decode()


def read_all(terminal: int) -> bytes:
    """All that a process says to a terminal."""
    shown = b""
    try:
        while block := os.read(terminal, 4096):
            shown += block
    except OSError:  # Linux raises this when the other end is closed
        pass
    return shown


def wait_until(is_true: Callable[[], Any], process: Popen | None = None) -> None:
    """Wait until a condition is true; it is an error if the process ends before."""
    end = time.monotonic() + LIMIT
    while not is_true():
        assert process is None or process.poll() is None or is_true(), (
            f"ended with {process.returncode}"
        )
        assert time.monotonic() < end
        time.sleep(0.02)


class Usage(NamedTuple):
    """What a process has used so far."""

    cpu_seconds: float
    peak_memory: int  # bytes: VmHWM


def stat_fields(path: Path) -> list[str]:
    """The fields of a process or thread, from its state on; none when it has ended.

    It may end between any two looks, and while its file is read (ESRCH).
    """
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(pid: int) -> bool:
    """Zombies that nobody has waited for do not count."""
    return stat_fields(Path(f"/proc/{pid}"))[:1] not in ([], ["Z"])


def usage(pid: int) -> Usage | None:
    """The usage of a running process; None when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    times = stat_fields(Path(f"/proc/{pid}"))[11:13]
    ticks = sum(map(int, times))
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), 1024 * int(peak[1])) if peak and times else None


def is_idle(pid: int) -> bool:
    """Whether a process waits, for half a second, with all its threads.

    One that only waits for a core, beside busy processes, is none of these.
    """
    before = usage(pid)
    for _ in range(5):
        with suppress(FileNotFoundError):  # the process has ended
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            if {tuple(stat_fields(task)[:1]) for task in tasks} != {("S",)}:
                return False  # one runs, or has just ended
        time.sleep(0.1)
    return before is not None and usage(pid) == before


def end_marked(mark: str) -> None:
    """End all processes with a mark; works on Linux only."""
    for _ in range(500):  # processes may start others meanwhile
        found = [pid for pid in _processes_with(mark) if pid != os.getpid()]
        if not found:
            break
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes_with(mark: str) -> list[int]:
    """The processes whose mark is this one or begins with it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or belongs to another user
            continue
        if any(
            f"{line.decode(errors='replace')}/".startswith(f"{MARK}={mark}/")
            for line in environment
        ):
            found.append(int(folder.name))
    return found
