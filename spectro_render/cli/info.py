"""The command `spectro-render info`: shows what is in MIDI files."""

from __future__ import annotations

import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectro_render.cli.completion import offer_models
from spectro_render.cli.values import model_name
from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import MidiError, SpectroRenderError, WeightsNotFound
from spectro_render.options import MAX_HOURS
from spectro_render.report import complain, count, one_line

if TYPE_CHECKING:
    from spectro_render.midi.buses import Bus
    from spectro_render.midi.meter import Meter
    from spectro_render.midi.score import Score, Track
    from spectro_render.tokens.vocabulary import Vocabulary

_MOST_SIGNATURES = 4  # that are listed


def info(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="MIDI files, or - for standard input.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=model_name,
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
    from spectro_render.midi.buses import buses
    from spectro_render.tokens.write import song_windows

    windows = song_windows(score, vocabulary)
    song_buses = buses(score)
    places = sorted({(track.number, track.port, track.channel) for track in score.tracks})
    numbers = {place: number for number, place in enumerate(places, start=1)}
    return {
        "input": name,
        "seconds": round(score.duration, 4),
        "windows": len(windows),
        "notes": len(score.notes),
        "dropped_notes": sum(windows.dropped.values()),
        "too_long": _is_too_long(score),
        "tracks": [_track_facts(track, numbers) for track in score.tracks],
        **_meter_facts(score.meter),
        "channels": 2 if any(bus.is_off_centre for bus in song_buses) else 1,
        "buses": [_bus_facts(bus) for bus in song_buses],
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


def _track_facts(track: Track, numbers: dict[tuple[int, int, int], int]) -> dict[str, Any]:
    from spectro_render.midi.instruments import instrument_name
    from spectro_render.tokens.vocabulary import Vocabulary

    published = Vocabulary().program_class(track.program)
    is_same = track.is_drum or published == track.program
    return {
        "part": numbers[track.number, track.port, track.channel],
        "name": track.name,
        "channel": track.channel,
        "instrument": instrument_name(track.program, track.is_drum),
        "program": None if track.is_drum else track.program,
        "notes": track.n_notes,
        "lowest": track.lowest,
        "highest": track.highest,
        "published_models_play": None if is_same else instrument_name(published),
    }


def _meter_facts(meter: Meter | None) -> dict[str, Any]:
    """The bars, time signatures and tempos up to the last note; None where there are no bars."""
    if meter is None:
        return dict.fromkeys(("first_bar", "last_bar", "time_signatures", "tempos"))
    return {
        "first_bar": meter.first_bar,
        "last_bar": meter.last_bar,
        "time_signatures": [
            {"bar": each.bar, "signature": f"{each.beats}/{each.unit}"}
            for each in meter.signatures
            if each.bar <= meter.last_bar
        ],
        "tempos": [
            {"seconds": round(seconds, 4), "bpm": round(bpm, 3)} for seconds, bpm in meter.tempos()
        ],
    }


def _bus_facts(bus: Bus) -> dict[str, Any]:
    return {
        "channels": [number % 16 + 1 for number in bus.channels],
        "ports": sorted({number // 16 for number in bus.channels}),
        "notes": len(bus.score.notes),
        "reasons": list(bus.reasons),
    }


def _bus_text(facts: dict[str, Any]) -> str:
    channels = ", ".join(map(str, facts["channels"]))
    ports = ", ".join(map(str, facts["ports"]))
    where = f"channel{'s' * (len(facts['channels']) > 1)} {channels}"
    where += f" of port {ports}" if facts["ports"] != [0] else ""
    return f"{where}: {', '.join(facts['reasons']) or 'centre'} ({count(facts['notes'], 'note')})"


def _as_text(facts: dict[str, Any]) -> str:
    minutes, seconds = divmod(facts["seconds"], 60)
    windows = f"{count(facts['windows'], 'window')} of {WINDOW_SECONDS} s"
    notes = count(facts["notes"], "note")
    lines = [f"{facts['input']}: {minutes:.0f}:{seconds:05.2f}, {windows}, {notes}"]
    if facts["first_bar"] is not None:
        lines.append(f"  {_meter_as_text(facts)}")
    for track in facts["tracks"]:
        name = f'  "{track["name"]}"' if track["name"] else ""
        keys = f", {_key(track['lowest'])} to {_key(track['highest'])}"
        lines.append(
            f"{track['part']:>4}{count(track['notes'], 'note'):>14}"
            f"  channel {track['channel']:>2}  "
            f"{track['instrument']}{'' if track['program'] is None else keys}{name}"
        )
    replaced: dict[tuple[str, str], int] = {}
    for track in facts["tracks"]:
        if track["published_models_play"]:
            names = (track["instrument"], track["published_models_play"])
            replaced[names] = replaced.get(names, 0) + track["notes"]
    for (instrument, published), n_notes in replaced.items():
        lines.append(
            f"  published models play {published} for {instrument} ({count(n_notes, 'note')})"
        )
    if len(facts["buses"]) > 1 or facts["buses"][0]["reasons"]:
        sound = "stereo" if facts["channels"] == 2 else "mono"
        lines.append(f"  {sound}, rendered in {count(len(facts['buses']), 'bus')}:")
        lines += [f"    {_bus_text(bus)}" for bus in facts["buses"]]
    lines += [f"  repaired: {phrase}" for phrase in facts["repairs"]]
    lines += [f"  ignored: {phrase}" for phrase in facts["ignored"]]
    if facts["too_long"]:
        lines.append(f"  too long: refused unless --max-hours allows more than {MAX_HOURS:g} hours")
    if facts["dropped_notes"]:
        lines.append(f"  too dense: {count(facts['dropped_notes'], 'note')} would be left out")
    return "\n".join(one_line(line) for line in lines)


def _meter_as_text(facts: dict[str, Any]) -> str:
    """Bars, time signatures and tempos in one line."""
    signatures = facts["time_signatures"]
    first, last = facts["first_bar"], facts["last_bar"]
    bars = f"bar {first}" if first == last else f"bars {first} to {last}"
    if first == 0:
        bars += " (0 is a pickup)"
    shown = [
        each["signature"] + (f" from bar {each['bar']}" if number else "")
        for number, each in enumerate(signatures[:_MOST_SIGNATURES])
    ]
    if len(signatures) > _MOST_SIGNATURES:
        shown.append(f"{len(signatures) - _MOST_SIGNATURES} more changes")
    bpm = [each["bpm"] for each in facts["tempos"]]
    tempo = f"{bpm[0]:.5g} quarter notes a minute"
    if len(bpm) > 1:
        changes = count(len(bpm) - 1, "change")
        tempo = f"{min(bpm):.5g} to {max(bpm):.5g} quarter notes a minute ({changes})"
    return f"{bars}, {', '.join(shown)}, {tempo}"


def _key(pitch: int) -> str:
    """The name of a key: C4 for the middle C, 60."""
    names = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    return f"{names[pitch % 12]}{pitch // 12 - 1}"
