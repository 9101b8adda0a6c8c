"""Reads a MIDI file as a score: notes in seconds, as loud and as long as they sound.

Where every channel lies in one track, and neither a program nor two events of different kinds
change within a note or a tick, notes are to the last bit those of note_seq 0.0.5, on which the
published models were trained.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, Union, cast

from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.changes import CHANNELS, change, changes_of
from spectro_render.midi.course import Course
from spectro_render.midi.loudness import measure
from spectro_render.midi.meter import read_meter
from spectro_render.midi.movement import LEAST_MODULATION, MOST_MOVING, find_courses
from spectro_render.midi.notes import Performance, play
from spectro_render.midi.objects import (
    from_note_sequence,
    from_pretty_midi,
    is_note_sequence,
    is_pretty_midi,
)
from spectro_render.midi.pitch import AT_REST, in_range
from spectro_render.midi.score import About, Note, Score, Track
from spectro_render.midi.smf import FORMAT_2, MAX_BYTES, Smf, parse_smf
from spectro_render.midi.tempo import TEMPO_ELSEWHERE, Clock, ScaledClock, TempoMap, tempo_map
from spectro_render.options import RenderOptions

if TYPE_CHECKING:
    from note_seq.protobuf.music_pb2 import NoteSequence
    from pretty_midi import PrettyMIDI

Source: TypeAlias = Union[
    Score, str, os.PathLike[str], bytes, BinaryIO, "NoteSequence", "PrettyMIDI"
]

# Programs of drum channels (GS, and GM2 but for 25, its analog kit). Up to 7 they are variants of
# the standard kit, and those after some others are variants of these.
DRUM_KITS = {
    8: "Room",
    16: "Power",
    24: "Electronic",
    25: "TR-808",
    32: "Jazz",
    40: "Brush",
    48: "Orchestra",
    56: "SFX",
}
_LAST_STANDARD_KIT = 7
_KITS_WITH_VARIANTS = {program: DRUM_KITS[program] for program in (8, 16, 32, 40)}
_SOUND_EFFECTS = 56
_ARTIST = re.compile(
    r"(?:(?:composer|artist|author)\s*[:=]|(?:(?:composed|music|written) )?by[:\s])\s*(.+)",
    re.IGNORECASE,
)
_DRUM_SECONDS = 0.1  # in which a drum is loud
_MOVEMENT = f"bend, swell or moving pan, as {MOST_MOVING} channels with more notes move, too"

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")


def read_midi(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    options: RenderOptions | None = None,
    *,
    allow_rests: bool = False,
) -> Score:
    """Read a MIDI file from a path, from its bytes or from an open binary file.

    The music is changed as `options` say (their programs, drums, transpose, tempo, velocity).
    Raises MidiError where there is nothing to render (unreadable, no MIDI, no notes) and for a part
    that `options` name and the file does not have, OptionError for impossible changes. If `source`
    is a path, the message of a MidiError begins with it. With `allow_rests`, a whole file without
    notes is a score of rests.
    """
    options = options or RenderOptions()
    changes_of(options)  # before any work
    try:
        smf = parse_smf(read_bytes(source))
        tempos = tempo_map(smf)
        return _score(smf, Clock(tempos, smf.division), options, allow_rests, tempos)
    except MidiError as error:
        if isinstance(source, (str, os.PathLike)):
            raise MidiError(f"{os.fspath(source)}: {error.message}", error.hint) from error
        raise


def as_score(
    source: Source, options: RenderOptions | None = None, *, allow_rests: bool = False
) -> Score:
    """Read any music as a score; a score is returned as it is.

    A NoteSequence or a PrettyMIDI is read as a MIDI file is: with its pedals, volumes and bends.
    Arguments and errors are as in `read_midi`; a score that was read with other changes raises
    OptionError.
    """
    options = options or RenderOptions()
    if isinstance(source, Score):
        if changes_of(options) not in (None, source.changes):
            raise OptionError(
                "a score that has been read is not changed any more",
                "give the options to read_midi, or render the file",
            )
        return source
    if is_note_sequence(source):
        return _score(*from_note_sequence(cast("NoteSequence", source)), options, allow_rests)
    if is_pretty_midi(source):
        return _score(*from_pretty_midi(cast("PrettyMIDI", source)), options, allow_rests)
    file = cast("str | os.PathLike[str] | bytes | BinaryIO", source)
    return read_midi(file, options, allow_rests=allow_rests)


def _score(
    smf: Smf,
    clock: Clock,
    options: RenderOptions,
    allow_rests: bool,
    tempos: TempoMap | None = None,
) -> Score:
    """Play a file and write its score; `tempos` are None where its bars are not known."""
    changes = changes_of(options)
    speed = changes.tempo if changes else 1.0
    if speed != 1.0:
        clock = ScaledClock(clock, speed)
    performance = play(smf, clock)
    has_length = any(track.end for track in smf.tracks)
    is_damaged = not smf.repairs.keys() <= {FORMAT_2, TEMPO_ELSEWHERE}
    if not performance.notes and (is_damaged or not allow_rests or not has_length):
        raise MidiError(*_why_no_notes(smf))
    limits = change(performance, smf, changes, options.skip_missing) if changes else ()
    levels = performance.levels
    times = {number: list(clock.seconds(own.ticks)) for number, own in levels.items()}
    last = max((note.end for note in performance.notes), default=0)
    last_of_tracks = max(track.end for track in smf.tracks)
    duration, end_of_tracks = clock.seconds([last, last_of_tracks])
    _set_seconds(performance, clock)
    loudness = measure(performance.notes, levels, times)
    courses, refused = find_courses(performance, loudness.fades, clock)
    unplayed: Counter[str] = Counter()
    notes = sorted(
        _notes(performance, loudness.velocities, courses, clock, unplayed),
        key=lambda note: note.start,
    )
    if refused:
        unplayed[_MOVEMENT] += sum(note.channel in refused for note in performance.notes)
    return Score(
        notes=tuple(notes),
        duration=duration,
        ignored=(
            *_ignored(unplayed, "note"),
            *_ignored(smf.ignored, "event"),
            *_variations(performance),
            *limits,
        ),
        repairs=_repairs(smf.repairs),
        tracks=tuple(_tracks(performance, smf)),
        gain=loudness.gain,
        fades=loudness.fades.factors(),
        end_of_tracks=end_of_tracks,
        meter=read_meter(smf, clock, tempos, last or last_of_tracks, speed)
        if tempos and smf.counts == "beats"
        else None,
        about=_about(smf, performance),
        changes=changes,
        courses=tuple(course for _, course in sorted(courses.items())),
    )


def read_bytes(source: str | os.PathLike[str] | bytes | BinaryIO) -> bytes:
    """The bytes of a MIDI file, from anything that `read_midi` takes.

    Raises MidiError where they cannot be read, or are more than MAX_BYTES.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    else:
        data = _read_file(source)
    if len(data) > MAX_BYTES:
        raise MidiError(f"larger than {MAX_BYTES >> 20} MB", "give a Standard MIDI File (.mid)")
    return data


def _read_file(source: str | os.PathLike[str] | BinaryIO) -> bytes:
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                return _read_limited(file)
        return _read_limited(source)
    except (OSError, ValueError) as error:  # ValueError: a closed file, a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        may_not = isinstance(error, PermissionError)
        hint = "check who may read it" if may_not else "check the path"
        raise MidiError(f"cannot be opened ({reason})", hint) from error


def _read_limited(file: BinaryIO) -> bytes:
    """The bytes of a file; of a file that is too large, just enough to show that."""
    data = bytearray()
    while len(data) <= MAX_BYTES and (part := file.read(MAX_BYTES + 1 - len(data))):
        if not isinstance(part, bytes):
            raise MidiError("the file is open as text", "open it in binary mode ('rb')")
        data += part
    return bytes(data)


def _why_no_notes(smf: Smf) -> tuple[str, str]:
    if smf.repairs:
        return (
            f"no notes could be read ({'; '.join(_repairs(smf.repairs))})",
            "export the file again",
        )
    return "the MIDI file has no notes", "choose one that has"


def _set_seconds(performance: Performance, clock: Clock) -> None:
    """Set times in seconds; a note ends early if its channel stays silent until its end."""
    notes, levels = performance.notes, performance.levels
    for note in notes:
        note.end = levels[note.channel].last_heard(note.start, note.end)
    starts = clock.seconds(note.start for note in notes)
    ends = clock.seconds(note.end for note in notes)
    for note, start, end in zip(notes, starts, ends, strict=True):
        note.start_seconds, note.end_seconds = start, end


def _notes(
    performance: Performance,
    velocities: Sequence[int],
    courses: Mapping[int, Course],
    clock: Clock,
    unplayed: Counter[str],
) -> Iterator[Note]:
    """The notes in seconds, at the pitch and as loud as they sound.

    Bends and vibrato of drums are counted as unplayed. Drums are bent, but not tuned.
    """
    for note, velocity in zip(performance.notes, velocities, strict=True):
        pitch, bend, wheel = note.pitch, 0, performance.pitches[note.channel]
        course = courses.get(note.channel)
        if note.is_drum:  # the end of its key says nothing about its sound
            loud_until = clock.last_tick(note.start_seconds + _DRUM_SECONDS)
            is_bent = wheel.moves and not wheel.stays_centred(note.start, loud_until)
            unplayed["pitch bend"] += is_bent
            depth = performance.modulations[note.channel].at(note.start)
            unplayed["modulation"] += depth >= LEAST_MODULATION
        elif wheel.moves:
            rest = clock.last_tick(note.start_seconds + AT_REST)
            semitones, _ = wheel.played(note.start, rest, note.end)
            pitch = in_range(pitch + semitones)
            if course is not None and course.bend is not None:
                bend = pitch - in_range(note.pitch + wheel.base(note.start))
        has_level = course is not None and course.level is not None
        yield Note(
            *(note.start_seconds, note.end_seconds, pitch, velocity, note.program, note.is_drum),
            *(note.channel, note.track, bend, note.velocity if has_level else 0),
        )


def _tracks(performance: Performance, smf: Smf) -> Iterator[Track]:
    """What was played by each program of each channel of each track, in the order of the file."""
    pitches: dict[tuple[int, int, int, bool], list[int]] = {}
    for note in performance.notes:
        key = (note.track, note.channel, note.program, note.is_drum)
        pitches.setdefault(key, []).append(note.pitch)
    for (track, channel, program, is_drum), own in sorted(
        pitches.items(), key=lambda item: item[0][0]
    ):
        port, place = divmod(channel, CHANNELS)
        yield Track(
            *(smf.tracks[track].name, program, is_drum, len(own)),
            *(place + 1, min(own), max(own), track, port),
        )


def _about(smf: Smf, performance: Performance) -> About:
    """The title, the artist and the copyright of a file.

    The first track's name is the title, unless that track plays beside others: then it is the name
    of its part. Karaoke files have title and artist in texts that begin with `@T`.
    """
    playing = {note.track for note in performance.notes}
    title = smf.tracks[0].name if 0 not in playing or len(playing) == 1 else ""
    texts = [" ".join(text.split()) for track in smf.tracks for text in track.texts]
    karaoke = [text[2:] for text in texts if text.startswith("@T")]
    artist = next((match[1] for text in texts if (match := _ARTIST.match(text))), "")
    copyright = next((track.copyright for track in smf.tracks if track.copyright), "")
    return About(
        *(karaoke[0] if karaoke else title.strip(), artist or "".join(karaoke[1:2])),
        copyright.strip(),
    )


def _variations(performance: Performance) -> Iterator[str]:
    """Names the drum kits that are played as the standard one, and variations of instruments."""
    counts = Counter(
        _SOUND_EFFECTS if note.is_variation else note.program
        for note in performance.notes
        if note.is_drum
    )
    for kit, count in sorted(counts.items()):
        if kit > _LAST_STANDARD_KIT:
            yield f"{_kit_name(kit)}, played as the standard one ({_number(count, 'note')})"
    if count := sum(note.is_variation and not note.is_drum for note in performance.notes):
        variation = "variation of an instrument, played as the usual one"
        yield f"{variation} ({_number(count, 'note')})"


def _kit_name(program: int) -> str:
    """The name of a drum kit; those of variants are not given, but the next ones below."""
    name = DRUM_KITS.get(program) or _KITS_WITH_VARIANTS.get(program // 8 * 8)
    return f"{name} drum kit" if name else f"drum kit {program}"


def _ignored(counts: Counter[str], unit: str) -> Iterator[str]:
    return (f"{phrase} ({_number(count, unit)})" for phrase, count in counts.most_common() if count)


def _number(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _repairs(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(
        f"{phrase} ({count} times)" if count > 1 else phrase
        for phrase, count in counts.most_common()
    )
