"""Measures the line table of a soundfont, which the vocoder's harmonic map needs.

Each program is played note by note, each drum once; see `vocoder/lines.py` for what is kept. The
frequencies of lines come from two spectra of half a second, interpolated at their peaks.
"""

import math
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spectro_render.constants import FRAME_RATE, HOP_LENGTH, N_MELS, SAMPLE_RATE, WIN_LENGTH
from spectro_render.mel import log_mel
from spectro_render.midi.score import Note, Score
from spectro_render.training.progress import Countdown
from spectro_render.training.synth import Synthesizer
from spectro_render.vocoder.harmonic_map import STEADY_CENTS, line_mel
from spectro_render.vocoder.lines import (
    COURSE_FRAMES,
    DRUM_KIT,
    LONGEST_DECAY,
    LOWEST_PITCH,
    MELODIC_SOURCES,
    NO_LINE,
    PITCH_STEP,
    PITCHES,
    SOURCES,
    LineTable,
)

LEAD = 0.1  # seconds before the first note
HELD = 1.0  # seconds for which each note is held
AFTER = 0.7  # seconds from a note's end to the next onset
APART = HELD + AFTER
VELOCITY = 100
DRUMS = range(27, 88)
SPECTRA = (0.06, 0.42)  # seconds after the onset at which the two spectra begin
SIZE = 8192  # samples under their windows
PADDED = 2 * SIZE
RANGE = 70.0  # dB below the highest peak: lower ones are no lines
PROMINENCE = 9.0  # dB above the median of the spectrum around it
AROUND = 60  # bins on each side that this median is taken of
NEAREST = 18.0  # Hz: peaks nearer to a stronger one are parts of it
LEAST_HZ, MOST_HZ = 20.0, 7950.0
BEGUN = 0.03  # of the largest power in the first BEGINNING samples: then a note has begun
BEGINNING = 1280  # samples, 80 ms
SHORT, SHORT_HOP = 16, 4  # samples whose power is compared with that, and between them
LEAST_NOISE = 0.1  # of the mel: what is no line is at least so much
SETTLED = slice(8, 46)  # frames of a held note from which vibrato is measured
LONG = 3.4  # seconds for which notes with vibrato are held once more, to measure its course
MOST_CENTS = 60.0  # of a course: more is no vibrato but a line that was mistaken for another
CLEAR = 40.0  # dB below a note's loudest frame: softer ones say nothing about its pitch
EMPHASIS = 0.4  # of a course: spectra of 80 ms smooth it, which this makes good
SLOW = 25  # frames whose mean is not emphasised
ALIKE = 40  # frames of a course that are compared to find what goes on for ever
SHORTEST_REPEAT = 6  # frames
STRONGEST = 8  # lines from which it is measured
SWINGING_HZ = (500.0, 3000.0)  # in which they lie; lower ones beat with their neighbours
PROBE, PROBE_HOP = 800, 80  # samples under each window, and between them


def measure_lines(
    lines: int,
    say: Callable[[str], None] = print,
    *,
    soundfont: Path | None = None,
    workers: int = 1,
) -> LineTable:
    """Play all programs and drums of a soundfont, and measure `lines` lines of each note.

    The soundfont is by default that of `find_soundfont`; `workers` is the number of processes.
    Raises SpectroRenderError without FluidSynth or a soundfont.
    """
    table = LineTable(lines, delays=True, courses=True)
    countdown = Countdown("lines of programs", DRUM_KIT + 1, say)
    context = multiprocessing.get_context("spawn")  # FluidSynth and torch do not survive a fork
    with context.Pool(workers, _start_worker, (soundfont,)) as pool:
        jobs = ((lines, program) for program in range(DRUM_KIT + 1))
        for first, rows in pool.imap_unordered(_measure_program, jobs):
            for name, measured in rows.items():
                table.get_buffer(name)[first : first + len(measured)] = measured
            countdown.count()
    return table


_synthesizer: Synthesizer


def _start_worker(soundfont: Path | None) -> None:
    global _synthesizer
    torch.set_num_threads(1)
    _synthesizer = Synthesizer(soundfont)


def _measure_program(job: tuple[int, int]) -> tuple[int, dict[str, Tensor]]:
    """The first source of a program (DRUM_KIT: of drums), and its rows of a table, by name."""
    lines, program = job
    table = LineTable(lines, delays=True, courses=True)
    pitches = range(LOWEST_PITCH, LOWEST_PITCH + PITCHES * PITCH_STEP, PITCH_STEP)
    if program == DRUM_KIT:
        first, count = MELODIC_SOURCES, SOURCES - MELODIC_SOURCES
        for drum, sound in zip(DRUMS, _play(_synthesizer, DRUMS, None, HELD), strict=True):
            _measure(table, first + drum, sound, None)
    else:
        first, count = program * PITCHES, PITCHES
        for step, sound in enumerate(_play(_synthesizer, pitches, program, HELD)):
            _measure(table, first + step, sound, pitches[step])
        moving = (table.vibrato[first : first + count] > STEADY_CENTS).nonzero()[:, 0].tolist()
        sounds = _play(_synthesizer, [pitches[step] for step in moving], program, LONG)
        for step, sound in zip(moving, sounds, strict=True):
            source = first + step
            hertz = table.hertz(torch.tensor([source]), torch.tensor([pitches[step]]))[0]
            hertz = hertz[table.level[source] > NO_LINE]
            table.course[source], table.repeat[source] = _course(sound, hertz)
    rows = {name: buffer[first : first + count].clone() for name, buffer in table.named_buffers()}
    return first, rows


def _play(
    synthesizer: Synthesizer, pitches: Sequence[int], program: int | None, held: float
) -> list[Tensor]:
    """The sounds (S,) of single notes of a program, or of drums, each from its onset."""
    apart = held + AFTER
    starts = [LEAD + apart * number for number in range(len(pitches))]
    notes = tuple(
        Note(start, start + held, pitch, VELOCITY, program or 0, program is None)
        for start, pitch in zip(starts, pitches, strict=True)
    )
    samples = synthesizer.render_score(Score(notes, apart * len(pitches)))
    length = round((apart - LEAD) * SAMPLE_RATE)
    begins = [round(start * SAMPLE_RATE) for start in starts]
    return [torch.from_numpy(samples[begin : begin + length].copy()) for begin in begins]


def _measure(table: LineTable, source: int, sound: Tensor, pitch: int | None) -> None:
    """Fill the row of a source in, from its sound (S,) at VELOCITY."""
    loudness = (127 / VELOCITY) ** 2
    mel = log_mel(sound).exp() * loudness  # (T, 128)
    power = mel.square().sum(1)
    table.delay[source] = _delay(sound)
    table.decay[source] = _fading(power[3:13], power[33:43], 30).clamp(2, LONGEST_DECAY)
    end = round(HELD * FRAME_RATE)
    table.release[source] = _fading(power[end : end + 2], power[end + 10 : end + 12], 10).clamp(
        0.5, 100
    )
    lines = find_lines(sound.numpy()) if pitch is not None else []
    age = torch.exp(-(torch.arange(end) + 1) / table.decay[source])
    if pitch is not None:
        lines = lines[: table.level.shape[1]]
        hertz = torch.tensor([line[0] for line in lines], dtype=torch.float32)
        level = torch.tensor([line[1] for line in lines], dtype=torch.float32) * loudness
        table.level[source] = NO_LINE
        if len(lines):
            interval = 12 * (hertz / 440).log2() + 69 - pitch
            table.semitones[source, : len(lines)] = interval.round()
            table.cents[source, : len(lines)] = 100 * (interval - interval.round())
            # As measured it is a mean over the note; the table has it at the note's onset.
            mean = age[3:end].square().mean().sqrt()
            table.level[source, : len(lines)] = (level / mean).clamp(min=1e-9).log()
            table.vibrato[source] = _vibrato(sound, hertz)
    first = 0 if pitch is None else 3
    fitted = (mel[first:end].square().sum(0) / age[first:].square().sum()).sqrt()
    tonal = torch.zeros(N_MELS)
    if len(lines):
        own = table.level[source, : len(lines)].exp()
        tonal = (own[:, None] * line_mel(hertz)).square().sum(0).sqrt()
    rest = (fitted.square() - tonal.square()).clamp(min=0).sqrt()
    table.noise[source] = rest.maximum(LEAST_NOISE * fitted).clamp(min=1e-6).log()


def _delay(sound: Tensor) -> Tensor:
    """Samples from a note's onset to the first ones that are not soft, given its sound (S,)."""
    power = sound[:BEGINNING].square().unfold(0, SHORT, SHORT_HOP).mean(1)
    begun = (power >= BEGUN * power.max()).float().argmax()
    return begun * SHORT_HOP + SHORT // 2


def _fading(before: Tensor, after: Tensor, frames: int) -> Tensor:
    """Frames in which a magnitude falls to 1/e, given powers `frames` frames apart."""
    ratio = (before.mean() + 1e-12).log() - (after.mean() + 1e-12).log()
    return 2 * frames / ratio.clamp(min=1e-3)


def find_lines(sound: np.ndarray) -> list[tuple[float, float]]:
    """The lines in the spectrum of a note (S,): frequencies in Hz and magnitudes, strongest first.

    Magnitudes are as in the mel's STFT. The note begins at the first sample.
    """
    spectrum = np.zeros(PADDED // 2 + 1)
    for start in SPECTRA:
        first = round(start * SAMPLE_RATE)
        piece = sound[first : first + SIZE] * np.hanning(SIZE)
        spectrum += np.abs(np.fft.rfft(piece, PADDED)) ** 2 / len(SPECTRA)
    level = 10 * np.log10(spectrum + 1e-12)
    bins = np.arange(2, len(level) - 2)
    is_peak = (level[bins] >= level[bins - 1]) & (level[bins] > level[bins + 1])
    peaks: list[tuple[float, float]] = []
    for k in bins[is_peak & (level[bins] > level.max() - RANGE)]:
        around = level[max(0, k - AROUND) : k + AROUND + 1]
        if level[k] < np.median(around) + PROMINENCE:
            continue
        left, middle, right = level[k - 1 : k + 2]
        offset = 0.5 * (left - right) / min(left - 2 * middle + right, -1e-6)
        peaks.append(((k + offset) * SAMPLE_RATE / PADDED, spectrum[k]))
    merged: list[list[float]] = []  # the mean frequency times power, power
    for hertz, power in sorted(peaks, key=lambda peak: -peak[1]):
        if not LEAST_HZ < hertz < MOST_HZ:
            continue
        near = [line for line in merged if abs(line[0] / line[1] - hertz) < NEAREST]
        if near:
            near[0][0] += hertz * power
            near[0][1] += power
        else:
            merged.append([hertz * power, power])
    scale = WIN_LENGTH / SIZE  # of the sums of the two windows
    lines = [(weighted / power, power**0.5 * scale) for weighted, power in merged]
    return sorted(lines, key=lambda line: -line[1])


def _vibrato(sound: Tensor, hertz: Tensor) -> Tensor:
    """Standard deviation in cents of a note's frequency."""
    cents = line_deviations(sound, hertz)[SETTLED]
    return (cents - cents.median()).clamp(-MOST_CENTS, MOST_CENTS).std()


def _course(sound: Tensor, hertz: Tensor) -> tuple[Tensor, int]:
    """The course of a note's lines, (COURSE_FRAMES,) cents, and the frames at its end to repeat."""
    frames = sound[: (COURSE_FRAMES + 2) * HOP_LENGTH].view(-1, HOP_LENGTH)
    level = 10 * (frames.square().mean(1)[:COURSE_FRAMES] + 1e-12).log10()
    cents = line_deviations(sound, hertz)[:COURSE_FRAMES].clamp(-MOST_CENTS, MOST_CENTS)
    clear = level > level.max() - CLEAR
    course = torch.where(clear, cents, cents[clear].median())
    padded = F.pad(course[None], (SLOW // 2, SLOW // 2), mode="replicate")
    course = course + EMPHASIS * (course - F.avg_pool1d(padded, SLOW, 1)[0])
    best, least = 1, torch.inf
    for repeat in range(SHORTEST_REPEAT, COURSE_FRAMES - ALIKE):
        error = float((course[-ALIKE:] - course[-ALIKE - repeat : -repeat]).square().mean())
        if error < least:
            best, least = repeat, error
    return course, best


def line_deviations(sound: Tensor, hertz: Tensor) -> Tensor:
    """By how many cents a note's lines lie above their frequencies, at the ages of whole frames.

    `hertz` are the frequencies, the strongest line's first. The deviation is the median of the
    strongest lines, from the phase of each against a steady sine, every 5 ms.
    """
    hertz = hertz[(hertz > SWINGING_HZ[0]) & (hertz < SWINGING_HZ[1])][:STRONGEST]
    length = len(sound) // HOP_LENGTH
    if not len(hertz):
        return torch.zeros(length)
    frames = sound.unfold(0, PROBE, PROBE_HOP) * torch.hann_window(PROBE)
    time = torch.arange(PROBE) / SAMPLE_RATE
    angle = -2 * torch.pi * hertz[:, None] * time
    probe = torch.polar(torch.ones_like(angle), angle)
    turned = (frames.to(probe.dtype) @ probe.T).angle() / (2 * torch.pi)  # (hops, lines), in turns
    advance = turned.diff(dim=0) - hertz * PROBE_HOP / SAMPLE_RATE
    advance = (advance + 0.5) % 1 - 0.5
    off = advance * SAMPLE_RATE / PROBE_HOP / hertz
    cents = 1200 / math.log(2) * off.median(1).values
    # An advance belongs to the middle of two probes, 440 samples after the first one's begin; four
    # of them, from the seventh before it on, have their middle at the frame's.
    cents = torch.cat([cents[:1].expand(7), cents])[: 4 * length].unfold(0, 4, 4).mean(1)
    return torch.cat([cents, cents[-1:].expand(length - len(cents))])
