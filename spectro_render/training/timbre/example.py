"""Reads the sound that a timbre is fitted to, and the notes that are played in it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from spectro_render.audio.limiter import DEFAULT_GAIN
from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Note
from spectro_render.training.compose import score_of
from spectro_render.training.recordings import Unusable, align, check_sound, read_sound
from spectro_render.training.timbre.pitch import LEAST_CLEAR, Detected, find_notes

MOST_SECONDS = 60.0  # of a sound that are used
LEAST_SECONDS = 0.25  # that its notes last together
SUFFIXES = (".mid", ".midi")


@dataclass(frozen=True, eq=False)
class Example:
    """A sound, and its notes."""

    samples: Tensor  # (S,) at 16 kHz, at the level of a model's own sound
    notes: tuple[Note, ...]  # by start
    are_detected: bool  # whether the notes were found in the sound, without a MIDI file
    unclear: tuple[tuple[float, float], ...] = ()  # begin and end in seconds of what has no notes


def notes_beside(sound: Path) -> Path | None:
    """The MIDI file of the same name; None if there is none."""
    return next((p for p in map(sound.with_suffix, SUFFIXES) if p.is_file()), None)


def read_example(sound: Path, midi: Path | None) -> Example:
    """Read a sound in any format of libsndfile, and its notes; without MIDI they are detected.

    Raises OptionError for a sound of which no timbre can be fitted, saying why.
    """
    try:
        whole, rate = read_sound(sound)
        whole = whole[: round(MOST_SECONDS * rate)]
        check_sound(whole)
        mono = soxr.resample(whole.mean(1).numpy(), rate, SAMPLE_RATE, quality="VHQ")
        samples = torch.from_numpy(np.asarray(mono, np.float32)) * 10 ** (-DEFAULT_GAIN / 20)
        if midi is None:
            found = _detected(samples)
            return Example(samples, found.notes, True, found.unclear)
        return Example(samples, _read(midi, samples), False)
    except Unusable as error:
        message = f"{sound} cannot be used as an example: {error}"
        raise OptionError(message, "give a clear sound of the instrument alone") from error


def _detected(samples: Tensor) -> Detected:
    if len(samples) < LEAST_SECONDS * SAMPLE_RATE:
        raise Unusable(f"it is shorter than {LEAST_SECONDS:g} s")
    found = find_notes(samples)
    if found.clear < LEAST_CLEAR:
        raise Unusable(
            f"only {100 * found.clear:.0f} % of it has a clear pitch; without a MIDI file of the"
            " same name beside it, it has to play one note at a time"
        )
    if sum(note.end - note.start for note in found.notes) < LEAST_SECONDS:
        raise Unusable(f"its notes last less than {LEAST_SECONDS:g} s")
    return found


def _read(midi: Path, samples: Tensor) -> tuple[Note, ...]:
    try:
        score = read_midi(midi)
    except MidiError as error:
        raise Unusable(error.message) from error
    notes = [n for n in score.notes if not n.is_drum and n.start * SAMPLE_RATE < len(samples)]
    programs = {note.program for note in notes}
    if not notes or len(programs) > 1:
        what = f"{len(programs)} instruments" if notes else "no notes but drums"
        raise Unusable(f"{midi.name} has {what} where it needs the notes of one instrument")
    aligned, _ = align(samples, score_of(notes))
    return aligned.notes
