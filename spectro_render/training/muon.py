"""The optimiser Muon in float32 (Jordan et al., https://kellerjordan.github.io/posts/muon/).

`torch.optim.Muon` orthogonalises in bfloat16, which a CPU without bfloat16 units emulates: there a
step took 47 s, and takes about 1 s with this one. Matrices of one shape share a batched product.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz iteration
ITERATIONS = 5
RMS = 0.2  # root mean square of an update, about that of AdamW's (Liu et al., arXiv 2502.16982)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of (K, R, C) matrices towards one, keeping their directions."""
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon, an optimiser for matrices: it orthogonalises the updates of Nesterov's momentum.

    Updates are scaled so that learning rates for AdamW suit it.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; `closure` is ignored."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._momentum(parameter, parameter.grad, group["momentum"])
                    shapes[parameter.shape].append((parameter, update))
            for (rows, columns), pairs in shapes.items():
                scale = RMS * max(rows, columns) ** 0.5
                updates = orthogonalise(torch.stack([update for _, update in pairs]))
                for (parameter, _), update in zip(pairs, updates, strict=True):
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """Take a gradient into the parameter's running mean, and return Nesterov's update."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)
