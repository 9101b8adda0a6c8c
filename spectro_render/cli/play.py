"""The option `--play`: songs are heard while they are rendered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spectro_render.audio.player import Player
from spectro_render.cli.help import is_given
from spectro_render.errors import OptionError
from spectro_render.report import Reporter

if TYPE_CHECKING:
    from typer._click import Context

# Options that are about files, which there are none of if songs are only played.
_OF_FILES = (
    *("format", "quality", "bit_depth", "no_dither", "raw", "no_tags", "force", "skip_existing"),
    *("stems", "plot", "report"),
)
_TICK = 0.2  # seconds between two looks at how far the sound is


def check_playing(context: Context, output: str | None) -> None:
    """Raise OptionError for options of the command line that `--play` excludes."""
    if context.params["engine"] != "local":
        raise OptionError("--play is for songs that are rendered here", "leave out --engine")
    for name in ("workers", "batch_size"):
        if is_given(context, name) and context.params[name] != 1:
            option = f"--{name.replace('_', '-')}"
            raise OptionError("--play renders one song after the other", f"leave out {option}")
    for name in _OF_FILES:
        if output is None and is_given(context, name) and context.params[name]:
            option = f"--{name.replace('_', '-')}"
            message = f"--play without an output writes no file, so {option} has no use"
            raise OptionError(message, "name an output with -o")


@contextmanager
def playing(
    device: str | None, reporter: Reporter, stops: Callable[[], bool] | None = None
) -> Iterator[Player]:
    """A player, which at the end is waited for. After an error or an interrupt it stops at once.

    It also stops as soon as everything is rendered and `stops` returns True. Raises
    SpectroRenderError if nothing can be played here.
    """
    player = Player(device)
    try:
        yield player
        with reporter.playing(lambda: (player.seconds_played, player.seconds_written)) as show:
            while not player.finish(_TICK):
                show()
                if stops is not None and stops():
                    player.stop()
    except BaseException:
        player.stop()
        raise
    if player.pauses:
        pauses = "a pause" if player.pauses == 1 else f"{player.pauses} pauses"
        reporter.say(f"played with {pauses}, as rendering was slower than the sound")
