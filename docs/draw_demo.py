"""Renders the example song and draws what it sounds like: docs/images/demo.png (`make picture`)."""

import argparse
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import spectro_render as sr
from spectro_render.constants import FRAME_RATE, N_MELS
from spectro_render.mel import hz_to_mel

ROOT = Path(__file__).parent.parent
SONG = ROOT / "docs" / "demo.mid"
PICTURE = ROOT / "docs" / "images" / "demo.png"

RANGE = (-8.0, 4.0)  # natural log-mel: what is fainter is black, what is louder is white
COLOURS = 64  # of the PNG, which would be three times as large with all
TICKS = (250, 1000, 4000)  # Hz
BIN_SECONDS = 0.04  # of the waveform in one bar of the envelope


def draw(song: Path, picture: Path) -> None:
    """Render `song` and write its log-mel spectrogram above its waveform to `picture`, a PNG."""
    audio = sr.Renderer.load().render(song, seed=0)
    samples = audio.samples.mean(axis=0)
    mel = sr.log_mel(torch.from_numpy(samples)).numpy()  # (frames, bands)

    figure = Figure(figsize=(8, 3.6), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    end = len(mel) / FRAME_RATE
    extent = (0, end, 0, N_MELS)
    upper.imshow(mel.T, "magma", aspect="auto", origin="lower", extent=extent, clim=RANGE)
    upper.set_yticks([band_of(hz) for hz in TICKS], [f"{hz / 1000:g} kHz" for hz in TICKS])
    upper.set_title(f"{song.name}, log-mel spectrogram and waveform", fontsize="medium")

    width = round(BIN_SECONDS * audio.sample_rate)
    bins = samples[: len(samples) // width * width].reshape(-1, width)
    times = (np.arange(len(bins)) + 0.5) * BIN_SECONDS
    lower.fill_between(times, bins.min(axis=1), bins.max(axis=1), step="mid", linewidth=0)
    lower.set(xlim=(0, end), ylim=(-1, 1), yticks=(-1, 0, 1), xlabel="seconds")

    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    few_colours = Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few_colours.save(picture, format="png", optimize=True)


def band_of(hz: float) -> float:
    """The height of a frequency on an axis of mel bands."""
    edges = hz_to_mel(torch.tensor([hz, 8000.0]))
    return float(edges[0] / edges[1] * (N_MELS + 1) - 0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--song", type=Path, default=SONG, help="a MIDI file")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="the PNG to write")
    arguments = parser.parse_args()
    draw(arguments.song, arguments.picture)
