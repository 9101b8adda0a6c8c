"""What is told about an installation: `doctor`, and `--version --verbose`."""

import json
from pathlib import Path

import pytest

from spectro_render.checkpoints import find
from spectro_render.cli import app as cli

ROOT = Path(__file__).parents[1]


def test_doctor_measures_each_model(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "small").symlink_to(tiny_model)
    monkeypatch.setattr(find, "MODEL_FOLDERS", (tmp_path,))
    monkeypatch.setenv("SPECTRO_RENDER_SEED", "3")
    assert cli.run(["doctor", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    (speed,) = facts["speed"]
    assert speed.startswith("small on cpu: ") and speed.endswith(" times real time")
    assert facts["multiplication"].split()[1] == "GFLOP/s"
    assert facts["variables"] == ["SPECTRO_RENDER_SEED"]
    assert "opus" in facts["formats"] and facts["devices"][0] == "cpu"


def test_doctor_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "spectro_render.cli.doctor._version", lambda name: "" if name == "ray" else "1"
    )
    monkeypatch.setattr("spectro_render.cli.doctor.shutil.which", lambda name: None)
    assert cli.run(["doctor", "--quick"]) == 0
    lines = capfd.readouterr().out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("missing "))
    missing = [line[17:] for line in lines[start:]]
    assert missing[0] == "ray: pip install 'ray>=2.40'" and "FluidSynth" in missing[1]
    assert len(missing) == 2 and not any(line.startswith("speed") for line in lines)


def test_the_version_has_details(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version", "--verbose"], ["-vV"]):
        assert cli.run(arguments) == 0
        out = capfd.readouterr().out
        assert out.startswith("spectro-render: 0.") and "\ntorch: built for " in out
        assert "\npackages: torch " in out
    assert cli.run(["song.mid", "--verbose"]) == 2
    assert "--verbose is for --version" in capfd.readouterr().err


def test_reports_of_faults_ask_for_these_details() -> None:
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    assert "spectro-render --version --verbose" in form and "spectro-render doctor" in form
