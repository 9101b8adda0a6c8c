"""How far the samples of ONNX vocoders reach: measured once, kept, and used for streaming."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spectro_render.checkpoints.hub_cache import hub_folder
from spectro_render.checkpoints.kept import MAX_FACTS, VARIABLE, kept_folder, recall, remember
from spectro_render.checkpoints.load import REACH, load_vocoder
from spectro_render.checkpoints.manifest import sha256
from spectro_render.vocoder.onnx import MARGIN, MAX_REACH, OnnxVocoder
from spectro_render.vocoder.streaming import StreamingVocoder
from tests.support.golden import PIPELINE
from tests.support.processes import PIPE, REPOSITORY, run_program

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.support.onnx_writer import local_vocoder, write_graph


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for what is kept."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def load(path: Path) -> OnnxVocoder:
    vocoder = load_vocoder(path, "onnx")
    assert isinstance(vocoder, OnnxVocoder)
    return vocoder


def random_mel(frames: int) -> Tensor:
    return torch.rand(frames, 128, generator=torch.Generator().manual_seed(1)) * 12 - 10


# --- measuring --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"), [(0, 0), (1, 1), (5, 0), (0, 12), (40, 40), (MAX_REACH, 3)]
)
def test_a_reach_is_found_and_gets_a_margin(tmp_path: Path, before: int, after: int) -> None:
    reach = max(before, after)
    vocoder = load(write_graph(tmp_path / "a.onnx", *local_vocoder(before, after)))
    assert vocoder.receptive_field == reach + reach // 4 + MARGIN


@pytest.mark.parametrize(
    ("before", "after", "memory"),
    [(MAX_REACH + 1, 0, ""), (0, 127, ""), (130, 130, ""), (1, 1, "CumSum"), (1, 1, "ReduceMean")],
)
def test_a_reach_without_an_end(tmp_path: Path, before: int, after: int, memory: str) -> None:
    vocoder = load(write_graph(tmp_path / "a.onnx", *local_vocoder(before, after, memory)))
    assert vocoder.receptive_field is None


def test_the_vocoder_of_the_tests() -> None:
    assert load(PIPELINE).receptive_field == 9


# --- streaming --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "memory"), [(30, 7, ""), (3, 3, "CumSum"), (90, 0, "")]
)
@pytest.mark.parametrize("live", [True, False])
def test_pieces_are_the_whole(
    tmp_path: Path, before: int, after: int, memory: str, live: bool
) -> None:
    vocoder = load(write_graph(tmp_path / "a.onnx", *local_vocoder(before, after, memory)))
    mel = random_mel(1100)
    whole = vocoder(mel[None])[0]
    for _ in range(2):  # the stream starts anew
        stream = StreamingVocoder(vocoder, live=live)
        pieces = [stream.push(part) for part in mel.split(256)]
        assert any(len(piece) for piece in pieces) == (live and not memory)
        joined = torch.cat([*pieces, stream.flush()])
        assert joined.shape == whole.shape
        assert (joined - whole).abs().max() < 1e-5 * whole.abs().max()
        assert len(stream.flush()) == 0


def test_a_stream_that_waits_says_so(tmp_path: Path, song: Callable[..., Path]) -> None:
    song(seconds=8)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for memory, output in (("", "-"), ("CumSum", "-"), ("CumSum", "song.wav")):
        path = write_graph(tmp_path / "a.onnx", *local_vocoder(1, 1, memory))
        words = ["song.mid", "--vocoder", str(path), "--model", str(PIPELINE), "--steps", "1"]
        program = [sys.executable, "-m", "spectro_render", *words, "-o", output]
        done = run_program(program, stdout=PIPE, stderr=PIPE, cwd=tmp_path, env=environment)
        assert done.returncode == 0
        said = b"song.mid: the vocoder needs the whole song, so all sound comes at the end"
        assert (said in done.stderr) == (output == "-" and memory != "")


# --- what is kept -----------------------------------------------------------------------------


def test_it_is_measured_once(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_graph(tmp_path / "a.onnx", *local_vocoder(4, 4))
    assert load(path).receptive_field == 9
    assert json.loads((kept / f"{REACH}.json").read_text()) == {sha256(path): {"frames": 9}}
    whole = write_graph(tmp_path / "b.onnx", *local_vocoder(4, 4, "CumSum"))
    assert load(whole).receptive_field is None
    monkeypatch.setattr(OnnxVocoder, "measure_reach", lambda _: 1 / 0)
    assert load(path).receptive_field == 9 and load(whole).receptive_field is None
    write_graph(path, *local_vocoder(4, 5))  # other content
    with pytest.raises(ZeroDivisionError):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"x": 1}',
        "[" * 100_000,
        '{"HASH": 9}',
        '{"HASH": {}}',
        '{"HASH": {"frames": -1}}',
    ],
)
def test_damaged_facts_are_measured_again(tmp_path: Path, kept: Path, content: str) -> None:
    path = write_graph(tmp_path / "a.onnx", *local_vocoder(4, 4))
    kept.mkdir()
    (kept / f"{REACH}.json").write_text(content.replace("HASH", sha256(path)))
    assert load(path).receptive_field == 9
    assert recall(REACH, sha256(path)) == {"frames": 9}


@pytest.mark.parametrize("place", ["off", "/proc/none", "file/below"])
def test_nothing_has_to_be_kept(
    tmp_path: Path, kept: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, place if place in ("off", "/proc/none") else str(tmp_path / place))
    assert load(write_graph(tmp_path / "a.onnx", *local_vocoder(4, 4))).receptive_field == 9
    assert not kept.exists() and recall(REACH, "a") is None


def test_old_facts_go(kept: Path) -> None:
    remember("facts", "0", 0)
    (kept / "facts.json").write_text(json.dumps({str(each): each for each in range(MAX_FACTS)}))
    remember("facts", "new", 1)
    assert recall("facts", "0") is None
    assert recall("facts", "1") == recall("facts", "new") == 1


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "~/.cache/spectro-render"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/spectro-render"),
        ({"HF_HOME": "/data/models"}, "/data/spectro-render"),
        ({"HF_HOME": "/data/models", "HF_HUB_CACHE": "/c/hub"}, "/c/spectro-render"),
        ({VARIABLE: "~/own"}, "~/own"),
    ],
)
def test_the_folder_is_beside_the_hubs(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert kept_folder() == Path(folder).expanduser()
    assert hub_folder() not in (kept_folder(), *Path(folder).expanduser().parents)
