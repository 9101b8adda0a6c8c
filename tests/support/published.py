"""Writes model directories in the layout of the published one, with random weights."""

import json
from pathlib import Path
from typing import Any

# The JSON files of google/music-spectrogram-diffusion, in the form in which they have the sizes
# that the Hub's pages give.
_ALL = {"_diffusers_version": "0.14.0.dev0"}
_NETWORK = {"d_ff": 2048, "d_kv": 64, "d_model": 768, "dropout_rate": 0.1}
_NETWORK |= {"num_heads": 12, "num_layers": 12}
_ENCODER = {"feed_forward_proj": "gated-gelu", "is_decoder": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {
        "_class_name": "SpectrogramDiffusionPipeline",
        "continuous_encoder": ["spectrogram_diffusion", "SpectrogramContEncoder"],
        "decoder": ["diffusers", "T5FilmDecoder"],
        "melgan": ["diffusers", "OnnxRuntimeModel"],
        "notes_encoder": ["spectrogram_diffusion", "SpectrogramNotesEncoder"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    },
    "notes_encoder/config.json": {
        "_class_name": "SpectrogramNotesEncoder",
        "max_length": 2048,
        "vocab_size": 1536,
        **_ENCODER,
        **_NETWORK,
    },
    "continuous_encoder/config.json": {
        "_class_name": "SpectrogramContEncoder",
        "input_dims": 128,
        "targets_context_length": 256,
        **_ENCODER,
        **_NETWORK,
    },
    "decoder/config.json": {
        "_class_name": "T5FilmDecoder",
        "input_dims": 128,
        "max_decoder_noise_time": 20000.0,
        "targets_length": 256,
        **_NETWORK,
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "DDPMScheduler",
        "beta_end": 0.02,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "trained_betas": None,
        "variance_type": "fixed_large",
    },
}


def write_configs(folder: Path) -> None:
    """Write the JSON files of the published model."""
    for name, content in CONFIGS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**_ALL, **content}, indent=2, sort_keys=True) + "\n")
