"""`spectro-render evaluate`: how good a model is, against a reference that plays the same notes."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from spectro_render.cli.completion import offer_devices, offer_models, offer_vocoders
from spectro_render.diffusion import SAMPLERS
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.evaluation.files import Listener
from spectro_render.evaluation.frechet import CEPSTRUM, load_embedding
from spectro_render.evaluation.session import OF_FILES, OF_PROBES, PARTS, Session
from spectro_render.evaluation.subject import (
    RecordedReference,
    Reference,
    Subject,
    SynthesizedReference,
)
from spectro_render.evaluation.tables import print_tables
from spectro_render.midi.read import MIDI_SUFFIXES
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.report import Reporter
from spectro_render.training.data import midi_files

FLUIDSYNTH = "fluidsynth"


def _offer_samplers(incomplete: str) -> list[str]:
    return [name for name in SAMPLERS if name.startswith(incomplete)]


def evaluate(
    midi: Annotated[Path, typer.Argument(metavar="MIDI_DIR", help="A folder of MIDI files.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME", autocompletion=offer_models, help="A model, by name or directory."
        ),
    ] = "default",
    reference: Annotated[
        str,
        typer.Option(
            metavar="fluidsynth|DIR",
            help="The true sounds: made as for training, or NAME.wav for NAME.mid in a folder.",
        ),
    ] = FLUIDSYNTH,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help=f"What to measure, of {','.join(PARTS)}.  [default: all]"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="N", min=1, help="How much of each file.")
    ] = 30.0,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="How many files, evenly spread.  [default: all]"),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only the files that training leaves out.")
    ] = False,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=_offer_samplers,
            help="How the steps are taken.  [default: the model's]",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Denoising steps a window.  [default: the model's]"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="W", help="How strongly the notes guide.  [default: the model's]"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the noise.")] = 0,
    vocoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=offer_vocoders,
            help="What turns mels into sound.  [default: the model's]",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME", autocompletion=offer_devices, help="auto, cpu, cuda, cuda:N or mps."
        ),
    ] = "auto",
    embedding: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="VGGish or its like as ONNX, for the Frechet distance."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep the sounds here.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="A JSON object a file, then one of the model.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what failed.")] = False,
) -> int:
    """Measure how good a model sounds: right notes, instruments and loudness, and no faults.

    Everything is compared with a reference that plays the same notes, at the level of the training
    data. The reference fluidsynth needs FluidSynth and a soundfont (Debian: fluidsynth,
    musescore-general-soundfont-small).

    Exit codes: 0 all measured, 1 something failed, 2 wrong usage.
    """
    chosen = _parts(parts, reference)
    paths = _spread(_files(midi, held_out), limit) if set(chosen) & set(OF_FILES) else []
    embed = load_embedding(embedding) if embedding else CEPSTRUM
    true = _reference(reference)
    options = RenderOptions(sampler=sampler, steps=steps, guidance=guidance, seed=seed)
    renderer = Renderer.load(model, device=device, vocoder=vocoder)
    listener = Listener(
        Subject(renderer, options), true, frozenset(chosen) & set(OF_FILES), embed, seconds
    )
    reporter = Reporter(quiet=quiet, json_stream=sys.stdout if json else None)
    session = Session(listener, midi, output, reporter)
    session.listen(paths)
    for part in OF_PROBES:
        if part in chosen:
            session.probe(part)
    reporter.record(session.summary())
    if not json:
        print_tables(session.file_values(), session.summary())
    return 1 if session.failures or reporter.is_cut_off else 0


def _parts(chosen: str | None, reference: str) -> tuple[str, ...]:
    """The parts to measure; phrases of our own have no recordings."""
    possible = PARTS if reference == FLUIDSYNTH else OF_FILES
    if chosen is None:
        return possible
    parts = tuple(part.strip() for part in chosen.split(","))
    for part in parts:
        if part not in PARTS:
            raise OptionError(f"unknown part {part!r}", f"one or more of {','.join(PARTS)}")
        if part not in possible:
            raise OptionError(f"no recordings for {part}", f"--reference {FLUIDSYNTH} makes them")
    return parts


def _files(folder: Path, held_out: bool) -> list[Path]:
    """The MIDI files under a folder, sorted. Raises OptionError, SpectroRenderError for none."""
    if not folder.is_dir():
        raise OptionError(f"{folder} is not a folder", "name a folder of MIDI files")
    if held_out:
        return midi_files(folder, held_out=True)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in MIDI_SUFFIXES)
    if not files:
        raise SpectroRenderError(f"no MIDI files under {folder}", ", ".join(MIDI_SUFFIXES))
    return files


def _spread(files: list[Path], limit: int | None) -> list[Path]:
    """At most `limit` of them, evenly spread."""
    count = min(limit or len(files), len(files))
    return [files[index * len(files) // count] for index in range(count)]


def _reference(name: str) -> Reference:
    """Raises OptionError for a folder that is not there, SpectroRenderError without FluidSynth."""
    if name == FLUIDSYNTH:
        return SynthesizedReference()
    if not Path(name).is_dir():
        raise OptionError(f"the reference {name} is not a folder", f"a folder, or {FLUIDSYNTH}")
    return RecordedReference(Path(name))
