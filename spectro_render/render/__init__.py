"""Renders songs, by all stages together: MIDI -> notes -> tokens -> mel -> sound."""

from spectro_render.options import Progress, RenderOptions
from spectro_render.render.renderer import Renderer, Stems

__all__ = ["Progress", "RenderOptions", "Renderer", "Stems"]
