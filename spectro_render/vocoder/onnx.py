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
# How far samples reach is measured with mels and pieces of odd lengths, from an odd frame on, so
# that a graph with steps of several frames differs as well.
PROBES = 2
PROBE_FRAMES = 513
PIECE = slice(129, 384)
LOUDEST = 2.0  # natural log-mel of the random frames
MAX_REACH = 96  # frames; the middle of the piece, 63 frames, has to be the same
MARGIN = 4  # frames
ROUNDING = 2.0**-15  # a step of 16 bits, of the loudest sample: differences that are not heard
FATAL = 4  # onnxruntime's log level at which it prints nothing: errors are raised as well


class OnnxVocoder:
    """Runs an ONNX graph with onnxruntime, on the CPU.

    The file should have been checked by `checkpoints.onnx_file.check_onnx`. A graph does not say
    how many frames its samples depend on, so whole mels are vocoded at once until `receptive_field`
    is set to what `measure_reach` finds. Raises WeightsError if onnxruntime is not installed,
    WeightsCorrupt for a graph that does not turn mels into samples.
    """

    period = 1
    reads_notes = False

    def __init__(self, path: Path) -> None:
        self.receptive_field: int | None = None  # frames to each side
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

    def measure_reach(self) -> int | None:
        """Measure how many frames to each side samples depend on, by a piece against the whole.

        Random mels are vocoded, and a piece from the middle of each. Where a sample of the piece
        differs from that of the whole, it depends on frames that were cut off. A margin is added,
        as dependence fades out. Returns None if the piece differs up to its middle, as with graphs
        that look at all frames: then only whole mels give the right sound. Raises WeightsCorrupt.
        """
        import numpy as np

        reach = 0
        for seed in range(PROBES):
            sizes = (1, PROBE_FRAMES, N_MELS)
            mel = np.random.default_rng(seed).uniform(LOG_MEL_MIN, LOUDEST, sizes)
            features = mel.astype(np.float32)
            whole = self._vocode(features)
            piece = self._vocode(features[:, PIECE])
            expected = whole[PIECE.start * HOP_LENGTH : PIECE.stop * HOP_LENGTH]
            differences = np.abs(piece - expected).reshape(-1, HOP_LENGTH).max(1)
            differs = ~(differences <= ROUNDING * np.abs(whole).max())  # also where it is NaN
            frames, middle = np.flatnonzero(differs), len(differs) // 2
            begin, end = frames[frames < middle], frames[frames >= middle]
            reach = max(reach, int(begin.max(initial=-1)) + 1)
            reach = max(reach, len(differs) - int(end.min(initial=len(differs))))
        return reach + reach // 4 + MARGIN if reach <= MAX_REACH else None

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
