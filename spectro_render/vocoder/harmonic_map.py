"""Where the partials of known notes lie in a spectrum, fitted to the mel: the harmonic map.

A mel says how strong each band is, but not where in the band a partial lies. Notes nearly do.

    notes -> lines and noise expected of each (`lines`) -> moved to where the mel has them
          -> levels fitted to the mel -> tonal and noisy magnitudes

Lines and noise share a band's power as the table expects, and the mel decides how much that is. The
lines of a note may lie a few cents off, all of them equally. A table with courses has this
deviation for each age of a note. Without them it is estimated for each frame from how the mel's
bands share the power of the upper lines, so that vibrato is followed. Everything is local: a frame
of the map depends on few frames of the mel around it.

N notes, Q pairs of a note and a frame, P lines of such pairs, T mel frames, M = 128 mel bands,
K frequency bins. A note is a row of five numbers: program (128: drums), pitch, velocity (0 to 1),
and its onset and offset in frames, counted from the centre of the frame before the mel's first.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from spectro_render.constants import FRAME_RATE, N_FFT, N_MELS, SAMPLE_RATE, WIN_LENGTH
from spectro_render.mel import mel_matrix
from spectro_render.vocoder.griffin_lim import SEGMENT, band_interpolation
from spectro_render.vocoder.lines import DRUM_KIT, LONGEST_DECAY, NO_LINE, LineTable, source_of

NOTE_NUMBERS = 5  # program, pitch, velocity, onset, offset
ONSET = 3  # the onset's place among them
FITS = 5  # rounds in which levels are fitted
LONGEST = 7.0  # times a decay: then a note is too soft to matter
SLIGHT = 1e-3  # of a band's expected power: weaker lines are left out
SIDE = 3  # a line reaches over so many zeros of its lobe to each side
STEPS = 256  # of the table of the lobe, between two zeros
LOWEST_HZ, HIGHEST_HZ = 20.0, 7990.0
SCATTER = 7.123456  # turns per Hz: the start phases of lines differ, or they would make a pulse
MOST_PAIRS = 1 << 17  # of notes and frames, which are mapped at once: about 2 kB each
BLOCK = 1 << 13  # of these pairs, whose lines are chosen at once: about 2 kB each
REACH = 2  # frames before and after on which a frame of the map depends
SMEAR = (0.12, 0.76, 0.12)  # share of the neighbouring frames' power under a window twice as long
FAINT = 1e-6  # magnitude expected where nothing sounds

STEADY_CENTS = 1.0  # of vibrato: the lines of sources with less stay where the table has them
SWAY_CENTS = 10.0  # standard deviation that is expected of the others
TRIALS = torch.arange(-60.0, 61.0, 15.0)  # cents: deviations that are compared
MOVABLE_HZ = (700.0, 6000.0)  # lines from which a deviation is estimated
TRIAL_BANDS = 8  # mel bands that such a line reaches
TRIAL_ERROR = 0.25  # nats: how well mels can be explained at all
GRID_HZ = 4.0  # of the table of the mels of lines


class HarmonicMap(NamedTuple):
    """What is expected in an STFT with a window twice as long as the mel's, (T, K) each."""

    tonal: Tensor  # magnitudes of the lines, if their powers add up
    noisy: Tensor  # magnitudes of everything else
    partials: Tensor  # complex: the lines with their phases, divided by the magnitude above


class _Lines(NamedTuple):
    """The lines of all notes in all frames, P of them."""

    pair: Tensor  # which of the Q pairs of note and frame each belongs to
    frame: Tensor
    hertz: Tensor
    level: Tensor  # of the peak in the mel's STFT, as expected
    nominal: Tensor  # hertz, before it is moved
    moves: Tensor  # whether its source has vibrato


class ScoreNote(Protocol):
    """A note of a score: its fields are those of `midi.score.Note`."""

    @property
    def start(self) -> float: ...

    @property
    def end(self) -> float: ...

    @property
    def pitch(self) -> int: ...

    @property
    def velocity(self) -> int: ...

    @property
    def program(self) -> int: ...

    @property
    def is_drum(self) -> bool: ...


def map_notes(notes: Iterable[ScoreNote]) -> Tensor:
    """The notes (N, 5), float64, of a harmonic map from those of a score."""
    rows = [
        [
            DRUM_KIT if note.is_drum else note.program,
            note.pitch,
            note.velocity / 127,
            note.start * FRAME_RATE,
            note.end * FRAME_RATE,
        ]
        for note in notes
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, NOTE_NUMBERS)


def notes_between(notes: Tensor, first: int, last: int) -> Tensor:
    """The notes of (N, 5) that may sound in frames `first` to `last`; times count from `first`.

    Drums ring on whatever their offsets say.
    """
    onset, offset = notes[:, 3], torch.where(notes[:, 0] == DRUM_KIT, notes[:, 3], notes[:, 4])
    sounds = (onset < last + 2) & (offset > first - LONGEST * LONGEST_DECAY)
    return moved(notes[sounds], first)


def moved(notes: Tensor, frames: float) -> Tensor:
    """Notes (N, 5) with times that count from `frames` frames later."""
    return notes - notes.new_tensor([0, 0, 0, frames, frames])


def harmonic_map(log_mel: Tensor, notes: Tensor, table: LineTable, bins: int) -> HarmonicMap:
    """The map for a natural log-mel (T, 128) and its notes (N, 5), for an STFT with K bins.

    The mel must start at a multiple of SEGMENT frames of the whole one. A frame of the map depends
    on the mel in its segment, and on two frames before and after the frame; so do notes. Where many
    notes sound, it is made segment by segment, so that memory does not grow with their number
    times the length.
    """
    length = len(log_mel)
    piece = _frames_at_once(notes, table, length)
    if piece >= length:
        return _map_of_piece(log_mel, notes, table, bins, 0)
    maps = []
    for begin in range(0, length, piece):
        first, end = max(0, begin - REACH), min(begin + piece, length)
        last = min(end + REACH, length)
        known = notes_between(notes, first, last)
        mapped = _map_of_piece(log_mel[first:last], known, table, bins, first % SEGMENT)
        maps.append(HarmonicMap(*(part[begin - first : end - first] for part in mapped)))
    return HarmonicMap(*map(torch.cat, zip(*maps, strict=True)))


def _frames_at_once(notes: Tensor, table: LineTable, length: int) -> int:
    """So many frames, whole segments, that the notes of each make no more than MOST_PAIRS."""
    first, counts = _spans(notes, table, length)
    changes = torch.zeros(length + 1, dtype=torch.long)
    changes.index_add_(0, first, torch.ones_like(first))
    changes.index_add_(0, first + counts, -torch.ones_like(first))
    most = max(1, int(changes.cumsum(0).max()))  # notes in a frame
    return max(MOST_PAIRS // most // SEGMENT, 1) * SEGMENT


def _map_of_piece(
    log_mel: Tensor, notes: Tensor, table: LineTable, bins: int, place: int
) -> HarmonicMap:
    """The harmonic map, made at once; `place` is that of the first frame in its segment."""
    length, mel = len(log_mel), log_mel.exp()
    pairs, lines, noise, ahead = expected_lines(notes, table, length)
    cents = log_mel.new_zeros(len(pairs[0]))
    if bool(lines.moves.any()):
        cents = _deviations(lines, log_mel, noise, pairs)
        lines = lines._replace(hertz=lines.hertz * 2 ** (cents[lines.pair] / 1200))
    plain_bins = N_FFT // 2 + 1  # of the mel's own STFT
    plain_noise = noise_spectrum(noise, plain_bins)
    drawn = draw_power(lines, spread_lines(lines, plain_bins, WIN_LENGTH), length, plain_bins)
    level = _fit(mel, (drawn + plain_noise.square()).sqrt())
    gain = (level @ band_interpolation(bins)).exp()
    spread = spread_lines(lines, bins, 2 * WIN_LENGTH)
    drawn = draw_power(lines, spread, length, bins).sqrt()
    noisy = 2**0.5 * noise_spectrum(noise, bins) * gain
    turns = line_turns(lines, cents, ahead, *pairs, notes[:, 3], place)
    partials = draw_phases(lines, spread, turns, length, bins, 2 * WIN_LENGTH) / drawn.clamp(
        min=FAINT
    )
    return HarmonicMap(_smear(2 * drawn * gain), _smear(noisy), partials)


def _spans(notes: Tensor, table: LineTable, length: int) -> tuple[Tensor, Tensor]:
    """The first frame of each note, and in how many it is loud enough to matter: (N,), int64."""
    program, pitch, _, onset, offset = notes.unbind(1)
    source = source_of(program.long(), pitch.long())
    offset = torch.where(program == DRUM_KIT, torch.inf, offset)
    first = (onset.floor() - 1).clamp(0, length).long()
    faded = onset + LONGEST * table.decay[source]
    last = torch.minimum(offset + LONGEST * table.release[source], faded) + 1
    return first, (last.ceil().clamp(0, length).long() - first).clamp(min=0)


def expected_lines(
    notes: Tensor, table: LineTable, length: int
) -> tuple[tuple[Tensor, Tensor], _Lines, Tensor, Tensor]:
    """What is expected of notes before they are compared with a mel.

    Returns the note and the frame of each pair, the lines of all, the mel of the noise (T, M), and
    by how many seconds the phases of each pair's lines are ahead of steady ones, (Q,) float64.
    """
    program, pitch = notes[:, 0].long(), notes[:, 1].long()
    velocity, onset, offset = notes[:, 2:].unbind(1)
    source = source_of(program, pitch)
    decay, release = table.decay[source], table.release[source]
    offset = torch.where(program == DRUM_KIT, torch.inf, offset)
    first, counts = _spans(notes, table, length)
    note = torch.repeat_interleave(torch.arange(len(notes)), counts)
    frame = torch.arange(len(note))
    frame = frame - (counts.cumsum(0) - counts)[note] + first[note]

    since, rest = (frame + 1 - onset[note]), (frame + 1 - offset[note])
    envelope = velocity[note] ** 2 * ((since + 1) / 2).clamp(0, 1)
    envelope = envelope * torch.exp(-since.clamp(min=0) / decay[note])
    envelope = (envelope * torch.exp(-rest.clamp(min=0) / release[note])).to(table.level)

    blocks = [slice(i, i + BLOCK) for i in range(0, len(note), BLOCK)]
    noise, noisy = table.noise.new_zeros(length, N_MELS), table.noise[source].exp()
    for block in blocks:
        heard = envelope[block, None] * noisy.index_select(0, note[block])
        noise.index_add_(0, frame[block], heard.square())

    hertz = table.hertz(source, pitch)  # (N, I)
    level = torch.where(
        (hertz > LOWEST_HZ) & (hertz < HIGHEST_HZ),
        table.level[source],
        torch.full_like(hertz, NO_LINE),
    )
    band, peak = _band_of(hertz), level.exp()
    power = envelope.new_empty(len(note), hertz.shape[1])  # (Q, I)
    total = noise.flatten()
    for block in blocks:
        power[block] = (envelope[block, None] * peak.index_select(0, note[block])).square()
        place = frame[block, None] * N_MELS + band.index_select(0, note[block])
        total = total.scatter_add(0, place.flatten(), power[block].flatten())
    kept = [frame.new_empty(0, 2)]
    for block in blocks:
        place = frame[block, None] * N_MELS + band.index_select(0, note[block])
        least = SLIGHT * total.index_select(0, place.flatten()).view_as(place)
        is_kept = (power[block] > least) & (level.index_select(0, note[block]) > NO_LINE)
        kept.append(is_kept.nonzero() + torch.tensor([block.start, 0]))
    pair, line = torch.cat(kept).unbind(1)
    nominal, ahead = hertz[note[pair], line], since.new_zeros(len(note))
    if table.has_courses:
        cents, ahead = table.deviation(source, pitch, note, since)
        moved_to, moves = (
            nominal * 2 ** (cents / 1200)[pair],
            torch.zeros_like(pair, dtype=torch.bool),
        )
    else:
        moved_to, moves = nominal, table.vibrato[source][note[pair]] > STEADY_CENTS
    lines = _Lines(pair, frame[pair], moved_to, power[pair, line].sqrt(), nominal, moves)
    return (note, frame), lines, noise.sqrt(), ahead


def _band_of(hertz: Tensor) -> Tensor:
    """The mel band whose centre is nearest to each frequency, int64."""
    top = torch.log1p(torch.tensor(SAMPLE_RATE / 2 / 700))
    place = torch.log1p(hertz / 700) / top * (N_MELS + 1) - 1
    return place.round().clamp(0, N_MELS - 1).long()


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _lobe() -> Tensor:
    """The lobe of the Hann window, 1 at its middle, in steps of 1 / STEPS of a zero's distance."""
    x = torch.arange(SIDE * STEPS + 1, dtype=torch.float64) / STEPS
    away = (x - 1).abs() > 1e-9
    lobe = torch.where(away, torch.sinc(x) / (1 - x * x).where(away, torch.ones_like(x)), 0.5)
    lobe[-1] = 0
    return lobe.abs().float()


def spread_lines(lines: _Lines, bins: int, window: int) -> tuple[Tensor, Tensor]:
    """The bins (P, n) that lines reach with a Hann window of `window` samples; values there."""
    spacing, zero = SAMPLE_RATE / 2 / (bins - 1), SAMPLE_RATE / window  # Hz
    taps = torch.arange(round(2 * SIDE * zero / spacing) + 1)
    lowest = ((lines.hertz - SIDE * zero) / spacing).ceil().long()
    bin = lowest[:, None] + taps
    away = (bin * spacing - lines.hertz[:, None]).abs() * (STEPS / zero)
    steps = away.round_().clamp_(max=SIDE * STEPS).int()
    shape = _lobe().index_select(0, steps.flatten()).view_as(away)
    shape = torch.where((bin >= 0) & (bin < bins), shape, torch.zeros_like(shape))
    return bin.clamp(0, bins - 1), lines.level[:, None] * shape


def _sum(values: Tensor, lines: _Lines, bin: Tensor, length: int, bins: int) -> Tensor:
    """Add the values (P, n) of lines up at their frames and bins: (T, K)."""
    place = (lines.frame[:, None] * bins + bin).flatten()
    total = values.new_zeros(length * bins)
    return total.scatter_add_(0, place, values.flatten()).view(length, bins)


def draw_power(lines: _Lines, spread: tuple[Tensor, Tensor], length: int, bins: int) -> Tensor:
    """The power (T, K) of lines, given the result of `spread_lines`."""
    bin, magnitude = spread
    return _sum(magnitude.square(), lines, bin, length, bins)


def draw_phases(
    lines: _Lines,
    spread: tuple[Tensor, Tensor],
    turns: Tensor,
    length: int,
    bins: int,
    window: int,
) -> Tensor:
    """The complex spectrum (T, K) of lines whose phases at the frames' centres are `turns` (P,).

    `window` is the length in samples of the window for which `spread` was made.
    """
    bin, magnitude = spread
    # Half a turn from bin to bin, as a frame's phases count from its first sample; and one more
    # beyond the first zeros of the window's lobe.
    zero = 2 * SAMPLE_RATE / window
    is_side = (bin * (SAMPLE_RATE / 2 / (bins - 1)) - lines.hertz[:, None]).abs() > zero
    value = torch.where((bin % 2 == 1) ^ is_side, -magnitude, magnitude)
    angle = 2 * torch.pi * turns[:, None]
    real, imaginary = (
        _sum(value * part, lines, bin, length, bins) for part in (angle.cos(), angle.sin())
    )
    return torch.complex(real, imaginary)


def line_turns(
    lines: _Lines,
    cents: Tensor,
    ahead: Tensor,
    note: Tensor,
    frame: Tensor,
    onset: Tensor,
    place: int,
) -> Tensor:
    """The phases (P,) of lines, in turns: steady from each note's onset, and as the lines move.

    `ahead` (Q,) are seconds by which the table's courses have moved them. How far a line has moved
    by `cents` (Q,) is summed within segments of SEGMENT frames only. The sum is bent so that a
    segment ends with whole turns, which detunes a line by at most half a turn in a segment; so
    phases join, and those of a segment depend on no earlier one.
    """
    off = 2 ** (cents.double() / 1200) - 1  # (Q,): relative to the nominal frequency
    segment = (frame + place) // SEGMENT
    begins = torch.ones_like(frame, dtype=torch.bool)
    begins[1:] = (note[1:] != note[:-1]) | (segment[1:] != segment[:-1])
    number = begins.cumsum(0) - 1  # of each run of frames of a note in a segment
    first = begins.nonzero()[:, 0]
    ends = torch.ones_like(begins)
    ends[:-1] = begins[1:]
    last = ends.nonzero()[:, 0]
    mean = torch.zeros_like(off)
    mean[1:] = (off[1:] + off[:-1]) / (2 * FRAME_RATE)
    summed = mean.cumsum(0)
    summed = summed - summed[first][number]  # seconds
    goes_on = torch.zeros_like(begins)
    goes_on[:-1] = note[1:] == note[:-1]
    whole = ((summed + off / FRAME_RATE)[last] * goes_on[last])[number]

    pair, nominal = lines.pair, lines.nominal.double()
    age = (frame + 1 - onset[note]) / FRAME_RATE + ahead
    over = nominal * whole[pair]
    over = over - over.round()
    share = (frame + place - segment * SEGMENT)[pair] / SEGMENT
    turns = nominal * (age[pair] + summed[pair]) - over * share
    return ((turns + nominal * SCATTER) % 1).to(lines.level)


def noise_spectrum(noise: Tensor, bins: int) -> Tensor:
    """Magnitudes (T, K) of noise in the mel's STFT, at the frequencies of K bins, from its mel."""
    level = (noise / mel_matrix().sum(0)).clamp(min=FAINT).log()
    spectrum: Tensor = (level @ band_interpolation(bins)).exp()
    return spectrum


def _fit(mel: Tensor, magnitude: Tensor) -> Tensor:
    """Natural log gains (T, M) of the mel bands that make magnitudes (T, 513) explain a mel."""
    matrix, outline = mel_matrix(), band_interpolation(magnitude.shape[1])
    gain = torch.zeros_like(mel)
    for _ in range(FITS):
        explained = (magnitude * (gain @ outline).exp()) @ matrix
        gain = gain + (mel / explained.clamp(min=1e-12)).log()
    return gain


def _smear(magnitude: Tensor) -> Tensor:
    """Spread the power of magnitudes (T, K) over the next frames, as a longer window does."""
    power = magnitude.square()
    power = torch.cat([power[:1], power, power[-1:]])
    before, here, after = SMEAR
    return (before * power[:-2] + here * power[1:-1] + after * power[2:]).sqrt()


def line_mel(hertz: Tensor) -> Tensor:
    """The mels (n, 128) of lines of these frequencies (n,) whose peaks have magnitude 1."""
    zero = SAMPLE_RATE / WIN_LENGTH
    bins = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    away = (bins - hertz[:, None]).abs() * (STEPS / zero)
    return _lobe()[away.round().clamp(max=SIDE * STEPS).long()] @ mel_matrix()


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _line_bands() -> tuple[Tensor, Tensor]:
    """Mel powers of lines GRID_HZ apart, (F, TRIAL_BANDS), and the first of those bands, (F,)."""
    hertz = torch.arange(0, SAMPLE_RATE / 2 + GRID_HZ, GRID_HZ)
    first = (_band_of(hertz) - TRIAL_BANDS // 2 + 1).clamp(0, N_MELS - TRIAL_BANDS)
    bands = first[:, None] + torch.arange(TRIAL_BANDS)
    return line_mel(hertz).square().gather(1, bands), first


def _deviations(
    lines: _Lines, log_mel: Tensor, noise: Tensor, pairs: tuple[Tensor, Tensor]
) -> Tensor:
    """How many cents the lines of each of the Q pairs of note and frame lie above the table's.

    Each of TRIALS has a cost: how uneven the error of the log-mel is in the bands around each line,
    and how unlikely so large a deviation is. The lowest point of the parabola through
    the least cost and its neighbours is the deviation.
    """
    note, frame = pairs
    usable = lines.moves & (lines.hertz > MOVABLE_HZ[0]) & (lines.hertz < MOVABLE_HZ[1])
    own = _Lines(*(values[usable] for values in lines))
    others = _Lines(*(values[~usable] for values in lines))
    length = len(log_mel)
    rest = noise.square() + _mel_power(others, others.hertz, length)[0]
    cost = log_mel.new_zeros(len(note), len(TRIALS))
    weight = log_mel.new_zeros(len(note))
    for number, cents in enumerate(TRIALS.tolist()):
        total, power, place = _mel_power(own, own.hertz * 2 ** (cents / 1200), length)
        total = total + rest
        error = (log_mel - 0.5 * (total + FAINT**2).log()).flatten()[place]  # (P, bands)
        share = power / power.sum(1, keepdim=True).clamp(min=1e-30)
        mean = (share * error).sum(1, keepdim=True)
        uneven = (share * (error - mean).square()).sum(1)
        clear = (share * (power / (total.flatten()[place] + FAINT**2))).sum(1)
        cost[:, number].index_add_(0, own.pair, clear * uneven)
        if cents == 0:
            weight.index_add_(0, own.pair, clear)
    cost = _near(cost, note, frame) / (2 * TRIAL_ERROR**2)
    cost = cost + 0.5 * (TRIALS / SWAY_CENTS).square()
    best = cost.argmin(1, keepdim=True).clamp(1, len(TRIALS) - 2)
    left, middle, right = (cost.gather(1, best + step)[:, 0] for step in (-1, 0, 1))
    bow = (left - 2 * middle + right).clamp(min=1e-6)
    offset = (0.5 * (left - right) / bow).clamp(-1, 1)  # to the lowest point of the parabola
    cents = TRIALS[best[:, 0]] + offset * (TRIALS[1] - TRIALS[0])
    moves = torch.zeros_like(note, dtype=torch.bool).index_copy(0, lines.pair, lines.moves)
    return torch.where(moves & (weight > 0), cents, torch.zeros_like(cents))


def _mel_power(lines: _Lines, hertz: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mel power (T, M) of lines at other frequencies; that of each line by band, and where."""
    powers, firsts = _line_bands()
    index = (hertz / GRID_HZ).round().clamp(0, len(powers) - 1).long()
    power = lines.level.square()[:, None] * powers.index_select(0, index)
    bands = firsts.index_select(0, index)[:, None] + torch.arange(TRIAL_BANDS)
    place = lines.frame[:, None] * N_MELS + bands
    total = power.new_zeros(length * N_MELS).scatter_add_(0, place.flatten(), power.flatten())
    return total.view(length, N_MELS), power, place


def _near(values: Tensor, note: Tensor, frame: Tensor) -> Tensor:
    """Sums of values (Q, n) over a pair's frame and its neighbours, as far as the note sounds."""
    same = ((note[1:] == note[:-1]) & (frame[1:] == frame[:-1] + 1))[:, None].to(values)
    summed = values.clone()
    summed[1:] += values[:-1] * same
    summed[:-1] += values[1:] * same
    return summed
