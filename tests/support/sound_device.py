"""A sound device without hardware: ALSA's plugin that writes what is played to a file."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = """pcm.default {{
    type file
    slave.pcm {{ type null }}
    file "{target}"
    format "raw"
}}
"""
# Takes sound as a real device does: so many bytes in a second.
PACE = """import sys, time
begun, taken = time.monotonic(), 0
with open(sys.argv[1], "wb", buffering=0) as file:
    while data := sys.stdin.buffer.read1(4096):
        file.write(data)
        taken += len(data)
        time.sleep(max(0, begun + taken / int(sys.argv[2]) - time.monotonic()))
"""


def require_portaudio() -> None:
    """Skip the test where nothing can be played without hardware."""
    if sys.platform != "linux":
        pytest.skip("ALSA is for Linux")
    try:
        pytest.importorskip("sounddevice", exc_type=ImportError)
    except OSError:
        pytest.skip("PortAudio is missing (Debian: libportaudio2)")


class Device:
    """The device, in the variables of a program that plays; PortAudio takes it as the default."""

    def __init__(self, folder: Path, *, bytes_per_second: int | None = None) -> None:
        """Without `bytes_per_second`, the device takes sound as fast as it comes."""
        folder.mkdir()
        self.played = folder / "played.raw"
        target = str(self.played)
        if bytes_per_second is not None:
            script = folder / "pace.py"
            script.write_text(PACE)
            target = f"|{sys.executable} {script} {self.played} {bytes_per_second}"
        configuration = folder / "asound.conf"
        configuration.write_text(FILE.format(target=target))
        self.variables = {**os.environ, "ALSA_CONFIG_PATH": str(configuration)}

    def sound(self) -> np.ndarray:
        """What was played: samples (S, 2)."""
        return np.fromfile(self.played, np.float32).reshape(-1, 2)
