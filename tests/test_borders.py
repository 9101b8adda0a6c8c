"""What begins at a window's border is as loud as what begins elsewhere, with the default model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import Tensor

from spectro_render.constants import FRAME_RATE, WINDOW_SECONDS
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Note, Score
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer

CASES = Path(__file__).parent / "data" / "cases"
LEAST_STEPS, DEFAULT_STEPS = 1, 3
LIMIT = 3.0  # dB by which a hit may differ


OFFSETS = [step / 100 for step in range(-6, 7)]  # seconds from a border
MIDDLE = WINDOW_SECONDS / 2  # from a border to the same hit far from borders; whole frames
BEAT = 0.16  # seconds between the notes of the beat
HITS = {
    "kick": (36, 0, True),
    "snare": (38, 0, True),
    "hat": (42, 0, True),
    "piano": (60, 0, False),
    "organ": (60, 19, False),
    "plucked bass": (40, 33, False),
    "strings": (64, 48, False),
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.load("default", device="cpu")


def mel_of(renderer: Renderer, score: Score, steps: int) -> Tensor:
    """The log-mel (T, 128) of a whole score."""
    return torch.cat(list(renderer.mels(renderer.windows(score), RenderOptions(steps=steps))))


def level(mel: Tensor, time: float) -> float:
    """Level in dB of the 120 ms from `time` on, in seconds."""
    frame = round(time * FRAME_RATE)
    return float(10 * torch.log10(mel[frame - 1 : frame + 5].double().exp().square().sum()))


def beat(border: float) -> Iterator[Note]:
    """Hats and a plucked bass around a time, with a gap at it."""
    for count in (-4, -3, -2, -1, 1, 2, 3, 4):
        start = border + count * BEAT
        yield Note(start, start + 0.1, 42, 80, 0, True)
        if count % 2 == 0:
            yield Note(start, start + 0.14, 43 + count, 80, 34, False)


@pytest.mark.parametrize("steps", [LEAST_STEPS, DEFAULT_STEPS])
@pytest.mark.parametrize("within_a_beat", [False, True])
def test_a_hit_at_a_border_is_as_loud_as_far_from_it(
    renderer: Renderer, within_a_beat: bool, steps: int
) -> None:
    """Each border has another hit, and the same one follows half a window later."""
    hits = [(name, offset) for name in HITS for offset in OFFSETS]
    borders = [WINDOW_SECONDS * number for number in range(1, len(hits) + 1)]
    notes: list[Note] = []
    for border, (name, offset) in zip(borders, hits, strict=True):
        pitch, program, is_drum = HITS[name]
        length = 0.1 if is_drum else 0.4
        for middle in (border, border + MIDDLE):
            start = middle + offset
            notes.append(Note(start, start + length, pitch, 100, program, is_drum))
            notes += beat(middle) if within_a_beat else ()
    notes.sort(key=lambda note: note.start)
    mel = mel_of(renderer, Score(tuple(notes), notes[-1].end), steps)
    differences = {
        hit: level(mel, border + hit[1]) - level(mel, border + MIDDLE + hit[1])
        for border, hit in zip(borders, hits, strict=True)
    }
    off = {hit: round(db, 1) for hit, db in differences.items() if abs(db) > LIMIT}
    assert not off


@pytest.mark.parametrize("steps", [LEAST_STEPS, DEFAULT_STEPS])
@pytest.mark.parametrize(
    ("name", "drum", "at_borders"),
    [
        ("29_beat_on_multiples_of_5.12_s", 36, (5.12, 10.24)),
        ("29b_sixteenths_at_120", 37, (5.125, 10.25)),
    ],
)
def test_drums_of_a_song_do_not_drop_out_at_borders(
    renderer: Renderer, name: str, drum: int, at_borders: Sequence[float], steps: int
) -> None:
    score = read_midi(CASES / f"{name}.mid")
    mel = mel_of(renderer, score, steps)
    starts = [note.start for note in score.notes if note.is_drum and note.pitch == drum]
    usual = median(level(mel, start) for start in starts)
    for start in at_borders:
        assert any(abs(start - other) < 0.001 for other in starts)
        assert level(mel, start) - usual > -3
