"""One run of `evaluate`: measures files and probes, keeps the sounds, says what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from spectro_render.audio.audio import Audio
from spectro_render.constants import SAMPLE_RATE, WINDOW_SECONDS
from spectro_render.errors import SpectroRenderError, reason_of
from spectro_render.evaluation.files import Listener
from spectro_render.evaluation.probes import Play, follow_velocity, identify
from spectro_render.evaluation.scores import Scores, Values, pool, values_of
from spectro_render.evaluation.subject import Samples
from spectro_render.midi.score import Score
from spectro_render.report import Reporter, complain

OF_FILES = ("files", "vocoder", "frechet")  # parts that listen to MIDI files
OF_PROBES = ("instruments", "velocity")  # parts that listen to phrases of their own
PARTS = (*OF_FILES, *OF_PROBES)


@dataclass
class Session:
    """What is measured, and what has been found so far."""

    listener: Listener
    folder: Path
    output: Path | None
    reporter: Reporter
    failures: int = 0
    files: list[tuple[str, Scores]] = field(default_factory=list)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def listen(self, paths: Sequence[Path]) -> None:
        """Measure files; what is wrong with one does not stop the others."""
        for number, path in enumerate(paths, start=1):
            name = path.relative_to(self.folder)
            self.reporter.say(f"{number}/{len(paths)} {name}")
            try:
                self._measure(path, name)
            except (SpectroRenderError, OSError) as error:
                reason = reason_of(error) if isinstance(error, OSError) else str(error)
                complain(f"{name}: {reason}")
                self.reporter.record({"input": str(path), "status": "failed", "error": reason})
                self.failures += 1

    def _measure(self, path: Path, name: Path) -> None:
        piece = self.listener.measure(path, name)
        for kind, samples in piece.sounds.items():
            self._keep(samples, name.with_suffix(f".{kind}.wav"))
        self.files.append((str(name), piece.scores))
        facts = {"input": str(path), "status": "measured", "seconds": round(piece.seconds, 3)}
        self.reporter.record({**facts, **rounded(values_of(piece.scores))})

    def probe(self, part: str) -> None:
        """Ask the model for `instruments` or `velocity`."""
        self.reporter.say(part)
        measure: Callable[[Play, Play], Any] = (
            identify if part == "instruments" else follow_velocity
        )
        found = measure(partial(self._play, "model"), partial(self._play, "reference"))
        self.probes[part] = found._asdict()

    def _play(self, side: str, name: str, score: Score) -> Samples:
        """A probe's sound on one side of the comparison."""
        if side == "model":
            samples = self.listener.subject.render(score, WINDOW_SECONDS).samples
        else:
            samples = self.listener.reference.sound(Path(name), score, WINDOW_SECONDS)
        self._keep(samples, Path("probes") / f"{name}.{side}.wav")
        return samples

    def _keep(self, samples: Samples, name: Path) -> None:
        """Write a sound at the level that it was compared at, where sounds are kept."""
        if self.output is None:
            return
        path = self.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Audio(samples[None], SAMPLE_RATE).save(path, bit_depth="float")

    def file_values(self) -> list[tuple[str, Values]]:
        """What was measured of each file."""
        return [(name, values_of(scores)) for name, scores in self.files]

    def mean(self) -> Values:
        """What was measured of all files together."""
        return values_of(pool(scores for _, scores in self.files))

    def summary(self) -> dict[str, Any]:
        """What was measured of the model as a whole."""
        facts: dict[str, Any] = {
            "model": self.listener.subject.name,
            "files": len(self.files),
            "failed": self.failures,
            "mean": rounded(self.mean()),
            **self.probes,
        }
        if "frechet" in self.listener.parts:
            facts["frechet"] = {
                "distance": self.listener.frechet(),
                "embedding": self.listener.embedding.name,
            }
        return facts


def rounded(values: Values) -> Values:
    """To six significant digits: more is noise."""
    return {k: None if v is None else float(f"{v:.6g}") for k, v in values.items()}
