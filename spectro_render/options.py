"""Records of the user's choices and of progress, which all parts share; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

SAMPLERS = ("ddpm", "ddpm-small", "ddim", "dpm++", "diffusers")  # of diffusion models
CHANNELS = ("auto", "mono", "stereo")
STEMS_BY = ("track", "channel", "program", "bus")  # what a part of a song is
MAX_STEPS = 100_000  # of denoising; all their noise levels are computed before the first one
MAX_GUIDANCE = 100.0  # 2 is usual
FULL_BAND_RATE = 32_000  # Hz: from this rate of the output on, the full band is on by itself
MAX_HOURS = 3.0  # of sound that a file may make unless the user allows more


@dataclass(frozen=True)
class RenderOptions:
    """How to render; None stands for the model's own default.

    An autoregressive model takes no sampler, steps or guidance.
    """

    quality: str | None = None  # "fast" or "best": the model's presets of sampler and steps
    sampler: str | None = None  # one of SAMPLERS
    steps: int | None = None
    guidance: float | None = None  # 1: none
    seed: int = 0
    gain: float | None = None  # dB
    start: float = 0.0  # seconds of the score to skip
    duration: float | None = None  # seconds to render; None: to the end and until it has rung out
    tail: float | None = None  # seconds after the last note; None: until it has rung out
    to_end_of_track: bool = False  # with the rests at the end of the file
    full_band: bool | None = None  # up to 20 kHz, at 48 kHz; None: if the output's rate holds it
    channels: str = "auto"  # one of CHANNELS; "auto" is stereo if the song pans
    stems: bool = False  # whether the parts of the song are written, too, as files of their own
    stems_by: str = "track"  # one of STEMS_BY: what a part is, for stems, solo and mute
    solo: tuple[str, ...] = ()  # the parts to render, by number, name or instrument; (): all
    mute: tuple[str, ...] = ()  # the parts that are not rendered
    max_hours: float = MAX_HOURS  # of sound; a song that would be longer is refused
    # How the music is changed before it is rendered. The keys of `programs` are MIDI channels, 1 to
    # 16, and names of tracks; its values are General MIDI names and numbers, 1 to 128, or "drums".
    programs: Mapping[int | str, int | str] = field(default_factory=dict, hash=False)
    skip_missing: bool = False  # leave out programs for parts that a song has not, without an error
    drums: bool = True
    transpose: int = 0  # semitones, of all but drums
    tempo: float = 1.0  # times that of the file
    velocity: float = 1.0  # times those of the file, at most 127
    bars: str | None = None  # such as "40-48", "40" or "40-"; in place of start and duration


class RenderOverrides(TypedDict, total=False):
    """The fields of RenderOptions, to be given by keyword."""

    quality: str | None
    sampler: str | None
    steps: int | None
    guidance: float | None
    seed: int
    gain: float | None
    start: float
    duration: float | None
    tail: float | None
    to_end_of_track: bool
    full_band: bool | None
    channels: str
    stems: bool
    stems_by: str
    solo: tuple[str, ...]
    mute: tuple[str, ...]
    max_hours: float
    programs: Mapping[int | str, int | str]
    skip_missing: bool
    drums: bool
    transpose: int
    tempo: float
    velocity: float
    bars: str | None


@dataclass(frozen=True)
class Progress:
    """The progress of a song: `share`, 0 to 1, of window number `window` (1..windows) is done."""

    window: int
    windows: int
    share: float

    @property
    def done(self) -> float:
        """The number of windows done, with the share of the current one."""
        return self.window - 1 + self.share


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Level:
    """The level that sound is brought to when it is complete."""

    kind: str  # "peak", "lufs" or "album"
    target: float  # dBTP for peak, LUFS for the others


@dataclass(frozen=True)
class Encoding:
    """How sound is encoded in a file or stream."""

    format: str
    bit_depth: str | None = None  # None: the format's own
    sample_rate: int | None = None  # Hz; None: the model's
    quality: float | None = None  # of lossy formats, 0 to 10; None: the encoder's own
    level: Level | None = None  # None: that of the model, with its limiter
    dither: bool = True  # of samples of 16 bits
    tags: bool = True  # title, artist and settings in the file


@dataclass(frozen=True)
class Sampling:
    """How the mels of a song are drawn, with every choice made.

    An autoregressive model uses the seed alone.
    """

    sampler: str  # one of SAMPLERS
    steps: int
    guidance: float  # 1: none
    seed: int


@dataclass(frozen=True)
class ProgramTimbre:
    """The timbre that a program gets in place of the model's own."""

    program: int  # 0 to 127
    given: str  # the sound or the file of a timbre that the user named
    file: str  # the file of the timbre


@dataclass(frozen=True)
class ModelChoice:
    """The model and the device that render, by the names that the user gave."""

    name: str = "default"  # of a model or a directory, or OWNER/REPO of the Hugging Face Hub
    vocoder: str | None = None  # a kind, another model or an ONNX file; None: the model's best
    device: str = "auto"
    dtype: str = "auto"  # number format of the network's matrix products
    timbres: tuple[ProgramTimbre, ...] = ()  # of programs that have another one
