"""The reference sounds that a model is compared with: synthesised or recorded."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from spectro_render.audio.limiter import DEFAULT_GAIN
from spectro_render.constants import FULL_RATE, SAMPLE_RATE
from spectro_render.errors import SpectroRenderError
from spectro_render.evaluation.arrays import Samples
from spectro_render.evaluation.sources import fit_length
from spectro_render.midi.score import Score
from spectro_render.training.layouts import SOUND_SUFFIXES
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
    """Recordings in a folder: NAME.wav, NAME.flac, NAME.mp3 or NAME.ogg for NAME.mid.

    They are taken for what rendering should write, so they are made softer by DEFAULT_GAIN, as for
    training. See `sources.Reference`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first `seconds` seconds of a MIDI file's recording, (S,).

        Raises SpectroRenderError if there is none or it cannot be read.
        """
        return fit_length(self._read(name, SAMPLE_RATE), seconds)

    def full_sound(self, name: Path, score: Score, seconds: float) -> Samples:
        """The first `seconds` seconds of a MIDI file's recording at 48 kHz, (3 S,)."""
        return fit_length(self._read(name, FULL_RATE), seconds, FULL_RATE)

    def _read(self, name: Path, sample_rate: int) -> Samples:
        """The recording of a MIDI file in mono at this rate, (S,)."""
        paths = [self._folder / name.with_suffix(suffix) for suffix in SOUND_SUFFIXES]
        path = next((path for path in paths if path.exists()), paths[0])
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except (OSError, soundfile.SoundFileError) as error:
            hint = f"the recording of NAME.mid must be NAME{', NAME'.join(SOUND_SUFFIXES)}"
            raise SpectroRenderError(f"cannot read {path} ({error})", hint) from error
        mono = soxr.resample(samples.mean(1), rate, sample_rate, quality="VHQ")
        return np.asarray(mono * 10 ** (-DEFAULT_GAIN / 20), np.float32)
