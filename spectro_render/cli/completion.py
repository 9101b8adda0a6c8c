"""What a shell is offered when Tab is pressed: sub-commands, values of options, names of models.

A shell asks by running the program with the line in environment variables: COMPLETE says which
shell it is, and Typer reads the question and writes the answer in that shell's form. Where nothing
is offered, the shell offers files by itself. Nothing heavy is imported: a user waits for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

SUB_COMMANDS = ("info", "models", "train", "evaluate")
COMPLETE = "_SPECTRO_RENDER_COMPLETE"  # the name that Typer derives from the program's


def first_word() -> str | None:
    """The first word after the program's name in the line that a shell asks about.

    None if it is not finished, being the word to complete.
    """
    shell = _shell()
    if shell == "bash":
        words = os.environ["COMP_WORDS"].split()
        finished = int(os.environ["COMP_CWORD"])
    else:
        line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
        words = line.split()
        if shell in ("powershell", "pwsh"):  # whose line never ends in a space
            is_begun = bool(os.environ.get("_TYPER_COMPLETE_WORD_TO_COMPLETE"))
        else:
            is_begun = not line[-1:].isspace()
        finished = len(words) - is_begun
    return words[1] if finished > 1 and len(words) > 1 else None


def _shell() -> str:
    """The shell that asks: bash, zsh, fish, powershell or pwsh."""
    return os.environ.get(COMPLETE, "").partition("_")[2]


def read_line_of_bash() -> None:
    """Take the signs of equality out of the line that bash gives, which makes words of them.

    Typer would read `--sampler = dd` as a sampler named "=".
    """
    if _shell() != "bash":
        return
    words = os.environ.get("COMP_WORDS", "").split("\n")
    position = int(os.environ.get("COMP_CWORD", "0"))
    before = [word for word in words[:position] if word != "="]
    if len(before) < position:
        os.environ["COMP_WORDS"] = "\n".join([*before, *words[position:]])
        os.environ["COMP_CWORD"] = str(len(before))


def offer_models(incomplete: str) -> list[str]:
    """Models that can be rendered with at once, and files, since a model may be a directory."""
    from spectro_render.checkpoints.find import models_at_hand

    return with_files(models_at_hand(), incomplete)


def offer_hub_models(incomplete: str) -> list[str]:
    """Models of the Hub: those in the cache, and the known ones."""
    from spectro_render.checkpoints.find import model_entries

    names = [entry.name for entry in model_entries() if entry.state != "bundled"]
    return [name for name in names if name.startswith(incomplete)]


def offer_vocoders(incomplete: str) -> list[str]:
    """Kinds of vocoders, models that may lend theirs, and files, of which ONNX ones are some."""
    from spectro_render.checkpoints.find import models_at_hand
    from spectro_render.checkpoints.manifest import VOCODERS

    return with_files([*VOCODERS, *models_at_hand()], incomplete)


def offer_devices(incomplete: str) -> list[str]:
    """Names of devices; which of them this machine has, only torch knows."""
    return [name for name in ("auto", "cpu", "cuda", "mps") if name.startswith(incomplete)]


def with_files(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that begin with `incomplete`, and the files that do if there are such names.

    A shell that is offered anything adds no files of its own; one that is offered nothing does.
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
    if _shell() == "bash":  # which puts into the line as it stands what it is offered
        paths = [re.sub(r"([^\w@%+=:,./-])", r"\\\1", path) for path in paths]
    return paths
