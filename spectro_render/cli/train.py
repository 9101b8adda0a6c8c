"""The command `spectro-render train`: trains a model on a folder of MIDI files."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spectro_render.cli.completion import offer, offer_devices, offer_models
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.network.presets import PRESETS, choose_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from spectro_render.training.job import Job

Target = Literal["epsilon", "v", "x0"]
DEFAULT, SCRATCH = "default", "scratch"  # values of --start-from
Loss = Literal["l1", "mse"]
Decoder = Literal["diffusion", "autoregressive"]
OutputFunction = Literal["deterministic", "gaussian_mixture"]


class Stage(str, Enum):
    """The stages of training in order, and `all` for all of them."""

    all = "all"
    data = "data"
    notes = "notes"
    diffusion = "diffusion"
    vocoder = "vocoder"
    band = "band"
    export = "export"


def train(
    midi: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder of MIDI files to train on. Beside each may be its recording (NAME.wav,"
            " .flac, .mp3 or .ogg beside NAME.mid), or the folder may be MAESTRO, Slakh2100,"
            " MusicNet or GuitarSet in the published layout.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Model directory to write.")],
    work: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder for data, checkpoints and logs. Interrupted training continues from"
            " there.",
        ),
    ] = Path("runs"),
    stage: Annotated[Stage, typer.Option(help="Stage to run, or all of them.")] = Stage.all,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Time to train in, such as 10, 60 or 480. Data and steps are chosen for it and for"
            " this machine. The training starts from the default model, unless --start-from names"
            " another.",
        ),
    ] = None,
    soundfont: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Soundfont (.sf2 or .sf3) to synthesise with.  [default: the one named in"
            " $SPECTRO_RENDER_SOUNDFONT, or MuseScore General]",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=offer(PRESETS),
            help=f"Network to train: {', '.join(PRESETS)}.  [default: that of the model to start"
            " from, or bundled]",
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.1,
            help="Hours of music to synthesise.  [default: 20, or none where there are recordings]",
        ),
    ] = None,
    note_hours: Annotated[
        float,
        typer.Option(
            metavar="N", min=0.1, help="Hours of single notes to synthesise: all take 82 hours."
        ),
    ] = 82.0,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of processes that synthesise music.")
    ] = 2,
    steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Training steps of the Transformer.")
    ] = 10_000,
    note_steps: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Training steps on single notes."),
    ] = 20_000,
    vocoder_steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Training steps of the vocoder.")
    ] = 10_000,
    band_steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Training steps of the band above 8 kHz.")
    ] = 2000,
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Windows per training step of the Transformer."),
    ] = 16,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=1e-7,
            help="Peak learning rate of Muon; AdamW's is a third of it.  [default: 0.003, or 0.0005"
            " from another model]",
        ),
    ] = None,
    decoder: Annotated[
        Decoder | None, typer.Option(help="Kind of decoder.  [default: the preset's]")
    ] = None,
    target: Annotated[
        Target | None,
        typer.Option(help="Quantity that a diffusion model predicts.  [default: the preset's]"),
    ] = None,
    loss: Annotated[
        Loss | None,
        typer.Option(
            help="Loss function of a diffusion model: mean absolute or squared error."
            "  [default: l1]"
        ),
    ] = None,
    output_function: Annotated[
        OutputFunction | None,
        typer.Option(help="Output function of an autoregressive model.  [default: the preset's]"),
    ] = None,
    components: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of Gaussians in a Gaussian mixture.  [default: the preset's]"
        ),
    ] = None,
    min_sigma: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Smallest standard deviation in a Gaussian mixture.  [default: the preset's]",
        ),
    ] = None,
    max_sigma: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Largest standard deviation in a Gaussian mixture.  [default: the preset's]",
        ),
    ] = None,
    dither: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Standard deviation of the noise added to deterministic frames.  "
            "[default: the preset's]",
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=offer_models,
            help="Model (a name or directory) from which new runs start, or scratch for none. Its"
            " encoders and, of its vocoder, the part that reads only mels stay as they are. The"
            " band learns from its mels.",
        ),
    ] = None,
    train_all: Annotated[
        bool,
        typer.Option("--train-all", help="Train the encoders of the model to start from, as well."),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Licence of the data, for the model's card."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=offer_devices,
            help="Device to train on: auto, cpu, cuda or cuda:N.",
        ),
    ] = "auto",
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Random seed of the data, the weights and the noise."
        ),
    ] = 0,
) -> int:
    """Train a model from MIDI files, from recordings with their MIDI, or from both.

    The stages are: data (synthesise music, and read recordings), notes (synthesise single notes,
    and learn how each of them develops), diffusion (train the Transformer, which turns notes
    into mel spectrograms), vocoder (train the network that turns spectrograms into sound), band
    (train the network that makes up the band above 8 kHz, for --full-band) and export (write the
    model directory). All that they need is checked before the first.

    Synthesis needs FluidSynth and a soundfont (Debian: fluidsynth,
    musescore-general-soundfont-small).
    """
    from spectro_render.atomic import sweep
    from spectro_render.checkpoints import load_checkpoint
    from spectro_render.network.device import find_device
    from spectro_render.training.band import BandOptions
    from spectro_render.training.curves import CurveOptions
    from spectro_render.training.diffusion import TrainingOptions
    from spectro_render.training.export import export, write_recipe
    from spectro_render.training.job import (
        CURVE_RATE,
        FULL_RATE_STEPS,
        LATER_RATE,
        NEW_RATE,
        VECTOR_FACTOR,
        Job,
        in_minutes,
        run_stages,
    )
    from spectro_render.training.layouts import find_pairs
    from spectro_render.training.preflight import check_job, why_unmeasured
    from spectro_render.training.progress import clock
    from spectro_render.training.synth import find_soundfont
    from spectro_render.training.vocoder import VocoderOptions

    say = partial(print, flush=True)
    if not midi.is_dir():
        raise OptionError(f"{midi} is not a folder", "name a folder of MIDI files")
    choices = {
        "target": target,
        "loss": loss,
        "output_function": output_function,
        "components": components,
        "min_sigma": min_sigma,
        "max_sigma": max_sigma,
        "dither": dither,
    }
    is_plain = preset is None and decoder is None and not any(choices.values())
    config = choose_network(preset or "bundled", decoder, **choices)
    pairs, unused = find_pairs(midi)
    has_recordings = bool(pairs or unused)
    synthesises = hours is not None or soundfont is not None or not has_recordings
    start = start_from
    needs_curves = config.draft == "curves" and not synthesises
    if start is None and is_plain and (minutes is not None or needs_curves):
        start = DEFAULT
        say(f"the training starts from the model {start}")
    start = None if start == SCRATCH else start
    if start is None and needs_curves:
        raise OptionError(
            f"the preset {preset or 'bundled'} learns notes from a soundfont",
            "add --hours of synthesised music, or start from another model",
        )
    if start is not None and is_plain:
        config = load_checkpoint(start).config
    peak = rate or (NEW_RATE if start is None else LATER_RATE)
    learns_curves = start is not None and has_recordings and config.draft == "curves"
    job = Job(
        source=midi,
        work=work,
        config=config,
        device=find_device(device),
        pairs=pairs,
        unused=unused,
        start_from=start,
        soundfont=(soundfont or find_soundfont()) if synthesises else None,
        hours=hours or 20.0,
        note_hours=note_hours,
        curves=CurveOptions(
            steps=note_steps,
            seed=seed,
            learning_rate=CURVE_RATE,
            vector_factor=VECTOR_FACTOR,
            full_rate_steps=FULL_RATE_STEPS,
        )
        if start is not None
        else CurveOptions(steps=note_steps, seed=seed),
        diffusion=TrainingOptions(
            steps=steps,
            batch_size=batch_size,
            learning_rate=peak,
            adam_rate=peak / 3,
            loss=loss or "l1",
            frozen=start is not None and not train_all,
            curve_rate=CURVE_RATE if learns_curves else None,
            seed=seed,
        ),
        vocoder=VocoderOptions(steps=vocoder_steps, seed=seed),
        band=BandOptions(steps=band_steps, seed=seed),
        seed=seed,
        workers=workers,
    )
    if minutes is not None:
        job = in_minutes(job, minutes, say)
    check_job(job, output)
    lacking = why_unmeasured()
    if lacking is not None:
        say(f"the card will not say how good the model sounds: {lacking}")
    sweep(work)
    write_recipe(
        work,
        {
            "command": shlex.join(["spectro-render", *sys.argv[1:]]),
            "start_from": start,
            "soundfont": str(job.soundfont) if job.soundfont else None,
            "hours": job.hours,
            "note_hours": job.note_hours if job.learns_notes else 0.0,
            "licence": licence,
            "seed": seed,
        },
    )
    stages: dict[Stage, Callable[[Callable[[str], None]], None]] = {
        Stage.data: job.make_data,
        Stage.notes: job.learn_notes,
        Stage.diffusion: job.train_transformer,
        Stage.vocoder: job.train_vocoder,
        Stage.band: job.train_band,
        Stage.export: lambda tell: export(work, output, partial(_measured, job, lacking, tell)),
    }
    chosen = [(name.value, run) for name, run in stages.items() if stage in (name, Stage.all)]
    took = run_stages(chosen, say)
    for name, seconds in took:
        say(f"{name:10}{clock(seconds):>9}")
    return 0


def _measured(job: Job, lacking: str | None, say: Callable[[str], None], model: Path) -> list[str]:
    """How good a new model sounds, as lines of its card; `lacking` is why that cannot be known."""
    if lacking is not None:
        return [f"The sound was not measured: {lacking}"]
    from spectro_render.evaluation.short import measure_model

    try:
        return measure_model(model, job, say)
    except SpectroRenderError as error:
        say(f"the model could not be measured: {error}")
        return [f"The sound could not be measured: {error}"]
