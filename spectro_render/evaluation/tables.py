"""What `evaluate` prints for people: a row a file, then every measure of all files together."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectro_render.evaluation.scores import Values
from spectro_render.report import one_line


class Measure(NamedTuple):
    """How a measure is shown."""

    meaning: str
    digits: int = 2
    heading: str = ""  # in the row of a file; without one it is shown of all files together only


MEASURES = {
    "note_f1": Measure("F1 of the note onsets that a transcriber hears in the sound"),
    "note_f1_reference": Measure("that it hears in the reference"),
    "note_f1_ratio": Measure("the former over the latter", heading="notes"),
    "drum_f1": Measure("F1 of the drum onsets that show in the sound's spectral flux"),
    "drum_f1_reference": Measure("that show in the reference's"),
    "drum_f1_ratio": Measure("the former over the latter", heading="drums"),
    "mel_l1": Measure("log-mel L1 of the diffusion model's own mels, nats", heading="mel"),
    "mel_l1_sound": Measure("log-mel L1 of the sound, nats", heading="sound"),
    "stft_distance": Measure("multi-resolution STFT distance", heading="STFT"),
    "chroma": Measure("similarity of the pitch classes; 1: the same", heading="chroma"),
    "loudness": Measure("correlation of the loudness curves", heading="loud"),
    "louder_db": Measure("dB louder than the reference", digits=1),
    "clipped": Measure("samples a file beyond 0.99 of full scale, as delivered", 1, "clip"),
    "silent": Measure("share of frames below -60 dBFS"),
    "silent_reference": Measure("the same of the reference"),
    "offset": Measure("mean of the samples, of full scale", digits=5),
    "seam": Measure("spectral flux at window borders over elsewhere"),
    "seam_reference": Measure("the same of the reference"),
    "seam_ratio": Measure("the former over the latter", heading="seam"),
    "times_real_time": Measure("seconds of sound a second of work", 1, "speed"),
    "reconstruction": Measure("distance to the reference in the embedding", heading="recon"),
    "vocoder_note_f1": Measure("note F1 of the reference's mels through the vocoder"),
    "vocoder_note_f1_ratio": Measure("that over the reference's", heading="copy"),
    "vocoder_stft_distance": Measure("STFT distance of that copy", heading="STFT"),
}


def print_tables(files: Sequence[tuple[str, Values]], summary: Mapping[str, Any]) -> None:
    """Print what was measured: drawn for a terminal, plain aligned lines elsewhere."""
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else 1000, highlight=False)
    if files:
        console.print(_files_table(files, summary["mean"], is_terminal))
    for name, value, meaning in _lines(summary):
        console.print(f"{name:<22} {value:>8}  {meaning}", markup=False, soft_wrap=True)


def _files_table(files: Sequence[tuple[str, Values]], mean: Values, is_terminal: bool) -> Table:
    columns = {name: MEASURES[name] for name in MEASURES if name in mean}
    columns = {name: measure for name, measure in columns.items() if measure.heading}
    table = Table(box=SIMPLE_HEAD if is_terminal else None, pad_edge=False, collapse_padding=True)
    table.add_column("file", overflow="fold", no_wrap=not is_terminal)
    for measure in columns.values():
        table.add_column(measure.heading, justify="right", no_wrap=True)
    for name, values in [*files, ("all", mean)]:
        cells = (as_text(values.get(column), columns[column].digits) for column in columns)
        table.add_row(Text(one_line(name)), *cells, end_section=name == files[-1][0])
    return table


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and meaning of all that was measured of the model as a whole."""
    for name, measure in MEASURES.items():
        if name in summary["mean"]:
            yield name, as_text(summary["mean"][name], measure.digits), measure.meaning
    if found := summary.get("instruments"):
        yield (
            "instruments_top1",
            as_text(found["top1"], 2),
            "the nearest reference is the right one",
        )
        mistaken = ", ".join(f"{one} for {other}" for other, one in found["mistaken"].items())
        yield "instruments_top3", as_text(found["top3"], 2), f"among the nearest three ({mistaken})"
    if found := summary.get("velocity"):
        value = as_text(found["rank_correlation"], 2)
        yield "velocity", value, "rank correlation of levels with the reference's, mean of programs"
        yield "velocity_slope", as_text(found["slope"], 2), "dB louder for each dB of the reference"
    if found := summary.get("frechet"):
        value = as_text(found["distance"], 2)
        yield "frechet_distance", value, f"to the references, in the {found['embedding']} embedding"


def as_text(value: float | None, digits: int) -> str:
    """A number, or a dash where nothing could be measured."""
    return "-" if value is None else f"{value:.{digits}f}"
