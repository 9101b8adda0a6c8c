"""Training data from recordings: each is checked, aligned with its notes, and cut into shards.

The shards are like those of synthesised music (`data.py`). A recording that is divided over several
shards begins anew in each. Sound is taken for what a renderer should write, which amplifies a
model's sound by DEFAULT_GAIN; so models learn it that much softer, and render it as loud as it was.
"""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectro_render.atomic import new_file
from spectro_render.audio.limiter import DEFAULT_GAIN
from spectro_render.constants import (
    N_MELS,
    SAMPLE_RATE,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
)
from spectro_render.errors import MidiError, SpectroRenderError
from spectro_render.mel import log_mel
from spectro_render.midi.score import Note, Score, section
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.tokens.write import tokenize
from spectro_render.training.alignment import LEAST_MATCH, find_offset
from spectro_render.training.compose import score_of
from spectro_render.training.data import (
    MIN_NOTES,
    claim_folder,
    is_held_out,
    name_hash,
    piece_notes,
)
from spectro_render.training.layouts import Pair, Unused
from spectro_render.training.progress import Countdown

RESULTS = "recordings.jsonl"  # in the work folder: what became of each recording
SHARD_WINDOWS = 192
MOST_OFFSET = 2.0  # seconds that are corrected
LEAST_OFFSET = 0.02  # seconds: smaller ones are within the accuracy of the measurement
MOST_DRIFT = 0.1  # seconds by which the offsets of both halves may differ
SILENT = 1e-3  # of full scale: no sample of a silent recording is larger
CLIPPED_RUN = 3  # samples in a row at the highest value
MOST_CLIPPED = 1e-3  # share of the samples in such runs
MISSING_END = 2.0  # seconds of notes that may lie beyond the recording's end
SILENT_END = 15.0  # seconds, or a tenth of the length, that a recording may last beyond its notes
LAST_SHARE = 0.1  # of the windows of a single recording, which are held out


@dataclass(frozen=True)
class Outcome:
    """What became of a recording."""

    name: str
    problem: str | None = None  # why it was not used
    seconds: float = 0.0
    offset: float = 0.0  # seconds by which its notes were moved
    shards: tuple[str, ...] = ()  # files in the folder of all recordings


class Unusable(Exception):
    """Why a recording cannot be used."""


def read_sound(path: Path) -> tuple[Tensor, int]:
    """Samples (S, channels) of a file and their rate. Raises Unusable."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError, MemoryError) as error:
        raise Unusable(f"it cannot be read as sound ({error})") from error
    if not len(samples) or not np.isfinite(samples).all():
        raise Unusable("it has no samples, or samples that are not numbers")
    return torch.from_numpy(samples), rate


def check_sound(samples: Tensor) -> None:
    """Raise Unusable for samples (S, channels) that are silent or clipped."""
    level = samples.abs().amax(1)
    loudest = float(level.max())
    if loudest < SILENT:
        raise Unusable("it is silent")
    at_most = level >= 0.9995 * loudest
    runs = at_most.unfold(0, CLIPPED_RUN, 1).all(1) if len(level) >= CLIPPED_RUN else at_most
    share = float(runs.float().mean())
    if share > MOST_CLIPPED:
        raise Unusable(f"it is clipped ({100 * share:.1f} % of its samples are at the limit)")


def align(samples: Tensor, score: Score) -> tuple[Score, float]:
    """Move notes to where samples (S,) at 16 kHz have them: the score, and seconds moved by.

    Raises Unusable where they do not fit.
    """
    found = find_offset(samples, score.notes)
    if found.match < LEAST_MATCH:
        raise Unusable(f"its onsets do not fit the notes (correlation {found.match:.2f})")
    if abs(found.seconds) > MOST_OFFSET:
        side = "behind" if found.seconds > 0 else "before"
        seconds = abs(found.seconds)
        raise Unusable(f"it lies {seconds:.1f} s {side} its notes, more than {MOST_OFFSET:g} s")
    moved = found.seconds if abs(found.seconds) >= LEAST_OFFSET else 0.0
    notes = [
        Note(max(0.0, n.start + moved), n.end + moved, n.pitch, n.velocity, n.program, n.is_drum)
        for n in score.notes
        if n.end + moved > 0
    ]
    seconds = len(samples) / SAMPLE_RATE
    first, last = notes[0].start, max(note.end for note in notes)
    if max(note.start for note in notes) > seconds or last > seconds + MISSING_END:
        raise Unusable(f"the lengths differ: {seconds:.0f} s of sound, {last:.0f} s of notes")
    if max(first, seconds - last) > max(SILENT_END, 0.1 * seconds):
        raise Unusable(
            f"the lengths differ: {seconds:.0f} s of sound, notes from {first:.0f} to {last:.0f} s"
        )
    if abs(found.drift) > MOST_DRIFT:
        raise Unusable(f"its notes drift by {abs(found.drift):.2f} s, so its tempo is another")
    return score_of(notes), moved


def load_pair(pair: Pair) -> tuple[Tensor, Score, float]:
    """Samples (S,) at 16 kHz at a model's level, the aligned score, and seconds moved by.

    Raises Unusable.
    """
    try:
        score = pair.score()
    except MidiError as error:
        raise Unusable(error.message) from error
    if len(score.notes) < MIN_NOTES:
        raise Unusable(f"it has {len(score.notes)} notes, fewer than {MIN_NOTES}")
    whole, rate = read_sound(pair.sound)
    check_sound(whole)
    mono = soxr.resample(whole.mean(1).numpy(), rate, SAMPLE_RATE, quality="VHQ")
    samples = torch.from_numpy(np.asarray(mono, np.float32))
    if float(samples.abs().max()) < SILENT:
        raise Unusable("its channels cancel each other")
    score, moved = align(samples, score)
    return samples * 10 ** (-DEFAULT_GAIN / 20), score, moved


def recording_tensors(samples: Tensor, score: Score, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The windows of a whole recording as a shard holds them."""
    count = -(-len(samples) // WINDOW_SAMPLES)
    windows = tokenize(score, vocabulary, seconds=count * WINDOW_SECONDS)[:count]
    padded = torch.zeros(count * WINDOW_SAMPLES)
    padded[: len(samples)] = samples
    return {
        "samples": padded.view(count, WINDOW_SAMPLES),
        "mel": log_mel(padded).half().view(count, WINDOW_FRAMES, N_MELS),
        **piece_notes(windows, vocabulary),
        "piece": torch.zeros(count, dtype=torch.int32),
    }


def cut_windows(tensors: dict[str, Tensor], first: int, end: int) -> dict[str, Tensor]:
    """The windows from `first` to before `end` of a shard."""
    part = {}
    for rows, counts in (("notes", "counts"), ("ids", "id_counts")):
        edges = [0, *tensors[counts].cumsum(0).tolist()]
        part[counts] = tensors[counts][first:end].clone()
        part[rows] = tensors[rows][edges[first] : edges[end]].clone()
    for name in ("samples", "mel", "piece"):
        part[name] = tensors[name][first:end].clone()
    return part


@dataclass(frozen=True)
class _Job:
    number: int
    pair: Pair
    folder: Path
    vocabulary: Vocabulary


def _store(job: _Job) -> Outcome:
    """Write the shards of a recording, in a worker process."""
    torch.set_num_threads(1)
    try:
        samples, score, moved = load_pair(job.pair)
    except Unusable as error:
        return Outcome(job.pair.name, str(error))
    tensors = recording_tensors(samples, score, job.vocabulary)
    names = []
    for first in range(0, len(tensors["mel"]), SHARD_WINDOWS):
        end = min(first + SHARD_WINDOWS, len(tensors["mel"]))
        names.append(f"shard-r{job.number:05d}-{first // SHARD_WINDOWS:03d}.safetensors")
        with new_file(job.folder / names[-1]) as temporary:
            save_file(cut_windows(tensors, first, end), temporary)
    return Outcome(job.pair.name, None, len(samples) / SAMPLE_RATE, moved, tuple(names))


def store_recordings(
    pairs: Sequence[Pair],
    unused: Iterable[Unused],
    work: Path,
    vocabulary: Vocabulary,
    *,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Write all usable recordings as shards in the work folder's `train` and `valid`.

    What is not used is passed to `say` with the reason, and so is what was moved. Recordings that
    were stored before an interruption are not read again. Raises SpectroRenderError where none can
    be used.
    """
    folder = work / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    for place in (work / "train", work / "valid"):
        claim_folder(place, asdict(vocabulary), "another vocabulary")
    known = read_outcomes(work / RESULTS)
    for one in unused:
        say(f"not used: {one.name}: {one.reason}")
    jobs = [_Job(number, pair, folder, vocabulary) for number, pair in enumerate(pairs)]
    missing = [job for job in jobs if job.pair.name not in known]
    countdown = Countdown("recordings", len(missing), say)
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with context.Pool(min(workers, len(missing)) or 1) as pool:
        for outcome in pool.imap_unordered(_store, missing):
            known[outcome.name] = outcome
            with (work / RESULTS).open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            countdown.count()
    outcomes = [known[pair.name] for pair in pairs]
    for outcome in outcomes:
        if outcome.problem is not None:
            say(f"not used: {outcome.name}: {outcome.problem}")
        elif outcome.offset:
            say(f"{outcome.name}: its notes were moved by {outcome.offset:+.2f} s")
    _share_out(pairs, known, work)
    return outcomes


def held_out_music(pairs: Sequence[Pair], work: Path, count: int) -> Iterator[tuple[Tensor, Score]]:
    """At most `count` recordings that are held out, evenly spread, as `load_pair` returns them.

    Of a single recording, that is its end. `work` is the folder that `store_recordings` filled.
    """
    known, held_out = read_outcomes(work / RESULTS), work / "valid"
    usable = [pair for pair in pairs if pair.name in known and known[pair.name].problem is None]
    kept = [pair for pair in usable if (held_out / known[pair.name].shards[-1]).exists()]
    count = min(count, len(kept))
    for pair in (kept[index * len(kept) // count] for index in range(count)):
        samples, score, _ = load_pair(pair)
        if len(usable) == 1:
            with safe_open(held_out / known[pair.name].shards[-1], "pt") as shard:
                windows = shard.get_slice("mel").get_shape()[0]
            first = -(-len(samples) // WINDOW_SAMPLES) - windows
            samples = samples[first * WINDOW_SAMPLES :]
            score = section(score, first * WINDOW_SECONDS, None)
        yield samples, score


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """The outcomes by name; a last line that was cut off is left out."""
    known = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        known[fields["name"]] = Outcome(**{**fields, "shards": tuple(fields["shards"])})
    return known


def _share_out(pairs: Sequence[Pair], known: dict[str, Outcome], work: Path) -> None:
    """Put the shards under `train` and `valid`: some recordings are held out, or the last windows.

    Raises SpectroRenderError where there is nothing to share out.
    """
    usable = [pair for pair in pairs if known[pair.name].problem is None]
    if not usable:
        raise SpectroRenderError(
            f"none of {len(pairs)} recordings can be used", "the lines above give the reasons"
        )
    if len(usable) == 1:
        _divide_last(known[usable[0].name].shards, work)
        return
    # By the names of the notes, as are the files that `evaluate --held-out` takes.
    held_out = [
        p for p in usable if (p.held_out if p.held_out is not None else is_held_out(p.notes[0]))
    ]
    if len(held_out) in (0, len(usable)):
        held_out = [min(usable, key=lambda pair: name_hash(pair.notes[0]))]
    for pair in usable:
        side = "valid" if pair in held_out else "train"
        for name in known[pair.name].shards:
            _link(work / "recordings" / name, work / side / name)


def _divide_last(shards: Sequence[str], work: Path) -> None:
    """Hold out the last windows of the only recording."""
    for name in shards[:-1]:
        _link(work / "recordings" / name, work / "train" / name)
    tensors = load_file(work / "recordings" / shards[-1])
    count = len(tensors["mel"])
    kept = count - max(1, round(LAST_SHARE * count))
    for side, first, end in (("valid", kept, count), ("train", 0, kept)):
        if first < end and not (work / side / shards[-1]).exists():
            with new_file(work / side / shards[-1]) as temporary:
                save_file(cut_windows(tensors, first, end), temporary)


def _link(shard: Path, name: Path) -> None:
    """Give a shard a second name, or copy it where the file system has no links."""
    if name.exists():
        return
    try:
        name.hardlink_to(shard)
    except OSError:
        with new_file(name) as temporary:
            shutil.copyfile(shard, temporary)
