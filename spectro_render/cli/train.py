"""The command `spectro-render train`: trains a model on a folder of MIDI files."""

from __future__ import annotations

from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spectro_render.cli.completion import offer, offer_devices, offer_models
from spectro_render.errors import OptionError
from spectro_render.network.presets import PRESETS, choose_network

if TYPE_CHECKING:
    from collections.abc import Callable

Target = Literal["epsilon", "v", "x0"]
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
        Path, typer.Argument(metavar="MIDI_DIR", help="Folder of MIDI files to train on.")
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
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=offer(PRESETS),
            help=f"Network to train: {', '.join(PRESETS)}.",
        ),
    ] = "bundled",
    hours: Annotated[
        float, typer.Option(metavar="N", min=0.1, help="Hours of music to synthesise.")
    ] = 20.0,
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
        float,
        typer.Option(
            metavar="X", min=1e-7, help="Peak learning rate of Muon; AdamW's is a third of it."
        ),
    ] = 3e-3,
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
            help="Model (a name or directory) from which new runs start. Of its vocoder, only the "
            "part that reads notes is trained. The band learns from its mels.",
        ),
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
    """Train a model from MIDI files.

    The stages are: data (synthesise music), notes (synthesise single notes, and learn how each of
    them develops), diffusion (train the Transformer, which turns notes into mel spectrograms),
    vocoder (train the network that turns spectrograms into sound), band (train the network that
    makes up the band above 8 kHz, for --full-band) and export (write the model directory).

    FluidSynth and a soundfont must be installed (Debian: fluidsynth,
    musescore-general-soundfont-small).
    """
    from spectro_render.network.device import find_device
    from spectro_render.training.band import BandOptions
    from spectro_render.training.curves import CurveOptions
    from spectro_render.training.diffusion import TrainingOptions
    from spectro_render.training.export import export
    from spectro_render.training.stages import (
        make_data,
        train_curves,
        train_diffusion,
        train_model_band,
        train_model_vocoder,
    )
    from spectro_render.training.vocoder import VocoderOptions

    config = choose_network(
        preset,
        decoder,
        target=target,
        loss=loss,
        output_function=output_function,
        components=components,
        min_sigma=min_sigma,
        max_sigma=max_sigma,
        dither=dither,
    )
    if not midi.is_dir():
        raise OptionError(f"{midi} is not a folder", "name a folder of MIDI files")
    place = find_device(device)
    options = TrainingOptions(
        steps=steps,
        batch_size=batch_size,
        learning_rate=rate,
        adam_rate=rate / 3,
        loss=loss or "l1",
        seed=seed,
    )

    def learn_notes() -> None:
        if config.draft != "curves":
            return
        curves = CurveOptions(steps=note_steps, seed=seed)
        say = partial(print, flush=True)
        train_curves(work, config, curves, place, note_hours, workers=workers, say=say)

    stages: dict[Stage, Callable[[], None]] = {
        Stage.data: lambda: make_data(
            midi, work, config, hours, seed=seed, workers=workers, say=partial(print, flush=True)
        ),
        Stage.notes: learn_notes,
        Stage.diffusion: lambda: train_diffusion(work, config, options, place, start_from),
        Stage.vocoder: lambda: train_model_vocoder(
            work, config, VocoderOptions(steps=vocoder_steps, seed=seed), place, start_from
        ),
        Stage.band: lambda: train_model_band(
            midi,
            work,
            config,
            BandOptions(steps=band_steps, seed=seed),
            place,
            hours,
            start_from,
            workers=workers,
            say=partial(print, flush=True),
        ),
        Stage.export: lambda: export(work, output),
    }
    for name, run in stages.items():
        if stage in (name, Stage.all):
            run()
    return 0
