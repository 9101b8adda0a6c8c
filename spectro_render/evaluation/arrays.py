"""Array types of the evaluation."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]  # (S,) mono, 16 kHz
Matrix: TypeAlias = npt.NDArray[np.float64]  # a log-mel (T, 128), embeddings (n, D), ...
