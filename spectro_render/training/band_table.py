"""Measures how loud each source of a soundfont is in the band above 7.4 kHz, and how that develops.

Each program is played note by note, each drum once; see `vocoder/band.py` for what is kept.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from spectro_render.midi.score import Note, Score
from spectro_render.training.lines import APART, DRUMS, HELD, LEAD, VELOCITY
from spectro_render.training.synth import SYNTH_RATE, Synthesizer
from spectro_render.vocoder.band import (
    AGES,
    FLOOR,
    MELODIC_SOURCES,
    PITCH_STEP,
    PITCHES,
    STEP,
    BandTable,
    band_envelope,
)
from spectro_render.vocoder.lines import LOWEST_PITCH, PROGRAMS

LOUDEST = 8  # steps of which the level is the mean
AUDIBLE = 2.0  # above FLOOR: bands whose loudest steps are softer do not count for the course
MOST_SLOPE = 0.2
RELEASED = slice(4, 44)  # steps after the end of a note in which its release is measured


def measure_band(say: Callable[[str], None] = print) -> BandTable:
    """Play all programs and drums of the soundfont, and measure each source.

    Raises SpectroRenderError without FluidSynth or its soundfont.
    """
    synthesizer, table = Synthesizer(), BandTable()
    table.level.fill_(FLOOR)
    pitches = range(LOWEST_PITCH, LOWEST_PITCH + PITCHES * PITCH_STEP, PITCH_STEP)
    for program in range(PROGRAMS):
        for place, envelope in enumerate(_envelopes(synthesizer, pitches, program)):
            _measure(table, program * PITCHES + place, envelope)
        if (program + 1) % 16 == 0:
            say(f"bands of {program + 1} programs measured")
    for drum, envelope in zip(DRUMS, _envelopes(synthesizer, DRUMS, None), strict=True):
        _measure(table, MELODIC_SOURCES + drum, envelope)
    table.release[MELODIC_SOURCES:] = 0
    return table


def _envelopes(synthesizer: Synthesizer, pitches: range, program: int | None) -> list[Tensor]:
    """The envelopes (E, B) of single notes of a program, or of drums, each from its onset."""
    starts = [LEAD + APART * number for number in range(len(pitches))]
    notes = tuple(
        Note(start, start + HELD, pitch, VELOCITY, program or 0, program is None)
        for start, pitch in zip(starts, pitches, strict=True)
    )
    samples = torch.from_numpy(synthesizer.render_score_full(Score(notes, APART * len(pitches))))
    length = round((APART - LEAD) * SYNTH_RATE)
    begins = [round(start * SYNTH_RATE) for start in starts]
    return [band_envelope(samples[begin : begin + length]) for begin in begins]


def _measure(table: BandTable, source: int, envelope: Tensor) -> None:
    """Fill a row of the table from the envelope (E, B) of a note that is held for HELD seconds."""
    full = 2 * torch.tensor(VELOCITY / 127).log()  # levels are those at full velocity
    end = round(HELD * SYNTH_RATE / STEP)
    power = (2 * envelope).exp()
    loudest = power[:end].sum(1).topk(LOUDEST).indices
    level = 0.5 * power[loudest].mean(0).log()
    table.level[source] = (level - full).clamp(min=FLOOR)
    counts = level > FLOOR + AUDIBLE
    if not counts.any():
        return
    above = (envelope[:, counts] - level[counts]).mean(1)  # (E,)
    middles = [0, *((a + b) // 2 for a, b in pairwise(AGES)), end - 1]
    for number, (first, last) in enumerate(pairwise(middles)):
        table.course[source, number] = above[first : max(first + 1, last)].mean()
    fall = (table.course[source, -2] - table.course[source, -1]) / (AGES[-1] - AGES[-2])
    table.slope[source] = fall.clamp(0, MOST_SLOPE)
    before = above[end - 8 : end].mean()
    after = above[end:][RELEASED]
    middle = sum((RELEASED.start, RELEASED.stop)) / 2
    table.release[source] = ((before - after.mean()) / middle).clamp(0, MOST_SLOPE)
