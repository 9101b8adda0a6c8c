"""Finds recordings with their notes in a folder: plain pairs, or a published data set's layout.

plain       NAME.mid beside NAME.wav, NAME.flac, NAME.mp3 or NAME.ogg, in any depth
maestro     maestro-v*.csv, which names the MIDI file and the recording of each piece
slakh       Track*/mix.flac (or mix.wav) with the notes of its stems in Track*/MIDI
musicnet    train_data/ID.wav with train_labels/ID.csv, and the same of test_data
guitarset   annotation/NAME.jams with NAME_mic.wav or NAME_mix.wav in a folder audio_*
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spectro_render.errors import MidiError
from spectro_render.midi.read import MIDI_SUFFIXES, read_midi
from spectro_render.midi.score import Note, Score
from spectro_render.training.compose import score_of

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")  # of several of a name, the first counts
MUSICNET_RATE = 44_100  # Hz, in which the labels count
MUSICNET_VELOCITY = 80  # its labels have none
GUITAR, GUITAR_VELOCITY = 25, 80  # steel-string acoustic guitar; the annotations have no velocities


@dataclass(frozen=True)
class Pair:
    """A recording and where its notes are."""

    name: str  # in messages
    sound: Path
    notes: tuple[Path, ...]
    layout: str  # one of READERS
    held_out: bool | None = None  # as the data set divides itself; None: it does not

    def score(self) -> Score:
        """Read the notes. Raises MidiError where that fails or there are none."""
        try:
            return READERS[self.layout](self.notes)
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise MidiError(f"{self.notes[0].name} cannot be read ({error})") from error


@dataclass(frozen=True)
class Unused:
    """A recording that cannot be used, and why."""

    name: str
    reason: str


def find_pairs(folder: Path) -> tuple[list[Pair], list[Unused]]:
    """All recordings under a folder, sorted by name: those with notes, and those without."""
    tables = sorted(folder.glob("maestro-v*.csv"))
    if tables:
        return _divide(_maestro(tables[-1]))
    tracks = sorted(path for pattern in ("Track*", "*/Track*") for path in folder.glob(pattern))
    if any(_slakh_mix(track) for track in tracks):
        return _divide(_slakh(tracks, folder))
    if (folder / "train_labels").is_dir():
        return _divide(_musicnet(folder))
    annotations = sorted((folder / "annotation").glob("*.jams"))
    if annotations:
        return _divide(_guitarset(annotations, folder))
    return _divide(_plain(folder))


def _divide(found: Iterable[Pair | Unused]) -> tuple[list[Pair], list[Unused]]:
    pairs, unused = [], []
    for one in found:
        if isinstance(one, Unused):
            unused.append(one)
        elif not one.sound.is_file():
            unused.append(Unused(one.name, f"{one.sound.name} is missing"))
        elif missing := [path for path in one.notes if not path.is_file()]:
            unused.append(Unused(one.name, f"{missing[0].name} is missing"))
        else:
            pairs.append(one)
    return pairs, unused


def _plain(folder: Path) -> Iterator[Pair | Unused]:
    files: dict[Path, dict[str, Path]] = {}  # by path without suffix, then by suffix
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (*SOUND_SUFFIXES, *MIDI_SUFFIXES) and path.is_file():
            files.setdefault(path.with_suffix(""), {})[path.suffix.lower()] = path
    for base, kinds in files.items():
        sounds = [kinds[suffix] for suffix in SOUND_SUFFIXES if suffix in kinds]
        midi = [kinds[suffix] for suffix in MIDI_SUFFIXES if suffix in kinds]
        if not sounds:
            continue
        for other in sounds[1:]:
            yield Unused(str(other.relative_to(folder)), f"{sounds[0].name} is used")
        name = str(sounds[0].relative_to(folder))
        if midi:
            yield Pair(name, sounds[0], (midi[0],), "midi")
        else:
            yield Unused(name, f"there is no MIDI file {base.name}.mid beside it")


def _maestro(table: Path) -> Iterator[Pair | Unused]:
    with table.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            sound, midi = row.get("audio_filename"), row.get("midi_filename")
            if not sound or not midi:
                yield Unused(
                    f"{table.name}, line {number}", "it names no recording or no MIDI file"
                )
                continue
            held_out = row.get("split") in ("validation", "test")
            yield Pair(sound, table.parent / sound, (table.parent / midi,), "midi", held_out)


def _slakh_mix(track: Path) -> Path | None:
    mixes = (track / f"mix{suffix}" for suffix in (".flac", ".wav"))
    return next((mix for mix in mixes if mix.is_file()), None)


def _slakh(tracks: Iterable[Path], folder: Path) -> Iterator[Pair | Unused]:
    """Only stems that were rendered sound in the mix, so only their notes count."""
    for track in tracks:
        mix, name = _slakh_mix(track), str(track.relative_to(folder))
        stems = sorted((track / "MIDI").glob("*.mid"))
        rendered = {path.stem for path in (track / "stems").glob("*")}
        notes = tuple(stem for stem in stems if not rendered or stem.stem in rendered)
        if not notes:
            notes = tuple(path for path in [track / "all_src.mid"] if path.is_file())
        if mix is None:
            yield Unused(name, "there is no mix.flac in it")
        elif not notes:
            yield Unused(name, "there is neither a folder MIDI nor all_src.mid in it")
        else:
            held_out = track.parent.name in ("validation", "test")
            yield Pair(name, mix, notes, "midi", held_out if track.parent != folder else None)


def _musicnet(folder: Path) -> Iterator[Pair]:
    for part in ("train", "test"):
        for labels in sorted((folder / f"{part}_labels").glob("*.csv")):
            sound = folder / f"{part}_data" / f"{labels.stem}.wav"
            name = str(sound.relative_to(folder))
            yield Pair(name, sound, (labels,), "musicnet", part == "test")


def _guitarset(annotations: Iterable[Path], folder: Path) -> Iterator[Pair | Unused]:
    for path in annotations:
        names = (f"audio_*/{path.stem}_{kind}.wav" for kind in ("mic", "mix"))
        sounds = [sound for name in names for sound in sorted(folder.glob(name))]
        if sounds:
            yield Pair(str(sounds[0].relative_to(folder)), sounds[0], (path,), "guitarset")
        else:
            yield Unused(path.name, f"there is no {path.stem}_mic.wav in a folder audio_*")


def _read_midi(paths: tuple[Path, ...]) -> Score:
    if len(paths) == 1:
        return read_midi(paths[0])
    notes: list[Note] = []
    for path in paths:
        notes += read_midi(path, allow_rests=True).notes
    return _score(notes)


def _read_musicnet(paths: tuple[Path, ...]) -> Score:
    with paths[0].open(newline="", encoding="utf-8") as file:
        return _score(
            Note(
                int(row["start_time"]) / MUSICNET_RATE,
                int(row["end_time"]) / MUSICNET_RATE,
                int(row["note"]),
                MUSICNET_VELOCITY,
                int(row["instrument"]) - 1,  # its numbers begin with 1
                False,
            )
            for row in csv.DictReader(file)
        )


def _read_guitarset(paths: tuple[Path, ...]) -> Score:
    """Read the annotations `note_midi`, one for each string.

    JAMS has the observations of one as a list of objects, or as an object of lists.
    """
    notes: list[Note] = []
    for part in json.loads(paths[0].read_text(encoding="utf-8"))["annotations"]:
        if part["namespace"] != "note_midi":
            continue
        data = part["data"]
        if isinstance(data, dict):
            columns = (data[name] for name in ("time", "duration", "value"))
            rows = list(zip(*columns, strict=True))
        else:
            rows = [(row["time"], row["duration"], row["value"]) for row in data]
        for start, length, pitch in rows:
            notes.append(Note(start, start + length, round(pitch), GUITAR_VELOCITY, GUITAR, False))
    return _score(notes)


def _score(notes: Iterable[Note]) -> Score:
    """A score of the notes that have a length and a pitch. Raises MidiError without any."""
    kept = [
        note
        for note in notes
        if 0 <= note.start < note.end and 0 <= note.pitch <= 127 and 0 <= note.program <= 127
    ]
    if not kept:
        raise MidiError("it has no notes")
    return score_of(kept)


READERS: dict[str, Callable[[tuple[Path, ...]], Score]] = {
    "midi": _read_midi,
    "musicnet": _read_musicnet,
    "guitarset": _read_guitarset,
}
