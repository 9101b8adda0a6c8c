"""The page of a rendered song: one HTML file with a player, which needs no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

import numpy as np

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.page.drawings import piano_roll, spectrogram
from spectro_render.page.rendering import Part, Rendering, Stem, as_time, parts_of, time_step
from spectro_render.page.sound import Sound, embed, measure
from spectro_render.report import PROGRAM, count

ASSETS = Path(__file__).parent / "assets"
WAVESURFER = "8.0.1"  # the version of assets/wavesurfer.min.js
MOST_STEM_SAMPLES = 30_000_000  # of all stems: 120 MB while a browser plays them
MOST_BINS, MOST_COLUMNS = 8000, 4096  # of the waveform and the spectrogram
# Nothing may be loaded from anywhere, and no script runs but the two of this page.
_POLICY = (
    "default-src 'none'; img-src data:; media-src blob:; connect-src data:;"
    " style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"
)


def make_page(rendering: Rendering) -> str:
    """Make the page of a rendered song.

    Stems are embedded, for solo and mute, if they have at most MOST_STEM_SAMPLES samples together.
    Raises OutputError where the sound cannot be read or encoded.
    """
    sound, parts = rendering.sound, parts_of(rendering.score)
    shape = measure(sound, most_bins=MOST_BINS, most_columns=MOST_COLUMNS)
    stem_samples = sum(stem.sound.frames * stem.sound.channels for stem in rendering.stems)
    stems = rendering.stems if stem_samples <= MOST_STEM_SAMPLES else ()
    facts = {
        "seconds": round(sound.seconds, 3),
        "sampleRate": sound.sample_rate,
        "peaks": np.round(np.maximum(shape.highs, -shape.lows), 3).tolist(),
    }
    picture = base64.b64encode(spectrogram(shape.mel)).decode()
    numbers = {
        "length": f"{sound.seconds:.2f} s, {_windows(sound.seconds)} of {WINDOW_SECONDS} s",
        "notes": f"{len(rendering.score.notes)}",
        "sound": f"{sound.sample_rate} Hz, {'mono' if sound.channels == 1 else 'stereo'}",
        "peak": f"{shape.peak:.1f} dBFS",
        "mean level": f"{shape.rms:.1f} dBFS",
        **rendering.numbers,
    }
    library, own = _asset("wavesurfer.min.js"), _asset("page.js")
    licence = f"/*! wavesurfer.js {WAVESURFER}\n{_asset('wavesurfer.LICENSE')}*/\n"
    scripts = [licence + library, own]
    left_out = (
        "<p>The stems are not part of this page, as they are too long to be played together.</p>"
        if len(stems) < len(rendering.stems)
        else ""
    )
    title = escape(rendering.title)
    about = ", ".join((f"{as_time(sound.seconds)} of sound", count(len(parts), "instrument")))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<title>{title}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{about}, rendered by {PROGRAM}</p>
</header>
<main>
<section aria-label="Player">
<div class="controls needs-script" hidden>
<button id="play" type="button">Play</button>
<span id="time"></span>
<label>Position <input id="position" type="range" min="0" max="{facts["seconds"]}" step="0.01"\
 value="0"></label>
<label>Zoom <input id="zoom" type="range" min="0" max="6" step="0.5" value="0"></label>
</div>
<p id="problem" role="alert" hidden></p>
<div id="chart"></div>
<template id="chart-style"><style>
{_asset("chart.css")}</style></template>
<style>
{_asset("chart.css")}</style>
<div id="drawings">
{piano_roll(rendering.score, parts, sound.seconds)}
<img class="mel" alt="Log-mel spectrogram, from 0 to 8 kHz"\
 src="data:image/png;base64,{picture}">
{_ticks(sound.seconds)}
</div>
</section>
{_tracks(parts, stems)}{left_out}
<div class="columns">
{_table("Settings", rendering.settings)}
{_table("Numbers", numbers)}
</div>
{_losses(rendering.losses)}
</main>
<footer>The player is wavesurfer.js {WAVESURFER}; its licence (BSD, 3 clauses) is in the source of\
 this page.</footer>
<script id="facts" type="application/json">{_json(facts)}</script>
{"".join(_embedded(one) for one in (sound, *(stem.sound for stem in stems)))}\
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """The content security policy, by which only these scripts run."""
    sums = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return _POLICY.format(
        hashes=" ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in sums)
    )


def _json(value: object) -> str:
    """JSON that does not end the script element around it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _embedded(sound: Sound) -> str:
    kind, data = embed(sound)
    text = base64.b64encode(data).decode()
    return f'<script class="sound" type="text/plain" data-type="{kind}">{text}</script>\n'


def _windows(seconds: float) -> str:
    return count(max(1, -(-round(seconds * 1000) // round(WINDOW_SECONDS * 1000))), "window")


def _ticks(seconds: float) -> str:
    """The marks of the time axis."""
    step = time_step(seconds)
    marks = [number * step for number in range(int(seconds / step) + 1)]
    spans = "".join(
        f'<span style="left:{100 * mark / seconds:.3f}%">'
        f"{as_time(mark) if step >= 1 else f'{mark:g}'}</span>"
        for mark in marks
        if mark < seconds * 0.98
    )
    return f'<div class="ticks" aria-hidden="true">{spans}</div>'


def _tracks(parts: Sequence[Part], stems: Sequence[Stem]) -> str:
    """The table of instruments; with stems, a second one with their buttons for solo and mute."""
    rows = "".join(
        f'<tr><th scope="row"><span class="swatch" style="--hue:{part.hue}"></span>'
        f'{escape(part.name)}</th><td class="number">{len(part.notes)}</td></tr>\n'
        for part in parts
    )
    table = (
        '<section class="tracks"><h2>Instruments</h2>\n<table><thead><tr><th scope="col">name</th>'
        '<th scope="col" class="number">notes</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></section>\n"
    )
    if not stems:
        return table
    rows = ""
    for number, stem in enumerate(stems, start=1):
        name = escape(stem.name)
        buttons = " ".join(
            f'<button type="button" data-stem="{number}" data-kind="{kind}" aria-pressed="false"'
            f' aria-label="{kind.capitalize()}: {name}">{kind.capitalize()}</button>'
            for kind in ("solo", "mute")
        )
        rows += f'<tr><th scope="row">{name}</th><td class="buttons">{buttons}</td></tr>\n'
    return (
        '<section class="tracks needs-script" hidden><h2>Stems</h2>\n<table><thead><tr>'
        '<th scope="col">name</th><th scope="col">what is played</th></tr></thead>\n<tbody>\n'
        f"{rows}</tbody></table></section>\n{table}"
    )


def _table(heading: str, entries: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
        for name, value in entries.items()
    )
    return f"<section><h2>{heading}</h2>\n<table><tbody>\n{rows}</tbody></table></section>"


def _losses(losses: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(loss)}</li>\n" for loss in losses)
    found = f"<ul>\n{items}</ul>" if losses else "<p>Nothing: all of the file is played.</p>"
    return f"<section><h2>What was repaired, ignored or left out</h2>\n{found}</section>"
