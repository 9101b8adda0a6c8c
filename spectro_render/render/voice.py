"""One bus of a song while it is rendered: its next window, and its sound so far."""

import math
from collections.abc import Collection
from itertools import islice
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectro_render.constants import (
    FRAME_RATE,
    LOG_MEL_MIN,
    MEL_FLOOR,
    N_MELS,
    SAMPLE_RATE,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
)
from spectro_render.network.frames import NoteMemory
from spectro_render.network.model import EncodedNotes
from spectro_render.render.mixer import BusGain
from spectro_render.render.warp import TimeWarp, Unwarp
from spectro_render.tokens.read import window_notes
from spectro_render.tokens.vocabulary import TokenWindow, Vocabulary, WindowNote, rest_window

Samples: TypeAlias = npt.NDArray[np.float32]

DECIBEL = math.log(10) / 20  # in natural logarithms of amplitude
RUNG_OUT = -60.0  # dB under the loudest moment
LAST_FRAMES = 25  # half a second at the end of a window, which have rung out before a silent one


class WindowCursor:
    """A position in the token windows of a song, with the notes and the mel before it."""

    def __init__(
        self, windows: Collection[TokenWindow], vocabulary: Vocabulary, memory_steps: int
    ) -> None:
        """`memory_steps` is how long ended notes are remembered, as in ModelConfig."""
        self.count = len(windows)  # with those that are added
        self._coming = iter(windows)
        self._next = list(islice(self._coming, 3))  # the next windows
        self._vocabulary = vocabulary
        self._memory = NoteMemory(memory_steps)
        self._notes: list[list[WindowNote]] = []  # of the next windows, as far as they are known
        # The encoded notes of the next window and of the one after it, if that was done before.
        self.encoded: EncodedNotes | None = None
        self.encoded_after: EncodedNotes | None = None
        self.done = 0  # number of windows that are rendered
        self.previous_mel: Tensor | None = None  # log-mel (256, 128) of the last window done

    @property
    def is_over(self) -> bool:
        """Whether no window is left."""
        return self.done == self.count

    @property
    def window(self) -> TokenWindow:
        """The next window."""
        return self._next[0]

    def next_notes(self) -> list[WindowNote]:
        """The next window's notes, with those remembered from the windows before it."""
        return self._notes_of(0)

    def notes_after(self) -> list[WindowNote] | None:
        """What `next_notes` will be when the next window is done; None if no window is known."""
        return self._notes_of(1) if len(self._next) > 1 else None

    def _notes_of(self, ahead: int) -> list[WindowNote]:
        for number in range(len(self._notes), ahead + 1):  # the memory goes on from each
            notes, *following = (
                window_notes(window.ids, self._vocabulary)
                for window in self._next[number : number + 2]
            )
            self._notes.append(self._memory.recall(notes, *following))
        return self._notes[ahead]

    def add_rest(self) -> None:
        """Append a window in which the last notes ring out."""
        self._next.append(rest_window(self.count, self._vocabulary))
        self.count += 1

    def move_on(self, log_mel: Tensor) -> None:
        """Go to the next window, as the current one is rendered: its log-mel (256, 128)."""
        self.previous_mel, self._notes = log_mel, self._notes[1:]
        self.encoded, self.encoded_after = self.encoded_after, None
        self.done += 1
        self._next = [*self._next[1:], *islice(self._coming, 1)]


class MelStream(Protocol):
    """Turns a mel that comes window by window into sound: StreamingVocoder, FullBandVocoder."""

    def push(self, log_mel: Tensor) -> Tensor:
        """Add the next frames (T, 128) of a natural log-mel; returns the finished samples (S,)."""

    def rest(self, frames: int, device: torch.device) -> Tensor:
        """Add silent frames; returns the finished samples (S,)."""

    def flush(self) -> Tensor:
        """Return the samples (S,) that are left."""


class Voice:
    """A bus of a song while it is rendered: windows, vocoder, and the way back to true time."""

    def __init__(
        self,
        cursor: WindowCursor,
        vocoder: MelStream,
        gain: BusGain,
        *,
        warp: TimeWarp | None = None,
        sample_rate: int = SAMPLE_RATE,
        may_skip: bool = False,
    ) -> None:
        """`sample_rate` is that of the vocoder's sound in Hz.

        `may_skip`: whether windows in which nothing sounds are silent without being rendered.
        """
        self.cursor, self.gain = cursor, gain
        self._vocoder = vocoder
        self._warp = warp
        self._unwarp = None if warp is None else Unwarp(warp, sample_rate)
        self._may_skip = may_skip
        self._peak = -math.inf  # of the log-mels so far
        self._frames = 0  # of the song whose levels have been given
        self._levels: Samples = np.zeros(0, np.float32)  # of mel frames from `_first` on
        self._first = 0

    @property
    def position(self) -> int:
        """The number of samples of the song, at 16 kHz, that the windows done cover."""
        return self._covered(self.cursor.done)

    @property
    def next_position(self) -> int:
        """The same when the next window is done."""
        return self._covered(self.cursor.done + 1)

    def _covered(self, windows: int) -> int:
        if self._warp is None:
            return windows * WINDOW_SAMPLES
        return int(self._warp.inverse(windows * WINDOW_SECONDS) * SAMPLE_RATE + 1e-6)

    def is_silent(self) -> bool:
        """Whether nothing sounds in the next window, and what sounded before has rung out."""
        if not self._may_skip or self.cursor.next_notes():
            return False
        before = self.cursor.previous_mel
        limit = self._peak + RUNG_OUT * DECIBEL
        return before is None or float(before[-LAST_FRAMES:].max()) <= max(limit, LOG_MEL_MIN)

    def skip(self, device: torch.device) -> Samples:
        """Go on over a silent window; returns the samples (S,) of the song that are now final."""
        self.cursor.move_on(torch.full((WINDOW_FRAMES, N_MELS), LOG_MEL_MIN))
        self._add_levels(np.full(WINDOW_FRAMES, LOG_MEL_MIN, np.float32))
        with torch.inference_mode():
            samples = self._vocoder.rest(WINDOW_FRAMES, device)
        return self._in_song(samples)

    def add(self, log_mel: Tensor) -> Samples:
        """Add frames (T, 128), on the vocoder's device; returns the samples (S,) now final."""
        levels = log_mel.amax(1).float().cpu().numpy()
        self._peak = max(self._peak, float(levels.max()))
        self._add_levels(levels)
        with torch.inference_mode():
            samples = self._vocoder.push(log_mel)
        return self._in_song(samples)

    def finish(self) -> Samples:
        """The remaining samples (S,) of the song, after the last frames."""
        with torch.inference_mode():
            samples = self._vocoder.flush()
        last = self._in_song(samples)
        return last if self._unwarp is None else np.concatenate([last, self._unwarp.flush()])

    def take_levels(self, frames: int) -> Samples:
        """The levels of the song's next frames, natural logarithms of amplitude, up to a number.

        A level is that of the loudest mel band.
        """
        wanted = np.arange(self._frames, frames)
        seconds = wanted / FRAME_RATE
        index = wanted
        if self._warp is not None:
            index = (self._warp(seconds) * FRAME_RATE + 1e-6).astype(np.int64)
        known = self._levels[np.minimum(index - self._first, len(self._levels) - 1)]
        self._frames = frames
        if len(index):
            self._levels = self._levels[index[-1] - self._first :]
            self._first = int(index[-1])
        factor = np.maximum(self.gain.level(seconds), MEL_FLOOR)
        return (known + np.log(factor)).astype(np.float32)

    def _add_levels(self, levels: Samples) -> None:
        self._levels = np.concatenate([self._levels, levels])

    def _in_song(self, samples: Tensor) -> Samples:
        """Samples (S,) of the bus, brought back from warped time."""
        sound: Samples = samples.cpu().numpy()
        return sound if self._unwarp is None else self._unwarp.push(sound)
