"""The interface for programs: its parameters, and its description in OpenAPI's format."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from spectro_render import __version__
from spectro_render.audio.encoders import BIT_DEPTHS, MAX_RATE, MIN_RATE
from spectro_render.midi.changes import MAX_TEMPO, MAX_VELOCITY, MIN_TEMPO, MIN_VELOCITY
from spectro_render.options import CHANNELS, MAX_GUIDANCE, SAMPLERS, STEMS_BY, RenderOptions
from spectro_render.serve.limits import Limits, Refusal


class Parameter(NamedTuple):
    """A parameter of a request, which is a field of RenderOptions."""

    meaning: str
    kind: type  # of its value
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()


PARAMETERS = {
    "quality": Parameter(
        "the model's steps for speed or for quality", str, choices=("fast", "best")
    ),
    "steps": Parameter("denoising steps in each window of 5.12 s", int, 1),
    "sampler": Parameter("sampling method of the diffusion model", str, choices=SAMPLERS),
    "guidance": Parameter("weight of guidance; 1: none", float, -MAX_GUIDANCE, MAX_GUIDANCE),
    "seed": Parameter("random seed", int, 0, 2**63 - 1),
    "start": Parameter("position in the song at which to begin, in seconds", float, 0, 1e6),
    "duration": Parameter("length of the part to render, in seconds", float, 1e-3, 1e6),
    "tail": Parameter("time after the last note, in seconds", float, 0, 1e4),
    "gain": Parameter("gain in dB before the limiter", float, -60, 60),
    "bars": Parameter("bars to render, such as 40-48", str),
    "program": Parameter("PART=INSTRUMENT: another instrument for a channel or track", str),
    "skip_missing": Parameter(
        "leave out programs for parts that a song has not", bool, choices=("on", "off")
    ),
    "drums": Parameter("whether drums are played", bool, choices=("on", "off")),
    "transpose": Parameter("semitones, of all but drums", int, -127, 127),
    "tempo": Parameter("times that of the file", float, MIN_TEMPO, MAX_TEMPO),
    "velocity": Parameter("times those of the file", float, MIN_VELOCITY, MAX_VELOCITY),
    "channels": Parameter("mono or stereo; auto: stereo if the file pans", str, choices=CHANNELS),
    "solo": Parameter("a part to render; may be repeated", str),
    "mute": Parameter("a part that is not rendered; may be repeated", str),
    "stems": Parameter(
        "keep the sound of each part, for stems.zip and the report", bool, choices=("on", "off")
    ),
    "stems_by": Parameter("what a part is", str, choices=STEMS_BY),
    "full_band": Parameter(
        "sound up to 20 kHz, at 48 kHz; auto: if the model can", bool, choices=("on", "off", "auto")
    ),
    "to_end_of_track": Parameter("with the rests at the end", bool, choices=("on", "off")),
}
OTHERS = ("format", "sample_rate", "bit_depth", "name", "live")  # parameters that are no options


def options_of(query: Sequence[tuple[str, str]], limits: Limits) -> RenderOptions:
    """The options of a request. Raises Refusal for unknown names and impossible values."""
    values: dict[str, Any] = {}
    programs: dict[int | str, int | str] = {}
    parts: dict[str, list[str]] = {"solo": [], "mute": []}
    for name, text in query:
        if name in OTHERS:
            continue
        if name not in PARAMETERS:
            known = ", ".join((*OTHERS, *PARAMETERS))
            raise Refusal(400, f"unknown parameter {name!r}; use one of {known}")
        parameter = PARAMETERS[name]
        most = limits.steps if name == "steps" else parameter.most
        if parameter.choices:
            if text not in parameter.choices:
                raise Refusal(400, f"{name} is {text!r}, none of {', '.join(parameter.choices)}")
            values[name] = {"on": True, "off": False}.get(text) if parameter.kind is bool else text
            continue
        if name == "program":
            part, _, instrument = text.rpartition("=")
            programs[part] = instrument
            continue
        if name in parts:
            parts[name].append(text)
            continue
        if parameter.kind is str:
            values[name] = text
            continue
        read: Callable[[str], float] = parameter.kind
        try:
            value = read(text)
        except ValueError:
            raise Refusal(400, f"{name} is {text!r}, not a number") from None
        if not parameter.least <= value <= most:
            raise Refusal(400, f"{name} is {text}; allowed is {parameter.least:g} to {most:g}")
        values[name] = value
    solo, mute = map(tuple, parts.values())
    return RenderOptions(**values, programs=programs, solo=solo, mute=mute)


def description(limits: Limits) -> dict[str, Any]:
    """The interface in the format of OpenAPI 3.1."""
    sound = {"audio/*": {"schema": {"type": "string", "format": "binary"}}}
    failed = {
        "description": "an object with the field `error`: the reason in words",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    failures = {str(code): failed for code in (400, 401, 403, 404, 408, 413, 421, 429, 503)}
    number = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    encoding = [
        _query("sample_rate", "of the sound, in Hz", _number("integer", MIN_RATE, MAX_RATE)),
        _query(
            "bit_depth",
            "of wav, flac (not float) and raw",
            {"type": "string", "enum": list(BIT_DEPTHS["wav"])},
        ),
    ]
    format = _query("format", "of the sound", {"enum": list(BIT_DEPTHS), "default": "wav"})
    options = [
        _query("name", "of the song, to be shown", {"type": "string"}),
        _query(
            "live",
            "off: send the sound in larger parts, which take less work",
            {"type": "string", "enum": ["on", "off"]},
        ),
    ]
    for name, parameter in PARAMETERS.items():
        kinds = {str: "string", bool: "string", int: "integer", float: "number"}
        kind = kinds[parameter.kind]
        most = limits.steps if name == "steps" else parameter.most
        schema: dict[str, Any] = {"type": kind}
        if parameter.choices:
            schema["enum"] = list(parameter.choices)
        elif kind != "string":
            schema = _number(kind, parameter.least, most)
        options.append(_query(name, parameter.meaning, schema))
    body = {
        "required": True,
        "description": f"a MIDI file of up to {limits.upload} bytes",
        "content": {"audio/midi": {"schema": {"type": "string", "format": "binary"}}},
    }
    job = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}}

    def operation(summary: str, parameters: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        return {"summary": summary, "parameters": parameters, "responses": answer | failures}

    of_job = {"description": "the state of the song", **job}
    return {
        "openapi": "3.1.0",
        "info": {"title": "spectro-render", "version": __version__},
        "paths": {
            "/render": {
                "post": {
                    **operation(
                        "Render a song; the sound comes while it is made",
                        [format, *encoding, *options],
                        {"200": {"description": "the sound", "content": sound}},
                    ),
                    "requestBody": body,
                }
            },
            "/jobs": {
                "post": {
                    **operation("Order a song", options, {"201": of_job}),
                    "requestBody": body,
                }
            },
            "/jobs/{id}": {
                "get": operation("The state of a song", [number], {"200": of_job}),
                "delete": operation(
                    "Forget a song, finished or not", [number], {"204": {"description": "done"}}
                ),
            },
            "/jobs/{id}/sound.{format}": {
                "get": operation(
                    "The sound of a song from its beginning, as it comes",
                    [number, {**format, "in": "path", "required": True}, *encoding],
                    {"200": {"description": "the sound", "content": sound}},
                )
            },
            "/jobs/{id}/stems.zip": {
                "get": operation(
                    "The mix and the stems of a finished song that was ordered with stems=on",
                    [number, format, *encoding],
                    {"200": {"description": "a ZIP file", "content": {"application/zip": {}}}},
                )
            },
            "/jobs/{id}/report.html": {
                "get": operation(
                    "A page with a player, for a song that is done",
                    [number],
                    {"200": {"description": "the page", "content": {"text/html": {}}}},
                )
            },
            "/about": {
                "get": operation(
                    "The model and the limits",
                    [],
                    {"200": {"description": "an object", "content": {"application/json": {}}}},
                )
            },
        },
        "components": {
            "schemas": {
                "Error": {"type": "object", "properties": {"error": {"type": "string"}}},
                "Job": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "name": {"type": "string"},
                        "state": {"enum": ["waiting", "rendering", "done", "failed"]},
                        "error": {"type": "string"},
                        "seconds": {"type": "number", "description": "of sound so far"},
                        "windows": {"type": "integer"},
                        "windows_done": {"type": "integer"},
                        "wall_seconds": {"type": "number"},
                        "stems": _texts("names of the parts whose sound is kept"),
                        "notes": {"type": "integer"},
                        "ignored": _texts("what cannot be played"),
                        "repairs": _texts("what was damaged"),
                        "left_out": {"description": "pairs of a time and a number of notes"},
                        "losses": _texts("all of these in words"),
                    },
                },
            }
        },
    }


def _query(name: str, meaning: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


def _number(kind: str, least: float, most: float) -> dict[str, Any]:
    return {"type": kind, "minimum": least, "maximum": most}


def _texts(meaning: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}, "description": meaning}
