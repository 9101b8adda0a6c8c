"""Turns a mel that comes window by window into sound, piece by piece.

A piece is vocoded together with the frames on both sides on which it depends (the vocoder's
receptive field), so that the joined pieces equal the sound of the whole mel. With larger pieces
less is computed twice, with smaller ones the sound is ready sooner. A vocoder whose samples depend
on the whole mel gets it at the end. If torch has several threads, parts of a piece are vocoded side
by side.
"""

from functools import partial

import torch
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, LOG_MEL_MIN, N_MELS, WINDOW_FRAMES
from spectro_render.vocoder.harmonic_map import notes_between
from spectro_render.vocoder.melgan import Vocoder
from spectro_render.vocoder.threads import side_by_side

LEAST_FRAMES = 128  # at least in a piece, except the last; in shorter ones most is computed twice
LIVE_FRAMES = 4 * WINDOW_FRAMES  # at most in a piece, for live playback
PATIENT_FRAMES = 8 * WINDOW_FRAMES  # otherwise: the bundled vocoder computes 1/16 twice
PART_FRAMES = 256  # at least, in parts of a piece that are vocoded side by side
BEYOND = 2  # frames after a period of the vocoder on which the samples of its frames depend


class StreamingVocoder:
    """Vocodes a long mel piece by piece, with the samples that the whole mel would give.

    It holds at most one piece, the frames whose samples may still change, and the context on both
    sides.
    """

    def __init__(self, vocoder: Vocoder, *, live: bool = True, notes: Tensor | None = None) -> None:
        """`live`: vocode short pieces as soon as possible, rather than wait for large ones.

        A piece is at least as long as the sound before it, up to LIVE_FRAMES. So sound that is
        played from the first piece on does not end before the next one is ready, if windows are
        rendered twice as fast as they are played.
        `notes` are those of the whole signal, (N, 5), as `harmonic_map` describes them.
        """
        self._vocoder = vocoder
        self._notes = notes
        self._live, self._most = live, LIVE_FRAMES if live else PATIENT_FRAMES
        reach, period = vocoder.receptive_field, vocoder.period
        self._is_local = reach is not None
        # A receptive field is that of any frame: it includes all of the other frames of its period.
        # Pieces begin and end with a period, which saves nearly one on each side.
        self._before = self._after = 0  # frames
        if reach is not None:
            self._before = -(-(reach - period + 1) // period) * period
            self._after = self._before + (BEYOND if period > 1 else 0)
        self._waiting: list[Tensor] = []  # all frames, for a vocoder that needs the whole
        self._frames: Tensor | None = None  # (T, 128), from frame `_start` of the whole
        self._start = 0
        self._done = 0  # frames whose samples have been returned

    def push(self, log_mel: Tensor) -> Tensor:
        """Add the next frames (T, 128) of a natural log-mel; returns the finished samples (S,).

        S may be 0.
        """
        if not self._is_local:
            self._waiting.append(log_mel)
            return log_mel.new_zeros(0)
        self._frames = log_mel if self._frames is None else torch.cat([self._frames, log_mel])
        pieces = [log_mel.new_zeros(0)]
        period = self._vocoder.period
        certain = (self._start + len(self._frames) - self._after) // period * period
        while certain - self._done >= self._least:
            pieces.append(self._vocode(self._frames, min(certain, self._done + self._most)))
        return torch.cat(pieces)

    @property
    def _least(self) -> int:
        """The number of frames that the next piece has to have."""
        return min(max(LEAST_FRAMES, self._done), self._most) if self._live else self._most

    def flush(self) -> Tensor:
        """Return the samples (S,) of the frames that are left; the next `push` starts anew."""
        if self._waiting:
            self._frames, self._waiting = torch.cat(self._waiting), []
        if self._frames is None:
            return torch.zeros(0)
        samples = self._vocode(self._frames, self._start + len(self._frames))
        self._frames, self._start, self._done = None, 0, 0
        return samples

    def rest(self, frames: int, device: torch.device) -> Tensor:
        """Add silent frames, which are not vocoded; returns all samples (S,) up to their end.

        `frames` is a multiple of the vocoder's period. A vocoder that needs the whole mel gets the
        frames.
        """
        if not self._is_local:
            return self.push(torch.full((frames, N_MELS), LOG_MEL_MIN, device=device))
        period = self._vocoder.period
        silence = torch.full(
            (-(-self._after // period) * period, N_MELS), LOG_MEL_MIN, device=device
        )
        begin, pieces = 0, []
        if self._frames is not None:
            begin = self._start + len(self._frames)
            if begin > self._done:
                self._frames = torch.cat([self._frames, silence])
                pieces.append(self._vocode(self._frames, begin))
        pieces.append(torch.zeros(frames * HOP_LENGTH, device=device))
        self._done = begin + frames
        self._start = max(0, self._done - len(silence))
        self._frames = silence[: self._done - self._start]
        return torch.cat(pieces)

    @torch.no_grad()
    def _vocode(self, frames: Tensor, end: int) -> Tensor:
        """The samples up to frame `end` that were not returned yet; drops unneeded frames."""
        length, period = end - self._done, self._vocoder.period
        count = 1
        # On a GPU parts would wait for one another.
        if self._is_local and frames.device.type == "cpu":
            count = max(1, min(torch.get_num_threads(), length // PART_FRAMES))
        bounds = [self._done + length * i // count // period * period for i in range(count)]
        parts = zip(bounds, [*bounds[1:], end], strict=True)
        samples = side_by_side([partial(self._part, frames, *part) for part in parts])
        self._done = end
        keep_from = max(0, end - self._before) // period * period
        self._frames = frames[keep_from - self._start :]
        self._start = keep_from
        return torch.cat(samples)

    def _part(self, frames: Tensor, first: int, end: int) -> Tensor:
        """The samples of the frames from `first` up to `end`."""
        begin = max(self._start, first - self._before)
        piece = frames[begin - self._start :]
        if self._is_local:
            piece = piece[: end + self._after - begin]
        if self._notes is None:
            samples = self._vocoder(piece[None])[0]
        else:
            heard = notes_between(self._notes, begin, begin + len(piece))
            samples = self._vocoder(piece[None], [heard])[0]
        return samples[(first - begin) * HOP_LENGTH : (end - begin) * HOP_LENGTH]
