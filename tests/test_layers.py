"""Who imports whom: each room only those above it, every arrow is in this table, and no circles."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "spectro_render"

BASE = {"atomic", "constants", "errors", "options"}  # for everybody, and not repeated below
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "constants": set(),
    "errors": set(),
    "options": set(),
    "atomic": set(),
    "report": set(),
    # MIDI -> notes -> ids
    "midi": set(),
    "tokens": {"midi"},
    # ids -> mel -> samples; no file and no progress bar is known here
    "mel": set(),
    "diffusion": set(),
    "network": {"diffusion", "mel", "tokens"},
    "vocoder": {"mel"},
    # samples -> bytes
    "audio": set(),
    # model directories
    "checkpoints": {"diffusion", "network", "report", "tokens", "vocoder"},
    # the whole, and the whole under diffusers' names
    "render": {
        *("audio", "checkpoints", "diffusion", "mel", "midi", "network", "report"),
        *("tokens", "vocoder"),
    },
    "compat": {
        *("checkpoints", "diffusion", "mel", "midi", "network", "tokens", "vocoder"),
    },
    # many songs
    "batch": {"__init__", "audio", "checkpoints", "midi", "render", "report"},
    # what is shown of a rendered song
    "page": {"__init__", "audio", "batch", "mel", "midi", "report"},
    # songs of others
    "serve": {
        *("__init__", "audio", "batch", "midi", "page", "render", "report"),
    },
    # only the commands `train` and `evaluate` import them
    "training": {
        *("audio", "checkpoints", "diffusion", "mel", "midi", "network", "report", "tokens"),
        "vocoder",
    },
    "evaluation": {
        *("audio", "mel", "midi", "render", "report", "tokens", "training", "vocoder"),
    },
    "cli": {
        *("__init__", "audio", "batch", "checkpoints", "compat", "evaluation", "midi"),
        *("network", "page", "render", "report", "serve", "tokens", "training"),
    },
    "__main__": {"cli"},
}

MAX_TOP_FILES, MAX_TOP_FOLDERS = 9, 14
MAX_CHAIN = 15  # files, each importing the next


def imports(path: Path, *, for_types: bool = False) -> Iterator[str]:
    """The files of this package, as 'audio.limiter', that a file imports anywhere.

    What only the type checker sees counts with `for_types`.
    """
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")), for_types)


def _imports(node: ast.AST, for_types: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            if not for_types:
                continue
        if isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            yield from (_file(name) for name in names if name.startswith(PACKAGE.name + "."))
        elif isinstance(child, ast.Import):
            assert all(not alias.name.startswith(PACKAGE.name) for alias in child.names)
        yield from _imports(child, for_types)


def _file(name: str) -> str:
    """The file that holds a name: `spectro_render.audio.limiter.Limiter` -> `audio.limiter`.

    What a folder exports is in its `__init__`: `spectro_render.audio.Limiter` -> `audio`.
    """
    parts = name.split(".")[1:]
    while parts and not (PACKAGE.joinpath(*parts).is_dir() or _path(".".join(parts)).is_file()):
        parts.pop()
    return ".".join(parts) or "__init__"


def _path(file: str) -> Path:
    path = PACKAGE.joinpath(*file.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def files() -> list[str]:
    """All files of the package, a folder's `__init__` under the folder's name."""
    found = (path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(parts).removesuffix(".__init__") for parts in found)


def room(file: str) -> str:
    return file.partition(".")[0]


def room_imports(name: str) -> set[str]:
    """The rooms that a room, or a file at the top, imports."""
    found = (imports(_path(file)) for file in files() if room(file) == name)
    return {room(file) for names in found for file in names} - {name} - BASE


def test_every_room_has_a_row() -> None:
    assert {room(file) for file in files()} == set(ALLOWED)


def test_the_base_imports_nothing_else() -> None:
    assert set().union(*(imports(_path(file)) for file in BASE)) <= BASE


@pytest.mark.parametrize("name", ALLOWED)
def test_a_row_names_only_rows_above_it(name: str) -> None:
    rows = list(ALLOWED)
    assert ALLOWED[name] <= set(rows[: rows.index(name)])


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_are_those_of_the_table(name: str) -> None:
    assert room_imports(name) == ALLOWED[name]


def test_the_top_stays_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_TOP_FILES
    folders = [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(folders) <= MAX_TOP_FOLDERS


def graph(*, for_types: bool) -> dict[str, set[str]]:
    """File -> the files that it imports. A folder's `__init__` is not imported with its files."""
    return {file: set(imports(_path(file), for_types=for_types)) - {file} for file in files()}


def test_there_is_no_circle() -> None:
    """Not even one that only the type checker would walk."""
    edges = graph(for_types=True)
    while leaves := [file for file, others in edges.items() if not others & set(edges)]:
        for file in leaves:
            del edges[file]
    assert set(edges) == set()


def longest_chain() -> list[str]:
    edges = graph(for_types=False)

    @cache
    def chain(file: str) -> tuple[str, ...]:
        return (file, *max((chain(other) for other in edges[file]), key=len, default=()))

    return list(max(map(chain, edges), key=len))


def test_no_chain_of_imports_is_long() -> None:
    chain = longest_chain()
    assert len(chain) <= MAX_CHAIN, " > ".join(chain)


def test_the_docs_have_the_same_table() -> None:
    """docs/architecture.md, without what belongs to no room."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("## Which folder may import which")[2].partition("## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    documented = {
        name.removesuffix("/").removesuffix(".py"): set(re.findall(r"`(\w+)`", others))
        for names, others in rows
        for name in re.findall(r"`([^`]+)`", names)
    }
    entrances = {"__init__", "__main__"}
    assert documented == {
        name: others - entrances for name, others in ALLOWED.items() if name not in BASE | entrances
    }
