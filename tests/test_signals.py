"""The real program is sent signals at many moments: it ends at once, and leaves nothing half."""

import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

from tests.support.processes import LIMIT, PIPE, Popen, start_program, usage, wait_until
from tests.support.songs import MakeSong

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs signals and /proc")

# Says by a file that `main` has begun and its first handler is there. What comes before belongs to
# Python: a signal then ends in its own words.
BEGUN = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "spectro_render.cli":
            sys.meta_path.remove(self)
            open("begun", "w").close()

sys.meta_path.insert(0, Finder())
"""
BITE, PAUSE = 4096, 0.01  # bytes that the slow reader takes at once, and the seconds in between
LAST_PAGE = 4  # the flag of an Ogg stream's last page (RFC 3533)


@dataclass
class Run:
    """How a run has ended."""

    code: int  # as in a shell
    cpu_seconds: float  # used, from the start of Python
    err: str
    sound: bytes | None  # the file or the stream; None: there is no file
    left: list[str]  # names of temporary files


def arguments_for(format: str, model: Path, *, is_stream: bool) -> list[str]:
    output = ["-o", "-", "--format", format] if is_stream else ["-o", f"out/a.{format}"]
    program = [sys.executable, "-m", "spectro_render", "song.mid", "-q", "--seed", "1"]
    return [*program, *output, "--model", str(model)]


def run(
    folder: Path,
    arguments: list[str],
    number: signal.Signals | None = None,
    moment: float = 0,
    delay: float = 0,
) -> Run:
    """Run the program in a folder, and send it a signal once `main` has begun.

    The signal comes `delay` seconds after the program has used `moment` seconds of a processor,
    which do not depend on what else the machine does.
    """
    begun, output = folder / "begun", folder / "out"
    begun.unlink(missing_ok=True)
    output.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[1])
    with start_program(arguments, cwd=folder, env=environment, stdout=PIPE, stderr=PIPE) as process:
        stream = bytearray()
        is_over = threading.Event()
        reader = threading.Thread(target=read_slowly, args=(process, stream, is_over))
        reader.start()
        wait_until(begun.exists, process)
        used = 0.0
        while process.poll() is None:
            used = getattr(usage(process.pid), "cpu_seconds", used)  # None: it has just ended
            if number is not None and used >= moment:
                time.sleep(delay)
                process.send_signal(number)
                break
            time.sleep(0.005)
        code = process.wait(LIMIT)
        is_over.set()
        reader.join()
        assert process.stderr is not None
        err = process.stderr.read().decode()
    content = {name: (output / name).read_bytes() for name in os.listdir(output)}
    for name in content:
        (output / name).unlink()
    left = [name for name in content if name.startswith(".")]
    files = [content[name] for name in content if name not in left]
    sound = bytes(stream) if "-" in arguments else files[0] if files else None
    return Run(128 - code if code < 0 else code, used, err, sound, left)


def read_slowly(process: Popen, stream: bytearray, is_over: threading.Event) -> None:
    """Read standard output in small bites, with pauses until the program has ended."""
    assert process.stdout is not None
    while block := os.read(process.stdout.fileno(), BITE):
        stream += block
        is_over.wait(PAUSE)


def pages(stream: bytes) -> list[int]:
    """The flags of all whole pages in an Ogg stream."""
    flags, at = [], 0
    while at + 27 <= len(stream):
        assert stream[at : at + 4] == b"OggS"
        flags.append(stream[at + 5])
        segments = stream[at + 26]
        at += 27 + segments + sum(stream[at + 27 : at + 27 + segments])
    return flags


def check(done: Run, whole: Run, number: signal.Signals, format: str, is_stream: bool) -> None:
    """What must hold whenever the signal came, also after the last byte."""
    assert whole.sound is not None
    if done.code == 0:  # it was over before
        assert done.err == "" and done.sound is not None
        assert len(done.sound) == len(whole.sound)
        return
    said = "spectro-render: interrupted\n" if number == signal.SIGINT else ""
    assert (done.code, done.err, done.left) == (128 + number, said, [])
    if not is_stream:
        assert done.sound is None or len(done.sound) == len(whole.sound)
    elif format in ("ogg", "opus"):  # its serial number differs from run to run
        assert done.sound is not None
        assert len(done.sound) == len(whole.sound) or LAST_PAGE not in pages(done.sound)
    else:
        assert done.sound is not None and whole.sound.startswith(done.sound)


@pytest.mark.parametrize("moments", [6, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "opus", "mp3"])
def test_signals_at_many_moments(
    song: MakeSong, tmp_path: Path, tiny_model: Path, format: str, moments: int
) -> None:
    """SIGINT and SIGTERM by turns, to a file and to a slow pipe by turns.

    The moments lie evenly over a whole run, each at random within its share of it.
    """
    song(seconds=30)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BEGUN)
    kinds = {kind: arguments_for(format, tiny_model, is_stream=kind) for kind in (False, True)}
    whole = {kind: run(tmp_path, arguments) for kind, arguments in kinds.items()}
    for kind in kinds:
        assert (whole[kind].code, whole[kind].err) == (0, "")
    (tmp_path / f"whole.{format}").write_bytes(whole[False].sound or b"")
    assert soundfile.info(tmp_path / f"whole.{format}").duration > 30
    rng = random.Random(moments)
    ended = 0
    for moment in range(moments):
        is_stream, number = bool(moment % 2), (signal.SIGINT, signal.SIGTERM)[moment // 2 % 2]
        share = (moment + rng.random()) / moments
        used, delay = share * whole[is_stream].cpu_seconds, rng.uniform(0, 0.05)
        done = run(tmp_path, kinds[is_stream], number, used, delay)
        check(done, whole[is_stream], number, format, is_stream)
        ended += done.code != 0
    assert ended > moments / 2
