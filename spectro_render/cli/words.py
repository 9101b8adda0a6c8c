"""Messages about wrong usage: what is wrong in this program's own words, and what may be meant."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import typer

from spectro_render.cli.completion import SUB_COMMANDS
from spectro_render.errors import OptionError

# What other programs call our options.
_MEANT = {
    "--force": ("--overwrite", "--replace", "--clobber", "--yes", "-y", "-f"),
    "--skip-existing": ("--no-overwrite", "--keep", "--resume", "--continue", "-n"),
    "--output": ("--out", "--outdir", "--out-dir", "--output-dir", "--output-folder", "--outfile"),
    "--sample-rate": ("--rate", "--samplerate", "--sr", "-r"),
    "--bit-depth": ("--bits", "--depth", "--float32", "--int24"),
    "--gain": ("--volume", "-g"),
    "--normalize": ("--loudness", "--lufs", "--loudnorm", "--normalise"),
    "--start": ("--offset", "--from", "--seek", "--ss"),
    "--duration": ("--length", "--end", "--to", "--trim"),
    "--workers": ("--jobs", "--threads", "--processes", "-j"),
    "--device": ("--gpu", "--cpu", "--cuda", "-d"),
    "--model": ("--checkpoint", "--weights", "--soundfont", "--sf2", "-m"),
    "--files-from": ("--input-list", "--list"),
    "--quiet": ("--silent", "--no-progress"),
    "--format": ("--type", "--output-format", "-t", "-F"),
    "--channels": ("--stereo", "--mono"),
    "--play": ("--listen", "--playback"),
    "--stems": ("--split", "--separate", "--tracks"),
    "--dry-run": ("--simulate", "--just-print", "--what-if"),
    "--quality": ("--bitrate", "--bit-rate", "--mp3-bitrate", "--vbr"),
}
_SYNONYMS = {theirs: ours for ours, others in _MEANT.items() for theirs in others}
_NO_COMMANDS = {
    **dict.fromkeys(
        ("render", "convert", "synth", "synthesize", "synthesise", "generate", "run"),
        "rendering needs no command, as in: spectro-render song.mid",
    ),
    "help": "",
    "version": "spectro-render --version prints the version",
    "list": "spectro-render models list prints the models",
    "pull": "spectro-render models pull NAME fetches a model",
}


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A question for the known name that is most like `name`, or `otherwise` if none is."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else otherwise


def check_first_word(inputs: Sequence[str]) -> None:
    """Raise OptionError if the first input is no file but a word that looks like a command."""
    word = inputs[0] if inputs else ""
    if not word.isalpha() or os.path.lexists(word):
        return
    message = f"{word!r} is neither a file nor a command"
    if word in SUB_COMMANDS:
        raise OptionError(f"the command {word} comes first", f"spectro-render {word} INPUT")
    if word in _NO_COMMANDS:
        raise OptionError(message, _NO_COMMANDS[word])
    if hint := did_you_mean(word, SUB_COMMANDS):
        raise OptionError(message, hint)


def usage_message(error: typer.TyperException) -> str:
    """What is wrong with a command line, in one line."""
    option = getattr(error, "option_name", None)
    context = getattr(error, "ctx", None)
    if hasattr(error, "possibilities") and option is not None:
        known = [name for p in context.command.params for name in p.opts] if context else []
        meant = _SYNONYMS.get(option, "")
        question = f"did you mean {meant}?" if meant in known else ""
        if not question and option.startswith("--"):
            question = did_you_mean(option, known)
        return f"no such option: {option}" + (f"; {question}" if question else "")
    if isinstance(error, typer.BadParameter) and error.param is not None:
        found: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
        what = _what_is_wrong(found[0]) if found else error.message
        if what:
            return f"Invalid value for {_place_of(error, context)}: {what}"
    return error.format_message()


def _place_of(error: typer.BadParameter, context: Any) -> str:
    """Where a wrong value was given: an option, a variable or the file of settings."""
    parameter = error.param
    assert parameter is not None
    source = context.get_parameter_source(parameter.name) if context else None
    name = getattr(source, "name", "")
    if name == "ENVIRONMENT":
        return f"{context.auto_envvar_prefix}_{str(parameter.name).upper()}"
    if name == "DEFAULT_MAP":
        return f"{str(parameter.name).replace('_', '-')} in the configuration file"
    return parameter.get_error_hint()


def _what_is_wrong(error: dict[str, Any]) -> str:
    """Our words for an error of pydantic's, with which Typer converts values; "" for others."""
    kind, value, limits = str(error["type"]), error["input"], error.get("ctx", {})
    if kind == "greater_than_equal":
        return f"{value} is less than {limits['ge']:g}"
    if kind == "less_than_equal":
        return f"{value} is more than {limits['le']:g}"
    if kind.startswith("int_"):
        return f"{value!r} is not a whole number"
    if kind.startswith("float_"):
        return f"{value!r} is not a number"
    if kind.startswith("bool_"):
        return f"{value!r} is neither true nor false"
    if kind == "value_error":
        text = str(limits["error"]).rstrip(".")
        given, is_choice, choices = text.partition(" is not one of ")
        if not is_choice:
            return text
        known = [choice.strip("'") for choice in choices.split(", ")]
        question = did_you_mean(given.strip("'"), known)
        return f"{given} is none of {', '.join(known)}" + (f"; {question}" if question else "")
    return ""
