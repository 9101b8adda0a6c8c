"""How long the published size takes to load, and how much memory beyond its weights.

Run from the checkout's top level: python -m tests.benchmarks.bench_load

Random weights are written to a temporary directory (1.7 GB) in diffusers' layout, and read once to
be in the page cache. Memory is the most that a fresh process held while it loaded less what it held
before (Linux only). Mapped pages of a file count, although the system may drop them at any time.
"""

import tempfile
from pathlib import Path

from tests.support.costs import FULL, measure_loading, write_model


def main() -> None:
    for kind in ("float32", "float16", "bin"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            write_model(path, FULL, kind)
            cost = measure_loading(path)
        print(
            f"{cost.weights / 4e6:.1f} M parameters, {kind:8}  {cost.seconds:5.1f} s, "
            f"CPU {cost.cpu_seconds:4.1f} s, peak {cost.peak / cost.weights:.2f} x the weights"
        )


if __name__ == "__main__":
    main()
