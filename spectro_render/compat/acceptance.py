"""The numbers by which diffusers accepts the published weights, and how they are computed.

They are those of diffusers' own slow tests of the real weights (its PipelineIntegrationTests of
spectrogram diffusion), for the file elise_format0.mid of piano-midi.de: the sum of the samples'
magnitudes, in float32, without guidance, with noise from a generator with the seed 0 on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spectro_render.compat.pipeline import SpectrogramDiffusionPipeline
from spectro_render.errors import MidiError, WeightsError

MIDI_PAGE = "http://www.piano-midi.de/midis/beethoven/elise_format0.mid"


@dataclass(frozen=True)
class Acceptance:
    """What a run over the first windows of the song must give."""

    windows: int
    steps: int
    total: float  # sum of the samples' magnitudes
    tolerance: float

    def measure(
        self, pipe: SpectrogramDiffusionPipeline, windows: Sequence[Sequence[int]]
    ) -> float:
        """Render the first windows, ids of MidiProcessor: the sum of the samples' magnitudes.

        Raises MidiError for too few windows, WeightsError for a pipeline without a vocoder.
        """
        if len(windows) < self.windows:
            message = f"the song has too few windows for this check: {len(windows)}"
            raise MidiError(f"{message}, not {self.windows}", f"use {MIDI_PAGE}")
        if pipe.melgan is None:
            raise WeightsError("the model has no vocoder", "choose another model")
        generator = torch.Generator().manual_seed(0)
        (audio,) = pipe(windows[: self.windows], generator, self.steps, return_dict=False)
        return float(np.abs(audio).sum())

    def allows(self, total: float) -> bool:
        """Whether a sum is within the tolerance."""
        return abs(total - self.total) < self.tolerance


QUICK = Acceptance(windows=2, steps=2, total=3612.841, tolerance=0.1)
LONG = Acceptance(windows=4, steps=100, total=9389.1111, tolerance=0.05)
