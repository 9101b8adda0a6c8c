"""The published model from the Hub itself, where SPECTRO_RENDER_ONLINE is 1: 1.7 GB are fetched.

It is kept in build/online, so that another run fetches nothing.
"""

import os
import urllib.request
from collections.abc import Callable

import pytest

from spectro_render.checkpoints.published import PINS, PUBLISHED
from spectro_render.cli import app as cli
from spectro_render.compat.acceptance import MIDI_PAGE
from tests.support.environment import ONLINE
from tests.support.processes import REPOSITORY, CompletedProcess

FOLDER = REPOSITORY / "build" / "online"
Program = Callable[..., CompletedProcess[str]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get(ONLINE) != "1", reason=f"{ONLINE} is not 1"),
]


def test_the_published_model_is_fetched_verified_and_checked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HOME", str(FOLDER / "home"))
    midi = FOLDER / "elise_format0.mid"
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not midi.exists():
        with urllib.request.urlopen(MIDI_PAGE, timeout=60) as answer:
            midi.write_bytes(answer.read())
    assert cli.run(["models", "pull", PUBLISHED]) == 0
    assert capfd.readouterr().out.rstrip("\n").endswith(PINS[PUBLISHED].commit)
    assert cli.run(["models", "verify", PUBLISHED]) == 0
    assert cli.run(["models", "check", PUBLISHED, "--midi", str(midi), "--long"]) == 0
    assert capfd.readouterr().out.count(": pass\n") == 2
