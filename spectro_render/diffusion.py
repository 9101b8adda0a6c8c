"""Noise schedule, guidance and samplers, for any network that predicts from a noisy mel.

Diffusion time t runs from 0 (the mel) to 1 (noise): a noisy mel is z = alpha(t) x0 + sigma(t) eps,
with alpha^2 + sigma^2 = 1 and log-SNR = ln(alpha^2 / sigma^2) falling from +20 to -20.
B windows, T frames, M mel bands.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from spectro_render.constants import N_MELS, WINDOW_FRAMES
from spectro_render.errors import OptionError
from spectro_render.options import MAX_GUIDANCE, MAX_STEPS, SAMPLERS

Target = Literal["epsilon", "v", "x0"]  # what a network is trained to predict
Predict = Callable[[Tensor, float], Tensor]  # noisy (B, T, M), its time -> its target (B, T, M)

MAX_LOG_SNR = 20.0

# DPM-Solver++ is for few steps. With evenly spaced times its last step would start at about
# sigma = pi / 2N and wipe out all finer detail; with squared times (DDIM's authors use them too) it
# starts at about pi / 2N^2. On data with four peaks, whose end points are known, 5 steps then have
# a quarter of the error.
FEW_STEPS_POWER = 2.0

_MARGIN = math.atan(math.exp(-MAX_LOG_SNR / 2))  # b of the published schedule, and a = pi/2 - 2 b
_RANGE = math.pi / 2 - 2 * _MARGIN


# --- schedule ---------------------------------------------------------------------------------


def sigma(time: Tensor | float) -> Tensor:
    """Standard deviation of the noise at `time` in [0, 1]: sin(a t + b), any shape.

    The published schedule, log-SNR = -2 ln tan(a t + b), written as an angle: tan = sigma / alpha.
    """
    if not isinstance(time, Tensor):
        time = torch.tensor(time, dtype=torch.float64)
    return torch.sin(_RANGE * time + _MARGIN)


def alpha(time: Tensor | float) -> Tensor:
    """Factor of the mel at `time` in [0, 1]: cos(a t + b), any shape.

    a + 2 b is a right angle, so this equals sigma(1 - t), which is exact in float32 near t = 1 too.
    """
    return sigma(1 - time)


def corrupt(x0: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """The noisy mel alpha x0 + sigma eps at `time` (B,); mels and noise are (B, T, M)."""
    level = time[:, None, None]
    return alpha(level) * x0 + sigma(level) * noise


def learning_target(x0: Tensor, noise: Tensor, time: Tensor, target: Target) -> Tensor:
    """What a network with this target should predict from `corrupt(x0, noise, time)`, (B, T, M).

    v = alpha eps - sigma x0 (Salimans and Ho, arXiv 2202.00512).
    """
    if target == "v":
        level = time[:, None, None]
        return alpha(level) * noise - sigma(level) * x0
    return noise if target == "epsilon" else x0


@dataclass(frozen=True)
class Level:
    """A noise level that a sampler visits on its way from noise to mel."""

    time: float  # the diffusion time that the network gets as input
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """ln(alpha / sigma)."""
        return math.log(self.alpha / self.sigma)


def clean_mel(
    predicted: Tensor,
    noisy: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    target: Target,
) -> Tensor:
    """Compute x0, clipped to [-1, 1], from a prediction of `target`; all are (B, T, M).

    `alpha` and `sigma` of the noisy mels are numbers, or tensors (B, 1, 1).
    """
    if target == "epsilon":
        predicted = (noisy - sigma * predicted) / alpha
    elif target == "v":
        predicted = alpha * noisy - sigma * predicted
    return predicted.clamp(-1, 1)


def continuous_levels(steps: int, power: float = 1.0) -> list[Level]:
    """N + 1 levels of the published schedule, at the times (i / N) ** power from 1 to 0."""
    times = [(i / steps) ** power for i in range(steps, -1, -1)]
    return [Level(time, float(alpha(time)), float(sigma(time))) for time in times]


@dataclass(frozen=True)
class DiscreteSchedule:
    """The noise schedule of diffusers' `DDPMScheduler`, as the published pipeline sets it up.

    It is the cosine schedule (`squaredcos_cap_v2`; Nichol and Dhariwal, arXiv 2102.09672), with the
    variance `fixed_large` and the spacing 'leading'.
    """

    train_steps: int = 1000
    steps_offset: int = 0

    def alphas_cumprod(self) -> Tensor:
        """alpha^2 of each training step, (train_steps,), in float32 as in the reference."""
        angle = torch.arange(self.train_steps + 1, dtype=torch.float64) / self.train_steps
        kept = ((angle + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999).float()
        return (1 - betas).cumprod(0)

    def levels(self, steps: int) -> list[Level]:
        """N + 1 levels: training steps a fixed stride apart, counted from 0 ('leading'), then x0.

        As in diffusers, the network gets the time t/1000 although the noise level is that of
        (t+1)/1000.
        """
        stride = self.train_steps // steps
        kept = self.alphas_cumprod().double().tolist()
        chosen = [i * stride + self.steps_offset for i in range(steps - 1, -1, -1)]
        path = [
            Level(t / self.train_steps, math.sqrt(kept[t]), math.sqrt(1 - kept[t])) for t in chosen
        ]
        return [*path, Level(0.0, 1.0, 0.0)]


# --- guidance ---------------------------------------------------------------------------------


def guide(conditional: Predict, unconditional: Predict, weight: float) -> Predict:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): w cond + (1 - w) uncond.

    The weights add up to one, so it is the same guidance for epsilon, v and x0. With w = 1
    `unconditional` is never called.
    """
    if weight == 1:
        return conditional

    def predict(noisy: Tensor, time: float) -> Tensor:
        return weight * conditional(noisy, time) + (1 - weight) * unconditional(noisy, time)

    return predict


# --- noise ------------------------------------------------------------------------------------


def window_generator(seed: int, window: int) -> torch.Generator:
    """The random generator of one window, which depends on seed and window alone; on the CPU.

    Hashing keeps (seed, window) apart from (seed + 1, window - 1), which adding would not.
    """
    digest = hashlib.blake2b(f"{seed}/{window}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def noise_source(seed: int, windows: Sequence[int], device: torch.device) -> Callable[[], Tensor]:
    """A function that gives fresh noise (B, T, M) for these windows at every call.

    Each window has a generator of its own, so its noise does not depend on the rest of the batch.
    """
    generators = [window_generator(seed, window) for window in windows]
    waits = device.type != "cuda"  # until the device has finished its work

    def draw() -> Tensor:
        shape = (WINDOW_FRAMES, N_MELS)
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        return noise.to(device) if waits else noise.pin_memory().to(device, non_blocking=True)

    return draw


# --- samplers ---------------------------------------------------------------------------------

Step = Callable[[Tensor, Tensor, Level, Level], Tensor]  # x, x0 at one level -> x at the next


def ancestral(draw: Callable[[], Tensor], *, large: bool) -> Step:
    """The DDPM step (Ho et al., arXiv 2006.11239), in the form of Kingma et al., arXiv 2107.00630.

    Its variance is that of the forward process if `large`, else that of the posterior.
    """

    def step(x: Tensor, x0: Tensor, now: Level, then: Level) -> Tensor:
        ratio = math.exp(2 * (now.half_log_snr - then.half_log_snr))  # SNR_t / SNR_s
        mean = ratio * then.alpha / now.alpha * x + (1 - ratio) * then.alpha * x0
        deviation = math.sqrt(1 - ratio) * (now.sigma if large else then.sigma)
        return mean + deviation * draw().to(x)

    return step


def ddim(x: Tensor, x0: Tensor, now: Level, then: Level) -> Tensor:
    """The DDIM step (Song et al., arXiv 2010.02502): x0 and the noise in x, at the next level."""
    epsilon = (x - now.alpha * x0) / now.sigma
    return then.alpha * x0 + then.sigma * epsilon


def multistep() -> Step:
    """Make the step of DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2) for one mel.

    It is DDIM with a better x0: the line through the last two predictions gives the x0 of half a
    step ahead (in half log-SNR).
    """
    before: tuple[Tensor, Level] | None = None

    def step(x: Tensor, x0: Tensor, now: Level, then: Level) -> Tensor:
        nonlocal before
        ahead = x0
        if before is not None:
            half_step = (then.half_log_snr - now.half_log_snr) / 2
            slope = (x0 - before[0]) / (now.half_log_snr - before[1].half_log_snr)
            ahead = x0 + half_step * slope
        before = x0, now
        return ddim(x, ahead, now, then)

    return step


def sample(
    predict: Predict,
    noise: Tensor,
    *,
    sampler: str,
    steps: int,
    draw: Callable[[], Tensor],
    target: Target = "epsilon",
    schedule: DiscreteSchedule | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Denoise `noise` (B, T, M) into a mel x0 in [-1, 1], (B, T, M) float32.

    `predict` predicts `target`. `draw` gives ancestral samplers fresh noise (B, T, M) in every step
    but the last. `schedule` is for the sampler 'diffusers' only. `on_step` is called with 1..steps.
    Raises OptionError as `check_sampling` does.
    """
    levels = sampling_levels(sampler, steps, schedule or DiscreteSchedule())
    advance = _make_step(sampler, draw)
    # The sampler computes in float64, but in float32 on Apple's GPUs, which lack it.
    x = noise.to(torch.float32 if noise.device.type == "mps" else torch.float64)
    for number, (now, then) in enumerate(pairwise(levels), start=1):
        x0 = clean_mel(predict(x.float(), now.time).to(x), x, now.alpha, now.sigma, target)
        x = x0 if number == steps else advance(x, x0, now, then)
        if on_step is not None:
            on_step(number)
    return x.float()


def check_sampling(
    sampler: str, steps: int, schedule: DiscreteSchedule, guidance: float = 1.0
) -> None:
    """Raise OptionError unless this sampler exists and can take these steps and this guidance.

    `schedule` is for the sampler 'diffusers', which can take no more steps than training had.
    """
    if sampler not in SAMPLERS:
        raise OptionError(f"unknown sampler {sampler!r}", f"use one of {', '.join(SAMPLERS)}")
    if steps < 1:
        raise OptionError(f"{steps} steps are too few", "ask for at least 1")
    if steps > MAX_STEPS:
        raise OptionError(f"{steps} steps are more than {MAX_STEPS}", "ask for fewer")
    if not abs(guidance) <= MAX_GUIDANCE:
        hint = f"choose one from {-MAX_GUIDANCE:g} to {MAX_GUIDANCE:g}"
        raise OptionError(f"a guidance of {guidance:g} is impossible", hint)
    if sampler == "diffusers":
        _check_training_steps(steps, schedule)


def _check_training_steps(steps: int, schedule: DiscreteSchedule) -> None:
    """Raise OptionError unless all levels of the sampler 'diffusers' are among the training's."""
    most, offset = schedule.train_steps, schedule.steps_offset
    if steps > most:
        raise OptionError(f"{steps} steps are more than the model's own {most}", "ask for fewer")
    if (steps - 1) * (most // steps) + offset >= most:
        message = f"{steps} steps with the model's offset {offset} exceed its own {most}"
        raise OptionError(message, "use another sampler, such as ddim")


@lru_cache(maxsize=8)  # every window needs the same levels
def sampling_levels(sampler: str, steps: int, schedule: DiscreteSchedule) -> tuple[Level, ...]:
    """The N + 1 levels that a sampler visits, from noise to mel. Raises as `check_sampling`."""
    check_sampling(sampler, steps, schedule)
    if sampler == "diffusers":
        return tuple(schedule.levels(steps))
    return tuple(continuous_levels(steps, FEW_STEPS_POWER if sampler == "dpm++" else 1.0))


def _make_step(sampler: str, draw: Callable[[], Tensor]) -> Step:
    if sampler == "ddim":
        return ddim
    if sampler == "dpm++":
        return multistep()
    return ancestral(draw, large=sampler != "ddpm-small")
