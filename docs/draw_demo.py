"""Renders the example song and draws it as `--plot` does: docs/images/demo.png (`make picture`)."""

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image

import spectro_render as sr
from spectro_render.page.plot import draw_plot
from spectro_render.page.rendering import Rendering
from spectro_render.page.sound import sound_of_audio

ROOT = Path(__file__).parent.parent
SONG = ROOT / "docs" / "demo.mid"
PICTURE = ROOT / "docs" / "images" / "demo.png"

COLOURS = 200  # of the PNG, which would be twice as large with all


def draw(song: Path, picture: Path) -> None:
    """Render `song` with the default model and write its picture to `picture`, a PNG."""
    score = sr.read_midi(song)
    audio = sr.Renderer.load().render(score, seed=0)
    drawn = draw_plot(Rendering(song.name, score, sound_of_audio(audio), {}, {}))
    picture.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(BytesIO(drawn)).convert("RGB")
    few_colours = image.quantize(COLOURS, dither=Image.Dither.NONE)
    few_colours.save(picture, format="png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--song", type=Path, default=SONG, help="a MIDI file")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="the PNG to write")
    arguments = parser.parse_args()
    draw(arguments.song, arguments.picture)
