"""One piece of music: the model's sound against the true one."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from spectro_render.evaluation import distances, faults
from spectro_render.evaluation.drums import drum_f1
from spectro_render.evaluation.frechet import (
    Embedding,
    frechet_distance,
    reconstruction_distance,
)
from spectro_render.evaluation.scores import Score as Measured
from spectro_render.evaluation.scores import Scores
from spectro_render.evaluation.subject import Reference, Rendering, Samples, Subject, heard_seconds
from spectro_render.evaluation.transcription import note_f1, played_notes
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score, section

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Piece:
    """What was measured of a file, and its sounds."""

    seconds: float
    scores: Scores
    sounds: dict[str, Samples]  # by what they are: model, reference, vocoder


@dataclass
class Listener:
    """Measures files one after the other and remembers the embeddings of all of them."""

    subject: Subject
    reference: Reference
    parts: Collection[str]  # of files, vocoder, frechet
    embedding: Embedding
    limit: float  # seconds of each file
    _embedded: list[Matrix] = field(default_factory=list, init=False)
    _true: list[Matrix] = field(default_factory=list, init=False)

    def measure(self, path: Path, name: Path) -> Piece:
        """Measure a file; its reference goes by `name`. Raises SpectroRenderError."""
        score = section(read_midi(path), 0.0, self.limit)
        seconds = heard_seconds(score, self.limit)
        true = self.reference.sound(name, score, seconds)
        scores: Scores = {}
        sounds = {"reference": true}
        if {"files", "vocoder"} & set(self.parts):
            scores["note_f1_reference"] = Measured.of(note_f1(true, played_notes(score.notes)))
        if {"files", "frechet"} & set(self.parts):
            made = self.subject.render(score, seconds)
            sounds["model"] = made.samples
        if "files" in self.parts:
            scores |= compare(made, true, score)
            scores["times_real_time"] = Measured(seconds, made.took)
        if "frechet" in self.parts:
            scores["reconstruction"] = self._embed(made.samples, true)
        if "vocoder" in self.parts:
            sounds["vocoder"] = self.subject.vocode(
                torch.from_numpy(distances.mel_of(true)).float()
            )
            scores |= copy_synthesis(sounds["vocoder"][: len(true)], true, score)
        return Piece(seconds, scores, sounds)

    def _embed(self, samples: Samples, true: Samples) -> Measured:
        one, other = self.embedding.embed(samples), self.embedding.embed(true)
        self._embedded.append(one)
        self._true.append(other)
        return Measured.of(reconstruction_distance(one, other))

    def frechet(self) -> float | None:
        """The Frechet distance of all files so far; None where there is too little."""
        if sum(map(len, self._embedded)) < 2:
            return None
        return frechet_distance(np.concatenate(self._embedded), np.concatenate(self._true))


def compare(made: Rendering, true: Samples, score: Score) -> Scores:
    """Everything that is measured of a rendering against the true sound, of the same length."""
    sound = made.samples
    mel, true_mel = distances.mel_of(sound), distances.mel_of(true)
    measured = {
        "note_f1": note_f1(sound, played_notes(score.notes)),
        "mel_l1": distances.mel_distance(made.mel, true_mel),
        "mel_l1_sound": distances.mel_distance(mel, true_mel),
        "stft_distance": distances.stft_distance(sound, true),
        "chroma": distances.chroma_similarity(sound, true),
        "loudness": distances.loudness_correlation(sound, true),
        "louder_db": distances.loudness_difference(sound, true),
        "clipped": float(faults.clipped_samples(made.delivered)),
        "silent": faults.silent_share(sound),
        "silent_reference": faults.silent_share(true),
        "offset": abs(faults.offset(sound)),
    }
    return {name: Measured.of(value) for name, value in measured.items()} | {
        "drum_f1": drum_f1(mel, score.notes),
        "drum_f1_reference": drum_f1(true_mel, score.notes),
        "seam": faults.seams(mel),
        "seam_reference": faults.seams(true_mel),
    }


def copy_synthesis(copy: Samples, true: Samples, score: Score) -> Scores:
    """How good the vocoder alone is: it made `copy` from the true sound's mel."""
    return {
        "vocoder_note_f1": Measured.of(note_f1(copy, played_notes(score.notes))),
        "vocoder_stft_distance": Measured.of(distances.stft_distance(copy, true)),
    }
