"""7a · A song on its way: what its next window hears, and which of its samples are certain."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectro_render.audio.limiter import Limiter
from spectro_render.network.frames import NoteMemory
from spectro_render.tokens.read import window_notes
from spectro_render.tokens.vocabulary import TokenWindow, Vocabulary, WindowNote
from spectro_render.vocoder.melgan import Vocoder
from spectro_render.vocoder.streaming import StreamingVocoder

Samples: TypeAlias = npt.NDArray[np.float32]


class Reading:
    """The windows of one song in order, and what the next of them knows of those before."""

    def __init__(
        self, windows: Sequence[TokenWindow], vocabulary: Vocabulary, memory_steps: int
    ) -> None:
        """`memory_steps` as in ModelConfig."""
        self._windows, self._vocabulary = windows, vocabulary
        self._memory = NoteMemory(memory_steps)
        self.done = 0  # windows
        self.before: Tensor | None = None  # log-mel (256, 128) of the last one

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def is_over(self) -> bool:
        """Whether no window is left."""
        return self.done == len(self._windows)

    @property
    def window(self) -> TokenWindow:
        """The next one."""
        return self._windows[self.done]

    def notes(self) -> list[WindowNote]:
        """Those of the next window, to be asked for once; see `NoteMemory`."""
        return self._memory.recall(window_notes(self.window.ids, self._vocabulary))

    def go_on(self, log_mel: Tensor) -> None:
        """The next window has become this mel (256, 128)."""
        self.before = log_mel
        self.done += 1


class Voice:
    """Turns the mels of one song into its samples: vocoded, levelled, limited, of its length."""

    def __init__(self, vocoder: Vocoder, gain: float, samples: int, *, live: bool) -> None:
        """`gain` in dB; `samples`: how many the song has; `live` as in StreamingVocoder."""
        self._vocoder = StreamingVocoder(vocoder, live=live)
        self._limiter = Limiter(gain)
        self._remaining = samples

    def push(self, log_mel: Tensor) -> Samples:
        """The next frames (T, 128), on the vocoder's device -> the samples (S,) now certain."""
        with torch.inference_mode():
            samples = self._vocoder.push(log_mel)
        return self._cut(self._limiter.push(samples.cpu().numpy()))

    def finish(self) -> Samples:
        """The samples (S,) that are left."""
        with torch.inference_mode():
            samples = self._vocoder.flush()
        last = self._limiter.push(samples.cpu().numpy()), self._limiter.flush()
        return self._cut(np.concatenate(last))

    def _cut(self, samples: Samples) -> Samples:
        part = samples[: self._remaining]
        self._remaining -= len(part)
        return part


class Song:
    """Both, for a song that a Renderer has begun."""

    def __init__(self, reading: Reading, voice: Voice) -> None:
        self.reading, self.voice = reading, voice

    @property
    def is_over(self) -> bool:
        """Whether its last window has been rendered."""
        return self.reading.is_over

    def speak(self, device: torch.device) -> Samples:
        """The samples (S,) that the window just rendered has made certain."""
        assert self.reading.before is not None
        samples = self.voice.push(self.reading.before.to(device))
        return np.concatenate([samples, self.voice.finish()]) if self.is_over else samples
