"""The user's own defaults of options, from a configuration file and from variables.

An option has the first of these values that exists: the command line's, the variable's, the file's,
its default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectro_render.batch.outputs import user_folder
from spectro_render.cli.completion import SUB_COMMANDS
from spectro_render.cli.words import did_you_mean
from spectro_render.errors import OptionError, reason_of
from spectro_render.report import complain

if TYPE_CHECKING:
    from typer._click.core import Command

PREFIX = "SPECTRO_RENDER"
_OTHER_VARIABLES = ("CACHE", "SOUNDFONT", "TOKEN", "ONLINE")  # no options of the main command
PLACE = f"{PREFIX}_CONFIG"  # names another file; empty: none is read
NOT_SET = ("inputs", "version", "verbose", "install_completion", "show_completion")


def config_path() -> Path:
    """The configuration file, which need not exist."""
    place = os.environ.get(PLACE)
    return user_folder("config") / "config.toml" if place is None else Path(place)


def read_config() -> dict[str, Any]:
    """The values in the configuration file by the names of parameters; none without a file.

    Tables hold the options of sub-commands. Raises OptionError if the file cannot be read.
    """
    if os.environ.get(PLACE) == "":
        return {}
    path = config_path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if PLACE in os.environ:
            hint = f"correct the variable {PLACE}, or make the file with 'spectro-render config'"
            raise OptionError(f"{path} does not exist", hint) from None
        return {}
    except (OSError, UnicodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "it is not in UTF-8"
        raise OptionError(f"{path} cannot be read: {reason}", "check the file") from error
    return values_in(parse(text, path), path)


def check_names(command: Command, found: Mapping[str, Any]) -> None:
    """Raise OptionError for a name in the file that is no option of the main command.

    A variable that looks like one with a misspelled name is reported, but may belong to others.
    """
    known = [str(parameter.name) for parameter in command.params if parameter.name not in NOT_SET]
    for name, value in found.items():
        if name not in known and not (isinstance(value, dict) and name in SUB_COMMANDS):
            shown = name.replace("_", "-")
            hint = did_you_mean(shown, (each.replace("_", "-") for each in known))
            raise OptionError(f"{config_path()}: no such option: {shown}", hint)
    variables = {f"{PREFIX}_{name.upper()}" for name in known}
    variables |= {f"{PREFIX}_{name}" for name in _OTHER_VARIABLES} | {PLACE}
    for name in os.environ:
        near = get_close_matches(name, variables, n=1, cutoff=0.9)
        if name.startswith(PREFIX) and name not in variables and near:
            complain(f"the variable {name} is none of this program's; did you mean {near[0]}?")


def parse(text: str, path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises OptionError if it is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path}: {error}", "correct the file") from error


def values_in(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Values as the command line has them: texts, lists of texts, flags; by names of parameters."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        key = name.replace("-", "_")
        if isinstance(value, bool):
            values[key] = value
        elif isinstance(value, (int, float, str)):
            values[key] = str(value)
        elif isinstance(value, list):
            values[key] = [str(each) for each in value]
        elif isinstance(value, dict):
            values[key] = values_in(value, path)
        else:
            raise OptionError(f"{path}: {name} is a date", "give a number, a text or true")
    return values
