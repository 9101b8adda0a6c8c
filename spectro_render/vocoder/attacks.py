"""Makes the onsets of notes as sudden as they are, where the vocoder's frames have smeared them.

Magnitudes are found for frames of 80 ms, so a note is heard up to 60 ms before it begins. The notes
say when they begin, and the mel says how loud it is before and after. Sounds of several groups of
frequencies, which add up to the whole, are amplified sample by sample. S samples, T mel frames, K
onsets, L samples around an onset, F places where power is measured, G groups of frequencies.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, SAMPLE_RATE
from spectro_render.mel import band_centres

EDGES = (400.0, 1000.0, 2000.0, 4000.0)  # Hz, between the groups of frequencies
TAPS = 129  # of the filters that part them: they reach 4 ms to either side
BLOCK = 256  # samples that are filtered at once
WINDOW, HOP = 128, 32  # samples: power is measured in 8 ms, every 2 ms
ALONE = 2.5  # mel frames before an onset in which no other note may begin
SUDDEN = 0.5  # largest ratio of powers before and after an onset that is made sudden
LEAST_RATIO = 1e-6  # of these powers
BEFORE, AFTER = 960, 320  # samples around an onset whose level is changed
LEVEL = (5, 20)  # hops after an onset from which the level after it is measured
MOST_GAIN = 6.0  # of power, after an onset
CROSSING = 8  # samples before and after an onset in which the level changes
STEEPEST = 3.0  # natural log of power a mel frame: a sound before an onset falls no faster
FAINT = 1e-12  # power of a mel band: softer sound is none
ATTACK_REACH = -4, 6  # mel frames on which the samples of frame 0 depend, beyond their own reach


def clear_onsets(onsets: Tensor) -> Tensor:
    """Those onsets (K,), in mel frames, before which no other note begins for ALONE frames."""
    onsets = torch.unique(onsets)  # sorted
    gaps = onsets.diff(prepend=onsets.new_full((1,), -1e9))
    return onsets[gaps >= ALONE]


def sharpen_attacks(samples: Tensor, log_mel: Tensor, onsets: Tensor) -> Tensor:
    """Make the onsets (K,), in mel frames, of samples (S,) sudden; the log-mel is (T, 128).

    Before an onset the sound becomes as soft as the mel frames that end before it say, in relation
    to the frame that begins after it. Just after an onset it becomes as loud as it is soon after.
    """
    # Rounded, as a time's last bits depend on where the piece of a long song begins.
    onsets = clear_onsets((1024 * onsets.to(log_mel.device)).round() / 1024)
    onsets = onsets[(onsets >= 0) & (onsets.ceil() < len(log_mel))]
    if not len(onsets):
        return samples
    bands = _part(samples)  # (G, S)
    window = torch.hann_window(WINDOW, device=samples.device)
    kernel = (window / window.sum())[None, None]
    squares = bands.square()[:, None]
    power = F.conv1d(squares, kernel, padding=WINDOW // 2, stride=HOP)[:, 0].T  # (F, G)
    centres = _groups(band_centres()).to(samples)
    mel = ((2 * log_mel.float()).exp() @ centres).clamp(min=FAINT).log()  # (T, G)

    after, before = onsets.ceil().long(), onsets.floor().long() - 2
    middle = (onsets * HOP_LENGTH).round().long()[:, None]  # (K, 1) samples
    last = len(power) - 1
    settled = middle // HOP + torch.arange(*LEVEL, device=samples.device)
    soon = power[settled.clamp(max=last)].mean(1, keepdim=True)  # (K, 1, G)

    offsets = torch.arange(-BEFORE, AFTER, device=samples.device)
    places = middle + offsets  # (K, L)
    is_real = (places >= 0) & (places < len(samples))
    places = places.clamp(0, len(samples) - 1)
    here = _between(power, places / HOP)  # (K, L, G)
    expected = (_known_before(mel, before, places) - mel[after][:, None]).exp()
    expected = expected.clamp(LEAST_RATIO, 1.0)
    softer = (soon * expected / here.clamp(min=1e-14)).clamp(max=1.0).sqrt()
    louder = (soon / here.clamp(min=1e-14)).clamp(1.0, MOST_GAIN).sqrt()
    crossed = 0.5 + 0.5 * torch.sin(math.pi / 2 * (offsets / CROSSING).clamp(-1, 1))
    gain = softer + (louder - softer) * crossed[:, None]

    earlier = torch.where(before[:, None] >= 0, mel[before.clamp(min=0)], math.log(FAINT))
    is_sudden = (earlier - mel[after]).exp() < SUDDEN  # (K, G)
    gain = torch.where(is_real[..., None] & is_sudden[:, None], gain, 1.0)
    gains = torch.ones_like(bands.T)
    index = places.flatten()[:, None].expand(-1, gains.shape[1])
    gains = gains.scatter_reduce(0, index, gain.flatten(0, 1), "prod")
    return (bands * gains.T).sum(0)


def _known_before(mel: Tensor, last: Tensor, places: Tensor) -> Tensor:
    """Log power (K, L, G) at samples (K, L), as mel frames (T, G) up to `last` (K,) have it.

    Beyond the last of them it goes on as it fell there.
    """
    frames = places / HOP_LENGTH - 1  # frame i has its centre at sample 320 (i + 1)
    end = last.clamp(min=1)
    known = _between(mel, frames.minimum(end[:, None].to(frames)))
    slope = (mel[end] - mel[end - 1]).clamp(-STEEPEST, 0.0)
    known = known + (frames - end[:, None]).clamp(min=0)[..., None] * slope[:, None]
    return torch.where(last[:, None, None] >= 0, known, math.log(FAINT))


def _between(values: Tensor, places: Tensor) -> Tensor:
    """Values (N, G) at places (K, L) between their indices, linearly: (K, L, G)."""
    places = places.clamp(0, len(values) - 1)
    low = places.floor().long().clamp(max=max(0, len(values) - 2))
    share = (places - low)[..., None].to(values)
    return values[low] + share * (values[(low + 1).clamp(max=len(values) - 1)] - values[low])


def _part(samples: Tensor) -> Tensor:
    """The parts (G, S) of samples (S,) in the groups of frequencies; they add up to the whole."""
    length = samples.shape[-1]
    blocks = -(-length // BLOCK)
    padded = F.pad(samples, (TAPS // 2, TAPS // 2 + blocks * BLOCK - length))
    low = padded.unfold(0, BLOCK + TAPS - 1, BLOCK) @ _filters().to(samples)
    low = low.view(blocks, -1, BLOCK).transpose(0, 1).flatten(1)[:, :length]
    below = torch.cat([low, samples[None]])
    return below.diff(dim=0, prepend=torch.zeros_like(samples[None]))


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _filters() -> Tensor:
    """Low-pass filters with the edges EDGES, sincs under a Hann window, as one matrix.

    It takes BLOCK + TAPS - 1 samples to BLOCK samples below each edge, which on a CPU takes an
    eightieth of the time of a convolution.
    """
    time = torch.arange(TAPS) - TAPS // 2
    window = torch.hann_window(TAPS + 2, periodic=False)[1:-1]
    width = torch.tensor(EDGES)[:, None] * (2 / SAMPLE_RATE)
    filters = width * torch.sinc(width * time) * window
    rows = torch.zeros(len(EDGES), BLOCK, BLOCK + TAPS - 1)
    for place in range(BLOCK):
        rows[:, place, place : place + TAPS] = filters
    return rows.flatten(0, 1).T.contiguous()


def _groups(hertz: Tensor) -> Tensor:
    """Which of the G groups frequencies (N,) belong to, as a matrix (N, G) of zeros and ones."""
    number = torch.bucketize(hertz, torch.tensor(EDGES))
    return F.one_hot(number, len(EDGES) + 1).float()
