"""The configuration of a network, without torch."""

from dataclasses import dataclass
from typing import Literal

from spectro_render.constants import WINDOW_FRAMES


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a network, and the meaning of its inputs and outputs.

    The defaults describe the published base model. Raises ValueError for impossible combinations.
    """

    width: int = 768
    heads: int = 12
    head_width: int = 64
    mlp_width: int = 2048
    note_layers: int = 12
    context_layers: int = 12  # of the encoder of the previous window's mel; 0: the model has none
    decoder_layers: int = 12
    level_width: int = 4 * 768  # of the embedded noise level, which FiLM reads
    dropout: float = 0.1
    conditioning: Literal["cross_attention", "frame_aligned"] = "cross_attention"
    target: Literal["epsilon", "v", "x0"] = "epsilon"  # what the decoder predicts
    num_embeddings: int = 1536  # rows of the table of token embeddings (cross_attention)
    note_width: int = 0  # of a note's embedding (frame_aligned)
    draft: Literal["envelopes", "curves"] = "envelopes"  # of the mel, by notes (frame_aligned)
    # Of `curves.NoteCurves`: widths of a note's vector, of the hidden layer and of a recording's
    # vectors, and the numbers of recordings and of their vectors.
    curve_width: int = 0
    curve_hidden: int = 0
    latent_width: int = 0
    recordings: int = 0
    recorded_frames: int = 0
    tail_frames: int = 0  # last frames of the context that `frames.Tail` reads (frame_aligned)
    # How long a note is remembered after it has ended, in 10 ms steps; 0 also forgets tied notes.
    memory_steps: int = 0
    velocity_bins: int = 1
    programs: Literal["slakh34", "full"] = "slakh34"
    decoder: Literal["diffusion", "autoregressive"] = "diffusion"

    # For autoregressive models only, under the names that they have in the paper's code.
    output_function: Literal["deterministic", "gaussian_mixture"] = "deterministic"
    components: int = 8  # of the mixture; the paper's code names no number
    min_sigma: float = 0.1  # smallest deviation of a component, on the model's scale
    max_sigma: float = 1.0  # largest deviation of a component
    dither: float = 0.0  # deviation of the noise that is added to deterministic frames

    def __post_init__(self) -> None:
        if self.conditioning == "frame_aligned" and self.note_width < 1:
            raise ValueError(f"note_width is {self.note_width}, but frame-aligned notes need one")
        if self.memory_steps and self.conditioning != "frame_aligned":
            steps = f"memory_steps is {self.memory_steps}"
            raise ValueError(f"{steps}, but only frame-aligned models have a note memory")
        joins = self.conditioning == "frame_aligned" and self.context_layers > 0
        if self.tail_frames and not (joins and self.tail_frames <= WINDOW_FRAMES):
            limit = f"at most {WINDOW_FRAMES}, with frame-aligned notes and a context encoder"
            raise ValueError(f"tail_frames is {self.tail_frames}, but must be {limit}")
        sizes = "curve_width", "curve_hidden", "latent_width", "recordings", "recorded_frames"
        for name in sizes if self.draft == "curves" else ():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.curve_hidden % 4:
            raise ValueError(f"curve_hidden is {self.curve_hidden}, but must be a multiple of 4")
        if self.decoder == "autoregressive":
            self._check_output_function()

    def _check_output_function(self) -> None:
        """Raise ValueError for impossible numbers of the autoregressive output function."""
        if self.output_function == "deterministic" and self.dither < 0:
            raise ValueError(f"dither is {self.dither}, but must not be negative")
        has_range = 0 < self.min_sigma <= self.max_sigma
        if self.output_function == "gaussian_mixture" and (self.components < 1 or not has_range):
            deviations = f"deviations from {self.min_sigma} to {self.max_sigma}"
            raise ValueError(f"a mixture cannot have {self.components} components, {deviations}")
