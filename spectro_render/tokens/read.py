"""Reads the ids of token windows as notes; the package's docstring has their grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from spectro_render.constants import STEPS_PER_SECOND, STEPS_PER_WINDOW
from spectro_render.errors import TokenError
from spectro_render.midi.score import Note, Score
from spectro_render.tokens.vocabulary import (
    EOS,
    MIDI_VALUES,
    SHIFT_VALUES,
    TokenWindow,
    Vocabulary,
    WindowNote,
)

_Key = tuple[int, int]  # program class, pitch


def window_notes(ids: Sequence[int], vocabulary: Vocabulary) -> list[WindowNote]:
    """Read the notes of one window, sorted by onset, tied ones first; ids after EOS are ignored.

    Odd sequences are tolerated: an offset without a note is ignored, an onset of a sounding pitch
    ends the note before it, PAD and UNK are skipped, onsets past the window are left out. Raises
    TokenError for an id outside the vocabulary, and for a window without the tie mark.
    """
    meanings = _meanings(vocabulary)
    reader = _Reader(vocabulary)
    for token in ids:
        if not 0 <= token < len(meanings):
            raise TokenError(
                f"token id {token} is outside the vocabulary of {len(meanings)} ids",
                "check that the tokens were made for this model",
            )
        if token == EOS:
            break
        read, value = meanings[token]
        read(reader, value)
    return reader.finish()


def detokenize(windows: Iterable[TokenWindow], vocabulary: Vocabulary) -> Score:
    """Convert token windows, in order, to a score; held notes are joined across windows.

    Times are multiples of 10 ms, programs are class programs, velocities the middle of their bin.
    A note that the next window does not tie ends with its window. The score's duration is the end
    of the last window. Raises TokenError as `window_notes` does.
    """
    notes: list[Note] = []
    held: dict[_Key, tuple[int, int]] = {}  # onset step and velocity bin of notes that may continue
    end = 0
    for window in windows:
        start = window.index * STEPS_PER_WINDOW
        before, held = held, {}
        for note in window_notes(window.ids, vocabulary):
            key = (note.program, note.pitch)
            begun = (start + note.onset, note.velocity_bin)
            if note.is_tied:
                begun = before.pop(key, begun)
            if note.offset == STEPS_PER_WINDOW and not note.is_drum:
                held[key] = begun
            else:
                notes.append(_note(key, begun, start + note.offset, note.is_drum, vocabulary))
        notes += [_note(key, begun, end, False, vocabulary) for key, begun in before.items()]
        end = start + STEPS_PER_WINDOW
    notes += [_note(key, begun, end, False, vocabulary) for key, begun in held.items()]
    notes.sort(key=lambda note: (note.start, note.is_drum, note.program, note.pitch))
    return Score(notes=tuple(notes), duration=end / STEPS_PER_SECOND)


class _Reader:
    """Collects the notes of one window, id by id.

    There is a method for each kind of id, called with the value that the id carries.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._notes: list[WindowNote] = []
        self._sounding: dict[_Key, WindowNote] = {}
        self._after_tie = False
        self._step = 0
        self._program = 0
        self._velocity_bin = vocabulary.velocity_bins

    def skip(self, value: int) -> None:
        pass

    def shift(self, value: int) -> None:
        self._step = value

    def program(self, value: int) -> None:
        self._program = value

    def velocity(self, value: int) -> None:
        self._velocity_bin = value

    def tie(self, value: int) -> None:
        self._after_tie = True

    def pitch(self, value: int) -> None:
        key = self._program, value
        self._end(key)
        if self._velocity_bin:
            self._sounding[key] = WindowNote(
                value,
                self._program,
                self._velocity_bin,
                is_drum=False,
                is_tied=not self._after_tie,
                onset=self._step,
                offset=STEPS_PER_WINDOW,
            )

    def drum(self, value: int) -> None:
        step = self._step
        self._notes.append(
            WindowNote(value, 0, self._velocity_bin, True, False, onset=step, offset=step + 1)
        )

    def finish(self) -> list[WindowNote]:
        if not self._after_tie:
            raise TokenError(
                "a token window has no tie mark", "begin every window with its tie section"
            )
        notes = [*self._notes, *self._sounding.values()]
        notes = [note for note in notes if note.onset < STEPS_PER_WINDOW]
        notes.sort(key=lambda n: (n.onset, not n.is_tied, n.is_drum, n.program, n.pitch))
        return notes

    def _end(self, key: _Key) -> None:
        note = self._sounding.pop(key, None)
        if note:
            offset = min(self._step, STEPS_PER_WINDOW)
            self._notes.append(note._replace(offset=offset))


_Meaning = tuple[Callable[[_Reader, int], None], int]  # the method for an id, and the id's value


@lru_cache(maxsize=8)
def _meanings(vocabulary: Vocabulary) -> tuple[_Meaning, ...]:
    """How to read each id, from 0 on."""
    kinds = (
        (_Reader.skip, 3),  # PAD, EOS, UNK
        (_Reader.shift, SHIFT_VALUES),
        (_Reader.pitch, MIDI_VALUES),
        (_Reader.velocity, vocabulary.velocity_bins + 1),
        (_Reader.tie, 1),
        (_Reader.program, MIDI_VALUES),
        (_Reader.drum, MIDI_VALUES),
    )
    return tuple((read, value) for read, count in kinds for value in range(count))


def _note(
    key: _Key, begun: tuple[int, int], end: int, is_drum: bool, vocabulary: Vocabulary
) -> Note:
    program, pitch = key
    onset, velocity_bin = begun
    return Note(
        start=onset / STEPS_PER_SECOND,
        end=max(end, onset + 1) / STEPS_PER_SECOND,
        pitch=pitch,
        velocity=vocabulary.bin_velocity(velocity_bin),
        program=program,
        is_drum=is_drum,
    )
