"""Makes the onsets of notes as sudden as they are, where the vocoder's frames have smeared them.

Magnitudes are found for frames of 80 ms, so a note is heard up to 60 ms before it begins. The notes
say when they begin, and the mel says how loud it is before and after. S samples, T mel frames, K
onsets, F short frames, G groups of frequencies.
"""

import torch
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, SAMPLE_RATE
from spectro_render.mel import band_centres

WINDOW, HOP = 128, 32  # samples: short frames of 8 ms, every 2 ms
PER_FRAME = HOP_LENGTH // HOP  # short frames in a mel frame's 20 ms
EDGES = (400.0, 1000.0, 2000.0, 4000.0)  # Hz, between the groups of frequencies
ALONE = 2.5  # mel frames before an onset in which no other note may begin
SUDDEN = 0.5  # largest ratio of powers before and after an onset that is made sudden
LEAST_RATIO = 1e-5  # of these powers
BEFORE, AFTER = 30, 10  # short frames around an onset whose level is changed
LEVEL = (5, 20)  # short frames after an onset from which the level after it is measured
MOST_GAIN = 6.0  # of power, after an onset
# Share of a short frame's power that lies after an onset, from two short frames before it on.
CROSSING = (0.0, 0.05, 0.5, 0.95, 1.0)
ATTACK_REACH = -4, 6  # mel frames on which the samples of frame 0 depend, beyond their own reach


def clear_onsets(onsets: Tensor) -> Tensor:
    """Those onsets (K,), in mel frames, before which no other note begins for ALONE frames."""
    onsets = torch.unique(onsets)  # sorted
    gaps = onsets.diff(prepend=onsets.new_full((1,), -1e9))
    return onsets[gaps >= ALONE]


def sharpen_attacks(samples: Tensor, log_mel: Tensor, onsets: Tensor) -> Tensor:
    """Make the onsets (K,), in mel frames, of samples (S,) sudden; the log-mel is (T, 128).

    Before an onset the sound becomes as soft as the mel frame that ends before it says, in relation
    to the frame that begins after it. Just after an onset it becomes as loud as it is soon after.
    """
    # Rounded, as a time's last bits depend on where the piece of a long song begins.
    onsets = clear_onsets((1024 * onsets.to(log_mel.device)).round() / 1024)
    onsets = onsets[(onsets >= 0) & (onsets.ceil() < len(log_mel))]
    if not len(onsets):
        return samples
    after, before = onsets.ceil().long(), onsets.floor().long() - 2
    window = torch.hann_window(WINDOW, device=samples.device)
    spectrum = torch.stft(
        samples, WINDOW, HOP, window=window, pad_mode="constant", return_complex=True
    )  # (bins, F)
    groups = _groups(torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)).to(samples)
    power = spectrum.abs().square().T @ groups  # (F, G)
    bands = _groups(band_centres()).to(samples)
    mel = (2 * log_mel.float()).exp() @ bands  # (T, G)

    earlier = torch.where(before[:, None] >= 0, mel[before.clamp(min=0)], 0.0)
    ratio = (earlier / mel[after]).clamp(LEAST_RATIO, 1.0)  # (K, G)
    middle = (onsets * PER_FRAME).round().long()[:, None]
    last = len(power) - 1
    settled = middle + torch.arange(*LEVEL, device=samples.device)
    soon = power[settled.clamp(max=last)].mean(1)  # (K, G)

    offsets = torch.arange(-BEFORE, AFTER + 1, device=samples.device)
    crossed = torch.ones(len(offsets), device=samples.device)
    crossed[:BEFORE] = 0.0
    crossed[BEFORE - 2 : BEFORE + 3] = crossed.new_tensor(CROSSING)
    places = middle + offsets  # (K, L)
    is_real = (places >= 0) & (places <= last)
    places = places.clamp(0, last)
    share = ratio[:, None] + (1 - ratio[:, None]) * crossed[:, None]  # (K, L, G)
    wanted = soon[:, None] * share / power[places].clamp(min=1e-12)
    gain = torch.where(offsets[:, None] < 0, wanted.clamp(max=1.0), wanted.clamp(1.0, MOST_GAIN))
    changes = is_real[..., None] & (ratio[:, None] < SUDDEN)
    gain = torch.where(changes, gain, 1.0).sqrt()
    gains = torch.ones_like(power)
    index = places.flatten()[:, None].expand(-1, gains.shape[1])
    gains = gains.scatter_reduce(0, index, gain.flatten(0, 1), "prod")
    spectrum = spectrum * (gains @ groups.T).T
    return torch.istft(spectrum, WINDOW, HOP, window=window, length=len(samples))


def _groups(hertz: Tensor) -> Tensor:
    """Which of the G groups frequencies (N,) belong to, as a matrix (N, G) of zeros and ones."""
    number = torch.bucketize(hertz, torch.tensor(EDGES))
    return torch.nn.functional.one_hot(number, len(EDGES) + 1).float()
