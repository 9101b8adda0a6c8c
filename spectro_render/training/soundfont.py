"""Reads which recording a soundfont plays for each key: the map that `NoteCurves` needs.

Format: SoundFont Technical Specification 2.04 (Creative Technology), sections 4, 7 and 8. SF3 files
differ in that recordings are compressed, and their loops count from a recording's begin.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spectro_render.constants import STEPS_PER_SECOND
from spectro_render.errors import SpectroRenderError
from spectro_render.network.curves import DRUM_KIT, KEYS, SILENT, STEPS_PER_FRAME
from spectro_render.tokens.vocabulary import MAX_VELOCITY, Vocabulary

# Generators (section 8.1.2).
START_LOOP, END_LOOP, START_LOOP_COARSE, END_LOOP_COARSE = 2, 3, 45, 50
INSTRUMENT, KEY_RANGE, VELOCITY_RANGE, ATTENUATION = 41, 43, 44, 48
COARSE_TUNE, FINE_TUNE, SAMPLE, SAMPLE_MODES, SCALE_TUNING, ROOT_KEY = 51, 52, 53, 54, 56, 58
_ALL = (
    127 << 8
)  # a range from 0 to 127: the low byte is the lowest value, the high byte the highest
_COARSE = 32768  # samples in a step of the coarse generators
_SIGNED = {
    *(START_LOOP, END_LOOP, START_LOOP_COARSE, END_LOOP_COARSE),
    *(ATTENUATION, COARSE_TUNE, FINE_TUNE, SCALE_TUNING),
}

DRUM_BANK = 128
COMPRESSED = 0x10  # in a sample's type: SF3's mark of Ogg Vorbis
UNLOOPED_STEPS = 400  # of a recording without a loop, from its begin on
LONGEST_STEPS = 600  # of a recording that are described; what comes later is like its last 20 ms
EXTRA_FRAMES = 3  # vectors beyond the described time, for interpolation


@dataclass(frozen=True, eq=False)
class RecordingMap:
    """The buffers of `NoteCurves`, for V velocity bins and R recordings.

    All are float32. Speeds and loops are rounded to float16's precision, in which they are stored.
    """

    recording: Tensor  # (129, 128, 1 + V), number of the recording
    ratio: Tensor  # (129, 128, 1 + V), steps of the recording in one step
    frames: Tensor  # (R,), vectors of each recording
    loop_start: Tensor  # (R,), steps
    loop_length: Tensor  # (R,), steps; 0 without a loop


class _Zone(NamedTuple):
    sample: int
    keys: range
    velocities: range
    attenuation: int
    root: int
    scale: int  # cents from key to key
    tuning: float  # semitones
    loop: tuple[float, float]  # begin and end in steps; equal if there is none


def read_recordings(path: Path, velocity_bins: int) -> RecordingMap:
    """Read the recordings that the General MIDI programs and the standard drum kit play.

    Of several that sound together the loudest counts; a key without any has SILENT. Raises
    SpectroRenderError for a file that is no soundfont.
    """
    vocabulary = Vocabulary(velocity_bins)
    shape = DRUM_KIT + 1, KEYS, velocity_bins + 1
    samples, ratios = torch.full(shape, SILENT), torch.ones(shape)
    quiet = torch.full(shape, float("inf"))
    loops: dict[int, tuple[float, float]] = {}
    try:
        for program, zone in _zones(path.read_bytes()):
            if zone.loop[1] > zone.loop[0]:
                loops[zone.sample] = zone.loop
            if not zone.keys or not zone.velocities:
                continue
            softest, loudest = (
                vocabulary.velocity_bin(velocity)
                for velocity in (zone.velocities[0], zone.velocities[-1])
            )
            place = program, slice(zone.keys[0], zone.keys[-1] + 1), slice(softest, loudest + 1)
            semitones = (torch.tensor(zone.keys) - zone.root) * zone.scale / 100 + zone.tuning
            is_louder = zone.attenuation < quiet[place]
            quiet[place] = quiet[place].clamp(max=zone.attenuation)
            samples[place] = torch.where(is_louder, zone.sample, samples[place])
            ratios[place] = torch.where(is_louder, 2 ** (semitones[:, None] / 12), ratios[place])
    except (struct.error, KeyError, IndexError) as error:
        raise SpectroRenderError(f"{path} is no soundfont", "name an .sf2 or .sf3 file") from error
    used = torch.unique(samples[samples != SILENT])
    recording = torch.where(samples == SILENT, SILENT, torch.searchsorted(used, samples))
    edges = torch.tensor([loops.get(int(number), (0, 0)) for number in used], dtype=torch.float32)
    start, length = edges[:, 0], (edges[:, 1] - edges[:, 0]).clamp(min=0)
    described = torch.where(length > 0, edges[:, 1], UNLOOPED_STEPS).clamp(max=LONGEST_STEPS)
    frames = (described / STEPS_PER_FRAME).ceil() + EXTRA_FRAMES
    ratios, start, length = (x.half().float() for x in (ratios, start, length))
    return RecordingMap(recording.float(), ratios, frames, start, length)


def _zones(data: bytes) -> Iterator[tuple[int, _Zone]]:
    """Each program of bank 0 (the standard drum kit as DRUM_KIT) with each zone that it plays."""
    lists = dict(_lists(data))
    presets = [struct.unpack_from("<20sHHHIII", row) for row in _rows(lists["phdr"], 38)]
    preset_bags = [struct.unpack("<HH", row)[0] for row in _rows(lists["pbag"], 4)]
    instruments = [struct.unpack("<20sH", row)[1] for row in _rows(lists["inst"], 22)]
    bags = [struct.unpack("<HH", row)[0] for row in _rows(lists["ibag"], 4)]
    samples = [struct.unpack("<20sIIIIIBbHH", row) for row in _rows(lists["shdr"], 46)]
    for (_, number, bank, first, *_), (_, _, _, last, *_) in itertools.pairwise(presets):
        if bank == DRUM_BANK and number == 0:
            program = DRUM_KIT
        elif bank == 0:
            program = number
        else:
            continue
        for outer in _bags(lists["pgen"], preset_bags, first, last, INSTRUMENT):
            instrument = outer[INSTRUMENT]
            edges = instruments[instrument], instruments[instrument + 1]
            for inner in _bags(lists["igen"], bags, *edges, SAMPLE):
                yield program, _zone(outer, inner, samples[inner[SAMPLE]])


def _zone(outer: dict[int, int], inner: dict[int, int], sample: tuple[int, ...]) -> _Zone:
    """A zone from the generators of a preset, those of its instrument, and the sample's header."""
    _, begin, _, loop_start, loop_end, rate, pitch, correction, _, kind = sample
    root = inner.get(ROOT_KEY, MAX_VELOCITY + 1)
    added = {g: inner.get(g, 0) + outer.get(g, 0) for g in (COARSE_TUNE, FINE_TUNE, ATTENUATION)}
    first = 0 if kind & COMPRESSED else begin
    start = (
        loop_start - first + inner.get(START_LOOP, 0) + _COARSE * inner.get(START_LOOP_COARSE, 0)
    )
    end = loop_end - first + inner.get(END_LOOP, 0) + _COARSE * inner.get(END_LOOP_COARSE, 0)
    is_looped = inner.get(SAMPLE_MODES, outer.get(SAMPLE_MODES, 0)) & 1
    steps = STEPS_PER_SECOND / max(rate, 1)
    return _Zone(
        sample=inner[SAMPLE],
        keys=_common(outer.get(KEY_RANGE, _ALL), inner.get(KEY_RANGE, _ALL)),
        velocities=_common(outer.get(VELOCITY_RANGE, _ALL), inner.get(VELOCITY_RANGE, _ALL)),
        attenuation=added[ATTENUATION],
        root=root if root < KEYS else min(pitch, KEYS - 1),
        scale=inner.get(SCALE_TUNING, 100) + outer.get(SCALE_TUNING, 0),
        tuning=added[COARSE_TUNE] + (added[FINE_TUNE] + correction) / 100,
        loop=(max(0.0, start * steps), max(0.0, end * steps)) if is_looped else (0.0, 0.0),
    )


def _common(one: int, other: int) -> range:
    """The values up to 127 that lie in two ranges."""
    return range(max(one & 255, other & 255), min(one >> 8, other >> 8, MAX_VELOCITY) + 1)


def _bags(
    generators: bytes, bags: list[int], first: int, last: int, wanted: int
) -> Iterator[dict[int, int]]:
    """The generators of each zone that names a `wanted` one, with those of the global zone."""
    everywhere: dict[int, int] = {}
    for bag in range(first, last):
        own = {}
        for row in _rows(generators[4 * bags[bag] : 4 * bags[bag + 1]], 4):
            kind, value = struct.unpack("<HH", row)
            own[kind] = value - 65536 if kind in _SIGNED and value > 32767 else value
        if wanted in own:
            yield {**everywhere, **own}
        elif bag == first:
            everywhere = own


def _rows(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data) - size + 1, size)]


def _lists(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The parts of a soundfont's list "pdta", by name."""
    for start, end in _chunks(data, 12, len(data)):
        if data[start : start + 4] == b"pdta":
            for begin, stop in _chunks(data, start + 4, end):
                yield data[begin - 8 : begin - 4].decode("latin-1"), data[begin:stop]


def _chunks(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Begin and end of the contents of each RIFF chunk between two places."""
    while start + 8 <= end:
        begin = start + 8
        stop = begin + int(struct.unpack_from("<I", data, start + 4)[0])
        yield begin, min(stop, end)
        # SF3 files lack the zero that should follow a chunk of odd length.
        start = stop + (stop & 1 and data[stop : stop + 1] == b"\0")
