"""Mels frame by frame: causal, the same with a cache as without, true to its output functions."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.load import save_model
from spectro_render.cli.app import run
from spectro_render.constants import N_MELS, WINDOW_FRAMES
from spectro_render.diffusion import noise_source
from spectro_render.errors import OptionError, WeightsError
from spectro_render.midi.score import Note, Score
from spectro_render.network.autoregressive import (
    AutoregressiveModel,
    Deterministic,
    GaussianMixture,
    OutputFunction,
)
from spectro_render.network.config import ModelConfig
from spectro_render.network.frames import note_table
from spectro_render.network.layers import KeyValueCache, attend
from spectro_render.network.model import Memory
from spectro_render.network.presets import autoregressive
from spectro_render.options import Progress
from spectro_render.render.renderer import Renderer
from spectro_render.tokens.vocabulary import WindowNote
from spectro_render.vocoder.melgan import MelGAN, VocoderConfig
from tests.support.golden import difference
from tests.support.toys import toy_config, window_alone

CPU = torch.device("cpu")
FRAMED = autoregressive(toy_config(decoder_layers=2))
TOKENS = replace(
    FRAMED,
    conditioning="cross_attention",
    note_width=0,
    tail_frames=0,
    velocity_bins=1,
    programs="slakh34",
)
MIXED = replace(FRAMED, output_function="gaussian_mixture", components=3, min_sigma=0.05)
KINDS = {
    "frame_aligned": FRAMED,
    "cross_attention": TOKENS,
    "no_context": replace(FRAMED, context_layers=0, tail_frames=0),
    "gaussian_mixture": MIXED,
    "dither": replace(TOKENS, dither=0.1),
}
NOTES = [
    [WindowNote(60, 0, 20, False, False, 100, 200), WindowNote(38, 0, 30, True, False, 50, 51)],
    [WindowNote(64, 5, 20, False, True, 0, 150)],
]


def make(config: ModelConfig) -> AutoregressiveModel:
    torch.manual_seed(0)
    return AutoregressiveModel(config).eval().requires_grad_(False)


def mels() -> Tensor:
    """A batch of two made-up mels in [-1, 1]."""
    noise = torch.randn(2, WINDOW_FRAMES, N_MELS, generator=torch.Generator().manual_seed(1))
    return (noise / 2).clamp(-1, 1)


def remember(model: AutoregressiveModel) -> Memory:
    """The memory of two windows, only the second of which hears a context."""
    notes = note_table(NOTES)
    if model.config.conditioning == "cross_attention":
        notes = torch.tensor([[1132, 5, 9, 1, 0, 0], [1132, 7, 30, 9, 80, 1]])
    return model.encode(notes, mels(), torch.tensor([False, True]))


# --- the network ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_cache_as_without(kind: str) -> None:
    """Frame by frame, and in uneven pieces, the outputs are those for the whole mel."""
    model, mel = make(KINDS[kind]), mels()
    memory = remember(model)
    whole = model.decoder(mel, memory)
    for sizes in ([1] * WINDOW_FRAMES, [100, 1, 155]):
        caches = model.decoder.caches()
        pieces = [model.decoder(piece, memory, caches) for piece in mel.split(sizes, 1)]
        assert difference(torch.cat(pieces, 1), whole) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_generated_follows_from_itself(kind: str) -> None:
    """Sampling with the cache makes the frames that the full pass makes of the mel before them."""
    model = make(KINDS[kind])
    memory = remember(model)
    drawn = model.generate(memory, noise_source(3, [0, 1], CPU))
    draw = noise_source(3, [0, 1], CPU)
    noise, choice = draw(), draw()[..., 0]
    again = model.output_function.sample(model(drawn, memory), noise, choice)
    assert difference(drawn, again.clamp(-1, 1)) < 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_no_frame_sees_a_later_one(training: bool) -> None:
    model, mel = make(FRAMED), mels()
    memory = remember(model)
    changed = mel.clone()
    changed[:, 100:] = -mel[:, 100:]
    with torch.set_grad_enabled(training):
        one, other = model(mel, memory), model(changed, memory)
    assert torch.equal(one[:, :101], other[:, :101])  # frame 100 is told by those before it
    assert difference(one[:, 101], other[:, 101]) > 1e-3


def test_training_attends_as_rendering_does() -> None:
    query, key, value = torch.randn(3, 2, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fused = attend(query, key, value, None, causal=True)
    with torch.enable_grad():
        assert difference(attend(query, key, value, None, causal=True), fused) < 2e-6


def test_the_first_frame_follows_zeros() -> None:
    model, mel = make(TOKENS), mels()
    memory = remember(model)
    assert difference(
        model(mel, memory)[:, :1], model.decoder(torch.zeros(2, 1, N_MELS), memory)
    ) < 1e-5  # fmt: skip


@pytest.mark.parametrize("config", [FRAMED, TOKENS])
def test_notes_and_context_are_heard(config: ModelConfig) -> None:
    model, mel = make(config), mels()
    memory = remember(model)
    outputs = model(mel, memory)
    notes = note_table(NOTES[::-1])
    if config.conditioning == "cross_attention":
        notes = torch.tensor([[1132, 9], [1132, 1]])
    other_notes = model(mel, model.encode(notes, mel, torch.tensor([False, True])))
    assert difference(outputs, other_notes) > 1e-3
    deaf = model(mel, replace(memory, mask=torch.zeros(2, memory.keys_values[0][0].shape[2]) > 0))
    assert difference(outputs[1], deaf[1]) > 1e-3


def test_a_cache_holds_what_it_was_given() -> None:
    keys, values = torch.randn(2, 1, 2, 10, 4)
    cache = KeyValueCache()
    for start, end in ((0, 3), (3, 4), (4, 10)):
        held = cache.extend(keys[:, :, start:end], values[:, :, start:end])
        assert torch.equal(held[0], keys[:, :, :end])
        assert torch.equal(held[1], values[:, :, :end])


def test_who_shares_the_batch_changes_nothing() -> None:
    """Noise hangs on (seed, window) alone."""
    model = make(MIXED)
    both = model.generate(model.encode(note_table(NOTES), None), noise_source(5, [0, 7], CPU))
    alone = model.generate(model.encode(note_table(NOTES[1:]), None), noise_source(5, [7], CPU))
    other = model.generate(model.encode(note_table(NOTES[1:]), None), noise_source(6, [7], CPU))
    assert difference(both[1:], alone) < 1e-4
    assert difference(alone, other) > 0.1


# --- output functions -------------------------------------------------------------------------


def outputs_of(function: OutputFunction, frames: int = 4) -> Tensor:
    return torch.randn(2, frames, function.width, generator=torch.Generator().manual_seed(2))


def test_a_mixture_is_torchs_own() -> None:
    """Its likelihood equals that of `torch.distributions` with the authors' scaling of sigma."""
    function = GaussianMixture(3, 0.1, 1.0)
    outputs, frames = outputs_of(function), mels()[:, :4]
    weights = outputs[..., :3]
    means, sigmas = outputs[..., 3:].view(2, 4, 2, 3, N_MELS).unbind(2)
    normals = torch.distributions.Independent(
        torch.distributions.Normal(means, 0.1 + 0.9 * sigmas.sigmoid()), 1
    )
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=weights), normals
    )
    expected = -mixture.log_prob(frames).mean() / N_MELS
    assert function.loss(outputs, frames).item() == pytest.approx(expected.item(), rel=1e-5)


def test_samples_of_a_mixture_have_its_moments() -> None:
    function = GaussianMixture(2, 0.1, 1.0)
    outputs = torch.zeros(1, 1, function.width)
    outputs[..., 0] = math.log(3)  # the first component: three times in four
    outputs[..., 2 : 2 + N_MELS] = 0.5
    outputs[..., 2 + N_MELS : 2 + 2 * N_MELS] = -0.9
    outputs[..., -2 * N_MELS :] = -50.0  # the least deviation
    outputs = outputs.expand(1, 4000, -1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4000, N_MELS, generator=generator)
    frames = function.sample(outputs, noise, torch.randn(1, 4000, generator=generator))[0]
    first = frames.mean(1) > -0.2  # a frame as a whole is of one component
    assert first.float().mean().item() == pytest.approx(0.75, abs=0.03)
    for chosen, mean in ((first, 0.5), (~first, -0.9)):
        assert frames[chosen].mean().item() == pytest.approx(mean, abs=0.01)
        assert frames[chosen].std().item() == pytest.approx(0.1, abs=0.005)


def test_deviations_keep_their_bounds() -> None:
    function = GaussianMixture(1, 0.2, 0.7)
    for raw, expected in ((-50.0, 0.2), (0.0, 0.45), (50.0, 0.7)):
        outputs = torch.zeros(1, 1, function.width)
        outputs[..., -N_MELS:] = raw
        frame = function.sample(outputs, torch.ones(1, 1, N_MELS), torch.zeros(1, 1))
        assert torch.allclose(frame, torch.tensor(expected))


def test_deterministic_frames_are_the_outputs() -> None:
    outputs, frames = outputs_of(Deterministic()), mels()[:, :4]
    noise, choice = torch.ones_like(frames), torch.zeros(2, 4)
    assert torch.equal(Deterministic().sample(outputs, noise, choice), outputs)
    assert torch.equal(Deterministic(0.5).sample(outputs, noise, choice), outputs + 0.5)
    squares = (outputs - frames) ** 2
    assert Deterministic().loss(outputs, frames).item() == pytest.approx(squares.mean().item())


@pytest.mark.parametrize("function", [Deterministic(), GaussianMixture(3, 0.1, 1.0)])
def test_a_draft_moves_the_means(function: OutputFunction) -> None:
    outputs, draft = outputs_of(function), mels()[:, :4]
    noise, choice = torch.randn(2, 4, N_MELS), torch.randn(2, 4)
    plain = function.sample(outputs, noise, choice)
    moved = function.sample(function.centred(outputs, draft), noise, choice)
    assert difference(moved, plain + draft) < 1e-5


@pytest.mark.parametrize(
    ("components", "lowest", "highest"), [(0, 0.1, 1.0), (2, 0.0, 1.0), (2, 0.5, 0.1)]
)
def test_impossible_mixtures(components: int, lowest: float, highest: float) -> None:
    with pytest.raises(ValueError, match="a mixture cannot have"):
        toy_config(
            decoder="autoregressive",
            output_function="gaussian_mixture",
            components=components,
            min_sigma=lowest,
            max_sigma=highest,
        )


def test_an_impossible_dither() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        toy_config(decoder="autoregressive", dither=-1.0)


# --- as a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "frames"
    vocoder = MelGAN(VocoderConfig(channels=16, dilations=(1,), iterations=0))
    save_model(path, make(replace(MIXED, decoder_layers=1)), vocoder, dtype="float32")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_saves_and_loads(kind: str, tmp_path: Path) -> None:
    model = make(KINDS[kind])
    save_model(tmp_path, model, dtype="float32")
    loaded = load_checkpoint(tmp_path)
    assert loaded.config == model.config
    state = loaded.model.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_directory_claims_no_class_of_diffusers_and_no_steps(directory: Path) -> None:
    index = json.loads((directory / "model_index.json").read_text())
    assert index["decoder"] == ["spectro_render", "CausalDecoder"]
    assert index["defaults"] == {"gain": None}


def test_a_directory_with_impossible_settings(directory: Path, tmp_path: Path) -> None:
    save_model(tmp_path, make(MIXED))
    (tmp_path / "SHA256SUMS").unlink()
    config = tmp_path / "decoder" / "config.json"
    for name, value in (("decoder", "magic"), ("components", 0), ("output_function", "logistic")):
        stored = json.loads((directory / "decoder" / "config.json").read_text())
        config.write_text(json.dumps({**stored, name: value}))
        with pytest.raises(WeightsError, match=r"decoder/config\.json"):
            load_checkpoint(tmp_path)


def test_renders_the_same_again(directory: Path, song: object) -> None:
    renderer = Renderer.load(directory, device="cpu")
    path = song(seconds=1.0)  # type: ignore[operator]
    seen: list[Progress] = []
    audio = renderer.render(path, seed=1, on_progress=seen.append)
    assert np.isfinite(audio.samples).all()
    assert seen == [Progress(1, 1, (k + 1) / WINDOW_FRAMES) for k in range(WINDOW_FRAMES)]
    assert np.array_equal(audio.samples, renderer.render(path, seed=1).samples)
    assert not np.allclose(audio.samples, renderer.render(path, seed=2).samples, atol=1e-3)


def test_a_window_hears_the_one_before(directory: Path) -> None:
    """And nothing else of the run: noise hangs on (seed, window)."""
    renderer = Renderer.load(directory, device="cpu")
    score = Score((Note(0.0, 7.0, 60, 90, 0, False),), 7.0)
    windows = renderer.windows(score)
    before, after = renderer.mels(windows)
    assert torch.equal(window_alone(renderer, windows[1], before), after)
    unheard = window_alone(renderer, windows[1], None)
    assert not torch.allclose(unheard, after, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_near(dtype: torch.dtype) -> None:
    model, mel = make(TOKENS), mels()
    exact = model.decoder(mel, remember(model))[:, :4]
    with torch.autocast("cpu", dtype):
        memory, caches = remember(model), model.decoder.caches()
        near = [model.decoder(mel[:, k : k + 1], memory, caches).float() for k in range(4)]
    assert 0 < difference(torch.cat(near, 1), exact) < 0.1


@pytest.mark.parametrize(
    "choice", [{"quality": "fast"}, {"steps": 5}, {"sampler": "ddim"}, {"guidance": 1.0}]
)
def test_options_of_diffusion_are_refused(
    directory: Path, song: object, choice: dict[str, object]
) -> None:
    path = song(seconds=1.0)  # type: ignore[operator]
    (name,) = choice
    with pytest.raises(OptionError, match=f"frames is autoregressive and has no option {name}"):
        Renderer.load(directory, device="cpu").render(path, **choice)


def test_on_the_command_line(
    directory: Path, song: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = song(seconds=1.0)  # type: ignore[operator]
    assert run([str(path), "--model", str(directory), "--steps", "5"]) != 0
    assert "frames is autoregressive and has no option steps" in capsys.readouterr().err
    assert not path.with_suffix(".wav").exists()
    assert run([str(path), "--model", str(directory)]) == 0
    assert path.with_suffix(".wav").exists()
