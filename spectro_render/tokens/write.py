"""Writes scores as token windows; the package's docstring has the grammar of a window.

Notes become sounds of the vocabulary, sounds become events (both in `events`), and the events of
each window become ids. A window that is too long drops sounds (`fit`); if some of them began in
earlier windows, these are written once more without them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spectro_render.constants import (
    MAX_TOKENS,
    SAMPLE_RATE,
    STEPS_PER_WINDOW,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
)
from spectro_render.midi.read import as_score
from spectro_render.midi.score import Score
from spectro_render.tokens.events import Event, Sound, split_events, to_events, to_sounds
from spectro_render.tokens.fit import Page, begun_sounds, fit_page, without_sounds
from spectro_render.tokens.vocabulary import EOS, TokenWindow, Vocabulary

if TYPE_CHECKING:
    from note_seq.protobuf.music_pb2 import NoteSequence
    from pretty_midi import PrettyMIDI

TAIL_SECONDS = 2.5  # rendered at least after the last note has ended, as in training


def tokenize(
    score: Score | NoteSequence | PrettyMIDI, vocabulary: Vocabulary, seconds: float | None = None
) -> list[TokenWindow]:
    """Convert a score to token windows of [0, seconds), by default to the end of its notes.

    By default there are as many windows as the published tokenizer makes. `seconds` changes only
    their number: silent windows are appended, or the list is cut. A note_seq.NoteSequence and a
    pretty_midi.PrettyMIDI are read as scores.
    """
    score = as_score(score)
    sounds = to_sounds(score.notes, vocabulary)
    duration = max([score.duration, *(sound.end for sound in sounds)])
    written = _write_windows(
        split_events(to_events(sounds), duration, vocabulary), sounds, vocabulary
    )
    if seconds is None:
        return written
    count = math.ceil(round(seconds * SAMPLE_RATE) / WINDOW_SAMPLES)
    rests = [rest_window(i, vocabulary) for i in range(len(written), count)]
    return written[:count] + rests


def rest_window(index: int, vocabulary: Vocabulary) -> TokenWindow:
    """A window in which nothing starts, and nothing goes on."""
    return TokenWindow(index, (vocabulary.tie, EOS))


def song_windows(
    score: Score, vocabulary: Vocabulary, duration: float | None = None, least: float | None = None
) -> list[TokenWindow]:
    """Convert a score to the token windows from which its song is rendered.

    They cover the song's sound, of at most `duration` seconds (see `sounding_seconds`). With the
    published vocabulary there are as many as the published tokenizer makes, or more if `least`
    seconds need them.
    """
    if not vocabulary.is_published:
        return tokenize(score, vocabulary, sounding_seconds(score, duration, least))
    windows = tokenize(score, vocabulary)
    if least is None or len(windows) * WINDOW_SECONDS >= min(least, duration or least):
        return windows
    return tokenize(score, vocabulary, min(least, duration or least))


def sounding_seconds(
    score: Score, duration: float | None = None, least: float | None = None
) -> float:
    """The length of a rendered song in seconds, with the end of its sound; at most `duration`.

    That is `least` seconds, by default until TAIL_SECONDS after the last note.
    """
    seconds = score.duration + TAIL_SECONDS if least is None else least
    return seconds if duration is None else min(seconds, duration)


def _write_windows(
    windows: Sequence[list[Event]], sounds: Sequence[Sound], vocabulary: Vocabulary
) -> list[TokenWindow]:
    """Write every window, and all of them again while sounds of earlier windows are dropped."""
    dropped: dict[int, int] = {}  # sound -> index of the window that had no room for it
    is_final = False
    while not is_final:
        written, is_final = _write_once(windows, sounds, dropped, vocabulary)
    counts = Counter(dropped.values())
    return [TokenWindow(index, ids, counts[index]) for index, ids in enumerate(written)]


def _write_once(
    windows: Sequence[list[Event]],
    sounds: Sequence[Sound],
    dropped: dict[int, int],
    vocabulary: Vocabulary,
) -> tuple[list[tuple[int, ...]], bool]:
    """Write the ids of every window, and add the sounds that do not fit to `dropped`.

    Sounds in `dropped` are not written. The second value is False if an added sound began in an
    earlier window, whose ids still contain it.
    """
    written: list[tuple[int, ...]] = []
    held: dict[int, Event] = {}
    ties_end = _ties_end(windows, vocabulary)
    is_final = True
    for index, events in enumerate(windows):
        ties = [held[key] for key in sorted(held)]
        page = Page(index * STEPS_PER_WINDOW, held, ties, without_sounds(dropped, events))
        ids = _write(page, vocabulary)
        if len(ids) > MAX_TOKENS:
            page, surplus = fit_page(page, sounds, vocabulary)
            ids = _write(page, vocabulary)
            dropped.update(dict.fromkeys(surplus, index))
            is_final = is_final and surplus <= begun_sounds(events)
        written.append(ids)
        held = page.held_after(ties_end)
    return written, is_final


def _ties_end(windows: Sequence[list[Event]], vocabulary: Vocabulary) -> float:
    """The step from which events no longer change tie sections.

    In the published vocabulary it is the step of the last event, in others it is infinity.
    """
    if not vocabulary.is_published:
        return math.inf
    return next((events[-1].step for events in reversed(windows) if events), math.inf)


def _write(page: Page, vocabulary: Vocabulary) -> tuple[int, ...]:
    writer = _Writer(page.start, vocabulary)
    writer.ties(page.ties)
    writer.events(page.events)
    return (*writer.ids, EOS)


class _Writer:
    """Writes the ids of one window, leaving out programs and velocities already in force.

    A dense hour of music has a million ids, so the loops call no Python functions.
    """

    def __init__(self, start: int, vocabulary: Vocabulary) -> None:
        self.ids: list[int] = []
        self._step = start
        self._program = -1
        self._velocity_bin = -1
        self._shift_id = vocabulary.shift - start
        self._pitch_id = vocabulary.pitch
        self._velocity_id = vocabulary.velocity
        self._tie_id = vocabulary.tie
        self._program_id = vocabulary.program
        self._drum_id = vocabulary.drum
        self._ties_have_velocity = vocabulary.velocity_bins > 1

    def ties(self, onsets: Iterable[Event]) -> None:
        """Write the tie section, for held notes that began with these onsets."""
        ids, program_in_force, velocity_in_force = self.ids, self._program, self._velocity_bin
        for _, _, _, program, pitch, velocity_bin in onsets:
            if program != program_in_force:
                program_in_force = program
                ids.append(self._program_id + program)
            if velocity_bin != velocity_in_force and self._ties_have_velocity:
                velocity_in_force = velocity_bin
                ids.append(self._velocity_id + velocity_bin)
            ids.append(self._pitch_id + pitch)
        ids.append(self._tie_id)
        self._program, self._velocity_bin = program_in_force, velocity_in_force

    def events(self, events: Iterable[Event]) -> None:
        """Write the onsets, offsets and drum hits that follow the tie section."""
        ids = self.ids
        for step, _, is_drum, program, pitch, velocity_bin in events:
            if step != self._step:
                self._step = step
                ids.append(self._shift_id + step)
            if program != self._program and not is_drum:
                self._program = program
                ids.append(self._program_id + program)
            if velocity_bin != self._velocity_bin:
                self._velocity_bin = velocity_bin
                ids.append(self._velocity_id + velocity_bin)
            ids.append((self._drum_id if is_drum else self._pitch_id) + pitch)
