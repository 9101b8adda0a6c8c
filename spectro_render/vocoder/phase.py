"""Estimates phases for a magnitude spectrogram, which a sound needs and a mel does not have.

    magnitudes -> partial tracks -> start phases -> a few consistency iterations -> samples

Everything is local: a frame's phases depend on a bounded number of frames around it, so that a
long spectrogram can be turned into sound piece by piece. B batch, T frames, K bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import HOP_LENGTH

# Fast Griffin-Lim (Perraudin, Balazs, Sondergaard 2013): 0.99 is their choice, and the best here.
MOMENTUM = 0.99
# At the ends of a signal, where the overlap is less than this share of the full one, the sound
# fades instead of being divided by almost zero.
MIN_OVERLAP = 0.1
GOLDEN_RATIO = 0.6180339887


class Stft:
    """A short-time Fourier transform with a Hann window, whose frames are centred like the mel's.

    The centre of frame 0 lies at sample 320 of the signal.
    """

    def __init__(self, window: int, hop: int, n_fft: int) -> None:
        """`window` samples in a frame, a multiple of 640; `hop` samples, a divisor of 320.

        Raises ValueError for others, and for an FFT shorter than the window.
        """
        if window % (2 * HOP_LENGTH) or n_fft < window or HOP_LENGTH % hop:
            raise ValueError(f"no STFT with window {window}, hop {hop}, FFT {n_fft}")
        self.window, self.hop, self.n_fft = window, hop, n_fft
        self.bins = n_fft // 2 + 1
        self.overlap = window // hop
        self.lead = window // 2 - HOP_LENGTH  # samples of frame 0 that lie before the signal
        self._hann = torch.hann_window(window)
        self._known: tuple[object, Tensor] | None = None  # the last answer of `_overlap`

    def analyse(self, samples: Tensor) -> Tensor:
        """Samples (B, (T - 1) hop + window) -> complex spectrum (B, T, K)."""
        frames = samples.unfold(-1, self.window, self.hop)
        spectrum: Tensor = torch.fft.rfft(frames * self._hann.to(samples), self.n_fft)
        return spectrum

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """Least-squares inverse of `analyse`: (B, T, K) -> (B, (T - 1) hop + window)."""
        frames = torch.fft.irfft(spectrum, self.n_fft)[..., : self.window]
        return self._overlap_add(frames * self._hann.to(frames)) / self._overlap(frames)

    def _overlap(self, like: Tensor) -> Tensor:
        """The sum of the squared windows at each of the S samples of T frames, (1, S)."""
        key, known = (like.shape[1], like.device, like.dtype), self._known
        if known is None or known[0] != key:  # read once: other threads may replace it
            squares = self._hann.to(like).square()
            weight = self._overlap_add(squares.expand(1, like.shape[1], -1))
            full = float(squares.sum()) / self.hop
            known = self._known = key, weight.clamp(min=MIN_OVERLAP * full)
        return known[1]

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Add up overlapping frames: (B, T, window) -> (B, (T - 1) hop + window)."""
        blocks = frames.reshape(*frames.shape[:2], self.overlap, self.hop)
        length = blocks.shape[1]
        samples = blocks.new_zeros(len(blocks), length + self.overlap - 1, self.hop)
        for i in range(self.overlap):
            samples[:, i : i + length] += blocks[:, :, i]
        return samples.flatten(1)

    def crop(self, samples: Tensor, length: int) -> Tensor:
        """Cut the signal, (B, length), out of the samples that `synthesise` returns."""
        return samples[..., self.lead : self.lead + length]

    def reach(self, iterations: int) -> tuple[int, int]:
        """The numbers of frames before and after frame t on which block t of the samples depends.

        A block is `hop` samples of the signal, made with `iterations` of Griffin-Lim.
        """
        before = (self.window - 1 - self.lead) // self.hop
        after = (self.lead + self.hop - 1) // self.hop
        spread = iterations * (self.overlap - 1)
        return before + spread, after + spread


def sound(magnitude: Tensor, phasor: Tensor, stft: Stft, iterations: int) -> Tensor:
    """Magnitudes and start phasors (B, T, K) -> samples (B, (T - 1) hop + window).

    It is differentiable with respect to the magnitudes; the phases count as constants.
    """
    with torch.no_grad():
        phasor = make_consistent(magnitude, phasor, stft, iterations)
    return stft.synthesise(magnitude * phasor)


def make_consistent(magnitude: Tensor, phasor: Tensor, stft: Stft, iterations: int) -> Tensor:
    """Bring phasors (B, T, K) nearer to those of a real signal, by accelerated Griffin-Lim."""
    previous: Tensor | None = None
    for _ in range(iterations):
        rebuilt = stft.analyse(stft.synthesise(magnitude * phasor))
        leap = rebuilt if previous is None else rebuilt.lerp(previous, -MOMENTUM)
        phasor = leap.sgn()
        previous = rebuilt
    return phasor


def steady_partials(magnitude: Tensor, stft: Stft, segment: int) -> Tensor:
    """Start phasors (B, T, K) for magnitudes (B, T, K), as if they came from steady partials.

    Every spectral peak is taken for a partial: its bins share the peak's phase, and the phase
    advances with the peak's frequency (Beauregard, Harish and Wyse, Single pass spectrogram
    inversion, 2015). That advance is summed within segments of `segment` frames only, forwards
    from a fixed phase at the segment's first frame and backwards from a fixed phase at the next
    segment's first frame; the difference is spread evenly, which detunes the partial by at most
    half a turn in a segment.
    """
    owner, advance = _partials(magnitude, stft)
    frames = magnitude.shape[1]
    padding = -frames % segment + 1
    owner = torch.cat([owner, owner[:, -1:].expand(-1, padding, -1)], 1)
    advance = torch.cat([advance, advance[:, -1:].expand(-1, padding, -1)], 1)
    turns = _bridge(owner, advance, segment)[:, :frames]
    bins = torch.arange(stft.bins, device=magnitude.device)
    at_first_sample = turns - (bins * stft.window / stft.n_fft / 2) % 1
    return torch.polar(torch.ones_like(magnitude), 2 * torch.pi * at_first_sample)


def _partials(magnitude: Tensor, stft: Stft) -> tuple[Tensor, Tensor]:
    """The peak nearest to each bin, and each bin's phase advance in turns a frame; (B, T, K) each.

    The advance of a peak is that of its interpolated frequency: where the parabola through the
    logarithms of three magnitudes has its top.
    """
    bins = torch.arange(stft.bins, device=magnitude.device)
    log = F.pad(magnitude.clamp(min=1e-7).log(), (1, 1), value=-20.0)
    left, middle, right = log[..., :-2], log[..., 1:-1], log[..., 2:]
    is_peak = (middle >= left) & (middle > right)
    curvature = (left - 2 * middle + right).clamp(max=-1e-6)
    offset = (0.5 * (left - right) / curvature).clamp(-0.5, 0.5)
    advance = (bins * stft.hop / stft.n_fft) % 1 + offset * stft.hop / stft.n_fft

    far = 4 * stft.bins
    below = torch.where(is_peak, bins, -far).cummax(-1).values
    above = torch.where(is_peak, bins, far).flip(-1).cummin(-1).values.flip(-1)
    owner = torch.where(bins - below <= above - bins, below, above)
    return owner.clamp(0, stft.bins - 1), advance


def _bridge(owner: Tensor, advance: Tensor, segment: int) -> Tensor:
    """Sum the advances between fixed phases; (B, n segment + 1, K) -> turns (B, n segment, K)."""
    batch, _, bins = owner.shape
    index = torch.arange(bins, device=owner.device)
    fixed = (GOLDEN_RATIO * index * index / 2) % 1  # scattered: equal phases would make a pulse
    anchors = fixed[owner[:, ::segment]]
    here = [x[:, :-1].reshape(batch, -1, segment, bins).unbind(2) for x in (owner, advance)]
    after = [x[:, 1:].reshape(batch, -1, segment, bins).unbind(2) for x in (owner, advance)]

    forward = [anchors[:, :-1]]
    for peak, step in zip(here[0][1:], here[1][1:], strict=True):
        forward.append((forward[-1] + step).gather(-1, peak) % 1)
    backward = [anchors[:, 1:]]
    for peak, step in zip(reversed(here[0]), reversed(after[1]), strict=True):
        backward.append((backward[-1] - step).gather(-1, peak) % 1)

    start, end = torch.stack(forward, 2), torch.stack(backward[:0:-1], 2)
    gap = (end - start + 0.5) % 1 - 0.5
    share = torch.arange(segment, device=owner.device)[:, None] / segment
    return (start + share * gap).flatten(1, 2)
