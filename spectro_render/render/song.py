"""The state of a song while it is rendered: its next window, and its sound so far."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectro_render.audio.limiter import Limiter
from spectro_render.constants import FULL_RATE, HOP_LENGTH, MEL_FLOOR, SAMPLE_RATE
from spectro_render.network.frames import NoteMemory
from spectro_render.options import Sampling
from spectro_render.tokens.read import window_notes
from spectro_render.tokens.vocabulary import TokenWindow, Vocabulary, WindowNote
from spectro_render.tokens.write import rest_window
from spectro_render.vocoder.band_sound import BandStream, FullBandVocoder
from spectro_render.vocoder.melgan import Vocoder
from spectro_render.vocoder.streaming import StreamingVocoder

Samples: TypeAlias = npt.NDArray[np.float32]

RUNG_OUT = -60.0  # dB under the loudest moment
FALLEN, FALL_FRAMES = -20.0, 25  # dB, on the mean of half a second: then a sound is ringing out
_DECIBEL = math.log(10) / 20  # in natural logarithms of amplitude
FADE_OUT = 800  # samples at 16 kHz at the end, 50 ms, so that no sound ends in a step


class WindowCursor:
    """A position in the token windows of a song, with the notes and the mel before it."""

    def __init__(
        self, windows: Collection[TokenWindow], vocabulary: Vocabulary, memory_steps: int
    ) -> None:
        """`memory_steps` is how long ended notes are remembered, as in ModelConfig."""
        self.count = len(windows)  # with those that are added
        self._coming = iter(windows)
        self._next = list(islice(self._coming, 2))  # the next window and the one after it
        self._vocabulary = vocabulary
        self._memory = NoteMemory(memory_steps)
        self._notes: list[WindowNote] | None = None  # of the next window
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
        if self._notes is None:  # the memory goes on to the window after it
            notes, *following = (
                window_notes(window.ids, self._vocabulary) for window in self._next
            )
            self._notes = self._memory.recall(notes, *following)
        return self._notes

    def add_rest(self) -> None:
        """Append a window in which the last notes ring out."""
        self._next.append(rest_window(self.count, self._vocabulary))
        self.count += 1

    def move_on(self, log_mel: Tensor) -> None:
        """Go to the next window, as the current one is rendered: its log-mel (256, 128)."""
        self.previous_mel, self._notes = log_mel, None
        self.done += 1
        self._next = [*self._next[1:], *islice(self._coming, 1)]


@dataclass(frozen=True)
class Ending:
    """Where a song ends, in samples at 16 kHz."""

    least: int
    most: int  # the song goes on until it has rung out, but not further than here
    is_cut: bool = False  # in the middle of the music: then the end is not faded


class SongSound:
    """Turns the mels of a song into samples: vocoder, fades, limiter, cut to length."""

    def __init__(
        self,
        vocoder: Vocoder,
        gain: float,
        ending: Ending,
        *,
        live: bool,
        notes: Tensor | None = None,
        fades: Sequence[tuple[float, float]] = (),
        band: BandStream | None = None,
    ) -> None:
        """`gain` is in dB; `live` and `notes` as in StreamingVocoder, `fades` as in Score.

        With a `band` the sound has it above the vocoder's, and comes at 48 kHz.
        """
        self._fades = np.array(fades, np.float64).reshape(-1, 2)
        self._faded = 0  # samples
        self._vocoder: StreamingVocoder | FullBandVocoder
        self._vocoder = StreamingVocoder(vocoder, live=live, notes=notes)
        self.sample_rate = SAMPLE_RATE  # Hz, of the samples that are returned
        if band is not None:
            self._vocoder = FullBandVocoder(self._vocoder, band)
            self.sample_rate = FULL_RATE
        self._limiter = Limiter(gain, sample_rate=self.sample_rate)
        self._ending, self._end = ending, ending.least  # samples at 16 kHz
        self._given = 0  # samples that are returned
        self._frames = 0  # of the mels so far
        self._peak = self._loudest = -math.inf  # of their log-mels, and of means of FALL_FRAMES
        self._recent: Samples = np.zeros(FALL_FRAMES - 1, np.float32) + math.log(MEL_FLOOR)
        self.rings_on = False  # whether it needs another window

    def leave_peaks(self) -> None:
        """Limit no peaks, as the level is chosen when the sound is complete."""
        self._limiter.lift()

    @property
    def length(self) -> int | None:
        """The number of samples, if it does not depend on how long the last notes ring."""
        is_known = self._ending.least == self._ending.most
        return self._ending.least * self.sample_rate // SAMPLE_RATE if is_known else None

    def add(self, log_mel: Tensor) -> Samples:
        """Add frames (T, 128), on the vocoder's device, and return the samples (S,) now final."""
        if self._ending.most > self._ending.least:
            self._find_end(log_mel.amax(1).float().cpu().numpy())
        with torch.inference_mode():
            samples = self._vocoder.push(log_mel)
        return self._cut(self._limiter.push(self._fade(samples)))

    def finish(self) -> Samples:
        """The remaining samples (S,), after the last frames."""
        with torch.inference_mode():
            samples = self._vocoder.flush()
        last = self._limiter.push(self._fade(samples)), self._limiter.flush()
        return self._cut(np.concatenate(last))

    def _find_end(self, levels: Samples) -> None:
        """Set the end to the first frame that is RUNG_OUT under the loudest one of the song.

        A sound that has not begun to fall is none that rings out: it ends as soon as it may. Levels
        are natural logarithms, one for each of the next frames.
        """
        first, self._frames = self._frames, self._frames + len(levels)
        recent = np.concatenate([self._recent, levels])
        means = np.convolve(recent, np.full(FALL_FRAMES, 1 / FALL_FRAMES), mode="valid")
        self._recent = recent[len(recent) - FALL_FRAMES + 1 :]
        self._peak = max(self._peak, float(levels.max()))
        self._loudest = max(self._loudest, float(means.max()))
        least, most = self._ending.least, self._ending.most
        begin = max(0, -(-least // HOP_LENGTH) - first)  # the first frame that may be the end
        if begin >= len(levels) or (first * HOP_LENGTH > least and not self.rings_on):
            return
        has_fallen = means[begin] < self._loudest + FALLEN * _DECIBEL
        if not self.rings_on and not has_fallen:
            return
        quiet = np.flatnonzero(levels[begin:] < self._peak + RUNG_OUT * _DECIBEL)
        end = first + begin + int(quiet[0]) if len(quiet) else self._frames
        self._end = min(max(end * HOP_LENGTH, least), most)
        self.rings_on = not len(quiet) and self._end < most

    def _fade(self, samples: Tensor) -> Samples:
        """The next samples (S,), as loud as the song is there."""
        sound: Samples = samples.cpu().numpy()
        if len(self._fades):
            seconds = (self._faded + np.arange(len(sound))) / self.sample_rate
            sound = sound * np.interp(seconds, *self._fades.T).astype(np.float32)
        self._faded += len(sound)
        return sound

    def _cut(self, samples: Samples) -> Samples:
        end = self._end * self.sample_rate // SAMPLE_RATE
        fade_out = FADE_OUT * self.sample_rate // SAMPLE_RATE
        part = samples[: max(0, end - self._given)]
        begin = end - fade_out
        if not self._ending.is_cut and self._given + len(part) > begin and not self.rings_on:
            places = np.arange(self._given, self._given + len(part)) - begin
            share = np.clip((places + 1) / fade_out, 0, 1)
            part = part * (0.5 + 0.5 * np.cos(np.pi * share)).astype(np.float32)
        self._given += len(part)
        return part


class Song:
    """A song that is being rendered: its next window, its sampling options and its sound so far.

    `dropped` says how many notes did not fit, by the index of the window.
    """

    def __init__(
        self,
        cursor: WindowCursor,
        sampling: Sampling,
        sound: SongSound,
        dropped: Mapping[int, int],
    ) -> None:
        self.cursor, self.sampling, self.sound = cursor, sampling, sound
        self.dropped = dropped

    @property
    def sample_rate(self) -> int:
        """The sample rate of the sound in Hz."""
        return self.sound.sample_rate

    @property
    def is_over(self) -> bool:
        """Whether the last window has been rendered."""
        return self.cursor.is_over

    def take_ready(self, log_mel: Tensor) -> Samples:
        """Add the log-mel (256, 128) of a rendered window, on the vocoder's device.

        Returns the samples (S,) that are now final.
        """
        samples = self.sound.add(log_mel)
        if self.is_over and self.sound.rings_on:
            self.cursor.add_rest()
        return np.concatenate([samples, self.sound.finish()]) if self.is_over else samples
