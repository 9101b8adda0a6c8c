"""The options that change the music: how their values are read."""

from __future__ import annotations

import math
from collections.abc import Iterable

import typer

from spectro_render.errors import OptionError
from spectro_render.midi.changes import MAX_TEMPO, MAX_VELOCITY, MIN_TEMPO, MIN_VELOCITY
from spectro_render.midi.instruments import find_instrument
from spectro_render.midi.meter import parse_bars


def tempo(value: float | None) -> float | None:
    """Check a value of --tempo."""
    return _within(value, MIN_TEMPO, MAX_TEMPO)


def velocity(value: float | None) -> float | None:
    """Check a value of --velocity."""
    return _within(value, MIN_VELOCITY, MAX_VELOCITY)


def _within(value: float | None, least: float, most: float) -> float | None:
    if value is not None and not (math.isfinite(value) and least <= value <= most):
        raise typer.BadParameter(f"{value:g} is not in the range {least:g}<=x<={most:g}")
    return value


def bars(value: str | None) -> str | None:
    """Check a value of --bars."""
    if value is not None:
        try:
            parse_bars(value)
        except OptionError as error:
            raise typer.BadParameter(str(error)) from error
    return value


def programs(values: Iterable[str] | None) -> dict[int | str, int | str] | None:
    """Read values of --program: `PART=INSTRUMENT`, split at the last equals sign."""
    found: dict[int | str, int | str] = {}
    for value in values or ():
        part, sign, instrument = value.rpartition("=")
        if not sign or not part.strip():
            raise OptionError(
                f"--program {value} does not say of what", "write --program CHANNEL=INSTRUMENT"
            )
        find_instrument(instrument)  # so that a wrong one is refused before any work
        found[part.strip()] = instrument.strip()
    return found or None
