"""The sub-commands beside the main job: what is in a file, which models there are, training."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import SpectroRenderError, WeightsNotFound
from spectro_render.report import complain, count, one_line

if TYPE_CHECKING:
    from spectro_render.midi import Score, Track
    from spectro_render.tokens import Vocabulary

management = typer.Typer(add_completion=False, rich_markup_mode=None)
models = typer.Typer(invoke_without_command=True)
management.add_typer(models, name="models")


def program_of(name: str) -> typer.Typer:
    """The program that knows the sub-command `name`; only training itself waits for torch."""
    if name == "train":
        management.command()(_import_train())
    return management


def _import_train() -> Callable[..., int]:
    try:
        from spectro_render.training.command import train
    except ModuleNotFoundError as error:
        hint = "pip install 'spectro-render[train]'"
        raise SpectroRenderError(f"training needs the package {error.name}", hint) from error
    return train


@management.command()
def info(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="MIDI files, or - for stdin.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose words to count in.  [default: default]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a file.")] = False,
) -> int:
    """Say what is in MIDI files, and what of it the model cannot render."""
    from spectro_render.midi import read_midi

    vocabulary = _vocabulary_of(model)
    failures = 0
    for name in inputs:
        try:
            score = read_midi(sys.stdin.buffer if name == "-" else name)
        except SpectroRenderError as error:
            complain(f"{name}: {error}")
            failures += 1
            continue
        facts = _facts(name, score, vocabulary)
        print(json_format.dumps(facts) if json else _as_text(facts), flush=True)
    return 1 if failures else 0


def _vocabulary_of(model: str | None) -> Vocabulary:
    """That of the model; where there is no default one, the published."""
    from spectro_render.tokens import Vocabulary
    from spectro_render.weights import find_model, read_vocabulary

    try:
        path = find_model(model or "default")
    except WeightsNotFound:
        if model is not None:
            raise
        return Vocabulary()
    return read_vocabulary(path)


def _facts(name: str, score: Score, vocabulary: Vocabulary) -> dict[str, Any]:
    from spectro_render.tokens import song_windows

    windows = song_windows(score, vocabulary)
    return {
        "input": name,
        "seconds": round(score.duration, 4),
        "windows": len(windows),
        "notes": len(score.notes),
        "dropped_notes": sum(window.dropped for window in windows),
        "tracks": [_track_facts(track) for track in score.tracks],
        "repairs": score.repairs,
        "ignored": score.ignored,
    }


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
    if facts["dropped_notes"]:
        lines.append(f"  too dense: {count(facts['dropped_notes'], 'note')} would be left out")
    return "\n".join(one_line(line) for line in lines)


@models.callback()
def models_callback(context: typer.Context) -> int | None:
    """List the models that are at hand, and check their files."""
    return list_models() if context.invoked_subcommand is None else None


@models.command("list")
def list_models() -> int:
    """Print a line a model: its name and its directory."""
    from spectro_render.weights import available_models

    for name, path in available_models().items():
        print(one_line(name), one_line(str(path)), sep="\t")
    return 0


@models.command("verify")
def verify_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]", help="Names or directories.  [default: all at hand]"),
    ] = None,
) -> int:
    """Compare the files of models with their checksums."""
    from spectro_render.weights import MODEL_FOLDERS, available_models, find_model, verify

    chosen = names or list(available_models())
    if not chosen:
        places = ", ".join(map(str, MODEL_FOLDERS))
        raise WeightsNotFound(f"no model in {places}", "name a directory")
    failures = 0
    for name in chosen:
        try:
            is_listed = verify(find_model(name))
            state = "the files are as they should be" if is_listed else "has no checksums"
            print(f"{one_line(name)}: {state}", flush=True)
        except SpectroRenderError as error:
            complain(f"{name}: {error}")
            failures += 1
    return 1 if failures else 0
