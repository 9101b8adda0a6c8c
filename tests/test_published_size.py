"""A model of the published layout and size, from the Hub to the sound: 410 M random weights."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spectro_render.checkpoints.copies import find_copy
from spectro_render.checkpoints.hub import pull
from spectro_render.checkpoints.manifest import sha256, verify
from spectro_render.checkpoints.published import PINS, PUBLISHED, Pin, PinnedFile
from spectro_render.cli import app as cli
from spectro_render.report import Reporter
from tests.support.costs import LOAD
from tests.support.hub_server import Hub, point_client_at, serve
from tests.support.processes import REPOSITORY, run_program
from tests.support.published import write_configs, write_weights

pytestmark = pytest.mark.slow
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.support.onnx_writer import local_vocoder, write_graph  # noqa: E402

REAL = PINS[PUBLISHED]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with random weights of the published sizes, which are pinned in place of the others."""
    folder = tmp_path / "published"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    try:
        write_configs(folder)
        write_weights(folder)
        (folder / "melgan").mkdir()
        write_graph(folder / "melgan" / "model.onnx", *local_vocoder(180, 180))  # 59 MB
        files = {}
        for name, real in REAL.files.items():
            path = folder / name
            files[name] = PinnedFile(real.size, real.sha256 and sha256(path))
            if name == "melgan/model.onnx":
                files[name] = PinnedFile(path.stat().st_size, sha256(path))
        monkeypatch.setitem(PINS, PUBLISHED, Pin(REAL.commit, files))
        with serve(folder) as hub:
            hub.repo, hub.pinned = PUBLISHED, REAL.commit
            point_client_at(hub, monkeypatch)
            yield hub
    finally:
        for name in ("published", "huggingface", "spectro-render"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)


def load(limit: float) -> dict[str, float]:
    """Load the model by its name in a new process, in at most `limit` times its size of memory."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    program = [sys.executable, "-c", LOAD, PUBLISHED]
    done = run_program(program, capture_output=True, text=True, env=environment, check=True)
    cost: dict[str, float] = json.loads(done.stdout)
    assert cost["weights"] > 1.6e9
    assert cost["peak"] < limit * cost["weights"]
    return cost


def test_from_the_hub_to_the_sound(
    hub: Hub, tmp_path: Path, song: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    # The encoders have their published sizes to the byte, or the Hub's list would be refused.
    path = pull(PUBLISHED, Reporter(quiet=True))
    assert (path / "decoder" / "diffusion_pytorch_model.bin").stat().st_size == 954_931_957
    assert verify(path)
    first = load(1.2)  # and keeps a copy
    assert find_copy(path) is not None
    second = load(1.2)
    assert second["cpu_seconds"] < first["cpu_seconds"]
    capfd.readouterr()
    assert cli.run(["models", "check", PUBLISHED, "--midi", str(song(seconds=11)), "-q"]) == 1
    out = capfd.readouterr().out
    assert re.search(
        r": 2 windows in 2 steps: sum [\d.]+, expected 3612.841 within 0.1: fail\n", out
    )
    words = ["--model", PUBLISHED, "--steps", "1", "--duration", "2", "--json", "-q"]
    assert cli.run([str(song()), "-o", str(tmp_path / "song.wav"), *words]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["model"] == PUBLISHED and record["seconds"] == 2
    assert (tmp_path / "song.wav").stat().st_size == 44 + 2 * 32_000
