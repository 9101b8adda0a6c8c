"""Who may import whom: downwards only, and every edge is in this table."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "spectro_render"

BASE = {"constants", "errors"}
NOTES = BASE | {"midi", "tokens"}
NETWORKS = {"conditioning", "diffusion", "mel", "model", "vocoder"}
ALLOWED = {
    "constants": set(),
    "errors": set(),
    # MIDI -> notes -> ids
    "smf": BASE,
    "smf_repair": BASE | {"smf"},
    "midi": BASE | {"smf", "smf_repair"},
    "tokens": BASE | {"midi"},
    # ids -> mel -> samples; no file, no device name and no progress bar is known here
    "mel": BASE,
    "phase": BASE,
    "conditioning": BASE | {"tokens"},
    "model": BASE | {"conditioning"},
    "diffusion": BASE,
    "vocoder": BASE | {"mel", "phase"},
    "vocoder_onnx": BASE,
    # samples -> bytes
    "destination": BASE,
    "encoders": BASE | {"destination"},
    "audio": BASE | {"destination", "encoders"},
    # model directories
    "layout": BASE | {"diffusion", "model"},
    "store": BASE | {"layout"},
    "weights": NOTES | {"diffusion", "layout", "model", "store", "vocoder", "vocoder_onnx"},
    # the whole
    "render": NOTES | NETWORKS | {"audio", "weights"},
    # the command line
    "report": BASE,
    "jobs": BASE | {"encoders"},
    "batch": BASE | {"audio", "jobs", "midi", "render", "report"},
    "manage": NOTES | {"report", "training", "weights"},
    "cli": BASE | {"__init__", "batch", "encoders", "jobs", "manage", "report"},
    "__init__": set(),
    "__main__": {"cli"},
    # nothing but the command `train` imports it
    "training": NOTES | NETWORKS | {"audio", "render", "training", "weights"},
}


def imports(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports anywhere, but for its type checker."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")))


def _imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            yield from (_module(name) for name in names if name.startswith(PACKAGE.name + "."))
        elif isinstance(child, ast.Import):
            assert all(not alias.name.startswith(PACKAGE.name) for alias in child.names)
        yield from _imports(child)


def _module(name: str) -> str:
    """`spectro_render.audio.Audio` -> `audio`; a name of the package itself -> `__init__`."""
    first = name.split(".")[1]
    exists = (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file()
    return first if exists else "__init__"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_point_downwards(path: Path) -> None:
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert module in ALLOWED, f"{module} has no line in the table above"
    assert set(imports(path)) <= ALLOWED[module]
