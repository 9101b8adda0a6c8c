"""The sub-commands beside the main job: what is in a file, which models there are, training."""

from __future__ import annotations

import json as json_format
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spectro_render.cli.completion import offer_hub_models, offer_models
from spectro_render.errors import SpectroRenderError, WeightsNotFound
from spectro_render.report import Reporter, as_size, complain, one_line

if TYPE_CHECKING:
    pass

StoredFormat = Literal["float32", "float16", "bfloat16"]

management = typer.Typer(rich_markup_mode=None)
models = typer.Typer(invoke_without_command=True)
management.add_typer(models, name="models")


def program_of(name: str) -> typer.Typer:
    """The program that knows the sub-command `name`; only what needs torch waits for it."""
    if name in ("train", "evaluate"):
        try:
            command = _import_train() if name == "train" else _import_evaluate()
        except ModuleNotFoundError as error:
            hint = f"pip install 'spectro-render[{name}]'"
            raise SpectroRenderError(f"{name} needs the package {error.name}", hint) from error
        management.command()(command)
    return management


def _import_train() -> Callable[..., int]:
    from spectro_render.training.command import train

    return train


def _import_evaluate() -> Callable[..., int]:
    from spectro_render.evaluation.command import evaluate

    return evaluate


@models.callback()
def models_callback(context: typer.Context) -> int | None:
    """List, fetch, find, check and convert models.

    A model's name is that of one that comes with the program (default), a directory, or OWNER/REPO
    or OWNER/REPO@REVISION of the Hugging Face Hub, such as google/music-spectrogram-diffusion.
    """
    return list_models() if context.invoked_subcommand is None else None


@models.command("list")
def list_models(
    json: Annotated[bool, typer.Option("--json", help="One JSON object a model.")] = False,
) -> int:
    """Print the models, a line each.

    Between tabs: name, state, size, directory. The state is 'bundled', 'downloaded', 'incomplete'
    or 'not downloaded'; where there is no directory, a - stands for it.
    """
    from spectro_render.checkpoints import find as registry

    for entry in registry.list_models():
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
            help="OWNER/REPO or OWNER/REPO@REVISION.",
        ),
    ],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what failed.")] = False,
) -> int:
    """Fetch a model, or its newer state.

    It comes from the Hugging Face Hub into the cache that the Hub's tools share, and its directory
    is printed. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are heeded. A download that was
    interrupted goes on where it stopped.
    """
    from spectro_render.checkpoints.find import refresh_model

    print(refresh_model(name, Reporter(quiet=quiet)))
    return 0


@models.command("path")
def print_path(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", autocompletion=offer_models, help="A model that is here."),
    ],
) -> int:
    """Print where a model lies; nothing is fetched."""
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
            help="Names or directories.  [default: all at hand]",
        ),
    ] = None,
) -> int:
    """Compare models with their checksums.

    Those are in SHA256SUMS or, for models of the Hub, in the names of the cache's files.
    """
    from spectro_render.checkpoints.find import MODEL_FOLDERS, find_model, models_at_hand
    from spectro_render.checkpoints.manifest import verify

    chosen = names or models_at_hand()
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


@models.command("convert")
def convert_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            autocompletion=offer_models,
            help="A model, or a T5X checkpoint: folder or .zip.",
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="The directory to write; it may not exist.")
    ],
    dtype: Annotated[StoredFormat, typer.Option(help="What to store numbers in.")] = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what failed.")] = False,
) -> int:
    """Write a model as safetensors files.

    They make a model directory, with checksums. SRC is a name or a directory, with weights as
    safetensors or as .bin, or one of the authors' T5X checkpoints.
    """
    from spectro_render.checkpoints.convert import convert
    from spectro_render.checkpoints.find import get_model

    path = Path(source) if os.path.isfile(source) else get_model(source, Reporter(quiet=quiet))
    convert(path, destination, dtype=dtype, quiet=quiet)
    return 0
