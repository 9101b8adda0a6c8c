"""Runs code that was written for diffusers' spectrogram diffusion pipeline.

    processor = MidiProcessor()
    pipe = SpectrogramDiffusionPipeline.from_pretrained("google/music-spectrogram-diffusion")
    audio = pipe(processor("song.mid")).audios[0]  # (1, S) at 16 kHz

Arguments, results and the order in which noise is drawn are those of diffusers 0.24; where that
departs from its own documentation, this follows the documentation.
"""

import inspect
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spectro_render.compat.components import (
    Generator,
    MelVocoder,
    Samples,
    SpectrogramContEncoder,
    SpectrogramNotesEncoder,
    T5FilmDecoder,
    draw_like,
)
from spectro_render.compat.store import load_components, save_components
from spectro_render.constants import MAX_TOKENS, N_MELS, WINDOW_FRAMES
from spectro_render.diffusion import Predict, guide
from spectro_render.errors import TokenError
from spectro_render.mel import from_model, to_model
from spectro_render.midi.length import check_length
from spectro_render.midi.read import Source, as_score
from spectro_render.network.model import Memory
from spectro_render.options import MAX_HOURS
from spectro_render.tokens.read import detokenize
from spectro_render.tokens.vocabulary import PAD, TokenWindow, Vocabulary
from spectro_render.tokens.write import TokenWindows
from spectro_render.vocoder.harmonic_map import map_notes

Callback: TypeAlias = Callable[[int, Any, Tensor], object]  # step, timestep, mel on [-1, 1]
Melgan: TypeAlias = Callable[..., Sequence[Samples]]  # input_features (1, T, 128) -> [(1, 320 T)]

COMPONENTS = ("notes_encoder", "continuous_encoder", "decoder", "scheduler", "melgan")
OUTPUT_TYPES = ("np", "numpy", "mel")


class MidiProcessor:
    """Turns MIDI into the note ids that the published models read."""

    def __call__(self, midi: Source, *, max_hours: float = MAX_HOURS) -> list[list[int]]:
        """Convert MIDI to the ids of each window of 5.12 s, padded with 0 to 2048.

        Takes a MIDI file's path, its bytes, an open file, a Score, a NoteSequence or a PrettyMIDI.
        Raises MidiError for a file that cannot be read, holds no notes or lasts for more than
        `max_hours` hours. An hour takes 12 MB.
        """
        score, vocabulary = as_score(midi), Vocabulary()
        check_length(score.duration, max_hours)
        numbers = tuple(range(vocabulary.size))  # each once: an id takes 8 bytes instead of 36
        return [
            [*map(numbers.__getitem__, window.ids), *[PAD] * (MAX_TOKENS - len(window.ids))]
            for window in TokenWindows(score, vocabulary)
        ]


class AudioPipelineOutput(dict[str, npt.NDArray[np.float32]]):
    """The pipeline's result: `out.audios`, `out["audios"]` and `out[0]` are the same array."""

    def __init__(self, audios: npt.NDArray[np.float32]) -> None:
        """`audios`: samples (1, 1, S) of one channel, or a natural log-mel (1, T, 128)."""
        super().__init__(audios=audios)

    @property
    def audios(self) -> npt.NDArray[np.float32]:
        return self["audios"]

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[npt.NDArray[np.float32], ...]:
        return tuple(self.values())


class Scheduler(Protocol):
    """The interface of schedulers that the pipeline uses: its own and those of diffusers.

    `scale_model_input` and `init_noise_sigma` are used if the scheduler has them.
    """

    timesteps: Tensor
    config: Any

    def set_timesteps(self, num_inference_steps: int) -> None: ...

    @property
    def step(self) -> Callable[..., Any]:
        """A method that turns prediction, timestep and sample into an object with `prev_sample`."""


class SpectrogramDiffusionPipeline:
    """Renders note ids as log-mel and sound, window by window, with a scheduler of diffusers."""

    def __init__(
        self,
        notes_encoder: SpectrogramNotesEncoder,
        continuous_encoder: SpectrogramContEncoder | None,
        decoder: T5FilmDecoder,
        scheduler: Scheduler,
        melgan: Melgan | None,
    ) -> None:
        """Make a pipeline from components, which may be another's: `type(pipe)(**pipe.components)`.

        `continuous_encoder` is None for models without context.
        """
        self.notes_encoder = notes_encoder
        self.continuous_encoder = continuous_encoder
        self.decoder = decoder
        self.scheduler = scheduler
        self.melgan = melgan
        self._progress_bar_config: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        torch_dtype: torch.dtype | None = None,
        **components: Any,
    ) -> "SpectrogramDiffusionPipeline":
        """Load a model of the published form from a directory, or by its name, as on the Hub.

        `revision` is a branch, tag or commit on the Hub; for a directory it is ignored.
        `components` are used in place of the stored ones: `scheduler=...`, `melgan=None`. Raises
        WeightsError or one of its subclasses, TypeError for an unknown option.
        """
        name = os.fspath(pretrained_model_name_or_path)
        if revision and not os.path.isdir(name):
            name = f"{name}@{revision}"
        # Another melgan spares reading the stored one, for which onnxruntime may be missing.
        stored = load_components(name, with_melgan="melgan" not in components)
        pipe = cls(**{**stored, **components})
        return pipe if torch_dtype is None else pipe.to(torch_dtype)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write a model directory, which diffusers 0.24 can load as well if its vocoder is ONNX.

        A model in that directory is replaced when all of the new one has been written. Raises
        OptionError for a scheduler or vocoder that such a directory cannot hold, OutputError.
        """
        save_components(Path(save_directory), self.components)

    @property
    def components(self) -> dict[str, Any]:
        """The pipeline's components, by the names of the constructor's arguments."""
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.dtype

    def to(self, *args: Any, **kwargs: Any) -> "SpectrogramDiffusionPipeline":
        """Move the network as `torch.nn.Module.to` does; the vocoder stays on the CPU."""
        for component in self.components.values():
            if isinstance(component, nn.Module):
                component.to(*args, **kwargs)
        return self

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Set options of tqdm for the progress bar of each window; `disable=True` hides it."""
        self._progress_bar_config = kwargs

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """A tqdm bar over `iterable` or up to `total`. Raises ValueError without either."""
        from tqdm.auto import tqdm

        if iterable is None and total is None:
            raise ValueError("progress_bar needs an iterable or a total")
        return tqdm(iterable, total=total, **self._progress_bar_config)

    @torch.no_grad()
    def __call__(
        self,
        input_tokens: Iterable[Sequence[int]],
        generator: Generator = None,
        num_inference_steps: int = 100,
        return_dict: bool = True,
        output_type: str = "np",
        callback: Callback | None = None,
        callback_steps: int = 1,
        *,
        guidance_scale: float = 1.0,
    ) -> AudioPipelineOutput | tuple[Samples]:
        """Render windows of ids, each with the one before it as context.

        `generator`, or a list of one, draws all noise; None is torch's own. `output_type` is 'np'
        or 'numpy' for samples (1, 1, S), or 'mel' for the natural log-mel (1, T, 128), both
        float32. `callback(step, timestep, mel)` is called at every `callback_steps`-th step of the
        whole run, counted from 0, with the mel (1, 256, 128) after that step, on [-1, 1].
        `guidance_scale` 1 means no guidance, as in diffusers; published weights are meant for 2.
        Raises TokenError for impossible ids, OptionError for an impossible number of steps,
        ValueError for other impossible values.
        """
        self._check(output_type, callback_steps)
        windows = input_tokens if isinstance(input_tokens, Sequence) else list(input_tokens)
        for window in windows:  # so that an error in the last one does not come after hours
            self._ids(window)
        if not windows:
            raise TokenError("there are no windows to render", "make them with MidiProcessor")
        report = _every(callback_steps, callback)
        mels: list[Tensor] = []
        for window in windows:
            memory = self._remember(self._ids(window), mels[-1] if mels else None)
            x = self._denoise(memory, num_inference_steps, generator, guidance_scale, report)
            mels.append(from_model(x))
        log_mel: Samples = torch.cat(mels, 1).float().cpu().numpy()
        audios = log_mel
        if output_type != "mel":
            assert self.melgan is not None
            if isinstance(self.melgan, MelVocoder) and self.melgan.vocoder.reads_notes:
                notes = self._notes(self._ids(window).tolist()[0] for window in windows)
                audios = np.stack(self.melgan(input_features=log_mel, notes=notes))
            else:
                audios = np.stack(self.melgan(input_features=log_mel))
        return AudioPipelineOutput(audios) if return_dict else (audios,)

    def _check(self, output_type: str, callback_steps: int) -> None:
        if output_type not in OUTPUT_TYPES:
            known = ", ".join(OUTPUT_TYPES)
            raise ValueError(f"output_type is {output_type!r}, not one of {known}")
        if output_type != "mel" and self.melgan is None:
            raise ValueError("this pipeline has no melgan to make sound: set it, or ask for 'mel'")
        if type(callback_steps) is not int or callback_steps < 1:
            raise ValueError(f"callback_steps is {callback_steps!r}, not a positive integer")

    def _ids(self, window: Sequence[int]) -> Tensor:
        """Make a tensor (1, L) of a window's ids, without trailing padding and cut to 2048.

        Raises TokenError for anything but a list of ids in the model's vocabulary.
        """
        try:
            ids = torch.as_tensor(window, dtype=torch.long, device=self.device)
        except (TypeError, ValueError, RuntimeError):
            ids = torch.empty(0, 0)
        if ids.dim() != 1:
            raise TokenError("a window is not a list of ids", "give a list of such lists")
        rows = self.notes_encoder.config.vocab_size
        if bool(((ids < 0) | (ids >= rows)).any()):
            raise TokenError(f"a token id is not among the model's {rows}", "use MidiProcessor")
        used = int(ids.nonzero().max()) + 1 if bool(ids.any()) else 0
        return ids[None, :used][:, :MAX_TOKENS] if used else ids.new_zeros(1, 1)

    def _notes(self, windows: Iterable[Sequence[int]]) -> Tensor:
        """The notes (N, 5) that windows of ids stand for, as vocoders read them."""
        vocabulary = Vocabulary()
        tie = vocabulary.tie

        def readable() -> Iterator[TokenWindow]:
            for index, ids in enumerate(windows):
                known = [id for id in ids if id < vocabulary.size]
                yield TokenWindow(index, tuple(known if tie in known else [tie, *known]))

        return map_notes(detokenize(readable(), vocabulary).notes)

    def _remember(self, ids: Tensor, before: Tensor | None) -> Memory:
        """Encode ids (1, L) and the previous window's log-mel (1, T, M) for the decoder."""
        encoded = [self.notes_encoder(encoder_input_tokens=ids, encoder_inputs_mask=ids != PAD)]
        if before is not None and self.continuous_encoder is not None:
            everywhere = torch.ones(before.shape[:2], dtype=torch.bool, device=before.device)
            context = to_model(before)
            encoded.append(
                self.continuous_encoder(encoder_inputs=context, encoder_inputs_mask=everywhere)
            )
        return self.decoder.remember(encoded)

    def _denoise(
        self,
        memory: Memory,
        steps: int,
        generator: Generator,
        guidance_scale: float,
        report: Callable[[Any, Tensor], None],
    ) -> Tensor:
        """Draw a window's mel on [-1, 1], (1, T, M)."""
        scheduler = self.scheduler
        scheduler.set_timesteps(steps)
        scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        options = {"generator": generator} if takes_generator else {}
        predict = guide(self._predict(memory), self._predict(None), guidance_scale)

        empty = torch.empty(1, WINDOW_FRAMES, N_MELS, device=self.device, dtype=self.dtype)
        x = draw_like(empty, generator) * getattr(scheduler, "init_noise_sigma", 1.0)
        for t in self.progress_bar(scheduler.timesteps):
            # The reference divides in float32 before its decoder gets the time.
            time = float(t / scheduler.config.num_train_timesteps)
            x = scheduler.step(predict(scale(x, t), time), t, x, **options).prev_sample
            report(t, x)
        return x

    def _predict(self, memory: Memory | None) -> Predict:
        def predict(noisy: Tensor, time: float) -> Tensor:
            return self.decoder(
                encodings_and_masks=memory,
                decoder_input_tokens=noisy.to(self.dtype),
                decoder_noise_time=torch.tensor([time]),
            )

        return predict


def _every(frequency: int, callback: Callback | None) -> Callable[[Any, Tensor], None]:
    """Make a function that calls `callback` at its first and then every `frequency`-th call."""
    count = itertools.count()

    def report(timestep: Any, mel: Tensor) -> None:
        step = next(count)
        if callback is not None and step % frequency == 0:
            callback(step, torch.as_tensor(timestep).item(), mel)

    return report
