"""A run of `evaluate`: measures files and probes, writes their sounds and reports the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from spectro_render.audio.audio import Audio
from spectro_render.constants import SAMPLE_RATE, WINDOW_SECONDS
from spectro_render.errors import SpectroRenderError, reason_of
from spectro_render.evaluation.arrays import Samples
from spectro_render.evaluation.files import FileEvaluator
from spectro_render.evaluation.measures import Measures, Values, pool, values_of
from spectro_render.evaluation.probes import Play, compare_levels, follow_velocity, identify
from spectro_render.evaluation.vibrato import compare_vibrato
from spectro_render.midi.score import Score
from spectro_render.report import Reporter, complain


@dataclass
class Session:
    """A run of `evaluate`, and its results so far."""

    evaluator: FileEvaluator
    folder: Path  # of the MIDI files
    output: Path | None  # folder for the sounds; None: they are not written
    reporter: Reporter
    failures: int = 0  # files that could not be measured
    files: list[tuple[str, Measures]] = field(default_factory=list)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)  # results by part

    def measure_files(self, paths: Sequence[Path]) -> None:
        """Measure files. A file that fails is reported, and the others are still measured."""
        for number, path in enumerate(paths, start=1):
            name = path.relative_to(self.folder)
            self.reporter.say(f"{number}/{len(paths)} {name}")
            try:
                self._measure_file(path, name)
            except (SpectroRenderError, OSError) as error:
                reason = reason_of(error) if isinstance(error, OSError) else str(error)
                complain(f"{name}: {reason}")
                self.reporter.record({"input": str(path), "status": "failed", "error": reason})
                self.failures += 1

    def _measure_file(self, path: Path, name: Path) -> None:
        """Measure a file, write its sounds and record its values. Raises SpectroRenderError."""
        result = self.evaluator.measure(path, name)
        for kind, samples in result.sounds.items():
            self._write(samples, name.with_suffix(f".{kind}.wav"))
        self.files.append((str(name), result.measures))
        facts = {"input": str(path), "status": "measured", "seconds": round(result.seconds, 3)}
        self.reporter.record({**facts, **rounded(values_of(result.measures))})

    def measure_probes(self, part: str) -> None:
        """Measure one of PROBE_PARTS. Raises SpectroRenderError without a reference."""
        self.reporter.say(part)
        measures: dict[str, Callable[[Play, Play], Any]] = {
            "instruments": identify,
            "velocity": follow_velocity,
            "levels": compare_levels,
            "vibrato": compare_vibrato,
        }
        found = measures[part](partial(self._play, "model"), partial(self._play, "reference"))
        self.probes[part] = found._asdict()

    def _play(self, side: str, name: str, score: Score) -> Samples:
        """A probe's sound, as the "model" or the "reference" plays it."""
        if side == "model":
            samples = self.evaluator.subject.render(score, WINDOW_SECONDS).samples
        else:
            samples = self.evaluator.reference.sound(Path(name), score, WINDOW_SECONDS)
        self._write(samples, Path("probes") / f"{name}.{side}.wav")
        return samples

    def _write(self, samples: Samples, name: Path) -> None:
        """Write a sound at the level of the comparison, if there is an output folder."""
        if self.output is None:
            return
        path = self.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Audio(samples[None], SAMPLE_RATE).save(path, bit_depth="float")

    def file_values(self) -> list[tuple[str, Values]]:
        """The name of each measured file, with its values."""
        return [(name, values_of(measures)) for name, measures in self.files]

    def summary(self) -> dict[str, Any]:
        """The results for the model as a whole: a JSON object."""
        facts: dict[str, Any] = {
            "model": self.evaluator.subject.name,
            "files": len(self.files),
            "failed": self.failures,
            "mean": rounded(values_of(pool(measures for _, measures in self.files))),
            **self.probes,
        }
        if "frechet" in self.evaluator.parts:
            facts["frechet"] = {
                "distance": self.evaluator.frechet(),
                "embedding": self.evaluator.embedding.name,
            }
        return facts


def rounded(values: Values) -> Values:
    """Round values to six significant digits; further ones are noise."""
    return {k: None if v is None else float(f"{v:.6g}") for k, v in values.items()}
