"""The state of a song while it is rendered: its next window, and its sound so far."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectro_render.audio.limiter import Limiter
from spectro_render.constants import SAMPLE_RATE
from spectro_render.network.frames import NoteMemory
from spectro_render.options import Sampling
from spectro_render.tokens.read import window_notes
from spectro_render.tokens.vocabulary import TokenWindow, Vocabulary, WindowNote
from spectro_render.vocoder.melgan import Vocoder
from spectro_render.vocoder.streaming import StreamingVocoder

Samples: TypeAlias = npt.NDArray[np.float32]


class WindowCursor:
    """A position in the token windows of a song, with the notes and the mel before it."""

    def __init__(
        self, windows: Sequence[TokenWindow], vocabulary: Vocabulary, memory_steps: int
    ) -> None:
        """`memory_steps` is how long ended notes are remembered, as in ModelConfig."""
        self.windows = windows
        self._vocabulary = vocabulary
        self._memory = NoteMemory(memory_steps)
        self.done = 0  # number of windows that are rendered
        self.previous_mel: Tensor | None = None  # log-mel (256, 128) of the last window done

    @property
    def is_over(self) -> bool:
        """Whether no window is left."""
        return self.done == len(self.windows)

    @property
    def window(self) -> TokenWindow:
        """The next window."""
        return self.windows[self.done]

    def next_notes(self) -> list[WindowNote]:
        """The next window's notes. Call it once per window, as it updates the note memory."""
        notes, *following = (
            window_notes(window.ids, self._vocabulary)
            for window in self.windows[self.done : self.done + 2]
        )
        return self._memory.recall(notes, *following)

    def move_on(self, log_mel: Tensor) -> None:
        """Go to the next window, as the current one is rendered: its log-mel (256, 128)."""
        self.previous_mel = log_mel
        self.done += 1


class SongSound:
    """Turns the mels of a song into samples: vocoder, fades, limiter, cut to length."""

    def __init__(
        self,
        vocoder: Vocoder,
        gain: float,
        samples: int,
        *,
        live: bool,
        notes: Tensor | None = None,
        fades: Sequence[tuple[float, float]] = (),
    ) -> None:
        """`gain` is in dB, `samples` is the song's length; `live`, `notes`: see StreamingVocoder.

        `fades` is as in Score.
        """
        self._fades = np.array(fades, np.float64).reshape(-1, 2)
        self._faded = 0  # samples
        self._vocoder = StreamingVocoder(vocoder, live=live, notes=notes)
        self._limiter = Limiter(gain)
        self._remaining = samples

    def add(self, log_mel: Tensor) -> Samples:
        """Add frames (T, 128), on the vocoder's device, and return the samples (S,) now final."""
        with torch.inference_mode():
            samples = self._vocoder.push(log_mel)
        return self._cut(self._limiter.push(self._fade(samples)))

    def finish(self) -> Samples:
        """The remaining samples (S,), after the last frames."""
        with torch.inference_mode():
            samples = self._vocoder.flush()
        last = self._limiter.push(self._fade(samples)), self._limiter.flush()
        return self._cut(np.concatenate(last))

    def _fade(self, samples: Tensor) -> Samples:
        """The next samples (S,), as loud as the song is there."""
        sound: Samples = samples.cpu().numpy()
        if len(self._fades):
            seconds = (self._faded + np.arange(len(sound))) / SAMPLE_RATE
            sound = sound * np.interp(seconds, *self._fades.T).astype(np.float32)
        self._faded += len(sound)
        return sound

    def _cut(self, samples: Samples) -> Samples:
        part = samples[: self._remaining]
        self._remaining -= len(part)
        return part


class Song:
    """A song that is being rendered: its windows, its sampling options and its sound so far."""

    def __init__(self, cursor: WindowCursor, sampling: Sampling, sound: SongSound) -> None:
        self.cursor, self.sampling, self.sound = cursor, sampling, sound

    @property
    def windows(self) -> Sequence[TokenWindow]:
        """All token windows of the song."""
        return self.cursor.windows

    @property
    def is_over(self) -> bool:
        """Whether the last window has been rendered."""
        return self.cursor.is_over

    def take_ready(self, log_mel: Tensor) -> Samples:
        """Add the log-mel (256, 128) of a rendered window, on the vocoder's device.

        Returns the samples (S,) that are now final.
        """
        samples = self.sound.add(log_mel)
        return np.concatenate([samples, self.sound.finish()]) if self.is_over else samples
