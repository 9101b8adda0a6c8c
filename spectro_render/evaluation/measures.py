"""A measure of one file or of many, and what is derived from several of them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias


class Score(NamedTuple):
    """A part of a whole. Those of several files pool to one: parts and wholes are summed."""

    part: float
    whole: float = 1.0  # 0 where nothing could be measured

    @property
    def value(self) -> float | None:
        """The score, or None where nothing could be measured."""
        return self.part / self.whole if self.whole else None

    @classmethod
    def of(cls, value: float) -> "Score":
        """A plain number, which pools to the mean; NaN is nothing measured."""
        return cls(0.0, 0.0) if value != value else cls(value)


Scores: TypeAlias = dict[str, Score]
Values: TypeAlias = dict[str, float | None]

# A measure over the same one of the reference.
RELATIVE = {
    "note_f1_ratio": ("note_f1", "note_f1_reference"),
    "drum_f1_ratio": ("drum_f1", "drum_f1_reference"),
    "seam_ratio": ("seam", "seam_reference"),
    "vocoder_note_f1_ratio": ("vocoder_note_f1", "note_f1_reference"),
}


def pool(files: Iterable[Scores]) -> Scores:
    """One score a measure, of all files together."""
    pooled: Scores = {}
    for scores in files:
        for name, score in scores.items():
            before = pooled.get(name, Score(0.0, 0.0))
            pooled[name] = Score(before.part + score.part, before.whole + score.whole)
    return pooled


def values_of(scores: Mapping[str, Score]) -> Values:
    """The numbers to show, with each measure that is relative to the reference's."""
    values = {name: score.value for name, score in scores.items()}
    for name, (measured, reference) in RELATIVE.items():
        if measured in values and reference in values:
            values[name] = _over(values[measured], values[reference])
    return values


def _over(measured: float | None, reference: float | None) -> float | None:
    return None if measured is None or not reference else measured / reference
