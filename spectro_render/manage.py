"""The sub-commands beside the main job: what is in a file, which models there are, training."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import SpectroRenderError
from spectro_render.report import complain

if TYPE_CHECKING:
    from spectro_render.midi import Score, Track

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
    json: Annotated[bool, typer.Option("--json", help="One JSON object a file.")] = False,
) -> int:
    """Say what is in MIDI files, and what of it cannot be rendered."""
    from spectro_render.midi import read_midi

    failures = 0
    for name in inputs:
        try:
            facts = _facts(name, read_midi(sys.stdin.buffer if name == "-" else name))
        except SpectroRenderError as error:
            complain(f"{name}: {error}")
            failures += 1
            continue
        print(json_format.dumps(facts) if json else _as_text(facts), flush=True)
    return 1 if failures else 0


def _facts(name: str, score: Score) -> dict[str, Any]:
    from spectro_render.tokens import Vocabulary, tokenize

    windows = tokenize(score, Vocabulary())
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
    windows = f"{facts['windows']} windows of {WINDOW_SECONDS} s"
    lines = [f"{facts['input']}: {minutes:.0f}:{seconds:05.2f}, {windows}, {facts['notes']} notes"]
    for track in facts["tracks"]:
        name = f'  "{track["name"]}"' if track["name"] else ""
        lines.append(f"{track['notes']:>8} notes  {track['instrument']}{name}")
    lines += [f"  repaired: {phrase}" for phrase in facts["repairs"]]
    lines += [f"  ignored: {phrase}" for phrase in facts["ignored"]]
    if facts["dropped_notes"]:
        lines.append(f"  too dense: {facts['dropped_notes']} notes would be left out")
    return "\n".join(lines)


@models.callback()
def models_callback(context: typer.Context) -> int | None:
    """List the models that are at hand, and check their files."""
    return list_models() if context.invoked_subcommand is None else None


@models.command("list")
def list_models() -> int:
    """Print a line a model: its name and its directory."""
    from spectro_render.weights import available_models

    for name, path in available_models().items():
        print(f"{name}\t{path}")
    return 0


@models.command("verify")
def verify_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]", help="Names or directories.  [default: all at hand]"),
    ] = None,
) -> int:
    """Compare the files of models with their checksums."""
    from spectro_render.weights import available_models, find_model, verify

    failures = 0
    for name in names or available_models():
        try:
            verify(find_model(name))
            print(f"{name}: the files are as they should be")
        except SpectroRenderError as error:
            complain(f"{name}: {error}")
            failures += 1
    return 1 if failures else 0
