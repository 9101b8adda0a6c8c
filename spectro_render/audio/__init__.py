"""Sound in memory, its level, its encoding and the files that it is written to."""

from spectro_render.audio.audio import Audio, AudioWriter
from spectro_render.audio.limiter import DEFAULT_GAIN, Limiter

__all__ = ["DEFAULT_GAIN", "Audio", "AudioWriter", "Limiter"]
