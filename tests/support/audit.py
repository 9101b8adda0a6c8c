"""Compares the installed packages with known advisories: `python -m tests.support.audit`.

Exits with 1 if any has a known vulnerability. Where no advisories can be fetched, or pip-audit is
not installed, it says so in one line and exits with 0.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

TIMEOUT = "10"  # seconds for an answer
COMMAND = ("--local", "--progress-spinner", "off", "--format", "json", "--timeout", TIMEOUT)


def main() -> int:
    if find_spec("pip_audit") is None:
        return _skip("pip-audit is not installed")
    command = [sys.executable, "-m", "pip_audit", *COMMAND]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return _skip("no advisories could be fetched")
    return report(packages)


def report(packages: list[dict[str, Any]]) -> int:
    """Print a line for each vulnerability that pip-audit names; returns the exit code."""
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return _skip("no advisories could be fetched")
    found = [(package, fault) for package in audited for fault in package["vulns"]]
    for package, fault in found:
        better = ", ".join(fault["fix_versions"]) or "none yet"
        print(f"{package['name']} {package['version']}: {fault['id']}; corrected in: {better}")
    print(f"audit: {len(audited)} packages, {len(found)} known vulnerabilities")
    return 1 if found else 0


def _skip(reason: str) -> int:
    print(f"audit: skipped, as {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
