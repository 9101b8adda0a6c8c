"""Lets new environments use the installed packages, so that they are not fetched again."""

import sys
from pathlib import Path


def lend_packages(site: Path, folder: Path) -> None:
    """Let an environment use the packages of the running environment, except this project.

    `site` is the site-packages folder of the environment; `folder` is made for links to packages.
    They take precedence over the environment's own packages, which may be too old.
    """
    folder.mkdir()
    for place in map(Path, sys.path):
        if place.name == "site-packages" and place.is_dir():
            for entry in place.iterdir():
                link = folder / entry.name
                is_own = "spectro_render" in entry.name or entry.suffix == ".pth"
                if not is_own and not link.is_symlink():
                    link.symlink_to(entry)
    (site / "lent.pth").write_text(f"import sys; sys.path.insert(0, {str(folder)!r})\n")
