"""The user's own defaults: variables, the configuration file and the command that edits it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from spectro_render.cli import app as cli
from tests.support.processes import REPOSITORY
from tests.support.songs import MakeSong

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in a folder of its own, with a configuration of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        return code, *capfd.readouterr()

    return run


def test_the_command_line_beats_variables_and_these_the_file(
    run: Run, song: MakeSong, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song()
    for name, value in (("sample-rate", "22.05k"), ("model", str(tiny_model)), ("quiet", "true")):
        assert run("config", "set", name, value) == (0, "", "")

    def rate(*options: str) -> int:
        assert run("song.mid", "--force", *options) == (0, "", "")
        return int(soundfile.info("song.wav").samplerate)

    assert rate() == 22_050
    monkeypatch.setenv("SPECTRO_RENDER_SAMPLE_RATE", "32k")
    assert rate() == 32_000
    assert rate("--sample-rate", "8000") == 8000
    monkeypatch.setenv("SPECTRO_RENDER_CONFIG", "")
    monkeypatch.setenv("SPECTRO_RENDER_QUIET", "1")
    assert rate("--model", str(tiny_model)) == 32_000


def test_the_file_is_shown_and_edited(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("etc/spectro-render/config.toml")
    assert run("config")[:2] == (0, "")
    assert run("config", "path")[1] == f"{path.resolve()}\n"
    run("config", "set", "steps", "5")
    path.write_text(f"# mine\n{path.read_text()}\n[evaluate]\nseconds = 9\n")
    run("config", "set", "fast", "true")
    run("config", "set", "steps", "7")
    expected = "# mine\nfast = true\nsteps = 7\n\n[evaluate]\nseconds = 9\n"
    assert path.read_text() == expected
    monkeypatch.setenv("SPECTRO_RENDER_SEED", "3")
    assert run("config", "show")[1].splitlines() == [
        f"fast = true  # {path.resolve()}",
        f"steps = 7  # {path.resolve()}",
        "seed = 3  # SPECTRO_RENDER_SEED",
    ]
    assert run("config", "unset", "steps")[0] == run("config", "unset", "fast")[0] == 0
    assert path.read_text() == "# mine\n\n[evaluate]\nseconds = 9\n"
    assert run("config", "unset", "steps")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("step", "5"), "no such option: step; did you mean steps? see"),
        (("steps", "0"), "Invalid value for steps in the configuration file: 0 is less than 1;"),
        (("start", "late"), "Invalid value for start in the configuration file: 'late' is no time"),
        (("fast", "maybe"), "fast is a flag; set it to true or false; see"),
        (("version", "1"), "no such option: version"),
    ],
)
def test_wrong_values_are_not_written(run: Run, arguments: tuple[str, str], message: str) -> None:
    code, out, err = run("config", "set", *arguments)
    assert (code, out) == (2, "") and err.startswith(f"spectro-render: {message}")
    assert not Path("etc").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 5", "config.toml: no such option: stepz; did you mean steps?"),
        ("steps = = 5", "config.toml: "),
        ("steps = 0", "Invalid value for steps in the configuration file: 0 is less than 1;"),
        ("start = 2020-01-01", "config.toml: start is a date"),
        (b"\xff\xff", "config.toml cannot be read: it is not in UTF-8"),
    ],
)
def test_a_file_that_is_wrong(run: Run, text: str | bytes, message: str) -> None:
    path = Path("etc/spectro-render/config.toml")
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, _, err = run("song.mid")
    assert code == 2 and message in err and err.count("\n") == 1
    assert run("config", "path")[0] == 0


def test_a_wrong_variable_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRO_RENDER_STEPS", "many")
    assert run("song.mid")[2].startswith(
        "spectro-render: Invalid value for SPECTRO_RENDER_STEPS: 'many' is not a whole number;"
    )
    monkeypatch.delenv("SPECTRO_RENDER_STEPS")
    monkeypatch.setenv("SPECTRO_RENDER_STEP", "5")
    monkeypatch.setenv("SPECTRO_RENDER_VERSION", "1.0")  # of an image, say
    assert run("gone.mid")[2].splitlines()[0] == (
        "spectro-render: the variable SPECTRO_RENDER_STEP is none of this program's;"
        " did you mean SPECTRO_RENDER_STEPS?"
    )


def test_all_variables_of_the_docs_are_known(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md"]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    names = set(re.findall(r"\bSPECTRO_RENDER_[A-Z_]*[A-Z]\b", text)) - {"SPECTRO_RENDER_CONFIG"}
    assert {"SPECTRO_RENDER_CACHE", "SPECTRO_RENDER_STEPS"} <= names
    for name in names:
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            said = run("gone.mid")[2]
        assert said and "none of this program's" not in said, name


def test_of_rivals_the_stronger_counts(
    run: Run, song: MakeSong, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song()
    run("config", "set", "fast", "true")
    run("config", "set", "quality", "8")
    monkeypatch.setenv("SPECTRO_RENDER_BIT_DEPTH", "24")
    options = ["-q", "--model", str(tiny_model)]
    assert run("song.mid", "--best", "-o", "a.mp3", *options) == (0, "", "")
    assert run("song.mid", "--fast", "-o", "b.wav", *options) == (0, "", "")
    assert soundfile.info("b.wav").subtype == "PCM_24"
    code, _, err = run("song.mid", "--fast", "--best", *options)
    assert code == 2 and "--fast and --best exclude each other" in err
