"""CPU seconds to tokenise an hour of 100 000 notes, and to read its windows back.

Run from the checkout's top level: python -m tests.benchmarks.bench_tokens
"""

import random
import time

from spectro_render.midi.score import Note, Score
from spectro_render.tokens.read import detokenize, window_notes
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.tokens.write import tokenize

NOTES = 100_000
SECONDS = 3600.0


def music(seconds: float, longest: float = 2.0) -> Score:
    """NOTES notes of up to `longest` seconds."""
    r = random.Random(0)
    starts = sorted(r.uniform(0, seconds - 2) for _ in range(NOTES))
    notes = (
        Note(
            start=start,
            end=start + r.uniform(0.05, longest),
            pitch=r.randrange(128),
            velocity=r.randint(1, 127),
            program=r.randrange(128),
            is_drum=r.random() < 0.2,
        )
        for start in starts
    )
    return Score(tuple(notes), seconds)


def report(name: str, score: Score, vocabulary: Vocabulary) -> None:
    """Prints one line."""
    begin = time.process_time()
    windows = tokenize(score, vocabulary)
    written = time.process_time()
    for window in windows:
        window_notes(window.ids, vocabulary)
    read = time.process_time()
    detokenize(windows, vocabulary)
    joined = time.process_time()
    ids = sum(len(window.ids) for window in windows)
    dropped = sum(window.dropped for window in windows)
    print(
        f"{name}: {len(windows)} windows, {ids} ids, {dropped} notes dropped; "
        f"tokenize {written - begin:.2f} s, window_notes {read - written:.2f} s, "
        f"detokenize {joined - read:.2f} s"
    )


if __name__ == "__main__":
    own = Vocabulary(velocity_bins=32, programs="full")
    report("published, 1 h", music(SECONDS), Vocabulary())
    report("own, 1 h", music(SECONDS), own)
    report("own, 1 h, notes of up to 1 min", music(SECONDS, longest=60.0), own)
    report("own, all in 1 min", music(60.0), own)
