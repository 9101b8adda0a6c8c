"""The vocabulary of note ids, and the records of a window: its ids, and its notes."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, NamedTuple

PAD, EOS, UNK = 0, 1, 2
MAX_VELOCITY = 127
MIDI_VALUES = 128  # pitches, programs and drum sounds alike
SHIFT_VALUES = 1001  # shifts of 0..1000 steps
SPARE_IDS = 100  # rows of the published embedding table that no event uses ...
EMBEDDING_MULTIPLE = 128  # ... and what its height is rounded up to

# The instrument classes of the Slakh2100 data set, each by its first program. A program belongs to
# the nearest class at or below it.
SLAKH_PROGRAMS = (
    *(0, 4, 8, 16, 24, 26, 29, 32, 33, 40, 41, 42, 43, 46, 47, 48, 50),
    *(52, 55, 56, 57, 58, 60, 61, 64, 66, 67, 68, 69, 70, 71, 73, 80, 88),
)


@dataclass(frozen=True)
class Vocabulary:
    """The meaning of token ids; the default is the vocabulary of the published checkpoints.

    Raises ValueError for velocity bins outside 1..127 or an unknown set of programs.
    """

    velocity_bins: int = 1
    programs: Literal["slakh34", "full"] = "slakh34"

    def __post_init__(self) -> None:
        if not 1 <= self.velocity_bins <= MAX_VELOCITY:
            raise ValueError(f"velocity_bins must be 1..{MAX_VELOCITY}, not {self.velocity_bins}")
        if self.programs not in ("slakh34", "full"):
            raise ValueError(f"programs must be 'slakh34' or 'full', not {self.programs!r}")

    @property
    def is_published(self) -> bool:
        """Whether this is the published checkpoints' vocabulary, whose irregularities are kept."""
        return self == Vocabulary()

    @property
    def shift(self) -> int:
        """Id of `shift 0`; the ids of 1..1000 steps follow."""
        return UNK + 1

    @property
    def pitch(self) -> int:
        """Id of `pitch 0`; the ids of pitches 1..127 follow."""
        return self.shift + SHIFT_VALUES

    @property
    def velocity(self) -> int:
        """Id of `velocity 0` (off); the ids of bins 1..velocity_bins follow."""
        return self.pitch + MIDI_VALUES

    @property
    def tie(self) -> int:
        """Id of the mark that ends the tie section."""
        return self.velocity + self.velocity_bins + 1

    @property
    def program(self) -> int:
        """Id of `program 0`; the ids of programs 1..127 follow."""
        return self.tie + 1

    @property
    def drum(self) -> int:
        """Id of `drum 0`; the ids of drum sounds 1..127 follow."""
        return self.program + MIDI_VALUES

    @property
    def size(self) -> int:
        """Number of ids in use, PAD, EOS and UNK included."""
        return self.drum + MIDI_VALUES

    @property
    def num_embeddings(self) -> int:
        """Rows of the embedding table: 1536 for the published checkpoints."""
        return -(-(self.size + SPARE_IDS) // EMBEDDING_MULTIPLE) * EMBEDDING_MULTIPLE

    def program_class(self, program: int) -> int:
        """The program that stands for General MIDI `program` (0..127) in this vocabulary."""
        if self.programs == "full":
            return program
        return SLAKH_PROGRAMS[bisect_right(SLAKH_PROGRAMS, program) - 1]

    def velocity_bin(self, velocity: int) -> int:
        """Bin 0..velocity_bins of a MIDI velocity 0..127; 0 is off."""
        return -(-velocity * self.velocity_bins // MAX_VELOCITY)

    def bin_velocity(self, velocity_bin: int) -> int:
        """A MIDI velocity from the middle of a bin 1..velocity_bins."""
        middle = math.ceil((velocity_bin - 0.5) * MAX_VELOCITY / self.velocity_bins)
        return min(middle, velocity_bin * MAX_VELOCITY // self.velocity_bins)


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """The token ids of one window: 5.12 s of music."""

    index: int  # the window starts at index * 5.12 s
    ids: tuple[int, ...]  # at most 2048, the last one EOS, no PAD
    dropped: int = 0  # notes that did not fit into this window and are left out of all windows


def rest_window(index: int, vocabulary: Vocabulary) -> TokenWindow:
    """A window in which nothing starts, and nothing goes on."""
    return TokenWindow(index, (vocabulary.tie, EOS))


class WindowNote(NamedTuple):
    """A note of one window."""

    pitch: int
    program: int  # class of the vocabulary; 0 for drums
    velocity_bin: int  # 1..velocity_bins; the top bin where the ids have none
    is_drum: bool
    is_tied: bool  # held from the window before
    onset: int  # 10 ms step from the window's start, 0..511; 0 if tied
    offset: int  # 10 ms step; 512 if it sounds to the window's end; onset + 1 for drums
