"""The state of a song while it is rendered: its buses, and its sound so far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectro_render.audio.limiter import Limiter
from spectro_render.constants import HOP_LENGTH, MEL_FLOOR, SAMPLE_RATE, WINDOW_SAMPLES
from spectro_render.midi.parts import Part
from spectro_render.options import Progress, Sampling
from spectro_render.render.mixer import Mixer
from spectro_render.render.voice import DECIBEL, RUNG_OUT, Voice

Samples: TypeAlias = npt.NDArray[np.float32]

FALLEN, FALL_FRAMES = -20.0, 25  # dB, on the mean of half a second: then a sound is ringing out
FADE_OUT = 800  # samples at 16 kHz at the end, 50 ms, so that no sound ends in a step


@dataclass(frozen=True)
class Ending:
    """Where a song ends, in samples at 16 kHz."""

    least: int
    most: int  # the song goes on until it has rung out, but not further than here
    is_cut: bool = False  # in the middle of the music: then the end is not faded


class SongSound:
    """Mixes the sound of a song's buses: sum, gain, limiter, cut to length."""

    def __init__(
        self, mixer: Mixer, gain: float, ending: Ending, sample_rate: int = SAMPLE_RATE
    ) -> None:
        """`gain` is in dB, `sample_rate` that of the buses in Hz."""
        self._mixer, self.sample_rate = mixer, sample_rate
        self._gain = np.float32(10 ** (gain / 20))
        self._limiter = Limiter(gain, sample_rate=sample_rate)
        self._ending, self._end = ending, ending.least  # samples at 16 kHz
        self._given = 0  # samples that are returned
        self._frames = 0  # whose levels are known
        self._peak = self._loudest = -math.inf  # of the levels, and of means of FALL_FRAMES
        self._recent: Samples = np.zeros(FALL_FRAMES - 1, np.float32) + math.log(MEL_FLOOR)
        self.rings_on = False  # whether it needs another window
        self._waiting: list[Samples] = []  # parts (P, C, S) of sound that the limiter holds

    def leave_peaks(self) -> None:
        """Limit no peaks, as the level is chosen when the sound is complete."""
        self._limiter.lift()

    @property
    def length(self) -> int | None:
        """The number of samples, if it does not depend on how long the last notes ring."""
        is_known = self._ending.least == self._ending.most
        return self._ending.least * self.sample_rate // SAMPLE_RATE if is_known else None

    def add(self, pieces: Sequence[Samples], *, is_last: bool = False) -> tuple[Samples, Samples]:
        """Add the next samples (S,) of each bus; returns those of the mix that are now final.

        They are (C, S), limited; and (P, C, S) of the parts that they are the sum of, before the
        limiter. After the last ones, nothing is kept back.
        """
        parts = self._mixer.push(pieces)
        limited = self._limiter.push(parts.sum(0) if len(parts) > 1 else parts[0])
        if is_last:
            limited = np.concatenate([limited, self._limiter.flush()], axis=1)
        self._waiting.append(parts)
        unlimited = np.concatenate(self._waiting, axis=2)
        self._waiting = [unlimited[..., limited.shape[1] :]]
        both = np.concatenate([limited[None], unlimited[..., : limited.shape[1]] * self._gain])
        cut = self._cut(both)
        return cut[0], cut[1:]

    def find_end(self, levels: Samples) -> None:
        """Set the end to the first frame that is RUNG_OUT under the loudest one of the song.

        A sound that has not begun to fall is none that rings out: it ends as soon as it may. Levels
        are natural logarithms, one for each of the next frames.
        """
        if self._ending.most <= self._ending.least:
            return
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
        has_fallen = means[begin] < self._loudest + FALLEN * DECIBEL
        if not self.rings_on and not has_fallen:
            return
        quiet = np.flatnonzero(levels[begin:] < self._peak + RUNG_OUT * DECIBEL)
        end = first + begin + int(quiet[0]) if len(quiet) else self._frames
        self._end = min(max(end * HOP_LENGTH, least), most)
        self.rings_on = not len(quiet) and self._end < most

    def _cut(self, samples: Samples) -> Samples:
        """The next samples (..., S), as far as the song goes, faded at its end."""
        end = self._end * self.sample_rate // SAMPLE_RATE
        fade_out = FADE_OUT * self.sample_rate // SAMPLE_RATE
        part = samples[..., : max(0, end - self._given)]
        begin = end - fade_out
        if not self._ending.is_cut and self._given + part.shape[-1] > begin and not self.rings_on:
            places = np.arange(self._given, self._given + part.shape[-1]) - begin
            share = np.clip((places + 1) / fade_out, 0, 1)
            part = part * (0.5 + 0.5 * np.cos(np.pi * share)).astype(np.float32)
        self._given += part.shape[-1]
        return part


class Song:
    """A song that is being rendered: its buses, its sampling options and its sound so far.

    `dropped` says how many notes did not fit, by the index of the window.
    """

    def __init__(
        self,
        voices: Sequence[Voice],
        count: int,
        sampling: Sampling,
        sound: SongSound,
        dropped: Mapping[int, int],
        channels: int = 1,
        parts: tuple[Part, ...] = (),
    ) -> None:
        """`count` is the number of windows of the song, `channels` that of its sound.

        `parts` are those whose sound is wanted beside the mix.
        """
        self.voices, self.count, self.sampling, self.sound = voices, count, sampling, sound
        self.dropped, self.channels, self.parts = dropped, channels, parts
        self.stems: Samples = np.zeros((0, channels, 0), np.float32)  # (P, C, S), see `take_ready`
        self._due: list[Voice] = []  # in this round
        self.sounding: list[Voice] = []  # those of them in which something sounds
        self._round = 0, 0  # samples that are covered at its begin and its end

    @property
    def sample_rate(self) -> int:
        """The sample rate of the sound in Hz."""
        return self.sound.sample_rate

    @property
    def is_over(self) -> bool:
        """Whether the last window has been rendered."""
        return self._done >= self.count * WINDOW_SAMPLES

    @property
    def _done(self) -> int:
        """The number of samples at 16 kHz that the windows done cover."""
        return min(voice.position for voice in self.voices)

    @property
    def done(self) -> int:
        """The number of windows that are rendered."""
        return self._done // WINDOW_SAMPLES

    def begin_round(self) -> None:
        """Choose the buses whose next window is due; `sounding` has those that are not silent.

        Due are those that are furthest behind: all of them, unless some are bent.
        """
        until = (self.done + 1) * WINDOW_SAMPLES
        self._due = [voice for voice in self.voices if voice.position < until]
        for voice in self._due:
            if voice.cursor.is_over:
                voice.cursor.add_rest()
        self.sounding = [voice for voice in self._due if not voice.is_silent()]
        ends = (v.next_position if v in self._due else v.position for v in self.voices)
        self._round = self._done, min(ends)

    def progress(self, share: float = 0.0) -> Progress:
        """The progress of the song, when `share` of the windows that are due is done."""
        begin, end = self._round if share else (self._done, self._done)
        number, rest = divmod(begin, WINDOW_SAMPLES)
        done = rest / WINDOW_SAMPLES + share * ((end - begin) / WINDOW_SAMPLES)
        return Progress(number + 1, self.count, min(done, 1.0))

    def take_ready(self, mels: Sequence[Tensor], device: torch.device) -> Samples:
        """End a round: add the log-mels (256, 128) of the buses in `sounding`.

        Returns the samples (C, S) that are now final; `stems` has those of the parts.
        """
        made = dict(zip(self.sounding, mels, strict=True))
        pieces = []
        for voice in self.voices:
            if voice in made:
                pieces.append(voice.add(made[voice].to(device)))
            elif voice in self._due:
                pieces.append(voice.skip(device))
            else:
                pieces.append(np.zeros(0, np.float32))
        frames = self._done // HOP_LENGTH
        levels = np.max([voice.take_levels(frames) for voice in self.voices], axis=0)
        if len(levels):
            self.sound.find_end(levels)
        if self.is_over and self.sound.rings_on:
            self.count += 1
        samples, parts = self.sound.add(pieces)
        if self.is_over:
            last, last_parts = self.sound.add([v.finish() for v in self.voices], is_last=True)
            samples = np.concatenate([samples, last], axis=1)
            parts = np.concatenate([parts, last_parts], axis=2)
        self.stems = parts
        return samples
