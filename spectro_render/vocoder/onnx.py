"""A vocoder stored as an ONNX graph, such as the published SoundStream mel decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render.errors import WeightsCorrupt, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

GET_OTHER = "get the model again, or choose the vocoder griffin-lim"
INPUT = "input_features"


class OnnxVocoder:
    """Runs an ONNX graph with onnxruntime, on the CPU.

    Raises WeightsError if onnxruntime is not installed, WeightsCorrupt for another kind of file.
    """

    receptive_field = 64  # frames to each side; the graph does not tell it, so this is generous
    period = 1
    reads_notes = False

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            hint = "install spectro-render[onnx], or choose the vocoder griffin-lim"
            raise WeightsError(f"{path} needs onnxruntime, which is not installed", hint) from None
        try:
            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base class of their own
            reason = str(error).partition("\n")[0]
            message = f"{path} is not a usable ONNX file: {reason}"
            raise WeightsCorrupt(message, GET_OTHER) from error
        if [tensor.name for tensor in self._session.get_inputs()] != [INPUT]:
            raise WeightsCorrupt(f"{path} should have one input, {INPUT}", GET_OTHER)

    def __call__(self, log_mel: Tensor, notes: Sequence[Tensor] | None = None) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T); without notes and with B = 1."""
        import torch

        features = log_mel.float().cpu().numpy()
        samples = [self._session.run(None, {INPUT: one[None]})[0].reshape(-1) for one in features]
        return torch.stack([torch.from_numpy(one) for one in samples]).to(log_mel.device)
