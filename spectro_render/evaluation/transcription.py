"""Measures notes: compares those that an independent transcriber finds with the score.

The transcriber is basic-pitch (Bittner et al. 2022, arXiv 2203.09893), whose ONNX graph is
`basic_pitch.onnx` in this folder; its package is not needed. The graph takes two seconds of sound
at a time. For each frame (86 a second) and each of 88 semitones it gives the probability that a
note sounds, and that one begins.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import soxr
from mir_eval.transcription import precision_recall_f1_overlap

from spectro_render.constants import SAMPLE_RATE
from spectro_render.evaluation.arrays import Samples
from spectro_render.midi.score import Note

RATE = 22_050  # Hz, of the graph's input
HOP = 256  # samples between frames
WINDOW = 2 * RATE - HOP  # samples of the graph's input
OVERLAP = 30  # frames that neighbouring windows share; half of them are dropped at either edge
WINDOW_FRAMES = 172  # frames of the graph's output
ADVANCE = WINDOW - OVERLAP * HOP  # samples between windows
LOWEST, HIGHEST = 21, 108  # MIDI pitches of a piano

ONSET_THRESHOLD = 0.5
NOTE_THRESHOLD = 0.3
SHORTEST = 11  # frames, 128 ms: a note is longer than that
LONGEST_GAP = 11  # frames below NOTE_THRESHOLD that do not end a note yet

TOLERANCE = 0.05  # seconds: largest distance between the onsets of notes that match
CENTS = 50.0  # largest distance between the pitches of notes that match
SILENT = 1e-4  # samples below this peak are not transcribed

Probabilities = npt.NDArray[np.float32]  # (frames, 88)


class Notes(NamedTuple):
    """Times and pitches of n notes."""

    intervals: npt.NDArray[np.float64]  # (n, 2): start and end, seconds
    pitches: npt.NDArray[np.float64]  # (n,): MIDI


def note_f1(samples: Samples, played: Notes) -> float:
    """F1 of the notes found in samples (S,), given the notes played; NaN if none was played.

    F1 is the harmonic mean of precision and recall (MIREX; Raffel et al. 2014, mir_eval). Two notes
    match if they have the same pitch and their onsets are within 50 ms, whatever their ends.
    """
    if not len(played.pitches):
        return float("nan")
    found = transcribe(samples)
    if not len(found.pitches):
        return 0.0
    _, _, f1, _ = precision_recall_f1_overlap(
        played.intervals,
        _hertz(played.pitches),
        found.intervals,
        _hertz(found.pitches),
        onset_tolerance=TOLERANCE,
        pitch_tolerance=CENTS,
        offset_ratio=None,
    )
    return float(f1)


def played_notes(notes: Iterable[Note]) -> Notes:
    """The notes of a score that a transcriber can find.

    Drums and pitches outside the range of a piano are left out. Notes of one pitch that begin
    within TOLERANCE of each other count once.
    """
    pitched = [n for n in notes if not n.is_drum and LOWEST <= n.pitch <= HIGHEST]
    kept: list[Note] = []
    for note in sorted(pitched, key=lambda n: (n.pitch, n.start)):
        before = kept[-1] if kept else None
        if not (before and before.pitch == note.pitch and note.start - before.start < TOLERANCE):
            kept.append(note)
    intervals = [(n.start, max(n.end, n.start + 0.02)) for n in kept]
    return Notes(np.array(intervals).reshape(-1, 2), np.array([float(n.pitch) for n in kept]))


def transcribe(samples: Samples) -> Notes:
    """The notes that the transcriber finds in samples (S,)."""
    if np.abs(samples).max(initial=0) < SILENT:
        return Notes(np.zeros((0, 2)), np.zeros(0))
    sounding, beginning = _posteriors(samples)
    found = list(_find_notes(sounding, beginning))
    times = _frame_seconds(len(sounding) + 1)
    intervals = [(times[start], times[end]) for start, end, _ in found]
    pitches = [float(LOWEST + band) for _, _, band in found]
    return Notes(np.array(intervals).reshape(-1, 2), np.array(pitches))


def _hertz(pitches: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 440.0 * 2.0 ** ((pitches - 69) / 12)


@cache
def _graph() -> Any:
    """The onnxruntime session of basic-pitch, loaded once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the graph is small: more threads only wait for each other
    data = (resources.files("spectro_render.evaluation") / "basic_pitch.onnx").read_bytes()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _posteriors(samples: Samples) -> tuple[Probabilities, Probabilities]:
    """The probabilities that notes sound, and that notes begin, in samples (S,)."""
    resampled = soxr.resample(samples, SAMPLE_RATE, RATE, quality="HQ")
    outputs = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]
    parts = [_graph().run(outputs, {"serving_default_input_2:0": w}) for w in _windows(resampled)]
    frames = int(len(resampled) * (RATE // HOP) / RATE)
    edge = OVERLAP // 2
    sounding, beginning = (
        np.concatenate([part[k][0, edge:-edge] for part in parts])[:frames] for k in (0, 1)
    )
    return sounding, beginning


def _windows(samples: Samples) -> Iterator[npt.NDArray[np.float32]]:
    """The graph's inputs (1, WINDOW, 1), which overlap; silence precedes the first samples."""
    padded = np.pad(samples, (OVERLAP * HOP // 2, WINDOW)).astype(np.float32)
    for start in range(0, len(padded) - WINDOW, ADVANCE):
        yield padded[None, start : start + WINDOW, None]


def _find_notes(
    sounding: Probabilities, beginning: Probabilities
) -> Iterator[tuple[int, int, int]]:
    """Find notes as (start, end, semitone), in frames.

    Notes with a clear onset are found first, then the remaining ones: the algorithm of the paper's
    section 2.2, with the published thresholds.
    """
    left = sounding.copy()
    for start, band in _onsets(sounding, beginning):
        end, quiet = _walk(left[start + 1 : -1, band])
        end += start + 1 - quiet
        if end - start > SHORTEST:
            left[start:end, max(0, band - 1) : band + 2] = 0
            yield start, end, band
    while left.size and left.max() > NOTE_THRESHOLD:
        middle, band = (int(k) for k in np.unravel_index(left.argmax(), left.shape))
        after, quiet_after = _walk(left[middle + 1 : -1, band])
        before, quiet_before = _walk(left[1:middle, band][::-1])
        left[middle - before : middle + after + 1, max(0, band - 1) : band + 2] = 0
        start, end = middle - before + quiet_before, middle + after - quiet_after
        if end - start > SHORTEST:
            yield start, end, band


def _onsets(sounding: Probabilities, beginning: Probabilities) -> list[tuple[int, int]]:
    """Onsets as (frame, semitone), from the last to the first.

    An onset is a peak in time of the probability that a note begins, or of a sudden rise of the
    probability that a note sounds.
    """
    rise = np.zeros_like(sounding)
    rise[2:] = np.minimum(sounding[2:] - sounding[1:-1], sounding[2:] - sounding[:-2]).clip(0)
    if rise.max(initial=0) > 0:
        rise *= beginning.max() / rise.max()
    likely = np.maximum(beginning, rise)
    peaks = np.zeros(likely.shape, bool)
    peaks[1:-1] = (likely[1:-1] > likely[:-2]) & (likely[1:-1] > likely[2:])
    frames, bands = np.nonzero(peaks & (likely >= ONSET_THRESHOLD))
    return list(zip(frames[::-1].tolist(), bands[::-1].tolist(), strict=True))


def _walk(levels: npt.NDArray[np.float32]) -> tuple[int, int]:
    """Follow a note's probabilities (n,) until they are low for LONGEST_GAP frames.

    Returns how many frames were followed, and how many of the last ones were low.
    """
    quiet = 0
    for walked, level in enumerate(levels.tolist()):
        if quiet == LONGEST_GAP:
            return walked, quiet
        quiet = quiet + 1 if level < NOTE_THRESHOLD else 0
    return len(levels), quiet


def _frame_seconds(frames: int) -> npt.NDArray[np.float64]:
    """The time of each frame in seconds, as basic-pitch computes it.

    Windows are a little shorter than their frames; basic-pitch corrects for that and for 1.8 ms
    that its authors measured.
    """
    number = np.arange(frames)
    excess = WINDOW_FRAMES - WINDOW / HOP  # frames a window
    return number * HOP / RATE - number // WINDOW_FRAMES * (excess * HOP / RATE + 0.0018)
