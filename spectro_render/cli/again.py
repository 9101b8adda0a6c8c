"""The command `spectro-render again`: renders an audio file again from what its tags say."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from spectro_render.errors import MidiError, OptionError, WeightsError
from spectro_render.report import PROGRAM, Reporter


def again(
    audio: Annotated[str, typer.Argument(metavar="AUDIO", help="Audio file that was rendered.")],
    midi: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="MIDI file, or folder in which to look for it.  [default: the folder of AUDIO]",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="Audio file.  [default: AUDIO-again.SUFFIX]"
        ),
    ] = None,
    any_model: Annotated[
        bool,
        typer.Option("--any-model", help="Render even if the model is not the one it was."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> int:
    """Render an audio file again, with the settings in its tags.

    The MIDI file is found by its SHA-256. A message says whether the bytes are the same.
    """
    from spectro_render import __version__
    from spectro_render.batch.recipe import read_recipe
    from spectro_render.checkpoints.find import fingerprint_of, resolve_model
    from spectro_render.cli.render import rendering
    from spectro_render.cli.timbre import timbre_files

    path, reporter = Path(audio), Reporter(quiet=quiet)
    recipe = read_recipe(path)
    target = Path(output) if output else path.with_stem(f"{path.stem}-again")
    if target.exists() and os.path.samefile(target, path):
        raise OptionError(f"{target} is the file itself", "name another one with -o")
    arguments = recipe.arguments()
    source = _find(recipe.midi_sha256, midi or [], path.parent)
    vocoder = recipe.settings.get("vocoder")
    timbres = timbre_files(recipe.timbres, recipe.model, reporter)
    files = [(each.program, each.file) for each in timbres]
    fingerprint = fingerprint_of(resolve_model(recipe.model, vocoder, reporter, files))
    if fingerprint != recipe.model_sha256:
        message = f"the model {recipe.model} is not the one that {path} was made with"
        if not any_model:
            raise WeightsError(message, "--any-model renders with it all the same")
        reporter.say(message)
    if recipe.version != __version__:
        reporter.say(f"{path} was made by {PROGRAM} {recipe.version}, this is {__version__}")
    command = typer.main.get_command(rendering)
    line = ["-o", str(target), *(["--quiet"] if quiet else []), *arguments, "--", str(source)]
    with command.make_context(PROGRAM, line) as context:
        code = int(command.invoke(context) or 0)
    if not code:
        is_same = filecmp.cmp(path, target, shallow=False)
        reporter.say(f"{target}: {'the same bytes as' if is_same else 'other bytes than'} {path}")
    return code


def _find(sha256: str, places: Sequence[str], beside: Path) -> Path:
    """The MIDI file with this SHA-256. Raises MidiError if there is none in the places."""
    from spectro_render.batch.history import checksum
    from spectro_render.midi.read import read_bytes

    for place in map(Path, places):
        if place.is_dir():
            continue
        try:
            data = read_bytes(place)
        except MidiError as error:
            raise MidiError(f"{place}: {error.message}", error.hint) from error
        if checksum(data) != sha256:
            message = f"{place} is not the MIDI file that was rendered"
            raise MidiError(message, f"its SHA-256 began with {sha256[:16]}")
        return place
    folders = [Path(place) for place in places] or [beside]
    for file in _midi_files(folders):
        if checksum(read_bytes(file)) == sha256:
            return file
    where = " and ".join(map(str, folders))
    raise MidiError(
        f"no MIDI file in {where} has the SHA-256 {sha256[:16]}...", "name it with --midi"
    )


def _midi_files(folders: Sequence[Path]) -> Iterator[Path]:
    """The MIDI files in folders, and in folders below."""
    from spectro_render.atomic import walk
    from spectro_render.midi.read import MIDI_SUFFIXES
    from spectro_render.midi.smf import MAX_BYTES

    for folder in folders:
        for parent, _, names in walk(folder):
            for name in sorted(names):
                file = Path(parent, name)
                if name.lower().endswith(MIDI_SUFFIXES) and file.is_file():
                    if file.stat().st_size <= MAX_BYTES:
                        yield file
