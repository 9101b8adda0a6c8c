"""Score -> token windows: what the note encoder reads, and the way back.

A window covers 5.12 s. Its ids are the notes held from before (program and pitch of each), the
`tie` mark, then every onset, offset and drum hit in time order, and EOS:

    program pitch ... tie | shift program velocity pitch ... shift velocity drum ... | EOS

`shift` carries the 10 ms step counted from the window's start; a program or velocity equal to the
one in force is left out; velocity 0 is an offset; drum hits have no offset.

`Vocabulary()` is that of the published checkpoints and is written exactly as they were trained:
- events are sorted by their time in seconds, so within one step an onset may precede an offset;
- the first offset of a pitch ends every note of that program class and pitch;
- windows that begin after the last event repeat the notes held before the events of its step.

Every other vocabulary gets tidied notes instead, which `window_notes` reads back unambiguously:
- times lie on the 10 ms grid, and a note lasts at least one step;
- notes of one program and pitch never overlap: a second onset strikes the pitch anew and it
  sounds until the latest end; onsets in the same step are one note, the loudest, with the latest
  end;
- within a step all offsets precede all onsets, and an offset on the edge of two windows belongs
  to the first, so the tie section names exactly the notes that sound at the window's first frame;
- with more than one velocity bin, the tie section also carries the velocity of each held note.

A window that would exceed 2048 ids drops notes, each one whole: onset, offset and ties. Notes that
began in earlier windows stay, then the loudest, then the longest; equals are thinned evenly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from spectro_render.constants import (
    MAX_TOKENS,
    SAMPLE_RATE,
    STEPS_PER_WINDOW,
    WINDOW_SAMPLES,
)
from spectro_render.midi.score import Score
from spectro_render.tokens.events import Event, Sound, split_events, to_events, to_sounds
from spectro_render.tokens.fit import Page, begun_sounds, fit_page, without_sounds
from spectro_render.tokens.vocabulary import EOS, TokenWindow, Vocabulary

TAIL_SECONDS = 2.5  # what rings on after the last note, as in training


def tokenize(
    score: Score, vocabulary: Vocabulary, seconds: float | None = None
) -> list[TokenWindow]:
    """The windows that cover [0, seconds); by default as many as the published tokenizer makes.

    More seconds only append windows, fewer cut the list: windows never depend on `seconds`.
    """
    sounds = to_sounds(score.notes, vocabulary)
    duration = max([score.duration, *(sound.end for sound in sounds)])
    written = _write_windows(
        split_events(to_events(sounds), duration, vocabulary), sounds, vocabulary
    )
    if seconds is None:
        return written
    count = math.ceil(round(seconds * SAMPLE_RATE) / WINDOW_SAMPLES)
    silence = (vocabulary.tie, EOS)
    return written[:count] + [TokenWindow(i, silence) for i in range(len(written), count)]


def song_windows(
    score: Score, vocabulary: Vocabulary, duration: float | None = None
) -> list[TokenWindow]:
    """The windows that are rendered: to the end of the sound, or as many as were published."""
    seconds = None if vocabulary.is_published else sounding_seconds(score, duration)
    return tokenize(score, vocabulary, seconds)


def sounding_seconds(score: Score, duration: float | None = None) -> float:
    """Until the music has rung out, but at most `duration` seconds."""
    seconds = score.duration + TAIL_SECONDS
    return seconds if duration is None else min(seconds, duration)


# --- Score -> events ------------------------------------------------------------------------------


# --- Events -> ids --------------------------------------------------------------------------------


def _write_windows(
    windows: Sequence[list[Event]], sounds: Sequence[Sound], vocabulary: Vocabulary
) -> list[TokenWindow]:
    """Writes every window; once more where sounds of windows already written had to be dropped."""
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
    """The ids of every window without the dropped sounds, to which it adds where room is short.

    False if one of those added began in an earlier window, which therefore still has it.
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
    """The step from which on events change no tie section: if published, that of the last event."""
    if not vocabulary.is_published:
        return math.inf
    return next((events[-1].step for events in reversed(windows) if events), math.inf)


def _write(page: Page, vocabulary: Vocabulary) -> tuple[int, ...]:
    writer = _Writer(page.start, vocabulary)
    writer.ties(page.ties)
    writer.events(page.events)
    return (*writer.ids, EOS)


class _Writer:
    """Writes the ids of one window, leaving out what is already in force.

    A dense hour has a million of them, so the loops have no calls in them.
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
        """The tie section, of notes that began with these onsets."""
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
        """What follows the tie section."""
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


# --- Ids -> notes ---------------------------------------------------------------------------------
