"""How long a song sounds, and the ceiling on that: a small file may hold a day of notes."""

from __future__ import annotations

import math
from dataclasses import replace

from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import MidiError, OptionError
from spectro_render.midi.meter import parse_bars
from spectro_render.midi.score import Score, section
from spectro_render.options import RenderOptions

TAIL_SECONDS = 2.5  # rendered at least after the last note has ended, as in training


def sounding_seconds(
    score: Score, duration: float | None = None, least: float | None = None
) -> float:
    """The length of a rendered song in seconds, with the end of its sound; at most `duration`.

    That is `least` seconds, by default until TAIL_SECONDS after the last note.
    """
    seconds = score.duration + TAIL_SECONDS if least is None else least
    return seconds if duration is None else min(seconds, duration)


def least_seconds(score: Score, options: RenderOptions) -> float | None:
    """The shortest length of a song's sound in seconds; None for the usual length."""
    if options.tail is None and not options.to_end_of_track:
        return None
    least = sounding_seconds(score) if options.tail is None else score.duration + options.tail
    if not options.to_end_of_track:
        return least
    return max(least, score.end_of_tracks) if score.notes else score.end_of_tracks


def part_to_render(score: Score, options: RenderOptions) -> Score:
    """The section of a score that the options choose.

    Raises OptionError for times that are impossible, MidiError where nothing sounds, or where the
    sound would be shorter than a sample or longer than `options.max_hours`.
    """
    options = with_times(score, options)
    _check_times(options)
    part = section(score, options.start, options.duration, with_rests=options.to_end_of_track)
    seconds = sounding_seconds(part, options.duration, least_seconds(part, options))
    if round(seconds * SAMPLE_RATE) < 1:
        raise MidiError(
            f"{seconds:g} s of sound are less than one sample, 1/{SAMPLE_RATE} s",
            "choose a longer duration or tail",
        )
    check_length(seconds, options.max_hours)
    return part


def with_times(score: Score, options: RenderOptions) -> RenderOptions:
    """The options with start and duration in place of bars.

    Raises OptionError where bars are impossible, MidiError where the music does not have them.
    """
    if options.bars is None:
        return options
    if options.start or options.duration is not None:
        raise OptionError(
            "--bars excludes --start and --duration", "choose a part by bars or by seconds"
        )
    parse_bars(options.bars)
    if score.meter is None:
        raise MidiError(
            "this music counts no bars", "choose a part with --start and --duration, in seconds"
        )
    start, duration = score.meter.section(options.bars)
    return replace(options, bars=None, start=start, duration=duration)


def check_length(seconds: float, max_hours: float) -> None:
    """Raise MidiError if a sound of `seconds` is longer than `max_hours` hours."""
    if not 0 < max_hours < math.inf:
        raise OptionError(
            f"max_hours is {max_hours:g}, not a number above 0",
            "give 25 to render files of any length",
        )
    hours = seconds / 3600
    if hours > max_hours:
        # Rounded up, or both numbers might look equal.
        raise MidiError(
            f"too long: {math.ceil(hours * 100) / 100:.6g} hours of sound, and no more than"
            f" {max_hours:g} are rendered",
            "raise --max-hours, or render a part with --start and --duration",
        )


def _check_times(options: RenderOptions) -> None:
    for name, is_allowed in (
        ("start", 0 <= options.start < math.inf),
        ("duration", options.duration is None or 0 < options.duration < math.inf),
        ("tail", options.tail is None or 0 <= options.tail < math.inf),
    ):
        if not is_allowed:
            least = "above 0" if name == "duration" else "from 0 on"
            value = getattr(options, name)
            raise OptionError(f"{name} is {value:g}, not a number {least}", "give it in seconds")
