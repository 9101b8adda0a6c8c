"""A whole training: what it is given, how its time is divided, and its stages one after another."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from spectro_render.network.config import ModelConfig
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.training.band import BandOptions
from spectro_render.training.curves import CurveOptions
from spectro_render.training.data import PIECES_PER_SHARD
from spectro_render.training.diffusion import TrainingOptions
from spectro_render.training.layouts import Pair, Unused
from spectro_render.training.notes import ALL_HOURS
from spectro_render.training.progress import clock
from spectro_render.training.recordings import store_recordings
from spectro_render.training.stages import (
    make_data,
    train_curves,
    train_diffusion,
    train_model_band,
    train_model_vocoder,
)
from spectro_render.training.vocoder import VocoderOptions

# Seconds of sound that one core synthesises in a second while the other cores do so, too.
NOTES_SPEED, MUSIC_SPEED = 250, 40
MOST_HOURS = 40  # of music, which lies in memory
FIXED_SECONDS = 20  # for loading, for starting processes and for the export, however short it is
LINES_SECONDS = 70  # of one core, to measure the partials of a soundfont
SHORT = 5.0  # minutes: in less, the partials of the model to start from are kept
LONG = 45.0  # minutes: from then on the vocoder's network is trained, too
MINUTES_PER_FILE = 2.0  # of training, for each held-out file with which the new model is measured
LEAST_FOR_INSTRUMENTS = 10.0  # minutes: from then on it is also measured on single instruments
SMALL_BATCH = 8  # windows in a step of a short training, so that it has more steps
FEW_PIECES = 3  # of a minute, in a shard of a short training
NEW_RATE, LATER_RATE = 3e-3, 5e-4  # peak of Muon: from nothing, and from another model
# Peak for the curves, from another model's: of shared weights, and how much faster the vectors of
# keys and recordings learn. Shared weights that learn faster first lose what they know.
CURVE_RATE, VECTOR_FACTOR = 2e-4, 10.0
# Steps of the curves from which on they learn at that rate. Fewer steps at it leave high and soft
# parts too soft: a minute on the default model's own soundfont took its error from 0.31 to 0.55.
FULL_RATE_STEPS = 1000
FAST_VECTORS = 40.0  # that factor in a short training from recordings, which has few steps


@dataclass(frozen=True)
class Job:
    """All that a training needs to know."""

    source: Path  # folder of MIDI files and recordings
    work: Path
    config: ModelConfig
    device: torch.device
    pairs: Sequence[Pair] = ()
    unused: Sequence[Unused] = ()
    start_from: str | None = None  # a model's name or directory
    soundfont: Path | None = None  # None: nothing is synthesised
    hours: float = 20.0  # of music to synthesise
    note_hours: float = ALL_HOURS
    pieces: int = PIECES_PER_SHARD
    measures_lines: bool = True  # whether the vocoder learns the soundfont's partials
    curves: CurveOptions = field(default_factory=CurveOptions)
    diffusion: TrainingOptions = field(default_factory=TrainingOptions)
    vocoder: VocoderOptions = field(default_factory=VocoderOptions)
    band: BandOptions | None = field(default_factory=BandOptions)  # None: not trained
    measured_files: int = 20  # of each kind, with which the new model is measured for its card
    measures_instruments: bool = True  # whether it is compared on single instruments, too
    seed: int = 0
    workers: int = 2

    @property
    def learns_notes(self) -> bool:
        """Whether the draft's curves are learned from single notes of the soundfont."""
        return self.config.draft == "curves" and self.soundfont is not None

    def make_data(self, say: Callable[[str], None]) -> None:
        """The stage `data`."""
        vocabulary = Vocabulary(self.config.velocity_bins, self.config.programs)
        if self.pairs or self.unused:
            store_recordings(
                self.pairs, self.unused, self.work, vocabulary, workers=self.workers, say=say
            )
        if self.soundfont is not None:
            make_data(
                self.source,
                self.work,
                self.config,
                self.hours,
                seed=self.seed,
                workers=self.workers,
                soundfont=self.soundfont,
                pieces=self.pieces,
                say=say,
            )

    def learn_notes(self, say: Callable[[str], None]) -> None:
        """The stage `notes`."""
        if not self.learns_notes:
            say("nothing to do: there is no soundfont, or the network has no curves of notes")
            return
        train_curves(
            self.work,
            self.config,
            self.curves,
            self.device,
            self.note_hours,
            start_from=self.start_from,
            workers=self.workers,
            soundfont=self.soundfont,
            say=say,
        )

    def train_transformer(self, say: Callable[[str], None]) -> None:
        """The stage `diffusion`."""
        train_diffusion(
            self.work, self.config, self.diffusion, self.device, self.start_from, say=say
        )

    def train_vocoder(self, say: Callable[[str], None]) -> None:
        """The stage `vocoder`."""
        train_model_vocoder(
            self.work,
            self.config,
            self.vocoder,
            self.device,
            self.start_from,
            soundfont=self.soundfont if self.measures_lines else None,
            workers=self.workers,
            say=say,
        )

    def train_band(self, say: Callable[[str], None]) -> None:
        """The stage `band`."""
        if self.soundfont is None or self.band is None:
            say("nothing to do: the band of the model to start from is kept, if it has one")
            return
        train_model_band(
            self.source,
            self.work,
            self.config,
            self.band,
            self.device,
            self.hours,
            self.start_from,
            workers=self.workers,
            soundfont=self.soundfont,
            pieces=self.pieces,
            say=say,
        )


def in_minutes(job: Job, minutes: float, say: Callable[[str], None]) -> Job:
    """Fit a job into a time: its data, and how long each stage trains. Says what it has chosen."""
    seconds, cores = 60 * minutes - FIXED_SECONDS, job.workers
    size = job.diffusion.batch_size
    starts = job.start_from is not None
    trains_vocoder = minutes >= LONG or not starts
    shares = _shares(job, trains_vocoder)
    lines = job.soundfont is not None and minutes >= SHORT
    if not lines and not trains_vocoder:
        shares["vocoder"] = 0.0
    vocoder = max(0.0, shares["vocoder"] * seconds - (LINES_SECONDS / cores if lines else 0))
    chosen = replace(
        job,
        hours=min(MOST_HOURS, max(0.05, shares["music"] * seconds * cores * MUSIC_SPEED / 3600)),
        note_hours=min(
            ALL_HOURS, max(0.5, shares["played"] * seconds * cores * NOTES_SPEED / 3600)
        ),
        pieces=FEW_PIECES if minutes < LONG else PIECES_PER_SHARD,
        measures_lines=lines,
        curves=replace(job.curves, seconds=shares["notes"] * seconds),
        diffusion=replace(
            job.diffusion,
            seconds=shares["diffusion"] * seconds,
            batch_size=min(size, SMALL_BATCH) if minutes < LONG else size,
            vector_factor=FAST_VECTORS if minutes < LONG else VECTOR_FACTOR,
            log_every=20,
        ),
        vocoder=replace(job.vocoder, seconds=vocoder)
        if trains_vocoder
        else replace(job.vocoder, steps=0),
        band=None,
        measured_files=max(1, min(job.measured_files, round(minutes / MINUTES_PER_FILE))),
        measures_instruments=minutes >= LEAST_FOR_INSTRUMENTS,
    )
    names = {"notes": "curves of notes", "diffusion": "Transformer", "vocoder": "vocoder"}
    times = [f"{name} {clock(shares[key] * seconds)}" for key, name in names.items() if shares[key]]
    say(f"plan for {minutes:g} minutes on {cores} cores: training of " + ", ".join(times))
    if job.soundfont is not None:
        notes = f" and {chosen.note_hours:.1f} h of single notes" if job.learns_notes else ""
        say(f"data: {chosen.hours:.1f} h of music{notes} by {job.soundfont.name}")
    return chosen


def _shares(job: Job, trains_vocoder: bool) -> dict[str, float]:
    """The share of the time for each part; what is left is for loading, checks and the export."""
    if job.soundfont is None:
        return {
            **{"music": 0.0, "played": 0.0, "notes": 0.0},
            **{"diffusion": 0.6 if trains_vocoder else 0.75, "vocoder": 0.15 * trains_vocoder},
        }
    if job.pairs and job.learns_notes and not trains_vocoder:  # the Transformer learns from both
        return {"music": 0.08, "played": 0.1, "notes": 0.22, "diffusion": 0.4, "vocoder": 0.1}
    if not job.learns_notes:
        return {"music": 0.2, "played": 0.0, "notes": 0.0, "diffusion": 0.5, "vocoder": 0.2}
    if job.start_from is not None and not trains_vocoder:
        return {"music": 0.1, "played": 0.22, "notes": 0.42, "diffusion": 0.07, "vocoder": 0.1}
    return {"music": 0.12, "played": 0.13, "notes": 0.35, "diffusion": 0.2, "vocoder": 0.15}


def run_stages(
    stages: Sequence[tuple[str, Callable[[Callable[[str], None]], None]]],
    say: Callable[[str], None],
) -> list[tuple[str, float]]:
    """Run stages one after another: the name and the seconds of each.

    Each is a name and a function that takes what its messages are passed to.
    """
    took = []
    for number, (name, run) in enumerate(stages, start=1):
        say(f"stage {number} of {len(stages)}: {name}")
        begun = time.monotonic()
        run(lambda line: say(f"  {line}"))
        took.append((name, time.monotonic() - begun))
    return took
