"""A vocoder stored as an ONNX graph, such as the published SoundStream mel decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render.constants import HOP_LENGTH, LOG_MEL_MIN, N_MELS
from spectro_render.errors import WeightsCorrupt, WeightsError, install_hint

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

GET_OTHER = "get the model again, or choose the vocoder griffin-lim"
INPUT = "input_features"
FLOATS = "tensor(float)"  # onnxruntime's name of float32 arrays
TRIED_FRAMES = 16  # of silence, with which a graph is tried when it is loaded
FATAL = 4  # onnxruntime's log level at which it prints nothing: errors are raised as well


class OnnxVocoder:
    """Runs an ONNX graph with onnxruntime, on the CPU.

    The file should have been checked by `checkpoints.onnx_file.check_onnx`. Raises WeightsError if
    onnxruntime is not installed, WeightsCorrupt for a graph that does not turn mels into samples.
    """

    receptive_field = 64  # frames to each side; the graph does not tell it, so this is generous
    period = 1
    reads_notes = False

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            hint = f"{install_hint('onnx')}, or choose the vocoder griffin-lim"
            raise WeightsError(f"{path} needs onnxruntime, which is not installed", hint) from None
        self._path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = FATAL
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise self._unusable(error) from error
        self._check_ends()
        self._output = self._session.get_outputs()[0].name
        self._vocode(_silence(TRIED_FRAMES))

    def __call__(self, log_mel: Tensor, notes: Sequence[Tensor] | None = None) -> Tensor:
        """Natural log-mel (B, T, 128) -> samples (B, 320 T); notes are ignored.

        The graph gets one item at a time. Raises WeightsCorrupt where it fails, or gives another
        number of samples.
        """
        import torch

        features = log_mel.float().cpu().numpy()
        samples = [torch.from_numpy(self._vocode(one[None])) for one in features]
        return torch.stack(samples).to(log_mel.device)

    def _check_ends(self) -> None:
        """Raise WeightsCorrupt unless input and output have the right names and types."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if [tensor.name for tensor in inputs] != [INPUT]:
            raise WeightsCorrupt(f"{self._path} should have one input, {INPUT}", GET_OTHER)
        if not outputs:
            raise WeightsCorrupt(f"{self._path} has no output", GET_OTHER)
        for tensor, end in ((inputs[0], "takes"), (outputs[0], "gives")):
            if tensor.type != FLOATS:
                message = f"{self._path} {end} {tensor.type}, not {FLOATS}"
                raise WeightsCorrupt(message, GET_OTHER)

    def _vocode(self, features: np.ndarray) -> np.ndarray:
        """Natural log-mel (1, T, 128) -> samples (320 T,). Raises WeightsCorrupt."""
        try:
            (samples,) = self._session.run([self._output], {INPUT: features}, self._run_options)
        except Exception as error:
            raise self._unusable(error) from error
        wanted, shape = features.shape[1] * HOP_LENGTH, list(samples.shape)
        if samples.size != wanted or wanted not in shape:
            message = f"{self._path} gives an array {shape} for {features.shape[1]} frames"
            raise WeightsCorrupt(f"{message}, not {wanted} samples", GET_OTHER)
        return samples.reshape(-1)

    def _unusable(self, error: Exception) -> WeightsCorrupt:
        reason = " ".join(str(error).partition("\n")[0].split())[:300]
        return WeightsCorrupt(f"{self._path} is not a usable ONNX file: {reason}", GET_OTHER)


def _silence(frames: int) -> np.ndarray:
    """The log-mel (1, T, 128) of silence."""
    import numpy as np

    return np.full((1, frames, N_MELS), LOG_MEL_MIN, np.float32)
