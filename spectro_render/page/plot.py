"""The picture of a rendered song: piano roll, log-mel spectrogram and waveform on one time axis."""

from __future__ import annotations

import colorsys
from io import BytesIO

import numpy as np
import torch

from spectro_render.constants import N_MELS, WINDOW_SECONDS
from spectro_render.mel import band_of
from spectro_render.page.rendering import Rendering, as_time, parts_of, pitch_range
from spectro_render.page.sound import measure

LOUDNESS = (-8.0, 4.0)  # natural log-mel: what is fainter is black, what is louder is white
MARKED_HZ = (250, 1000, 4000)
WIDTH, HEIGHT, DPI = 10.0, 6.4, 100  # inches, and pixels per inch
_MOST_LEGEND = 20  # instruments that are named
_MOST_BORDERS = 60  # of windows: more of them would hide the notes


def draw_plot(rendering: Rendering) -> bytes:
    """Draw a picture of a rendered song: returns a PNG.

    The borders of the model's windows are dashed, if there are at most 60 of them. Raises
    ImportError without matplotlib.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    seconds = rendering.sound.seconds
    shape = measure(rendering.sound, most_bins=int(WIDTH * DPI), most_columns=int(WIDTH * DPI))
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    roll, mel, wave = figure.subplots(3, sharex=True, height_ratios=(5, 4, 2))

    names = []
    for part in parts_of(rendering.score):
        colour = colorsys.hls_to_rgb(part.hue / 360, 0.42, 0.65)
        lines = [((note.start, note.pitch), (note.end, note.pitch)) for note in part.notes]
        roll.add_collection(LineCollection(lines, colors=[colour], linewidths=2.2))
        names.append(Line2D([], [], color=colour, linewidth=3, label=_plain(part.name)))
    low, high = pitch_range(rendering.score)
    octaves = range(low, high + 1, 12)
    roll.set_yticks(octaves, [f"C{pitch // 12 - 1}" for pitch in octaves])
    roll.set(ylim=(low - 1, high + 1), ylabel="notes")
    roll.grid(axis="y", linewidth=0.4)
    if len(names) > _MOST_LEGEND:
        more = f"and {len(names) - _MOST_LEGEND} more"
        names = [*names[:_MOST_LEGEND], Line2D([], [], linestyle="", label=more)]
    place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
    roll.legend(handles=names, fontsize="x-small", **place)

    extent = (0, seconds, 0, N_MELS)
    image = mel.imshow(
        shape.mel.T, "magma", aspect="auto", origin="lower", extent=extent, clim=LOUDNESS
    )
    heights = (band_of(torch.tensor(MARKED_HZ, dtype=torch.float32)) + 0.5).tolist()
    mel.set_yticks(heights, [f"{hz / 1000:g} kHz" for hz in MARKED_HZ])
    mel.set_ylabel("log-mel")
    figure.colorbar(image, cax=mel.inset_axes((1.01, 0, 0.015, 1)), label="ln amplitude")

    times = (np.arange(len(shape.highs)) + 0.5) * seconds / len(shape.highs)
    wave.fill_between(times, shape.lows, shape.highs, step="mid", linewidth=0)
    wave.set(xlim=(0, seconds), ylim=(-1, 1), yticks=(-1, 0, 1), ylabel="samples")
    wave.xaxis.set_major_formatter(lambda x, _: as_time(x) if seconds >= 90 else f"{x:g}")
    wave.set_xlabel("minutes" if seconds >= 90 else "seconds")

    borders = np.arange(WINDOW_SECONDS, seconds, WINDOW_SECONDS)
    for axes, ink in (roll, "black"), (mel, "white"), (wave, "black"):
        if len(borders) <= _MOST_BORDERS:
            for border in borders:
                axes.axvline(border, color=ink, linestyle="dashed", linewidth=0.5, alpha=0.6)
    figure.align_ylabels()
    figure.suptitle(_plain(rendering.title), fontsize="medium")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _plain(text: str) -> str:
    """A text as it stands: `$` begins a formula for matplotlib."""
    return text.replace("$", r"\$")
