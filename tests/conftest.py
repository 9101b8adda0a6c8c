"""What several tests need: songs made in code, and a tiny model with random weights."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# One thread is the fastest for toys, above all on a busy machine; read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

Song = Callable[..., Path]


@pytest.fixture
def song(tmp_path: Path) -> Song:
    """Writes `tmp_path / name`: a note every half second on a few instruments and a drum."""

    def write(name: str = "song.mid", seconds: float = 2.0) -> Path:
        import mido

        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        track = mido.MidiTrack()
        for channel, program in ((0, 0), (1, 33), (2, 48)):
            track.append(mido.Message("program_change", channel=channel, program=program))
        for beat in range(round(seconds * 2)):  # 120 beats a minute
            channel = (0, 1, 2, 9)[beat % 4]
            pitch = 38 if channel == 9 else 48 + beat % 24
            track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=90))
            track.append(mido.Message("note_off", channel=channel, note=pitch, time=480))
        mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(str(path))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: the layout, the options and the speed of a toy, and the sound of noise."""
    import torch

    from spectro_render.model import ModelConfig, SpectrogramModel
    from spectro_render.vocoder import MelGAN, VocoderConfig
    from spectro_render.weights import Defaults, save_model

    torch.manual_seed(0)
    config = ModelConfig(
        width=32,
        heads=2,
        head_width=16,
        mlp_width=32,
        note_layers=1,
        context_layers=1,
        decoder_layers=1,
        level_width=64,
        conditioning="frame_aligned",
        target="x0",
        note_width=16,
        velocity_bins=32,
        programs="full",
    )
    vocoder = MelGAN(VocoderConfig(channels=16, dilations=(1,), iterations=0))
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model(path, SpectrogramModel(config), vocoder, defaults=Defaults("dpm++", 2))
    return path
