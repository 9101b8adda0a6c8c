"""Prints the lowest version of each package that pyproject.toml allows, as constraints for pip.

`python -m tests.support.lower_bounds > constraints.txt`; needs nothing but Python and pip.
"""

import re
from collections.abc import Iterable
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
BOUND = re.compile(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)")


def lower_bounds(requirements: Iterable[str]) -> list[str]:
    """`NAME==VERSION` for each requirement `NAME>=VERSION`; one without a bound is left out."""
    found = filter(None, map(BOUND.match, requirements))
    return [f"{bound[1]}=={bound[2]}" for bound in found]


def requirements_of(path: Path) -> list[str]:
    """The dependencies of a pyproject.toml, with those of all extras."""
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [*project["dependencies"], *(line for extra in extras for line in extra)]


if __name__ == "__main__":
    print("\n".join(dict.fromkeys(lower_bounds(requirements_of(PROJECT)))))
