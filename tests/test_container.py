"""The recipe of the container: well-formed, and its steps do what they say.

No container engine runs here. What its steps run is run by a shell instead, in a folder that stands
for the image's root; the packages are not fetched again but those of the tests' own environment.
"""

import json
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile

from tests.support.packages import lend_packages
from tests.support.processes import PIPE, STDOUT, run_program

REPOSITORY = Path(__file__).parents[1]
RECIPE = REPOSITORY / "Dockerfile"
IGNORED = REPOSITORY / ".dockerignore"

pytestmark = pytest.mark.skipif(not RECIPE.exists(), reason="not a checkout")


class Step(NamedTuple):
    """One instruction of a recipe."""

    word: str  # in capitals
    rest: str


def read_recipe(text: str) -> Iterator[Step]:
    """The instructions of a Dockerfile, without comments, with continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield Step(word, rest.strip())


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    return list(read_recipe(RECIPE.read_text()))


def of(steps: list[Step], word: str) -> list[str]:
    return [step.rest for step in steps if step.word == word]


# --- what it says -------------------------------------------------------------------------------


def test_continued_lines_and_comments_are_read() -> None:
    text = "# a\nFROM a\nRUN b \\\n    # in between\n    c\n\nUSER 1\n"
    assert list(read_recipe(text)) == [Step("FROM", "a"), Step("RUN", "b c"), Step("USER", "1")]


def test_hadolint_finds_nothing() -> None:
    found = Path(sysconfig.get_path("scripts"), "hadolint")
    program = str(found) if found.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    done = run_program([program, RECIPE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_bases_are_pinned_by_tag(steps: list[Step]) -> None:
    for base in of(steps, "FROM"):
        image, _, tag = base.split(" AS ")[0].partition(":")
        assert "/" not in image and tag and "latest" not in tag


def test_the_default_python_is_one_that_the_package_supports(steps: list[Step]) -> None:
    version = next(rest for rest in of(steps, "ARG") if rest.startswith("PYTHON="))[7:]
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert f"Programming Language :: Python :: {version}" in project


def test_it_runs_the_program_as_nobody_special(steps: list[Step]) -> None:
    assert of(steps, "USER") == ["1000:1000"]
    assert json.loads(of(steps, "ENTRYPOINT")[0]) == ["spectro-render"]
    assert of(steps, "WORKDIR")[-1] == "/work"
    words = [step.word for step in steps]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))


def test_cpu_is_the_default_and_no_address_is_built_in(steps: list[Step]) -> None:
    assert {"DEVICE=cpu", "TORCH_INDEX="} <= set(of(steps, "ARG"))
    assert "://" not in RECIPE.read_text()


def test_pip_keeps_to_the_constraints_and_keeps_no_cache(steps: list[Step]) -> None:
    installs = [rest for rest in of(steps, "RUN") if "pip install" in rest]
    assert len(installs) == 2
    assert all("--no-cache-dir -c constraints.txt" in rest for rest in installs)


def test_all_that_is_copied_is_there_and_not_ignored(steps: list[Step]) -> None:
    let_in = {line[1:] for line in IGNORED.read_text().splitlines() if line.startswith("!")}
    copied = {name for rest in local_copies(steps) for name in rest.split()[:-1]}
    assert copied == let_in
    assert all((REPOSITORY / name).exists() for name in copied)


def local_copies(steps: list[Step]) -> list[str]:
    return [rest for rest in of(steps, "COPY") if not rest.startswith("--from")]


# --- what it does -------------------------------------------------------------------------------


_AT_HAND = "--no-index --no-build-isolation"  # all that is needed, to build with as well, is there


class Image:
    """A folder that stands for the root of an image, and a shell that carries out its steps."""

    def __init__(self, root: Path, arguments: dict[str, str]) -> None:
        self.root = root
        self.folder = root
        self.variables = {
            **os.environ,
            **arguments,
            "PATH": f"{root}/python:{os.environ['PATH']}",
        }
        (root / "python").mkdir()
        (root / "python/python").symlink_to(sys.executable)

    def do(self, step: Step) -> None:
        """Carry out one instruction; what only an engine can do, a base or a user, is left out."""
        rest = step.rest.replace("/opt/", f"{self.root}/opt/")
        if step.word == "WORKDIR":
            self.folder = self.root / rest.lstrip("/")
            self.folder.mkdir()
        elif step.word == "ENV":
            for pair in rest.split():
                name, _, value = pair.partition("=")
                self.variables[name] = value.replace("$PATH", self.variables["PATH"])
        elif step.word == "COPY" and not rest.startswith("--from"):
            *names, target = rest.split()
            for name in names:
                self._copy(name, target)
        elif step.word == "RUN":
            self.run(rest.replace("pip install", f"pip install {_AT_HAND}"))
            if "-m venv" in rest:
                (site,) = (self.root / "opt/venv/lib").glob("python*/site-packages")
                lend_packages(site, self.root / "lent")

    def run(self, line: str) -> str:
        """What a line of shell says; it must succeed."""
        done = run_program(
            ["sh", "-euc", line],
            cwd=self.folder,
            env=self.variables,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done.stdout

    def _copy(self, name: str, target: str) -> None:
        source = REPOSITORY / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, self.folder / target, ignore=ignored)
        else:
            shutil.copy(source, self.folder / target)


def test_its_steps_give_a_program_that_renders(steps: list[Step], tmp_path: Path) -> None:
    """Really run: the environment, building and installing the wheel, the program from outside.

    Not run: fetching torch and the other packages, which pip finds present, and the base images.
    """
    pytest.importorskip("hatchling")
    arguments = dict(rest.split("=", 1) for rest in of(steps, "ARG") if "=" in rest)
    image = Image(tmp_path, arguments)
    for step in steps:
        image.do(step)
    shutil.copy(REPOSITORY / "docs/demo.mid", tmp_path / "work/song.mid")
    (program,) = json.loads(of(steps, "ENTRYPOINT")[0])
    image.run(f"{program} song.mid --fast --duration 1 -q")
    assert soundfile.info(tmp_path / "work/song.wav").samplerate == 16_000
    where = image.run("python -c 'import spectro_render as s; print(s.__file__)'")
    assert where.startswith(str(tmp_path / "opt/venv"))  # not the checkout
