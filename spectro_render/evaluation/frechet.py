"""The paper's two distances of audio embeddings: reconstruction and Frechet.

Hawthorne et al. 2022 (arXiv 2206.05408), section 4: the reconstruction distance is between a sound
and its own reference, the Frechet distance (after Kilgour et al. 2019, arXiv 1812.08466) between
all sounds together and all references together.

The paper's embeddings are those of the audio classifiers VGGish and TRILL. Their weights do not
come with this program, but can be loaded from an ONNX file; then the distances can be compared with
the paper's. The default embedding has the mean and the standard deviation of 32 mel cepstrum
coefficients for every 0.96 s, VGGish's step. It needs no weights and cannot favour a model, but its
distances can only be compared with each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from spectro_render.constants import FRAME_RATE, SAMPLE_RATE
from spectro_render.errors import SpectroRenderError
from spectro_render.evaluation.arrays import Matrix, Samples
from spectro_render.evaluation.distances import mel_cepstrum, mel_of

COEFFICIENTS = 32
STEP_SECONDS = 0.96

VGGISH_FRAMES, VGGISH_BANDS = 96, 64  # a patch: 0.96 s
VGGISH_WINDOW, VGGISH_HOP, VGGISH_FFT = 400, 160, 512  # samples at 16 kHz
VGGISH_RANGE = 125.0, 7500.0  # Hz
VGGISH_OFFSET = 0.01  # added to a mel before the logarithm


@dataclass(frozen=True)
class Embedding:
    """A function that turns sounds into vectors, which are close for similar sounds."""

    name: str  # for people
    embed: Callable[[Samples], Matrix]  # (S,) -> (n, D): a vector for each stretch of the sound


def reconstruction_distance(embedded: Matrix, reference: Matrix) -> float:
    """Mean Euclidean distance of a sound's vectors (n, D) from its reference's; NaN if n is 0."""
    count = min(len(embedded), len(reference))
    if not count:
        return float("nan")
    return float(np.linalg.norm(embedded[:count] - reference[:count], axis=1).mean())


def frechet_distance(embedded: Matrix, reference: Matrix) -> float:
    """Squared Frechet distance of two sets of vectors (n, D), each taken as a normal distribution.

    |m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)) with means m and covariances C (Dowson and Landau
    1982, "The Frechet distance between multivariate normal distributions").
    """
    means = embedded.mean(0) - reference.mean(0)
    one, other = (np.atleast_2d(np.cov(e, rowvar=False, bias=True)) for e in (embedded, reference))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # The eigenvalues of C1 C2 are those of this symmetric matrix.
    common = np.linalg.eigvalsh(root @ other @ root).clip(0)
    spread = np.trace(one) + np.trace(other) - 2 * np.sqrt(common).sum()
    return float(means @ means + max(0.0, spread))


def cepstrum_embedding(samples: Samples) -> Matrix:
    """Mean and standard deviation of the mel cepstrum over each 0.96 s: (S,) -> (n, 64)."""
    cepstrum = mel_cepstrum(mel_of(samples), range(COEFFICIENTS))
    frames = round(STEP_SECONDS * FRAME_RATE)
    patches = cepstrum[: len(cepstrum) // frames * frames].reshape(-1, frames, COEFFICIENTS)
    return np.concatenate([patches.mean(1), patches.std(1)], axis=1)


CEPSTRUM = Embedding("mel cepstrum", cepstrum_embedding)


def load_embedding(path: Path) -> Embedding:
    """Load an embedding from an ONNX file.

    Its input must be either patches (n, 96, 64) as of VGGish, possibly with a further axis of
    length 1, or 16 kHz samples (S,) or (1, S) as of TRILL. The last axis of its first output is the
    embedding. Raises SpectroRenderError for any other file.
    """
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base class of their own
        reason = str(error).partition("\n")[0]
        raise SpectroRenderError(f"{path} is not a usable ONNX file: {reason}") from error
    wanted, *more = session.get_inputs()
    shape = [size if isinstance(size, int) else 0 for size in wanted.shape]
    is_patches = [size for size in shape if size > 1] == [VGGISH_FRAMES, VGGISH_BANDS]
    if more or not (is_patches or len(shape) in (1, 2)):
        hint = "take one whose input is samples, or VGGish's patches of 96 x 64"
        raise SpectroRenderError(f"{path} does not take sound as its input", hint)
    return Embedding(str(path), lambda samples: _run(session, wanted, samples, is_patches))


def _run(session: Any, wanted: Any, samples: Samples, is_patches: bool) -> Matrix:
    """Embed samples (S,) by an ONNX session, in the shape of its input `wanted`: (n, D)."""
    given = vggish_patches(samples) if is_patches else samples
    for axis, size in enumerate(wanted.shape):
        if size == 1 and given.ndim < len(wanted.shape):
            given = np.expand_dims(given, axis)
    output = session.run(None, {wanted.name: given.astype(np.float32)})[0]
    return np.asarray(output, np.float64).reshape(-1, output.shape[-1])


def vggish_patches(samples: Samples) -> npt.NDArray[np.float32]:
    """VGGish's input: samples (S,) -> log-mel patches (n, 96, 64).

    Hershey et al. 2017, "CNN architectures for large-scale audio classification" (arXiv
    1609.09430).
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, VGGISH_WINDOW)[::VGGISH_HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(VGGISH_WINDOW) / VGGISH_WINDOW)
    magnitude = np.abs(np.fft.rfft(frames * hann, VGGISH_FFT))
    mel = np.log(magnitude @ _vggish_bands() + VGGISH_OFFSET)
    whole = len(mel) // VGGISH_FRAMES * VGGISH_FRAMES
    return mel[:whole].reshape(-1, VGGISH_FRAMES, VGGISH_BANDS).astype(np.float32)


def _vggish_bands() -> Matrix:
    """Weights of FFT bins in VGGish's mel bands, (257, 64): triangles on the mel scale."""
    bins = np.log1p(np.linspace(0, SAMPLE_RATE / 2, VGGISH_FFT // 2 + 1) / 700)[:, None]
    low, high = np.log1p(np.array(VGGISH_RANGE) / 700)
    edges = np.linspace(low, high, VGGISH_BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    triangles: Matrix = np.minimum(rising, falling).clip(0)
    return triangles
