"""Measures where the partials of an example lie: the rows of one program in the vocoder's table.

Only notes that sound alone are measured. Each pitch of the table has the lines of the nearest pitch
that was measured; how the notes decay and swing stays as the table has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from spectro_render.constants import SAMPLE_RATE, WIN_LENGTH
from spectro_render.mel import log_mel
from spectro_render.midi.score import Note
from spectro_render.vocoder.harmonic_map import line_mel
from spectro_render.vocoder.lines import LOWEST_PITCH, NO_LINE, PITCH_STEP, PITCHES, LineTable

if TYPE_CHECKING:
    from spectro_render.training.timbre.example import Example

ATTACK = 0.06  # seconds of a note that are left out
SHORTEST, LONGEST = 0.15, 0.7  # seconds of a note that are measured
RINGING = 0.2  # seconds after its end in which a note may still be heard
PADDED = 1 << 15  # samples of a spectrum
ASIDE = 50.0  # cents from where the line before it leads, within which a line is searched
PROMINENCE = 15.0  # dB above the median of half a harmonic's distance around it
LEAST_LINES = 2  # among the first FIRST harmonics, or a sound has no harmonics
FIRST = 5
MOST_HZ = 7900.0
LEAST_NOISE = 0.1  # of the mel: what is no line is at least so much


class _Lines(NamedTuple):
    """The lines of a note, I of them: its harmonics."""

    above: Tensor  # (I,) semitones above the note's nominal pitch
    level: Tensor  # (I,) natural log of the magnitude at full velocity; NO_LINE where there is none
    noise: Tensor  # (M,) natural log-mel of what is no line
    tuning: float  # semitones by which the first ones lie off


def rows_of(table: LineTable, program: int) -> dict[str, Tensor]:
    """A program's rows (P, ...) of all columns of a table, by name."""
    rows = slice(PITCHES * program, PITCHES * (program + 1))
    return {name: column[rows].clone() for name, column in table.named_buffers()}


def fit_lines(table: LineTable, example: Example, start: int, gain: float) -> dict[str, Tensor]:
    """The rows (P, ...) of a program, for an example whose timbre plays the recordings of `start`.

    `gain` is that of the sound in dB. Without notes that sound alone and have harmonics, the rows
    are those of `start`.
    """
    rows = rows_of(table, start)
    samples = example.samples * 10 ** (gain / 20)
    found: dict[int, _Lines] = {}
    for note in sorted(_alone(example.notes), key=lambda each: each.end - each.start):
        lines = _measure(samples, note, table.level.shape[1])
        if lines is not None:
            found[note.pitch] = lines  # of several at a pitch the longest
    if not found:
        return rows
    tuning = torch.tensor([lines.tuning for lines in found.values()]).median()
    for place in range(PITCHES):
        pitch = LOWEST_PITCH + PITCH_STEP * place
        nearest = found[min(found, key=lambda known: abs(known - pitch))]
        above = nearest.above - tuning
        rows["semitones"][place] = above.round()
        rows["cents"][place] = 100 * (above - above.round())
        rows["level"][place], rows["noise"][place] = nearest.level, nearest.noise
    return rows


def _alone(notes: Sequence[Note]) -> list[Note]:
    """The notes during which no other sounds, long enough to be measured."""
    return [
        note
        for note in notes
        if note.end - note.start >= ATTACK + SHORTEST
        and not any(
            other is not note
            and other.start < note.end
            and other.end + RINGING > note.start + ATTACK
            for other in notes
        )
    ]


def _measure(samples: Tensor, note: Note, count: int) -> _Lines | None:
    """The lines of a note in samples (S,), `count` of them; None if it has no harmonics."""
    begin = note.start + ATTACK
    end = min(note.end, begin + LONGEST)
    part = samples[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    if len(part) < SHORTEST * SAMPLE_RATE:
        return None
    spectrum = torch.fft.rfft(part * torch.hann_window(len(part)), PADDED).abs()
    decibels = (20 * spectrum.clamp(min=1e-9).log10()).tolist()
    nominal = 440 * 2 ** ((note.pitch - 69) / 12)
    width = SAMPLE_RATE / PADDED
    around = max(2, round(nominal / 4 / width))
    off, hertz, peaks = 0.0, [], []  # semitones by which the last line lay off
    above = 12 * torch.arange(1, count + 1).log2()
    for number in range(1, count + 1):
        leads = number * nominal * 2 ** (off / 12)
        low, high = (round(leads * 2 ** (side * ASIDE / 1200) / width) for side in (-1, 1))
        if leads > MOST_HZ or high + around >= len(decibels):
            above[number - 1] += off
            continue
        place = max(range(low, high + 1), key=lambda k: decibels[k])
        left, middle, right = decibels[place - 1 : place + 2]
        floor = median(decibels[max(0, place - around) : place + around + 1])
        is_peak = middle >= left and middle >= right and middle > floor + PROMINENCE
        if is_peak:
            bend = min(left - 2 * middle + right, -1e-6)
            exact = (place + 0.5 * (left - right) / bend) * width
            off = 12 * math.log2(exact / (number * nominal))
            hertz.append(exact)
            peaks.append((number, float(spectrum[place])))
        above[number - 1] += off
    if sum(number <= FIRST for number, _ in peaks) < LEAST_LINES:
        return None
    loudness = (127 / note.velocity) ** 2
    level = torch.full((count,), NO_LINE)
    heights = torch.tensor([height for _, height in peaks]) * (loudness * WIN_LENGTH / len(part))
    level[torch.tensor([number - 1 for number, _ in peaks])] = heights.log()
    mel = (log_mel(part).exp() * loudness).square().mean(0)  # (M,) powers
    tonal = (heights[:, None] * line_mel(torch.tensor(hertz))).square().sum(0)
    noise = (mel - tonal).maximum(LEAST_NOISE**2 * mel).clamp(min=1e-12).sqrt().log()
    lowest = torch.tensor([number - 1 for number, _ in peaks if number <= FIRST])
    tuning = float((above - 12 * torch.arange(1, count + 1).log2())[lowest].median())
    return _Lines(above, level, noise, tuning)
