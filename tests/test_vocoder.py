"""The vocoder: lengths, locality, streaming, Griffin-Lim's accuracy, and its training."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from spectro_render.constants import HOP_LENGTH, LOG_MEL_MIN, N_MELS, SAMPLE_RATE, WINDOW_SAMPLES
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.mel import log_mel
from spectro_render.training.discriminators import DiscriminatorConfig
from spectro_render.training.vocoder import (
    Recordings,
    VocoderOptions,
    VocoderTrainer,
    load_trained_vocoder,
    magnitude_loss,
    train_vocoder,
)
from spectro_render.vocoder.griffin_lim import GriffinLim
from spectro_render.vocoder.lines import LineTable
from spectro_render.vocoder.melgan import MelGAN, SpectrumGenerator, Vocoder, VocoderConfig
from spectro_render.vocoder.phase import Stft, steady_partials
from spectro_render.vocoder.streaming import (
    BEYOND,
    LEAST_FRAMES,
    LIVE_FRAMES,
    PART_FRAMES,
    PATIENT_FRAMES,
    StreamingVocoder,
)
from tests.support.processes import PIPE, run_program

SPECTRUM = VocoderConfig(
    channels=4, dilations=(1, 2), sketch_iterations=1, iterations=1, corrections=1
)
WAVEFORM = VocoderConfig(
    channels=16, dilations=(1,), upsample=(8, 5, 4, 2), stage_dilations=(1, 3), head="waveform"
)


def chord(seconds: float, *hertz: float, amplitude: float = 0.05) -> Tensor:
    """Sines (S,) that fade in and out over 50 ms."""
    time = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    fade = (torch.minimum(time, seconds - time) / 0.05).clamp(max=1)
    phases = 2 * math.pi * torch.tensor(hertz)[:, None] * time + torch.arange(len(hertz))[:, None]
    return amplitude * fade * phases.sin().sum(0)


def music(frames: int) -> Tensor:
    """A log-mel (T, 128) of changing chords over a little noise."""
    generator = torch.Generator().manual_seed(0)
    notes = [220 * 2 ** (i / 12) for i in (0, 4, 7, 12, 16, 19)]
    parts = [chord(0.5, *notes[i % 4 : i % 4 + 3]) for i in range(frames // 25 + 1)]
    samples = torch.cat(parts)[: frames * HOP_LENGTH]
    return log_mel(samples + 1e-3 * torch.randn(samples.shape, generator=generator))


def network(config: VocoderConfig, seed: int = 0) -> MelGAN:
    torch.manual_seed(seed)
    return MelGAN(config).eval().requires_grad_(False)


VOCODERS = {
    "spectrum": lambda: network(SPECTRUM),
    "waveform": lambda: network(WAVEFORM),
    "Griffin-Lim": lambda: GriffinLim(4),
}


@pytest.fixture(params=VOCODERS)
def vocoder(request: pytest.FixtureRequest) -> Vocoder:
    made: Vocoder = VOCODERS[request.param]()
    return made


def test_contrast_lifts_peaks_and_lowers_valleys() -> None:
    """... by its own measure, whatever the level; a flat spectrum stays as it is."""
    bins = torch.arange(SpectrumGenerator(SPECTRUM).stft.bins)
    ripple = (2 * math.pi * bins / 17).cos()  # its mean over the neighbourhood is 0
    for level in (-8.0, 0.0):
        log_magnitude = (level + ripple).expand(1, 3, -1)
        for contrast in (1.0, 1.5):
            generator = SpectrumGenerator(replace(SPECTRUM, contrast=contrast))
            sharp = generator.sharpen(log_magnitude)[0, 1, 20:-20]
            assert torch.allclose(sharp, level + contrast * ripple[20:-20], atol=1e-4)
            flat = torch.full_like(log_magnitude, level)
            assert torch.allclose(generator.sharpen(flat), flat, atol=1e-5)


def test_patches_are_joined_as_the_transposed_convolution_does() -> None:
    generator = network(SPECTRUM).generator
    torch.nn.init.normal_(generator.output.bias)
    features = torch.randn(2, SPECTRUM.channels, 5, SPECTRUM.window // 2 // SPECTRUM.patch)
    expected = generator.output(features)[:, 0]
    torch.testing.assert_close(generator._join(features), [expected])


def test_contrast_is_heard() -> None:
    mel = music(64)[None]
    plain, sharp = (network(replace(SPECTRUM, contrast=c))(mel) for c in (1.0, 1.5))
    assert not torch.allclose(plain, sharp, atol=0.1 * float(plain.abs().max()))


@pytest.mark.parametrize("frames", [1, 2, 63, 64, 65])
def test_320_samples_a_frame(vocoder: Vocoder, frames: int) -> None:
    assert vocoder(music(80)[None, :frames]).shape == (1, frames * HOP_LENGTH)


def test_a_batch_is_its_items(vocoder: Vocoder) -> None:
    mels = torch.stack([music(60), music(90)[30:]])
    apart = torch.cat([vocoder(mel[None]) for mel in mels])
    torch.testing.assert_close(vocoder(mels), apart, atol=1e-5, rtol=0)


@pytest.mark.parametrize("level", [LOG_MEL_MIN, -60.0, 4.0, 15.0])
def test_silence_and_extremes_stay_finite(vocoder: Vocoder, level: float) -> None:
    assert vocoder(torch.full((1, 70, N_MELS), level)).isfinite().all()


def test_silence_is_silent() -> None:
    assert GriffinLim()(torch.full((1, 100, N_MELS), LOG_MEL_MIN)).abs().max() < 1e-5


@pytest.mark.parametrize(("frames", "push"), [(300, 1), (700, 37), (700, 256), (1400, 1400)])
@pytest.mark.parametrize("live", [True, False])
def test_streaming_equals_the_whole(vocoder: Vocoder, frames: int, push: int, live: bool) -> None:
    mel = music(frames)
    whole = vocoder(mel[None])[0]
    stream = StreamingVocoder(vocoder, live=live)
    joined = torch.cat([*map(stream.push, mel.split(push)), stream.flush()])
    torch.testing.assert_close(joined, whole, atol=1e-4 * float(whole.abs().max()), rtol=0)


def test_the_full_griffin_lim_streams_too() -> None:
    mel, vocoder = music(600), GriffinLim()
    stream = StreamingVocoder(vocoder)
    joined = torch.cat([*map(stream.push, mel.split(256)), stream.flush()])
    torch.testing.assert_close(joined, vocoder(mel[None])[0], atol=1e-5, rtol=0)


def test_a_listener_hears_the_first_window_before_the_second(vocoder: Vocoder) -> None:
    stream = StreamingVocoder(vocoder)
    first = stream.push(music(256))
    least = 256 - vocoder.receptive_field - BEYOND
    assert least // vocoder.period * vocoder.period * HOP_LENGTH <= len(first) <= 256 * HOP_LENGTH
    assert len(stream.push(music(256))) == 256 * HOP_LENGTH


def test_large_pieces_where_nobody_listens(vocoder: Vocoder) -> None:
    stream = StreamingVocoder(vocoder, live=False)
    windows = PATIENT_FRAMES // 256  # and one more, as what comes is heard in it
    pieces = [len(stream.push(music(256))) // HOP_LENGTH for _ in range(windows + 2)]
    assert pieces == [0] * windows + [PATIENT_FRAMES, 0]


def test_pieces_grow_where_somebody_listens(vocoder: Vocoder) -> None:
    stream, done, pieces = StreamingVocoder(vocoder), 0, []
    for _ in range(40):
        if piece := len(stream.push(torch.zeros(256, N_MELS))) // HOP_LENGTH:
            assert piece >= min(done, LIVE_FRAMES)
            pieces.append(piece)
            done += piece
    assert pieces[:2] == sorted(pieces[:2]) and pieces[-1] == max(pieces) == LIVE_FRAMES


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """A function that sets the number of torch's threads, for this test only."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("live", "parts"), [(True, 1), (False, 1), (True, 2), (False, 4)])
def test_streaming_holds_no_more_than_it_needs(
    live: bool, parts: int, threads: Callable[[int], None]
) -> None:
    longest = 0

    class Counting(GriffinLim):
        def __call__(self, mel: Tensor) -> Tensor:
            nonlocal longest
            longest = max(longest, mel.shape[1])
            return mel.new_zeros(1, mel.shape[1] * HOP_LENGTH)

    threads(parts)
    vocoder = Counting(1)
    stream = StreamingVocoder(vocoder, live=live)
    around, most = 2 * vocoder.period + BEYOND, LIVE_FRAMES if live else PATIENT_FRAMES
    samples = [stream.push(torch.zeros(10, N_MELS)) for _ in range(30)]
    assert longest <= (LEAST_FRAMES + around + 10 if live else 0)
    samples += [stream.push(torch.zeros(10, N_MELS)) for _ in range(1000)]
    assert most // parts <= longest <= most // parts + 2 * around + 10
    samples += [stream.push(torch.zeros(4000, N_MELS)), stream.flush()]
    assert sum(map(len, samples)) == 14_300 * HOP_LENGTH
    assert longest <= 2 * most // parts + 2 * around


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_side_by_side_are_the_whole(
    vocoder: Vocoder, parts: int, threads: Callable[[int], None]
) -> None:
    mel = music(parts * PART_FRAMES + 33)
    threads(1)
    whole = StreamingVocoder(vocoder, live=False)
    assert len(whole.push(mel)) == 0
    threads(parts)
    joined = StreamingVocoder(vocoder, live=False)
    assert len(joined.push(mel)) == 0
    samples = whole.flush()
    torch.testing.assert_close(
        joined.flush(), samples, atol=1e-4 * float(samples.abs().max()), rtol=0
    )


def test_a_stream_can_be_used_again() -> None:
    mel, stream = music(100), StreamingVocoder(GriffinLim(2))
    assert len(stream.flush()) == 0
    first, second = (torch.cat([stream.push(mel), stream.flush()]) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "config",
    [
        SPECTRUM,
        replace(SPECTRUM, iterations=0, sketch_iterations=0, corrections=0),
        replace(SPECTRUM, window=640, dilations=(3,)),
        WAVEFORM,
        replace(WAVEFORM, upsample=(2, 4, 5, 8), dilations=()),
    ],
)
def test_nothing_is_heard_beyond_the_receptive_field(config: VocoderConfig) -> None:
    vocoder = network(config)
    reach, middle = vocoder.receptive_field, 200
    mel = music(400)
    samples = vocoder(mel[None])[0].view(-1, HOP_LENGTH)
    for side in (-1, 1):
        changed = mel.clone()
        changed[middle + side * (reach + 1)] += 1
        heard = vocoder(changed[None])[0].view(-1, HOP_LENGTH)[middle]
        torch.testing.assert_close(heard, samples[middle], atol=1e-7, rtol=0)


@pytest.mark.parametrize("upsample", [(8, 5, 4, 2), (2, 4, 5, 8), (5, 8, 8), (320,)])
def test_the_receptive_field_is_no_larger_than_need_be(upsample: tuple[int, ...]) -> None:
    vocoder = network(replace(WAVEFORM, channels=32, upsample=upsample)).double()
    mel = torch.zeros(1, 60, N_MELS, dtype=torch.float64, requires_grad=True)
    vocoder(mel)[0, 30 * HOP_LENGTH : 31 * HOP_LENGTH].square().sum().backward()
    assert mel.grad is not None
    heard = mel.grad[0].abs().sum(-1).nonzero()[:, 0] - 30
    assert int(heard.abs().max()) == vocoder.receptive_field


def test_a_spectrum_is_heard_as_far_as_its_window_reaches() -> None:
    stft = Stft(1280, HOP_LENGTH, 1280)
    before, after = stft.reach(0)
    assert (before, after) == (2, 1)
    impulse = torch.zeros(1, 9, stft.bins, dtype=torch.complex64)
    impulse[0, 4, 0] = 1
    frames = stft.crop(stft.synthesise(impulse), 9 * HOP_LENGTH).view(9, HOP_LENGTH)
    heard = frames.abs().sum(-1).nonzero()[:, 0].tolist()
    assert heard == list(range(4 - after, 4 + before + 1))


def test_folding_weight_norm_changes_nothing() -> None:
    for config in (SPECTRUM, WAVEFORM):
        vocoder, mel = network(config), music(40)[None]
        before, names = vocoder(mel), len(vocoder.state_dict())
        after = vocoder.fold_weight_norm()(mel)
        torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
        assert len(vocoder.state_dict()) < names


def test_the_configuration_survives_json() -> None:
    for config in (SPECTRUM, WAVEFORM):
        as_json = {k: list(v) if isinstance(v, tuple) else v for k, v in config.to_dict().items()}
        assert VocoderConfig.from_dict(as_json) == config


@pytest.mark.parametrize(
    "wrong",
    [{"upsample": (8, 5, 4)}, {"channels": 20}, {"head": "spectrum"}, {"patch": 48}],
)
def test_impossible_configurations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs|halved|patches"):
        VocoderConfig.from_dict({**WAVEFORM.to_dict(), **wrong})


@pytest.mark.parametrize("window", [640, 1280])
def test_synthesis_undoes_analysis(window: int) -> None:
    stft = Stft(window, HOP_LENGTH, 1280)
    samples = torch.randn(2, 10 * HOP_LENGTH + window, generator=torch.Generator().manual_seed(0))
    inner = slice(window, -window)
    rebuilt = stft.synthesise(stft.analyse(samples))
    torch.testing.assert_close(rebuilt[:, inner], samples[:, inner])


@pytest.mark.parametrize("hertz", [(440.0,), (98.0, 261.6, 329.6, 392.0, 1046.5)])
def test_griffin_lim_explains_the_mel(hertz: tuple[float, ...]) -> None:
    mel = log_mel(chord(2.0, *hertz))
    rebuilt = log_mel(GriffinLim()(mel[None])[0])
    loud = mel > mel.max() - 4.6  # the upper 40 dB
    assert (rebuilt - mel)[loud].abs().mean() < 0.1


def test_start_phases_carry_a_steady_tone() -> None:
    """Phases alone, from magnitudes alone: no beating, no lines at multiples of 50 Hz."""
    stft, hertz = Stft(1280, HOP_LENGTH, 1280), 443.0
    samples = chord(4.0, hertz)
    magnitude = stft.analyse(samples[None]).abs()
    phasor = steady_partials(magnitude, stft, 64)
    rebuilt = stft.synthesise(magnitude * phasor)[0, SAMPLE_RATE : 3 * SAMPLE_RATE]
    spectrum = torch.fft.rfft(rebuilt * torch.hann_window(len(rebuilt))).abs()
    near = slice(round((hertz - 5) * 2), round((hertz + 5) * 2) + 1)  # half a hertz a bin
    assert abs(int(spectrum.argmax()) / 2 - hertz) <= 1
    assert spectrum[near].square().sum() > 0.99 * spectrum.square().sum()


TINY_TRAINING = VocoderOptions(
    steps=16,
    magnitude_share=0.75,
    adversarial_share=0.125,
    batch_size=2,
    frames=24,
    learning_rate=1e-2,
    warmup=2,
    ema_decay=0.9,
    log_every=2,
    check_every=8,
    discriminators=DiscriminatorConfig(4, (512,), (3,), (2,)),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    for shard in range(2):
        windows = [chord(5.12, 200.0 * (i + 1), 330.0 + 50 * shard) for i in range(2)]
        samples = torch.stack(windows)[:, :WINDOW_SAMPLES].contiguous()
        save_file({"samples": samples}, folder / f"shard-{shard:05d}.safetensors")
    return folder


@torch.no_grad()
def error_of(model: MelGAN, cache: Path) -> float:
    """Of the magnitudes, on sound that was not trained on."""
    crops, generator = Recordings(sorted(cache.iterdir())[:1]).spread(2), model.generator
    assert isinstance(generator, SpectrumGenerator)
    predicted = generator.log_magnitude(crops.log_mel, generator.sketch(crops.log_mel))
    return float(magnitude_loss(predicted, crops.magnitude(generator)))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_training_learns_and_resumes_to_the_same_numbers(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    options, device = TINY_TRAINING, torch.device("cpu")
    through, again = tmp_path / "through", tmp_path / "again"
    train_vocoder(cache, through, options, device, SPECTRUM)
    trained = load_trained_vocoder(through)
    assert error_of(trained, cache) < 0.9 * error_of(network(SPECTRUM), cache)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(VocoderTrainer, "_check", interrupt)
        train_vocoder(cache, again, options, device, SPECTRUM)
    train_vocoder(cache, again, options, device, SPECTRUM)
    for one, other in zip(
        trained.state_dict().values(),
        load_trained_vocoder(again).state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def noted_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of two windows, each with a note whose sound is a sine."""
    folder = tmp_path_factory.mktemp("noted")
    for shard in range(2):
        pitches = [57 + 7 * shard, 69 + 5 * shard]
        sounds = [chord(5.12, 440 * 2 ** ((pitch - 69) / 12)) for pitch in pitches]
        tensors = {
            "samples": torch.stack(sounds)[:, :WINDOW_SAMPLES].contiguous(),
            "notes": torch.tensor([[pitch, 40, 20, 0, 0, 512] for pitch in pitches]).short(),
            "counts": torch.tensor([1, 1], dtype=torch.int32),
            "piece": torch.tensor([0, 1], dtype=torch.int32),
        }
        save_file(tensors, folder / f"shard-{shard:05d}.safetensors")
    return folder


def test_crops_know_their_notes(noted_cache: Path) -> None:
    """... with times that count from the crop's first frame."""
    recordings = Recordings(sorted(noted_cache.iterdir()), velocity_bins=32)
    crops = recordings.random(3, 24, torch.Generator().manual_seed(0))
    for samples, notes in zip(crops.samples, crops.notes, strict=True):
        (program, pitch, velocity, onset, offset) = notes[0].tolist()
        assert (program, velocity, offset - onset) == (40, 20 / 32, 256)
        assert onset < 0 < 24 < offset
        spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
        hertz = int(spectrum.argmax()) * SAMPLE_RATE / len(samples)
        assert abs(hertz - 440 * 2 ** ((pitch - 69) / 12)) < SAMPLE_RATE / len(samples)


def test_crops_may_have_the_mels_of_a_transformer(noted_cache: Path) -> None:
    """... cut at the same frames as the recording; only the first window has one here."""
    shards = sorted(noted_cache.iterdir())
    mel = log_mel(Recordings(shards).window(0))[None].half()
    recordings = Recordings(shards, drawn=mel)
    crops = recordings.random(40, 24, torch.Generator().manual_seed(0), drawn_share=0.5)
    drawn = [number for number, one in enumerate(crops.drawn) if one is not None]
    assert 10 < len(drawn) < 30
    for number in drawn:
        own = crops.drawn[number]
        assert own is not None
        torch.testing.assert_close(own, crops.log_mel[number], atol=0.01, rtol=0)
    assert not any(mel is not None for mel in recordings.random(9, 24, torch.Generator()).drawn)


def test_the_part_that_reads_notes_is_trained_alone(
    noted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... where training starts from another vocoder; also after an interruption."""
    pytest.importorskip("matplotlib")
    table = LineTable(4)
    table.decay[:] = 77
    monkeypatch.setattr("spectro_render.training.vocoder.measure_lines", lambda lines: table)
    options = replace(TINY_TRAINING, magnitude_share=1.0, adversarial_share=0.0)
    config, device, start = replace(SPECTRUM, lines=4), torch.device("cpu"), network(SPECTRUM)
    through, again = tmp_path / "through", tmp_path / "again"
    train_vocoder(noted_cache, through, options, device, config, start)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(VocoderTrainer, "_check", interrupt)
        train_vocoder(noted_cache, again, options, device, config, start)
    train_vocoder(noted_cache, again, options, device, config)
    trained, resumed = (load_trained_vocoder(run).state_dict() for run in (through, again))
    for name, before in start.state_dict().items():
        assert torch.equal(trained[name], before)
    assert trained["generator.table.decay"].unique().tolist() == [77]
    assert all(torch.equal(trained[name], resumed[name]) for name in trained)
    first = [json.loads(line) for line in (through / "log.jsonl").read_text().splitlines()]
    assert any("magnitude_with_notes" in row for row in first)
    begun, learned = start.state_dict()["generator.position"], trained["generator.noted.position"]
    assert not torch.allclose(begun, learned)
    assert not any("magnitude" in row for row in first)


def test_both_parts_learn_from_scratch(
    noted_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("spectro_render.training.vocoder.measure_lines", LineTable)
    options = replace(TINY_TRAINING, steps=4, magnitude_share=0.5, adversarial_share=0.25)
    config = replace(SPECTRUM, lines=4)
    train_vocoder(noted_cache, tmp_path, options, torch.device("cpu"), config)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row}
    assert {"magnitude", "magnitude_with_notes", "stft", "adversarial"} <= names


def test_a_vocoder_of_another_shape_is_no_start(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config = replace(SPECTRUM, lines=4)
    trainer = VocoderTrainer(config, TINY_TRAINING, tmp_path, torch.device("cpu"))
    with pytest.raises(OptionError, match="another shape"):
        trainer.start_from(network(replace(SPECTRUM, channels=8)))


def test_a_waveform_head_trains_too(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = replace(TINY_TRAINING, steps=2, adversarial_share=0.5, check_every=2)
    train_vocoder(cache, tmp_path, options, torch.device("cpu"), WAVEFORM)
    assert load_trained_vocoder(tmp_path).config == WAVEFORM


def test_missing_shards_and_missing_weights_say_so(tmp_path: Path) -> None:
    with pytest.raises(SpectroRenderError, match="there are too few shards"):
        train_vocoder(tmp_path, tmp_path, TINY_TRAINING, torch.device("cpu"))
    with pytest.raises(SpectroRenderError, match=r"vocoder\.json"):
        load_trained_vocoder(tmp_path)


def test_sound_does_not_depend_on_the_number_of_threads() -> None:
    """Whose phases take any rounding for a reason to jump."""
    code = """
import hashlib, torch
from spectro_render.checkpoints import load_checkpoint
vocoder = load_checkpoint("default").vocoder
torch.manual_seed(0)
notes = torch.tensor([[40.0, 60 + i, 0.7, 3 * i, 3 * i + 20] for i in range(20)])
with torch.inference_mode():
    mel = torch.randn(1, 60, 128).cumsum(1).clamp(-11, 2)
    for samples in (vocoder(mel), vocoder(mel, [notes.double()])):
        print(hashlib.sha256(samples.numpy().tobytes()).hexdigest())
"""
    sounds = {
        run_program(
            [sys.executable, "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=PIPE,
            check=True,
        ).stdout
        for threads in (1, 2, 3)
    }
    assert len(sounds) == 1
