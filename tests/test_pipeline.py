"""diffusers' names: the stored numbers through them, and what its documentation promises."""

import inspect
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mido
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

import spectro_render as sr
from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.files import TENSORS
from spectro_render.checkpoints.load import save_model
from spectro_render.cli import app as cli
from spectro_render.compat.components import MelVocoder, SpectrogramScheduler
from spectro_render.constants import LOG_MEL_MAX, LOG_MEL_MIN, MAX_TOKENS
from spectro_render.errors import (
    MidiError,
    OptionError,
    OutputError,
    TokenError,
    WeightsError,
    WeightsNotFound,
)
from spectro_render.mel import from_model, to_model
from spectro_render.network.build import make_model
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import SpectrogramModel
from spectro_render.tokens.vocabulary import EOS, TokenWindow, Vocabulary
from spectro_render.vocoder.harmonic_map import map_notes
from spectro_render.vocoder.melgan import MelGAN, VocoderConfig
from tests.support.golden import PIPELINE, arrays, checkpoint, difference, golden_noise, tokens
from tests.support.toys import toy_config

Pipeline = sr.SpectrogramDiffusionPipeline

TOKENS = Path(__file__).parent / "data" / "tokens"
GOLDEN_TOKENS: dict[str, list[list[int]]] = json.loads((TOKENS / "tokens.json").read_text())
WINDOWS = [tokens(window)[0].tolist() for window in range(3)]
SHORT = [WINDOWS[0]]
ROUNDING = 1e-4  # what float32 implementations may differ by; 2e-6 on [-1, 1] was measured
MEL_ROUNDING = ROUNDING * (LOG_MEL_MAX - LOG_MEL_MIN) / 2


def quiet(pipe: Pipeline) -> Pipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe() -> Pipeline:
    """The published layout, without its vocoder."""
    torch.set_num_threads(1)
    return quiet(Pipeline.from_pretrained(PIPELINE, melgan=None))


@pytest.fixture
def sounding() -> Pipeline:
    pytest.importorskip("onnxruntime")
    return quiet(Pipeline.from_pretrained(PIPELINE))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mel(pipe: Pipeline, windows: Sequence[Sequence[int]] = SHORT, **options: Any) -> Tensor:
    """The log-mel (1, T, 128) of a run with seed 0, in one step unless said otherwise."""
    options = {"generator": seeded(), "num_inference_steps": 1, **options}
    return torch.from_numpy(pipe(windows, output_type="mel", **options).audios)


# --- MIDI -> ids ------------------------------------------------------------------------------


# diffusers does not hear the all-notes-off in AmazingGrace, see test_tokens.
@pytest.mark.parametrize("name", [name for name in GOLDEN_TOKENS if "Grace" not in name][:3])
def test_ids_are_those_of_diffusers(name: str) -> None:
    windows = sr.MidiProcessor()(TOKENS / name)
    assert isinstance(windows, list) and isinstance(windows[0], list)
    golden = GOLDEN_TOKENS[name]
    assert windows == [[*ids, *[0] * (MAX_TOKENS - len(ids))] for ids in golden]


def test_midi_comes_from_a_path_or_bytes(song: Callable[..., Path]) -> None:
    path = song()
    windows = sr.MidiProcessor()(str(path))
    assert sr.MidiProcessor()(path.read_bytes()) == windows
    with path.open("rb") as file:
        assert sr.MidiProcessor()(file) == windows


def test_midi_without_notes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.mid"
    mido.MidiFile(tracks=[mido.MidiTrack()]).save(str(path))
    with pytest.raises(MidiError, match="no notes"):
        sr.MidiProcessor()(path)


def test_windows_of_many_notes_fit(pipe: Pipeline, tmp_path: Path) -> None:
    notes = [message for pitch in range(128) for message in strikes(pitch)]
    mido.MidiFile(tracks=[mido.MidiTrack(notes)]).save(str(tmp_path / "dense.mid"))
    windows = sr.MidiProcessor()(tmp_path / "dense.mid")
    assert {len(window) for window in windows} == {MAX_TOKENS}
    used = len(windows[0]) - windows[0].count(0)
    assert windows[0][used - 1] == EOS and used > 2000
    assert mel(pipe, windows[:1]).isfinite().all()


def strikes(pitch: int) -> list[mido.Message]:
    """Nine short notes, between those of the next pitch."""
    return [
        mido.Message(kind, note=pitch, velocity=90, time=1)
        for _ in range(9)
        for kind in ("note_on", "note_off")
    ]


# --- the parts --------------------------------------------------------------------------------


def encode_notes(pipe: Pipeline, window: int) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(1, MAX_TOKENS, dtype=torch.long)
    ids[:, : len(WINDOWS[window])] = torch.tensor(WINDOWS[window])
    encoded, mask = pipe.notes_encoder(encoder_input_tokens=ids, encoder_inputs_mask=ids > 0)
    assert encoded.shape == (1, MAX_TOKENS, 64) and torch.equal(mask, ids > 0)
    return encoded, mask


def encode_context(pipe: Pipeline, frames: int = 256) -> tuple[Tensor, Tensor]:
    mask = (torch.arange(256) < frames)[None]
    context = arrays("runs")["context"][None]
    encoded: tuple[Tensor, Tensor] = pipe.continuous_encoder(
        encoder_inputs=context, encoder_inputs_mask=mask
    )
    return encoded


@torch.no_grad()
def test_encoders(pipe: Pipeline) -> None:
    runs = arrays("runs")
    for window in range(2):
        encoded, mask = encode_notes(pipe, window)
        assert difference(encoded[mask], runs[f"notes_encoded_{window}"]) < ROUNDING
    assert difference(encode_context(pipe)[0][0], runs["ctx_encoded_1"]) < ROUNDING


@torch.no_grad()
def test_decoder(pipe: Pipeline) -> None:
    runs = arrays("runs")
    encodings = [encode_notes(pipe, 1), encode_context(pipe)]
    for time, noisy, epsilon in zip(runs["times"], runs["x"], runs["eps"], strict=True):
        predicted = pipe.decoder(
            encodings_and_masks=encodings,
            decoder_input_tokens=noisy[None],
            decoder_noise_time=time[None],
        )
        assert difference(predicted[0, ::4], epsilon) < ROUNDING


@torch.no_grad()
def test_a_masked_context_is_not_heard(pipe: Pipeline) -> None:
    notes, noisy, time = encode_notes(pipe, 0), arrays("runs")["x"][:1], torch.tensor([0.5])
    deaf = pipe.decoder([notes, encode_context(pipe, frames=0)], noisy, time)
    assert difference(deaf, pipe.decoder([notes], noisy, time)) < 1e-5
    assert difference(deaf, pipe.decoder([notes, encode_context(pipe)], noisy, time)) > 1e-2


@torch.no_grad()
def test_positions_of_the_context_count_from_its_end(pipe: Pipeline) -> None:
    encoded, mask = encode_context(pipe, frames=100)
    network = pipe.continuous_encoder.network
    positions = (torch.arange(256) - 100) % 256  # the last frame, 99, is at 255
    x = network.input(arrays("runs")["context"][None]) + network.encoder.position(positions)
    for layer in network.encoder.layers:
        x = layer(x, mask)
    assert difference(encoded[mask], network.encoder.norm(x)[mask]) < 1e-5


def test_parts_are_made_from_the_settings_of_diffusers() -> None:
    folders = {
        "notes_encoder": sr.SpectrogramNotesEncoder,
        "continuous_encoder": sr.SpectrogramContEncoder,
        "decoder": sr.T5FilmDecoder,
    }
    scheduler = SpectrogramScheduler(checkpoint().config, checkpoint().schedule)
    parts = {}
    for folder, kind in folders.items():
        settings = json.loads((PIPELINE / folder / "config.json").read_text())
        parts[folder] = kind(**settings).eval()
        assert parts[folder].config.d_model == 64
        assert not hasattr(parts[folder].config, "hidden_size")
    fresh = quiet(Pipeline(**parts, scheduler=scheduler, melgan=None))
    assert mel(fresh).isfinite().all()
    with pytest.raises(WeightsError, match="lacks the setting d_kv"):
        sr.T5FilmDecoder(d_model=64, num_heads=4)


# --- whole runs -------------------------------------------------------------------------------


def test_run_of_diffusers(pipe: Pipeline) -> None:
    log_mel = mel(pipe, WINDOWS, num_inference_steps=5)
    assert log_mel.shape == (1, 3 * 256, 128) and log_mel.dtype == torch.float32
    golden = from_model(arrays("runs")["diffusers"]).reshape(1, -1, 128)
    assert difference(log_mel[:, ::2], golden) < MEL_ROUNDING


def test_sound_of_diffusers(sounding: Pipeline) -> None:
    audio = sounding(WINDOWS, seeded(), 5).audios[0]
    assert audio.shape == (1, 3 * 81_920) and audio.dtype == np.float32
    sound = torch.from_numpy(audio[0, 73_920:89_920])
    assert difference(sound, arrays("runs")["audio"]) < ROUNDING


def test_noise_comes_from_any_kind_of_generator(pipe: Pipeline) -> None:
    expected = mel(pipe, num_inference_steps=2)
    torch.manual_seed(0)
    assert torch.equal(mel(pipe, generator=None, num_inference_steps=2), expected)
    assert torch.equal(mel(pipe, generator=[seeded()], num_inference_steps=2), expected)
    assert not torch.equal(mel(pipe, generator=seeded(1), num_inference_steps=2), expected)


def test_padding_changes_nothing(pipe: Pipeline) -> None:
    padded = [[*ids, *[0] * (MAX_TOKENS - len(ids))] for ids in SHORT]
    assert torch.equal(mel(pipe, padded), mel(pipe))
    assert torch.equal(mel(pipe, np.array(padded)), mel(pipe))


def test_a_window_that_is_too_long_is_cut(pipe: Pipeline) -> None:
    long = (WINDOWS[1] * 10)[: MAX_TOKENS + 100]
    assert torch.equal(mel(pipe, [long]), mel(pipe, [long[:MAX_TOKENS]]))


@pytest.mark.parametrize("window", [[], [0] * MAX_TOKENS, [EOS]])
def test_an_empty_window_is_rendered(pipe: Pipeline, window: list[int]) -> None:
    assert mel(pipe, [WINDOWS[0], window]).isfinite().all()


def test_guidance(pipe: Pipeline) -> None:
    def guided(weight: float) -> Tensor:
        return mel(pipe, WINDOWS[:2], num_inference_steps=2, guidance_scale=weight)

    model, draw = checkpoint().model, golden_noise(0)
    mels: list[Tensor] = []
    for window in range(2):
        memory = model.encode(tokens(window), mels[-1] if mels else None)
        x = draw()
        pipe.scheduler.set_timesteps(2)
        for t in pipe.scheduler.timesteps:
            time = torch.tensor([int(t) / 1000])
            with torch.no_grad():
                known, unknown = (model.denoise(x, time, m) for m in (memory, None))
            noise = draw() if t > 0 else x
            x = step_with(pipe.scheduler, 3 * known - 2 * unknown, t, x, noise)
        mels.append(x)
    assert difference(guided(3.0), from_model(torch.cat(mels, 1))) < MEL_ROUNDING
    assert torch.equal(guided(1.0), mel(pipe, WINDOWS[:2], num_inference_steps=2))


def step_with(scheduler: Any, epsilon: Tensor, t: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """DDPM (Ho et al., algorithm 2) in its textbook form, with this noise."""
    kept = checkpoint().schedule.alphas_cumprod().double()
    stride = 1000 // len(scheduler.timesteps)
    now, then = kept[t], kept[t - stride] if t >= stride else torch.tensor(1.0)
    beta = 1 - now / then
    x0 = ((x - (1 - now).sqrt() * epsilon) / now.sqrt()).clamp(-1, 1)
    mean = (then.sqrt() * beta * x0 + (now / then).sqrt() * (1 - then) * x) / (1 - now)
    return (mean + beta.sqrt() * noise * (t > 0)).float()


def test_the_unconditional_pass_is_spared_without_guidance(pipe: Pipeline) -> None:
    heard: list[object] = []
    pipe.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: heard.append(kwargs["encodings_and_masks"]), with_kwargs=True
    )
    mel(pipe)
    assert len(heard) == 1 and heard[0] is not None
    mel(pipe, guidance_scale=2.0)
    assert len(heard) == 3 and heard[2] is None


def test_a_model_without_context(tmp_path: Path) -> None:
    config = ModelConfig(32, 2, 8, 48, 1, 0, 1, 128)
    torch.manual_seed(0)
    save_model(tmp_path / "first", SpectrogramModel(config), dtype="float32")
    pipe = quiet(Pipeline.from_pretrained(tmp_path / "first"))
    assert pipe.continuous_encoder is None and pipe.melgan is None
    expected = mel(pipe, WINDOWS[:2])
    pipe.save_pretrained(tmp_path / "second")
    again = quiet(Pipeline.from_pretrained(tmp_path / "second"))
    assert torch.equal(mel(again, WINDOWS[:2]), expected)


# --- what comes out ---------------------------------------------------------------------------


def test_output_is_read_in_every_way_of_diffusers(pipe: Pipeline) -> None:
    out = pipe(SHORT, seeded(), 1, output_type="mel")
    assert isinstance(out, sr.AudioPipelineOutput)
    assert out.audios is out["audios"] is out[0] is out[:1][0] is out.to_tuple()[0]
    assert list(out) == ["audios"]
    assert np.array_equal(pickle.loads(pickle.dumps(out)).audios, out.audios)


def test_a_plain_tuple(pipe: Pipeline) -> None:
    out = pipe(SHORT, seeded(), 1, output_type="mel", return_dict=False)
    assert type(out) is tuple and len(out) == 1
    assert np.array_equal(out[0], mel(pipe))


def test_np_and_numpy_are_sound(pipe: Pipeline) -> None:
    pipe.melgan = lambda input_features: [input_features[:, :, 0] * 2]
    expected = mel(pipe)[None, :, :, 0] * 2
    for output_type in ("np", "numpy"):
        audios = pipe(SHORT, seeded(), 1, output_type=output_type).audios
        assert audios.shape == (1, 1, 256)  # a sound, of one channel
        assert np.array_equal(audios, expected)
    assert np.array_equal(pipe(SHORT, seeded(), 1).audios, expected)


def test_melgan_is_called_as_in_diffusers(sounding: Pipeline) -> None:
    log_mel = from_model(arrays("runs")["context"])[None].numpy()
    samples = sounding.melgan(input_features=log_mel)
    assert isinstance(samples, list) and len(samples) == 1
    assert samples[0].shape == (1, 81_920)
    own = load_checkpoint(PIPELINE, vocoder="onnx").vocoder(torch.from_numpy(log_mel))
    assert np.array_equal(samples[0], own.numpy())


def test_a_vocoder_that_reads_notes_is_given_those_of_the_ids(
    pipe: Pipeline, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = VocoderConfig(channels=4, dilations=(1,), iterations=0, lines=4)
    vocoder = MelGAN(config).eval().requires_grad_(False)
    pipe.melgan = MelVocoder(vocoder, tmp_path)
    log_mel = mel(pipe, WINDOWS[:2])
    score = sr.detokenize(
        [TokenWindow(number, tuple(ids)) for number, ids in enumerate(WINDOWS[:2])], Vocabulary()
    )
    expected = vocoder(log_mel, [map_notes(score.notes)])
    audios = pipe(WINDOWS[:2], seeded(), 1).audios
    assert np.array_equal(audios[0], expected.numpy())
    assert not np.array_equal(audios[0], vocoder(log_mel).numpy())
    odd = [[*WINDOWS[0][:20], 1500]]  # no mark between tied and new notes, and an unknown id
    assert np.isfinite(pipe(odd, seeded(), 1).audios).all()


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4, 5]), (4, [0, 4])])
def test_callback(pipe: Pipeline, every: int, steps: list[int]) -> None:
    heard: list[tuple[int, int, Tensor]] = []
    log_mel = mel(
        pipe,
        WINDOWS[:2],
        num_inference_steps=3,
        callback=lambda step, timestep, sample: heard.append((step, timestep, sample)),
        callback_steps=every,
    )
    assert [step for step, _, _ in heard] == steps
    assert [timestep for _, timestep, _ in heard] == [[666, 333, 0][step % 3] for step in steps]
    assert all(sample.shape == (1, 256, 128) for _, _, sample in heard)
    if every == 1:
        assert torch.equal(from_model(heard[-1][2]), log_mel[:, 256:])


def test_a_bar_for_each_window(pipe: Pipeline, capfd: pytest.CaptureFixture[str]) -> None:
    mel(pipe)
    assert capfd.readouterr().err == ""
    pipe.set_progress_bar_config(desc="window", ascii=True)
    mel(pipe, WINDOWS[:2])
    bars = capfd.readouterr().err.rstrip("\n").split("\n")
    assert len(bars) == 2 and all("window: 100%" in bar for bar in bars)
    assert pipe.progress_bar(total=7).total == 7
    with pytest.raises(ValueError, match="an iterable or a total"):
        pipe.progress_bar()


# --- schedulers -------------------------------------------------------------------------------


def diffusers_scheduler(pipe: Pipeline, name: str) -> Any:
    diffusers = pytest.importorskip("diffusers")
    return getattr(diffusers, name).from_config(pipe.scheduler.config)


@pytest.mark.parametrize(("steps", "times"), [(5, [800, 600, 400, 200, 0]), (1000, range(1000))])
def test_timesteps(pipe: Pipeline, steps: int, times: Sequence[int]) -> None:
    pipe.scheduler.set_timesteps(steps)
    assert pipe.scheduler.timesteps.dtype == torch.int64
    assert pipe.scheduler.timesteps.tolist() == sorted(times, reverse=True)


def test_ours_is_the_ddpm_of_diffusers(pipe: Pipeline) -> None:
    expected = mel(pipe, WINDOWS[:2], num_inference_steps=3)
    pipe.scheduler = diffusers_scheduler(pipe, "DDPMScheduler")
    assert difference(mel(pipe, WINDOWS[:2], num_inference_steps=3), expected) < MEL_ROUNDING


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers of NumPy's copy
@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_any_scheduler_of_diffusers(pipe: Pipeline, name: str) -> None:
    scheduler = diffusers_scheduler(pipe, name)
    scheduler.set_timesteps(4)
    model, x = checkpoint().model, golden_noise(0)() * scheduler.init_noise_sigma
    with torch.no_grad():
        memory = model.encode(tokens(0), None)
        for t in scheduler.timesteps:
            epsilon = model.denoise(scheduler.scale_model_input(x, t), t[None] / 1000, memory)
            x = scheduler.step(epsilon, t, x).prev_sample
    pipe.scheduler = diffusers_scheduler(pipe, name)
    log_mel = mel(pipe, num_inference_steps=4)
    assert difference(log_mel, from_model(x)) < MEL_ROUNDING


class Halving:
    """The least that a scheduler can be."""

    config = SimpleNamespace(num_train_timesteps=10)

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = torch.arange(num_inference_steps).flip(0)

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=sample.double() / 2)


def test_a_scheduler_needs_no_more_than_set_timesteps_and_step(pipe: Pipeline) -> None:
    pipe.scheduler = Halving()
    expected = from_model(golden_noise(0)() / 8)  # although it counts in another number format
    assert difference(mel(pipe, num_inference_steps=3), expected) < 1e-5


# --- parts are shared, moved, saved -----------------------------------------------------------


def test_components_are_shared(pipe: Pipeline) -> None:
    other = quiet(Pipeline(**pipe.components))
    assert list(pipe.components) == list(inspect.signature(Pipeline).parameters)
    assert all(other.components[name] is part for name, part in pipe.components.items())
    assert torch.equal(mel(other), mel(pipe))
    other.scheduler = Halving()
    assert isinstance(pipe.scheduler, SpectrogramScheduler)


def test_to(pipe: Pipeline) -> None:
    exact = mel(pipe, num_inference_steps=3)
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)
    assert pipe.to("cpu", torch.bfloat16) is pipe
    assert pipe.dtype == torch.bfloat16 == pipe.notes_encoder.dtype
    rough = mel(pipe, num_inference_steps=3)
    assert rough.dtype == torch.float32
    fine, coarse = (torch.randn(64, generator=seeded(), dtype=d) for d in (exact.dtype, pipe.dtype))
    if torch.equal(fine.to(pipe.dtype), coarse):  # torch 2.7 draws other noise in bfloat16
        assert 0 < (rough - exact).abs().mean() < 0.1
    assert pipe.to("meta").device == torch.device("meta")


def test_half_precision_from_the_start() -> None:
    pipe = Pipeline.from_pretrained(PIPELINE, torch_dtype=torch.float16, melgan=None)
    assert pipe.dtype == torch.float16
    assert mel(quiet(pipe)).isfinite().all()


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# What diffusers fills in by itself, and none of it matters here.
FILLED_IN = {
    "_diffusers_version": "0.24.0",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}


def test_what_is_saved_has_the_layout_of_diffusers(sounding: Pipeline, tmp_path: Path) -> None:
    sounding.save_pretrained(tmp_path)
    assert files(tmp_path) == files(PIPELINE) | {"SHA256SUMS"}
    for golden in PIPELINE.rglob("*.json"):
        saved = json.loads((tmp_path / golden.relative_to(PIPELINE)).read_text())
        assert json.loads(golden.read_text()).items() <= (FILLED_IN | saved).items()
    for golden in PIPELINE.rglob(TENSORS):
        ours, theirs = load_file(tmp_path / golden.relative_to(PIPELINE)), load_file(golden)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_what_is_saved_comes_back(sounding: Pipeline, tmp_path: Path) -> None:
    sounding.save_pretrained(tmp_path)
    again = quiet(Pipeline.from_pretrained(tmp_path))
    again.save_pretrained(tmp_path)  # over the files that it has in use
    again = quiet(Pipeline.from_pretrained(tmp_path))
    assert torch.equal(mel(again), mel(sounding))
    assert np.array_equal(again(SHORT, seeded(), 1).audios, sounding(SHORT, seeded(), 1).audios)
    assert load_checkpoint(tmp_path).config == checkpoint().config

    again.melgan = None
    again.to(torch.float16).save_pretrained(tmp_path)
    assert not (tmp_path / "melgan").exists()
    assert load_file(tmp_path / "decoder" / TENSORS)["spec_out.weight"].dtype == torch.float16
    assert Pipeline.from_pretrained(tmp_path).melgan is None


def test_our_own_vocoder_is_saved(tmp_path: Path) -> None:
    vocoder = MelGAN(VocoderConfig(channels=16, dilations=(1,), iterations=0))
    save_model(tmp_path / "first", checkpoint().model, vocoder, dtype="float32")
    Pipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (
        quiet(Pipeline.from_pretrained(tmp_path / name)) for name in ("first", "second")
    )
    audios = first(SHORT, seeded(), 1).audios
    assert audios.shape == (1, 1, 81_920)
    assert np.array_equal(audios, second(SHORT, seeded(), 1).audios)


def test_what_cannot_be_saved_leaves_nothing(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    pipe.scheduler = Halving()
    with pytest.raises(OptionError, match="a Halving cannot be saved"):
        pipe.save_pretrained(tmp_path)
    pipe.scheduler = SpectrogramScheduler(checkpoint().config, checkpoint().schedule)
    pipe.melgan = lambda input_features: [input_features]
    with pytest.raises(OptionError, match="a melgan of type function cannot be saved"):
        pipe.save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_a_place_that_cannot_be_written(pipe: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        pipe.save_pretrained(tmp_path / "file" / "model")


def test_another_melgan_spares_the_stored_one(tmp_path: Path) -> None:
    shutil.copytree(PIPELINE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "melgan" / "model.onnx").write_bytes(b"damaged")
    assert mel(quiet(Pipeline.from_pretrained(tmp_path, melgan=None))).isfinite().all()
    with pytest.raises(WeightsError):
        Pipeline.from_pretrained(tmp_path)


# --- what is refused --------------------------------------------------------------------------


def test_sound_without_a_vocoder(pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match="no melgan"):
        pipe(SHORT, num_inference_steps=1)


@pytest.mark.parametrize(
    "options", [{"output_type": "pil"}, {"callback_steps": 0}, {"callback_steps": None}]
)
def test_impossible_options(pipe: Pipeline, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        pipe(SHORT, **{"output_type": "mel", **options})


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_steps(pipe: Pipeline, steps: int) -> None:
    with pytest.raises(OptionError):
        mel(pipe, num_inference_steps=steps)


@pytest.mark.parametrize(
    ("windows", "reason"),
    [
        ([], "no windows"),
        (WINDOWS[0], "not a list of ids"),
        ([SHORT], "not a list of ids"),
        ([["shift", "pitch"]], "not a list of ids"),
        ([[5, 1536, 1]], "not among the model's 1536"),
        ([[5, -1, 1]], "not among the model's 1536"),
    ],
)
def test_what_is_no_list_of_windows(pipe: Pipeline, windows: Any, reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        mel(pipe, windows)


@pytest.mark.parametrize(
    "other",
    [
        toy_config(velocity_bins=1, programs="slakh34"),  # notes on frames
        ModelConfig(32, 2, 8, 48, 1, 1, 1, 128, velocity_bins=4),
        ModelConfig(32, 2, 8, 48, 1, 1, 1, 128, decoder="autoregressive"),
    ],
)
def test_a_model_of_another_form(tmp_path: Path, other: ModelConfig) -> None:
    save_model(tmp_path / "other", make_model(other))
    with pytest.raises(WeightsError, match=r"other is not a model .* spectro_render\.Renderer"):
        Pipeline.from_pretrained(tmp_path / "other")


def test_unknown_models_and_options(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match="nothing@main"):
        Pipeline.from_pretrained(tmp_path / "nothing", revision="main")
    with pytest.raises(TypeError, match="safety_checker"):
        Pipeline.from_pretrained(PIPELINE, melgan=None, safety_checker=None)


def test_a_directory_has_no_revisions() -> None:
    assert Pipeline.from_pretrained(PIPELINE, revision="main", melgan=None).melgan is None


# --- the authors' sampler, as people ask for it -----------------------------------------------


@pytest.fixture
def stored_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of the authors' run, instead of that of a seed and a window."""
    monkeypatch.setattr(
        "spectro_render.render.renderer.noise_source", lambda *place: golden_noise(3)
    )


@pytest.mark.usefixtures("stored_noise")
def test_options_of_the_authors_sampler() -> None:
    """Only the first window: it is the one where no rounding decides (see FIRST_X0)."""
    renderer = sr.Renderer(checkpoint(), torch.device("cpu"), torch.float32)
    window = sr.TokenWindow(0, tuple(WINDOWS[0]))
    options = sr.RenderOptions(sampler="ddpm", steps=8, guidance=2.0)
    (log_mel,) = renderer.mels([window], options)
    assert difference(to_model(log_mel)[::2], arrays("runs")["ddpm"][0]) < 5e-5


@pytest.mark.usefixtures("stored_noise")
def test_command_line_of_the_authors_sampler(song: Callable[..., Path], tmp_path: Path) -> None:
    path, sound = song(seconds=3), tmp_path / "sound.wav"
    authors = ["--sampler", "ddpm", "--steps", "8", "--guidance", "2"]
    model = ["--model", str(PIPELINE), "--vocoder", "griffin-lim"]
    output = ["-o", str(sound), "--bit-depth", "float", "--duration", "0.5", "-q"]
    assert cli.run([str(path), *authors, *model, *output]) == 0
    renderer = sr.Renderer(checkpoint(), torch.device("cpu"), torch.float32)
    options = sr.RenderOptions(sampler="ddpm", steps=8, guidance=2.0, duration=0.5)
    expected = renderer.render(path, options).samples[0]
    assert np.array_equal(soundfile.read(sound, dtype="float32")[0], expected)


# --- code that was written for diffusers ------------------------------------------------------

SCRIPT = """
from diffusers import MidiProcessor, SpectrogramDiffusionPipeline

pipe = SpectrogramDiffusionPipeline.from_pretrained("google/music-spectrogram-diffusion")
pipe = pipe.to("cpu")
processor = MidiProcessor()
output = pipe(processor("song.mid"), num_inference_steps=2)
audio = output.audios[0]
"""


def test_only_the_import_changes(
    song: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    song(seconds=2)
    monkeypatch.chdir(tmp_path)
    script = SCRIPT.replace("diffusers import", "spectro_render import")
    script = script.replace("google/music-spectrogram-diffusion", str(PIPELINE))
    names: dict[str, Any] = {}
    exec(script, names)
    assert names["audio"].shape == (1, 81_920) and names["audio"].dtype == np.float32
