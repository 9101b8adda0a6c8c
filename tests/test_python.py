"""The library in notebooks and for type checkers: players, short names, options by keyword."""

import base64
import io
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import soundfile

import spectro_render as sr
from spectro_render.checkpoints import find
from spectro_render.options import RenderOptions, RenderOverrides
from tests.support.songs import MakeSong

NOTEBOOK = Path(__file__).parents[1] / "docs" / "example.ipynb"


def test_a_sound_is_short_in_print_and_a_player_in_a_notebook() -> None:
    samples = np.linspace(-0.5, 0.5, 24_000, dtype=np.float32)
    audio = sr.Audio(np.stack([samples, -samples]), 16_000)
    assert repr(audio) == "Audio(1.50 s, 2 channels, 16000 Hz)"
    assert repr(sr.Audio(samples)) == "Audio(1.50 s, 1 channel, 16000 Hz)"
    page = audio._repr_html_()
    assert "<audio controls" in page and "Audio(1.50 s, 2 channels, 16000 Hz)" in page
    (data,) = re.findall(r'src="data:audio/wav;base64,([^"]*)"', page)
    read, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert rate == 16_000
    np.testing.assert_allclose(read.T, audio.samples, atol=2**-14)


def test_options_by_keyword(tiny_model: Path, song: MakeSong) -> None:
    assert get_type_hints(RenderOverrides).keys() == {each.name for each in fields(RenderOptions)}
    renderer = sr.Renderer.load(tiny_model)
    assert repr(renderer) == "Renderer('tiny', device='cpu', dtype='float32')"
    assert renderer.render(song(), duration=1.0).seconds == 1.0
    with pytest.raises(sr.SpectroRenderError, match="no such option: durations; did you mean dur"):
        renderer.render(song(), durations=1.0)
    with pytest.raises(sr.SpectroRenderError, match=r"^nosuch\.mid: cannot be opened"):
        renderer.render("nosuch.mid")


def test_the_notebook_runs(
    song: MakeSong, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "default").symlink_to(tiny_model)
    monkeypatch.setattr(find, "MODEL_FOLDERS", (tmp_path / "models",))
    monkeypatch.chdir(tmp_path)
    song(seconds=3)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert soundfile.info("part.flac").subtype == "PCM_24"
