"""The command line."""

from spectro_render.cli.app import main, run

__all__ = ["main", "run"]
