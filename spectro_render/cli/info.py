"""The command `spectro-render info`: shows what is in MIDI files."""

from __future__ import annotations

import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectro_render.cli.completion import offer_models
from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import MidiError, SpectroRenderError, WeightsNotFound
from spectro_render.options import MAX_HOURS
from spectro_render.report import complain, count, one_line

if TYPE_CHECKING:
    from spectro_render.midi.score import Score, Track
    from spectro_render.tokens.vocabulary import Vocabulary


def info(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="MIDI files, or - for standard input.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=offer_models,
            help="Model for which windows and left-out notes are counted.  [default: default]",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object per file.")] = False,
) -> int:
    """Show what is in MIDI files, and what of it the model cannot render."""
    from spectro_render.midi.read import read_bytes, read_midi

    vocabulary = _vocabulary_of(model)
    failures = 0
    for name in inputs:
        try:
            score = read_midi(read_bytes(sys.stdin.buffer if name == "-" else name))
        except SpectroRenderError as error:
            complain(f"{name}: {error}")
            failures += 1
            continue
        facts = _facts(name, score, vocabulary)
        print(json_format.dumps(facts) if json else _as_text(facts), flush=True)
    return 1 if failures else 0


def _vocabulary_of(model: str | None) -> Vocabulary:
    """The vocabulary of a model, or of the published models if there is no default model."""
    from spectro_render.checkpoints.find import find_model
    from spectro_render.checkpoints.load import read_vocabulary
    from spectro_render.tokens.vocabulary import Vocabulary

    try:
        path = find_model(model or "default")
    except WeightsNotFound:
        if model is not None:
            raise
        return Vocabulary()
    return read_vocabulary(path)


def _facts(name: str, score: Score, vocabulary: Vocabulary) -> dict[str, Any]:
    from spectro_render.tokens.write import song_windows

    windows = song_windows(score, vocabulary)
    return {
        "input": name,
        "seconds": round(score.duration, 4),
        "windows": len(windows),
        "notes": len(score.notes),
        "dropped_notes": sum(windows.dropped.values()),
        "too_long": _is_too_long(score),
        "tracks": [_track_facts(track) for track in score.tracks],
        "repairs": score.repairs,
        "ignored": score.ignored,
    }


def _is_too_long(score: Score) -> bool:
    """Whether a score is refused unless --max-hours allows more."""
    from spectro_render.midi.length import part_to_render
    from spectro_render.options import RenderOptions

    try:
        part_to_render(score, RenderOptions())
    except MidiError:
        return True
    return False


def _track_facts(track: Track) -> dict[str, Any]:
    import pretty_midi

    instrument = pretty_midi.program_to_instrument_name(track.program)
    return {
        "name": track.name,
        "instrument": "Drums" if track.is_drum else instrument,
        "program": None if track.is_drum else track.program,
        "notes": track.n_notes,
    }


def _as_text(facts: dict[str, Any]) -> str:
    minutes, seconds = divmod(facts["seconds"], 60)
    windows = f"{count(facts['windows'], 'window')} of {WINDOW_SECONDS} s"
    notes = count(facts["notes"], "note")
    lines = [f"{facts['input']}: {minutes:.0f}:{seconds:05.2f}, {windows}, {notes}"]
    for track in facts["tracks"]:
        name = f'  "{track["name"]}"' if track["name"] else ""
        lines.append(f"{count(track['notes'], 'note'):>14}  {track['instrument']}{name}")
    lines += [f"  repaired: {phrase}" for phrase in facts["repairs"]]
    lines += [f"  ignored: {phrase}" for phrase in facts["ignored"]]
    if facts["too_long"]:
        lines.append(f"  too long: refused unless --max-hours allows more than {MAX_HOURS:g} hours")
    if facts["dropped_notes"]:
        lines.append(f"  too dense: {count(facts['dropped_notes'], 'note')} would be left out")
    return "\n".join(one_line(line) for line in lines)
