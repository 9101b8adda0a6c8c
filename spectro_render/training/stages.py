"""The stages of training: making the data, and training the parts of a model on it.

All stages share a work folder. In it, `train` and `valid` hold the shards of music, `notes` those
of single notes, and `curves`, `diffusion`, `vocoder` and `band` the runs of the draft's curves of
notes, of the Transformer, of the vocoder and of the band above 8 kHz.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.find import find_model
from spectro_render.checkpoints.load import read_melgan
from spectro_render.checkpoints.manifest import MELGAN, vocoder_kinds
from spectro_render.errors import SpectroRenderError
from spectro_render.network.config import ModelConfig
from spectro_render.network.curves import DRUM_KIT, NoteCurves
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.training.band import BandOptions, train_band
from spectro_render.training.curves import CurveOptions, CurveTrainer
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
from spectro_render.training.lines import measure_lines
from spectro_render.training.notes import read_notes, render_notes
from spectro_render.training.progress import Countdown
from spectro_render.training.soundfont import RecordingMap, read_recordings
from spectro_render.training.synth import find_soundfont
from spectro_render.training.vocoder import LINES, VocoderOptions, train_vocoder

CURVES = Path("curves", "checkpoint.pt")  # in the work folder
DRAWN_WINDOWS = 768  # of which the Transformer draws mels for the vocoder and the band
HELD_OUT_SHARE = 0.02  # share of the hours that are rendered from held-out files


def make_data(
    midi: Path,
    work: Path,
    config: ModelConfig,
    hours: float,
    *,
    seed: int = 0,
    workers: int = 1,
    soundfont: Path | None = None,
    pieces: int = PIECES_PER_SHARD,
    say: Callable[[str], None] = print,
) -> None:
    """Render `hours` hours of music from a folder of MIDI files, as shards in the work folder.

    The soundfont is by default that of `find_soundfont`; a shard has `pieces` pieces of a minute.
    `workers` is the number of processes, and `say` is called with messages about progress. Raises
    the errors of `build_cache`.
    """
    spec = _music(midi, work, config, hours, seed, soundfont, pieces)
    held_out = replace(spec, folder=work / "valid", hours=hours * HELD_OUT_SHARE, held_out=True)
    countdown = Countdown("shards of music", held_out.shards + spec.shards, say)
    for cache in (held_out, spec):
        for _ in build_cache(cache, workers):
            countdown.count()


def _music(
    midi: Path,
    work: Path,
    config: ModelConfig,
    hours: float,
    seed: int,
    soundfont: Path | None,
    pieces: int,
) -> CacheSpec:
    """The music that models are trained on, from a folder of MIDI files."""
    vocabulary = Vocabulary(config.velocity_bins, config.programs)
    return CacheSpec(
        midi, work / "train", vocabulary, hours, seed, soundfont=soundfont, pieces=pieces
    )


def train_curves(
    work: Path,
    config: ModelConfig,
    options: CurveOptions,
    device: torch.device,
    hours: float,
    *,
    start_from: str | None = None,
    workers: int = 1,
    soundfont: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Play `hours` hours of single notes, and train the curves of a model's draft on them.

    Continues the run in the work folder, if there is one; a new one starts from the curves of the
    model `start_from`, if one is named that has curves. The soundfont is by default that of
    `find_soundfont`. `workers` is the number of processes that play, and `say` is called with
    messages about progress. Raises SpectroRenderError without FluidSynth or a soundfont,
    OptionError for curves of another shape or notes of another soundfont.
    """
    vocabulary = Vocabulary(config.velocity_bins, config.programs)
    soundfont = soundfont or find_soundfont()
    countdown = Countdown("programs played", DRUM_KIT + 1, say)
    for _ in render_notes(
        work / "notes",
        vocabulary,
        hours,
        seed=options.seed,
        workers=workers,
        soundfont=soundfont,
    ):
        countdown.count()
    recordings = read_recordings(soundfont, config.velocity_bins)
    trainer = CurveTrainer(
        with_recordings(config, recordings), recordings, options, work / "curves", device, say
    )
    if trainer.checkpoint.exists():
        trainer.resume()
    elif start_from is not None:
        for module in load_checkpoint(start_from).model.modules():
            if isinstance(module, NoteCurves):
                trainer.start_from(module)
    trainer.train(*read_notes(work / "notes"))


def with_recordings(config: ModelConfig, recordings: RecordingMap) -> ModelConfig:
    """The configuration of a network whose curves know these recordings."""
    frames = recordings.frames
    return replace(config, recordings=len(frames), recorded_frames=int(frames.sum()))


def train_diffusion(
    work: Path,
    config: ModelConfig,
    options: TrainingOptions,
    device: torch.device,
    start_from: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Train the Transformer on the shards in the work folder, or continue the run there.

    A new run starts from the weights of the model `start_from`, if one is named. It takes the
    curves in the work folder, if the network has such and there are any. `say` is called with
    messages about progress. Raises OptionError for data or weights of another network,
    SpectroRenderError for too little data or missing curves, WeightsError for a model that cannot
    be loaded.
    """
    vocabulary = Vocabulary(config.velocity_bins, config.programs)
    folders = work / "train", work / "valid"
    for folder in folders:
        check_vocabulary(folder, vocabulary)
    saved, model, curves, known = work / TRANSFORMER, None, None, config
    if saved.exists():
        known = _stored_config(saved)
    else:
        if start_from is not None:
            model = load_checkpoint(start_from).model
            known = model.config
        if config.draft == "curves" and (work / CURVES).exists():
            known = _stored_config(work / CURVES)
            curves = torch.load(work / CURVES, map_location=device, weights_only=True)["average"]
        elif config.draft == "curves" and model is None:
            raise SpectroRenderError(f"{work / CURVES} is missing", "run the notes stage first")
    if known.draft == config.draft:  # the soundfont decides how many recordings there are
        config = replace(config, recordings=known.recordings, recorded_frames=known.recorded_frames)
    trainer = Trainer(config, options, work / "diffusion", device, say)
    if saved.exists():
        trainer.resume()
    elif model is not None:
        trainer.start_from(model, curves)
    elif curves is not None:
        trainer.start_with(curves)
    windows, held_out = (
        Windows(folder, config.conditioning, config.memory_steps) for folder in folders
    )
    trainer.train(windows, held_out)


def _stored_config(checkpoint: Path) -> ModelConfig:
    """The configuration of the network in a checkpoint, whose weights are not read."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return ModelConfig(**state["config"])


def train_model_vocoder(
    work: Path,
    config: ModelConfig,
    options: VocoderOptions,
    device: torch.device,
    start_from: str | None = None,
    *,
    soundfont: Path | None = None,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Train the vocoder on the shards in the work folder, or continue the run there.

    If the work folder has a Transformer, the last steps also learn from mels that it draws. A new
    run starts from the vocoder of the model `start_from`, if one is named that has one of our
    kind. The lines of notes are measured from the soundfont, if one is given, in `workers`
    processes. Raises OptionError for a vocoder of another shape, SpectroRenderError for too little
    data, WeightsError for a model that cannot be loaded.
    """
    start, lines = None, None
    if start_from is not None:
        folder = find_model(start_from)
        start = read_melgan(folder / MELGAN) if "melgan" in vocoder_kinds(folder) else None
    if soundfont is not None and not (work / "vocoder" / "checkpoint.pt").exists():
        lines = measure_lines(LINES, say, soundfont=soundfont, workers=workers)
    train_vocoder(
        work / "train",
        work / "vocoder",
        options,
        device,
        start_from=start,
        velocity_bins=config.velocity_bins,
        drawn=_drawn_mels(work, config, device) if options.steps else None,
        held_out=work / "valid",
        lines=lines,
        say=say,
    )


def train_model_band(
    midi: Path,
    work: Path,
    config: ModelConfig,
    options: BandOptions,
    device: torch.device,
    hours: float,
    start_from: str | None = None,
    *,
    workers: int = 1,
    soundfont: Path | None = None,
    pieces: int = PIECES_PER_SHARD,
    say: Callable[[str], None] = print,
) -> None:
    """Train the network for the band above 8 kHz, or continue the run in the work folder.

    `midi`, `hours`, `soundfont`, `pieces` and the seed of the options are those of `make_data`. A
    part of the mels that the network learns from are drawn by the Transformer in the work folder
    or, if it has none, by that of the model `start_from`, if one is named. Raises the errors of
    `train_band`, and WeightsError for a model that cannot be loaded.
    """
    train_band(
        _music(midi, work, config, hours, options.seed, soundfont, pieces),
        work / "band",
        options,
        device,
        workers=workers,
        drawn=_drawn_mels(work, config, device, start_from, pieces * PIECE_WINDOWS),
        say=say,
    )


def _drawn_mels(
    work: Path,
    config: ModelConfig,
    device: torch.device,
    start_from: str | None = None,
    first: int = 0,
) -> Tensor | None:
    """Mels of windows from `first` on, drawn by the Transformer; None if there is none."""
    if (work / TRANSFORMER).exists():
        model, _ = trained_transformer(work)
    elif start_from is not None:
        model = load_checkpoint(start_from).model
        config = model.config
    else:
        return None
    windows = Windows(work / "train", config.conditioning, config.memory_steps)
    return draw_mels(model.to(device), windows, first, DRAWN_WINDOWS)
