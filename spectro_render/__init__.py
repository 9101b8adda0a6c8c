"""Turns MIDI into audio with a neural model.

import spectro_render as sr

renderer = sr.Renderer.load()
renderer.render("song.mid").save("song.wav")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectro_render.audio.audio import Audio as Audio
    from spectro_render.audio.audio import AudioWriter as AudioWriter
    from spectro_render.audio.limiter import Limiter as Limiter
    from spectro_render.audio.normalize import normalize as normalize
    from spectro_render.compat.components import SpectrogramContEncoder as SpectrogramContEncoder
    from spectro_render.compat.components import SpectrogramNotesEncoder as SpectrogramNotesEncoder
    from spectro_render.compat.components import T5FilmDecoder as T5FilmDecoder
    from spectro_render.compat.pipeline import AudioPipelineOutput as AudioPipelineOutput
    from spectro_render.compat.pipeline import MidiProcessor as MidiProcessor
    from spectro_render.compat.pipeline import (
        SpectrogramDiffusionPipeline as SpectrogramDiffusionPipeline,
    )
    from spectro_render.errors import SpectroRenderError as SpectroRenderError
    from spectro_render.mel import log_mel as log_mel
    from spectro_render.midi.read import read_midi as read_midi
    from spectro_render.midi.score import Note as Note
    from spectro_render.midi.score import Score as Score
    from spectro_render.options import RenderOptions as RenderOptions
    from spectro_render.render.renderer import Renderer as Renderer
    from spectro_render.render.renderer import Stems as Stems
    from spectro_render.tokens.read import detokenize as detokenize
    from spectro_render.tokens.vocabulary import TokenWindow as TokenWindow
    from spectro_render.tokens.vocabulary import Vocabulary as Vocabulary
    from spectro_render.tokens.write import tokenize as tokenize
    from spectro_render.training.timbre.make import fit_timbre as fit_timbre

__version__ = "0.1.0"

_HOMES = {  # public name -> the module that is imported when the name is first asked for
    "Audio": "audio",
    "AudioPipelineOutput": "compat.pipeline",
    "AudioWriter": "audio",
    "Limiter": "audio",
    "MidiProcessor": "compat.pipeline",
    "Note": "midi",
    "RenderOptions": "options",
    "Renderer": "render",
    "Score": "midi",
    "SpectroRenderError": "errors",
    "Stems": "render",
    "SpectrogramContEncoder": "compat.components",
    "SpectrogramDiffusionPipeline": "compat.pipeline",
    "SpectrogramNotesEncoder": "compat.components",
    "T5FilmDecoder": "compat.components",
    "TokenWindow": "tokens",
    "Vocabulary": "tokens",
    "detokenize": "tokens",
    "fit_timbre": "training.timbre.make",
    "log_mel": "mel",
    "normalize": "audio.normalize",
    "read_midi": "midi",
    "tokenize": "tokens",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that the command line starts at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
