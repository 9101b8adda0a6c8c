"""What releases are made with: the workflow, the audit of packages, and the promises about them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from spectro_render.checkpoints import files, onnx_file, pickles, t5x_files
from spectro_render.checkpoints.manifest import verify
from spectro_render.options import MAX_STEPS
from tests.support import audit
from tests.support.processes import CompletedProcess, run_program

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"


def steps() -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(WORKFLOW.read_text())["jobs"].values():
        yield from job["steps"]


def test_actions_are_named_by_full_versions_or_commits() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert len(used) >= 6
    for name in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})", name), name


def test_only_the_last_job_may_publish_and_nothing_has_a_secret() -> None:
    text = WORKFLOW.read_text()
    content = yaml.safe_load(text)
    assert "secrets." not in text and "password" not in text.replace("no password", "")
    assert content["permissions"] == {}
    assert content["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert content["jobs"]["publish"]["needs"] == "build"
    assert "contents: write" not in text


def test_the_workflow_runs_what_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    script = "\n".join(step.get("run", "") for step in steps())
    assert set(re.findall(r"make ([a-z-]+)", script)) <= targets
    assert ".ci/run" in script
    subjects = next(step["with"]["subject-path"] for step in steps() if "attest" in str(step))
    assert (ROOT / subjects.split()[-1]).is_file()


def test_the_bundled_weights_match_their_list() -> None:
    assert verify(ROOT / "weights" / "default")


def test_the_limits_in_the_promises_are_those_of_the_code() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert files.MAX_BYTES == pickles.MAX_PICKLE == 16 << 20 and text.count("16 MiB") == 2
    assert onnx_file.MAX_BYTES == 1 << 30 and "1 GiB" in text
    assert f"{onnx_file.MAX_NODES:,}".replace(",", " ") + " operators" in text
    assert f"at most {t5x_files.MAX_RATIO} times their size" in text
    assert f"{MAX_STEPS:,}".replace(",", " ") in text


# --- audit ------------------------------------------------------------------------------------

FAULT = {"id": "PYSEC-1", "fix_versions": ["1.1"]}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([], 0, "audit: skipped, as no advisories could be fetched\n"),
        (
            [{"name": "a", "skip_reason": "not found"}],
            0,
            "audit: skipped, as no advisories could be fetched\n",
        ),
        (
            [{"name": "a", "version": "1", "vulns": []}],
            0,
            "audit: 1 packages, 0 known vulnerabilities\n",
        ),
        (
            [{"name": "a", "version": "1.0", "vulns": [FAULT]}],
            1,
            "a 1.0: PYSEC-1; corrected in: 1.1\naudit: 1 packages, 1 known vulnerabilities\n",
        ),
    ],
)
def test_what_an_audit_says(
    packages: list[dict[str, Any]], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.report(packages) == code
    assert capsys.readouterr().out == said


def test_an_audit_without_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "find_spec", lambda name: None)
    assert audit.main() == 0
    monkeypatch.setattr(audit, "find_spec", lambda name: object())
    failed = CompletedProcess([], 1, "", "ConnectionError\n" * 50)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: failed)
    assert audit.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "audit: skipped, as pip-audit is not installed",
        "audit: skipped, as no advisories could be fetched",
    ]


@pytest.mark.slow
def test_a_list_of_packages(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx_py")
    path = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject"]
    command += [str(ROOT / "pyproject.toml"), "--output-format", "JSON", "-o", str(path)]
    run_program(command, check=True, capture_output=True)
    text = path.read_text()
    assert '"name": "torch"' in text and str(ROOT) not in text
