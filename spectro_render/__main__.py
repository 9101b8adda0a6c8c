"""Runs the command line: `python -m spectro_render` and the console script."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Run the program with the arguments in `sys.argv`, and exit."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_at_once)
    from spectro_render.cli import app

    app.main()


def _exit_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """End the program while it starts: there is nothing to clean up."""
    os.write(2, b"spectro-render: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
