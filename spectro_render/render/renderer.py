"""Renders songs with a loaded model: MIDI -> notes -> tokens -> mel -> sound."""

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spectro_render.audio.audio import Audio
from spectro_render.audio.limiter import DEFAULT_GAIN, safe_factor
from spectro_render.checkpoints.find import resolve_model
from spectro_render.checkpoints.load import Checkpoint, load_model
from spectro_render.checkpoints.manifest import ModelFiles
from spectro_render.checkpoints.timbres import find_curves, table_of
from spectro_render.constants import (
    FRAME_RATE,
    FULL_RATE,
    SAMPLE_RATE,
    STEPS_PER_SECOND,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
)
from spectro_render.diffusion import check_sampling, noise_source, window_generator
from spectro_render.errors import OptionError
from spectro_render.mel import from_model, to_model
from spectro_render.midi.buses import Bus, buses
from spectro_render.midi.instruments import find_program, instrument_name
from spectro_render.midi.length import least_seconds, part_to_render, sounding_seconds, with_times
from spectro_render.midi.parts import Part, choose, parts_of, with_notes
from spectro_render.midi.read import Source, as_score
from spectro_render.midi.score import Score
from spectro_render.network.curves import DRUM_KIT
from spectro_render.network.device import (
    check_dtype,
    choose_dtype,
    find_device,
    number_format,
)
from spectro_render.network.frames import note_table
from spectro_render.network.model import EncodedNotes, MelModel
from spectro_render.options import OnProgress, Progress, RenderOptions, Sampling
from spectro_render.render.mixer import BusGain, Mixer, count_channels
from spectro_render.render.song import Ending, Song, SongSound
from spectro_render.render.voice import Voice, WindowCursor
from spectro_render.render.warp import TimeWarp
from spectro_render.report import Reporter, count
from spectro_render.tokens.vocabulary import MAX_VELOCITY, PAD, TokenWindow, WindowNote
from spectro_render.tokens.write import TokenWindows, song_windows
from spectro_render.vocoder.band_sound import BandStream, FullBandVocoder
from spectro_render.vocoder.harmonic_map import NOTE_NUMBERS, map_notes
from spectro_render.vocoder.streaming import StreamingVocoder
from spectro_render.vocoder.texture import add_texture
from spectro_render.vocoder.threads import side_by_side

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spectro_render.options import RenderOverrides

# Tables of notes are padded to a multiple of this number of rows. Matrix products with fewer rows
# round differently, and a song's sound would depend on the other songs in its batch.
NOTE_ROWS = 64
MOST_WINDOWS = 32  # in a batch; a song of many buses may have more at a time
MOST_SEEDS = 2**63
MAX_TAIL_SECONDS = 10.0  # how long a song may ring on after its last note


@dataclass(frozen=True, eq=False)
class Stems:
    """A song as a mix, and as the sound of each of its parts, all of one length."""

    mix: Audio
    stems: dict[Part, Audio]
    # dB that the stems are softer than in the mix before its limiter, so that none is above full
    # scale: 0 or less, the same for all.
    gain: float


class Renderer:
    """A loaded model that turns scores into sound."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.vocabulary = checkpoint.vocabulary
        self.device = device
        self.dtype = dtype
        self.sample_rate = SAMPLE_RATE  # Hz
        self._model: MelModel = checkpoint.model.to(device).eval()
        self._curves = find_curves(self._model)
        # Curves draw the middle of all mels that may be, so these get texture; other networks draw
        # samples. Its table is needed on the CPU.
        has_texture = self._curves is not None and checkpoint.reads_notes
        self._lines = deepcopy(table_of(checkpoint.vocoder)) if has_texture else None
        if isinstance(checkpoint.vocoder, torch.nn.Module):
            checkpoint.vocoder.to(device).eval()

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Renderer({self.name!r}, device={str(self.device)!r}, dtype={dtype!r})"

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "default",
        *,
        device: str = "auto",
        dtype: str = "auto",
        vocoder: str | os.PathLike[str] | None = None,
        timbres: Mapping[str | int, str | os.PathLike[str]] | None = None,
        quiet: bool = False,
    ) -> "Renderer":
        """Load a model by name or directory, or `owner/repo` of the Hugging Face Hub.

        A model of the Hub that is not on this machine yet is downloaded, with messages on standard
        error unless `quiet`. `vocoder` is 'melgan', 'onnx' or 'griffin-lim' (the model's own),
        another model whose vocoder to use, or an ONNX file.

        `timbres` are files that `fit_timbre` or `models timbre` made, by the General MIDI names or
        numbers (1 to 128) of the instruments that get them.

        `device` is 'auto' (a CUDA device if there is one), 'cpu', 'cuda', 'cuda:N' or 'mps'.
        `dtype` is the number format of the network's matrix products: 'float32', 'bfloat16',
        'float16' or 'auto' (bfloat16 for wide networks, if the device computes in it).

        Raises WeightsError if the model cannot be found or loaded, DeviceError if the device or the
        number format cannot be used.
        """
        files = [(find_program(name), file) for name, file in (timbres or {}).items()]
        find_model = partial(resolve_model, model, vocoder, Reporter(quiet=quiet), files)
        return cls.load_found(find_model, device=device, dtype=dtype)

    @classmethod
    def load_found(
        cls, find_model: Callable[[], ModelFiles], *, device: str = "auto", dtype: str = "auto"
    ) -> "Renderer":
        """Load the model that `find_model` returns; other arguments and errors are as in `load`.

        `find_model` may download the model, and is only called if device and number format can be
        used.
        """
        place = find_device(device)
        check_dtype(dtype)
        checkpoint = load_model(find_model())
        products = choose_dtype(dtype, checkpoint.model.config, place)
        checkpoint.model.narrow(products)
        return cls(checkpoint, place, products)

    def render(
        self,
        source: Source,
        options: RenderOptions | None = None,
        *,
        on_progress: OnProgress | None = None,
        **overrides: "Unpack[RenderOverrides]",
    ) -> Audio:
        """Render a score, or a MIDI file (a path, its bytes or an open file).

        The sample rate is 16 kHz, and 48 kHz with the option `full_band`. The sound is stereo if
        the file pans, else mono; the option `channels` decides otherwise.

        A note_seq.NoteSequence and a pretty_midi.PrettyMIDI are rendered, too. `overrides` are
        fields of RenderOptions. Raises MidiError if the file cannot be read or would sound for more
        than `max_hours` hours (3), OptionError for options that are impossible or that this model
        does not have.
        """
        parts = self.stream(
            source,
            options,
            live=False,
            on_progress=on_progress,
            **overrides,
        )
        made = list(parts)
        rate = made[0].sample_rate if made else SAMPLE_RATE
        return Audio(np.concatenate([part.samples for part in made], axis=1), rate)

    def render_stems(
        self,
        source: Source,
        options: RenderOptions | None = None,
        *,
        on_progress: OnProgress | None = None,
        **overrides: "Unpack[RenderOverrides]",
    ) -> "Stems":
        """Render a score as a mix and as the stems whose sum it is, before the limiter.

        `stems_by` says what a stem is. Arguments and errors are as in `render`.
        """
        overrides["stems"] = True
        song = self.begin(source, options, live=False, **overrides)
        mix, stems = [], []
        while not song.is_over:
            (part,) = self.advance([song], on_progress)
            mix.append(part.samples)
            stems.append(song.stems)
        sounds = np.concatenate(stems, axis=2)[: len(song.parts)]
        gain = safe_factor(float(np.abs(sounds).max(initial=0.0)))
        audio = [Audio(sound * np.float32(gain), song.sample_rate) for sound in sounds]
        whole = Audio(np.concatenate(mix, axis=1), song.sample_rate)
        return Stems(whole, dict(zip(song.parts, audio, strict=True)), 20 * math.log10(gain))

    def stream(
        self,
        source: Source,
        options: RenderOptions | None = None,
        *,
        live: bool = True,
        on_progress: OnProgress | None = None,
        **overrides: "Unpack[RenderOverrides]",
    ) -> Iterator[Audio]:
        """Render in parts, the first one of 2.5 s, which together are the sound of `render`.

        Each part is yielded as soon as its samples are final. Parts grow to 20 s, as long ones take
        less work; `live=False` gives longer ones from the beginning on. The samples differ only by
        rounding. Memory does not grow with the
        length of the song. Arguments and errors are as in `render`.
        """
        song = self.begin(source, options, live=live, **overrides)
        while not song.is_over:
            (part,) = self.advance([song], on_progress)
            if part.seconds:
                yield part

    def begin(
        self,
        source: Source,
        options: RenderOptions | None = None,
        *,
        live: bool = True,
        **overrides: "Unpack[RenderOverrides]",
    ) -> Song:
        """Read a song, which `advance` then renders, alone or together with other songs.

        Arguments and errors are as in `stream`.
        """
        known = [each.name for each in fields(RenderOptions)]
        for name in overrides:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
                raise OptionError(f"no such option: {name}", hint)
        options = replace(options or RenderOptions(), **overrides)
        sampling = self.sampling(options)
        if options.velocity != 1.0 and self.vocabulary.velocity_bins == 1:
            message = f"the model {self.name} knows no velocities"
            raise OptionError(message, "leave out velocity, or use gain")
        if options.full_band and not self.has_band:
            hint = "leave out --full-band, or choose another model"
            raise OptionError(f"the model {self.name} has no sound above 8 kHz", hint)
        score = as_score(source, options, allow_rests=options.to_end_of_track)
        options = with_times(score, options)
        whole, score = score, part_to_render(score, options)
        parts: tuple[Part, ...] = ()
        song_buses = buses(score)
        if score.notes and (options.stems or options.solo or options.mute):
            every = parts_of(whole, options.stems_by, within=score)
            chosen = with_notes(choose(every, options.solo, options.mute))
            score = chosen.score
            song_buses = buses(score, chosen.numbers if options.stems else None)
            parts = chosen.parts if options.stems else ()
        return self._song(score, song_buses, parts, sampling, options, live)

    def _song(
        self,
        score: Score,
        song_buses: Sequence[Bus],
        parts: tuple[Part, ...],
        sampling: Sampling,
        options: RenderOptions,
        live: bool,
    ) -> Song:
        """A song of these buses, which hold all notes of the score, and of its parts."""
        channels = count_channels(options.channels, song_buses)
        # Without velocities, no note is softer for the loudest one's sake.
        has_velocities = self.vocabulary.velocity_bins > 1
        gains = [bus.score.gain if has_velocities else 0.0 for bus in song_buses]
        seconds = sounding_seconds(score, options.duration, least_seconds(score, options))
        voices: list[Voice] = []
        dropped, count = Counter[int](), 0
        rate = FULL_RATE if options.full_band else SAMPLE_RATE
        for bus, gain in zip(song_buses, gains, strict=True):
            own, duration, warp = bus.score, options.duration, None
            least = least_seconds(score, options)
            if bus.bend is not None or bus.vibrato is not None:
                warp = TimeWarp(bus.bend, bus.vibrato, seconds)
                own = warp.warp(own)
                duration = None if duration is None else float(warp(duration))
                least = None if least is None else float(warp(least))
            windows = song_windows(own, self.vocabulary, duration, least)
            count = count if warp is not None else len(windows)  # all that are not bent have equal
            for index, number in windows.dropped.items():
                begin = index * WINDOW_SECONDS
                begin = begin if warp is None else warp.inverse(begin)
                dropped[int(begin / WINDOW_SECONDS + 1e-6)] += number
            # What is left out of the mel would draw partials where there are none, and take time.
            own = replace(own, notes=tuple(windows.with_room(own.notes)))
            # The noise of the band differs from bus to bus, as equal noise would add up.
            seed = (options.seed + len(voices)) % MOST_SEEDS
            notes = self.vocoder_notes(own)
            stream = StreamingVocoder(self.checkpoint.vocoder, live=live, notes=notes)
            band = self.band(own, seed) if options.full_band else None
            voice = Voice(
                self._cursor(windows),
                stream if band is None else FullBandVocoder(stream, band),
                BusGain(bus, channels, gain - gains[0], rate),
                warp=warp,
                sample_rate=rate,
                may_skip=len(song_buses) > 1,
            )
            voices.append(voice)
        count = count or math.ceil(round(seconds * SAMPLE_RATE) / WINDOW_SAMPLES)
        mixer = Mixer([v.gain for v in voices], [bus.part for bus in song_buses], channels)
        ending = self._ending(score, options, count)
        sound = SongSound(mixer, self.gain(options) + gains[0], ending, rate)
        return Song(voices, count, sampling, sound, dropped, channels, parts)

    @property
    def has_band(self) -> bool:
        """Whether the model has a network for the band above 8 kHz."""
        return self.checkpoint.band is not None

    def band(self, score: Score, seed: int = 0) -> BandStream | None:
        """The band above 8 kHz of a score, made from its mel; None if the model has no network."""
        if self.checkpoint.band is None:
            return None
        return BandStream(self.checkpoint.band, self._known_notes(score), seed)

    def advance(self, songs: Sequence[Song], on_progress: OnProgress | None = None) -> list[Audio]:
        """Render the next window of each song together; returns the new final part of each song.

        Noise depends only on the seed and the window, so a song sounds the same with any other
        songs in the batch, except for rounding: within 2 steps of 16 bits in float32, for
        frame-aligned models. Progress is reported for the first song. Several threads may call this
        method, each with its own songs.
        """
        parts = self.try_advance(songs, on_progress)
        for part in parts:
            if isinstance(part, Exception):
                raise part
        return [part for part in parts if isinstance(part, Audio)]

    def try_advance(
        self, songs: Sequence[Song], on_progress: OnProgress | None = None
    ) -> list[Audio | Exception]:
        """Render the next window of each song as `advance` does; returns errors in their places.

        If a batch fails, its songs are rendered one by one, so that the error of one song, such as
        too little memory for its window, does not fail the others.
        """
        mels: dict[Song, list[Tensor] | Exception] = {}
        for song in songs:
            song.begin_round()
        for sampling in dict.fromkeys(song.sampling for song in songs):
            group = [song for song in songs if song.sampling == sampling]
            mels.update(zip(group, self._try_mels(group, sampling, on_progress), strict=True))
        parts: list[Audio | Exception] = []
        for song in songs:
            made = mels[song]
            try:
                if isinstance(made, Exception):
                    raise made
                parts.append(Audio(song.take_ready(made, self.device), song.sample_rate))
            except Exception as error:
                parts.append(_as_memory_error(error))
        return parts

    def _try_mels(
        self, songs: Sequence[Song], sampling: Sampling, on_progress: OnProgress | None
    ) -> Sequence[list[Tensor] | Exception]:
        """The log-mels (256, 128) of the windows of each song's round, or the error."""
        cursors = [voice.cursor for song in songs for voice in song.sounding]

        def on_share(share: float) -> None:
            if on_progress is not None:
                on_progress(songs[0].progress(share))

        try:
            mels = iter(self.next_mels(cursors, sampling, on_share if on_progress else None))
            return [[next(mels) for _ in song.sounding] for song in songs]
        except Exception as error:
            if len(songs) == 1:
                return [_as_memory_error(error)]
        return [made for song in songs for made in self._try_mels([song], sampling, on_progress)]

    def windows(self, score: Score, options: RenderOptions | None = None) -> TokenWindows:
        """The token windows that a score is rendered from, if all its notes share a bus.

        See `song_windows`.
        """
        options = options or RenderOptions()
        return song_windows(score, self.vocabulary, options.duration, least_seconds(score, options))

    def _ending(self, score: Score, options: RenderOptions, windows: int) -> Ending:
        """Where a song of `windows` windows ends. Published models render no more than these."""
        least = sounding_seconds(score, options.duration, least_seconds(score, options))
        least = min(least, windows * WINDOW_SECONDS)
        may_ring_on = options.tail is None and score.notes and not self.vocabulary.is_published
        most = max(least, score.duration + MAX_TAIL_SECONDS) if may_ring_on else least
        if options.duration is not None:
            most = min(most, options.duration)
        is_cut = options.duration is not None and options.duration <= least
        return Ending(round(least * SAMPLE_RATE), round(most * SAMPLE_RATE), is_cut)

    def mels(
        self,
        windows: Collection[TokenWindow],
        options: RenderOptions | None = None,
        on_progress: OnProgress | None = None,
    ) -> Iterator[Tensor]:
        """Render windows in order: natural log-mels (256, 128), each the context of the next."""
        cursor, sampling = self._cursor(windows), self.sampling(options)

        def on_share(share: float) -> None:
            if on_progress is not None:
                on_progress(Progress(cursor.done + 1, cursor.count, share))

        while not cursor.is_over:
            yield from self.next_mels([cursor], sampling, on_share if on_progress else None)

    def vocode(self, log_mel: Tensor, score: Score | None = None) -> Tensor:
        """Vocode a natural log-mel (T, 128): samples (320 T,), without gain and limiter.

        With the score that the mel belongs to, a vocoder that reads notes gives a clearer sound.
        """
        notes = None if score is None else self.vocoder_notes(score)
        with torch.inference_mode():
            mels = log_mel[None].to(self.device)
            if notes is None:
                return self.checkpoint.vocoder(mels)[0].cpu()
            return self.checkpoint.vocoder(mels, [notes])[0].cpu()

    def vocoder_notes(self, score: Score) -> Tensor | None:
        """A score's notes (N, 5) as the model's vocoder reads them; None if it does not read any.

        Vocoders that are lent by another model do not: it may have learned other instruments.
        """
        if not self.checkpoint.reads_notes:
            return None
        return self._known_notes(score)

    def _known_notes(self, score: Score) -> Tensor:
        """A score's notes (N, 5) in the model's vocabulary, as `harmonic_map` describes them."""
        classes = self.vocabulary.program_class
        return map_notes(replace(note, program=classes(note.program)) for note in score.notes)

    @property
    def has_sampler(self) -> bool:
        """Whether the model takes a sampler, steps and guidance; an autoregressive one does not."""
        return self._model.has_sampler

    def sampling(self, options: RenderOptions | None = None) -> Sampling:
        """The sampler, steps, guidance and seed; options that are None get the model's defaults.

        Raises OptionError for options that are impossible or that this model does not have.
        """
        options = options or RenderOptions()
        own = self.checkpoint.defaults
        unknown = () if self.has_sampler else ("quality", "sampler", "steps", "guidance")
        for name in unknown:
            if getattr(options, name) is not None:
                message = f"the model {self.name} is autoregressive and has no option {name}"
                raise OptionError(message, f"leave out {name}")
        sampler, steps = own.sampler_and_steps(options.quality)
        sampler = options.sampler or sampler
        steps = steps if options.steps is None else options.steps
        guidance = own.guidance if options.guidance is None else options.guidance
        check_sampling(sampler, steps, self.checkpoint.schedule, guidance)
        return Sampling(sampler, steps, guidance, options.seed)

    def unheard(self, score: Score) -> tuple[str, ...]:
        """What of a score the model has no sound for, in words for users.

        Models with curves of notes know only the keys that their soundfont plays.
        """
        curves = self._curves
        if curves is None:
            return ()
        words = self.vocabulary
        keys = [
            (
                DRUM_KIT if note.is_drum else words.program_class(note.program),
                note.pitch,
                words.velocity_bin(note.velocity),
            )
            for note in score.notes
        ]
        are_silent = curves.are_silent(
            *torch.tensor(keys, device=self.device).view(-1, 3).unbind(1)
        )
        found = Counter(
            (note.is_drum, note.program)
            for note, is_silent in zip(score.notes, are_silent.tolist(), strict=True)
            if is_silent
        )
        if not found:
            return ()
        return tuple(
            f"{count(number, 'note')} of {'drums' if is_drum else instrument_name(program)} on keys"
            " without a sound"
            for (is_drum, program), number in found.items()
        )

    def gain(self, options: RenderOptions) -> float:
        """The gain in dB before the limiter: from the options, the model or DEFAULT_GAIN."""
        if options.gain is not None:
            return options.gain
        own = self.checkpoint.defaults.gain
        return DEFAULT_GAIN if own is None else own

    def next_mels(
        self,
        cursors: Sequence[WindowCursor],
        sampling: Sampling,
        on_share: Callable[[float], None] | None = None,
    ) -> list[Tensor]:
        """Render the next window of each song or bus: natural log-mels (256, 128), on the CPU.

        First windows have no context. They get a separate batch, as the mask that a common batch
        needs would change the rounding of the other windows. `on_share` is called with the share
        of the work that is done.
        """
        first = [cursor for cursor in cursors if cursor.previous_mel is None]
        later = [cursor for cursor in cursors if cursor.previous_mel is not None]
        groups = [
            kind[begin : begin + MOST_WINDOWS]
            for kind in (first, later)
            for begin in range(0, len(kind), MOST_WINDOWS)
        ]
        mels: dict[WindowCursor, Tensor] = {}
        for number, group in enumerate(groups):

            def on_step(share: float, number: int = number) -> None:
                assert on_share is not None
                on_share((number + share) / len(groups))

            made = self._render_windows(group, sampling, on_step if on_share else None)
            mels.update(zip(group, made, strict=True))
        finished = [self._textured(cursor, mels[cursor], sampling.seed) for cursor in cursors]
        for cursor, log_mel in mels.items():
            cursor.move_on(log_mel)  # the network continues what it has drawn, without texture
        return finished

    @torch.inference_mode()
    def _textured(self, cursor: WindowCursor, log_mel: Tensor, seed: int) -> Tensor:
        """The log-mel (256, 128) of a cursor's window, with texture if its model leaves it out."""
        if self._lines is None:
            return log_mel
        notes = [
            [
                DRUM_KIT if note.is_drum else note.program,
                note.pitch,
                self.vocabulary.bin_velocity(note.velocity_bin) / MAX_VELOCITY,
                note.onset * FRAME_RATE / STEPS_PER_SECOND,
                note.offset * FRAME_RATE / STEPS_PER_SECOND,
            ]
            for note in cursor.next_notes()
        ]
        rows = torch.tensor(notes, dtype=torch.float64).view(-1, NOTE_NUMBERS)
        return add_texture(log_mel, rows, self._lines, window_generator(seed, cursor.window.index))

    def _cursor(self, windows: Collection[TokenWindow]) -> WindowCursor:
        return WindowCursor(windows, self.vocabulary, self._model.config.memory_steps)

    @torch.inference_mode()
    def _render_windows(
        self,
        cursors: Sequence[WindowCursor],
        sampling: Sampling,
        on_share: Callable[[float], None] | None,
    ) -> Tensor:
        """Render the next windows of songs, all or none of them first ones: (B, 256, 128).

        If torch has several threads, the notes of the windows after them are encoded meanwhile.
        """
        notes = self._encode_notes(cursors)
        works: list[Callable[[], Tensor | None]] = [
            partial(self._draw, cursors, notes, sampling, on_share)
        ]
        if self._is_framed and self.device.type == "cpu" and torch.get_num_threads() > 1:
            coming = [cursor for cursor in cursors if cursor.notes_after() is not None]
            works += [partial(self._encode_ahead, coming)] if coming else []
        mels = side_by_side(works)[0]
        assert mels is not None
        return mels

    def _draw(
        self,
        cursors: Sequence[WindowCursor],
        notes: EncodedNotes,
        sampling: Sampling,
        on_share: Callable[[float], None] | None,
    ) -> Tensor:
        """The natural log-mels (B, 256, 128) of windows, given their encoded notes."""
        numbers = [cursor.window.index for cursor in cursors]
        with number_format(self.device, self.dtype):
            mels = [cursor.previous_mel for cursor in cursors if cursor.previous_mel is not None]
            context = to_model(torch.stack(mels)).to(self.device) if mels else None
            memory = self._model.remember(notes, context)
        steps = self._model.progress_steps(sampling)
        drawn = self._model.draw(
            memory,
            noise_source(sampling.seed, numbers, self.device),
            sampling,
            schedule=self.checkpoint.schedule,
            dtype=self.dtype,
            on_step=None if on_share is None else lambda step: on_share(step / steps),
        )
        return from_model(drawn).cpu()

    @property
    def _is_framed(self) -> bool:
        return self._model.config.conditioning == "frame_aligned"

    def _encode_notes(self, cursors: Sequence[WindowCursor]) -> EncodedNotes:
        """Encode the notes of each song's next window, from token ids or from rows of a table."""
        if self._is_framed:
            known = {c: c.encoded for c in cursors if c.encoded is not None}
            others = [cursor for cursor in cursors if cursor not in known]
            if others:
                encoded = self._encode_rows([cursor.next_notes() for cursor in others])
                known.update(zip(others, encoded.windows(), strict=True))
            return EncodedNotes.joined([known[cursor] for cursor in cursors])
        ids = [torch.tensor(cursor.window.ids) for cursor in cursors]
        padded = pad_sequence(ids, batch_first=True, padding_value=PAD)
        with number_format(self.device, self.dtype):
            return self._model.encode_notes(padded.to(self.device), [len(row) for row in ids])

    def _encode_ahead(self, cursors: Sequence[WindowCursor]) -> None:
        """Encode the notes of each song's window after the next one, which has to be known."""
        encoded = self._encode_rows([cursor.notes_after() or [] for cursor in cursors])
        for cursor, window in zip(cursors, encoded.windows(), strict=True):
            cursor.encoded_after = window

    def _encode_rows(self, windows: Sequence[Sequence[WindowNote]]) -> EncodedNotes:
        """Encode the notes of windows, for a model with frame-aligned notes."""
        table = note_table(windows, NOTE_ROWS).to(self.device)
        with number_format(self.device, self.dtype):
            return self._model.encode_notes(table)


def _as_memory_error(error: Exception) -> Exception:
    """A MemoryError for PyTorch's errors that mean it, which are RuntimeErrors; others stay."""
    is_one = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return MemoryError(str(error)) if is_one else error
