"""Turns log-mel spectrograms into sound."""

from spectro_render.vocoder.griffin_lim import GriffinLim
from spectro_render.vocoder.melgan import MelGAN, Vocoder, VocoderConfig
from spectro_render.vocoder.streaming import StreamingVocoder

__all__ = ["GriffinLim", "MelGAN", "StreamingVocoder", "Vocoder", "VocoderConfig"]
