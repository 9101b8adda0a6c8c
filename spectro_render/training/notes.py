"""Single notes to learn from: each is played by FluidSynth and kept as its mel.

A shard is a safetensors file with the N notes of one program:
    mel     float16 (F, 128)   natural log, the notes' frames one after another
    notes   int32 (N, 6)       program (128: the drum kit), pitch, velocity bin, onset and length in
                               steps of 10 ms, and number of frames; the onset counts from the begin
                               of the note's first frame
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectro_render.atomic import new_file
from spectro_render.constants import MEL_FLOOR, STEPS_PER_SECOND
from spectro_render.mel import log_mel
from spectro_render.midi.score import Note, Score
from spectro_render.network.curves import DRUM_KIT, STEPS_PER_FRAME
from spectro_render.tokens.vocabulary import MAX_VELOCITY, Vocabulary
from spectro_render.training.data import claim_folder
from spectro_render.training.synth import Synthesizer, find_soundfont

PITCHES = range(128)
LONG_PITCHES = range(24, 108, 3)
DRUMS = range(128)
SOFT_SHARE = 0.4  # of the notes, whose velocities are drawn from the lower half
FULL_SECONDS, LONG_SECONDS = 4.75, 10.2
SHORT_SECONDS = 0.06, 1.4  # between which the length of short notes is drawn, evenly in logarithm
SHORT_ROUNDS = 2
DRUM_ROUNDS = 24
ALL_HOURS = 82.0  # of all notes and rests
REST_SECONDS = 3.0  # after a note, before the next one
REST_FRAMES = 100  # kept after a note's end
LEAD_FRAMES = 2  # kept before its onset
ROUNDING = 0.0045  # seconds by which an onset may lie beside its step, as in music


@dataclass(frozen=True)
class _Plan:
    folder: Path
    vocabulary: Vocabulary
    share: float  # of the pitches and drums
    seed: int
    soundfont: Path | None = None  # None: that of `find_soundfont`

    def path(self, program: int) -> Path:
        return self.folder / f"program-{program:03d}.safetensors"


def render_notes(
    folder: Path,
    vocabulary: Vocabulary,
    hours: float,
    *,
    seed: int = 0,
    workers: int = 1,
    soundfont: Path | None = None,
) -> Iterator[Path]:
    """Play all programs and drums note by note, and yield the path of each program's shard.

    Pitches are left out at random if all would take more than `hours` (they take ALL_HOURS). Shards
    that are there already stay. `workers` is the number of processes. Raises OptionError if the
    folder holds notes of another soundfont, SpectroRenderError without FluidSynth or a soundfont.
    """
    facts = {**asdict(vocabulary), "seed": seed, "soundfont": str(soundfont or find_soundfont())}
    claim_folder(folder, facts, "another soundfont, another seed or another vocabulary")
    plan = _Plan(folder, vocabulary, min(1.0, hours / ALL_HOURS), seed, soundfont)
    missing = [number for number in range(DRUM_KIT + 1) if not plan.path(number).exists()]
    context = multiprocessing.get_context("spawn")  # FluidSynth and torch do not survive a fork
    with context.Pool(workers, _start_worker, (plan,)) as pool:
        yield from pool.imap_unordered(_write_shard, missing)


def read_notes(folder: Path) -> tuple[Tensor, Tensor]:
    """All shards of a folder: mels (F, 128) float16, and notes (N, 7) int64.

    The last column is the index of a note's first frame.
    """
    parts = [load_file(path) for path in sorted(folder.glob("program-*.safetensors"))]
    mels = torch.cat([part["mel"] for part in parts])
    notes = torch.cat([part["notes"] for part in parts]).long()
    first = notes[:, 5].cumsum(0) - notes[:, 5]
    return mels, torch.cat([notes, first[:, None]], 1)


_plan: _Plan
_synthesizer: Synthesizer


def _start_worker(plan: _Plan) -> None:
    global _plan, _synthesizer
    torch.set_num_threads(1)
    _plan, _synthesizer = plan, Synthesizer(plan.soundfont)


def _write_shard(program: int) -> Path:
    rng = np.random.default_rng([_plan.seed, program])
    drawn = _drum_phrases(rng) if program == DRUM_KIT else _phrases(rng)
    phrases = [[note for note in phrase if rng.random() < _plan.share] for phrase in drawn]
    phrases = [phrase for phrase in phrases if phrase] or [[(60, 1.0)]]
    played = [_play(program, phrase, rng) for phrase in phrases]
    tensors = {
        "mel": torch.cat([mel for _, mels in played for mel in mels]),
        "notes": torch.tensor([row for rows, _ in played for row in rows], dtype=torch.int32),
    }
    path = _plan.path(program)
    with new_file(path) as temporary:
        save_file(tensors, temporary)
    return path


def _phrases(rng: np.random.Generator) -> Iterator[list[tuple[int, float]]]:
    """Pitches and lengths in seconds of notes to play one after another."""
    shortest, longest = np.log(SHORT_SECONDS)
    for length in (FULL_SECONDS, *[None] * SHORT_ROUNDS, LONG_SECONDS):
        pitches = rng.permutation(LONG_PITCHES if length == LONG_SECONDS else PITCHES)
        for some in np.array_split(pitches, len(pitches) // 10):
            lengths = np.exp(rng.uniform(shortest, longest, len(some)))
            if length is not None:
                lengths = length + rng.uniform(-0.25, 0.25, len(some))
            yield list(zip(some.tolist(), lengths.tolist(), strict=True))


def _drum_phrases(rng: np.random.Generator) -> Iterator[list[tuple[int, float]]]:
    for _ in range(DRUM_ROUNDS):
        yield [(drum, 0.1) for drum in rng.permutation(DRUMS).tolist()]


def _play(
    program: int, phrase: Sequence[tuple[int, float]], rng: np.random.Generator
) -> tuple[list[tuple[int, ...]], list[Tensor]]:
    """Play notes one after another: the rows of a shard, and the mels (F, 128) of each."""
    is_drum, step = program == DRUM_KIT, 10
    notes: list[Note] = []
    rows: list[tuple[int, ...]] = []
    firsts: list[int] = []
    for pitch, length in phrase:
        loudest = MAX_VELOCITY // 2 if rng.random() < SOFT_SHARE else MAX_VELOCITY
        velocity = int(rng.integers(1, loudest + 1))
        start = step / STEPS_PER_SECOND + rng.uniform(-ROUNDING, ROUNDING)
        end = start + length
        steps = round(length * STEPS_PER_SECOND)
        notes.append(Note(start, end, pitch, velocity, 0 if is_drum else program, is_drum))
        first = step // STEPS_PER_FRAME - LEAD_FRAMES
        frames = LEAD_FRAMES + -(-steps // STEPS_PER_FRAME) + 1 + REST_FRAMES
        velocity_bin = _plan.vocabulary.velocity_bin(velocity)
        onset = step - STEPS_PER_FRAME * first
        rows.append((program, pitch, velocity_bin, onset, steps, frames))
        firsts.append(first)
        step += steps + round(REST_SECONDS * STEPS_PER_SECOND) + int(rng.integers(0, 2))
    samples = _synthesizer.render_score(Score(tuple(notes), notes[-1].end))
    mel = log_mel(torch.from_numpy(samples)).half()
    # After the last note the sound may end before the frames that are kept of it.
    silence = torch.full((REST_FRAMES, mel.shape[1]), MEL_FLOOR).log().half()
    mel = torch.cat([mel, silence])
    return rows, [
        mel[first : first + row[5]].clone() for first, row in zip(firsts, rows, strict=True)
    ]
