"""Shell completion: what shells ask and are answered, the scripts they source, and installing."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spectro_render.cli.app import run
from spectro_render.cli.completion import COMPLETE
from tests.support.processes import run_program

ROOT = Path(__file__).parents[1]

Offered = Callable[..., list[str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without files to work in, and a cache of the Hub that holds no models."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def offered(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Offered:
    """Asks as a shell does; the last of the words after the program's name is being typed."""

    def ask(*words: str, shell: str = "bash") -> list[str]:
        line = ["spectro-render", *words]
        monkeypatch.setenv(COMPLETE, f"complete_{shell}")
        if shell == "bash":
            monkeypatch.setenv("COMP_WORDS", "\n".join(line))
            monkeypatch.setenv("COMP_CWORD", str(len(words)))
        else:
            monkeypatch.setenv("_TYPER_COMPLETE_ARGS", " ".join(line).rstrip(" "))
            monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
            if shell == "powershell":
                monkeypatch.setenv("_TYPER_COMPLETE_WORD_TO_COMPLETE", words[-1])
            elif not words[-1]:
                monkeypatch.setenv("_TYPER_COMPLETE_ARGS", " ".join(line))
        with pytest.raises(SystemExit) as ended:
            run([])
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (0, "")
        return said.out.splitlines()

    return ask


# --- what is offered ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], ["info", "models", "train", "evaluate", "again", "serve", "config", "doctor"]),
        (["in"], ["info"]),
        (["info"], ["info"]),
        (["--fa"], ["--fast"]),
        (["--install"], ["--install-completion"]),
        (["song.mid", "--fast", "--samp"], ["--sampler", "--sample-rate"]),
        (["--sampler", ""], ["ddpm", "ddpm-small", "ddim", "dpm++", "diffusers"]),
        (["--sampler", "dp"], ["dpm++"]),
        (["--sampler", "=", "dp"], ["dpm++"]),  # bash makes words of --sampler=dp
        (["--steps", "=", "5", "--engine", "="], ["local", "ray"]),
        (["song.mid", "--format", "f"], ["flac"]),
        (["--dtype", "b"], ["bfloat16"]),
        (["--bit-depth", ""], ["16", "24", "float"]),
        (["--engine", "r"], ["ray"]),
        (["--device", "c"], ["cpu", "cuda"]),
        (["--model", ""], ["default"]),
        (["--vocoder", ""], ["melgan", "onnx", "griffin-lim", "default"]),
        (["--steps", "wrong", "--engine", ""], ["local", "ray"]),
        (["--version", "--engine", ""], ["local", "ray"]),
        (["info", "--js"], ["--json"]),
        (["info", "--model", "d"], ["default"]),
        (["models", ""], ["list", "pull", "path", "verify", "check", "timbre", "convert"]),
        (["models", "v"], ["verify"]),
        (["models", "verify", "d"], ["default"]),
        (["models", "pull", "goo"], ["google/music-spectrogram-diffusion"]),
        (["models", "convert", "default", "out", "--dtype", "f"], ["float32", "float16"]),
    ],
)
def test_bash_is_offered(words: list[str], expected: list[str], offered: Offered) -> None:
    assert offered(*words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--stage", "d"], ["data", "diffusion"]),
        (["train", "--preset", "base-"], ["base-no-context", "base-autoregressive"]),
        (["train", "--start-from", ""], ["default"]),
    ],
)
def test_train(words: list[str], expected: list[str], offered: Offered) -> None:
    pytest.importorskip("matplotlib")
    assert offered(*words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate", "--held"], ["--held-out"]),
        (["evaluate", "--sampler", "ddi"], ["ddim"]),
        (["evaluate", "midis", "--vocoder", "gr"], ["griffin-lim"]),
    ],
)
def test_evaluate(words: list[str], expected: list[str], offered: Offered) -> None:
    pytest.importorskip("mir_eval")
    assert offered(*words) == expected


@pytest.mark.parametrize(
    "words", [["song"], ["song.mid", ""], ["info", ""], ["info", "in"], ["-o", ""], ["--steps", ""]]
)
def test_nothing_is_offered_where_the_shell_offers_files(
    words: list[str], here: Path, offered: Offered
) -> None:
    (here / "song.mid").touch()
    (here / "intro.mid").touch()
    assert offered(*words) in ([], [""])  # an empty line is none to bash


def test_files_stand_beside_what_would_hide_them(here: Path, offered: Offered) -> None:
    for name in ("intro.mid", "in (live).mid", "other.mid", ".info"):
        (here / name).touch()
    (here / "indie").mkdir()
    assert offered("in") == ["info", r"in\ \(live\).mid", "indie/", "intro.mid"]
    assert offered("in", shell="fish") == ["info", "in (live).mid", "indie/", "intro.mid"]
    (here / "demos").mkdir()
    assert offered("--model", "de") == ["default", "demos/"]


@pytest.mark.parametrize("shell", ["fish", "powershell", "zsh"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mo"], "models"),
        (["models", ""], "convert"),
        (["info", "--js"], "--json"),
        (["--sampler", "dpm"], "dpm++"),
        (["--model", ""], "default"),
    ],
)
def test_other_shells(shell: str, words: list[str], expected: str, offered: Offered) -> None:
    lines = offered(*words, shell=shell)
    assert expected in re.split(r"""[\s:"()]+""", "\n".join(lines))  # around it: help and quotes


def test_a_sub_command_whose_packages_are_missing_offers_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "spectro_render.cli.evaluate", None)
    monkeypatch.setenv(COMPLETE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "spectro-render\nevaluate\n--")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert run([]) == 1
    assert capsys.readouterr() == ("", "")


# --- the scripts that shells source -------------------------------------------------------------


@pytest.fixture
def shell_of(tmp_path: Path, here: Path) -> Callable[[str, str], str]:
    """Runs a line of shell in a home of its own, with the program on PATH; all that is printed.

    Which shell Typer sees is the name that the process goes by, so bash plays those not installed.
    """
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    program = programs / "spectro-render"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m spectro_render "$@"\n')
    program.chmod(0o755)
    variables = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def run_line(shell: str, line: str) -> str:
        found = shutil.which("bash")
        if found is None:
            pytest.skip("bash is not installed")
        named = tmp_path / "shells" / shell
        named.parent.mkdir(exist_ok=True)
        named.symlink_to(found)
        done = run_program(
            [named, "--norc", "-c", line], cwd=here, env=variables, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run_line


BASH_LINE = """
eval "$(spectro-render --show-completion)"
complete -p spectro-render
ask() {
    COMP_WORDS=(spectro-render "$@")
    COMP_CWORD=$#
    _spectro_render_completion spectro-render
    echo "${COMPREPLY[*]}"
}
ask mo
ask --sampler = dd
ask models path ''
ask nothing
"""


def test_bash_completes_with_the_script_it_is_shown(shell_of: Callable[[str, str], str]) -> None:
    assert shell_of("bash", BASH_LINE).splitlines() == [
        "complete -o default -F _spectro_render_completion spectro-render",
        "models",
        "ddpm ddpm-small ddim",
        "default",
        "",
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish", "pwsh", "powershell"])
def test_scripts_of_other_shells_ask_this_program(
    shell: str, shell_of: Callable[[str, str], str]
) -> None:
    script = shell_of(shell, "spectro-render --show-completion; true")
    assert COMPLETE in script
    assert f"complete_{'powershell' if shell == 'pwsh' else shell}" in script
    assert "spectro-render" in script


FAKE_POWERSHELL = """#!/bin/sh
case "$*" in *profile*) echo "$HOME/profile.ps1" ;; esac
"""


@pytest.mark.parametrize(
    ("shell", "written"),
    [
        ("bash", [".bash_completions/spectro-render.sh", ".bashrc"]),
        ("fish", [".config/fish/completions/spectro-render.fish"]),
        ("pwsh", ["profile.ps1"]),
        ("zsh", [".zfunc/_spectro-render", ".zshrc"]),
    ],
)
def test_installing_writes_below_home_only(
    shell: str, written: list[str], tmp_path: Path, shell_of: Callable[[str, str], str]
) -> None:
    powershell = tmp_path / "bin/pwsh"  # is run for the place of its profile
    powershell.write_text(FAKE_POWERSHELL)
    powershell.chmod(0o755)
    before = own_settings()
    said = shell_of(shell, "spectro-render --install-completion; true")
    assert said.startswith(f"{shell} completion installed in {tmp_path}/home/")
    home = tmp_path / "home"
    assert sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()) == written
    assert list((tmp_path / "here").iterdir()) == []
    assert own_settings() == before


def own_settings() -> dict[str, int]:
    """What shells read in the home of who runs the tests: path -> time of the last change (ns)."""
    names = (".bashrc", ".bash_completions", ".zshrc", ".zfunc", ".config/fish/completions")
    paths = [Path.home() / name for name in names]
    return {str(path): path.stat().st_mtime_ns for path in paths if path.exists()}
