"""The model that is evaluated, with the chosen sampler and vocoder."""

import time

import numpy as np
import soxr
import torch
from torch import Tensor

from spectro_render.audio.limiter import Limiter
from spectro_render.constants import FULL_RATE, SAMPLE_RATE
from spectro_render.evaluation.arrays import Matrix, Samples
from spectro_render.evaluation.sources import ModelOutput, fit_length
from spectro_render.midi.score import Score
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.vocoder.streaming import StreamingVocoder


class RenderedSubject:
    """A model that is rendered by a Renderer; see `sources.Subject`."""

    def __init__(self, renderer: Renderer, options: RenderOptions) -> None:
        """Check the options. Raises OptionError for options that the model does not have."""
        self.name = renderer.name
        self._renderer = renderer
        renderer.sampling(options)  # so that wrong options fail before anything is rendered
        self._options = options

    def render(self, score: Score, seconds: float) -> ModelOutput:
        """Render the first `seconds` seconds of a score."""
        started = time.perf_counter()
        windows = self._renderer.windows(score, RenderOptions(duration=seconds))
        mels = list(self._renderer.mels(windows, self._options))
        samples = fit_length(self._vocode(mels, score), seconds)
        took = time.perf_counter() - started
        limiter = Limiter(self._renderer.gain(self._options))
        delivered = np.concatenate([limiter.push(samples), limiter.flush()])
        return ModelOutput(torch.cat(mels).double().numpy(), samples, delivered, took)

    def vocode(self, log_mel: Matrix, score: Score) -> Samples:
        """The model's vocoder alone: natural log-mel (T, 128) of a score -> samples (S,)."""
        return self._vocode([torch.from_numpy(log_mel).float()], score)

    def add_band(self, log_mel: Matrix, samples: Samples, score: Score) -> Samples:
        """The sound (S,) of a mel at 48 kHz, with the band above 8 kHz if the model has it."""
        full = np.asarray(soxr.resample(samples, SAMPLE_RATE, FULL_RATE, quality="VHQ"), np.float32)
        band = self._renderer.band(score, self._options.seed)
        if band is None:
            return full
        parts = [band.push(torch.from_numpy(log_mel).float()), band.flush()]
        return full + fit_length(torch.cat(parts).numpy(), len(full) / FULL_RATE, FULL_RATE)

    def _vocode(self, mels: list[Tensor], score: Score) -> Samples:
        notes = self._renderer.vocoder_notes(score)
        vocoder = StreamingVocoder(self._renderer.checkpoint.vocoder, live=False, notes=notes)
        with torch.inference_mode():
            parts = [vocoder.push(mel.to(self._renderer.device)).cpu() for mel in mels]
            parts.append(vocoder.flush().cpu())
        return torch.cat(parts).numpy()
