"""The command `spectro-render config`: shows and changes the user's own defaults of options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectro_render.atomic import NewFile
from spectro_render.cli.defaults import (
    NOT_SET,
    PREFIX,
    config_path,
    parse,
    read_config,
    values_in,
)
from spectro_render.cli.render import rendering
from spectro_render.cli.words import did_you_mean
from spectro_render.errors import OptionError, OutputError, reason_of
from spectro_render.report import PROGRAM, one_line

if TYPE_CHECKING:
    from typer._click.core import Command


config = typer.Typer(invoke_without_command=True)


@config.callback()
def config_callback(context: typer.Context) -> int | None:
    """Show and change your own defaults of options.

    A variable such as SPECTRO_RENDER_STEPS or SPECTRO_RENDER_SAMPLE_RATE takes precedence over the
    file, and the command line over both.
    """
    return show() if context.invoked_subcommand is None else None


@config.command("show")
def show() -> int:
    """Print the values that differ from the defaults, and where they come from."""
    for name, value, place in _origins():
        print(one_line(f"{name} = {_as_toml(value)}  # {place}"))
    return 0


@config.command("path")
def print_path() -> int:
    """Print the name of the configuration file, which need not exist."""
    print(config_path())
    return 0


@config.command("set")
def set_value(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Option without --, such as steps.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Value; true or false for flags.")],
) -> int:
    """Set the default of an option of the main command."""
    command = _command()
    key = name.replace("-", "_")
    options = {each.name: each for each in command.params if each.name not in NOT_SET}
    if key not in options:
        known = [str(each).replace("_", "-") for each in options]
        raise OptionError(f"no such option: {name}", did_you_mean(key.replace("_", "-"), known))
    kept: Any = value
    if getattr(options[key], "is_flag", False):
        if value.lower() not in ("true", "false"):
            raise OptionError(f"{name} is a flag", "set it to true or false")
        kept = value.lower() == "true"
    command.make_context(PROGRAM, [], default_map={key: kept}).close()  # raises if it is wrong
    _edit(key, kept)
    return 0


@config.command("unset")
def unset_value(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Option without --.")],
) -> int:
    """Remove the default of an option, so that it has the program's own."""
    key = name.replace("-", "_")
    if key not in read_config():
        raise OptionError(f"{name} is not set in {config_path()}")
    _edit(key, None)
    return 0


def _command() -> Command:
    """The main command, whose options have defaults."""
    return typer.main.get_command(rendering)


def _origins() -> Iterator[tuple[str, Any, str]]:
    """Names, values and places of all options that are set, by precedence."""
    found = read_config()
    for parameter in _command().params:
        name = str(parameter.name)
        variable = f"{PREFIX}_{name.upper()}"
        if name in NOT_SET:
            continue
        if os.environ.get(variable):
            yield name.replace("_", "-"), os.environ[variable], variable
        elif name in found:
            yield name.replace("_", "-"), found[name], str(config_path())


def _edit(key: str, value: Any) -> None:
    """Change or remove the line of a key in the file, and keep all others.

    Raises OptionError for a file that has the key in more than a line, OutputError if it cannot be
    written.
    """
    path = config_path()
    before = read_config()
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    end = next((n for n, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    is_key = re.compile(rf"\s*[\"']?{key.replace('_', '[-_]')}[\"']?\s*=")
    kept = [line for line in lines[:end] if not is_key.match(line)]
    while kept and not kept[-1].strip():
        kept.pop()
    line = [] if value is None else [f"{key.replace('_', '-')} = {_as_toml(value)}"]
    rest = ["", *lines[end:]] if end < len(lines) else []
    text = "\n".join([*kept, *line, *rest]) + "\n"
    wanted = {name: own for name, own in before.items() if name != key}
    wanted |= {} if value is None else {key: value if isinstance(value, bool) else str(value)}
    if values_in(parse(text, path), path) != wanted:
        raise OptionError(f"{path} is not as simple as this command expects", "edit it by hand")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot make the folder: {reason_of(error)}") from error
    file = NewFile(path)
    file.file.write(text.encode())
    file.commit()


def _as_toml(value: Any) -> str:
    """A value as it is written in a TOML file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml, value))}]"
    text = str(value)
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda c: f"\\u{ord(c[0]):04x}", escaped) + '"'
