"""The command `spectro-render models`: lists, fetches, verifies, checks and converts models."""

from __future__ import annotations

import json as json_format
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from spectro_render.cli.completion import offer_hub_models, offer_models
from spectro_render.errors import SpectroRenderError, WeightsNotFound
from spectro_render.report import Reporter, as_size, complain, one_line

StoredFormat = Literal["float32", "float16", "bfloat16"]

models = typer.Typer(invoke_without_command=True)


@models.callback()
def models_callback(context: typer.Context) -> int | None:
    """List, fetch, find, verify, check and convert models.

    The name of a model is default (the bundled model), a directory, or OWNER/REPO or
    OWNER/REPO@REVISION of the Hugging Face Hub, such as google/music-spectrogram-diffusion.
    """
    return list_models() if context.invoked_subcommand is None else None


@models.command("list")
def list_models(
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object per model.")] = False,
) -> int:
    """List the models, one per line.

    Each line has a name, a state, a size and a directory, with tabs between them. The state is
    'bundled', 'downloaded', 'incomplete' or 'not downloaded'. If there is no directory, the last
    column is -.
    """
    from spectro_render.checkpoints.find import model_entries

    for entry in model_entries():
        path = str(entry.path) if entry.path else None
        if json:
            facts = {"name": entry.name, "state": entry.state, "bytes": entry.size, "path": path}
            print(json_format.dumps(facts))
        else:
            columns = (entry.name, entry.state, as_size(entry.size), path or "-")
            print(*map(one_line, columns), sep="\t")
    return 0


@models.command("pull")
def pull_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=offer_hub_models,
            help="Model of the Hub: OWNER/REPO or OWNER/REPO@REVISION.",
        ),
    ],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> int:
    """Fetch a model from the Hugging Face Hub, or bring it up to date.

    The model is stored in the cache that the Hub's tools share, and its directory is printed. The
    environment variables HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE work as in the Hub's own
    tools. After an interruption, files that are complete are not fetched again.
    """
    from spectro_render.checkpoints.find import refresh_model

    print(refresh_model(name, Reporter(quiet=quiet)))
    return 0


@models.command("path")
def print_path(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=offer_models, help="Name of a model on this machine."
        ),
    ],
) -> int:
    """Print the directory of a model, without fetching it."""
    from spectro_render.checkpoints.find import find_model

    print(find_model(name))
    return 0


@models.command("verify")
def verify_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]",
            autocompletion=offer_models,
            help="Names or directories of models.  [default: all models on this machine]",
        ),
    ] = None,
) -> int:
    """Compare the files of models with their checksums.

    The checksums are in the file SHA256SUMS or, for models of the Hub, in the names of the files in
    its cache.
    """
    from spectro_render.checkpoints.copies import verify_copy
    from spectro_render.checkpoints.find import MODEL_FOLDERS, find_model, models_at_hand
    from spectro_render.checkpoints.manifest import verify

    chosen = names or models_at_hand()
    if not chosen:
        places = ", ".join(map(str, MODEL_FOLDERS))
        raise WeightsNotFound(f"no model in {places}", "name the directory of a model")
    failures = 0
    for name in chosen:
        try:
            path = find_model(name)
            is_listed = verify(path)
            verify_copy(path)
            state = "all files match their checksums" if is_listed else "has no checksums"
            print(f"{one_line(name)}: {state}", flush=True)
        except SpectroRenderError as error:
            complain(f"{name}: {error}")
            failures += 1
    return 1 if failures else 0


@models.command("check")
def check_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=offer_models,
            help="Name or directory of a model with the published weights.",
        ),
    ],
    midi: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="The file elise_format0.mid of piano-midi.de, for which they hold."
        ),
    ],
    long: Annotated[
        bool, typer.Option("--long", help="Render 4 windows in 100 steps, too.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors only.")
    ] = False,
) -> int:
    """Compare the sound of the published weights with numbers known from diffusers.

    The first 2 windows are rendered in 2 steps on the CPU, as in diffusers' tests of the weights:
    in float32, without guidance, with the seed 0. The sum of the samples' magnitudes and the number
    to expect are printed, with 'pass' or 'fail'. The exit code is 1 if they differ.
    """
    from spectro_render.checkpoints.find import get_model
    from spectro_render.compat import acceptance
    from spectro_render.compat.pipeline import MidiProcessor, SpectrogramDiffusionPipeline

    windows = MidiProcessor()(midi)
    pipe = SpectrogramDiffusionPipeline.from_pretrained(get_model(name, Reporter(quiet=quiet)))
    pipe.set_progress_bar_config(disable=quiet or not sys.stderr.isatty(), leave=False)
    failures = 0
    for run in (acceptance.QUICK, acceptance.LONG)[: 2 if long else 1]:
        total = run.measure(pipe, windows)
        has_passed = run.allows(total)
        failures += not has_passed
        expected = f"expected {run.total} within {run.tolerance}"
        work = f"{run.windows} windows in {run.steps} steps"
        state = "pass" if has_passed else "fail"
        print(f"{one_line(name)}: {work}: sum {total:.4f}, {expected}: {state}", flush=True)
    if failures:
        complain(f"the numbers hold for the published weights and {acceptance.MIDI_PAGE}")
    return 1 if failures else 0


@models.command("timbre")
def make_timbre(
    value: Annotated[
        str,
        typer.Argument(
            metavar="INSTRUMENT=SOUND",
            help="Instrument, by its General MIDI name or number, and a sound of it: WAV, FLAC, MP3"
            " or Ogg.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write.  [default: SOUND.timbre in the current folder]",
        ),
    ] = None,
    midi: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Notes of the sound.  [default: SOUND.mid beside it; else they are found in it]",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME", autocompletion=offer_models, help="Model that the timbre is for."
        ),
    ] = "default",
    keep_level: Annotated[
        bool,
        typer.Option(
            "--keep-level",
            help="Keep the loudness of the sound. Without this, it becomes what the instrument has"
            " with the same notes.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> int:
    """Fit the timbre of an instrument to a sound, for --timbre.

    The sound has one or more notes of the instrument alone. Without a MIDI file it plays one note
    at a time. Nothing but this instrument changes.
    """
    from dataclasses import asdict

    from spectro_render.cli.timbre import SUFFIX, split_value
    from spectro_render.training.timbre.make import describe, fit_timbre

    program, sound = split_value(value)
    target = output or Path(Path(sound).with_suffix(SUFFIX).name)
    reporter = Reporter(quiet=quiet)
    report = fit_timbre(
        sound, program + 1, target, midi=midi, model=model, keep_level=keep_level, quiet=quiet
    )
    if json:
        print(json_format.dumps({"path": str(target), **asdict(report)}))
    else:
        reporter.say(f"{sound}: {describe(report)}")
        print(target)
    return 0


@models.command("convert")
def convert_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            autocompletion=offer_models,
            help="Model, or folder or .zip file of a T5X checkpoint.",
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="Directory to write; it must not exist yet.")
    ],
    dtype: Annotated[
        StoredFormat, typer.Option(help="Number format of the stored weights.")
    ] = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> int:
    """Convert a model to safetensors files with checksums.

    SRC is the name or the directory of a model, whose weights are safetensors or .bin files, or one
    of the T5X checkpoints that the model's authors published.
    """
    from spectro_render.checkpoints.convert import convert
    from spectro_render.checkpoints.find import get_model

    is_file = os.path.isfile(source)
    path = Path(source) if is_file else get_model(source, Reporter(quiet=quiet), "never")
    convert(path, destination, dtype=dtype, quiet=quiet)
    return 0
