"""The README's Python runs as it stands, and its map is complete."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from spectro_render.checkpoints import find as registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def tiny_default(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the tiny model the default one."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "default").symlink_to(tiny_model)
    monkeypatch.setattr(registry, "MODEL_FOLDERS", (folder,))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.usefixtures("tiny_default")
def test_python_blocks_run(
    block: str, song: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    song(seconds=6)
    exec(compile(block, "README.md", "exec"), {})
    assert soundfile.info("song.wav").duration > 6


def test_there_are_python_blocks() -> None:
    assert len(BLOCKS) == 2


def test_every_module_is_on_the_map() -> None:
    modules = {path.name for path in (ROOT / "spectro_render").glob("[!_]*.py")}
    assert {name for name in modules if f"\n  {name} " not in README} == set()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`?make ([a-z-]+)", README))
    assert named and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
