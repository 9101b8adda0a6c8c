"""Twelve short songs, and what the bundled model makes of them: frozen, to notice any change.

`python -m tests.support.frozen` (`make freeze`) renders them and writes `data/frozen.npz`. Whether
that is allowed says docs/development.md. Stored are, for each song,

- every fourth frame and every other band of its mels, in steps of 1/2048 (a nat is 1);
- every 16th sample of its sound, in 16 bits of its loudest one; nothing is filtered, so rounding
  anywhere in the spectrum is seen;
- its level in dB, and its number of samples;

and for all of them the fingerprint of the weights and the kind of processor.
"""

import io
import math
import platform
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mido
import numpy as np
import torch

from spectro_render.checkpoints.find import fingerprint_of, resolve_model
from spectro_render.midi.read import as_score
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer

STORE = Path(__file__).parents[1] / "data" / "frozen.npz"
FRAMES, BANDS, SAMPLES = 4, 2, 16  # every fourth frame, every second band, every 16th sample
MEL_STEPS = 2048  # of a natural log-mel, in a nat
OPTIONS = RenderOptions(duration=7.5)  # two windows; the model's own steps
TICKS = 480  # per beat; 120 beats a minute, so 960 per second
DRUMS = 9  # the channel

Event = tuple[float, mido.Message | mido.MetaMessage]  # at a time in seconds (of 120 beats)
Song = Callable[[], list[Event]]


# --- songs ------------------------------------------------------------------------------------


def note(start: float, length: float, pitch: int, velocity: int, channel: int = 0) -> list[Event]:
    on = mido.Message("note_on", note=pitch, velocity=velocity, channel=channel)
    off = mido.Message("note_off", note=pitch, channel=channel)
    return [(start, on), (start + length, off)]


def program(number: int, channel: int = 0, start: float = 0.0) -> Event:
    return start, mido.Message("program_change", program=number, channel=channel)


def control(start: float, number: int, value: int, channel: int = 0) -> Event:
    return start, mido.Message("control_change", control=number, value=value, channel=channel)


def parts(programs: Iterable[int], length: float, gap: float) -> list[Event]:
    """One instrument after another plays a rising third, each on a channel of its own."""
    events: list[Event] = []
    for count, number in enumerate(programs):
        channel, start = (*range(9), *range(10, 16))[count % 15], count * gap
        events.append(program(number, channel, start))
        for step, interval in enumerate((0, 4, 7)):
            pitch = 48 + (5 * count) % 24 + interval
            events += note(start + step * gap / 3, length, pitch, 60 + 20 * step, channel)
    return events


def piano() -> list[Event]:
    """A pedalled figure over the whole keyboard."""
    events = [program(0), control(0.0, 64, 127), control(3.0, 64, 0), control(3.1, 64, 127)]
    for k in range(40):
        events += note(k * 0.17, 0.15, 24 + (k * 17) % 80, 40 + (k * 13) % 80)
    return [*events, control(7.0, 64, 0)]


def strings() -> list[Event]:
    return parts((40, 42, 44, 45, 48, 50, 52, 54), length=2.5, gap=0.8)


def winds() -> list[Event]:
    return parts((56, 57, 60, 61, 64, 66, 68, 71, 73, 75), length=0.8, gap=0.65)


def guitars() -> list[Event]:
    return parts((24, 25, 27, 29, 30, 32, 33, 35, 36, 38), length=0.6, gap=0.65)


def bells_and_organs() -> list[Event]:
    return parts((9, 11, 12, 13, 14, 46, 16, 19, 20, 21, 22), length=0.5, gap=0.6)


def synthesisers() -> list[Event]:
    return parts((80, 81, 84, 88, 89, 91, 94, 96, 99, 102), length=0.9, gap=0.65)


def others() -> list[Event]:
    return parts((104, 105, 107, 109, 112, 114, 115, 117, 118, 120, 122, 127), length=0.5, gap=0.5)


def drums() -> list[Event]:
    """Every sound of the kit, then a beat that is faster than the frames."""
    events: list[Event] = []
    for k, pitch in enumerate(range(35, 82)):
        events += note(k * 0.1, 0.05, pitch, 50 + k, DRUMS)
    for k in range(64):
        events += note(4.8 + k * 0.035, 0.02, (36, 42, 38, 42)[k % 4], 60 + k, DRUMS)
    return events


def dense() -> list[Event]:
    """Some 60 notes at once, on fifteen channels and drums."""
    events = [program(k * 8, (*range(9), *range(10, 16))[k]) for k in range(15)]
    for k in range(900):
        channel = k % 16
        pitch = 35 + k % 46 if channel == DRUMS else 30 + (k * 7) % 66
        events += note(k / 130, 0.5, pitch, 30 + (k * 11) % 97, channel)
    return events


def sparse() -> list[Event]:
    """A few soft notes with rests between them."""
    events = [program(0), program(73, 1), *note(0.0, 0.4, 60, 25)]
    return [*events, *note(2.9, 0.2, 84, 12, 1), *note(5.0, 1.0, 36, 30), *note(6.9, 0.3, 72, 1)]


def border() -> list[Event]:
    """Notes that begin, end, are held or repeat at the border of the windows, 5.12 s."""
    events = [program(48), program(0, 1), program(33, 2), *note(1.0, 6.0, 55, 90)]
    for k, offset in enumerate((-0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03)):
        events += note(5.12 + offset, 0.4, 60 + k, 100, 1)
        events += note(4.0 + 0.1 * k, 1.12 - 0.1 * k + offset, 40 + k, 80, 2)
    for k in range(8):
        events += note(4.72 + 0.1 * k, 0.1, 76, 90, 1)
    return [*events, *note(5.12, 0.1, 36, 110, DRUMS)]


def changes() -> list[Event]:
    """Tempi, bends, fades, and the lowest and highest pitches and velocities."""
    events = [program(81), program(68, 1), program(0, 2), *note(0.0, 4.0, 57, 100)]
    for k in range(20):
        bend = round(4000 * math.sin(k))
        events.append((0.2 * k, mido.Message("pitchwheel", pitch=bend)))
        events.append(control(0.2 * k, 11, 127 - 6 * k, 1))
        tempo = mido.bpm2tempo(90 + 10 * (k % 8))
        events.append((0.35 * k, mido.MetaMessage("set_tempo", tempo=tempo)))
        events += note(0.3 * k, 0.25, 50 + k, 127, 1)
    for k, pitch in enumerate((0, 1, 20, 21, 108, 109, 126, 127)):
        events += note(0.6 * k, 0.3, pitch, (1, 127)[k % 2], 2)
    return events


SONGS: tuple[Song, ...] = (
    *(piano, strings, winds, guitars, bells_and_organs, synthesisers, others),
    *(drums, dense, sparse, border, changes),
)


def midi_of(events: list[Event]) -> bytes:
    """The MIDI file of events; those of one time keep their order."""
    track, now = mido.MidiTrack(), 0
    for start, message in sorted(events, key=lambda event: event[0]):
        tick = round(start * 2 * TICKS)
        track.append(message.copy(time=tick - now))
        now = tick
    file = io.BytesIO()
    mido.MidiFile(ticks_per_beat=TICKS, tracks=[track]).save(file=file)
    return file.getvalue()


# --- what is made of them ---------------------------------------------------------------------


@dataclass(frozen=True)
class Rendered:
    """The mels (T, 128) and the samples (N,) of a song."""

    mels: np.ndarray
    samples: np.ndarray

    @property
    def level(self) -> float:
        """The level of the sound in dB of full scale."""
        return 10 * math.log10(float(np.square(self.samples, dtype=np.float64).mean()))


def load() -> Renderer:
    """The bundled model on the CPU in float32, on one thread."""
    torch.set_num_threads(1)
    return Renderer.load(device="cpu", dtype="float32")


def render(renderer: Renderer, song: Song) -> Rendered:
    score = as_score(midi_of(song()))
    mels = torch.cat(list(renderer.mels(renderer.windows(score, OPTIONS), OPTIONS)))
    return Rendered(mels.numpy(), renderer.render(score, OPTIONS).samples[0])


def weights() -> str:
    return fingerprint_of(resolve_model())


def processor() -> str:
    """What rounding depends on: the kind of processor, the instructions in use, and torch."""
    vendor = ""
    with suppress(OSError):
        found = re.search(r"^vendor_id\s*: (\S+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        vendor = found[1] if found else ""
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {vendor} {instructions}, torch {torch.__version__}"


def frozen(rendered: Rendered) -> dict[str, np.ndarray]:
    """The arrays that are stored for a song."""
    peak = float(np.abs(rendered.samples).max())
    chosen = rendered.samples[::SAMPLES] * (32_767 / peak)
    return {
        "mels": (rendered.mels[::FRAMES, ::BANDS] * MEL_STEPS).round().astype(np.int16),
        "sound": chosen.round().astype(np.int16),
        "peak": np.float32(peak),
        "level": np.float32(rendered.level),
        "length": np.int64(len(rendered.samples)),
    }


def main() -> None:
    """Render all songs and store what is compared."""
    renderer = load()
    stored: dict[str, Any] = {"weights": weights(), "processor": processor()}
    for song in SONGS:
        arrays = frozen(render(renderer, song))
        stored |= {f"{song.__name__}.{name}": array for name, array in arrays.items()}
        print(f"{song.__name__:<17}{float(arrays['level']):6.1f} dB")
    np.savez_compressed(STORE, **stored)
    print(f"{STORE.name}: {STORE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
