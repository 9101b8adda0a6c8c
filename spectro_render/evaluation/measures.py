"""Measures of sounds, their sums over files, and ratios between them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias


class Measure(NamedTuple):
    """A measure as a fraction, part / whole. Files are pooled by summing parts and wholes."""

    part: float
    whole: float = 1.0  # 0 where nothing could be measured

    @property
    def value(self) -> float | None:
        """The part divided by the whole, or None if nothing could be measured."""
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
    "change_ratio": ("change", "change_reference"),
    "vocoder_note_f1_ratio": ("vocoder_note_f1", "note_f1_reference"),
}


def pool(files: Iterable[Measures]) -> Measures:
    """Sum the measures of all files."""
    pooled: Measures = {}
    for measures in files:
        for name, measure in measures.items():
            before = pooled.get(name, Measure(0.0, 0.0))
            pooled[name] = Measure(before.part + measure.part, before.whole + measure.whole)
    return pooled


def values_of(measures: Mapping[str, Measure]) -> Values:
    """The values of measures, and each ratio in RATIOS whose two measures are among them.

    A ratio is None if one of the two could not be measured, or if the reference's is 0.
    """
    values = {name: measure.value for name, measure in measures.items()}
    for name, (own, of_reference) in RATIOS.items():
        if own in values and of_reference in values:
            value, reference = values[own], values[of_reference]
            values[name] = None if value is None or not reference else value / reference
    return values
