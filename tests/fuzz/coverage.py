"""Looks for bytes that break a promise of `structured`, led by which code they reach.

    pip install 'atheris>=3'
    python -m tests.fuzz.coverage [-max_total_time=600] [-runs=N] [CORPUS]

The arguments are libFuzzer's. Without a folder of its own it starts from the tests' MIDI files.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spectro_render"]):
    from tests.fuzz.families import small_files
    from tests.fuzz.mutations import SEEDS, seeds
    from tests.fuzz.structured import MAX_MEMORY, MAX_SECONDS, read


SLOWNESS = 12  # following the code makes it 5 times as slow, and libFuzzer's clock is the wall's


def check(data: bytes) -> None:
    """What libFuzzer calls with each input."""
    read(data)


def main() -> None:
    """Until an input breaks a promise, or as long as the arguments say."""
    limits = [f"-timeout={SLOWNESS * MAX_SECONDS}", f"-rss_limit_mb={MAX_MEMORY >> 19}"]
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate([*seeds(SEEDS), *small_files()]):
            Path(corpus, str(number)).write_bytes(data)
        arguments = sys.argv[1:]
        if all(argument.startswith("-") for argument in arguments):
            arguments.append(corpus)
        atheris.Setup([sys.argv[0], *limits, *arguments], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
