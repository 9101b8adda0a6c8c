"""Renders eight short clips beside the soundfont's sound: docs/samples.html (`make samples`).

The clips are parts of the example song, each with some of its instruments. The page is one file
with all sounds and pictures, and needs no script. It needs FluidSynth and the soundfont, as
`evaluate` does.
"""

import argparse
import base64
import io
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pretty_midi

import spectro_render as sr
from spectro_render.audio.limiter import DEFAULT_GAIN
from spectro_render.constants import SAMPLE_RATE
from spectro_render.evaluation.arrays import Samples
from spectro_render.evaluation.files import FileEvaluator, FileResult
from spectro_render.evaluation.frechet import CEPSTRUM
from spectro_render.evaluation.measures import values_of
from spectro_render.evaluation.references import SynthesizedReference
from spectro_render.evaluation.sources import Reference
from spectro_render.evaluation.subject import RenderedSubject
from spectro_render.evaluation.tables import DESCRIPTIONS, as_text
from spectro_render.midi.score import Score, section
from spectro_render.page.drawings import spectrogram
from spectro_render.page.sound import measure, sound_of_audio

ROOT = Path(__file__).parent.parent
SONG = ROOT / "docs" / "demo.mid"
PAGE = ROOT / "docs" / "samples.html"
SECONDS = 8.0  # of each clip
COLUMNS = 400  # of each spectrogram
SHOWN = ("note_f1_ratio", "drum_f1_ratio", "mel_l1", "stft_distance", "chroma", "loudness")
DRUMS = -1

STYLE = """
:root { color-scheme: light dark; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
.pair { display: grid; gap: 1rem; }
@media (min-width: 40rem) { .pair { grid-template-columns: 1fr 1fr; } }
figure { margin: 0; } img { display: block; width: 100%; height: 9rem; } audio { width: 100%; }
.numbers { font-variant-numeric: tabular-nums; opacity: .8; }
"""


class Clip(NamedTuple):
    """A part of the example song."""

    title: str
    start: float  # seconds
    programs: Sequence[int]  # General MIDI, from 0, and DRUMS; none: all


CLIPS = (
    Clip("The beginning: bassoon, double basses, clarinet", 0.0, ()),
    Clip("Clarinet and plucked strings", 6.0, ()),
    Clip("All instruments", 13.0, ()),
    Clip("The end", 20.0, ()),
    Clip("Piano and glockenspiel alone", 14.0, (0, 9)),
    Clip("Strings and brass alone", 15.0, (48, 61)),
    Clip("Distorted guitar and electric bass alone", 13.0, (30, 33)),
    Clip("Drums and timpani alone", 15.0, (47, DRUMS)),
)


def clip_of(score: Score, clip: Clip) -> Score:
    """The notes of a clip."""
    notes = tuple(
        note
        for note in score.notes
        if not clip.programs or (DRUMS if note.is_drum else note.program) in clip.programs
    )
    return section(replace(score, notes=notes), clip.start, SECONDS)


def write_midi(score: Score, path: Path) -> None:
    """Write the notes of a score to a MIDI file."""
    instruments: dict[tuple[int, bool], pretty_midi.Instrument] = {}
    for note in score.notes:
        kind = (note.program, note.is_drum)
        instrument = instruments.setdefault(kind, pretty_midi.Instrument(*kind))
        instrument.notes.append(pretty_midi.Note(note.velocity, note.pitch, note.start, note.end))
    midi = pretty_midi.PrettyMIDI()
    midi.instruments = list(instruments.values())
    midi.write(str(path))


def figure(name: str, samples: Samples) -> str:
    """A sound as HTML: its spectrogram and a player. Sounds are amplified as rendering does."""
    limiter = sr.Limiter(DEFAULT_GAIN)
    sound = sr.Audio(np.concatenate([limiter.push(samples), limiter.flush()])[None], SAMPLE_RATE)
    buffer = io.BytesIO()
    with sr.AudioWriter(buffer, format="mp3") as writer:
        writer.write(sound.samples)
    mel = measure(sound_of_audio(sound), most_bins=1, most_columns=COLUMNS).mel
    picture, data = (
        base64.b64encode(content).decode() for content in (spectrogram(mel), buffer.getvalue())
    )
    return (
        f'<figure><figcaption>{name}</figcaption><img alt="Log-mel spectrogram"'
        f' src="data:image/png;base64,{picture}">'
        f'<audio controls aria-label="{name}" src="data:audio/mpeg;base64,{data}"></audio></figure>'
    )


def part_of_page(clip: Clip, result: FileResult) -> str:
    """A clip as HTML."""
    values = values_of(result.measures)
    numbers = ", ".join(
        f"{name} {as_text(values[name], DESCRIPTIONS[name].digits)}"
        for name in SHOWN
        if values.get(name) is not None
    )
    sounds = figure("spectro-render", result.sounds["model"]) + figure(
        "the soundfont", result.sounds["reference"]
    )
    return (
        f"<h2>{escape(clip.title)}</h2>\n"
        f'<div class="pair">{sounds}</div>\n<p class="numbers">{numbers}</p>\n'
    )


def make_samples(
    page: Path, model: str = "default", reference: Reference | None = None, clips: int = len(CLIPS)
) -> None:
    """Render and measure the first `clips` clips with a model, and write the page."""
    renderer = sr.Renderer.load(model)
    subject = RenderedSubject(renderer, sr.RenderOptions())
    evaluator = FileEvaluator(
        subject, reference or SynthesizedReference(), ("files",), CEPSTRUM, SECONDS
    )
    song = sr.read_midi(SONG)
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for number, clip in enumerate(CLIPS[:clips], start=1):
            path = Path(folder, f"{number}.mid")
            write_midi(clip_of(song, clip), path)
            parts.append(part_of_page(clip, evaluator.measure(path, Path(path.name))))
    meanings = "".join(
        f"<li><b>{name}</b>: {escape(DESCRIPTIONS[name].meaning)}</li>\n" for name in SHOWN
    )
    page.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;\
 media-src data:; style-src 'unsafe-inline'">
<title>Samples of spectro-render</title><style>{STYLE}</style></head>
<body><h1>Samples of spectro-render</h1>
<p>Eight clips of {SECONDS:g} s from the example song (In the Hall of the Mountain King, Edvard\
 Grieg, arranged for this project), as the model <b>{escape(renderer.name)}</b> renders them, and\
 as FluidSynth plays them with the soundfont that the bundled model learned from. The spectrograms\
 reach from 0 to 8 kHz. Made by <code>make samples</code>.</p>
{"".join(parts)}
<h2>The numbers</h2>
<p>They are those of <code>spectro-render evaluate</code>, with the soundfont as the reference:</p>
<ul>
{meanings}</ul>
</body></html>
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE, help="the HTML file to write")
    parser.add_argument("--model", default="default", help="a model's name or directory")
    arguments = parser.parse_args()
    make_samples(arguments.page, arguments.model)
