"""Training on recordings: finding, checking, aligning them; data sets; what is found early."""

import csv
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import mido
import numpy as np
import pytest
import soundfile
import torch

from spectro_render.audio.limiter import DEFAULT_GAIN
from spectro_render.cli.app import run
from spectro_render.errors import MidiError, OptionError, OutputError, SpectroRenderError
from spectro_render.midi.score import Note
from spectro_render.network.curves import DRUM_KIT, NoteCurves
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.training import preflight
from spectro_render.training.alignment import find_offset
from spectro_render.training.compose import score_of
from spectro_render.training.curves import CurveOptions, CurveTrainer
from spectro_render.training.data import Windows
from spectro_render.training.job import Job, in_minutes
from spectro_render.training.layouts import find_pairs
from spectro_render.training.preflight import check_job
from spectro_render.training.progress import Countdown, clock
from spectro_render.training.recordings import (
    Unusable,
    align,
    check_sound,
    cut_windows,
    load_pair,
    recording_tensors,
    store_recordings,
)
from spectro_render.training.run import RunOptions, TrainingRun
from spectro_render.training.soundfont import RecordingMap
from tests.support.processes import run_program, start_program, wait_until
from tests.support.toys import toy_config

CPU = torch.device("cpu")
SECONDS = 24.0
VOCABULARY = Vocabulary(32, "full")


def some_notes(seed: int = 0, seconds: float = SECONDS) -> list[Note]:
    """A melody in irregular rhythm."""
    rng, now, notes = Random(seed), 0.3, []
    while now < seconds - 1:
        length = rng.choice([0.2, 0.3, 0.45, 0.7])
        notes.append(Note(now, now + 0.9 * length, rng.randint(50, 80), 90, 0, False))
        now += length
    return notes


def played(notes: list[Note], rate: int = 16_000, seconds: float = SECONDS) -> np.ndarray:
    """Decaying tones, (S,)."""
    sound = np.zeros(round(seconds * rate))
    for note in notes:
        first = round(note.start * rate)
        time = np.arange(min(rate // 2, len(sound) - first)) / rate
        hertz = 440 * 2 ** ((note.pitch - 69) / 12)
        sound[first : first + len(time)] += (
            0.2 * np.sin(2 * np.pi * hertz * time) * np.exp(-8 * time)
        )
    return sound


def write_midi(path: Path, notes: list[Note]) -> None:
    track, now = mido.MidiTrack(), 0
    track.append(mido.MetaMessage("set_tempo", tempo=1_000_000))
    events = [(round(1000 * n.start), "note_on", n) for n in notes]
    events += [(round(1000 * n.end), "note_off", n) for n in notes]
    for tick, kind, note in sorted(events, key=lambda event: event[:2]):
        track.append(mido.Message(kind, note=note.pitch, velocity=note.velocity, time=tick - now))
        now = tick
    file = mido.MidiFile(type=0, ticks_per_beat=1000)
    file.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)


def write_pair(
    folder: Path, name: str, seed: int = 0, late: float = 0.0, suffix: str = ".wav"
) -> None:
    notes = some_notes(seed)
    write_midi(folder / f"{name}.mid", notes)
    moved = [replace(note, start=note.start + late) for note in notes]
    soundfile.write(folder / f"{name}{suffix}", played(moved, 22_050), 22_050)


class TestAlignment:
    @pytest.mark.parametrize("late", [-0.2, 0.0, 0.013, 0.5, 1.9])
    def test_offsets_are_found(self, late: float) -> None:
        notes = some_notes()
        sound = played([replace(n, start=max(0, n.start + late)) for n in notes])
        found = find_offset(torch.from_numpy(sound).float(), notes)
        assert found.seconds == pytest.approx(late, abs=0.012)
        assert found.match > 0.5
        assert abs(found.drift) < 0.02

    def test_other_music_does_not_fit(self) -> None:
        found = find_offset(torch.from_numpy(played(some_notes(1))).float(), some_notes(2))
        fits = find_offset(torch.from_numpy(played(some_notes(2))).float(), some_notes(2))
        assert found.match < 0.6 * fits.match

    @pytest.mark.parametrize("late", [0.0, 0.5, 1.25])
    def test_music_in_a_steady_beat_is_found_by_its_pitches(self, late: float) -> None:
        """Its onsets fit as well a beat earlier or later, and its halves fit anywhere."""
        rng = Random(1)
        pitches = [rng.randint(50, 80) for _ in range(200)]
        notes = [
            Note(0.25 * k + 2, 0.25 * k + 2.2, pitch, 90, 0, False)
            for k, pitch in enumerate(pitches)
        ]
        moved = [replace(note, start=note.start + late) for note in notes]
        sound = torch.from_numpy(played(moved, seconds=56.0)).float()
        found = find_offset(sound, notes)
        assert found.seconds == pytest.approx(late, abs=0.012)
        assert found.drift == 0

    def test_notes_are_moved_to_the_sound(self) -> None:
        notes = some_notes()
        sound = played([replace(n, start=n.start + 1.0) for n in notes], seconds=SECONDS + 1)
        score, moved = align(torch.from_numpy(sound).float(), score_of(notes))
        assert moved == pytest.approx(1.0, abs=0.012)
        assert score.notes[0].start == pytest.approx(notes[0].start + moved)

    @pytest.mark.parametrize(
        ("late", "tempo", "seconds", "reason"),
        [
            (2.6, 1.0, SECONDS + 3, "2.6 s behind its notes, more than 2 s"),
            (0.0, 1.015, SECONDS + 1, "drift by 0.2"),
            (0.0, 1.0, SECONDS / 2, "lengths differ: 12 s of sound"),
            (0.0, 1.0, SECONDS + 40, "lengths differ: 64 s of sound"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, late: float, tempo: float, seconds: float, reason: str
    ) -> None:
        notes = some_notes()
        moved = [replace(n, start=tempo * n.start + late) for n in notes]
        kept = [note for note in moved if note.start < seconds]
        sound = torch.from_numpy(played(kept, seconds=seconds)).float()
        with pytest.raises(Unusable, match=reason):
            align(sound, score_of(notes))


class TestSound:
    def test_silent_and_clipped_sound_is_refused(self) -> None:
        sound = torch.from_numpy(played(some_notes())).float()[:, None]
        check_sound(sound)
        with pytest.raises(Unusable, match="silent"):
            check_sound(1e-4 * sound)
        with pytest.raises(Unusable, match=r"clipped \(\d+\.\d % of its samples"):
            check_sound((20 * sound).clamp(-1, 1))

    @pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
    def test_formats_keep_their_level(self, tmp_path: Path, suffix: str) -> None:
        write_pair(tmp_path, "a", suffix=suffix)
        (pair,), _ = find_pairs(tmp_path)
        samples, score, moved = load_pair(pair)
        expected = played(some_notes()) * 10 ** (-DEFAULT_GAIN / 20)
        assert len(score.notes) == len(some_notes()) and abs(moved) < 0.05
        assert float(samples.std()) == pytest.approx(float(expected.std()), rel=0.05)

    def test_windows_are_cut_with_their_notes(self) -> None:
        sound = torch.from_numpy(played(some_notes())).float()
        tensors = recording_tensors(sound, score_of(some_notes()), VOCABULARY)
        assert len(tensors["mel"]) == 5
        parts = [cut_windows(tensors, *edges) for edges in ((0, 2), (2, 5))]
        for name, whole in tensors.items():
            assert torch.equal(torch.cat([part[name] for part in parts]), whole), name


class TestFolders:
    def test_each_recording_is_used_or_listed_with_its_reason(self, tmp_path: Path) -> None:
        source, work, lines = tmp_path / "in", tmp_path / "work", []
        for number, name in enumerate(("a", "b", "sub/c")):
            write_pair(source, name, number, late=0.4 if name == "b" else 0.0)
        soundfile.write(source / "lonely.flac", played(some_notes()), 16_000)
        write_midi(source / "wrong.mid", some_notes(8))
        (source / "wrong.wav").write_bytes(b"RIFF, but no sound")
        write_midi(source / "silent.mid", some_notes(9))
        soundfile.write(source / "silent.wav", np.zeros(100_000), 16_000)
        write_midi(source / "only.mid", some_notes(9))
        pairs, unused = find_pairs(source)
        outcomes = store_recordings(pairs, unused, work, VOCABULARY, say=lines.append)
        assert [o.name for o in outcomes if o.problem is None] == ["a.wav", "b.wav", "sub/c.wav"]
        assert "not used: lonely.flac: there is no MIDI file lonely.mid beside it" in lines
        assert "not used: silent.wav: it is silent" in lines
        assert any(line.startswith("not used: wrong.wav: it cannot be read") for line in lines)
        assert any(line.startswith("b.wav: its notes were moved by +0.4") for line in lines)
        train, valid = Windows(work / "train"), Windows(work / "valid")
        assert len(train) == 2 * len(valid) == 10

        # What has been read is not read again, and what was cut off is.
        log = work / "recordings.jsonl"
        rows = log.read_text().splitlines()
        assert len(rows) == 5
        log.write_text("\n".join(rows[:2]) + "\n" + rows[2][:20])
        again = store_recordings(pairs, unused, work, VOCABULARY, say=lambda line: None)
        assert {o.name: o.problem for o in again} == {o.name: o.problem for o in outcomes}

    def test_the_end_of_a_single_recording_is_held_out(self, tmp_path: Path) -> None:
        write_pair(tmp_path / "in", "a")
        pairs, unused = find_pairs(tmp_path / "in")
        store_recordings(pairs, unused, tmp_path, VOCABULARY, say=lambda line: None)
        train, valid = Windows(tmp_path / "train"), Windows(tmp_path / "valid")
        assert (len(train), len(valid)) == (4, 1)

    def test_a_folder_without_anything_usable_is_refused(self, tmp_path: Path) -> None:
        write_midi(tmp_path / "in" / "a.mid", some_notes())
        soundfile.write(tmp_path / "in" / "a.wav", np.zeros(100_000), 16_000)
        pairs, unused = find_pairs(tmp_path / "in")
        with pytest.raises(SpectroRenderError, match="none of 1 recordings can be used"):
            store_recordings(pairs, unused, tmp_path, VOCABULARY, say=lambda line: None)


class TestLayouts:
    def test_maestro(self, tmp_path: Path) -> None:
        write_pair(tmp_path / "2004", "one")
        write_pair(tmp_path / "2004", "two", 1)
        rows = [
            ("Bach, J. S.", "Fugue", "train", "2004", "2004/one.mid", "2004/one.wav", "24"),
            ("Chopin", "Etude", "test", "2004", "2004/two.mid", "2004/two.wav", "24"),
            ("Liszt", "Lost", "train", "2004", "2004/no.mid", "2004/no.wav", "24"),
        ]
        with (tmp_path / "maestro-v3.0.0.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            names = "canonical_composer,canonical_title,split,year,midi_filename,audio_filename"
            writer.writerow([*names.split(","), "duration"])
            writer.writerows(rows)
        pairs, unused = find_pairs(tmp_path)
        assert [(p.name, p.held_out) for p in pairs] == [
            ("2004/one.wav", False),
            ("2004/two.wav", True),
        ]
        assert [(u.name, u.reason) for u in unused] == [("2004/no.wav", "no.wav is missing")]
        assert len(pairs[0].score().notes) == len(some_notes())

    def test_slakh(self, tmp_path: Path) -> None:
        track = tmp_path / "validation" / "Track00001"
        parts = [some_notes(0), some_notes(1), some_notes(2)]
        for number, notes in enumerate(parts):
            write_midi(track / "MIDI" / f"S0{number}.mid", notes)
        (track / "stems").mkdir()
        for number in (0, 2):  # the second stem was not rendered
            (track / "stems" / f"S0{number}.flac").touch()
        soundfile.write(track / "mix.flac", played(parts[0] + parts[2]), 16_000)
        (tmp_path / "train" / "Track00002").mkdir(parents=True)
        pairs, unused = find_pairs(tmp_path)
        assert [(p.name, p.held_out) for p in pairs] == [("validation/Track00001", True)]
        assert len(pairs[0].score().notes) == len(parts[0] + parts[2])
        assert [u.reason for u in unused] == ["there is no mix.flac in it"]

    def test_musicnet(self, tmp_path: Path) -> None:
        notes = some_notes()
        for part, name in (("train", "1727"), ("test", "1759")):
            for kind in ("data", "labels"):
                (tmp_path / f"{part}_{kind}").mkdir()
            soundfile.write(
                tmp_path / f"{part}_data" / f"{name}.wav", played(notes, 44_100), 44_100
            )
            with (tmp_path / f"{part}_labels" / f"{name}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(
                    "start_time,end_time,instrument,note,start_beat,end_beat,note_value".split(",")
                )
                for n in notes:
                    times = [round(44_100 * n.start), round(44_100 * n.end)]
                    writer.writerow([*times, 43, n.pitch, 0, 1, "Quarter"])
        pairs, _ = find_pairs(tmp_path)
        assert [p.held_out for p in pairs] == [False, True]
        _, score, _ = load_pair(pairs[0])
        assert {note.program for note in score.notes} == {42}  # the cello
        assert [note.pitch for note in score.notes] == [note.pitch for note in notes]

    @pytest.mark.parametrize("is_old", [False, True])
    def test_guitarset(self, tmp_path: Path, is_old: bool) -> None:
        notes = some_notes()
        rows = [
            {
                "time": n.start,
                "duration": n.end - n.start,
                "value": n.pitch + 0.2,
                "confidence": None,
            }
            for n in notes
        ]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        annotations = [
            {"namespace": "note_midi", "data": columns if is_old else rows},
            {"namespace": "tempo", "data": [{"time": 0, "duration": 1, "value": 120}]},
        ]
        (tmp_path / "annotation").mkdir()
        (tmp_path / "annotation" / "00_BN1_comp.jams").write_text(
            json.dumps({"annotations": annotations})
        )
        (tmp_path / "annotation" / "01_BN1_comp.jams").write_text("{}")
        (tmp_path / "audio_mono-mic").mkdir()
        for player in ("00", "01"):
            sound = tmp_path / "audio_mono-mic" / f"{player}_BN1_comp_mic.wav"
            soundfile.write(sound, played(notes), 16_000)
        pairs, _ = find_pairs(tmp_path)
        assert [note.pitch for note in pairs[0].score().notes] == [note.pitch for note in notes]
        with pytest.raises(MidiError, match=r"01_BN1_comp\.jams cannot be read"):
            pairs[1].score()


class TestBefore:
    """What is missing is found before the first minute."""

    def job(self, folder: Path, **changes: object) -> Job:
        pairs, unused = find_pairs(folder / "in")
        config = toy_config()
        job = Job(folder / "in", folder / "work", config, CPU, pairs, unused)
        return replace(job, **changes)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for number in range(5):
            write_pair(tmp_path / "in", f"{number}", number)
        return tmp_path

    def test_a_job_that_can_run(self, folder: Path) -> None:
        check_job(self.job(folder), folder / "out")
        assert not (folder / "work").exists()

    def test_places(self, folder: Path) -> None:
        (folder / "file").touch()
        with pytest.raises(OutputError, match="file is a file"):
            check_job(self.job(folder), folder / "file")
        with pytest.raises(OutputError, match="has files that are no model"):
            check_job(self.job(folder), folder / "in")

    def test_too_few_recordings(self, folder: Path) -> None:
        job = self.job(folder)
        few = replace(job, pairs=job.pairs[:1])
        with pytest.raises(
            SpectroRenderError, match="24 s of recordings are too few: a step needs 92 s"
        ):
            check_job(few, folder / "out")
        (folder / "in" / "0.mid").unlink()
        _, unused = find_pairs(folder / "in")
        with pytest.raises(
            SpectroRenderError, match=r"no recording .* can be used \(0\.wav: there is"
        ):
            check_job(replace(job, pairs=(), unused=unused), folder / "out")

    def test_another_vocabulary(self, folder: Path) -> None:
        job = self.job(folder, start_from="default", config=toy_config(velocity_bins=1))
        with pytest.raises(OptionError, match="default has another vocabulary"):
            check_job(job, folder / "out")

    def test_room(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(preflight, "MUSIC_BYTES", 1e18)
        with pytest.raises(SpectroRenderError, match=r"the data need .* GB, but .* left"):
            check_job(self.job(folder), folder / "out")
        monkeypatch.setattr(preflight, "MUSIC_BYTES", 1.0)
        monkeypatch.setattr(preflight, "BASE_MEMORY", 1e18)
        with pytest.raises(SpectroRenderError, match=r"of memory, but .* are free"):
            check_job(self.job(folder), folder / "out")

    def test_the_command_names_a_missing_soundfont(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        where = ["--work", str(folder / "work"), "--soundfont", str(folder / "none.sf2")]
        assert run(["train", str(folder / "in"), str(folder / "out"), *where]) != 0
        assert "none.sf2" in capsys.readouterr().err
        assert not (folder / "work").exists()

    def test_minutes_are_divided(self, folder: Path) -> None:
        lines: list[str] = []
        job = in_minutes(self.job(folder, start_from="default"), 10, lines.append)
        assert job.diffusion.seconds == 0.75 * 580 and job.vocoder.steps == 0
        assert lines == ["plan for 10 minutes on 2 cores: training of Transformer 7:15"]
        longer = in_minutes(self.job(folder, start_from="default"), 60, lines.append)
        assert longer.vocoder.seconds == 0.15 * 3580
        assert job.diffusion.batch_size < longer.diffusion.batch_size
        assert job.diffusion.vector_factor > longer.diffusion.vector_factor
        assert (job.measured_files, longer.measured_files) == (5, 20)
        assert in_minutes(self.job(folder), 1, lines.append).measured_files == 1


class Line(TrainingRun[torch.nn.Linear]):
    """A training of one weight, whose steps take a known time."""

    def __init__(self, folder: Path, say: Callable[[str], None], **options: float) -> None:
        chosen = RunOptions(**{"log_every": 5, "check_every": 10, **options})
        super().__init__(lambda: torch.nn.Linear(1, 1), chosen, folder, CPU, say)

    def update(self) -> dict[str, float]:
        time.sleep(0.01)
        self.end_step()
        return {"loss": 1 / self.step}


class TestRuns:
    def test_steps_follow_from_the_time(self, tmp_path: Path) -> None:
        lines: list[str] = []
        training = Line(tmp_path, lines.append, seconds=0.4, steps=10_000)
        training.run(training.update, lambda: None)
        assert 6 < training.step <= 40
        assert any(line.endswith(" left") for line in lines)
        again = Line(tmp_path, lines.append, seconds=0.4, steps=10_000)
        again.resume()
        again.run(again.update, lambda: None)  # nothing is left to do
        assert again.step == training.step

    def test_a_log_goes_on_where_the_checkpoint_was(self, tmp_path: Path) -> None:
        training = Line(tmp_path, lambda line: None, steps=20)
        training.run(training.update, lambda: None)
        log = tmp_path / "log.jsonl"
        log.write_text(log.read_text() + '{"step": 25, "loss": 1}\n{"step": 3')
        again = Line(tmp_path, lambda line: None, steps=30)
        again.resume()
        again.run(again.update, lambda: None)
        steps = [json.loads(row)["step"] for row in log.read_text().splitlines()]
        assert steps == [5, 10, 15, 20, 25, 30]

    def test_time_that_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert (clock(5), clock(125), clock(7265)) == ("0:05", "2:05", "2:01:05")
        lines: list[str] = []
        countdown = Countdown("parts", 3, lines.append)
        for _ in range(3):
            countdown.count()
        assert lines[0] == "parts: 1 of 3, 0:00 left" and lines[-1] == "parts: 3 of 3"


class TestOtherSoundfont:
    def recordings(self, frames: list[float], keys: int) -> RecordingMap:
        """Recordings for as many keys each, at twice the speed on the upper half of these."""
        number = (torch.arange(128) // keys).clamp(max=len(frames) - 1).float()
        table = number[None, :, None].expand(DRUM_KIT + 1, 128, 33).clone()
        ratio = torch.where(torch.arange(128) % keys < keys // 2, 1.0, 2.0)
        ratio = ratio[None, :, None].expand_as(table).clone()
        nothing = torch.zeros(len(frames))
        return RecordingMap(table, ratio, torch.tensor(frames), nothing, nothing)

    def test_curves_begin_with_the_recordings_of_the_same_keys(self, tmp_path: Path) -> None:
        shape = {"draft": "curves", "curve_width": 8, "curve_hidden": 16, "latent_width": 4}
        config = toy_config(**shape, recordings=2, recorded_frames=60)
        old = CurveTrainer(config, self.recordings([30.0, 30.0], 64), CurveOptions(), tmp_path, CPU)
        config = replace(config, recordings=4, recorded_frames=80)
        new = CurveTrainer(config, self.recordings([20.0] * 4, 32), CurveOptions(), tmp_path, CPU)
        new.start_from(old.model)
        assert torch.equal(new.model.program.weight, old.model.program.weight)
        # The third of the new recordings is played by keys 64 to 95. Key 80 plays it at double
        # speed, and the second of the old ones at normal speed: two frames of it last one of that.
        own, other = new.model.latent.weight[40:60], old.model.latent.weight[30:]
        assert torch.allclose(own[1], other[1], atol=1e-5)
        assert torch.allclose(own[3], other[2], atol=1e-5)
        assert isinstance(new.averaged(), NoteCurves)

        wrong = toy_config(**{**shape, "curve_width": 4}, recordings=2, recorded_frames=60)
        third = CurveTrainer(
            wrong, self.recordings([30.0, 30.0], 64), CurveOptions(), tmp_path, CPU
        )
        with pytest.raises(OptionError, match="another network"):
            third.start_from(old.model)


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    """SIGKILL, several times, at moments of different stages."""
    for number in range(5):
        write_pair(tmp_path / "in", f"{number}", number)
    command = [sys.executable, "-m", "spectro_render", "train", "in", "out", "--work", "work"]
    command += ["--steps", "6", "--vocoder-steps", "3", "--batch-size", "4", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for moment in ("work/recordings.jsonl", "work/diffusion", "work/vocoder"):
        with (tmp_path / "log").open("a") as log:
            files = {"stdout": log, "stderr": log}
            with start_program(command, cwd=tmp_path, env=environment, **files) as program:
                wait_until((tmp_path / moment).exists, program)
                os.killpg(program.pid, signal.SIGKILL)
                assert program.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert not (tmp_path / "out").exists()
    run_program(command, cwd=tmp_path, check=True, env=environment)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "Recordings: 5 with 0.03 hours" in card and "Started from: default" in card
    assert run(["models", "verify", str(tmp_path / "out")]) == 0
    song = tmp_path / "song.wav"
    assert (
        run([str(tmp_path / "in" / "0.mid"), "--model", str(tmp_path / "out"), "-o", str(song)])
        == 0
    )
    assert soundfile.info(song).duration > 20
    assert not [*tmp_path.rglob(".spectro-render-*")]
