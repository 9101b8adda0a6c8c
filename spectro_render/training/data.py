"""MIDI -> shards of training windows on disk -> batches.

A shard is a safetensors file of W consecutive windows of several pieces:
    samples  float32 (W, 81920)      mono, 16 kHz
    mel      float16 (W, 256, 128)   natural log
    notes    int16 (sum of counts, 6), counts int32 (W,)   rows of `conditioning.note_table`
    ids      int16 (sum of id_counts,), id_counts int32 (W,)   note ids; early shards lack them
    piece    int32 (W,)              window i continues window i-1 where the number is the same
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spectro_render.constants import (
    N_MELS,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
)
from spectro_render.errors import MidiError, OptionError, SpectroRenderError
from spectro_render.mel import log_mel, to_model
from spectro_render.midi.read import MIDI_SUFFIXES, read_midi
from spectro_render.midi.score import Score
from spectro_render.network.frames import NOTE_FIELDS, PAD_NOTE, NoteMemory, note_table, table_notes
from spectro_render.tokens.read import window_notes
from spectro_render.tokens.vocabulary import PAD, TokenWindow, Vocabulary
from spectro_render.tokens.write import tokenize
from spectro_render.training.compose import excerpt, made_up, mix, vary
from spectro_render.training.synth import Synthesizer

Conditioning = Literal["cross_attention", "frame_aligned"]
_NOTES = {"cross_attention": ("ids", "id_counts"), "frame_aligned": ("notes", "counts")}

PIECE_WINDOWS = 12  # 61 s
PIECES_PER_SHARD = 16
REAL_SHARE = 0.5  # of the pieces; the others are made up
AS_WRITTEN_SHARE = 0.3  # of the real ones; the others are varied
MIXED_SHARE = 0.15  # of the real ones: a made-up piece plays along
HELD_OUT = 20  # about every so many-th file is never trained on
ATTEMPTS = 200  # at finding a file that can be read and has notes
MIN_NOTES = 8


def name_hash(path: Path) -> int:
    """A number that hangs on a file's name alone."""
    return int(hashlib.sha1(path.name.encode()).hexdigest(), 16)


def midi_files(folder: Path, *, held_out: bool) -> list[Path]:
    """The MIDI files under a folder that are to be trained on, or those that are not, sorted.

    About one in HELD_OUT is kept for evaluation, in a small folder at least one. Raises
    SpectroRenderError where there are fewer than two.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MIDI_SUFFIXES)
    if len(files) < 2:
        raise SpectroRenderError(
            f"{len(files)} MIDI files under {folder}", "give at least two: one is for evaluation"
        )
    kept = [path for path in files if name_hash(path) % HELD_OUT == 0]
    if len(kept) in (0, len(files)):
        kept = [min(files, key=name_hash)]
    return [path for path in files if (path in kept) == held_out]


@dataclass(frozen=True)
class CacheSpec:
    """What a cache holds; the same spec over the same files gives the same shards."""

    midi: Path
    folder: Path
    vocabulary: Vocabulary
    hours: float
    seed: int = 0
    held_out: bool = False  # real music as written, from the files that are not trained on

    @property
    def shards(self) -> int:
        hours_per_shard = PIECES_PER_SHARD * PIECE_WINDOWS * WINDOW_SECONDS / 3600
        return max(1, round(self.hours / hours_per_shard))

    def path(self, index: int) -> Path:
        return self.folder / f"shard-{index:05d}.safetensors"


def build_cache(spec: CacheSpec, workers: int) -> Iterator[Path]:
    """Render what is missing of a cache, in parallel; yields each shard's path when it is there.

    Raises SpectroRenderError where there is too little music, OptionError where the folder holds
    another cache.
    """
    midi_files(spec.midi, held_out=spec.held_out)
    _claim(spec)
    missing = [index for index in range(spec.shards) if not spec.path(index).exists()]
    context = multiprocessing.get_context("spawn")  # FluidSynth and torch do not survive a fork
    with context.Pool(workers, _start_worker, (spec,)) as pool:
        yield from pool.imap_unordered(_write_shard, missing)


def _claim(spec: CacheSpec) -> None:
    """Note in the folder what it holds, or make sure that it holds the same already."""
    facts = json.dumps(
        {**asdict(spec.vocabulary), "seed": spec.seed, "midi": str(spec.midi.resolve())}
    )
    spec.folder.mkdir(parents=True, exist_ok=True)
    note = spec.folder / "cache.json"
    if not note.exists():
        note.write_text(facts)
    elif note.read_text() != facts:
        raise OptionError(
            f"{spec.folder} holds data made otherwise", "choose another --work, or delete it"
        )


def check_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Raise OptionError if a cache says that its notes are written in another vocabulary."""
    note = folder / "cache.json"
    facts = json.loads(note.read_text()) if note.exists() else {}
    for name, wanted in asdict(vocabulary).items():
        if facts.get(name, wanted) != wanted:
            raise OptionError(
                f"{folder} was made with {name} {facts[name]}, this preset has {wanted}",
                "choose another --work",
            )


_spec: CacheSpec
_synthesizer: Synthesizer


def _start_worker(spec: CacheSpec) -> None:
    global _spec, _synthesizer
    torch.set_num_threads(1)
    _spec, _synthesizer = spec, Synthesizer()


def _write_shard(index: int) -> Path:
    first = index * PIECES_PER_SHARD
    pieces = [_piece(_spec, number) for number in range(first, first + PIECES_PER_SHARD)]
    parts = [piece_tensors(score, _spec.vocabulary, _synthesizer) for score in pieces]
    tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    tensors["piece"] = torch.arange(PIECES_PER_SHARD).repeat_interleave(PIECE_WINDOWS).int()
    path = _spec.path(index)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.rename(path)
    return path


def _piece(spec: CacheSpec, number: int) -> Score:
    """Piece `number` of a cache: real music, as written or varied, or made up."""
    rng = Random(f"{spec.seed}/{number}")
    seconds = (PIECE_WINDOWS - 0.5) * WINDOW_SECONDS
    files = midi_files(spec.midi, held_out=spec.held_out)
    for _ in range(ATTEMPTS):
        if not spec.held_out and rng.random() >= REAL_SHARE:
            break
        score = _read(rng.choice(files))
        if score is None:
            continue
        if not spec.held_out and rng.random() >= AS_WRITTEN_SHARE:
            score = vary(score, rng)
        score = excerpt(score, rng, seconds)
        if len(score.notes) >= MIN_NOTES:
            is_mixed = not spec.held_out and rng.random() < MIXED_SHARE
            return mix(score, made_up(rng, seconds)) if is_mixed else score
    if spec.held_out:
        raise SpectroRenderError(
            f"no music in {len(files)} held-out files of {spec.midi}", "give more MIDI files"
        )
    return made_up(rng, seconds)


@cache
def _read(path: Path) -> Score | None:
    try:
        return read_midi(path)
    except MidiError:
        return None


def piece_tensors(
    score: Score, vocabulary: Vocabulary, synthesizer: Synthesizer
) -> dict[str, Tensor]:
    """A piece's windows: audio, mel (with the true audio beyond each cut) and notes."""
    windows = tokenize(score, vocabulary, seconds=PIECE_WINDOWS * WINDOW_SECONDS)[:PIECE_WINDOWS]
    samples = torch.zeros(PIECE_WINDOWS * WINDOW_SAMPLES)
    rendered = torch.from_numpy(synthesizer.render_score(score)[: len(samples)])
    samples[: len(rendered)] = rendered
    mel = log_mel(samples).half()
    return {
        "samples": samples.view(PIECE_WINDOWS, WINDOW_SAMPLES),
        "mel": mel.view(PIECE_WINDOWS, WINDOW_FRAMES, N_MELS),
        **piece_notes(windows, vocabulary),
    }


def piece_notes(windows: Sequence[TokenWindow], vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The notes of windows as a shard has them, in both forms."""
    notes = [note_table([window_notes(window.ids, vocabulary)])[0] for window in windows]
    notes = [rows[rows[:, 0] != PAD_NOTE] for rows in notes]
    return {
        "notes": torch.cat(notes).short(),
        "counts": torch.tensor([len(rows) for rows in notes], dtype=torch.int32),
        "ids": torch.tensor([id for window in windows for id in window.ids], dtype=torch.int16),
        "id_counts": torch.tensor([len(window.ids) for window in windows], dtype=torch.int32),
    }


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows to learn from."""

    numbers: Tensor  # (B,) int64: which windows of the cache
    notes: Tensor  # int64: rows (B, N, 6) padded with PAD_NOTE, or ids (B, L) padded with PAD
    context: Tensor  # (B, T, M) in [-1, 1]: the window before
    heard: Tensor  # (B,) bool: False where no window came before
    target: Tensor  # (B, T, M) in [-1, 1]
    said: Tensor  # (B, T, M) in [-1, 1]: what the model lately said of the window before
    has_said: Tensor  # (B,) bool: False where it said nothing yet

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def recalled(tables: Sequence[Tensor], first: Sequence[bool], steps: int) -> Sequence[Tensor]:
    """Windows' notes (n, 6) in order, with what is remembered of the windows before."""
    if not steps:
        return tables
    known, memory = [], NoteMemory(steps)
    for rows, is_first in zip(tables, first, strict=True):
        memory = NoteMemory(steps) if is_first else memory
        known.append(note_table([memory.recall(table_notes(rows))])[0].short())
    return known


class Windows:
    """The windows of a cache in memory, without their audio."""

    def __init__(
        self, folder: Path, conditioning: Conditioning = "frame_aligned", memory_steps: int = 0
    ) -> None:
        """`memory_steps` as in ModelConfig."""
        self.folder, self.memory_steps = folder, memory_steps
        self.conditioning = conditioning
        self._shards: set[Path] = set()
        self._mel: list[Tensor] = []  # (256, 128) float16 each
        self._notes: list[Tensor] = []  # int16 each: rows (n, 6), or ids (n,) for cross-attention
        self._first: list[bool] = []
        self._said: dict[int, Tensor] = {}  # (256, 128) float16 each
        self.refresh()

    def __len__(self) -> int:
        return len(self._mel)

    def refresh(self) -> None:
        """Read the shards that have come since: training may begin while the cache grows.

        Raises OptionError for a shard that lacks what this conditioning reads.
        """
        notes, counts = _NOTES[self.conditioning]
        for path in sorted(set(self.folder.glob("shard-*.safetensors")) - self._shards):
            with safe_open(path, "pt") as shard:
                if notes not in shard.keys():
                    hint = "choose another --work, or delete it; frame-aligned presets can use it"
                    raise OptionError(f"{path} is of an early form, without note ids", hint)
                piece = shard.get_tensor("piece")
                first = [True, *(piece[1:] != piece[:-1]).tolist()]
                told = shard.get_tensor(notes).split(shard.get_tensor(counts).tolist())
                self._mel += shard.get_tensor("mel").unbind()
                self._notes += recalled(told, first, self.memory_steps)
            self._first += first
            self._shards.add(path)

    def remember(self, numbers: Tensor, said: Tensor) -> None:
        """Keep what the model said of windows (B,), mels (B, T, M), for those that follow them."""
        mels = said.clamp(-1, 1).half().cpu().unbind()
        self._said.update(zip(numbers.tolist(), mels, strict=True))

    def batch(self, indices: Sequence[int]) -> Batch:
        """The windows of these numbers, and what came before them."""
        before = [index if self._first[index] else index - 1 for index in indices]
        notes = [self._notes[index].long() for index in indices]
        if self.conditioning == "frame_aligned":
            one_row = torch.full((1, NOTE_FIELDS), PAD_NOTE)  # or a batch without notes has none
            padded = pad_sequence([one_row, *notes], True, PAD_NOTE)[1:]
        else:
            padded = pad_sequence(notes, True, PAD)
        context = to_model(torch.stack([self._mel[index] for index in before]).float())
        said = [self._said.get(k, true) for k, true in zip(before, context, strict=True)]
        return Batch(
            torch.tensor(indices),
            padded,
            context,
            torch.tensor([not self._first[index] for index in indices]),
            to_model(torch.stack([self._mel[index] for index in indices]).float()),
            torch.stack([mel.float() for mel in said]),
            torch.tensor([index in self._said for index in before]),
        )
