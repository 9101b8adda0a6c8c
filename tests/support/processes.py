"""Programs that a test starts."""

import os


def read_all(terminal: int) -> str:
    """All that a process says to a terminal."""
    shown = b""
    try:
        while block := os.read(terminal, 4096):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    return shown.decode()
