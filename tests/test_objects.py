"""Objects of note_seq and pretty_midi are rendered as the files that they stand for."""

import io
import warnings
from typing import Any

import pretty_midi
import pytest

import spectro_render as sr
from spectro_render.errors import MidiError
from spectro_render.midi.read import as_score
from tests.support.songs import DEMO

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import note_seq


def fields(score: sr.Score) -> list[tuple[Any, ...]]:
    return sorted(
        (round(n.start, 6), round(n.end, 6), n.pitch, n.velocity, n.program, n.is_drum)
        for n in score.notes
    )


@pytest.mark.parametrize("make", [note_seq.midi_to_note_sequence, pretty_midi.PrettyMIDI])
def test_an_object_made_of_a_file_has_the_files_notes(make: Any) -> None:
    source = make(
        io.BytesIO(DEMO.read_bytes()) if make is pretty_midi.PrettyMIDI else DEMO.read_bytes()
    )
    score = as_score(source)
    assert fields(score) == fields(sr.read_midi(DEMO))
    assert sr.tokenize(source, sr.Vocabulary()) == sr.tokenize(score, sr.Vocabulary())
    assert sr.MidiProcessor()(source) == sr.MidiProcessor()(DEMO)


def part_with_all() -> pretty_midi.PrettyMIDI:
    midi = pretty_midi.PrettyMIDI()
    organ, drums = pretty_midi.Instrument(19, name="organ"), pretty_midi.Instrument(0, True)
    organ.control_changes = [
        pretty_midi.ControlChange(64, 127, 0.0),
        pretty_midi.ControlChange(7, 50, 0.0),
        pretty_midi.ControlChange(64, 0, 3.0),
    ]
    organ.pitch_bends = [pretty_midi.PitchBend(8191, 0.0)]
    organ.notes = [pretty_midi.Note(80, 60, 0.5, 1.0), pretty_midi.Note(80, 64, 3.5, 3.5)]
    drums.notes = [pretty_midi.Note(90, 36, 0.25, 0.5)]
    midi.instruments = [organ, drums]
    return midi


def test_pedal_volume_and_bend_of_an_object_are_heard() -> None:
    score = as_score(part_with_all())
    assert [(n.start, n.pitch, n.velocity, n.program, n.is_drum) for n in score.notes] == [
        (0.25, 36, 90, 0, True),
        (0.5, 62, 40, 19, False),
        (3.5, 66, 40, 19, False),
    ]
    assert score.notes[1].end == 3.0
    assert 3.5 < score.notes[2].end < 3.51
    assert [track.name for track in score.tracks] == ["organ", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence = note_seq.midi_io.midi_to_note_sequence(part_with_all())
    assert fields(as_score(sequence))[:2] == fields(score)[:2]


def test_a_score_as_a_note_sequence() -> None:
    score = sr.read_midi(DEMO)
    sequence = score.to_note_sequence()
    assert sequence.total_time == score.duration
    assert fields(as_score(sequence)) == fields(score)
    groups = {(note.instrument, note.program, note.is_drum) for note in sequence.notes}
    assert len(groups) == len({instrument for instrument, _, _ in groups})


def test_objects_without_notes_or_seconds() -> None:
    with pytest.raises(MidiError, match="no notes"):
        as_score(pretty_midi.PrettyMIDI())
    quantized = note_seq.quantize_note_sequence_absolute(sr.read_midi(DEMO).to_note_sequence(), 4)
    with pytest.raises(MidiError, match="quantized"):
        as_score(quantized)
    with pytest.raises(MidiError, match="no notes"):
        as_score(note_seq.NoteSequence())
