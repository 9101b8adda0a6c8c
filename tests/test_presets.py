"""Every named network has the paper's size, and trains, is saved, loaded and rendered."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectro_render.constants import N_MELS, WINDOW_FRAMES
from spectro_render.errors import OptionError
from spectro_render.midi.score import Note, Score
from spectro_render.network.build import make_model
from spectro_render.network.config import ModelConfig
from spectro_render.network.presets import PRESETS, choose_network
from spectro_render.render.renderer import Renderer
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.tokens.write import tokenize
from spectro_render.training.data import TrainingBatch, Windows, piece_notes
from spectro_render.training.diffusion import Trainer, TrainingOptions
from spectro_render.training.export import export

PAPER = [name for name in PRESETS if not name.startswith("bundled")]
KINDS = {  # toys of base and small are the same
    "bundled": PRESETS["bundled"],
    "base": PRESETS["base"],
    "small-no-context": PRESETS["small-no-context"],
    "small-autoregressive": PRESETS["small-autoregressive"],
    "mixture": choose_network(
        "small", "autoregressive", output_function="gaussian_mixture", components=2
    ),
}


def parameters(config: ModelConfig) -> int:
    """How many a model of the paper learns, from its description; position tables are fixed."""
    width, inner = config.width, config.heads * config.head_width
    level = config.level_width
    attention, mlp = 4 * width * inner, 3 * width * config.mlp_width
    layer = attention + mlp + 2 * width
    notes = config.num_embeddings * width + config.note_layers * layer + width
    context = N_MELS * width + config.context_layers * layer + width
    decoder = 2 * N_MELS * width + config.decoder_layers * (layer + attention + width) + width
    if config.decoder == "diffusion":
        decoder += width * level + level**2 + config.decoder_layers * 4 * width * level
    return notes + decoder + (context if config.context_layers else 0)


def scaled_down(config: ModelConfig) -> ModelConfig:
    """The same kind of network, of toy size."""
    return replace(
        config,
        width=16,
        heads=2,
        head_width=8,
        mlp_width=32,
        note_layers=1,
        context_layers=min(1, config.context_layers),
        decoder_layers=1,
        level_width=64,
        note_width=min(16, config.note_width),
    )


def write_cache(folder: Path, vocabulary: Vocabulary) -> None:
    """Windows in which the only note of each is heard as a block of one band."""
    folder.mkdir(parents=True)
    pitches = [60, 65, 60, 65, 60, 65, 60, 65]
    notes = [Note(5.12 * k + 1, 5.12 * k + 3, p, 90, 0, False) for k, p in enumerate(pitches)]
    windows = tokenize(Score(tuple(notes), 5.12 * len(notes)), vocabulary)[: len(notes)]
    mel = torch.full((len(notes), WINDOW_FRAMES, N_MELS), -9.0)
    for window, pitch in zip(mel, pitches, strict=True):
        window[50:150, pitch - 20 : pitch - 10] = 1.0
    tensors = {
        "mel": mel.half(),
        "piece": torch.zeros(len(notes), dtype=torch.int32),
        **piece_notes(windows, vocabulary),
    }
    save_file(tensors, folder / "shard-00000.safetensors")


def test_the_published_size() -> None:
    assert parameters(PRESETS["base"]) == 409_699_584


@pytest.mark.parametrize("preset", PAPER)
def test_full_size(preset: str) -> None:
    with torch.device("meta"):
        model = make_model(PRESETS[preset])
    counts = {name: p.numel() for name, p in model.named_parameters() if "position" not in name}
    assert sum(counts.values()) == parameters(PRESETS[preset])


@pytest.mark.parametrize("kind", KINDS)
def test_trains_is_saved_loaded_and_rendered(kind: str, tmp_path: Path) -> None:
    config = scaled_down(KINDS[kind])
    write_cache(tmp_path / "cache", Vocabulary(config.velocity_bins, config.programs))
    batch = Windows(tmp_path / "cache", config.conditioning).batch(range(4))
    options = TrainingOptions(steps=20, warmup=2)
    trainer = Trainer(config, options, tmp_path / "work" / "diffusion", torch.device("cpu"))
    losses = [trainer._update(batch) for _ in range(options.steps)]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    trainer.save()
    export(tmp_path / "work", tmp_path / "model")
    renderer = Renderer.load(tmp_path / "model", device="cpu")
    assert renderer.checkpoint.config == config
    audio = renderer.render(Score((Note(0.0, 0.5, 60, 90, 0, False),), 0.5), duration=0.5)
    assert np.isfinite(audio.samples).all()


def test_batches_of_ids(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", Vocabulary())
    windows = Windows(tmp_path / "cache", "cross_attention")
    batch = windows.batch([0, 3])
    assert isinstance(batch, TrainingBatch) and batch.notes.dtype == torch.int64
    first, second = (ids[ids != 0].tolist() for ids in batch.notes)
    score = Score((Note(1.0, 3.0, 60, 90, 0, False),), 3.0)
    assert first == list(tokenize(score, Vocabulary())[0].ids)
    assert second != first


class TestChoices:
    def test_decoder(self) -> None:
        config = choose_network("small", "autoregressive", output_function="gaussian_mixture")
        assert (config.decoder, config.context_layers) == ("autoregressive", 8)
        assert choose_network("small", "diffusion") == PRESETS["small"]
        assert choose_network("base", target="v", loss="mse").target == "v"

    @pytest.mark.parametrize(
        ("preset", "choices", "message"),
        [
            ("huge", {}, "unknown preset 'huge'; use one of bundled, "),
            ("small-autoregressive", {"decoder": "diffusion"}, "has the decoder 'autoregressive'"),
            ("small-autoregressive", {"target": "x0"}, "--target is for diffusion models only"),
            ("small-autoregressive", {"loss": "l1"}, "--loss is for diffusion models only"),
            ("small", {"output_function": "deterministic"}, "is for autoregressive models only"),
            ("small-autoregressive", {"components": 2}, "is for gaussian_mixture models only"),
            ("small", {"min_sigma": 0.1}, "--min-sigma is for gaussian_mixture models only"),
            (
                "small-autoregressive",
                {"output_function": "gaussian_mixture", "dither": 0.1},
                "--dither is for deterministic models only",
            ),
            (
                "small-autoregressive",
                {"output_function": "gaussian_mixture", "max_sigma": 0.01},
                "a mixture cannot have 8 components",
            ),
        ],
    )
    def test_what_does_not_go_together(
        self, preset: str, choices: dict[str, object], message: str
    ) -> None:
        with pytest.raises(OptionError, match=message):
            choose_network(preset, **choices)  # type: ignore[arg-type]
