"""Renders songs with a loaded model: MIDI -> notes -> tokens -> mel -> sound."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spectro_render.audio.audio import Audio
from spectro_render.audio.limiter import DEFAULT_GAIN
from spectro_render.checkpoints.find import resolve_model
from spectro_render.checkpoints.load import Checkpoint, load_model
from spectro_render.checkpoints.manifest import ModelFiles
from spectro_render.constants import SAMPLE_RATE, WINDOW_SECONDS
from spectro_render.diffusion import check_sampling, noise_source
from spectro_render.errors import OptionError
from spectro_render.mel import from_model, to_model
from spectro_render.midi.instruments import instrument_name
from spectro_render.midi.length import least_seconds, part_to_render, sounding_seconds, with_times
from spectro_render.midi.read import Source, as_score
from spectro_render.midi.score import Score
from spectro_render.network.curves import DRUM_KIT, NoteCurves
from spectro_render.network.device import (
    check_dtype,
    choose_dtype,
    find_device,
    number_format,
)
from spectro_render.network.frames import note_table
from spectro_render.network.model import EncodedNotes, MelModel
from spectro_render.options import OnProgress, Progress, RenderOptions, Sampling
from spectro_render.render.song import Ending, Song, SongSound, WindowCursor
from spectro_render.report import Reporter, count
from spectro_render.tokens.vocabulary import PAD, TokenWindow
from spectro_render.tokens.write import TokenWindows, song_windows
from spectro_render.vocoder.band_sound import BandStream
from spectro_render.vocoder.harmonic_map import map_notes

# Tables of notes are padded to a multiple of this number of rows. Matrix products with fewer rows
# round differently, and a song's sound would depend on the other songs in its batch.
NOTE_ROWS = 64
MAX_TAIL_SECONDS = 10.0  # how long a song may ring on after its last note


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
        if isinstance(checkpoint.vocoder, torch.nn.Module):
            checkpoint.vocoder.to(device).eval()

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "default",
        *,
        device: str = "auto",
        dtype: str = "auto",
        vocoder: str | os.PathLike[str] | None = None,
        quiet: bool = False,
    ) -> "Renderer":
        """Load a model by name or directory, or `owner/repo` of the Hugging Face Hub.

        A model of the Hub that is not on this machine yet is downloaded, with messages on standard
        error unless `quiet`. `vocoder` is 'melgan', 'onnx' or 'griffin-lim' (the model's own),
        another model whose vocoder to use, or an ONNX file.

        `device` is 'auto' (a CUDA device if there is one), 'cpu', 'cuda', 'cuda:N' or 'mps'.
        `dtype` is the number format of the network's matrix products: 'float32', 'bfloat16',
        'float16' or 'auto' (bfloat16 for wide networks, if the device computes in it).

        Raises WeightsError if the model cannot be found or loaded, DeviceError if the device or the
        number format cannot be used.
        """
        find_model = partial(resolve_model, model, vocoder, Reporter(quiet=quiet))
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
        **overrides: object,
    ) -> Audio:
        """Render a score, or a MIDI file (a path, its bytes or an open file), in mono.

        The sample rate is 16 kHz, and 48 kHz with the option `full_band`.

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

    def stream(
        self,
        source: Source,
        options: RenderOptions | None = None,
        *,
        live: bool = True,
        on_progress: OnProgress | None = None,
        **overrides: object,
    ) -> Iterator[Audio]:
        """Render in parts of about 5.12 s, which together are the sound of `render`.

        Each part is yielded as soon as its samples are final. `live=False` gives larger parts,
        which take less work; the samples differ only by rounding. Memory does not grow with the
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
        **overrides: object,
    ) -> Song:
        """Read a song, which `advance` then renders, alone or together with other songs.

        Arguments and errors are as in `stream`.
        """
        options = replace(options or RenderOptions(), **overrides)  # type: ignore[arg-type]
        sampling = self.sampling(options)
        if options.velocity != 1.0 and self.vocabulary.velocity_bins == 1:
            message = f"the model {self.name} knows no velocities"
            raise OptionError(message, "leave out velocity, or use gain")
        score = as_score(source, options, allow_rests=options.to_end_of_track)
        options = with_times(score, options)
        score = part_to_render(score, options)
        windows = self.windows(score, options)
        ending = self._ending(score, options, len(windows))
        # Without velocities, no note is softer for the loudest one's sake.
        gain = self.gain(options) + (score.gain if self.vocabulary.velocity_bins > 1 else 0.0)
        fades = score.fades if score.notes else ((0.0, 0.0),)  # rests are silent
        # What is left out of the mel would draw partials where there are none, and take time.
        score = replace(score, notes=tuple(windows.with_room(score.notes)))
        vocoder, notes = self.checkpoint.vocoder, self.vocoder_notes(score)
        band = self.band(score, options.seed) if options.full_band else None
        if options.full_band and band is None:
            hint = "leave out --full-band, or choose another model"
            raise OptionError(f"the model {self.name} has no sound above 8 kHz", hint)
        sound = SongSound(vocoder, gain, ending, live=live, notes=notes, fades=fades, band=band)
        return Song(self._cursor(windows), sampling, sound, windows.dropped)

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
        mels: dict[Song, Tensor | Exception] = {}
        for sampling in dict.fromkeys(song.sampling for song in songs):
            group = [song for song in songs if song.sampling == sampling]
            mels.update(zip(group, self._try_mels(group, sampling, on_progress), strict=True))
        parts: list[Audio | Exception] = []
        for song in songs:
            mel = mels[song]
            try:
                if isinstance(mel, Exception):
                    raise mel
                parts.append(Audio(song.take_ready(mel.to(self.device))[None], song.sample_rate))
            except Exception as error:
                parts.append(_as_memory_error(error))
        return parts

    def _try_mels(
        self, songs: Sequence[Song], sampling: Sampling, on_progress: OnProgress | None
    ) -> Sequence[Tensor | Exception]:
        """The log-mel (256, 128) of each song's next window, or the error."""
        try:
            return self.next_mels([song.cursor for song in songs], sampling, on_progress)
        except Exception as error:
            if len(songs) == 1:
                return [_as_memory_error(error)]
        return [mel for song in songs for mel in self._try_mels([song], sampling, on_progress)]

    def windows(self, score: Score, options: RenderOptions | None = None) -> TokenWindows:
        """The token windows that a score is rendered from; see `song_windows`."""
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
        while not cursor.is_over:
            yield from self.next_mels([cursor], sampling, on_progress)

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
        curves = next(
            (part for part in self._model.modules() if isinstance(part, NoteCurves)), None
        )
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
        on_progress: OnProgress | None = None,
    ) -> list[Tensor]:
        """Render the next window of each song: natural log-mels (256, 128), on the CPU.

        First windows have no context. They get a separate batch, as the mask that a common batch
        needs would change the rounding of the other windows.
        """
        first = [cursor for cursor in cursors if cursor.previous_mel is None]
        later = [cursor for cursor in cursors if cursor.previous_mel is not None]
        mels: dict[WindowCursor, Tensor] = {}
        for group in filter(None, (first, later)):
            made = self._render_windows(group, sampling, on_progress)
            mels.update(zip(group, made, strict=True))
        for cursor, log_mel in mels.items():
            cursor.move_on(log_mel)
        return [mels[cursor] for cursor in cursors]

    def _cursor(self, windows: Collection[TokenWindow]) -> WindowCursor:
        return WindowCursor(windows, self.vocabulary, self._model.config.memory_steps)

    @torch.inference_mode()
    def _render_windows(
        self,
        cursors: Sequence[WindowCursor],
        sampling: Sampling,
        on_progress: OnProgress | None,
    ) -> Tensor:
        """Render the next windows of songs, all or none of them first ones: (B, 256, 128)."""
        numbers = [cursor.window.index for cursor in cursors]
        with number_format(self.device, self.dtype):
            notes = self._encode_notes(cursors)
            mels = [cursor.previous_mel for cursor in cursors if cursor.previous_mel is not None]
            context = to_model(torch.stack(mels)).to(self.device) if mels else None
            memory = self._model.remember(notes, context)
        drawn = self._model.draw(
            memory,
            noise_source(sampling.seed, numbers, self.device),
            sampling,
            schedule=self.checkpoint.schedule,
            dtype=self.dtype,
            on_step=self._reporter(on_progress, cursors[0], sampling),
        )
        return from_model(drawn).cpu()

    def _encode_notes(self, cursors: Sequence[WindowCursor]) -> EncodedNotes:
        """Encode the notes of each song's next window, from token ids or from rows of a table."""
        if self._model.config.conditioning == "frame_aligned":
            table = note_table([cursor.next_notes() for cursor in cursors], NOTE_ROWS)
            return self._model.encode_notes(table.to(self.device))
        ids = [torch.tensor(cursor.window.ids) for cursor in cursors]
        padded = pad_sequence(ids, batch_first=True, padding_value=PAD)
        return self._model.encode_notes(padded.to(self.device), [len(row) for row in ids])

    def _reporter(
        self, on_progress: OnProgress | None, cursor: WindowCursor, sampling: Sampling
    ) -> Callable[[int], None] | None:
        """A function that is called after each step of a window and reports to `on_progress`."""
        if on_progress is None:
            return None
        window, windows = cursor.done + 1, cursor.count
        steps = self._model.progress_steps(sampling)
        return lambda step: on_progress(Progress(window, windows, step / steps))


def _as_memory_error(error: Exception) -> Exception:
    """A MemoryError for PyTorch's errors that mean it, which are RuntimeErrors; others stay."""
    is_one = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return MemoryError(str(error)) if is_one else error
