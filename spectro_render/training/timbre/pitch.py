"""Finds the notes of an instrument that plays one note at a time, from its sound alone.

Pitch is found by YIN (de Cheveigné and Kawahara, "YIN, a fundamental frequency estimator for speech
and music", JASA 111, 2002): the shortest period after which the sound repeats itself. Notes begin
where a pitch begins, where it changes, and where the level rises at once. S samples at 16 kHz, T
frames of 10 ms.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import SAMPLE_RATE
from spectro_render.midi.score import Note

HOP = 160  # samples in a frame
WINDOW, LONGEST = 800, 600  # samples that are compared, and of the longest period: 26.7 Hz
SHORTEST = 4  # samples of the shortest period: 4 kHz
CLEAR = 0.15  # largest aperiodicity of a clear pitch
AUDIBLE = -45.0  # dB relative to the loudest frame
GONE = -36.0  # dB relative to a note's loudest frame: below it the note has ended
SUDDEN = 6.0  # dB in 40 ms: by such a rise a note begins, even at the same pitch
SEMITONE = 0.7  # by which the pitch has to leave a note's before another begins
STEADY = 4  # frames for which another pitch has to last
SHORTEST_NOTE = 8  # frames
FIRST_HARMONICS, LEAST_SHARE = 3, 0.02  # which have at least so much of a note's power
UNCLEAR = 10  # frames without a pitch, from which on they are left out
LEAST_CLEAR = 0.5  # share of the audible frames with a clear pitch
MEAN_VELOCITY, LEAST_VELOCITY = 80, 20


@dataclass(frozen=True)
class Detected:
    """The notes of a sound, and the share of its audible frames that have a clear pitch."""

    notes: tuple[Note, ...]  # of program 0
    clear: float
    unclear: tuple[tuple[float, float], ...] = ()  # begin and end in seconds of all others


def find_notes(samples: Tensor) -> Detected:
    """The notes of samples (S,), with velocities that follow from how loud each is."""
    level = frame_levels(samples)  # (T,)
    pitch = frame_pitches(samples)[: len(level)]  # (T,), NaN without a clear one
    audible = level > level.max() + AUDIBLE
    pitch[~audible] = np.nan
    for begin, end, key in _segments(pitch, level):
        if _is_common_period(samples[HOP * begin : HOP * end], key):
            pitch[begin:end] = np.nan
    clear = float(np.isfinite(pitch)[audible].mean())
    known = pitch[np.isfinite(pitch)]
    if not len(known):
        return Detected((), 0.0)
    turn = np.exp(2j * np.pi * known).mean()  # semitones that all pitches lie beside the keys
    tuning = float(np.angle(turn)) / (2 * np.pi)
    found = [
        (begin, end, key, float(level[begin:end].max()))
        for begin, end, key in _segments(pitch - tuning, level)
    ]
    if not found:
        return Detected((), clear)
    usual = float(np.median([loudest for *_, loudest in found]))
    notes = []
    for begin, end, key, loudest in found:
        velocity = MEAN_VELOCITY * 10 ** ((loudest - usual) / 40)  # amplitude: velocity squared
        velocity = round(min(127.0, max(LEAST_VELOCITY, velocity)))
        seconds = HOP / SAMPLE_RATE
        notes.append(Note(begin * seconds, end * seconds, key, velocity, 0, False))
    return Detected(tuple(notes), clear, _without_pitch(audible & ~np.isfinite(pitch)))


def _is_common_period(samples: Tensor, key: int) -> bool:
    """Whether samples (S,) lack the first harmonics of a key, as the sum of two notes does."""
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs().square()
    width = SAMPLE_RATE / len(samples)
    nominal = 440 * 2 ** ((key - 69) / 12)
    reach = int((FIRST_HARMONICS + 0.5) * nominal / width) + 1
    return bool(spectrum[:reach].sum() < LEAST_SHARE * spectrum.sum())


def _without_pitch(frames: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Begin and end in seconds of the runs of frames (T,) that last for UNCLEAR or longer."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frames.astype(int), [0]])))
    runs = edges.reshape(-1, 2)
    seconds = HOP / SAMPLE_RATE
    return tuple((a * seconds, b * seconds) for a, b in runs.tolist() if b - a >= UNCLEAR)


def frame_levels(samples: Tensor) -> np.ndarray:
    """The level of each frame in dB, (T,), over 20 ms from its begin on."""
    padded = F.pad(samples, (0, 2 * HOP))
    power = padded.square().unfold(0, 2 * HOP, HOP).mean(1)
    level: np.ndarray = (10 * (power + 1e-12).log10()).numpy().astype(np.float64)
    return level


def frame_pitches(samples: Tensor) -> np.ndarray:
    """The pitch of each frame as a MIDI note number with a fraction, (T,); NaN if none is clear."""
    frames = F.pad(samples, (0, WINDOW + LONGEST)).unfold(0, WINDOW + LONGEST, HOP).double()
    size = 2 * (WINDOW + LONGEST)
    spectrum = torch.fft.rfft(frames, size)
    head = torch.fft.rfft(frames[:, :WINDOW], size)
    product = torch.fft.irfft(spectrum * head.conj(), size)[:, : LONGEST + 1]
    energy = F.pad(frames.square().cumsum(1), (1, 0))
    energy = energy[:, WINDOW : WINDOW + LONGEST + 1] - energy[:, : LONGEST + 1]
    difference = (energy[:, :1] + energy - 2 * product).clamp(min=0)  # (T, lags)
    lag = torch.arange(1, LONGEST + 1)
    mean = difference[:, 1:].cumsum(1) / lag
    ratio = F.pad(difference[:, 1:] / mean.clamp(min=1e-12), (1, 0), value=1.0)

    inner = ratio[:, 1:-1]
    is_lowest = (inner <= ratio[:, :-2]) & (inner < ratio[:, 2:]) & (inner < CLEAR)
    is_lowest[:, : SHORTEST - 1] = False
    period = is_lowest.float().argmax(1) + 1
    around = torch.stack([ratio.gather(1, period[:, None] + k)[:, 0] for k in (-1, 0, 1)], 1)
    left, middle, right = around.unbind(1)
    bend = (left - 2 * middle + right).clamp(min=1e-9)
    exact = period + (0.5 * (left - right) / bend).clamp(-0.5, 0.5)
    pitch = 69 + 12 * (SAMPLE_RATE / exact / 440).log2()
    pitch[~is_lowest.any(1)] = torch.nan
    found: np.ndarray = pitch.numpy()
    return found


def _segments(pitch: np.ndarray, level: np.ndarray) -> list[tuple[int, int, int]]:
    """Begin, end and key of each note: frames, from pitches (T,) and levels (T,)."""
    rise = np.zeros_like(level)
    rise[2:-2] = level[4:] - level[:-4]
    segments: list[tuple[int, int, int]] = []
    begin, key, loudest = -1, 0, -np.inf

    def close(end: int) -> None:
        nonlocal begin
        if begin >= 0 and end - begin >= SHORTEST_NOTE and 0 <= key <= 127:
            segments.append((begin, end, key))
        begin = -1

    for place in range(len(level)):
        coming = pitch[place : place + STEADY]
        known = coming[np.isfinite(coming)]
        if begin >= 0:
            loudest = max(loudest, level[place])
            has_left = len(known) >= STEADY // 2 and (np.abs(known - key) > SEMITONE).all()
            around = rise[max(0, place - 2) : place + 3]
            is_hit = rise[place] > SUDDEN and rise[place] >= around.max() and place - begin > STEADY
            if has_left or is_hit or level[place] < loudest + GONE or not len(known):
                close(place)
        if begin < 0 and len(known) == STEADY and np.ptp(known) < 1:
            begin, key, loudest = place, round(float(np.median(known))), level[place]
    close(len(level))
    return segments
