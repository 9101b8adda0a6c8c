"""The band above 8 kHz: its envelope and noise, pieces of a long sound, rendering at 48 kHz."""

import ctypes.util
import json
import math
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.convert import convert
from spectro_render.cli import app as cli
from spectro_render.constants import HOP_LENGTH
from spectro_render.errors import OptionError, WeightsCorrupt, WeightsError
from spectro_render.evaluation.band import band_distance
from spectro_render.render.renderer import Renderer
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.training import band as training_band
from spectro_render.training import data, synth
from spectro_render.training.band import (
    BandOptions,
    BandTrainer,
    BandWindows,
    load_trained_band,
)
from spectro_render.training.band_table import _measure
from spectro_render.training.data import CacheSpec
from spectro_render.vocoder.band import (
    BANDS,
    FLOOR,
    FULL_HOP,
    MELODIC_SOURCES,
    STEP,
    STEPS,
    BandConfig,
    BandTable,
    HighBand,
    band_envelope,
)
from spectro_render.vocoder.band_sound import BandStream, FullBandVocoder, noise, shape_noise
from spectro_render.vocoder.lines import DRUM_KIT
from spectro_render.vocoder.streaming import StreamingVocoder
from tests.support.processes import PIPE, start_program
from tests.support.toys import write_toy_band

HAS_FLUIDSYNTH = bool(ctypes.util.find_library("fluidsynth")) and any(
    Path(path).exists() for path in synth.SOUNDFONTS
)
NOTES = torch.tensor([[0, 60, 0.8, 10.3, 50], [DRUM_KIT, 42, 0.9, 100.1, 101]]).double()


@pytest.fixture
def network() -> HighBand:
    torch.manual_seed(0)
    made = HighBand(BandConfig(width=16)).eval().requires_grad_(False)
    made.table.level.fill_(-6.0)
    made.direct.weight.normal_(0, 0.02)
    return made


def log_mel(frames: int) -> Tensor:
    return torch.randn(frames, 128, generator=torch.Generator().manual_seed(1)) - 5


def in_pieces(push: Callable[[Tensor], Tensor], mel: Tensor, cuts: Sequence[int]) -> list[Tensor]:
    edges = [0, *cuts, len(mel)]
    return [push(mel[a:b]) for a, b in pairwise(edges)]


def test_white_noise_has_level_zero() -> None:
    envelope = band_envelope(noise(0, 0, 200 * FULL_HOP))
    assert envelope.shape == (200 * STEPS, BANDS)
    power = (2 * envelope).exp().mean(0).log() / 2
    torch.testing.assert_close(power, torch.zeros(BANDS), atol=0.05, rtol=0)


def test_shaped_noise_has_the_envelope() -> None:
    wanted = torch.full((400, BANDS), -6.0)
    wanted[200:, 7:] = -9.0
    made = shape_noise(noise(0, 0, 401 * STEP), wanted)[STEP // 2 :][: 100 * FULL_HOP]
    power = (2 * band_envelope(made)).exp()
    inner = [*range(2, 6), *range(9, BANDS - 1)]  # away from the edges and from the step at 7
    for steps, place in ((slice(10, 195), 100), (slice(205, 390), 300)):
        level = power[steps].mean(0).log() / 2
        torch.testing.assert_close(level[inner], wanted[place, inner], atol=0.15, rtol=0)
    # The change takes 5 ms: a step before it and a step after it are as wanted.
    assert abs(power[190:199, 9:13].mean().log() / 2 + 6) < 0.25
    assert abs(power[202:210, 9:13].mean().log() / 2 + 9) < 0.25


def test_nothing_is_made_below_the_band_nor_above() -> None:
    made = shape_noise(noise(0, 0, 401 * STEP), torch.zeros(400, BANDS)).numpy()
    power = np.abs(np.fft.rfft(made)) ** 2
    hertz = np.fft.rfftfreq(len(made), 1 / 48_000)
    inside = power[(hertz > 9000) & (hertz < 19_000)].mean()
    assert power[hertz < 7000].mean() < 1e-4 * inside
    assert power[hertz > 21_000].mean() < 1e-4 * inside


def test_a_note_is_expected_from_its_onset_on() -> None:
    table = BandTable()
    table.level.fill_(-6.0)
    table.release[MELODIC_SOURCES:] = 0
    notes = torch.tensor([[0, 60, 1.0, 10, 20], [DRUM_KIT, 42, 0.5, 60, 61]]).double()
    level = table.expect(notes, 0, 120 * STEPS)[:, 0]
    assert level[10 * STEPS - 2] == pytest.approx(FLOOR)
    assert level[10 * STEPS + 1] == pytest.approx(-6, abs=1e-3)
    assert level[30 * STEPS] < level[20 * STEPS - 1] - 1  # released
    assert level[60 * STEPS + 1] == pytest.approx(-6 + 2 * math.log(0.5), abs=0.02)
    assert level[62 * STEPS] == pytest.approx(float(level[60 * STEPS + 1]), abs=0.2)  # rings on
    part = table.expect(notes, 7 * STEPS, 30 * STEPS)
    torch.testing.assert_close(part[:, 0], level[7 * STEPS : 37 * STEPS])


def test_pieces_are_the_whole(network: HighBand) -> None:
    mel = log_mel(300)

    def sound(cuts: Sequence[int], seed: int = 5, notes: Tensor | None = NOTES) -> Tensor:
        stream = BandStream(network, notes, seed)
        return torch.cat([*in_pieces(stream.push, mel, cuts), stream.flush()])

    whole = sound([])
    assert whole.shape == (300 * FULL_HOP,)
    assert whole.std() > 1e-4
    assert torch.equal(sound([10, 77, 200, 256]), whole)
    assert not torch.equal(sound([], seed=6), whole)
    assert not torch.equal(sound([], notes=None), whole)


class Tone:
    """A vocoder whose every frame is a frame of one sine of 1 kHz."""

    receptive_field, period, reads_notes = 4, 1, False

    def __call__(self, log_mel: Tensor, notes: object = None) -> Tensor:
        turns = torch.arange(log_mel.shape[1] * HOP_LENGTH) % 16 / 16
        return 0.5 * torch.sin(2 * torch.pi * turns)[None]


def test_the_vocoders_sound_stays_in_its_place(network: HighBand) -> None:
    mel = log_mel(300)
    wanted = 0.5 * torch.sin(2 * torch.pi * (torch.arange(300 * FULL_HOP) % 48 / 48))
    network.table.level.fill_(FLOOR)
    network.output.weight.zero_()
    network.output.bias.fill_(-9.0)  # below the floor: silence
    for cuts in ([], [64, 200], [256]):
        full = FullBandVocoder(StreamingVocoder(Tone()), BandStream(network, None))
        made = torch.cat([*in_pieces(full.push, mel, cuts), full.flush()])
        assert made.shape == wanted.shape
        torch.testing.assert_close(made[3000:-3000], wanted[3000:-3000], atol=1e-4, rtol=0)


def test_the_distance_is_that_of_levels() -> None:
    one = noise(0, 0, 48_000).numpy() * 0.01
    assert band_distance(one, one) == 0
    assert band_distance(2 * one, one) == pytest.approx(6.02, abs=0.01)
    assert 0.5 < band_distance(noise(1, 0, 48_000).numpy() * 0.01, one) < 4
    assert band_distance(np.zeros_like(one), one) > 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model, with a band."""
    path = tmp_path_factory.mktemp("models") / "banded"
    shutil.copytree(tiny_model, path)
    write_toy_band(path)
    return path


class TestRendering:
    def test_the_full_band_comes_at_48_khz(
        self, model: Path, song: Callable[..., Path], tmp_path: Path
    ) -> None:
        renderer = Renderer.load(model)
        path = song(tmp_path / "song.mid", seconds=6)
        plain = renderer.render(path, gain=-40.0, duration=6.0)
        full = renderer.render(path, gain=-40.0, duration=6.0, full_band=True)
        assert (plain.sample_rate, full.sample_rate) == (16_000, 48_000)
        assert full.samples.shape[1] == 3 * plain.samples.shape[1]
        spectrum = np.abs(np.fft.rfft(full.samples[0])) ** 2
        hertz = np.fft.rfftfreq(full.samples.shape[1], 1 / 48_000)
        assert spectrum[(hertz > 9000) & (hertz < 19_000)].mean() > 1e-3 * spectrum.mean()
        own, low = np.fft.rfft(plain.samples[0]), np.fft.rfft(full.samples[0]) / 3
        below = np.arange(round(0.85 * len(own)))  # 6.8 kHz
        assert np.linalg.norm(low[below] - own[below]) < 0.02 * np.linalg.norm(own[below])
        live = renderer.stream(path, gain=-40.0, duration=6.0, full_band=True)
        joined = np.concatenate([part.samples for part in live], axis=1)
        np.testing.assert_allclose(joined, full.samples, atol=1e-5)

    @pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
    def test_an_interrupt_says_one_word(self, model: Path, song: Callable[..., Path]) -> None:
        """... and no list of the resamplers that were in use."""
        path = song(seconds=300)
        command = [sys.executable, "-m", "spectro_render", str(path), "-o", "-", "--raw", "-q"]
        command += ["--full-band", "--model", str(model)]
        with start_program(command, stdout=PIPE, stderr=PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.read(1)  # it renders
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
        assert (process.returncode, said) == (130, b"spectro-render: interrupted\n")

    def test_a_model_without_the_band_refuses(
        self, tiny_model: Path, song: Callable[..., Path], tmp_path: Path
    ) -> None:
        renderer = Renderer.load(tiny_model)
        with pytest.raises(OptionError, match=r"tiny has no sound above 8 kHz; leave out --full"):
            renderer.render(song(tmp_path / "song.mid"), full_band=True)

    @pytest.mark.parametrize(
        ("options", "rate", "is_full"),
        [
            (["--full-band"], 48_000, True),
            (["--sample-rate", "44100"], 44_100, True),
            (["--sample-rate", "44100", "--no-full-band"], 44_100, False),
            (["--sample-rate", "24000"], 24_000, False),
            ([], 16_000, False),
        ],
    )
    def test_the_command_chooses_by_rate(
        self,
        model: Path,
        song: Callable[..., Path],
        tmp_path: Path,
        options: list[str],
        rate: int,
        is_full: bool,
    ) -> None:
        path, wav = song(tmp_path / "song.mid"), tmp_path / "out.wav"
        words = [str(path), "-o", str(wav), "--model", str(model), "--duration", "2", *options]
        assert cli.run(words) == 0
        samples, found = soundfile.read(wav)
        assert found == rate
        assert len(samples) == 2 * rate
        power = np.abs(np.fft.rfft(samples)) ** 2
        high = power[np.fft.rfftfreq(len(samples), 1 / rate) > 8500]
        assert (len(high) > 0 and high.mean() > 1e-4 * power.mean()) == is_full

    def test_damaged_weights_are_named(self, model: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        convert(model, copy, dtype="float32", quiet=True)
        assert load_checkpoint(copy).band is not None
        (copy / "SHA256SUMS").unlink()
        config = copy / "band" / "config.json"
        config.write_text(json.dumps({"width": 0}))
        with pytest.raises(WeightsError, match="width is 0, but must be a whole number from 1"):
            load_checkpoint(copy)
        config.write_text(json.dumps({"width": 17}))
        with pytest.raises(WeightsCorrupt, match=r"not \[17"):
            load_checkpoint(copy)
        (copy / "band" / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(WeightsError, match="is missing"):
            load_checkpoint(copy)


def write_shards(work: Path, windows: int, seed: int) -> tuple[Path, Path]:
    """A shard of music and one of its envelopes, which follow the mel's top band."""
    generator = torch.Generator().manual_seed(seed)
    mel = (torch.rand(windows, 256, 1, generator=generator) * 6 - 8).expand(-1, -1, 128)
    music, band = work / f"music-{seed}.safetensors", work / f"band-{seed}.safetensors"
    row = torch.tensor([[42, DRUM_KIT, 20, 0, 100, 110]], dtype=torch.int16)
    tensors = {"notes": row.repeat(windows, 1), "counts": torch.ones(windows, dtype=torch.int32)}
    save_file({**tensors, "piece": torch.arange(windows).int()}, music)
    envelope = (mel[..., -1:] - 3).repeat_interleave(STEPS, 1).expand(-1, -1, BANDS)
    save_file({"mel": mel.half().contiguous(), "envelope": envelope.half().contiguous()}, band)
    return music, band


class TestTraining:
    def test_the_network_learns_and_goes_on_where_it_was(self, tmp_path: Path) -> None:
        table, said = BandTable(), list[str]()
        paths = [write_shards(tmp_path, windows, seed) for windows, seed in ((2, 0), (6, 1))]
        held_out, windows = (BandWindows([m], [b], table, 32) for m, b in paths)
        options = BandOptions(steps=60, batch_size=2, warmup=5, ema_decay=0.9)
        for folder, steps in (("whole", 60), ("parts", 20), ("parts", 60)):
            trainer = BandTrainer(
                BandConfig(width=16),
                table,
                options,
                tmp_path / folder,
                torch.device("cpu"),
                said.append,
            )
            if trainer.checkpoint.exists():
                trainer.resume()
            while trainer.step < steps:
                trainer._update(windows)
            trainer.save()
            trainer._check(held_out)
        whole, parts = (load_trained_band(tmp_path / folder) for folder in ("whole", "parts"))
        assert whole is not None
        assert parts is not None
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, parts.state_dict()[name]), name
        first, last = (float(said[k].split("check_distance ")[1].split()[0]) for k in (1, 2))
        assert last < 0.8 * first
        assert load_trained_band(tmp_path / "nothing") is None

    def test_drawn_mels_take_the_place_of_true_ones(self, tmp_path: Path) -> None:
        music, band = write_shards(tmp_path, 3, 0)
        windows = BandWindows([music], [band], BandTable(), 32, torch.zeros(2, 256, 128).half())
        mel, _, _ = windows.batch(torch.arange(3), torch.tensor([True, False, True]))
        assert [bool((one == 0).all()) for one in mel] == [True, False, False]  # two are drawn

    def test_a_source_is_measured(self) -> None:
        table = BandTable()
        step = torch.arange(320)[:, None]
        envelope = (-4.0 - 0.01 * step - 0.05 * (step - 200).clamp(min=0)).expand(-1, BANDS)
        _measure(table, 7, envelope.clamp(min=FLOOR))
        assert float(table.level[7, 0]) == pytest.approx(-4.0 - 2 * math.log(100 / 127), abs=0.1)
        assert float(table.slope[7]) == pytest.approx(0.01, abs=0.003)
        assert float(table.release[7]) == pytest.approx(0.06, abs=0.01)
        _measure(table, 8, torch.full((320, BANDS), FLOOR))  # silence
        assert table.level[8].max() < FLOOR + 0.5
        assert torch.equal(table.course[8], torch.zeros_like(table.course[8]))

    @pytest.mark.skipif(not HAS_FLUIDSYNTH, reason="FluidSynth or its soundfont is not installed")
    def test_pieces_are_played_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (data, training_band):
            monkeypatch.setattr(module, "PIECE_WINDOWS", 1)
        for name in "ab":
            (tmp_path / f"{name}.mid").write_bytes(b"no MIDI")  # so all music is made up
        spec = CacheSpec(tmp_path, tmp_path / "train", Vocabulary(32, "full"), hours=0.1, pieces=1)
        spec.folder.mkdir()
        data._start_worker(spec)
        data._write_shard(0)
        training_band._start_worker(spec, tmp_path)
        made = load_file(training_band._write_shard(0))
        assert made["envelope"].shape == (1, 1024, BANDS)
        true = load_file(spec.path(0))["mel"].float()
        assert (made["mel"].float() - true).abs().mean() < 0.4
        loud = true[0, :, -8:].mean(1) > true[0, :, -8:].mean(1).median()
        level = made["envelope"][0].float().view(256, STEPS, BANDS).mean((1, 2))
        assert level[loud].mean() > level[~loud].mean() + 0.15
        training_band._start_worker(replace(spec, seed=5), tmp_path)
        with pytest.raises(OptionError, match="holds other music than these options"):
            training_band._write_shard(0)
