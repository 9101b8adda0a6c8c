"""Synthesises the sound that models learn from: scores are played by FluidSynth.

FluidSynth is called through ctypes, as rendering must be in float32 and Python's packaged binding
offers only 16 bits. These have a noise floor of -8 nats, where a mel reaches down to -11.5. The
sound is rendered at 48 kHz and resampled: at 16 kHz the soundfont's upper bands would be wrong by
0.3 nats.
"""

import ctypes
import ctypes.util
import io
import os
from collections.abc import Iterable
from pathlib import Path

import mido
import numpy as np
import soxr

from spectro_render.constants import SAMPLE_RATE
from spectro_render.errors import SpectroRenderError
from spectro_render.midi.length import TAIL_SECONDS
from spectro_render.midi.notes import DRUM_CHANNEL
from spectro_render.midi.score import Note, Score

SYNTH_RATE = 48_000  # Hz
GAIN = 0.2  # FluidSynth's own default; no real file passes log-mel 4.0 at this level
MELODIC_CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]
BLOCK = 4800  # samples fetched at a time: 0.1 s
DRAINED = 1e-7  # samples that are no larger than this are silence

SOUNDFONTS = (
    "/usr/share/sounds/sf3/MuseScore_General_Lite.sf3",  # Debian musescore-general-soundfont-small
    "/usr/share/sounds/sf3/MuseScore_General.sf3",
)


def find_soundfont() -> Path:
    """The soundfont named in $SPECTRO_RENDER_SOUNDFONT, or Debian's MuseScore General (Lite).

    Raises SpectroRenderError if there is none.
    """
    chosen = os.environ.get("SPECTRO_RENDER_SOUNDFONT")
    for path in [Path(chosen)] if chosen else map(Path, SOUNDFONTS):
        if path.is_file():
            return path
    raise SpectroRenderError(
        f"no soundfont at {chosen or SOUNDFONTS[0]}",
        "install musescore-general-soundfont-small, or name an .sf2/.sf3 file in "
        "$SPECTRO_RENDER_SOUNDFONT",
    )


def score_to_midi(score: Score) -> bytes:
    """Write a score's notes as a MIDI file: one tick per millisecond, one channel per program.

    MIDI has fifteen channels for programs. Notes of further programs are put on the last of these
    channels and played with its program.
    """
    programs = sorted({note.program for note in score.notes if not note.is_drum})
    channels = {p: MELODIC_CHANNELS[min(k, 14)] for k, p in enumerate(programs)}
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=1_000_000))
    for program, channel in reversed(channels.items()):
        track.append(mido.Message("program_change", channel=channel, program=program))
    now = 0
    for tick, _, message in sorted(_events(score.notes, channels), key=lambda event: event[:2]):
        track.append(message.copy(time=tick - now))
        now = tick
    file = mido.MidiFile(type=0, ticks_per_beat=1000)
    file.tracks.append(track)
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def _events(
    notes: Iterable[Note], channels: dict[int, int]
) -> Iterable[tuple[int, int, mido.Message]]:
    """MIDI messages as (tick, order, message); at the same tick notes end before others start."""
    for note in notes:
        channel = DRUM_CHANNEL if note.is_drum else channels[note.program]
        key = {"channel": channel, "note": note.pitch}
        start = round(note.start * 1000)
        yield start, 1, mido.Message("note_on", velocity=note.velocity, **key)
        yield max(start + 1, round(note.end * 1000)), 0, mido.Message("note_off", **key)


class Synthesizer:
    """A FluidSynth synthesizer with one soundfont; a process needs only one."""

    def __init__(self, soundfont: Path | None = None) -> None:
        """Load a soundfont, by default that of `find_soundfont`.

        Raises SpectroRenderError if FluidSynth is missing or cannot load the soundfont.
        """
        name = ctypes.util.find_library("fluidsynth")
        if name is None:
            raise SpectroRenderError(
                "FluidSynth is not installed", "install its library (Debian: fluidsynth)"
            )
        self._lib = ctypes.CDLL(name)
        for constructor in ("new_fluid_settings", "new_fluid_synth", "new_fluid_player"):
            getattr(self._lib, constructor).restype = ctypes.c_void_p
        self._settings = ctypes.c_void_p(self._lib.new_fluid_settings())
        self._set("synth.sample-rate", float(SYNTH_RATE))
        self._set("synth.gain", GAIN)
        self._synth = ctypes.c_void_p(self._lib.new_fluid_synth(self._settings))
        path = str(soundfont or find_soundfont())
        if self._lib.fluid_synth_sfload(self._synth, path.encode(), 1) < 0:
            raise SpectroRenderError(f"FluidSynth cannot load {path}", "name an .sf2 or .sf3 file")

    def _set(self, key: str, value: float) -> None:
        self._lib.fluid_settings_setnum(self._settings, key.encode(), ctypes.c_double(value))

    def render(self, midi: bytes, seconds: float) -> np.ndarray:
        """The first `seconds` seconds of a MIDI file: mono float32 at 16 kHz, (S,)."""
        return to_model_rate(self.render_full(midi, seconds))

    def render_full(self, midi: bytes, seconds: float) -> np.ndarray:
        """The first `seconds` seconds of a MIDI file: mono float32 at 48 kHz, (3 S,)."""
        self._lib.fluid_synth_system_reset(self._synth)
        player = ctypes.c_void_p(self._lib.new_fluid_player(self._synth))
        self._lib.fluid_player_add_mem(player, midi, ctypes.c_size_t(len(midi)))
        self._lib.fluid_player_play(player)
        blocks = -(-round(seconds * SYNTH_RATE) // BLOCK)
        stereo = np.zeros((2, blocks * BLOCK), np.float32)
        for start in range(0, stereo.shape[1], BLOCK):
            self._write(stereo[:, start : start + BLOCK])
        self._lib.fluid_player_stop(player)
        self._lib.delete_fluid_player(player)
        self._drain()
        mono: np.ndarray = stereo.mean(0)[: round(seconds * SYNTH_RATE)]
        return mono

    def _drain(self) -> None:
        """Render until nothing sounds: a reset leaves voices and reverb to the next rendering."""
        self._lib.fluid_synth_all_sounds_off(self._synth, -1)
        block = np.full((2, BLOCK), np.inf, np.float32)
        while np.abs(block).max() > DRAINED:
            self._write(block)

    def _write(self, block: np.ndarray) -> None:
        """Fill a stereo block (2, S), whose rows are contiguous, with the synth's next samples."""
        left, right = (ctypes.c_void_p(side.ctypes.data) for side in block)
        samples = block.shape[1]
        self._lib.fluid_synth_write_float(self._synth, samples, left, 0, 1, right, 0, 1)

    def render_score(self, score: Score) -> np.ndarray:
        """A score and TAIL_SECONDS after its last note: mono float32 at 16 kHz, (S,)."""
        return self.render(score_to_midi(score), score.duration + TAIL_SECONDS)

    def render_score_full(self, score: Score) -> np.ndarray:
        """A score and TAIL_SECONDS after its last note: mono float32 at 48 kHz, (3 S,)."""
        return self.render_full(score_to_midi(score), score.duration + TAIL_SECONDS)


def to_model_rate(samples: np.ndarray) -> np.ndarray:
    """Resample what FluidSynth makes, (3 S,) at 48 kHz, to 16 kHz: (S,)."""
    return np.asarray(soxr.resample(samples, SYNTH_RATE, SAMPLE_RATE, quality="HQ"), np.float32)
