"""Compares a model's sound of MIDI files with reference sounds."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spectro_render.evaluation import distances, faults
from spectro_render.evaluation.arrays import Matrix, Samples
from spectro_render.evaluation.band import band_distance
from spectro_render.evaluation.drums import drum_f1
from spectro_render.evaluation.frechet import (
    Embedding,
    frechet_distance,
    reconstruction_distance,
)
from spectro_render.evaluation.measures import Measure, Measures
from spectro_render.evaluation.onsets import onsets_at_borders
from spectro_render.evaluation.sources import ModelOutput, Reference, Subject
from spectro_render.evaluation.transcription import note_f1, played_notes
from spectro_render.midi.length import sounding_seconds
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score, section


@dataclass(frozen=True, eq=False)
class FileResult:
    """The measures of a file, and the sounds that were compared."""

    seconds: float  # of music that was compared
    measures: Measures
    sounds: dict[str, Samples]  # under "model", "reference" and "vocoder"


@dataclass
class FileEvaluator:
    """Measures files one by one, and keeps the embeddings of all of them for `frechet`."""

    subject: Subject
    reference: Reference
    parts: Collection[str]  # of "files", "vocoder", "band", "frechet": what to measure
    embedding: Embedding
    limit: float  # seconds of each file
    _embedded: list[Matrix] = field(default_factory=list, init=False)
    _embedded_references: list[Matrix] = field(default_factory=list, init=False)

    def measure(self, path: Path, name: Path) -> FileResult:
        """Measure a MIDI file; `name` is its path below the evaluated folder.

        Raises SpectroRenderError if the file or its reference cannot be read.
        """
        score = section(read_midi(path), 0.0, self.limit)
        seconds = sounding_seconds(score, self.limit)
        true = self.reference.sound(name, score, seconds)
        measures: Measures = {}
        sounds = {"reference": true}
        if {"files", "vocoder"} & set(self.parts):
            measures["note_f1_reference"] = Measure.of(note_f1(true, played_notes(score.notes)))
        if {"files", "band", "frechet"} & set(self.parts):
            output = self.subject.render(score, seconds)
            sounds["model"] = output.samples
        if "files" in self.parts:
            measures |= compare(output, true, score)
            measures["times_real_time"] = Measure(seconds, output.took)
        if "band" in self.parts:
            full_true = self.reference.full_sound(name, score, seconds)
            full = self.subject.add_band(output.mel, output.samples, score)
            measures["band_distance"] = Measure.of(band_distance(full, full_true))
        if "frechet" in self.parts:
            embedded, reference = map(self.embedding.embed, (output.samples, true))
            self._embedded.append(embedded)
            self._embedded_references.append(reference)
            distance = reconstruction_distance(embedded, reference)
            measures["reconstruction"] = Measure.of(distance)
        if "vocoder" in self.parts:
            sounds["vocoder"] = self.subject.vocode(distances.mel_of(true), score)
            measures |= compare_copy(sounds["vocoder"][: len(true)], true, score)
        return FileResult(seconds, measures, sounds)

    def frechet(self) -> float | None:
        """The Frechet distance over all files so far; None for fewer than two embeddings."""
        if sum(map(len, self._embedded)) < 2:
            return None
        references = np.concatenate(self._embedded_references)
        return frechet_distance(np.concatenate(self._embedded), references)


def compare(output: ModelOutput, true: Samples, score: Score) -> Measures:
    """Compare a model's output with the true sound (S,) of the same length."""
    sound = output.samples
    mel, true_mel = distances.mel_of(sound), distances.mel_of(true)
    values = {
        "note_f1": note_f1(sound, played_notes(score.notes)),
        "mel_l1": distances.mel_distance(output.mel, true_mel),
        "mel_l1_sound": distances.mel_distance(mel, true_mel),
        "stft_distance": distances.stft_distance(sound, true),
        "chroma": distances.chroma_similarity(sound, true),
        "loudness": distances.loudness_correlation(sound, true),
        "louder_db": distances.loudness_difference(sound, true),
        "change": distances.change(mel),
        "change_reference": distances.change(true_mel),
        "change_mel": distances.change(output.mel[: len(mel)]),
        "rises": distances.rises(sound),
        "rises_reference": distances.rises(true),
        "clipped": float(faults.clipped_samples(output.delivered)),
        "silent": faults.silent_share(sound),
        "silent_reference": faults.silent_share(true),
        "offset": abs(faults.offset(sound)),
    }
    return {name: Measure.of(value) for name, value in values.items()} | {
        "drum_f1": drum_f1(mel, score.notes),
        "drum_f1_reference": drum_f1(true_mel, score.notes),
        "seam": faults.seams(mel),
        "seam_reference": faults.seams(true_mel),
        **onsets_at_borders(mel, true_mel, score.notes),
    }


def compare_copy(copy: Samples, true: Samples, score: Score) -> Measures:
    """Measure the vocoder alone: it made `copy` (S,) from the mel of the true sound (S,)."""
    return {
        "vocoder_note_f1": Measure.of(note_f1(copy, played_notes(score.notes))),
        "vocoder_stft_distance": Measure.of(distances.stft_distance(copy, true)),
    }
