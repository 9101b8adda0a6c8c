"""The console script: runs the command, and turns errors into messages and exit codes.

The main job, rendering, has no sub-command: `spectro-render song.mid`. Imports at module level slow
down `--help`, so heavy packages are imported inside the commands.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

import typer

from spectro_render.batch.cores import let_idle_threads_sleep
from spectro_render.cli.completion import COMPLETE, SUB_COMMANDS, first_word, read_line_of_bash
from spectro_render.cli.defaults import PREFIX, check_names, read_config
from spectro_render.cli.help import SETTINGS
from spectro_render.cli.render import rendering
from spectro_render.cli.words import usage_message
from spectro_render.errors import (
    NO_MEMORY,
    OptionError,
    SpectroRenderError,
    install_hint,
    reason_of,
)
from spectro_render.report import PROGRAM, abandon, complain

# The module of each sub-command, which is imported only if the sub-command is run.
_MODULES = {
    "info": "spectro_render.cli.info",
    "models": "spectro_render.cli.models",
    "train": "spectro_render.cli.train",
    "evaluate": "spectro_render.cli.evaluate",
    "again": "spectro_render.cli.again",
    "serve": "spectro_render.cli.serve",
    "config": "spectro_render.cli.config",
    "doctor": "spectro_render.cli.doctor",
}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
CLOSED_PIPE = 128 + 13  # what a shell reports for a program that SIGPIPE ended


def main() -> NoReturn:
    """Run the program with the arguments in `sys.argv`, and exit."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # they are for developers; -W shows them
    let_idle_threads_sleep()
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names it cannot encode
    sys.unraisablehook = _raise_again
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit_on_signal)
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, _exit_outside_imports)
    atexit.register(_ignore_signals)
    try:
        sys.exit(run(sys.argv[1:]))
    except BaseException:
        # Inside a call of Ray, the exit code would be another. A few functions written in C replace
        # any exception that comes while they run by an error of their own.
        if _signals:
            if _signals[0] == signal.SIGINT:
                complain("interrupted")
            _exit_now(128 + _signals[0])
        raise


_signals: list[int] = []  # signals received so far


def _exit_now(code: int) -> NoReturn:
    """Exit without taking Python apart, since the exception still holds what the program used.

    Libraries in C++ would report it as leaked, soxr by a line for each of its objects.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it, or it is closed
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(code)


def _ignore_signals() -> None:
    """Ignore signals while Python ends: all is done, and the exit code is chosen.

    What Python has left to do takes no time, but it gives up handlers first.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


def _replace_closed_streams() -> None:
    """Replace closed standard streams, as the next opened files would get their numbers.

    Reading and writing still fail; messages to standard error are lost.
    """
    if sys.stdin is None:
        sys.stdin = open(os.open(os.devnull, os.O_WRONLY))
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Exit by an exception, so that incomplete files are removed.

    For Ctrl-C this is not KeyboardInterrupt: after one in the code of an `exec`, which dataclasses
    use, Python ends itself by the signal, whatever the exit code. A second signal does not wait.
    """
    _signals.append(number)
    if len(_signals) == 1:
        _exit_outside_imports(number, frame)
    else:
        sys.exit(128 + number)


def _exit_outside_imports(number: int, frame: FrameType | None) -> None:
    """Exit for the first signal; or if a module is being imported, look again a moment later.

    torch imports Python modules from C++, where an exception aborts the whole program. It is an
    alarm that looks again, as a thread cannot safely be started at any moment.
    """
    if sys.platform != "win32":
        outer = frame
        while outer is not None:
            if outer.f_code.co_filename.startswith("<frozen importlib"):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                return
            outer = outer.f_back
    sys.exit(128 + _signals[0])


def _raise_again(ignored: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception came where Python ignores all, such as a destructor."""
    if not (_signals and issubclass(ignored.exc_type, SystemExit)):
        sys.__unraisablehook__(ignored)
        return
    again = threading.Timer(0.01, os.kill, (os.getpid(), _signals[0]))
    again.daemon = True
    again.start()


def run(arguments: Sequence[str]) -> int:
    """Run the program with these arguments, and return the exit code."""
    try:
        return _flushed(_invoke(list(arguments)))
    except (typer.TyperException, OptionError) as error:
        message = usage_message(error) if isinstance(error, typer.TyperException) else str(error)
        sub_command = [word for word in arguments[:1] if word in SUB_COMMANDS]
        end = "" if message.endswith("?") else ";"
        complain(f"{message.rstrip('.')}{end} see {' '.join([PROGRAM, *sub_command])} --help")
        return 2
    except SpectroRenderError as error:
        if not _signals:  # it would be the signal's exception in another form
            complain(str(error))
        return 1
    except MemoryError:
        complain(NO_MEMORY)
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        abandon(sys.stdout)
        return CLOSED_PIPE
    except OSError as error:
        complain(f"{error.filename or 'standard output'}: {reason_of(error)}")
        abandon(sys.stdout)
        return 1


def _flushed(code: int) -> int:
    """Flush standard output and return the exit code. Raises OSError if only flushing fails."""
    try:
        sys.stdout.flush()
    except OSError:
        if not code:
            raise
        abandon(sys.stdout)  # it has bytes of an output whose failure is reported already
    return code


def _invoke(arguments: list[str]) -> int:
    """Run a sub-command or the main job, or answer a shell that completes a line."""
    if os.environ.get(COMPLETE):
        with suppress(SpectroRenderError):  # if packages of the sub-command are missing
            read_line_of_bash()
            typer.main.get_command(_program_of(first_word())).main(prog_name=PROGRAM)  # exits
        return 1
    word = arguments[0] if arguments else None
    command = typer.main.get_command(_program_of(word))
    settings = {**SETTINGS, "auto_envvar_prefix": PREFIX}
    if word != "config":  # which mends a file that is wrong
        settings["default_map"] = read_config()
    if word not in _MODULES:
        check_names(command, settings["default_map"])
    try:
        with (
            _missing_packages(word),
            command.make_context(PROGRAM, arguments, **settings) as context,
        ):
            return int(command.invoke(context) or 0)
    except typer.Exit as done:
        return int(done.exit_code)


@contextmanager
def _missing_packages(word: str | None) -> Iterator[None]:
    """Raise SpectroRenderError if a package is missing that the sub-command `word` needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        if word not in _MODULES:
            raise
        message = f"the command {word} needs the package {error.name}"
        raise SpectroRenderError(message, install_hint(word)) from error


def _program_of(word: str | None) -> typer.Typer:
    """The Typer program of the sub-command `word`, or of the main job for any other word.

    Raises SpectroRenderError if a package is missing that the sub-command needs.
    """
    if word not in _MODULES:
        return rendering
    with _missing_packages(word):
        module = import_module(_MODULES[word])
    # Without a callback, Typer would drop the name of a program's only command.
    program = typer.Typer(rich_markup_mode=None, callback=lambda: None)
    command = getattr(module, word)
    if isinstance(command, typer.Typer):
        program.add_typer(command, name=word)
    else:
        program.command(word)(command)
    return program
