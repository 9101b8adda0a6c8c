"""What is written into an audio file about how it was made, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectro_render import __version__
from spectro_render.audio.tags import Tags
from spectro_render.batch.jobs import Job
from spectro_render.batch.tasks import Settings
from spectro_render.errors import OptionError, reason_of
from spectro_render.midi.score import About
from spectro_render.options import Encoding, ModelChoice, RenderOptions
from spectro_render.report import PROGRAM

_TEXT = 200  # characters of a title
_NAMES = {"programs": "program", "level": "normalize"}


@dataclass(frozen=True)
class Recipe:
    """How a file was made."""

    version: str
    model: str  # as it was named
    model_sha256: str
    midi_sha256: str
    settings: Mapping[str, Any]  # those that are not the defaults

    @property
    def timbres(self) -> list[str]:
        """The values of --timbre that made the file."""
        return [f"{program + 1}={given}" for program, given in self.settings.get("timbres", ())]

    def arguments(self) -> list[str]:
        """The options of the command line that make the file again.

        Raises OptionError for a setting that this version does not know, and for a song of an
        album, whose gain depends on the others.
        """
        arguments = ["--model", self.model]
        arguments += [f"--timbre={value}" for value in self.timbres]
        for name, value in self.settings.items():
            if name != "timbres":
                arguments += _option(name, value)
        return arguments


def _option(name: str, value: object) -> list[str]:
    """The arguments for one setting."""
    if name == "encoder_quality":
        return [f"--quality={value}"]
    if name == "quality":
        return [f"--{value}"]
    if name == "format" and value == "raw":
        return ["--raw"]
    if name == "drums":
        return ["--drums=off"]
    option = _NAMES.get(name, name).replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if name == "programs" and isinstance(value, list):
        return [
            f"--program={part}={'drums' if program < 0 else program + 1}" for part, program in value
        ]
    if name == "level" and isinstance(value, dict):
        if value.get("kind") == "album":
            raise OptionError("it is part of an album", "its gain came from all songs of it")
        value = f"{value.get('kind')}:{value.get('target')}"
    return [f"--{option}={value}"]


def tags_of(
    settings: Settings, job: Job, about: About, midi_sha256: str, model_sha256: str
) -> Tags:
    """The tags of a song: what its file says about it, and how it is made, as JSON."""
    origin = settings.origin_of(job)
    default = Settings(ModelChoice(), RenderOptions(), Encoding(settings.encoding.format)).origin
    changed = {name: value for name, value in origin.items() if value != default.get(name)}
    changed["format"] = settings.encoding.format
    options = job.options or settings.options
    if options.skip_missing and options.programs:
        changed["skip_missing"] = True
    facts = {
        PROGRAM: __version__,
        "model": settings.model.name,
        "model_sha256": model_sha256,
        "midi_sha256": midi_sha256,
        "seed": origin["seed"],
        "settings": changed,
    }
    return Tags(
        title=_plain(about.title),
        artist=_plain(about.artist),
        copyright=_plain(about.copyright),
        software=f"{PROGRAM} {__version__}",
        comment=json.dumps(facts, separators=(",", ":")),
    )


def _plain(text: str) -> str:
    """A text without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_TEXT].strip()


def read_recipe(path: Path) -> Recipe:
    """How an audio file was made. Raises OptionError where it does not say that."""
    import soundfile

    hint = "name an audio file that was rendered without --no-tags"
    try:
        with open(path, "rb"):
            pass
        with soundfile.SoundFile(path) as file:
            comment = file.copy_metadata().get("comment", "")
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {reason_of(error)}", "check the path") from error
    except soundfile.SoundFileError as error:
        raise OptionError(f"{path} is no audio file that can be read", hint) from error
    try:
        facts = json.loads(comment)
        names = (PROGRAM, "model", "model_sha256", "midi_sha256")
        version, model, model_sha256, midi_sha256 = values = [facts[name] for name in names]
        settings = facts["settings"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise OptionError(f"{path} does not say how it was made", hint) from error
    if not (all(isinstance(each, str) for each in values) and isinstance(settings, dict)):
        raise OptionError(f"{path} does not say how it was made", hint)
    return Recipe(version, model, model_sha256, midi_sha256, settings)
