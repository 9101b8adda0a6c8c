"""Completion in shells: the sub-commands, values and model names that are offered for Tab.

A shell runs the program with the line in environment variables, among which COMPLETE names the
shell. Typer reads the line and prints the answer in the form that this shell needs. If nothing is
offered, the shell offers files by itself. No heavy packages are imported, as a user is waiting.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

SUB_COMMANDS = ("info", "models", "train", "evaluate", "again", "serve", "config", "doctor")
COMPLETE = "_SPECTRO_RENDER_COMPLETE"  # the name that Typer derives from the program's


def first_word() -> str | None:
    """The first word after the program's name in the line that a shell completes.

    None if there is none, or if it is the word to complete.
    """
    shell = _shell()
    if shell == "bash":
        words = os.environ["COMP_WORDS"].split()
        finished = int(os.environ["COMP_CWORD"])
    else:
        line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
        words = line.split()
        if shell in ("powershell", "pwsh"):  # their line never ends in a space
            is_begun = bool(os.environ.get("_TYPER_COMPLETE_WORD_TO_COMPLETE"))
        else:
            is_begun = not line[-1:].isspace()
        finished = len(words) - is_begun
    return words[1] if finished > 1 and len(words) > 1 else None


def _shell() -> str:
    """The shell that completes a line: bash, zsh, fish, powershell or pwsh."""
    return os.environ.get(COMPLETE, "").partition("_")[2]


def read_line_of_bash() -> None:
    """Remove equals signs from the line of bash, which passes them as separate words.

    Otherwise Typer would read `--sampler = dd` as a sampler named "=".
    """
    if _shell() != "bash":
        return
    words = os.environ.get("COMP_WORDS", "").split("\n")
    position = int(os.environ.get("COMP_CWORD", "0"))
    before = [word for word in words[:position] if word != "="]
    if len(before) < position:
        os.environ["COMP_WORDS"] = "\n".join([*before, *words[position:]])
        os.environ["COMP_CWORD"] = str(len(before))


def offer(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Make a completion function that offers the names that begin with the incomplete word."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


# Only torch knows which devices this machine has.
offer_devices = offer(("auto", "cpu", "cuda", "mps"))


def offer_models(incomplete: str) -> list[str]:
    """Offer models that need no download, and files, as a model may be a directory."""
    from spectro_render.checkpoints.find import models_at_hand

    return with_files(models_at_hand(), incomplete)


def offer_hub_models(incomplete: str) -> list[str]:
    """Offer models of the Hub: those in the cache, and the known ones."""
    from spectro_render.checkpoints.find import model_entries

    names = [entry.name for entry in model_entries() if entry.state != "bundled"]
    return [name for name in names if name.startswith(incomplete)]


def offer_vocoders(incomplete: str) -> list[str]:
    """Offer kinds of vocoders, models, and files, as a vocoder may be an ONNX file."""
    from spectro_render.checkpoints.find import models_at_hand
    from spectro_render.checkpoints.manifest import VOCODERS

    return with_files([*VOCODERS, *models_at_hand()], incomplete)


def with_files(names: Iterable[str], incomplete: str) -> list[str]:
    """The names and, if there are any, the files that begin with `incomplete`.

    If no name is offered, the shell offers files by itself.
    """
    offered = [name for name in names if name.startswith(incomplete)]
    return [*offered, *_files(incomplete)] if offered else []


def _files(incomplete: str) -> list[str]:
    """Files whose paths begin with `incomplete`, sorted; folders end in a slash."""
    folder, start = os.path.split(incomplete)
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name + "/" * entry.is_dir() for entry in entries]
    except OSError:
        return []
    paths = [
        os.path.join(folder, name)
        for name in sorted(names)
        if name.startswith(start) and (start or not name.startswith("."))
    ]
    if _shell() == "bash":  # it puts what is offered into the line without quoting it
        paths = [re.sub(r"([^\w@%+=:,./-])", r"\\\1", path) for path in paths]
    return paths
