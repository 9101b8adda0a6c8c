"""The command `spectro-render evaluate`: compares a model's sounds with reference sounds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectro_render.cli.completion import offer, offer_devices, offer_models, offer_vocoders
from spectro_render.cli.values import model_name
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.evaluation.parts import FILE_PARTS, PARTS, PROBE_PARTS
from spectro_render.midi.read import MIDI_SUFFIXES
from spectro_render.options import SAMPLERS, RenderOptions
from spectro_render.report import Reporter

if TYPE_CHECKING:
    from spectro_render.evaluation.sources import Reference

FLUIDSYNTH = "fluidsynth"


def evaluate(
    midi: Annotated[
        Path, typer.Argument(metavar="MIDI_DIR", help="Folder of MIDI files to render.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            callback=model_name,
            autocompletion=offer_models,
            help="Model to measure: a name or a directory.",
        ),
    ] = "default",
    reference: Annotated[
        str,
        typer.Option(
            metavar="fluidsynth|DIR",
            help="Reference sounds: made with FluidSynth, or read from a folder that has NAME.wav"
            " (.flac, .mp3 or .ogg) for each NAME.mid.",
        ),
    ] = FLUIDSYNTH,
    soundfont: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Soundfont (.sf2 or .sf3) for the reference fluidsynth.  [default: the one named"
            " in $SPECTRO_RENDER_SOUNDFONT, or MuseScore General]",
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=f"Parts to measure, separated by commas: {','.join(PARTS)}.  [default: all]",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="N", min=1, help="Seconds of music to measure in each file.")
    ] = 30.0,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of files to measure, evenly spread over the folder.  [default: all]",
        ),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Measure only the files that are held out from training."),
    ] = False,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=offer(SAMPLERS),
            help="Sampling method of the diffusion model.  [default: the model's]",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Denoising steps per window of 5.12 s.  [default: the model's]"
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="W", help="Weight of classifier-free guidance.  [default: the model's]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed.")] = 0,
    vocoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=offer_vocoders,
            help="Vocoder, which turns spectrograms into sound: melgan, onnx or griffin-lim,"
            " another model, or an .onnx file.  [default: the model's]",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=offer_devices,
            help="Device to compute on: auto, cpu, cuda, cuda:N or mps.",
        ),
    ] = "auto",
    embedding: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="ONNX file of an audio embedding such as VGGish, for the part frechet."
            "  [default: mel cepstrum]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder to write the sounds to.  [default: none]"
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print a JSON object for each file, then one for the model."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors, but no progress.")
    ] = False,
) -> int:
    """Measure the sound quality of a model.

    The model renders MIDI files, and its sounds are compared with reference sounds of the same
    notes: in notes, drums, spectra, loudness and faults. The reference 'fluidsynth' needs
    FluidSynth and a soundfont (Debian: fluidsynth, musescore-general-soundfont-small). Recordings
    should be as loud as rendered songs.

    Exit codes: 0 all measured, 1 something failed, 2 wrong usage.
    """
    from spectro_render.evaluation.files import FileEvaluator
    from spectro_render.evaluation.frechet import CEPSTRUM, load_embedding
    from spectro_render.evaluation.session import Session
    from spectro_render.evaluation.subject import RenderedSubject
    from spectro_render.evaluation.tables import print_tables
    from spectro_render.render.renderer import Renderer

    chosen = _parts(parts, reference)
    file_parts = frozenset(chosen) & set(FILE_PARTS)
    paths = _files(midi, held_out, limit) if file_parts else []
    embed = load_embedding(embedding) if embedding else CEPSTRUM
    true = _reference(reference, soundfont)
    options = RenderOptions(sampler=sampler, steps=steps, guidance=guidance, seed=seed)
    renderer = Renderer.load(model, device=device, vocoder=vocoder)
    evaluator = FileEvaluator(RenderedSubject(renderer, options), true, file_parts, embed, seconds)
    reporter = Reporter(quiet=quiet, json_stream=sys.stdout if json else None)
    session = Session(evaluator, midi, output, reporter)
    session.measure_files(paths)
    for part in PROBE_PARTS:
        if part in chosen:
            session.measure_probes(part)
    summary = session.summary()
    reporter.record(summary)
    if not json:
        print_tables(session.file_values(), summary)
    return 1 if session.failures or reporter.is_cut_off else 0


def _parts(chosen: str | None, reference: str) -> tuple[str, ...]:
    """The parts to measure, by default all; with recordings as references only FILE_PARTS.

    Raises OptionError for parts that are unknown or not possible.
    """
    possible = PARTS if reference == FLUIDSYNTH else FILE_PARTS
    if chosen is None:
        return possible
    parts = tuple(part.strip() for part in chosen.split(","))
    for part in parts:
        if part not in PARTS:
            raise OptionError(f"unknown part {part!r}", f"use one or more of {','.join(PARTS)}")
        if part not in possible:
            raise OptionError(f"no recordings for {part}", f"use --reference {FLUIDSYNTH}")
    return parts


def _files(folder: Path, held_out: bool, limit: int | None) -> list[Path]:
    """At most `limit` of the MIDI files under a folder, sorted and evenly spread.

    Raises OptionError if the folder does not exist, SpectroRenderError if it has no files.
    """
    if not folder.is_dir():
        raise OptionError(f"{folder} is not a folder", "name a folder of MIDI files")
    if held_out:
        from spectro_render.training.data import midi_files

        files = midi_files(folder, held_out=True)
    else:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in MIDI_SUFFIXES and path.is_file()
        )
    if not files:
        hint = f"their names must end in {', '.join(MIDI_SUFFIXES)}"
        raise SpectroRenderError(f"no MIDI files under {folder}", hint)
    count = min(limit or len(files), len(files))
    return [files[index * len(files) // count] for index in range(count)]


def _reference(name: str, soundfont: Path | None) -> Reference:
    """The reference of this name: 'fluidsynth' with a soundfont, or a folder of recordings.

    Raises OptionError for a folder that does not exist or a soundfont that is not used,
    SpectroRenderError without FluidSynth.
    """
    from spectro_render.evaluation.references import RecordedReference, SynthesizedReference

    if name == FLUIDSYNTH:
        return SynthesizedReference(soundfont)
    if soundfont is not None:
        raise OptionError(
            "--soundfont is of no use with recordings", f"use --reference {FLUIDSYNTH}"
        )
    if not Path(name).is_dir():
        raise OptionError(
            f"the reference {name} is not a folder", f"name a folder, or {FLUIDSYNTH}"
        )
    return RecordedReference(Path(name))
