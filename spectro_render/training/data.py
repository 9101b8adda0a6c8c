"""Training data: MIDI files are rendered into shards on disk, from which batches are made.

A piece is about a minute of music, real or made up. A shard is a safetensors file with the W
windows of several pieces, in order:
    samples  float32 (W, 81920)      mono, 16 kHz
    mel      float16 (W, 256, 128)   natural log
    notes    int16 (sum of counts, 6), counts int32 (W,)   rows of `frames.note_table`
    ids      int16 (sum of id_counts,), id_counts int32 (W,)   token ids; the first shards lack them
    piece    int32 (W,)              number of the piece, within the shard, that a window is from
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spectro_render.atomic import new_file
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
from spectro_render.training.compose import (
    excerpt,
    made_up,
    meet_borders,
    mix,
    single_notes,
    vary,
)
from spectro_render.training.synth import Synthesizer, find_soundfont

Conditioning = Literal["cross_attention", "frame_aligned"]
_NOTES = {"cross_attention": ("ids", "id_counts"), "frame_aligned": ("notes", "counts")}

PIECE_WINDOWS = 12  # 61 s
PIECES_PER_SHARD = 16
REAL_SHARE = 0.5  # share of the pieces that are from MIDI files; the others are made up
SINGLE_SHARE = 0.2  # share of the made-up pieces that are single notes
BORDER_SHARE = 0.5  # share of the pieces in which notes begin at the window borders
AS_WRITTEN_SHARE = 0.3  # share of the real pieces that are left as written; others are varied
MIXED_SHARE = 0.15  # share of the real pieces that are mixed with a made-up piece
CACHE = "cache.json"  # in a folder of shards: what they were made of
HELD_OUT = 20  # about one file in 20 is never trained on
ATTEMPTS = 200  # how many files are tried to find one that can be read and has notes
MIN_NOTES = 8  # a real piece has at least this many


def name_hash(path: Path) -> int:
    """A number that depends on the file's name alone, not on its folder."""
    return int(hashlib.sha1(path.name.encode()).hexdigest(), 16)


def is_held_out(path: Path) -> bool:
    """Whether a file is kept for evaluation, by its name: about one in HELD_OUT."""
    return name_hash(path) % HELD_OUT == 0


def midi_files(folder: Path, *, held_out: bool) -> list[Path]:
    """The MIDI files under a folder, sorted: those kept for evaluation, or those to train on.

    About one in HELD_OUT is kept for evaluation, but at least one. Raises SpectroRenderError where
    there are fewer than two files.
    """
    files = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in MIDI_SUFFIXES and p.is_file()
    )
    if len(files) < 2:
        raise SpectroRenderError(
            f"only {len(files)} MIDI files under {folder}",
            "give at least two, since one is kept for evaluation",
        )
    kept = [path for path in files if is_held_out(path)]
    if len(kept) in (0, len(files)):
        kept = [min(files, key=name_hash)]
    return [path for path in files if (path in kept) == held_out]


@dataclass(frozen=True)
class CacheSpec:
    """What determines the shards of a cache, given the same MIDI files."""

    midi: Path  # folder of the MIDI files
    folder: Path  # folder of the shards
    vocabulary: Vocabulary
    hours: float  # hours of music
    seed: int = 0
    held_out: bool = False  # only real music as written, from the files kept for evaluation
    soundfont: Path | None = None  # None: that of `find_soundfont`
    pieces: int = PIECES_PER_SHARD  # in each shard

    @property
    def shards(self) -> int:
        """How many shards there are: the nearest number to `hours`, at least one."""
        hours_per_shard = self.pieces * PIECE_WINDOWS * WINDOW_SECONDS / 3600
        return max(1, round(self.hours / hours_per_shard))

    def path(self, index: int) -> Path:
        """The file of shard `index`, counted from 0."""
        return self.folder / f"shard-{index:05d}.safetensors"


def build_cache(spec: CacheSpec, workers: int) -> Iterator[Path]:
    """Render the missing shards of a cache in parallel, and yield each one's path when written.

    `workers` is the number of processes. Raises SpectroRenderError if there are too few MIDI files
    or they have no notes, OptionError if the folder holds another cache.
    """
    midi_files(spec.midi, held_out=spec.held_out)
    _claim(spec)
    missing = [index for index in range(spec.shards) if not spec.path(index).exists()]
    context = multiprocessing.get_context("spawn")  # FluidSynth and torch do not survive a fork
    with context.Pool(workers, _start_worker, (spec,)) as pool:
        yield from pool.imap_unordered(_write_shard, missing)


def _claim(spec: CacheSpec) -> None:
    """Record in the folder what its data are. Raises OptionError if it holds other data."""
    claim_folder(
        spec.folder,
        {
            **asdict(spec.vocabulary),
            "seed": spec.seed,
            "midi": str(spec.midi.resolve()),
            "soundfont": str(spec.soundfont or find_soundfont()),
            "pieces": spec.pieces,
        },
        "other MIDI files, another soundfont, another seed or another vocabulary",
    )


def claim_folder(folder: Path, facts: Mapping[str, Any], others: str) -> None:
    """Record in a folder what its data were made of, or compare it with what is recorded there.

    Facts that an earlier version did not record are not compared. Raises OptionError where they
    differ; `others` says what else the folder may hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / CACHE
    known = json.loads(note.read_text()) if note.exists() else {}
    if any(known.get(name, value) != value for name, value in facts.items()):
        raise OptionError(
            f"{folder} holds data of {others}", "choose another --work, or delete this folder"
        )
    with new_file(note) as temporary:
        temporary.write_text(json.dumps({**known, **facts}))


def check_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Raise OptionError if the notes of a cache are in another vocabulary."""
    note = folder / CACHE
    facts = json.loads(note.read_text()) if note.exists() else {}
    for name, wanted in asdict(vocabulary).items():
        if facts.get(name, wanted) != wanted:
            raise OptionError(
                f"{folder} was made with {name} {facts[name]}, but this preset needs {wanted}",
                "choose another --work, or the preset that it was made with",
            )


_spec: CacheSpec
_synthesizer: Synthesizer


def _start_worker(spec: CacheSpec) -> None:
    """Set up a worker process that renders shards of a cache."""
    global _spec, _synthesizer
    torch.set_num_threads(1)
    _spec, _synthesizer = spec, Synthesizer(spec.soundfont)


def _write_shard(index: int) -> Path:
    """Render and write a shard, in a worker process, and return its path."""
    first = index * _spec.pieces
    pieces = [make_piece(_spec, number) for number in range(first, first + _spec.pieces)]
    parts = [piece_tensors(score, _spec.vocabulary, _synthesizer) for score in pieces]
    tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    tensors["piece"] = torch.arange(_spec.pieces).repeat_interleave(PIECE_WINDOWS).int()
    path = _spec.path(index)
    with new_file(path) as temporary:
        save_file(tensors, temporary)
    return path


def make_piece(spec: CacheSpec, number: int) -> Score:
    """Piece `number` of a cache: real music as written, real music varied, or made-up music.

    In some of the pieces to learn from, notes begin at the window borders.
    """
    rng = Random(f"{spec.seed}/{number}")
    score = _music(spec, rng)
    return score if spec.held_out or rng.random() >= BORDER_SHARE else meet_borders(score, rng)


def _music(spec: CacheSpec, rng: Random) -> Score:
    """A random piece for a cache."""
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
    return single_notes(rng, seconds) if rng.random() < SINGLE_SHARE else made_up(rng, seconds)


@cache
def _read(path: Path) -> Score | None:
    """The score in a MIDI file; None if it cannot be read."""
    try:
        return read_midi(path)
    except MidiError:
        return None


def piece_tensors(
    score: Score, vocabulary: Vocabulary, synthesizer: Synthesizer
) -> dict[str, Tensor]:
    """The windows of a piece as a shard holds them; mels are cut from the whole piece's mel."""
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
    """The notes of windows as a shard holds them: as rows of a note table, and as token ids."""
    notes = [note_table([window_notes(window.ids, vocabulary)])[0] for window in windows]
    notes = [rows[rows[:, 0] != PAD_NOTE] for rows in notes]
    return {
        "notes": torch.cat(notes).short(),
        "counts": torch.tensor([len(rows) for rows in notes], dtype=torch.int32),
        "ids": torch.tensor([id for window in windows for id in window.ids], dtype=torch.int16),
        "id_counts": torch.tensor([len(window.ids) for window in windows], dtype=torch.int32),
    }


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """B windows to train on: T frames, M mel bands, N notes or L token ids."""

    numbers: Tensor  # (B,) int64: indices of the windows in the cache
    notes: Tensor  # int64: rows (B, N, 6) padded with PAD_NOTE, or ids (B, L) padded with PAD
    context: Tensor  # (B, T, M) in [-1, 1]: the true mel of the window before
    has_context: Tensor  # (B,) bool: False for the first window of a piece
    target: Tensor  # (B, T, M) in [-1, 1]: the true mel
    own_prediction: Tensor  # (B, T, M) in [-1, 1]: the model's latest mel of the window before
    has_own_prediction: Tensor  # (B,) bool: False where the model has not predicted it yet
    # The draft of the notes and what comes with it, if known: see `NoteFrames.draw_draft`.
    drafted: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device) -> "TrainingBatch":
        """The batch on another device."""
        tensors: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        if self.drafted is None:
            return replace(self, **tensors)
        draft, share = self.drafted
        return replace(self, **tensors, drafted=(draft.to(device), share.to(device)))


def recalled(tables: Sequence[Tensor], first: Sequence[bool], steps: int) -> Sequence[Tensor]:
    """Add to the notes (n, 6) of consecutive windows the notes remembered from earlier windows.

    `first` is True for the first window of a piece; `steps` is ModelConfig's `memory_steps`.
    """
    notes = [table_notes(rows) for rows in tables]
    following = [[] if is_first else own for own, is_first in zip(notes, first, strict=True)]
    known, memory = [], NoteMemory(steps)
    for own, after, is_first in zip(notes, [*following[1:], []], first, strict=True):
        memory = NoteMemory(steps) if is_first else memory
        known.append(note_table([memory.recall(own, after)])[0].short())
    return known


class Windows:
    """The windows of a cache in memory, without their audio."""

    def __init__(
        self, folder: Path, conditioning: Conditioning = "frame_aligned", memory_steps: int = 0
    ) -> None:
        """Read the shards in `folder`; `conditioning` and `memory_steps` are as in ModelConfig.

        Raises OptionError for a shard without the notes that this conditioning needs.
        """
        self.folder, self.memory_steps = folder, memory_steps
        self.conditioning = conditioning
        self._shards: set[Path] = set()
        self._mel: list[Tensor] = []  # (256, 128) float16 each
        self._notes: list[Tensor] = []  # int16 each: rows (n, 6), or ids (n,) for cross-attention
        self._first: list[bool] = []
        self._predictions: dict[int, Tensor] = {}  # (256, 128) float16 each
        self.refresh()

    def __len__(self) -> int:
        return len(self._mel)

    def refresh(self) -> None:
        """Read the shards written since the last call, as training may begin before all exist.

        Raises OptionError for a shard without the notes that the conditioning needs.
        """
        notes, counts = _NOTES[self.conditioning]
        for path in sorted(set(self.folder.glob("shard-*.safetensors")) - self._shards):
            with safe_open(path, "pt") as shard:
                if notes not in shard.keys():
                    hint = "choose another --work, or a frame-aligned preset such as bundled"
                    raise OptionError(f"{path} is from an early version and has no token ids", hint)
                piece = shard.get_tensor("piece")
                first = [True, *(piece[1:] != piece[:-1]).tolist()]
                rows = shard.get_tensor(notes).split(shard.get_tensor(counts).tolist())
                self._mel += shard.get_tensor("mel").unbind()
                if self.conditioning == "frame_aligned":
                    rows = recalled(rows, first, self.memory_steps)
                self._notes += rows
            self._first += first
            self._shards.add(path)

    def keep_predictions(self, numbers: Tensor, mels: Tensor) -> None:
        """Store the model's own mels (B, T, M) of windows (B,), as contexts of the next windows."""
        kept = mels.clamp(-1, 1).half().cpu().unbind()
        self._predictions.update(zip(numbers.tolist(), kept, strict=True))

    def batch(self, indices: Sequence[int]) -> TrainingBatch:
        """The windows at these indices, with their contexts."""
        before = [index if self._first[index] else index - 1 for index in indices]
        notes = [self._notes[index].long() for index in indices]
        if self.conditioning == "frame_aligned":
            # An empty row gives a shape to batches without notes.
            one_row = torch.full((1, NOTE_FIELDS), PAD_NOTE)
            padded = pad_sequence([one_row, *notes], True, PAD_NOTE)[1:]
        else:
            padded = pad_sequence(notes, True, PAD)
        context = to_model(torch.stack([self._mel[index] for index in before]).float())
        own = [self._predictions.get(k, true) for k, true in zip(before, context, strict=True)]
        return TrainingBatch(
            torch.tensor(indices),
            padded,
            context,
            torch.tensor([not self._first[index] for index in indices]),
            to_model(torch.stack([self._mel[index] for index in indices]).float()),
            torch.stack([mel.float() for mel in own]),
            torch.tensor([index in self._predictions for index in before]),
        )
