"""The one file that knows all the stages: MIDI -> notes -> tokens -> mel -> sound."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from spectro_render.audio import DEFAULT_GAIN, Audio, Limiter
from spectro_render.autoregressive import AutoregressiveModel
from spectro_render.conditioning import NoteMemory, note_table
from spectro_render.constants import SAMPLE_RATE, WINDOW_FRAMES, WINDOW_SECONDS
from spectro_render.diffusion import check_sampling, guide, noise_source, sample
from spectro_render.errors import DeviceError, MidiError, OptionError
from spectro_render.mel import from_model, to_model
from spectro_render.midi import Score, read_midi
from spectro_render.model import MelModel, Memory, SpectrogramModel
from spectro_render.tokens import TokenWindow, song_windows, sounding_seconds, window_notes
from spectro_render.vocoder import StreamingVocoder
from spectro_render.weights import Checkpoint, load_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Source: TypeAlias = Score | str | os.PathLike[str] | bytes | BinaryIO


@dataclass(frozen=True)
class RenderOptions:
    """How to render; None stands for the model's own default.

    An autoregressive model takes no sampler, steps or guidance.
    """

    quality: str | None = None  # "fast" or "best": the model's presets of sampler and steps
    sampler: str | None = None  # one of diffusion.SAMPLERS
    steps: int | None = None
    guidance: float | None = None  # 1: none
    seed: int = 0
    gain: float | None = None  # dB
    start: float = 0.0  # seconds of the score to skip
    duration: float | None = None  # seconds to render; None: to the end and until it has rung out


@dataclass(frozen=True)
class Progress:
    """Where a rendering is: step (or frame) 1..steps of window 1..windows."""

    window: int
    windows: int
    step: int
    steps: int


OnProgress = Callable[[Progress], None]


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
        `dtype` is the number format of the network's products: 'auto' (float32), 'float32',
        'bfloat16', 'float16'. Raises WeightsError, DeviceError.
        """
        place, number_format = find_device(device), find_dtype(dtype)
        return cls(load_model(model, vocoder=vocoder, quiet=quiet), place, number_format)

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
        on_progress: OnProgress | None = None,
        **overrides: object,
    ) -> Iterator[Audio]:
        """The same sound as `render`, piece by piece, about 5.12 s each, as soon as it is certain.

        `windows` spares the making of those that `self.windows` gives for the section of the score
        that `options` choose. Memory does not grow with the length of the sound.
        """
        options = self.resolve(options, **overrides)
        score = section(as_score(source), options.start, options.duration)
        windows = self.windows(score, options) if windows is None else windows
        remaining = self._samples(score, len(windows), options)
        for samples in self._sound(windows, options, on_progress):
            part = samples[: max(0, remaining)]
            remaining -= len(part)
            if len(part):
                yield Audio(part[None], SAMPLE_RATE)

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
        before: Tensor | None = None
        memory = NoteMemory(self._model.config.memory_steps)
        for number, window in enumerate(windows, start=1):
            steps = options.steps or WINDOW_FRAMES
            report = _reporter(on_progress, number, len(windows), steps)
            notes = self._notes(window, memory)
            before = self._render_window(window.index, notes, before, options, report)
            yield before

    def vocode(self, log_mel: Tensor) -> Tensor:
        """Natural log-mel (T, 128) -> samples (320 T,), at the model's own level."""
        with torch.inference_mode():
            return self.checkpoint.vocoder(log_mel[None].to(self.device))[0].cpu()

    def resolve(self, options: RenderOptions | None = None, **overrides: object) -> RenderOptions:
        """Options with the model's defaults filled in. Raises OptionError for impossible ones."""
        options = replace(options or RenderOptions(), **overrides)  # type: ignore[arg-type]
        own = self.checkpoint.defaults
        gain = DEFAULT_GAIN if own.gain is None else own.gain
        options = replace(options, gain=gain if options.gain is None else options.gain)
        if isinstance(self._model, AutoregressiveModel):
            _refuse_diffusion_options(self.name, options)
            return options
        sampler, steps = own.preset(options.quality)
        sampler = options.sampler or sampler
        steps = steps if options.steps is None else options.steps
        guidance = own.guidance if options.guidance is None else options.guidance
        check_sampling(sampler, steps, self.checkpoint.schedule)
        return replace(options, sampler=sampler, steps=steps, guidance=guidance)

    @torch.inference_mode()
    def _render_window(
        self,
        number: int,
        notes: Tensor,
        before: Tensor | None,
        options: RenderOptions,
        on_step: Callable[[int], None] | None,
    ) -> Tensor:
        """One window's log-mel (256, 128), from its notes and the mel of the one before."""
        draw = noise_source(options.seed, [number], self.device)
        with self._number_format():
            context = None if before is None else to_model(before)[None].to(self.device)
            memory = self._model.encode(notes, context)
        if isinstance(self._model, AutoregressiveModel):
            with self._number_format():
                mel = self._model.generate(memory, draw, on_step)
        else:
            mel = self._denoise(memory, draw, options, on_step)
        return from_model(mel[0]).cpu()

    def _denoise(
        self,
        memory: Memory,
        draw: Callable[[], Tensor],
        options: RenderOptions,
        on_step: Callable[[int], None] | None,
    ) -> Tensor:
        assert options.sampler is not None and options.steps and options.guidance is not None
        return sample(
            guide(self._predict(memory), self._predict(None), options.guidance),
            draw(),
            sampler=options.sampler,
            steps=options.steps,
            draw=draw,
            target=self._model.config.target,
            schedule=self.checkpoint.schedule,
            on_step=on_step,
        )

    def _notes(self, window: TokenWindow, memory: NoteMemory) -> Tensor:
        """What the note encoder reads: ids (1, L), or rows (1, N, 6) for frame-aligned models.

        `memory` is of the song's windows before.
        """
        if self._model.config.conditioning == "cross_attention":
            return torch.tensor([window.ids], device=self.device)
        notes = memory.recall(window_notes(window.ids, self.vocabulary))
        return note_table([notes]).to(self.device)

    def _predict(self, memory: Memory | None) -> Callable[[Tensor, Tensor], Tensor]:
        model = self._model
        assert isinstance(model, SpectrogramModel)

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            with self._number_format():
                return model.denoise(noisy, time, memory).float()

        return predict

    def _number_format(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def _sound(
        self, windows: Sequence[TokenWindow], options: RenderOptions, report: OnProgress | None
    ) -> Iterator[np.ndarray]:
        """Samples (S,), levelled and limited, as soon as nothing to come can change them."""
        assert options.gain is not None
        vocoder, limiter = StreamingVocoder(self.checkpoint.vocoder), Limiter(options.gain)
        for log_mel in self.mels(windows, options, report):
            with torch.inference_mode():
                samples = vocoder.push(log_mel.to(self.device))
            yield limiter.push(samples.cpu().numpy())
        with torch.inference_mode():
            samples = vocoder.flush()
        yield limiter.push(samples.cpu().numpy())
        yield limiter.flush()

    def _samples(self, score: Score, windows: int, options: RenderOptions) -> int:
        """How long the sound is: it ends when the music has rung out."""
        seconds = min(sounding_seconds(score, options.duration), windows * WINDOW_SECONDS)
        return round(seconds * SAMPLE_RATE)


def as_score(source: Source) -> Score:
    """A score as it is, anything else read as MIDI. Raises MidiError."""
    return source if isinstance(source, Score) else read_midi(source)


def section(score: Score, start: float, duration: float | None) -> Score:
    """The notes that sound from `start` for `duration` seconds; those cut by an edge are shortened.

    Raises MidiError where nothing sounds.
    """
    if start == 0 and duration is None:
        return score
    end = float("inf") if duration is None else start + duration
    notes = tuple(
        replace(note, start=max(0.0, note.start - start), end=min(note.end, end) - start)
        for note in score.notes
        if note.end > start and note.start < end and not (note.is_drum and note.start < start)
    )
    if not notes:
        until = "the end" if duration is None else f"{end:g} s"
        raise MidiError(
            f"no note sounds from {start:g} s to {until}",
            f"the music lasts {score.duration:.1f} s: choose an earlier start or a longer duration",
        )
    return replace(score, notes=notes, duration=min(score.duration, end) - start)


def find_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda', 'cuda:N' or 'mps' -> a device, or DeviceError if there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(f"device {name!r} cannot be used here", "take 'auto' or 'cpu'") from error
    return device


def find_dtype(name: str) -> torch.dtype:
    """'auto', 'float32', 'bfloat16' or 'float16', or DeviceError."""
    if name == "auto":
        return torch.float32
    if name not in DTYPES:
        raise DeviceError(f"unknown number format {name!r}", f"one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _refuse_diffusion_options(model: str, options: RenderOptions) -> None:
    """Raise OptionError for options that a model without diffusion cannot follow."""
    for name in ("quality", "sampler", "steps", "guidance"):
        if getattr(options, name) is not None:
            message = f"{name} means nothing to {model}, which draws its mels frame by frame"
            raise OptionError(message, f"leave out {name}")


def _reporter(
    on_progress: OnProgress | None, window: int, windows: int, steps: int
) -> Callable[[int], None] | None:
    if on_progress is None:
        return None
    return lambda step: on_progress(Progress(window, windows, step, steps))
