"""Three stages of training: making the data, and training Transformer and vocoder on it.

All stages share a work folder. `train` and `valid` in it hold the shards, `diffusion` the run of
the Transformer and `vocoder` the run of the vocoder.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.find import find_model
from spectro_render.checkpoints.load import read_melgan
from spectro_render.checkpoints.manifest import MELGAN, vocoder_kinds
from spectro_render.network.config import ModelConfig
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.training.data import (
    PIECE_WINDOWS,
    PIECES_PER_SHARD,
    CacheSpec,
    Windows,
    build_cache,
    check_vocabulary,
)
from spectro_render.training.diffusion import Trainer, TrainingOptions, draw_mels
from spectro_render.training.export import TRANSFORMER, trained_transformer
from spectro_render.training.vocoder import VocoderOptions, train_vocoder

HELD_BACK = PIECES_PER_SHARD * PIECE_WINDOWS  # windows of the shard that vocoders are checked on
DRAWN_WINDOWS = 768  # of which the Transformer draws mels for the vocoder
HELD_OUT_SHARE = 0.02  # share of the hours that are rendered from held-out files


def make_data(
    midi: Path,
    work: Path,
    config: ModelConfig,
    hours: float,
    *,
    seed: int = 0,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Render `hours` hours of music from a folder of MIDI files, as shards in the work folder.

    `workers` is the number of processes, and `say` is called with a message for each shard. Raises
    the errors of `build_cache`.
    """
    vocabulary = Vocabulary(config.velocity_bins, config.programs)
    spec = CacheSpec(midi, work / "train", vocabulary, hours, seed)
    held_out = replace(spec, folder=work / "valid", hours=hours * HELD_OUT_SHARE, held_out=True)
    for cache in (held_out, spec):
        for path in build_cache(cache, workers):
            say(f"wrote {path}")


def train_diffusion(
    work: Path,
    config: ModelConfig,
    options: TrainingOptions,
    device: torch.device,
    start_from: str | None = None,
) -> None:
    """Train the Transformer on the shards in the work folder, or continue the run there.

    A new run starts from the weights of the model `start_from`, if one is named. Raises OptionError
    for data or weights of another network, SpectroRenderError for too little data, WeightsError for
    a model that cannot be loaded.
    """
    vocabulary = Vocabulary(config.velocity_bins, config.programs)
    folders = work / "train", work / "valid"
    for folder in folders:
        check_vocabulary(folder, vocabulary)
    trainer = Trainer(config, options, work / "diffusion", device)
    if trainer.checkpoint.exists():
        trainer.resume()
    elif start_from is not None:
        trainer.start_from(load_checkpoint(start_from).model)
    windows, held_out = (
        Windows(folder, config.conditioning, config.memory_steps) for folder in folders
    )
    trainer.train(windows, held_out)


def train_model_vocoder(
    work: Path,
    config: ModelConfig,
    options: VocoderOptions,
    device: torch.device,
    start_from: str | None = None,
) -> None:
    """Train the vocoder on the shards in the work folder, or continue the run there.

    If the work folder has a Transformer, the last steps also learn from mels that it draws. A new
    run starts from the vocoder of the model `start_from`, if one is named that has one of our
    kind. Raises OptionError for a vocoder of another shape, SpectroRenderError for too little data,
    WeightsError for a model that cannot be loaded.
    """
    start, drawn = None, None
    if start_from is not None:
        folder = find_model(start_from)
        start = read_melgan(folder / MELGAN) if "melgan" in vocoder_kinds(folder) else None
    if (work / TRANSFORMER).exists():
        model, _ = trained_transformer(work)
        windows = Windows(work / "train", config.conditioning, config.memory_steps)
        drawn = draw_mels(model.to(device), windows, HELD_BACK, DRAWN_WINDOWS)
    train_vocoder(
        work / "train",
        work / "vocoder",
        options,
        device,
        start_from=start,
        velocity_bins=config.velocity_bins,
        drawn=drawn,
    )
