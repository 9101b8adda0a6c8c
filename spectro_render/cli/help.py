"""The help of the main command: options in groups, examples, and the sub-commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from spectro_render.report import PROGRAM

if TYPE_CHECKING:
    from typer._click import Context
    from typer._click.formatting import HelpFormatter

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}  # of all commands

_OTHER = "Other options"
_GROUPS = {
    "Input and output": (
        *("output", "files_from", "format", "quality", "sample_rate", "bit_depth", "no_dither"),
        *("raw", "no_tags", "force", "skip_existing", "dry_run", "plot", "report"),
    ),
    "Sound": (
        *("fast", "best", "steps", "sampler", "guidance", "seed", "start", "duration", "tail"),
        *("to_end_of_track", "max_hours", "gain", "normalize", "full_band"),
    ),
    "Music": (
        "program",
        "skip_missing",
        "drums",
        "transpose",
        "tempo",
        "velocity",
        "bars",
        "mapping",
        *("channels", "stems", "stems_by", "solo", "mute"),
    ),
    "Playing and watching": ("play", "play_device", "watch"),
    "Model and device": ("model", "vocoder", "timbre", "device", "dtype", "server"),
    "Many files": ("batch_size", "workers"),
    "Ray cluster": ("engine", "ray_address", "ray_workers", "ray_cores"),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}
_EXAMPLES = (
    ("spectro-render song.mid", "Write song.wav beside it."),
    ("spectro-render song.mid -o take2.flac --best", "Slower and better."),
    ("spectro-render albums -o rendered", "All songs of a folder; repeat it to continue."),
    ("spectro-render song.mid --play", "Play it while it is rendered."),
)
_COMMANDS = {
    "info": "Show what is in MIDI files.",
    "models": "List, fetch, check and convert models.",
    "train": "Train a model.",
    "evaluate": "Measure how good a model sounds.",
    "again": "Render an audio file again from its tags.",
    "serve": "Render for others, on a page and over HTTP.",
    "config": "Show and change your own defaults.",
    "doctor": "Show versions, devices, speed and what is missing.",
}
_NOTE = "Each command has its own --help. A file with such a name is given as ./info."


# Of two of these options, the one that is given in a place of higher precedence counts alone.
_RIVALS = (
    *(("fast", "best"), ("fast", "steps"), ("fast", "sampler"), ("best", "steps")),
    *(("best", "sampler"), ("raw", "format"), ("force", "skip_existing")),
    *(("gain", "normalize"), ("bars", "start"), ("bars", "duration"), ("workers", "engine")),
)
_PRECEDENCE = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")


class GroupedCommand(TyperCommand):
    """A command whose help has its options in groups, then examples and the sub-commands."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse arguments. `--best` overrides `fast` in a variable or in the file, and so on."""
        rest = super().parse_args(ctx, args)
        defaults = {parameter.name: parameter.default for parameter in self.params}
        for pair in _RIVALS:
            if any(ctx.params.get(name) in (None, False, "none") for name in pair):
                continue
            ranks = [
                _PRECEDENCE.index(getattr(ctx.get_parameter_source(name), "name", "DEFAULT"))
                for name in pair
            ]
            if min(ranks) > 0 and ranks[0] != ranks[1]:
                weaker = pair[ranks.index(min(ranks))]
                ctx.params[weaker] = defaults[weaker]
        return rest

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the arguments, and the options group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        groups |= {name: [] for name in ("Arguments", *_GROUPS)}
        for parameter in self.get_params(ctx):
            entry = parameter.get_help_record(ctx)
            if entry is None:
                continue
            group = _GROUP_OF.get(str(parameter.name), _OTHER)
            group = getattr(parameter, "rich_help_panel", None) or group
            is_argument = parameter.param_type_name == "argument"
            groups.setdefault("Arguments" if is_argument else group, []).append(entry)
        groups[_OTHER] = groups.pop(_OTHER, [])  # at the end
        for name, entries in groups.items():
            if entries:
                with formatter.section(name):
                    formatter.write_dl(entries)

    def format_epilog(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the examples and the sub-commands."""
        with formatter.section("Examples"):
            formatter.write_dl(_EXAMPLES, col_max=46)
        with formatter.section("Commands"):
            formatter.write_dl([*_COMMANDS.items()])
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_NOTE)


def is_given(context: Context, name: str) -> bool:
    """Whether an option is on the command line, and not only in a variable or in the file."""
    return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"


def short_help() -> str:
    """What is shown if the program is started without arguments."""
    width = max(len(command) for command, _ in _EXAMPLES)
    examples = [f"  {command:<{width}}  {meaning}" for command, meaning in _EXAMPLES]
    lines = [
        f"Usage: {PROGRAM} INPUT... [-o OUT] [options]",
        "",
        "Turn MIDI files into audio. INPUT is a MIDI file, a folder of them, or - for standard"
        " input.",
        "",
        *examples,
        "",
        f"Commands: {', '.join(_COMMANDS)}.",
        f"'{PROGRAM} --help' lists all options, and '{PROGRAM} info --help' those of a command.",
    ]
    return "\n".join(lines)
