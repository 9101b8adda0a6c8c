"""The tables that `evaluate` prints: one row per file, then the measures of all files together."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectro_render.evaluation.measures import Values
from spectro_render.report import one_line


class Description(NamedTuple):
    """The meaning of a measure, and how it is printed."""

    meaning: str
    digits: int = 2  # after the decimal point
    heading: str = ""  # of its column; "" gives it no column, only a line below the table


DESCRIPTIONS = {
    "note_f1": Description("F1 of the note onsets that a transcriber finds in the sound"),
    "note_f1_reference": Description("F1 of the note onsets that it finds in the reference"),
    "note_f1_ratio": Description("note_f1 over note_f1_reference", heading="notes"),
    "drum_f1": Description("F1 of the drum onsets in the sound's spectral flux"),
    "drum_f1_reference": Description("F1 of the drum onsets in the reference's spectral flux"),
    "drum_f1_ratio": Description("drum_f1 over drum_f1_reference", heading="drums"),
    "mel_l1": Description("log-mel L1 of the Transformer's mels, nats", heading="mel"),
    "mel_l1_sound": Description("log-mel L1 of the sound, nats", heading="sound"),
    "stft_distance": Description("multi-resolution STFT distance", heading="STFT"),
    "chroma": Description("similarity of the pitch classes; 1: the same", heading="chroma"),
    "loudness": Description("correlation of the loudness curves", heading="loud"),
    "louder_db": Description("level above the reference, dB", digits=1),
    "change": Description("change of the sound's log-mel from frame to frame, nats"),
    "change_reference": Description("change of the reference's log-mel, nats"),
    "change_ratio": Description("change over change_reference", heading="change"),
    "change_mel": Description("change of the Transformer's mels, nats"),
    "rises": Description("99th percentile of rises of the sound's level within 10 ms, dB", 1),
    "rises_reference": Description("99th percentile of rises of the reference's level, dB", 1),
    "clipped": Description("samples beyond 0.99 of full scale, per file, as delivered", 1, "clip"),
    "silent": Description("share of the sound's frames below -60 dBFS"),
    "silent_reference": Description("share of the reference's frames below -60 dBFS"),
    "offset": Description("mean of the samples, of full scale", digits=5),
    "seam": Description("spectral flux at window borders over elsewhere, in the sound"),
    "seam_reference": Description(
        "spectral flux at window borders over elsewhere, in the reference"
    ),
    "seam_ratio": Description("seam over seam_reference", heading="seam"),
    "onset_level_border": Description(
        "level of onsets in the 60 ms after a window border above the reference's, dB", 1, "border"
    ),
    "onset_level_elsewhere": Description("level of the other onsets above the reference's, dB", 1),
    "onset_recall_border": Description("share of the onsets behind borders that are found"),
    "onset_recall_elsewhere": Description("share of the other onsets that are found"),
    "times_real_time": Description("seconds of sound per second of work", 1, "speed"),
    "band_distance": Description(
        "log-spectral distance from 7.9 to 20 kHz at 48 kHz, dB", 1, heading="band"
    ),
    "reconstruction": Description("distance from the reference in the embedding", heading="recon"),
    "vocoder_note_f1": Description("note F1 of the reference's mels through the vocoder"),
    "vocoder_note_f1_ratio": Description("vocoder_note_f1 over note_f1_reference", heading="copy"),
    "vocoder_stft_distance": Description(
        "STFT distance of the reference's mels through the vocoder", heading="STFT"
    ),
}


def print_tables(files: Sequence[tuple[str, Values]], summary: Mapping[str, Any]) -> None:
    """Print the results: as a drawn table on a terminal, else as plain aligned lines."""
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else 1000, highlight=False)
    if files:
        console.print(_files_table(files, summary["mean"], is_terminal))
    for name, value, meaning in _lines(summary):
        console.print(f"{name:<22} {value:>8}  {meaning}", markup=False, soft_wrap=True)


def _files_table(files: Sequence[tuple[str, Values]], mean: Values, is_terminal: bool) -> Table:
    """A row for each file and one for all, a column for each measure that has a heading."""
    columns = {name: d for name, d in DESCRIPTIONS.items() if name in mean and d.heading}
    table = Table(box=SIMPLE_HEAD if is_terminal else None, pad_edge=False, collapse_padding=True)
    table.add_column("file", overflow="fold", no_wrap=not is_terminal)
    for description in columns.values():
        table.add_column(description.heading, justify="right", no_wrap=True)
    for name, values in [*files, ("all", mean)]:
        cells = (as_text(values.get(column), columns[column].digits) for column in columns)
        table.add_row(Text(one_line(name)), *cells, end_section=name == files[-1][0])
    return table


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and meaning of each result for the model as a whole."""
    for name, description in DESCRIPTIONS.items():
        if name in summary["mean"]:
            yield name, as_text(summary["mean"][name], description.digits), description.meaning
    if found := summary.get("instruments"):
        value = as_text(found["top1"], 2)
        yield "instruments_top1", value, "share of instruments whose own reference is the nearest"
        mistaken = ", ".join(f"{one} for {other}" for other, one in found["mistaken"].items())
        meaning = f"share whose own reference is among the nearest three ({mistaken})"
        yield "instruments_top3", as_text(found["top3"], 2), meaning
    if found := summary.get("velocity"):
        value = as_text(found["rank_correlation"], 2)
        meaning = "rank correlation of levels with the reference's, mean over programs"
        yield "velocity", value, meaning
        yield "velocity_slope", as_text(found["slope"], 2), "dB louder for each dB of the reference"
    if found := summary.get("levels"):
        meaning = "95 % of programs, drums and piano octaves are within this of their level, dB"
        yield "levels_95", as_text(found["within"], 1), meaning
        far_off = ", ".join(f"{name} {level:+.0f}" for name, level in found["far_off"].items())
        yield "levels_worst", as_text(found["worst"], 1), f"the farthest off, dB ({far_off})"
    if found := summary.get("vibrato"):
        meaning = f"deviation of partials over the reference's, {found['notes']} notes with vibrato"
        yield "vibrato", as_text(found["deviation"], 2), meaning
        yield "vibrato_rate", as_text(found["rate"], 2), "share of them with a rate within 1 Hz"
    if found := summary.get("frechet"):
        meaning = f"distance from the references in the {found['embedding']} embedding"
        yield "frechet_distance", as_text(found["distance"], 2), meaning


def as_text(value: float | None, digits: int) -> str:
    """A number with `digits` digits after the decimal point; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"
