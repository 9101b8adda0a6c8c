"""The band from 7.4 to 20 kHz, which mels do not hold: a network that predicts its envelope.

    notes -> levels expected of their sources (`BandTable`) -+
    log-mel, its upper bands finer than the lower ones ------+-> network -> envelope

The envelope has four steps of 5 ms in each mel frame, so that attacks are not smeared over the
20 ms of a frame: the notes say when they begin. `band_sound` makes the sound, of noise.

T mel frames, E = 4 T steps, B bands, N notes (rows as in `harmonic_map`), S sources.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectro_render.constants import FULL_RATE, HOP_LENGTH, N_MELS, SAMPLE_RATE
from spectro_render.mel import hz_to_mel, to_model
from spectro_render.vocoder.lines import (
    DRUM_KIT,
    HIGHEST_PITCH,
    LOWEST_PITCH,
    PROGRAMS,
)

FULL_HOP = HOP_LENGTH * FULL_RATE // SAMPLE_RATE  # 960 samples in a mel frame's 20 ms
STEPS = 4  # of the envelope in a mel frame
STEP = FULL_HOP // STEPS  # 240 samples
WINDOW = 2 * STEP  # of the spectra from which the envelope is measured
BANDS = 14
LOWEST_HZ, HIGHEST_HZ = 7400.0, 20_000.0  # centres of the first and the last band
FLOOR = -15.0  # natural log of the softest envelope, about -130 dBFS
SPLIT = 80  # mel bands below this one are given to the network as means of POOLED bands
POOLED = 4
CONTEXT = 3  # mel frames before and after a frame's first sample that the network sees
NEAR = 1  # frames before and after a frame whose expected levels the network sees
CENTRE, DEVIATION = -9.0, 4.0  # rough mean and deviation of envelopes

PITCH_STEP = 6  # semitones between the pitches that are measured
PITCHES = (HIGHEST_PITCH - LOWEST_PITCH) // PITCH_STEP + 1
MELODIC_SOURCES = PROGRAMS * PITCHES
SOURCES = MELODIC_SOURCES + 128  # then one for each drum sound
AGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 192)  # steps after an onset at which levels are known
LONGEST = 400  # steps after its onset, or after its offset, in which a note counts


@dataclass(frozen=True)
class BandConfig:
    """The shape of the network, as stored in a model directory's config.json."""

    width: int = 96  # of its two hidden layers

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, for JSON."""
        return asdict(self)


class BandTable(nn.Module):
    """How loud a note of each source is in each band, and how that develops.

    Levels are natural logarithms, as those of `band_envelope`, for a note at full velocity.
    """

    level: Tensor  # (S, B) of the loudest steps
    course: Tensor  # (S, A) at each of AGES, added to all bands
    slope: Tensor  # (S,) by which levels fall in a step after the last of AGES
    release: Tensor  # (S,) by which they fall in a step after a note's end; drums: 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.full((SOURCES, BANDS), FLOOR))
        self.register_buffer("course", torch.zeros(SOURCES, len(AGES)))
        self.register_buffer("slope", torch.full((SOURCES,), 0.02))
        self.register_buffer("release", torch.full((SOURCES,), 0.05))

    def expect(self, notes: Tensor, first: int, steps: int) -> Tensor:
        """Levels (E, B) that the notes (N, 5) make together in `steps` steps from `first` on.

        Steps count from time 0, to which the notes' times in frames refer.
        """
        program, pitch, velocity, onset, offset = notes.unbind(1)
        source = band_source(program.long(), pitch.long())
        onset, offset = onset * STEPS, offset * STEPS
        is_drum = program == DRUM_KIT
        end = torch.where(is_drum, onset, offset) + LONGEST
        begin = (onset - 1).floor().clamp(min=first).long()
        counts = (end.ceil().clamp(max=first + steps).long() - begin).clamp(min=0)
        note = torch.repeat_interleave(torch.arange(len(notes)), counts)
        step = torch.arange(len(note)) - (counts.cumsum(0) - counts)[note] + begin[note]
        age = step - onset[note] + 0.5  # of the middle of the step
        level = self._course(source[note], age) + 2 * velocity[note].clamp(min=1e-3).log()
        rest = torch.where(is_drum[note], torch.zeros_like(age), step + 0.5 - offset[note])
        level = level - rest.clamp(min=0) * self.release[source[note]]
        power = (2 * (level.float()[:, None] + self.level.index_select(0, source[note]))).exp()
        total = torch.full((steps, BANDS), float(torch.tensor(2 * FLOOR).exp()))
        return 0.5 * total.index_add_(0, step - first, power).log()

    def _course(self, source: Tensor, age: Tensor) -> Tensor:
        """The level (Q,) of sources at these ages in steps, relative to their loudest steps."""
        known = torch.tensor(AGES, dtype=age.dtype)
        place = torch.bucketize(age, known).clamp(1, len(AGES) - 1)
        low, high = known[place - 1], known[place]
        share = ((age - low) / (high - low)).clamp(0, 1)
        before, after = self.course[source, place - 1], self.course[source, place]
        level = before + share * (after - before)
        level = level - (age - known[-1]).clamp(min=0) * self.slope[source]
        # Half of the first window may lie before the onset.
        return level + (age + 1).clamp(1e-3, 1).log()


def band_source(program: Tensor, pitch: Tensor) -> Tensor:
    """The sources of notes, rows of the table, given their programs and pitches, (N,) int64."""
    step = (pitch.clamp(LOWEST_PITCH, HIGHEST_PITCH) - LOWEST_PITCH + PITCH_STEP // 2) // PITCH_STEP
    melodic = program.clamp(max=PROGRAMS - 1) * PITCHES + step.clamp(max=PITCHES - 1)
    return torch.where(program == DRUM_KIT, MELODIC_SOURCES + pitch.clamp(0, 127), melodic)


class HighBand(nn.Module):
    """Predicts the envelope of the band that a mel does not hold."""

    def __init__(self, config: BandConfig) -> None:
        super().__init__()
        self.config = config
        self.table = BandTable()
        mels = 2 * CONTEXT * (SPLIT // POOLED + N_MELS - SPLIT)
        expected = (2 * NEAR + 1) * STEPS * BANDS
        self.seen = nn.Linear(mels + expected + 1, config.width)
        self.hidden = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, STEPS * BANDS)
        self.direct = nn.Linear(expected, STEPS * BANDS, bias=False)
        nn.init.zeros_(self.direct.weight)

    def forward(self, log_mel: Tensor, expected: Tensor | None) -> Tensor:
        """The envelope (..., 4 T, B) of T frames.

        `log_mel` (..., T + 5, 128) is natural and has 3 frames before the first frame and 2 after
        the last one; `expected` (..., 4 (T + 2), B) has a frame more at either end, and is None
        where the notes are not known.
        """
        scaled = to_model(log_mel)
        low = F.avg_pool1d(scaled[..., :SPLIT].flatten(0, -2), POOLED).view(*scaled.shape[:-1], -1)
        mels = torch.cat([low, scaled[..., SPLIT:]], -1).unfold(-2, 2 * CONTEXT, 1).flatten(-2)
        if expected is None:
            shape = (*mels.shape[:-1], self.direct.in_features)
            levels, known = mels.new_zeros(shape), mels.new_zeros(*shape[:-1], 1)
        else:
            rows = ((expected - CENTRE) / DEVIATION).reshape(
                *expected.shape[:-2], -1, STEPS * BANDS
            )
            levels = rows.unfold(-2, 2 * NEAR + 1, 1).flatten(-2)
            known = mels.new_ones(*mels.shape[:-1], 1)
        features = F.gelu(self.seen(torch.cat([mels, levels, known], -1)))
        features = F.gelu(self.hidden(features))
        made = self.output(features) + self.direct(levels)
        envelope = CENTRE + DEVIATION * made.reshape(*made.shape[:-2], -1, BANDS)
        return envelope.clamp(FLOOR, 0.0)


def band_envelope(samples: Tensor) -> Tensor:
    """The envelope (4 T, B) of samples (960 T,) at 48 kHz: natural log of levels, 5 ms apart.

    White noise with a standard deviation of 1 has the level 0 in all bands.
    """
    padded = F.pad(samples, (STEP // 2, WINDOW))
    steps = samples.shape[-1] // STEP
    frames = padded.unfold(-1, WINDOW, STEP)[..., :steps, :]
    window = torch.hann_window(WINDOW)
    power = torch.fft.rfft(frames * window).abs().square() / window.square().sum()
    weights = _band_weights()
    return (power @ weights / weights.sum(0)).clamp(min=1e-30).log().mul(0.5).clamp(min=FLOOR)


def band_centres_hz() -> Tensor:
    """The centres of the bands in Hz, (B,), evenly spaced in mel."""
    lowest, highest = hz_to_mel(torch.tensor([LOWEST_HZ, HIGHEST_HZ], dtype=torch.float64))
    return 700 * torch.expm1(torch.linspace(float(lowest), float(highest), BANDS) / 1127)


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _band_weights() -> Tensor:
    """Weights of the 241 frequencies of a step's spectrum in each band, triangles, (K, B)."""
    return band_shares(torch.linspace(0, FULL_RATE / 2, WINDOW // 2 + 1))


def band_shares(hertz: Tensor) -> Tensor:
    """How a frequency (K,) lies between the bands, (K, B): rows sum to 1 between the centres."""
    centres = hz_to_mel(band_centres_hz())
    place = (hz_to_mel(hertz.double()) - centres[0]) / (centres[1] - centres[0])
    return (1 - (place[:, None] - torch.arange(BANDS)).abs()).clamp(min=0).float()
