"""Who imports whom: each module only those above it, and every edge is in this table."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "spectro_render"

BASE = {"constants", "errors"}  # for everybody, and not repeated below
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "constants": set(),
    "errors": set(),
    # MIDI -> notes -> ids
    "smf": set(),
    "smf_repair": {"smf"},
    "midi": {"smf", "smf_repair"},
    "tokens": {"midi"},
    # ids -> mel -> samples; no file, no device name and no progress bar is known here
    "mel": set(),
    "phase": set(),
    "conditioning": {"tokens"},
    "layers": set(),
    "levels": set(),
    "model": {"conditioning", "layers", "levels"},
    "autoregressive": {"layers", "model"},
    "presets": {"autoregressive", "model"},
    "diffusion": set(),
    "precision": {"conditioning"},
    "vocoder": {"mel", "phase"},
    "streaming": {"vocoder"},
    "vocoder_onnx": set(),
    # samples -> bytes
    "destination": set(),
    "encoders": set(),
    "audio": {"destination", "encoders"},
    # what is said
    "report": set(),
    # model directories
    "layout": {"autoregressive", "diffusion", "model"},
    "store": {"layout"},
    "manifest": {"layout", "store"},
    "hub_cache": {"layout", "manifest", "store"},
    "hub": {"hub_cache", "manifest", "report"},
    "registry": {"hub", "hub_cache", "manifest"},
    "weights": {
        *("autoregressive", "diffusion", "layout", "tokens", "vocoder", "vocoder_onnx"),
        *("manifest", "registry", "store"),
    },
    "t5x_files": {"store"},
    "t5x": {"layout", "model", "store", "t5x_files", "tokens"},
    "convert": {
        *("autoregressive", "destination", "layout", "manifest", "report", "store", "t5x"),
        *("t5x_files", "weights"),
    },
    # the whole
    "song": {"audio", "conditioning", "streaming", "tokens", "vocoder"},
    "render": {
        *("midi", "tokens", "mel", "conditioning", "model", "diffusion", "song"),
        *("audio", "autoregressive", "precision", "weights"),
    },
    # the same under diffusers' names
    "components": {"diffusion", "layout", "model", "store", "vocoder"},
    "pipeline_store": {
        *("components", "destination", "layout", "manifest", "model", "store", "weights"),
    },
    "pipeline": {
        *("midi", "tokens", "mel", "model", "diffusion", "components", "pipeline_store"),
    },
    # what a task is
    "jobs": {"encoders", "midi", "report"},
    "resume": set(),
    "tasks": {"destination", "jobs", "weights"},
    "cores": set(),
    "slots": {"audio", "cores", "render", "song", "tasks"},
    "engine": {"audio", "midi", "render", "slots", "tasks"},
    # nothing but the command `train` imports it
    "training": {
        *("midi", "tokens", "mel", "conditioning", "model", "autoregressive", "presets"),
        *("diffusion", "vocoder", "weights", "render", "jobs"),
    },
    # nothing but the command `evaluate` imports it
    "evaluation": {
        *("midi", "tokens", "mel", "streaming", "audio", "render", "report", "jobs", "training"),
    },
    # the command line
    "worker": {"__init__", "destination", "engine", "jobs", "tasks"},
    "cluster": {"__init__", "registry", "report", "tasks", "weights", "worker"},
    "batch": {"destination", "engine", "jobs", "report", "resume", "tasks"},
    "manage": {
        *("convert", "manifest", "midi", "registry", "report", "tokens", "training", "weights"),
        "evaluation",
    },
    "cli": {
        *("__init__", "batch", "cluster", "encoders", "engine", "jobs", "manage", "report"),
        *("tasks", "weights"),
    },
    "__main__": {"cli"},
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


def imports_of(module: str) -> set[str]:
    """What a module, or all files of a folder, import."""
    folder = PACKAGE / module
    paths = folder.rglob("*.py") if folder.is_dir() else [PACKAGE / f"{module}.py"]
    return {name for path in paths for name in imports(path)} - {module} - BASE


def test_every_module_has_a_row() -> None:
    found = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")}
    assert {name.removesuffix(".py") for name in found} == set(ALLOWED)


def test_the_base_imports_nothing() -> None:
    assert not set().union(*(imports(PACKAGE / f"{module}.py") for module in BASE))


@pytest.mark.parametrize("module", ALLOWED)
def test_a_row_names_only_rows_above_it(module: str) -> None:
    rows = list(ALLOWED)
    assert ALLOWED[module] <= set(rows[: rows.index(module)])


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_are_those_of_the_table(module: str) -> None:
    assert imports_of(module) == ALLOWED[module]
