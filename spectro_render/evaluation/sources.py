"""The two sources of sounds that are compared: a model, and a reference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from spectro_render.constants import SAMPLE_RATE
from spectro_render.evaluation.arrays import Matrix, Samples
from spectro_render.midi.score import Score


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """A model's rendering of a score, after each of its stages."""

    mel: Matrix  # (T, 128) natural log: the output of the Transformer
    samples: Samples  # (S,) at the level of the training data
    delivered: Samples  # (S,) as rendering writes it: amplified and limited
    took: float  # seconds that rendering took


class Subject(Protocol):
    """The model that is evaluated."""

    @property
    def name(self) -> str:
        """The model's name in messages."""

    def render(self, score: Score, seconds: float) -> ModelOutput:
        """Render the first `seconds` seconds of a score."""

    def vocode(self, log_mel: Matrix, score: Score) -> Samples:
        """The model's vocoder alone: natural log-mel (T, 128) of a score -> samples (S,)."""

    def add_band(self, log_mel: Matrix, samples: Samples, score: Score) -> Samples:
        """The sound (S,) of a mel at 48 kHz, with the band above 8 kHz if the model has it."""


class Reference(Protocol):
    """The true sounds of scores, at the level of the training data."""

    def sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first `seconds` seconds of a score's true sound.

        `name` is the path of its MIDI file, relative to the evaluated folder. Raises
        SpectroRenderError if there is no sound.
        """

    def full_sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The same sound at 48 kHz, (3 S,)."""


def fit_length(samples: Samples, seconds: float, sample_rate: int = SAMPLE_RATE) -> Samples:
    """Cut samples (S,) to `seconds` seconds, or fill them up with silence."""
    count = round(seconds * sample_rate)
    return np.pad(samples[:count], (0, max(0, count - len(samples))))
