"""The wheel and the source archive: what they hold, and that they work far from the checkout."""

import os
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import soundfile

from spectro_render import __version__
from tests.support.lower_bounds import PROJECT, lower_bounds, requirements_of
from tests.support.packages import lend_packages
from tests.support.processes import run_program
from tests.support.songs import DEMO

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
NAME = f"spectro_render-{__version__}"
INFO = f"{NAME}.dist-info"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built from here."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the source archive unpacks to."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archives / f"{NAME}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / NAME


def build(source: Path, folder: Path, *options: str) -> Path:
    """Build what the options say, by default both archives, with the tools at hand; the folder."""
    arguments = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *options]
    done = run_program(arguments, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def the_wheel(folder: Path) -> Path:
    return folder / f"{NAME}-py3-none-any.whl"


def files_below(folder: Path) -> set[str]:
    """The files of a folder, relative to it, but for what Python has compiled."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in paths if "__pycache__" not in path.parts}


# --- what they hold -----------------------------------------------------------------------------


def test_the_wheel_holds_the_package_the_weights_and_nothing_else(archives: Path) -> None:
    names = set(contents(the_wheel(archives)))
    package = {f"spectro_render/{name}" for name in files_below(ROOT / "spectro_render")}
    weights = {
        f"spectro_render/_weights/default/{name}" for name in files_below(ROOT / "weights/default")
    }
    licences = {
        f"{INFO}/licenses/{name}"
        for name in (
            "LICENSE",
            "spectro_render/evaluation/NOTICE",
            "spectro_render/page/assets/wavesurfer.LICENSE",
        )
    }
    about = {f"{INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    assert names == package | weights | licences | about
    assert {"spectro_render/py.typed", "spectro_render/evaluation/basic_pitch.onnx"} <= package
    assert any(name.endswith(".safetensors") for name in weights)


def test_the_source_archive_holds_what_building_and_testing_need(unpacked: Path) -> None:
    names = files_below(unpacked)
    tests = {f"tests/{name}" for name in files_below(ROOT / "tests")}
    needed = {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
    }
    assert tests | needed <= names
    assert not [name for name in names if Path(name).suffix == ".pyc" or name.startswith(".venv")]


def test_a_wheel_of_the_source_archive_is_that_of_the_checkout(
    archives: Path, unpacked: Path, tmp_path: Path
) -> None:
    wheel = the_wheel(build(unpacked, tmp_path, "-t", "wheel"))
    assert contents(wheel) == contents(the_wheel(archives))


@pytest.fixture(scope="module")
def metadata(archives: Path) -> Message:
    return Parser().parsestr(contents(the_wheel(archives))[f"{INFO}/METADATA"].decode())


def test_metadata_say_what_an_index_shows(metadata: Message) -> None:
    assert metadata["Name"] == "spectro-render"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    addresses = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert {"Homepage", "Source", "Documentation", "Changelog", "Issues"} == set(addresses)
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_every_python_that_may_install_it_is_named(metadata: Message) -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [
        int(line.removeprefix(prefix))
        for line in metadata.get_all("Classifier", [])
        if line.startswith(prefix)
    ]
    assert named == list(range(min(named), max(named) + 1))
    assert metadata["Requires-Python"] == f">=3.{min(named)}"


def test_lower_bounds_are_read() -> None:
    lines = [
        "torch>=2.6",
        "audioop-lts; python_version >= '3.13'",
        "a-b[c]>=1.0.3,<2; extra == 'x'",
    ]
    assert lower_bounds(lines) == ["torch==2.6", "a-b==1.0.3"]
    assert "torch" in {line.split("==")[0] for line in lower_bounds(requirements_of(PROJECT))}


# --- what they do -------------------------------------------------------------------------------


def test_the_wheel_renders_in_an_environment_of_its_own(archives: Path, tmp_path: Path) -> None:
    """Nothing of the checkout is in reach, neither in the folder nor on the environment's paths."""
    environment = tmp_path / "environment"
    run_program([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    lend_packages(site, tmp_path / "lent")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str | Path) -> str:
        done = run_program(arguments, cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python, program = environment / "bin/python", environment / "bin/spectro-render"
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    run(*pip, "--no-index", "--no-deps", the_wheel(archives))

    paths = run(python, "-c", "import sys, spectro_render as s; print(*sys.path, s.__file__)")
    assert str(ROOT) not in paths.split()
    assert paths.split()[-1].startswith(str(site))
    name, state, _, where = run(program, "models", "list").splitlines()[0].split("\t")
    assert (name, state) == ("default", "bundled")
    assert where == str(site / "spectro_render/_weights/default")
    run(program, DEMO, "-o", "demo.wav", "--fast", "--duration", "1", "-q")
    assert soundfile.info(folder / "demo.wav").samplerate == 16_000
    assert "demo.mid" in run(program, "info", DEMO)
