"""Model directories: what is saved comes back, and what is wrong is said in one line."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectro_render.checkpoints import find as registry
from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.files import TENSORS
from spectro_render.checkpoints.find import available_models, find_model
from spectro_render.checkpoints.load import Defaults, load_vocoder, read_vocabulary, save_model
from spectro_render.checkpoints.manifest import (
    CHECKSUMS,
    INDEX,
    ONNX,
    sha256,
    verify,
    write_checksums,
)
from spectro_render.checkpoints.names import stored_name
from spectro_render.errors import (
    OptionError,
    WeightsCorrupt,
    WeightsError,
    WeightsNotFound,
)
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import SpectrogramModel
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.vocoder.griffin_lim import GriffinLim
from spectro_render.vocoder.melgan import MelGAN, VocoderConfig
from tests.support.golden import PIPELINE, checkpoint
from tests.support.processes import run_program
from tests.support.toys import toy_config

CONFIG = toy_config(head_width=8, mlp_width=48, decoder_layers=2)
VOCODER = VocoderConfig(channels=16, dilations=(1, 3), upsample=(), iterations=0)
DEFAULTS = Defaults("dpm++", 12, 1.5, 6.0, fast=("dpm++", 2), best=("ddim", 50))


def make_model(config: ModelConfig = CONFIG) -> SpectrogramModel:
    torch.manual_seed(0)
    return SpectrogramModel(config)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A copy of the published layout, to be damaged."""
    return Path(shutil.copytree(PIPELINE, tmp_path / "published"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own"
    save_model(path, make_model(), MelGAN(VOCODER), defaults=DEFAULTS)
    return path


@pytest.fixture
def mel() -> Tensor:
    """A log-mel (1, 12, 128)."""
    return torch.randn(1, 12, 128, generator=torch.Generator().manual_seed(0))


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(path: Path, kind: type[WeightsError] = WeightsError) -> str:
    """The one line that loading ends in."""
    with pytest.raises(kind) as caught:
        load_checkpoint(path, vocoder="griffin-lim")
    line = str(caught.value)
    assert "\n" not in line
    return line


# --- a directory that diffusers wrote ---------------------------------------------------------


def test_published_layout() -> None:
    loaded = checkpoint()
    assert loaded.name == "tiny_pipeline"
    assert loaded.config == ModelConfig(
        width=64,
        heads=4,
        head_width=16,
        mlp_width=128,
        note_layers=2,
        context_layers=2,
        decoder_layers=2,
        level_width=256,
    )
    assert loaded.vocabulary.is_published
    assert loaded.defaults == Defaults("diffusers", 100, 2.0, None)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_every_stored_tensor_is_used() -> None:
    folders = {"notes": "notes_encoder", "context": "continuous_encoder", "decoder": "decoder"}
    for part, folder in folders.items():
        stored = load_file(PIPELINE / folder / TENSORS)
        ours = getattr(checkpoint().model, part).state_dict()
        assert {stored_name(f"{part}.{name}") for name in ours} == set(stored)
        for name, tensor in ours.items():
            assert torch.equal(tensor, stored[stored_name(f"{part}.{name}")])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_number_format_is_loaded_as_float32(published: Path, dtype: torch.dtype) -> None:
    def convert(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    change_tensors(published / "decoder" / TENSORS, convert)
    model = load_checkpoint(published, vocoder="griffin-lim").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_older_diffusers_write_fewer_settings(published: Path) -> None:
    path = published / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    for key in ("timestep_spacing", "steps_offset", "clip_sample_range"):
        del settings[key]
    path.write_text(json.dumps(settings))
    assert load_checkpoint(published, vocoder="griffin-lim").schedule == checkpoint().schedule


# --- a directory of our own -------------------------------------------------------------------


def test_what_is_saved_comes_back(own: Path) -> None:
    loaded, model = load_checkpoint(own), make_model()
    assert loaded.config == CONFIG
    assert loaded.defaults == DEFAULTS
    assert (loaded.vocabulary.velocity_bins, loaded.vocabulary.programs) == (32, "full")
    assert loaded.vocoder_kind == "melgan"
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float())


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        ModelConfig(32, 2, 8, 48, 1, 0, 1, 64, target="v"),
        ModelConfig(32, 2, 8, 48, 1, 1, 1, 128, target="epsilon", velocity_bins=4),
    ],
)
def test_every_setting_comes_back(tmp_path: Path, config: ModelConfig) -> None:
    save_model(tmp_path, make_model(config))
    assert load_checkpoint(tmp_path).config == config


def test_the_vocoder_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    vocoder, log_mel = MelGAN(VOCODER).eval(), torch.randn(2, 40, 128)
    save_model(tmp_path, make_model(), vocoder, dtype="float32")
    with torch.no_grad():
        expected = vocoder(log_mel)
        samples = load_checkpoint(tmp_path).vocoder(log_mel)
    assert samples.shape == (2, 40 * 320)
    assert torch.allclose(samples, expected, atol=1e-5)


def test_no_vocoder_means_griffin_lim(tmp_path: Path) -> None:
    save_model(tmp_path, make_model())
    loaded = load_checkpoint(tmp_path)
    assert loaded.vocoder_kind == "griffin-lim"
    assert isinstance(loaded.vocoder, GriffinLim)


def test_saving_again_leaves_nothing_behind(own: Path) -> None:
    (own / "README.md").write_text("a model card")
    save_model(own, make_model(ModelConfig(32, 2, 8, 48, 1, 0, 1, 64)))
    assert not (own / "melgan").exists()
    assert not (own / "continuous_encoder").exists()
    assert "README.md" in (own / CHECKSUMS).read_text()
    assert load_checkpoint(own).config.context_layers == 0


def test_diffusers_class_names_only_where_diffusers_could_load_it(
    own: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "paper", make_model(ModelConfig(32, 2, 8, 48, 1, 1, 1, 128)))
    names = [
        json.loads((path / "decoder" / "config.json").read_text())["_class_name"]
        for path in (own, tmp_path / "paper")
    ]
    assert names == ["Decoder", "T5FilmDecoder"]


def test_weights_beyond_the_format_are_not_saved(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.decoder.output.weight[0, 0] = 1e5
    with pytest.raises(WeightsError, match=r"spec_out\.weight is not finite in float16"):
        save_model(tmp_path, model)


def test_the_vocabulary_alone(own: Path) -> None:
    assert read_vocabulary(own) == Vocabulary(32, "full")
    assert read_vocabulary(PIPELINE).is_published
    for value in ("32", 0, None):
        change_json(own / "notes_encoder" / "config.json", velocity_bins=value)
        with pytest.raises(WeightsError, match=r"notes_encoder/config\.json: "):
            read_vocabulary(own)


# --- checksums --------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_checksums_are_in_the_format_of_sha256sum(own: Path) -> None:
    checked = run_program(["sha256sum", "-c", CHECKSUMS], cwd=own, capture_output=True)
    assert checked.returncode == 0
    listed = {line.split("  ")[1] for line in (own / CHECKSUMS).read_text().splitlines()}
    files = {path.relative_to(own).as_posix() for path in own.rglob("*") if path.is_file()}
    assert listed == files - {CHECKSUMS}


def test_a_changed_file_is_named(own: Path) -> None:
    path = own / "decoder" / TENSORS
    listed = {line[66:]: line[:64] for line in (own / CHECKSUMS).read_text().splitlines()}
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    line = refusal(own, WeightsCorrupt)
    assert str(path) in line and listed[f"decoder/{TENSORS}"] in line
    write_checksums(own)
    assert verify(own)


def test_a_blank_line_lists_nothing(own: Path) -> None:
    with (own / CHECKSUMS).open("a") as file:
        file.write("\n")
    assert verify(own)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other", "decoder/../../other"])
def test_only_files_of_the_model_are_listed(own: Path, name: str) -> None:
    (own.parent / "other").write_text("secret")
    with (own / CHECKSUMS).open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    line = refusal(own, WeightsCorrupt)
    assert f"lists {name}, which is not a file below it" in line
    assert sha256(own.parent / "other") not in line


@pytest.mark.parametrize("name", [CHECKSUMS, INDEX, "decoder/config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "larger than memory"])
def test_special_and_endless_files_are_refused(own: Path, name: str, kind: str) -> None:
    path = own / name
    path.unlink()
    (own / CHECKSUMS).unlink(missing_ok=True)  # of files of any size
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    assert str(path) in refusal(own)


def test_diffusers_way_to_say_that_there_is_no_context(own: Path) -> None:
    shutil.rmtree(own / "continuous_encoder")
    change_json(own / INDEX, continuous_encoder=[None, None])
    write_checksums(own)
    assert verify(own)
    assert load_checkpoint(own).config.context_layers == 0


def test_a_listed_file_is_gone(own: Path) -> None:
    (own / INDEX).unlink()
    assert f"{own / INDEX} is missing" in refusal(own)


@pytest.mark.parametrize(
    "name", [INDEX, "scheduler/scheduler_config.json", f"decoder/{TENSORS}", f"melgan/{TENSORS}"]
)
def test_a_file_that_the_list_leaves_out(own: Path, name: str) -> None:
    lines = (own / CHECKSUMS).read_text().splitlines(keepends=True)
    (own / CHECKSUMS).write_text("".join(line for line in lines if name not in line))
    line = refusal(own, WeightsCorrupt)
    assert line == f"{own / CHECKSUMS} does not list {name}; get the model again"


def test_no_list_vouches_for_nothing(published: Path) -> None:
    assert verify(published) is False


@pytest.mark.parametrize("content", [b"", b"\xff\xfe nonsense\n"])
def test_a_mangled_list(own: Path, content: bytes) -> None:
    (own / CHECKSUMS).write_bytes(content)
    refusal(own)


# --- damage -----------------------------------------------------------------------------------


def test_nan_is_named(published: Path) -> None:
    name = "decoders.1.layer.2.layer_norm.weight"
    path = published / "decoder" / TENSORS
    change_tensors(path, lambda tensors: tensors[name].fill_(float("nan")))
    assert f"{path}: {name} holds NaN or infinity" in refusal(published, WeightsCorrupt)


def test_wrong_shape(published: Path) -> None:
    path = published / "decoder" / TENSORS
    change_tensors(path, lambda t: t.update({"spec_out.weight": torch.zeros(128, 32)}))
    expected = "spec_out.weight has the shape [128, 32], not [128, 64] as configured"
    assert expected in refusal(published, WeightsCorrupt)


def test_missing_tensor(published: Path) -> None:
    path = published / "continuous_encoder" / TENSORS
    change_tensors(path, lambda tensors: tensors.pop("input_proj.weight"))
    assert f"{path} lacks input_proj.weight" in refusal(published, WeightsCorrupt)


def test_unknown_tensor(published: Path) -> None:
    path = published / "notes_encoder" / TENSORS
    change_tensors(path, lambda tensors: tensors.update({"lora.weight": torch.zeros(1)}))
    assert f"{path} holds unknown lora.weight" in refusal(published, WeightsCorrupt)


def test_integers(published: Path) -> None:
    path = published / "decoder" / TENSORS
    change_tensors(path, lambda t: t.update({"spec_out.weight": torch.zeros(128, 64).int()}))
    assert "floating-point" in refusal(published, WeightsCorrupt)


@pytest.mark.parametrize("size", [0, 4, 1000, 100_000])
def test_cut_off_tensors(published: Path, size: int) -> None:
    path = published / "decoder" / TENSORS
    os.truncate(path, size)
    assert str(path) in refusal(published, WeightsCorrupt)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", 200_000 * "["])
@pytest.mark.parametrize("name", [INDEX, "decoder/config.json", "scheduler/scheduler_config.json"])
def test_not_json(published: Path, name: str, text: str) -> None:
    (published / name).write_text(text)
    assert str(published / name) in refusal(published, WeightsCorrupt)


@pytest.mark.parametrize(
    "name", [INDEX, "decoder/config.json", "scheduler/scheduler_config.json", f"decoder/{TENSORS}"]
)
def test_missing_file(published: Path, name: str) -> None:
    (published / name).unlink()
    assert refusal(published) == f"{published / name} is missing; get the model again"


def test_what_is_only_called_a_pickle(published: Path) -> None:
    path = published / "decoder" / TENSORS
    path.rename(path.with_suffix(".bin"))
    assert ".bin is damaged or holds code" in refusal(published, WeightsCorrupt)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("decoder", "d_model", 128),
        ("decoder", "d_model", "64"),
        ("decoder", "num_layers", True),
        ("decoder", "num_heads", -1),
        ("decoder", "num_layers", 10**9),
        ("decoder", "targets_length", 512),
        ("decoder", "max_decoder_noise_time", 2000.0),
        ("decoder", "conditioning", "telepathy"),
        ("continuous_encoder", "tail_frames", 4),  # its notes are not laid out over frames
        ("notes_encoder", "memory_steps", 100),  # likewise
        ("notes_encoder", "velocity_bins", 0),
        ("notes_encoder", "feed_forward_proj", "relu"),
    ],
)
def test_impossible_settings(published: Path, name: str, key: str, value: object) -> None:
    change_json(published / name / "config.json", **{key: value})
    assert f"{name}/config.json" in refusal(published)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", "DDIMScheduler"),
        ("beta_schedule", "linear"),
        ("prediction_type", "flow"),
        ("num_train_timesteps", 0),
        ("steps_offset", "1"),
    ],
)
def test_impossible_schedules(published: Path, key: str, value: object) -> None:
    change_json(published / "scheduler" / "scheduler_config.json", **{key: value})
    assert "scheduler_config.json" in refusal(published)


@pytest.mark.parametrize(
    "defaults",
    [
        [],
        {"sampler": "euler"},
        {"steps": "20"},
        {"speed": 1},
        {"fast": ["euler", 2]},
        {"best": ["ddim", 0]},
        {"fast": ["ddim"]},
        {"best": 20},
    ],
)
def test_impossible_defaults(published: Path, defaults: object) -> None:
    change_json(published / INDEX, defaults=defaults)
    assert f"{published / INDEX}: " in refusal(published)


def test_damaged_vocoder(own: Path) -> None:
    (own / CHECKSUMS).unlink()
    change_json(own / "melgan" / "config.json", channels=32)
    with pytest.raises(WeightsCorrupt, match=r"config\.json describes \d+ weights, but .* holds"):
        load_checkpoint(own)
    change_json(own / "melgan" / "config.json", channels=8)
    with pytest.raises(WeightsCorrupt, match="shape"):
        load_checkpoint(own)
    change_json(own / "melgan" / "config.json", loudness=11)
    with pytest.raises(WeightsError, match="loudness' is not a known setting"):
        load_checkpoint(own)


# --- ONNX -------------------------------------------------------------------------------------


def test_onnx_vocoder() -> None:
    pytest.importorskip("onnxruntime")
    loaded = load_checkpoint(PIPELINE)
    assert loaded.vocoder_kind == "onnx"
    log_mel = torch.randn(2, 10, 128, generator=torch.Generator().manual_seed(0))
    samples = loaded.vocoder(log_mel)
    assert samples.shape == (2, 3200)
    assert torch.equal(samples[1:], loaded.vocoder(log_mel[1:]))


def test_onnx_needs_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(WeightsError, match=r"pip install 'onnxruntime>="):
        load_vocoder(PIPELINE, "onnx")


def test_damaged_onnx(published: Path) -> None:
    pytest.importorskip("onnxruntime")
    (published / ONNX).write_bytes(b"nothing")
    with pytest.raises(WeightsCorrupt, match=r"model\.onnx") as caught:
        load_checkpoint(published)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "error", "hint"),
    [
        ("melgan", WeightsError, "choose onnx or griffin-lim"),
        ("organ", WeightsNotFound, "use one of melgan, onnx, griffin-lim, a model or an ONNX file"),
        ("gone.onnx", WeightsNotFound, "check the path"),
        (Path(__file__).parent, WeightsError, "choose another model, or griffin-lim"),
    ],
)
def test_a_vocoder_that_is_not_there(
    kind: str | Path, error: type[WeightsError], hint: str
) -> None:
    with pytest.raises(error) as caught:
        load_checkpoint(PIPELINE, vocoder=kind)
    assert caught.value.hint == hint


def test_an_unknown_kind_of_vocoder() -> None:
    with pytest.raises(OptionError, match="unknown vocoder 'organ'; use one of melgan, onnx"):
        load_vocoder(PIPELINE, "organ")


# --- the vocoder of another model -------------------------------------------------------------


def test_their_vocoder_for_our_model(own: Path, mel: Tensor) -> None:
    pytest.importorskip("onnxruntime")
    samples = load_checkpoint(PIPELINE).vocoder(mel)
    for vocoder in (PIPELINE, str(PIPELINE), PIPELINE / ONNX):
        loaded = load_checkpoint(own, vocoder=vocoder)
        assert (loaded.name, loaded.vocoder_kind, loaded.config) == ("own", "onnx", CONFIG)
        assert torch.equal(loaded.vocoder(mel), samples)
    assert load_checkpoint(own, vocoder="melgan").vocoder_kind == "melgan"


def test_our_vocoder_for_their_model(own: Path, mel: Tensor) -> None:
    loaded = load_checkpoint(PIPELINE, vocoder=own)
    assert (loaded.name, loaded.vocoder_kind) == ("tiny_pipeline", "melgan")
    assert loaded.config == checkpoint().config
    assert torch.equal(loaded.vocoder(mel), load_checkpoint(own).vocoder(mel))


def test_of_another_model_only_the_vocoder_is_checked(own: Path) -> None:
    (own / "decoder" / TENSORS).write_bytes(b"damaged")
    assert load_checkpoint(PIPELINE, vocoder=own).vocoder_kind == "melgan"
    path = own / "melgan" / TENSORS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsCorrupt) as caught:
        load_checkpoint(PIPELINE, vocoder=own)
    assert f"{path} has the SHA-256 " in str(caught.value)


def test_every_error_says_what_to_do(published: Path) -> None:
    damage = {"d_model": 128}, {"num_layers": True}, {"feed_forward_proj": "relu"}
    for changes in damage:
        change_json(published / "notes_encoder" / "config.json", **changes)
        with pytest.raises(WeightsError) as caught:
            load_checkpoint(published, vocoder="griffin-lim")
        assert caught.value.hint


# --- names ------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two places where models may lie: of a checkout, and of an installed package."""
    places = tmp_path / "checkout", tmp_path / "package"
    monkeypatch.setattr(registry, "MODEL_FOLDERS", places)
    return places


def test_names(folders: tuple[Path, Path]) -> None:
    checkout, package = folders
    assert available_models() == {}
    for path in (package / "default", package / "large", checkout / "default"):
        path.mkdir(parents=True)
        (path / INDEX).write_text("{}")
    assert available_models() == {"default": checkout / "default", "large": package / "large"}
    assert find_model("large") == package / "large"


def test_a_path_is_a_name_too(folders: tuple[Path, Path]) -> None:
    assert find_model(PIPELINE) == PIPELINE
    assert find_model(str(PIPELINE)) == PIPELINE


def test_unknown_names(folders: tuple[Path, Path]) -> None:
    with pytest.raises(WeightsNotFound) as caught:
        find_model("huge")
    assert str(caught.value).startswith("no model 'huge', and no such directory; known names: ")


def test_the_error_of_a_folder_that_is_no_model(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path / INDEX} is missing; get the model again"
