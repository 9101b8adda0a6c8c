"""The record of one measurement, how those of many files are pooled, and ratios between them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias


class Measure(NamedTuple):
    """A measurement, as a part of a whole: to pool files, parts and wholes are summed."""

    part: float
    whole: float = 1.0  # 0 where nothing could be measured

    @property
    def value(self) -> float | None:
        """The part divided by the whole, or None where nothing could be measured."""
        return self.part / self.whole if self.whole else None

    @classmethod
    def of(cls, value: float) -> "Measure":
        """A plain number, which pools to the mean; NaN means that nothing could be measured."""
        return cls(0.0, 0.0) if value != value else cls(value)


Measures: TypeAlias = dict[str, Measure]  # by name
Values: TypeAlias = dict[str, float | None]  # by the measure's name

# Ratio -> the measure of the model's sound, and the same measure of the reference.
RATIOS = {
    "note_f1_ratio": ("note_f1", "note_f1_reference"),
    "drum_f1_ratio": ("drum_f1", "drum_f1_reference"),
    "seam_ratio": ("seam", "seam_reference"),
    "vocoder_note_f1_ratio": ("vocoder_note_f1", "note_f1_reference"),
}


def pool(files: Iterable[Measures]) -> Measures:
    """The measures of all files together, given those of each file."""
    pooled: Measures = {}
    for measures in files:
        for name, measure in measures.items():
            before = pooled.get(name, Measure(0.0, 0.0))
            pooled[name] = Measure(before.part + measure.part, before.whole + measure.whole)
    return pooled


def values_of(measures: Mapping[str, Measure]) -> Values:
    """The values of measures, and of those RATIOS whose two measures are among them.

    A ratio is None where one of the two could not be measured, or where the reference's is 0.
    """
    values = {name: measure.value for name, measure in measures.items()}
    for name, (own, of_reference) in RATIOS.items():
        if own in values and of_reference in values:
            value, reference = values[own], values[of_reference]
            values[name] = None if value is None or not reference else value / reference
    return values
