"""The one file that knows all the stages: MIDI -> notes -> tokens -> mel -> sound."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spectro_render.audio.audio import Audio
from spectro_render.audio.limiter import DEFAULT_GAIN
from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.load import Checkpoint
from spectro_render.constants import SAMPLE_RATE, WINDOW_SECONDS
from spectro_render.diffusion import check_sampling, noise_source
from spectro_render.errors import OptionError
from spectro_render.mel import from_model, to_model
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score, section
from spectro_render.network.device import (
    check_dtype,
    choose_dtype,
    find_device,
    number_format,
)
from spectro_render.network.frames import note_table
from spectro_render.network.model import EncodedNotes, MelModel
from spectro_render.options import OnProgress, Progress, RenderOptions, Sampling
from spectro_render.render.song import Reading, Song, Voice
from spectro_render.report import Reporter
from spectro_render.tokens.vocabulary import PAD, TokenWindow
from spectro_render.tokens.write import song_windows, sounding_seconds

BATCH_SIZE = 8
NOTE_ROWS = 64  # a multiple: products of fewer rows round otherwise, and depend on who is beside
MOST_WEIGHTS = 50_000_000  # of a network whose products, on a CPU, one song is too small for

Source: TypeAlias = Score | str | os.PathLike[str] | bytes | BinaryIO


class Renderer:
    """A loaded model that turns scores into sound."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.vocabulary = checkpoint.vocabulary
        self.device = device
        self.dtype = dtype
        self.sample_rate = SAMPLE_RATE
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

        What is not here yet is fetched, unless `quiet` with words on standard error. `vocoder` is
        one of the model's ('melgan', 'onnx', 'griffin-lim'), another model, or an ONNX file.

        `device` is 'auto' (a CUDA device if there is one), 'cpu', 'cuda', 'cuda:1', 'mps';
        `dtype` is the number format of the network's products: 'float32', 'bfloat16', 'float16' or
        'auto', bfloat16 where that is measured to be faster. Raises WeightsError, DeviceError.
        """
        place = find_device(device)
        check_dtype(dtype)
        checkpoint = load_checkpoint(model, vocoder, Reporter(quiet=quiet))
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
        """Render a score, a MIDI file's path, its bytes or an open file: mono Audio at 16 kHz.

        `overrides` are fields of RenderOptions. Raises MidiError, OptionError.
        """
        parts = self.stream(
            source,
            options,
            live=False,
            on_progress=on_progress,
            **overrides,  # type: ignore[arg-type]
        )
        return Audio(np.concatenate([part.samples for part in parts], axis=1), SAMPLE_RATE)

    def stream(
        self,
        source: Source,
        options: RenderOptions | None = None,
        *,
        windows: Sequence[TokenWindow] | None = None,
        live: bool = True,
        on_progress: OnProgress | None = None,
        **overrides: object,
    ) -> Iterator[Audio]:
        """The same sound as `render`, piece by piece, about 5.12 s each, as soon as it is certain.

        Where nobody listens yet, `live=False` gives larger pieces, which are less work; only
        rounding differs. `windows` spares the making of those that `self.windows` gives for the
        section of the score that `options` choose. Memory does not grow with the sound's length.
        """
        song = self.begin(source, options, windows=windows, live=live, **overrides)
        options = self.resolve(options, **overrides)
        while not song.is_over:
            (part,) = self.advance([song], options, on_progress)
            if part.seconds:
                yield part

    def begin(
        self,
        source: Source,
        options: RenderOptions | None = None,
        *,
        windows: Sequence[TokenWindow] | None = None,
        live: bool = True,
        **overrides: object,
    ) -> Song:
        """A song to `advance`, by itself or beside others. Arguments and errors as of `stream`."""
        options = self.resolve(options, **overrides)
        assert options.gain is not None
        score = section(as_score(source), options.start, options.duration)
        windows = self.windows(score, options) if windows is None else windows
        seconds = min(sounding_seconds(score, options.duration), len(windows) * WINDOW_SECONDS)
        samples = round(seconds * SAMPLE_RATE)
        voice = Voice(self.checkpoint.vocoder, options.gain, samples, live=live)
        return Song(self._reading(windows), voice)

    def advance(
        self,
        songs: Sequence[Song],
        options: RenderOptions | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Audio]:
        """Render the next window of each song, all in one batch; the sound that is now certain.

        Noise hangs on the seed and the window alone, so a song sounds the same whoever is beside
        it, but for rounding: within 2 steps of 16 bits in float32, where notes are on frames.
        Progress is the first song's. Several threads may each advance songs of their own.
        """
        self._read_on([song.reading for song in songs], self.resolve(options), on_progress)
        return [Audio(song.speak(self.device)[None], SAMPLE_RATE) for song in songs]

    def windows(self, score: Score, options: RenderOptions | None = None) -> list[TokenWindow]:
        """The token windows of a score: to the end of the sound, or as many as were published."""
        return song_windows(score, self.vocabulary, (options or RenderOptions()).duration)

    def mels(
        self,
        windows: Sequence[TokenWindow],
        options: RenderOptions | None = None,
        on_progress: OnProgress | None = None,
    ) -> Iterator[Tensor]:
        """Natural log-mels (256, 128) of windows in order; each hears the one before it."""
        options = self.resolve(options)
        reading = self._reading(windows)
        while not reading.is_over:
            self._read_on([reading], options, on_progress)
            assert reading.before is not None
            yield reading.before

    def vocode(self, log_mel: Tensor) -> Tensor:
        """Natural log-mel (T, 128) -> samples (320 T,), at the model's own level."""
        with torch.inference_mode():
            return self.checkpoint.vocoder(log_mel[None].to(self.device))[0].cpu()

    @property
    def cores(self) -> int:
        """How many threads do best to `advance` songs of their own, with one core each."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    @property
    def batch_size(self) -> int:
        """How many songs are best rendered side by side, as measured: see the README's figures.

        A network of the published size keeps a processor busy with one song.
        """
        weights = sum(parameter.numel() for parameter in self._model.parameters())
        if self.device.type == "cpu" and weights > MOST_WEIGHTS:
            return 1
        return max(BATCH_SIZE, 2 * self.cores)

    def resolve(self, options: RenderOptions | None = None, **overrides: object) -> RenderOptions:
        """Options with the model's defaults filled in. Raises OptionError for impossible ones."""
        options = replace(options or RenderOptions(), **overrides)  # type: ignore[arg-type]
        own = self.checkpoint.defaults
        gain = DEFAULT_GAIN if own.gain is None else own.gain
        options = replace(options, gain=gain if options.gain is None else options.gain)
        if not self._model.has_sampler:
            _refuse_diffusion_options(self.name, options)
            return options
        sampler, steps = own.preset(options.quality)
        sampler = options.sampler or sampler
        steps = steps if options.steps is None else options.steps
        guidance = own.guidance if options.guidance is None else options.guidance
        check_sampling(sampler, steps, self.checkpoint.schedule)
        return replace(options, sampler=sampler, steps=steps, guidance=guidance)

    def _reading(self, windows: Sequence[TokenWindow]) -> Reading:
        return Reading(windows, self.vocabulary, self._model.config.memory_steps)

    def _read_on(
        self, readings: Sequence[Reading], options: RenderOptions, on_progress: OnProgress | None
    ) -> None:
        """Render the next window of each song.

        Songs that begin make a batch of their own: a mask, for the context that they do not have,
        would change how the others round.
        """
        begin = [reading for reading in readings if reading.before is None]
        go_on = [reading for reading in readings if reading.before is not None]
        for group in filter(None, (begin, go_on)):
            self._render_windows(group, options, on_progress)

    @torch.inference_mode()
    def _render_windows(
        self, readings: Sequence[Reading], options: RenderOptions, on_progress: OnProgress | None
    ) -> None:
        """The next windows of songs of which all, or none, have a window before."""
        guidance = 1.0 if options.guidance is None else options.guidance
        sampling = Sampling(options.sampler or "", options.steps or 0, guidance, options.seed)
        numbers = [reading.window.index for reading in readings]
        with number_format(self.device, self.dtype):
            memory = self._model.remember(self._encode_notes(readings), self._contexts(readings))
        mels = self._model.draw(
            memory,
            noise_source(options.seed, numbers, self.device),
            sampling,
            schedule=self.checkpoint.schedule,
            dtype=self.dtype,
            on_step=self._reporter(on_progress, readings[0], sampling),
        )
        for reading, log_mel in zip(readings, from_model(mels).cpu(), strict=True):
            reading.go_on(log_mel)

    def _encode_notes(self, readings: Sequence[Reading]) -> EncodedNotes:
        """The notes of each song's next window: token ids, or rows for frame-aligned models."""
        if self._model.config.conditioning == "frame_aligned":
            table = note_table([reading.notes() for reading in readings], NOTE_ROWS)
            return self._model.encode_notes(table.to(self.device))
        ids = [torch.tensor(reading.window.ids) for reading in readings]
        padded = pad_sequence(ids, batch_first=True, padding_value=PAD)
        return self._model.encode_notes(padded.to(self.device), [len(row) for row in ids])

    def _contexts(self, readings: Sequence[Reading]) -> Tensor | None:
        """The mel before each next window, (B, 256, 128) scaled; None where all songs begin."""
        before = [reading.before for reading in readings if reading.before is not None]
        return to_model(torch.stack(before)).to(self.device) if before else None

    def _reporter(
        self, on_progress: OnProgress | None, reading: Reading, sampling: Sampling
    ) -> Callable[[int], None] | None:
        """A function of the step of a window that is done, which tells `on_progress` of it."""
        if on_progress is None:
            return None
        window, windows = reading.done + 1, len(reading)
        steps = self._model.progress_steps(sampling)
        return lambda step: on_progress(Progress(window, windows, step, steps))


def as_score(source: Source) -> Score:
    """A score as it is, anything else read as MIDI. Raises MidiError."""
    return source if isinstance(source, Score) else read_midi(source)


def _refuse_diffusion_options(model: str, options: RenderOptions) -> None:
    """Raise OptionError for options that a model without diffusion cannot follow."""
    for name in ("quality", "sampler", "steps", "guidance"):
        if getattr(options, name) is not None:
            message = f"{name} means nothing to {model}, which draws its mels frame by frame"
            raise OptionError(message, f"leave out {name}")
