"""The command `spectro-render train`: from a folder of MIDI files to a model directory."""

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.find import find_model
from spectro_render.checkpoints.load import read_melgan
from spectro_render.checkpoints.manifest import MELGAN, vocoder_kinds
from spectro_render.cli.completion import offer_devices, offer_models
from spectro_render.diffusion import Target
from spectro_render.errors import OptionError
from spectro_render.network.config import ModelConfig
from spectro_render.network.device import find_device
from spectro_render.network.presets import PRESETS, choose_network
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.training.data import CacheSpec, Windows, build_cache, check_vocabulary
from spectro_render.training.diffusion import Trainer, TrainingOptions
from spectro_render.training.export import export
from spectro_render.training.vocoder import VocoderOptions, train_vocoder

Loss = Literal["l1", "mse"]
Decoder = Literal["diffusion", "autoregressive"]
OutputFunction = Literal["deterministic", "gaussian_mixture"]

HELD_OUT_SHARE = 0.02  # of the hours: rendered from files that are not trained on


class Stage(str, Enum):
    """The stages of training, in order, and all of them."""

    all = "all"
    data = "data"
    diffusion = "diffusion"
    vocoder = "vocoder"
    export = "export"


def _offer_presets(incomplete: str) -> list[str]:
    return [name for name in PRESETS if name.startswith(incomplete)]


def train(
    midi: Annotated[
        Path, typer.Argument(metavar="MIDI_DIR", help="A folder of MIDI files to learn from.")
    ],
    output: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="The model directory to write.")
    ],
    work: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="A folder for data, checkpoints and logs. Training that was interrupted continues "
            "from there.",
        ),
    ] = Path("runs"),
    stage: Annotated[Stage, typer.Option(help="The stage to run, or all of them.")] = Stage.all,
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=_offer_presets,
            help=f"The network to train: {', '.join(PRESETS)}.",
        ),
    ] = "bundled",
    hours: Annotated[
        float, typer.Option(metavar="N", min=0.1, help="Hours of music to synthesise.")
    ] = 20.0,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes that synthesise the music.")
    ] = 2,
    steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Training steps of the Transformer.")
    ] = 10_000,
    vocoder_steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Training steps of the vocoder.")
    ] = 10_000,
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
        Decoder | None, typer.Option(help="The kind of decoder.  [default: the preset's]")
    ] = None,
    target: Annotated[
        Target | None,
        typer.Option(help="What a diffusion model predicts.  [default: the preset's]"),
    ] = None,
    loss: Annotated[
        Loss | None,
        typer.Option(
            help="How a diffusion model's prediction is compared with its target.  [default: l1]"
        ),
    ] = None,
    output_function: Annotated[
        OutputFunction | None,
        typer.Option(help="How an autoregressive model predicts a frame.  [default: the preset's]"),
    ] = None,
    components: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Normal distributions in a Gaussian mixture.  [default: the preset's]"
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
            help="A model (a name or directory) whose Transformer and vocoder new runs start from. "
            "Of the vocoder only the part that reads notes is trained further.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=offer_devices,
            help="The device to train on: auto, cpu, cuda, cuda:N.",
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

    The stages are: data (synthesise music), diffusion (train the Transformer, which turns notes
    into mel spectrograms), vocoder (train the network that turns those into sound) and export
    (write the model directory).

    FluidSynth and a soundfont must be installed (Debian: fluidsynth,
    musescore-general-soundfont-small).
    """
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
    stages: dict[Stage, Callable[[], None]] = {
        Stage.data: lambda: _make_data(midi, work, config, hours, seed, workers),
        Stage.diffusion: lambda: _train_diffusion(work, config, options, place, start_from),
        Stage.vocoder: lambda: _train_vocoder(
            work, VocoderOptions(steps=vocoder_steps, seed=seed), config, place, start_from
        ),
        Stage.export: lambda: export(work, output),
    }
    for name, run in stages.items():
        if stage in (name, Stage.all):
            run()
    return 0


def _make_data(
    midi: Path, work: Path, config: ModelConfig, hours: float, seed: int, workers: int
) -> None:
    vocabulary = Vocabulary(config.velocity_bins, config.programs)
    spec = CacheSpec(midi, work / "train", vocabulary, hours, seed)
    held_out = replace(spec, folder=work / "valid", hours=hours * HELD_OUT_SHARE, held_out=True)
    for cache in (held_out, spec):
        for path in build_cache(cache, workers):
            print(f"wrote {path}", flush=True)


def _train_diffusion(
    work: Path,
    config: ModelConfig,
    options: TrainingOptions,
    device: torch.device,
    start_from: str | None,
) -> None:
    vocabulary = Vocabulary(config.velocity_bins, config.programs)
    for cache in (work / "train", work / "valid"):
        check_vocabulary(cache, vocabulary)
    trainer = Trainer(config, options, work / "diffusion", device)
    if trainer.checkpoint.exists():
        trainer.resume()
    elif start_from is not None:
        trainer.start_from(load_checkpoint(start_from).model)
    windows, held_out = (
        Windows(work / name, config.conditioning, config.memory_steps)
        for name in ("train", "valid")
    )
    trainer.train(windows, held_out)


def _train_vocoder(
    work: Path,
    options: VocoderOptions,
    config: ModelConfig,
    device: torch.device,
    start_from: str | None,
) -> None:
    start = None
    if start_from is not None:
        folder = find_model(start_from)
        start = read_melgan(folder / MELGAN) if "melgan" in vocoder_kinds(folder) else None
    train_vocoder(
        work / "train",
        work / "vocoder",
        options,
        device,
        start_from=start,
        velocity_bins=config.velocity_bins,
    )
