"""Reads values of options in the forms that people write: times, sample rates."""

from __future__ import annotations

import re

import typer

from spectro_render.errors import WeightsError

_UNITS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):([0-5]?\d(?:\.\d*)?)")
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]*)")


def seconds(value: str | float) -> float:
    """Seconds of a time: `90`, `1:30`, `1:02:30.5`, `90s`, `500ms`, `1.5min`, `2h`.

    Raises ValueError for anything else, and for times below 0.
    """
    text = str(value).strip().lower()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, rest = clock.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(rest)
    number = _NUMBER.fullmatch(text)
    if number is None or number[2] not in ("", *_UNITS):
        raise ValueError(f"{value!r} is no time, such as 90, 1:30, 90s or 500ms")
    found = float(number[1]) * _UNITS.get(number[2], 1.0)
    if found < 0:
        raise ValueError(f"{value} is less than 0")
    return found


def hertz(value: str | float) -> int:
    """Hertz of a sample rate: `44100`, `44.1k`, `48kHz`. Raises ValueError for anything else."""
    text = str(value).strip().lower()
    number = _NUMBER.fullmatch(text)
    factor = {"": 1, "hz": 1, "k": 1000, "khz": 1000}.get(number[2]) if number else None
    rate = float(number[1]) * factor if number and factor else 0.5
    if not rate.is_integer():
        raise ValueError(f"{value!r} is no sample rate, such as 44100, 44.1k or 48kHz")
    return int(rate)


def model_name(value: str | None) -> str | None:
    """Refuse a name that no model has and that is no model directory.

    The default model is not needed where a server renders.
    """
    from spectro_render.checkpoints.find import check_name

    if value not in (None, "default"):
        try:
            check_name(str(value))
        except WeightsError as error:
            raise typer.BadParameter(str(error)) from error
    return value
