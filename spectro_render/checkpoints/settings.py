"""What each setting of a model directory may be: one table of types and ranges, and its check.

A directory may come from a stranger. So every value is checked when its file is read, before
anything is built or allocated from it. Settings that are not in the table are not read.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_type_hints

from spectro_render.constants import HOP_LENGTH, MAX_TOKENS, N_MELS, WINDOW_FRAMES
from spectro_render.errors import WeightsError
from spectro_render.network.config import ModelConfig
from spectro_render.options import MAX_STEPS, SAMPLERS
from spectro_render.tokens.vocabulary import MAX_VELOCITY

if TYPE_CHECKING:
    from spectro_render.checkpoints.files import Json

UNSUPPORTED = "choose another model, or a newer version of this program"  # what to do about it


# --- kinds of values --------------------------------------------------------------------------


class Rule(Protocol):
    """The values that a setting may have; as text, for errors: 'a whole number from 1 to 8'."""

    def allows(self, value: object) -> bool:
        """Whether a value read from JSON is one of them."""


@dataclass(frozen=True)
class Whole:
    """Whole numbers in a range, or only the multiples of a number in it."""

    low: int
    high: int
    multiple: int = 1

    def allows(self, value: object) -> bool:
        if type(value) is not int:  # nor a bool, which is an int too
            return False
        return self.low <= value <= self.high and value % self.multiple == 0

    def __str__(self) -> str:
        kind = "whole number" if self.multiple == 1 else f"multiple of {self.multiple}"
        return f"a {kind} from {self.low} to {self.high}"


@dataclass(frozen=True)
class Real:
    """Numbers in a range; NaN is in none."""

    low: float
    high: float

    def allows(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class OneOf:
    """A few values, of which `true` is not the number 1."""

    values: tuple[object, ...]

    def allows(self, value: object) -> bool:
        is_bool = isinstance(value, bool)
        return any(value == one and isinstance(one, bool) == is_bool for one in self.values)

    def __str__(self) -> str:
        return " or ".join("null" if one is None else repr(one) for one in self.values)


@dataclass(frozen=True)
class Text:
    """Any text."""

    def allows(self, value: object) -> bool:
        return isinstance(value, str)

    def __str__(self) -> str:
        return "text"


@dataclass(frozen=True)
class Items:
    """Lists of up to `most` values that follow one rule."""

    item: Rule
    most: int

    def allows(self, value: object) -> bool:
        if not isinstance(value, list | tuple) or len(value) > self.most:
            return False
        return all(self.item.allows(item) for item in value)

    def __str__(self) -> str:
        return f"a list of at most {self.most}, each {self.item}"


@dataclass(frozen=True)
class Pair:
    """Lists of two values, each with a rule of its own."""

    first: Rule
    second: Rule

    def allows(self, value: object) -> bool:
        if not isinstance(value, list | tuple) or len(value) != 2:
            return False
        return self.first.allows(value[0]) and self.second.allows(value[1])

    def __str__(self) -> str:
        return f"a list of {self.first}, and {self.second}"


@dataclass(frozen=True)
class Either:
    """Values that follow one of two rules."""

    one: Rule
    other: Rule

    def allows(self, value: object) -> bool:
        return self.one.allows(value) or self.other.allows(value)

    def __str__(self) -> str:
        return f"{self.one} or {self.other}"


@dataclass(frozen=True)
class Object:
    """JSON objects."""

    def allows(self, value: object) -> bool:
        return isinstance(value, dict)

    def __str__(self) -> str:
        return "an object"


NULL = OneOf((None,))


# --- the table --------------------------------------------------------------------------------

MAX_SETTING = 1 << 16  # sensible sizes are smaller
MAX_VECTORS = 1 << 22  # of a soundfont's recordings: 23 hours of them

# Settings of diffusers that are supported with one value only. Older releases leave some out.
_T5 = {"feed_forward_proj": "gated-gelu", "is_decoder": False}
FIXED: dict[str, Json] = {
    "notes": {**_T5, "max_length": MAX_TOKENS},
    "context": {**_T5, "input_dims": N_MELS, "targets_context_length": WINDOW_FRAMES},
    "decoder": {
        "input_dims": N_MELS,
        "targets_length": WINDOW_FRAMES,
        "max_decoder_noise_time": 20_000.0,
    },
}
FIXED_SCHEDULER: Json = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "variance_type": "fixed_large",
}
PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}  # ours -> diffusers'


def _only(fixed: Json) -> dict[str, Rule]:
    return {name: OneOf((value,)) for name, value in fixed.items()}


def _choices(name: str) -> OneOf:
    """The values that a field of ModelConfig may have."""
    return OneOf(get_args(get_type_hints(ModelConfig)[name]))


_SIZE = Whole(1, MAX_SETTING)
_NETWORK: dict[str, Rule] = {
    "d_model": Whole(4, MAX_SETTING, multiple=2),  # one half are sines, the other cosines
    "num_heads": Whole(1, 256),
    "d_kv": Whole(1, 4096),
    "d_ff": _SIZE,
    "dropout_rate": Real(0, 1),
    "num_layers": Whole(1, 128),  # each takes time to build
}
_CLASSES = Either(Pair(Text(), Text()), Either(Pair(NULL, NULL), NULL))  # library and class
_SAMPLING = Pair(OneOf(SAMPLERS), Whole(1, MAX_STEPS))
_ITERATIONS = Whole(0, 100)  # each takes time in every window
_DILATIONS = Items(Whole(1, 256), most=16)

INDEX_SETTINGS: dict[str, Rule] = {
    "notes_encoder": _CLASSES,
    "continuous_encoder": _CLASSES,
    "decoder": _CLASSES,
    "scheduler": _CLASSES,
    "melgan": _CLASSES,
    "band": _CLASSES,
    "defaults": Object(),
}
DEFAULTS_SETTINGS: dict[str, Rule] = {  # within model_index.json
    "sampler": OneOf(SAMPLERS),
    "steps": Whole(1, MAX_STEPS),
    "guidance": Real(-100, 100),
    "gain": Either(Real(-60, 60), NULL),  # dB
    "fast": _SAMPLING,
    "best": _SAMPLING,
}
SCHEDULER_SETTINGS: dict[str, Rule] = {
    **_only(FIXED_SCHEDULER),
    "rescale_betas_zero_snr": OneOf((False,)),
    "num_train_timesteps": Whole(1, MAX_STEPS),
    "steps_offset": Whole(0, MAX_STEPS),
    "prediction_type": OneOf(tuple(PREDICTION_TYPES.values())),
}
NETWORK_SETTINGS: dict[str, dict[str, Rule]] = {
    "notes": {
        **_only(FIXED["notes"]),
        **_NETWORK,
        "vocab_size": _SIZE,
        "note_width": Whole(0, MAX_SETTING),
        "draft": _choices("draft"),
        "curve_width": Whole(0, MAX_SETTING),
        "curve_hidden": Whole(0, MAX_SETTING, multiple=4),
        "latent_width": Whole(0, MAX_SETTING),
        "recordings": Whole(0, MAX_SETTING),
        "recorded_frames": Whole(0, MAX_VECTORS),
        "memory_steps": Whole(0, MAX_SETTING),
        "velocity_bins": Whole(1, MAX_VELOCITY),
        "programs": _choices("programs"),
    },
    "context": {
        **_only(FIXED["context"]),
        **_NETWORK,
        "tail_frames": Whole(0, WINDOW_FRAMES),
    },
    "decoder": {
        **_only(FIXED["decoder"]),
        **_NETWORK,
        "conditioning": _choices("conditioning"),
        "level_width": _SIZE,
        "decoder": _choices("decoder"),
        "output_function": _choices("output_function"),
        "components": Whole(1, 1024),
        "min_sigma": Real(1e-6, 100),
        "max_sigma": Real(1e-6, 100),
        "dither": Real(0, 100),
    },
}
VOCODER_SETTINGS: dict[str, Rule] = {  # melgan/config.json
    "head": OneOf(("spectrum", "waveform")),
    "channels": Whole(1, 4096),
    "dilations": _DILATIONS,
    "upsample": Items(Whole(1, 320), most=8),
    "stage_dilations": _DILATIONS,
    "window": Whole(640, 5120, multiple=2 * HOP_LENGTH),  # samples
    "patch": Whole(2, 1024, multiple=2),
    "sketch_iterations": _ITERATIONS,
    "iterations": _ITERATIONS,
    "corrections": _ITERATIONS,
    "contrast": Real(0, 10),
    "lines": Whole(0, 1024),
    "attacks": OneOf((False, True)),
    "delays": OneOf((False, True)),
    "courses": OneOf((False, True)),
}
BAND_SETTINGS: dict[str, Rule] = {"width": Whole(1, 4096)}  # band/config.json


# --- the check --------------------------------------------------------------------------------


def check_settings(values: Json, rules: Mapping[str, Rule], place: Path | str) -> None:
    """Raise WeightsError, which names the file `place`, for a value that its rule does not allow.

    Settings without a rule are ignored, and none has to be there.
    """
    for name, rule in rules.items():
        if name in values and not rule.allows(values[name]):
            message = f"{place}: {name} is {shown(values[name])}, but must be {rule}"
            raise WeightsError(message, UNSUPPORTED)


def check_names(values: Json, rules: Mapping[str, Rule], place: Path | str) -> None:
    """Raise WeightsError, which names the file `place`, for a setting that has no rule."""
    for name in values:
        if name not in rules:
            message = f"{place}: {shown(name)} is not a known setting"
            raise WeightsError(message, UNSUPPORTED)


def shown(value: Any) -> str:
    """A value from JSON as text of at most some 100 characters, however deep or long it is."""
    text = reprlib.repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
