"""Fits the timbre of one program to a sound: vectors of its keys, nothing else.

The curves of notes stay as they are. First the program is searched whose notes are most like the
sound's; the timbre plays its recordings. Then its vectors are changed by gradient descent until the
curves of the sound's notes, whose powers add up, give the sound's mel. A change is the same for all
keys, or differs smoothly from key to key, so that keys which the sound does not have follow those
which it has. N notes, P pairs of a note and a frame in which it sounds, T frames, M = 128 bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import (
    FRAME_RATE,
    LOG_MEL_MIN,
    MEL_FLOOR,
    N_MELS,
    SAMPLE_RATE,
    STEPS_PER_SECOND,
    WIN_LENGTH,
)
from spectro_render.mel import log_mel
from spectro_render.network.curves import (
    DRUM_KIT,
    KEYS,
    LEAD,
    RINGING,
    SILENT,
    STEPS_PER_FRAME,
    NoteCurves,
    Timbre,
)
from spectro_render.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from spectro_render.training.timbre.example import Example

STEPS = 200  # of gradient descent
RATE, WARMUP = 0.03, 10  # of Adam; steps until it is reached
FALLING = 0.6  # share of the steps, at the end, in which the rate falls to zero
PAIRS = 600  # of notes and frames in a step, about
APART = 6  # semitones between the pitches at which changes are free
COMMON_WEIGHT, OWN_WEIGHT, CURVATURE = 1e-3, 3e-3, 3e-2  # of the squares of changes, in the loss
SEARCH_FRAMES = 64  # on which programs are compared
OWN_FACTOR = 1.05  # another program has to be better than the program itself by so much
SMOOTH = 8.0  # bands over which the difference of two spectra is averaged in this comparison
HEARD = LOG_MEL_MIN + 1.0  # natural log-mel from which bands count in it
FAINT = LOG_MEL_MIN - 0.3  # natural log-mel: notes softer than this are left out of the descent
YOUNG = 30  # steps for which no note is left out
SILENCE = LOG_MEL_MIN + 0.1  # natural log-mel: below, a note may be as soft as it likes
RESTED = 50  # steps after all notes from which a frame shows the noise of the sound
LEAST_RESTED = 5  # frames


class _Pairs(NamedTuple):
    """Which notes sound in which frames: (P,) int64 each."""

    note: Tensor
    frame: Tensor
    age: Tensor  # steps
    rest: Tensor  # steps since the note's end

    def where(self, kept: Tensor) -> _Pairs:
        return _Pairs(*(part[kept] for part in self))


@dataclass(frozen=True, eq=False)
class Fitted:
    """A timbre, and how it came about."""

    timbre: Timbre
    start: int  # the program whose recordings it plays
    gain: float  # dB by which the sound was amplified
    before: float  # mean absolute error of log-mels of the sound, as the program was, in nats
    after: float  # and as it is


class _Sound:
    """The notes and the mel of an example, in the numbers of the curves."""

    def __init__(self, curves: NoteCurves, vocabulary: Vocabulary, example: Example) -> None:
        self.curves, self.samples = curves, example.samples
        self.mel = log_mel(example.samples)  # (T, M)
        rows = [
            (note.pitch, vocabulary.velocity_bin(note.velocity), *_steps(note.start, note.end))
            for note in example.notes
        ]
        self.pitch, self.velocity, onset, end = torch.tensor(rows).unbind(1)
        middle = STEPS_PER_FRAME * torch.arange(1, len(self.mel) + 1)
        age, rest = middle - onset[:, None], middle - end[:, None]
        sounds = (age >= -LEAD) & (rest <= RINGING)
        note, frame = sounds.nonzero(as_tuple=True)
        self.pairs = _Pairs(note, frame, age[note, frame], rest[note, frame])
        self.held = ((age >= 0) & (rest < 0)).any(0)  # (T,)
        self.rests = ((rest > RESTED) | (age < -LEAD)).all(0)  # (T,)
        self.noise = self._noise()
        # Frames (F,) without notes that could not be found.
        frames = torch.arange(len(self.mel))
        for first, last in example.unclear:
            seconds = frames / FRAME_RATE
            frames = frames[(seconds < first - WIN_LENGTH / SAMPLE_RATE) | (seconds > last)]
        self.known = frames

    def _noise(self) -> Tensor:
        """The natural log-mel (M,) of what sounds while no note does, at least SILENCE."""
        if self.rests.sum() < LEAST_RESTED:
            return torch.full((N_MELS,), SILENCE)
        return self.mel[self.rests].median(0).values.clamp(min=SILENCE)

    def amplify(self, nats: float) -> None:
        """Make the sound louder."""
        self.mel = log_mel(self.samples * math.exp(nats))
        self.noise = self._noise()

    def log_mels(self, timbre: Timbre, pairs: _Pairs) -> Tensor:
        """Natural log-mels (P, M) of the pairs' notes with a timbre."""
        times = torch.stack([pairs.age, pairs.rest], 1)
        program = torch.zeros_like(self.pitch)
        return self.curves.log_mels(program, self.pitch, self.velocity, pairs.note, times, timbre)

    def draw(self, timbre: Timbre, pairs: _Pairs, frames: Tensor) -> Tensor:
        """The natural log-mel (F, M) of frames (F,), given all the pairs of these frames."""
        place = torch.full((len(self.mel),), -1)
        place[frames] = torch.arange(len(frames))
        power = (2 * self.log_mels(timbre, pairs)).exp()
        total = power.new_zeros(len(frames), N_MELS).index_add(0, place[pairs.frame], power)
        return 0.5 * (total + MEL_FLOOR**2).log()

    def pairs_in(self, frames: Tensor, pairs: _Pairs | None = None) -> _Pairs:
        """The pairs in frames (F,)."""
        pairs = self.pairs if pairs is None else pairs
        chosen = torch.zeros(len(self.mel), dtype=torch.bool)
        chosen[frames] = True
        return pairs.where(chosen[pairs.frame])

    def error(self, drawn: Tensor, frames: Tensor) -> Tensor:
        """The mean absolute error of a log-mel (F, M), in nats; what is soft need not be there."""
        wanted = self.mel[frames]
        off = drawn - torch.maximum(wanted, self.noise)
        return torch.where(wanted > self.noise, (drawn - wanted).abs(), off.relu()).mean()


def fit(
    curves: NoteCurves,
    vocabulary: Vocabulary,
    example: Example,
    program: int,
    *,
    keep_level: bool = False,
    steps: int = STEPS,
) -> Fitted:
    """Fit the timbre of a program to an example, in `steps` steps of gradient descent.

    The sound is brought to the loudness that the program has with the same notes, unless the level
    is kept.
    """
    sound = _Sound(curves, vocabulary, example)
    every = sound.known
    with torch.no_grad():
        own = without_gaps(curves.timbre_of(program))
        before = sound.draw(own, sound.pairs_in(every), every)
        nats = 0.0 if keep_level else _louder(before, sound)
        sound.amplify(nats)
        start = _most_alike(sound, program)
        base = without_gaps(curves.timbre_of(start))
        loudest = sound.log_mels(base, sound.pairs).amax(1)
        pairs = sound.pairs.where((loudest > FAINT) | (sound.pairs.age < YOUNG))
        pairs = sound.pairs_in(every, pairs)
    change = _Change(sound.pitch, base.vectors.shape[1])
    optimizer = torch.optim.Adam(change.parts, lr=RATE, betas=(0.9, 0.98))
    source = torch.Generator().manual_seed(0)
    count = max(1, min(len(every), round(PAIRS * len(every) / max(1, len(pairs.note)))))
    for step in range(steps):
        falling = (steps - step) / (FALLING * steps)
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARMUP, falling)
        frames = every[torch.randperm(len(every), generator=source)[:count]]
        timbre = base._replace(vectors=base.vectors + change.of_keys())
        drawn = sound.draw(timbre, sound.pairs_in(frames, pairs), frames)
        loss = sound.error(drawn, frames) + change.size()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        timbre = base._replace(vectors=base.vectors + change.of_keys())
        after = sound.draw(timbre, sound.pairs_in(every), every)
        errors = [float(sound.error(drawn, every)) for drawn in (before, after)]
    return Fitted(timbre, start, nats * 20 / math.log(10), *errors)


class _Change:
    """What is added to the vectors of keys: the same to all, and more at some pitches."""

    def __init__(self, pitch: Tensor, width: int) -> None:
        points = torch.arange(float(pitch.min()), float(pitch.max()) + APART, APART)
        keys = torch.arange(float(KEYS)).clamp(points[0], points[-1])
        self.shares = (1 - (keys[:, None] - points).abs() / APART).clamp(min=0)  # (128, points)
        self.common = torch.zeros(width, requires_grad=True)
        self.own = torch.zeros(len(points), width, requires_grad=True)
        self.parts = [self.common, self.own]

    def of_keys(self) -> Tensor:
        """The changes (128, W) of the vectors of all keys."""
        return self.common + self.shares @ self.own

    def size(self) -> Tensor:
        """What a loss has added to it, so that changes are small and smooth."""
        squares = COMMON_WEIGHT * self.common.square().sum()
        squares = squares + OWN_WEIGHT * self.own.square().sum()
        return squares + CURVATURE * self.own.diff(dim=0).square().sum()


def _steps(start: float, end: float) -> tuple[int, int]:
    first = round(start * STEPS_PER_SECOND)
    return first, max(first + 1, round(end * STEPS_PER_SECOND))


def _louder(drawn: Tensor, sound: _Sound) -> float:
    """Nats by which the mel has to become louder to be as loud as `drawn` (T, M) while it plays."""
    level = [0.5 * (2 * mel).exp().sum(1).log() for mel in (drawn, sound.mel[sound.known])]
    return float((level[0] - level[1])[sound.held[sound.known]].median())


def without_gaps(timbre: Timbre) -> Timbre:
    """A timbre whose silent keys sound as the nearest one does that is not silent."""
    is_heard = (timbre.recording != SILENT).all(1)
    known = is_heard.nonzero()[:, 0]
    if not 0 < len(known) < KEYS:
        return timbre
    keys = torch.arange(KEYS)
    nearest = known[(keys[:, None] - known).abs().argmin(1)]
    faster = 2 ** ((keys - nearest) / 12)
    return Timbre(
        timbre.vectors[nearest], timbre.recording[nearest], timbre.ratio[nearest] * faster[:, None]
    )


def _most_alike(sound: _Sound, program: int) -> int:
    """The program whose notes come nearest to the sound, when their spectra are balanced alike."""
    held = sound.known[sound.held[sound.known]]
    number = min(SEARCH_FRAMES, len(held))
    frames = held[torch.linspace(0, len(held) - 1, number).round().long()]
    pairs, wanted = sound.pairs_in(frames), sound.mel[frames]
    reach = torch.arange(-round(2 * SMOOTH), round(2 * SMOOTH) + 1)
    kernel = torch.exp(-0.5 * (reach / SMOOTH) ** 2)[None, None]
    is_heard = (wanted > HEARD).float()
    errors = {}
    for each in range(DRUM_KIT):
        if not (sound.curves.recording[each] != SILENT).all(1).any():
            continue
        drawn = sound.draw(without_gaps(sound.curves.timbre_of(each)), pairs, frames)
        sums = torch.stack([((wanted - drawn) * is_heard).sum(0), is_heard.sum(0) + 1e-3])
        off, weight = F.conv1d(sums[:, None], kernel, padding=len(reach) // 2)[:, 0]
        errors[each] = float(sound.error(drawn + off / weight, frames))
    if program not in errors:
        return min(errors, key=lambda each: errors[each])
    errors[program] /= OWN_FACTOR
    return min(errors, key=lambda each: errors[each])
