"""Reads damaged files and says which of them break a promise.

Any bytes give a score or a MidiError of one line, within 5 s of CPU time and 1 GB of memory, and no
file is written. Needs Linux.

python -m tests.fuzz.structured --count 20000 [--seed 0] [--keep FOLDER] [MIDI_FOLDER ...]
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from itertools import islice
from pathlib import Path
from typing import NoReturn

from spectro_render.errors import MidiError
from spectro_render.midi.read import read_midi
from spectro_render.tokens.read import detokenize
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.tokens.write import TokenWindows
from tests.fuzz.families import small_files
from tests.fuzz.mutations import SEEDS, mutations, seeds

MAX_SECONDS = 5  # of CPU time: other programs may keep the cores busy
MAX_MEMORY = 2**30  # bytes, beside what Python and its modules take
MAX_WINDOWS = 200  # that are written and read: a small file may have the windows of a day
VOCABULARIES = (Vocabulary(), Vocabulary(velocity_bins=32))
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class TookTooLong(BaseException):
    """A file was not read within MAX_SECONDS; no handler of ordinary errors may hide that."""


def read(data: bytes) -> bool:
    """Bytes -> notes -> ids of the first windows -> notes; False if there is nothing to render."""
    try:
        score = read_midi(data)
    except MidiError as error:
        assert "\n" not in str(error)
        return False
    for vocabulary in VOCABULARIES:
        detokenize(islice(TokenWindows(score, vocabulary), MAX_WINDOWS), vocabulary)
    return True


def finding(data: bytes) -> str | None:
    """What is wrong with how a file is read; None if nothing is."""
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        read(data)
    except (Exception, TookTooLong) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def limit_memory() -> None:
    """From now on, asking for more than MAX_MEMORY beside what there is raises MemoryError."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MAX_MEMORY,) * 2)


def memory() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forbid_writing() -> None:
    """From now on, opening a file for writing is an error."""
    sys.addaudithook(_refuse_writing)


def _refuse_writing(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        raise PermissionError(f"{arguments[0]!r} is opened for writing")


def _stop(*_: object) -> NoReturn:
    raise TookTooLong(f"more than {MAX_SECONDS} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[SEEDS])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="for the files that break a promise")
    options = parser.parse_args()
    originals = [data for folder in options.folders for data in seeds(folder)] + small_files()
    found = []
    read(originals[0])  # so that all modules are there
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    else:
        forbid_writing()
    limit_memory()
    start = time.monotonic()
    for index, data in enumerate(islice(mutations(originals, options.seed), options.count)):
        if wrong := finding(data):
            found.append(wrong)
            print(f"{index}: {wrong}", flush=True)
            if options.keep:
                (options.keep / f"{index}.mid").write_bytes(data)
    print(f"{options.count} files, {len(found)} findings, {memory() >> 20} MB", end=", ")
    print(f"{time.monotonic() - start:.0f} s")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
