"""`spectro-render train`: from a folder of MIDI to a model directory."""

import json
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.load import Defaults, save_model
from spectro_render.cli.completion import offer_devices, offer_models
from spectro_render.diffusion import Target
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.network.build import make_model
from spectro_render.network.config import ModelConfig
from spectro_render.network.device import find_device
from spectro_render.network.presets import PRESETS, choose_network
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.training.data import CacheSpec, Windows, build_cache, check_vocabulary
from spectro_render.training.diffusion import Trainer, TrainingOptions
from spectro_render.training.vocoder import VocoderOptions, load_trained_vocoder, train_vocoder

Loss = Literal["l1", "mse"]
Decoder = Literal["diffusion", "autoregressive"]
OutputFunction = Literal["deterministic", "gaussian_mixture"]

HELD_OUT_SHARE = 0.02  # of the hours: rendered from files that are not trained on


class Stage(str, Enum):
    all = "all"
    data = "data"
    diffusion = "diffusion"
    vocoder = "vocoder"
    export = "export"


def _offer_presets(incomplete: str) -> list[str]:
    return [name for name in PRESETS if name.startswith(incomplete)]


def train(
    midi: Annotated[Path, typer.Argument(help="A folder of MIDI files to learn from.")],
    output: Annotated[Path, typer.Argument(help="The model directory to write.")],
    work: Annotated[
        Path, typer.Option(help="Where data, checkpoints and logs live; run again to go on.")
    ] = Path("runs"),
    stage: Annotated[Stage, typer.Option(help="One part of the work, or all.")] = Stage.all,
    preset: Annotated[
        str,
        typer.Option(autocompletion=_offer_presets, help=f"Of the network: {', '.join(PRESETS)}."),
    ] = "bundled",
    hours: Annotated[float, typer.Option(min=0.1, help="Of music to synthesise.")] = 20.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that synthesise.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Of the Transformer.")] = 10_000,
    vocoder_steps: Annotated[int, typer.Option(min=1, help="Of the vocoder.")] = 10_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows a step.")] = 16,
    rate: Annotated[float, typer.Option(min=1e-7, help="Peak learning rate of Muon.")] = 3e-3,
    decoder: Annotated[Decoder | None, typer.Option(help="In place of the preset's own.")] = None,
    target: Annotated[
        Target | None, typer.Option(help="What a denoiser predicts.  [default: the preset's]")
    ] = None,
    loss: Annotated[
        Loss | None, typer.Option(help="Between that and its prediction.  [default: l1]")
    ] = None,
    output_function: Annotated[
        OutputFunction | None, typer.Option(help="How autoregressive frames are told.")
    ] = None,
    components: Annotated[int | None, typer.Option(help="Of a Gaussian mixture.")] = None,
    min_sigma: Annotated[float | None, typer.Option(help="Least deviation of one.")] = None,
    max_sigma: Annotated[float | None, typer.Option(help="Its largest deviation.")] = None,
    dither: Annotated[float | None, typer.Option(help="Noise on deterministic frames.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            autocompletion=offer_models,
            help="A model whose Transformer a new run begins with, by name or directory.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(autocompletion=offer_devices, help="auto, cpu, cuda, cuda:N.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of data, weights and noise.")] = 0,
) -> int:
    """Train a model: synthesise music, learn mels from notes, learn sound from mels, export.

    Needs FluidSynth and a soundfont (Debian: fluidsynth, musescore-general-soundfont-small).
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
        Stage.vocoder: lambda: _train_vocoder(work, vocoder_steps, place, seed),
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
    how = (config.conditioning, config.memory_steps)
    trainer.train(Windows(work / "train", *how), Windows(work / "valid", *how))


def _train_vocoder(work: Path, steps: int, device: torch.device, seed: int) -> None:
    train_vocoder(work / "train", work / "vocoder", VocoderOptions(steps=steps, seed=seed), device)


def export(work: Path, output: Path) -> None:
    """Write the averaged weights as a model directory, with the vocoder if one was trained."""
    checkpoint = work / "diffusion" / "checkpoint.pt"
    if not checkpoint.exists():
        raise SpectroRenderError(f"no {checkpoint}", "train the diffusion stage first")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = make_model(ModelConfig(**state["config"]))
    model.load_state_dict(state["average"])
    vocoder = work / "vocoder"
    save_model(
        output,
        model,
        load_trained_vocoder(vocoder) if vocoder.exists() else None,
        defaults=Defaults(sampler="dpm++", steps=10, guidance=1.0),
    )
    print(json.dumps({"model": str(output), "steps": state["step"]}))
