"""The two sides of every comparison: what the model makes of a score, and what it should."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor

from spectro_render.audio.limiter import Limiter
from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import SpectroRenderError
from spectro_render.midi.score import Score
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.tokens.write import sounding_seconds
from spectro_render.training.synth import Synthesizer
from spectro_render.vocoder.streaming import StreamingVocoder

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Rendering:
    """What a model makes of a score."""

    mel: npt.NDArray[np.float64]  # (T, 128) natural log: the diffusion model's own
    samples: Samples  # (S,) 16 kHz, at the level of the training data
    delivered: Samples  # (S,) as a listener gets it: louder, limited
    took: float  # seconds of work


class Subject:
    """A model that is evaluated."""

    def __init__(self, renderer: Renderer, options: RenderOptions) -> None:
        self.name = renderer.name
        self._renderer = renderer
        renderer.sampling(options)  # raises what is wrong with them before anything is rendered
        self._options = options

    def render(self, score: Score, seconds: float) -> Rendering:
        """The first seconds of a score."""
        started = time.perf_counter()
        options = RenderOptions(duration=seconds)
        windows = self._renderer.windows(score, options)
        mels = list(self._renderer.mels(windows, self._options))
        samples = fit(torch.cat(list(self._vocode(mels))).numpy(), seconds)
        took = time.perf_counter() - started
        limiter = Limiter(self._renderer.gain(self._options))
        delivered = np.concatenate([limiter.push(samples), limiter.flush()])
        return Rendering(torch.cat(mels).double().numpy(), samples, delivered, took)

    def vocode(self, log_mel: Tensor) -> Samples:
        """Natural log-mel (T, 128) -> samples (320 T,) at its level."""
        return torch.cat(list(self._vocode([log_mel]))).numpy()

    def _vocode(self, mels: list[Tensor]) -> Iterator[Tensor]:
        vocoder = StreamingVocoder(self._renderer.checkpoint.vocoder, live=False)
        with torch.inference_mode():
            for mel in mels:
                yield vocoder.push(mel.to(self._renderer.device)).cpu()
            yield vocoder.flush().cpu()


class Reference(Protocol):
    """Where true sounds come from."""

    def sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first seconds of a score's true sound, 16 kHz, (S,)."""


class SynthesizedReference:
    """Sounds made as the training data were: same soundfont, same level."""

    def __init__(self) -> None:
        self._synthesizer = Synthesizer()

    def sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first seconds of a score's true sound, 16 kHz, (S,)."""
        return fit(self._synthesizer.render_score(score), seconds)


class RecordedReference:
    """Sounds in a folder: NAME.wav for NAME.mid, at the level that the model was trained at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first seconds of a file's true sound, 16 kHz, (S,).

        Raises SpectroRenderError where there is none that can be read.
        """
        return fit(read_sound(self._folder / name.with_suffix(".wav")), seconds)


def read_sound(path: Path) -> Samples:
    """An audio file as 16 kHz mono, (S,). Raises SpectroRenderError where that fails."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        hint = "the reference of NAME.mid is NAME.wav"
        raise SpectroRenderError(f"cannot read {path} ({error})", hint) from error
    return np.asarray(soxr.resample(samples.mean(1), rate, SAMPLE_RATE, quality="VHQ"), np.float32)


def fit(samples: Samples, seconds: float) -> Samples:
    """Cut, or filled up with silence, to so many seconds."""
    count = round(seconds * SAMPLE_RATE)
    return np.pad(samples[:count], (0, max(0, count - len(samples))))


def heard_seconds(score: Score, limit: float) -> float:
    """How much of a score is compared: until it has rung out, at most `limit` seconds."""
    return sounding_seconds(score, limit)
