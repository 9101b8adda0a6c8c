"""Measures whether what begins just behind a window border is as loud as what begins elsewhere.

The flux at borders (`faults.seams`) cannot show this: an onset that is lost there lowers it. Levels
are compared with the reference's in the mel bands that rise there, so that whatever else sounds
counts little.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from spectro_render.constants import FRAME_RATE, STEPS_PER_SECOND, STEPS_PER_WINDOW
from spectro_render.evaluation.arrays import Matrix
from spectro_render.evaluation.measures import Measure, Measures
from spectro_render.midi.score import Note

BORDER_STEPS = 6  # an onset is behind a border if it begins in the 60 ms after it
AFTER_FRAMES = 3  # frames after an onset in which its loudest moment is sought
RISE = 1.0  # nats: a band rises at an onset if it becomes this much louder in the reference
AUDIBLE = -7.0  # log-mel: softer values are raised to it
LEAST_BANDS = 4  # an onset at which fewer bands of the reference rise is not measured
FOUND = 0.5  # an onset is found if the bands rise by more than this share of the reference's rise
DECIBELS = 20 / np.log(10)  # in one nat


class Onset(NamedTuple):
    """How an onset differs from the reference's, in the bands that rise there."""

    level: float  # dB above the reference
    rise: float  # share of the reference's rise


def onsets_at_borders(mel: Matrix, true: Matrix, notes: Iterable[Note]) -> Measures:
    """Compare the onsets in a log-mel (T, 128) with those of the reference's mel (T, 128).

    Onsets in the first 60 ms after window borders and all others are measured apart: their mean
    level in dB above the reference's, and the share of them that is found.
    """
    measured: dict[str, list[Onset]] = {"border": [], "elsewhere": []}
    mel, true = np.maximum(mel, AUDIBLE), np.maximum(true, AUDIBLE)
    for step in sorted({round(note.start * STEPS_PER_SECOND) for note in notes}):
        onset = _measure(mel, true, step)
        if onset is not None:
            is_behind = step >= STEPS_PER_WINDOW and step % STEPS_PER_WINDOW < BORDER_STEPS
            measured["border" if is_behind else "elsewhere"].append(onset)
    measures: Measures = {}
    for place, onsets in measured.items():
        found = sum(onset.rise > FOUND for onset in onsets)
        measures[f"onset_level_{place}"] = Measure(sum(o.level for o in onsets), len(onsets))
        measures[f"onset_recall_{place}"] = Measure(found, len(onsets))
    return measures


def _measure(mel: Matrix, true: Matrix, step: int) -> Onset | None:
    """The onset at a 10 ms step; None where the reference does not rise, or is over."""
    # A frame covers 40 ms from its start on: one that ends before the onset, and those that begin
    # after it.
    before = step * FRAME_RATE // STEPS_PER_SECOND - 2
    first = -(-step * FRAME_RATE // STEPS_PER_SECOND)
    if before < 0 or first + AFTER_FRAMES > min(len(mel), len(true)):
        return None
    after, true_after = (x[first : first + AFTER_FRAMES].max(0) for x in (mel, true))
    true_rise = true_after - true[before]
    here = true_rise >= RISE
    if here.sum() < LEAST_BANDS:
        return None
    level = (after - true_after)[here].mean() * DECIBELS
    rise = (after - mel[before])[here].sum() / true_rise[here].sum()
    return Onset(float(level), float(rise))
