"""README.md and docs/ say what is true: their examples run, their links and names lead somewhere.

A fenced block that begins with `python` runs in a folder of its own that holds a `song.mid`. One
that begins with `python no-run` needs something special (a download, a GPU): it is compiled, and
its imports are carried out. Command lines in `sh` blocks and between backticks are parsed by the
command's own parser.
"""

import ast
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.core import TyperCommand

from spectro_render.batch.mapping import read_mapping
from spectro_render.checkpoints import find
from spectro_render.cli import run
from spectro_render.midi.score import Score
from tests.support.songs import DEMO, MakeSong

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "spectro_render"
PICTURE = ROOT / "docs" / "images" / "demo.png"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
SUB_COMMANDS = ("info", "models", "train", "evaluate", "again", "serve", "config", "doctor")
WIDTH = 100  # columns
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    kind: str  # what stands behind the opening fence
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(page, kind, text) for kind, text in FENCED.findall(TEXTS[page])]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", TEXTS[page])


def code_spans(page: Path) -> list[str]:
    """What stands between backticks."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(page))]


def named(page: Path) -> str:
    return page.name


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]


# --- Python ---------------------------------------------------------------------------------------


def python_blocks(kind: str) -> list[Any]:
    found = [block for block in ALL_BLOCKS if block.kind == kind]
    return [pytest.param(block, id=f"{block.page.name}-{i}") for i, block in enumerate(found)]


@pytest.fixture
def tiny_default(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the tiny model the default one."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "default").symlink_to(tiny_model)
    monkeypatch.setattr(find, "MODEL_FOLDERS", (folder,))


@pytest.mark.parametrize("block", python_blocks("python"))
@pytest.mark.usefixtures("tiny_default")
def test_python_runs(
    block: Block, song: MakeSong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    song(seconds=6)
    exec(compile(block.text, str(block.page), "exec"), {})
    if "song.wav" in block.text:
        assert soundfile.info("song.wav").duration > 6


@pytest.mark.parametrize("block", python_blocks("python no-run"))
def test_python_that_does_not_run_compiles_and_imports(block: Block) -> None:
    tree = ast.parse(block.text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, []), str(block.page), "exec"), {})


def test_mapping_files_can_be_read(tmp_path: Path) -> None:
    for number, block in enumerate(block for block in ALL_BLOCKS if block.kind == "toml"):
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text, encoding="utf-8")
        assert read_mapping(str(file)).everywhere


def test_every_block_is_of_a_known_kind() -> None:
    kinds = {block.kind for block in ALL_BLOCKS}
    assert kinds == {"", "mermaid", "python", "python no-run", "sh", "toml"}


# --- links ----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() and file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


def test_every_page_is_linked_from_the_readme() -> None:
    links = set(re.findall(r"\]\((docs/[^)#]+)\)", prose(PAGES[0])))
    assert {str(page.relative_to(ROOT)) for page in PAGES[1:]} <= links


# --- commands -------------------------------------------------------------------------------------


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [span for page in PAGES for span in code_spans(page)]
    lines += [line for block in ALL_BLOCKS if block.kind == "sh" for line in block.text.split("\n")]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("make ")]
    targets = {target for command in commands for target in command[1:]}
    assert "demo" in targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def command_lines() -> Iterator[list[str]]:
    """The arguments of every `spectro-render` in a shell block or between backticks."""
    for page in PAGES:
        scripts = [block.text.replace("\\\n", " ") for block in blocks(page) if block.kind == "sh"]
        scripts += [span for span in code_spans(page) if span.startswith("spectro-render ")]
        for line in "\n".join(scripts).splitlines():
            yield from arguments_of(line)


def arguments_of(line: str) -> Iterator[list[str]]:
    """The arguments of the program, wherever in a pipeline it stands."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>;&")
    lexer.whitespace_split = True
    words: list[str] | None = None
    for word in [*lexer, ";"]:
        if set(word) <= set("|<>;&"):
            if words is not None:
                yield words
            words = None
        elif words is not None:
            words.append(word)
        elif word == "spectro-render":
            words = []


COMMAND_LINES = [list(line) for line in dict.fromkeys(map(tuple, command_lines())) if line]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[str]], int]:
    """The command line with commands that do nothing once their arguments have been accepted."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where --install-completion would write at once
    monkeypatch.setattr(TyperCommand, "invoke", lambda command, context: 0)
    monkeypatch.setattr(find, "check_name", lambda name: None)  # examples name models to be made
    return run


@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=shlex.join)
def test_command_lines_are_accepted(
    arguments: list[str], parse: Callable[[list[str]], int]
) -> None:
    names_a_command_only = arguments in ([name] for name in SUB_COMMANDS)
    assert parse([*arguments, "--help"] if names_a_command_only else arguments) == 0


@pytest.mark.parametrize("line", ["song.mid --nonesuch", "song.mid --format au", "models nonesuch"])
def test_a_wrong_command_line_is_not(line: str, parse: Callable[[list[str]], int]) -> None:
    assert parse(line.split()) == 2


def test_command_lines_are_found_in_pipelines() -> None:
    line = "find . -print0 | xargs -0 spectro-render a.mid -o - --raw | sox -t raw - x.wav  # y"
    assert list(arguments_of(line)) == [["a.mid", "-o", "-", "--raw"]]
    assert list(arguments_of("pip install '.[ray]'; spectro-render > x")) == [[]]


@pytest.fixture
def options_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., set[str]]:
    """Finds the long options in a command's help."""
    monkeypatch.setenv("COLUMNS", "200")

    def options_of(*command: str) -> set[str]:
        assert run([*command, "--help"]) == 0
        return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out))

    return options_of


HOME_PAGES = {  # of the options of each command
    (): "command-line",
    ("info",): "command-line",
    ("models", "list"): "models",
    ("models", "pull"): "models",
    ("models", "check"): "models",
    ("models", "timbre"): "timbre",
    ("models", "convert"): "models",
    ("config",): "command-line",
    ("doctor",): "command-line",
    ("config", "set"): "command-line",
    ("train",): "training",
    ("evaluate",): "evaluation",
    ("again",): "command-line",
    ("serve",): "serve",
}


def test_options_between_backticks_exist(options_of: Callable[..., set[str]]) -> None:
    known = set().union(*(options_of(*command) for command in HOME_PAGES))
    spans = [span for page in PAGES for span in code_spans(page) if span.startswith("--")]
    assert len(spans) > 50
    assert {word for span in spans for word in span.split() if word.startswith("--")} <= known


@pytest.mark.parametrize("command", HOME_PAGES, ids=" ".join)
def test_options_are_documented(
    command: tuple[str, ...], options_of: Callable[..., set[str]]
) -> None:
    """On the page of their command or, if they mean the same, on that of the main job."""
    pages = {"command-line", HOME_PAGES[command]}
    text = "\n".join(TEXTS[ROOT / "docs" / f"{page}.md"] for page in pages)
    found = options_of(*command)
    assert "--help" in found
    assert {option for option in found if not re.search(rf"{option}(?![\w-])", text)} == set()


def test_modules_to_run_exist() -> None:
    modules = re.findall(r"python -m ((?:\w+\.)+\w+)", "\n".join(TEXTS.values()))
    assert modules
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


# --- the map --------------------------------------------------------------------------------------


def test_the_map_names_everything_at_the_top_of_the_package() -> None:
    (drawing,) = [block.text for block in blocks(PAGES[0]) if "spectro_render/\n" in block.text]
    lines = [line for line in drawing.splitlines() if line.startswith("  ")]
    on_map = {word for line in lines for word in re.split(r" {2,}", line[2:])[0].split(", ")}
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in PACKAGE.iterdir()
        if path.name != "__pycache__"
    }
    assert on_map == there


# --- form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=named)
def test_lines_have_one_width(page: Path) -> None:
    """But for rows of tables, which cannot be broken."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > WIDTH and not line.startswith("|")] == []


# --- the picture ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def draw() -> Callable[[Path, Path], None]:
    """What `make picture` runs."""
    pytest.importorskip("matplotlib")
    function: Callable[[Path, Path], None] = runpy.run_path(str(ROOT / "docs" / "draw_demo.py"))[
        "draw"
    ]
    return function


@pytest.mark.usefixtures("tiny_default")
def test_a_picture_is_drawn(
    draw: Callable[[Path, Path], None], song: MakeSong, tmp_path: Path
) -> None:
    drawn = [tmp_path / "new" / "a.png", tmp_path / "b.png"]
    for picture in drawn:
        draw(song(seconds=6), picture)
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    with Image.open(drawn[0]) as image, Image.open(PICTURE) as stored:
        assert (image.format, image.size) == ("PNG", stored.size)
    assert PICTURE.stat().st_size < 150_000


@pytest.mark.slow
def test_the_stored_picture_shows_the_default_model(
    draw: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """After a change of sound: `make picture`."""
    draw(DEMO, tmp_path / "now.png")
    now, stored = (
        np.asarray(Image.open(path).convert("L"), np.float32)
        for path in (tmp_path / "now.png", PICTURE)
    )
    assert np.abs(now - stored).mean() < 1  # of 255; another seed gives 1.3, one step gives 2.3


# --- the samples ----------------------------------------------------------------------------------


class Recorded:
    """A reference that needs no synthesiser."""

    def sound(self, name: Path, score: Score, seconds: float) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, 0.01, round(seconds * 16_000))
        return noise.astype(np.float32)


def test_samples_are_made(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("mir_eval")
    make = runpy.run_path(str(ROOT / "docs" / "make_samples.py"))["make_samples"]
    make(tmp_path / "samples.html", str(tiny_model), Recorded(), clips=1)
    page = (tmp_path / "samples.html").read_text(encoding="utf-8")
    assert (page.count("<audio"), page.count("<img"), page.count("mel_l1")) == (2, 2, 2)


def test_the_stored_samples_are_one_small_page() -> None:
    page = (ROOT / "docs" / "samples.html").read_text(encoding="utf-8")
    assert (page.count("<audio"), page.count("<img")) == (16, 16)
    assert len(page) < 2_000_000
    assert set(re.findall(r'src="(\w+:\w+/\w+);', page)) == {"data:audio/mpeg", "data:image/png"}
