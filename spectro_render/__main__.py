"""Runs the command line: `python -m spectro_render`."""

from spectro_render.cli.app import main

main()
