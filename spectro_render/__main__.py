"""Runs the command line: `python -m spectro_render`."""

from spectro_render.cli import main

main()
