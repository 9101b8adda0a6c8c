"""The sound of the band from 7.4 to 20 kHz: noise in the shape of a predicted envelope.

It is made up, not rendered, as a mel says nothing about it. Noise depends on the seed and the time
alone, and envelopes are computed for the same blocks of frames, so the sound is the same however
its pieces are cut. T mel frames, E = 4 T steps of 5 ms, B bands.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectro_render.constants import FULL_RATE, LOG_MEL_MIN, N_MELS, SAMPLE_RATE
from spectro_render.vocoder.band import (
    CONTEXT,
    FULL_HOP,
    HIGHEST_HZ,
    LOWEST_HZ,
    NEAR,
    STEP,
    STEPS,
    WINDOW,
    HighBand,
    band_shares,
)
from spectro_render.vocoder.streaming import StreamingVocoder

BLOCK = 64  # frames whose envelope is computed at once; others would round differently
JOINED_HZ = 7720.0  # from LOWEST_HZ to here resampling from 16 kHz loses the sound, as measured
END_HZ = 20_500.0  # from HIGHEST_HZ to here the noise fades out


class BandStream:
    """Makes the band's sound from a long mel, piece by piece."""

    def __init__(self, network: HighBand, notes: Tensor | None, seed: int = 0) -> None:
        """`notes` are those of the whole signal, (N, 5), as `harmonic_map` describes them."""
        self._network, self._notes, self._seed = network, notes, seed
        # The frames that envelopes are still needed of, from CONTEXT before frame `_done` on.
        self._frames = torch.full((CONTEXT, N_MELS), LOG_MEL_MIN)
        self._done = 0  # frames of which the envelope is known
        self._tail = torch.zeros(STEP)  # what the last step adds to the next samples
        self._begun = False

    def push(self, log_mel: Tensor) -> Tensor:
        """Add the next frames (T, 128) of a natural log-mel; returns the finished samples (S,)."""
        self._frames = torch.cat([self._frames, log_mel.float().cpu()])
        pieces = [torch.zeros(0)]
        while len(self._frames) >= BLOCK + 2 * CONTEXT - 1:
            pieces.append(self._make(self._frames[: BLOCK + 2 * CONTEXT - 1], BLOCK))
            self._frames = self._frames[BLOCK:]
        return torch.cat(pieces)

    def flush(self) -> Tensor:
        """Return the samples (S,) that are left. Together there are 960 for each frame."""
        pieces = [torch.zeros(0)]
        while (left := len(self._frames) - CONTEXT) > 0:
            whole = self._frames.new_full((BLOCK + 2 * CONTEXT - 1, N_MELS), LOG_MEL_MIN)
            known = min(len(whole), len(self._frames))
            whole[:known] = self._frames[:known]
            pieces.append(self._make(whole, min(left, BLOCK)))
            self._frames = self._frames[BLOCK:]
        return torch.cat([*pieces, self._tail[: STEP // 2]])

    @torch.inference_mode()
    def _make(self, frames: Tensor, count: int) -> Tensor:
        """The next samples, of `count` frames, from the mel of a whole block and its context."""
        expected = None
        if self._notes is not None:
            first, steps = (self._done - NEAR) * STEPS, (BLOCK + 2 * NEAR) * STEPS
            expected = self._network.table.expect(self._notes, first, steps)
        envelope = self._network(frames, expected)[: count * STEPS]
        first = self._done * STEPS
        self._done += count
        # Step k reaches from half a step before its 240 samples to half a step after them.
        shaped = shape_noise(noise(self._seed, first * STEP, (len(envelope) + 1) * STEP), envelope)
        shaped[:STEP] += self._tail
        samples, self._tail = shaped[:-STEP], shaped[-STEP:]
        if not self._begun:
            self._begun = True
            return samples[STEP // 2 :]
        return samples


def noise(seed: int, first: int, count: int) -> Tensor:
    """Samples (S,) of white noise of this seed, the same ones wherever a piece begins."""
    begin, end = first // FULL_HOP, -(-(first + count) // FULL_HOP)
    parts = [
        np.random.Generator(np.random.Philox(key=[seed, block])).standard_normal(
            FULL_HOP, np.float32
        )
        for block in range(begin, end)
    ]
    start = first - begin * FULL_HOP
    return torch.from_numpy(np.concatenate(parts)[start : start + count])


def shape_noise(white: Tensor, envelope: Tensor) -> Tensor:
    """Noise (240 (E + 1),) whose spectrum follows an envelope (E, B), from white noise as long.

    The frames of neighbouring steps overlap by half; their windows' squares add up to 1.
    """
    window = torch.hann_window(WINDOW).sqrt()
    spectrum = torch.fft.rfft(white.unfold(0, WINDOW, STEP) * window)
    shares, weight = _bins()
    frames = torch.fft.irfft(spectrum * (weight * (envelope @ shares.T).exp())) * window
    shaped = torch.zeros(len(envelope) + 1, STEP)
    shaped[:-1] += frames[:, :STEP]
    shaped[1:] += frames[:, STEP:]
    return shaped.flatten()


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _bins() -> tuple[Tensor, Tensor]:
    """The shares (K, B) of the bands in each frequency, and its weight (K,) beside the mel's sound.

    Where resampling leaves a part of the sound, powers add up to one.
    """
    hertz = torch.linspace(0, FULL_RATE / 2, WINDOW // 2 + 1)
    begins = ((hertz - LOWEST_HZ) / (JOINED_HZ - LOWEST_HZ)).clamp(0, 1)
    ends = ((END_HZ - hertz) / (END_HZ - HIGHEST_HZ)).clamp(0, 1)
    weight = torch.sin(torch.pi / 2 * begins) * torch.sin(torch.pi / 2 * ends)
    return band_shares(hertz.clamp(LOWEST_HZ, HIGHEST_HZ)), weight


class FullBandVocoder:
    """A vocoder's sound of a long mel, resampled to 48 kHz, with the band above it."""

    def __init__(self, vocoder: StreamingVocoder, band: BandStream) -> None:
        import soxr

        self._vocoder, self._band = vocoder, band
        self._resampler: Any = soxr.ResampleStream(SAMPLE_RATE, FULL_RATE, 1, "float32", "VHQ")
        self._low = self._high = torch.zeros(0)  # samples that wait for those of the other part

    def push(self, log_mel: Tensor) -> Tensor:
        """Add the next frames (T, 128) of a natural log-mel; returns the finished samples (S,)."""
        self._resample(self._vocoder.push(log_mel), last=False)
        self._high = torch.cat([self._high, self._band.push(log_mel)])
        return self._take(min(len(self._low), len(self._high)))

    def rest(self, frames: int, device: torch.device) -> Tensor:
        """Add silent frames as `StreamingVocoder.rest` does; returns the finished samples (S,)."""
        self._resample(self._vocoder.rest(frames, device), last=False)
        silence = torch.full((frames, N_MELS), LOG_MEL_MIN)
        self._high = torch.cat([self._high, self._band.push(silence)])
        return self._take(min(len(self._low), len(self._high)))

    def flush(self) -> Tensor:
        """Return the samples (S,) that are left."""
        self._resample(self._vocoder.flush(), last=True)
        self._high = torch.cat([self._high, self._band.flush()])
        return self._take(len(self._high))

    def _resample(self, samples: Tensor, *, last: bool) -> None:
        made = self._resampler.resample_chunk(samples.cpu().numpy(), last=last)
        if last:  # Python may end before it is collected; nanobind complains of that
            self._resampler = None
        self._low = torch.cat([self._low, torch.from_numpy(made)])

    def _take(self, count: int) -> Tensor:
        joined = self._low[:count] + self._high[:count]
        self._low, self._high = self._low[count:], self._high[count:]
        return joined
