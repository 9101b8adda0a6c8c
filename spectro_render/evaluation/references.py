"""The reference sounds that a model is compared with: synthesised or recorded."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from spectro_render.constants import FULL_RATE, SAMPLE_RATE
from spectro_render.errors import SpectroRenderError
from spectro_render.evaluation.arrays import Samples
from spectro_render.evaluation.sources import fit_length
from spectro_render.midi.score import Score
from spectro_render.training.synth import Synthesizer


class SynthesizedReference:
    """Sounds made like the training data: with a soundfont, at the same level.

    See `sources.Reference`.
    """

    def __init__(self, soundfont: Path | None = None) -> None:
        """Load FluidSynth with a soundfont, by default that of `find_soundfont`.

        Raises SpectroRenderError if one of them is missing.
        """
        self._synthesizer = Synthesizer(soundfont)

    def sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first `seconds` seconds of a score's true sound, (S,)."""
        return fit_length(self._synthesizer.render_score(score), seconds)

    def full_sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first `seconds` seconds of a score's true sound at 48 kHz, (3 S,)."""
        return fit_length(self._synthesizer.render_score_full(score), seconds, FULL_RATE)


class RecordedReference:
    """Audio files in a folder, NAME.wav for NAME.mid, at the level of the training data.

    See `sources.Reference`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first `seconds` seconds of a MIDI file's recording, (S,).

        Raises SpectroRenderError if there is none or it cannot be read.
        """
        return fit_length(read_sound(self._folder / name.with_suffix(".wav")), seconds)

    def full_sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first `seconds` seconds of a MIDI file's recording at 48 kHz, (3 S,)."""
        path = self._folder / name.with_suffix(".wav")
        return fit_length(read_sound(path, FULL_RATE), seconds, FULL_RATE)


def read_sound(path: Path, sample_rate: int = SAMPLE_RATE) -> Samples:
    """Read an audio file in mono at this rate, (S,). Raises SpectroRenderError if that fails."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        hint = "the recording of NAME.mid must be NAME.wav"
        raise SpectroRenderError(f"cannot read {path} ({error})", hint) from error
    return np.asarray(soxr.resample(samples.mean(1), rate, sample_rate, quality="VHQ"), np.float32)
