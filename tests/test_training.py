"""Training: data, optimiser, objective, loop. The synthesiser's tests need FluidSynth."""

import ctypes.util
import io
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import mido
import pytest
import torch
from safetensors.torch import save_file

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.load import save_model
from spectro_render.cli.app import run
from spectro_render.constants import N_MELS, WINDOW_FRAMES, WINDOW_SAMPLES, WINDOW_SECONDS
from spectro_render.diffusion import alpha, learning_target, sigma
from spectro_render.errors import OptionError, SpectroRenderError
from spectro_render.mel import log_mel
from spectro_render.midi.length import TAIL_SECONDS
from spectro_render.midi.score import Note, Score
from spectro_render.network.build import make_model
from spectro_render.network.curves import DRUM_KIT, SILENT, STEPS_PER_FRAME, NoteCurves
from spectro_render.network.frames import note_table
from spectro_render.network.model import SpectrogramModel
from spectro_render.network.presets import autoregressive
from spectro_render.tokens.vocabulary import Vocabulary, WindowNote
from spectro_render.tokens.write import tokenize
from spectro_render.training import compose, notes, synth
from spectro_render.training import objective as objective_module
from spectro_render.training.compose import (
    excerpt,
    made_up,
    meet_borders,
    mix,
    score_of,
    single_notes,
    vary,
)
from spectro_render.training.curves import CurveOptions, CurveTrainer
from spectro_render.training.data import (
    PIECE_WINDOWS,
    CacheSpec,
    Windows,
    _claim,
    check_vocabulary,
    make_piece,
    midi_files,
    piece_tensors,
    recalled,
)
from spectro_render.training.diffusion import (
    DraftCache,
    Trainer,
    TrainingOptions,
    draw_mels,
    optimizers,
    rate_factor,
)
from spectro_render.training.export import export, trained_transformer
from spectro_render.training.muon import Muon, orthogonalise
from spectro_render.training.objective import (
    Denoising,
    drop_conditions,
    frame_weights,
    make_objective,
    stratified_times,
)
from spectro_render.training.soundfont import RecordingMap, read_recordings
from spectro_render.training.stages import train_diffusion, train_model_vocoder, with_recordings
from spectro_render.training.vocoder import VocoderOptions
from spectro_render.vocoder.melgan import MelGAN
from tests.support.toys import toy_config

TINY = toy_config(width=16, head_width=8, level_width=32)
CPU = torch.device("cpu")
CURVES = {"draft": "curves", "curve_width": 8, "curve_hidden": 16, "latent_width": 4}


def write_shard(folder: Path, name: str = "shard-00000", windows: int = 8) -> None:
    """Two pieces of a made-up signal: each window's mel follows from its only note."""
    folder.mkdir(parents=True, exist_ok=True)
    pitches = [60 + 5 * (k % 2) for k in range(windows)]
    mel = torch.full((windows, WINDOW_FRAMES, N_MELS), -9.0)
    for window, pitch in zip(mel, pitches, strict=True):
        window[50:150, pitch - 20 : pitch - 10] = 1.0
    notes = [WindowNote(pitch, 0, 20, False, False, 100, 300) for pitch in pitches]
    tensors = {
        "mel": mel.half(),
        "notes": note_table([notes])[0].short(),
        "counts": torch.ones(windows, dtype=torch.int32),
        "piece": (torch.arange(windows) >= windows // 2).int(),
    }
    save_file(tensors, folder / f"{name}.safetensors")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_shard(tmp_path / "cache")
    return tmp_path / "cache"


class TestMusic:
    def test_made_up_pieces_are_playable_and_differ(self) -> None:
        pieces = [made_up(Random(seed), 20.0) for seed in range(20)]
        for piece in pieces:
            assert piece.notes
            assert all(0 <= n.pitch <= 127 and 1 <= n.velocity <= 127 for n in piece.notes)
            assert all(n.end > n.start >= 0 for n in piece.notes)
            assert [n.start for n in piece.notes] == sorted(n.start for n in piece.notes)
        assert len({piece.notes for piece in pieces}) == len(pieces)
        assert made_up(Random(3), 20.0) == pieces[3]

    def test_made_up_pieces_reach_most_programs(self) -> None:
        pieces = [made_up(Random(seed), 20.0) for seed in range(150)]
        programs = {n.program for piece in pieces for n in piece.notes if not n.is_drum}
        assert len(programs) > 110
        assert any(n.is_drum for piece in pieces for n in piece.notes)

    def test_excerpt_starts_near_zero_and_bounds_stuck_notes(self) -> None:
        score = score_of([Note(k, k + 1000.0, 60, 90, 0, False) for k in range(100)])
        part = excerpt(score, Random(1), 10.0)
        assert 9 <= len(part.notes) <= 11
        assert part.notes[0].start < 1.6
        assert part.duration <= 13

    def test_mixed_pieces_sound_together(self) -> None:
        one, other = made_up(Random(1), 10.0), made_up(Random(2), 20.0)
        both = mix(one, other)
        assert sorted(both.notes, key=hash) == sorted(one.notes + other.notes, key=hash)
        assert both.duration == max(one.duration, other.duration)

    def test_variation_keeps_drums_and_range(self) -> None:
        notes = [Note(k, k + 0.5, 20 * (k % 7), 100, k % 3, False) for k in range(60)]
        drums = [Note(k, k + 0.1, 38, 100, 0, True) for k in range(10)]
        varied = vary(score_of(notes + drums), Random(4))
        assert sum(n.is_drum for n in varied.notes) == 10
        assert {n.pitch for n in varied.notes if n.is_drum} == {38}
        assert all(0 <= n.pitch <= 127 and 1 <= n.velocity <= 127 for n in varied.notes)

    def test_single_notes_are_of_all_sounds(self) -> None:
        scores = [single_notes(Random(seed), 50.0) for seed in range(40)]
        notes = [note for score in scores for note in score.notes]
        assert {note.program for note in notes} == set(range(128))
        assert {note.pitch for note in notes if note.is_drum} == set(compose.ALL_DRUMS)
        assert {note.pitch for note in notes if not note.is_drum} >= set(range(21, 121))
        for score in scores:
            assert 48 < score.duration < 52
            assert all(one.end + 0.09 < other.start for one, other in pairwise(score.notes))

    def test_a_note_begins_at_each_border(self) -> None:
        beats = [Note(0.4 * k, 0.4 * k + 0.3, 60, 90, 0, False) for k in range(150)]
        starts = [note.start for note in meet_borders(score_of(beats), Random(0)).notes]
        assert len(starts) == 150
        distances = [
            min(abs(start - border * WINDOW_SECONDS) for start in starts) for border in range(1, 12)
        ]
        assert max(distances) <= 0.015
        assert max(distances) > 0.005
        steps = [b - a for a, b in pairwise(starts)]
        assert min(steps) > 0.37
        assert max(steps) < 0.43

    def test_a_border_without_a_note_nearby_is_left_alone(self) -> None:
        score = score_of([Note(0.5, 20.0, 60, 90, 0, False), Note(7.0, 8.0, 64, 90, 0, False)])
        assert meet_borders(score, Random(0)) == score


class TestSynthesiser:
    def test_midi_holds_the_notes_in_milliseconds(self) -> None:
        score = score_of(
            [Note(0.5, 1.25, 60, 90, 40, False), Note(1.0, 1.1, 38, 100, 0, True)]
        )  # fmt: skip
        file = mido.MidiFile(file=io.BytesIO(synth.score_to_midi(score)))
        now, events = 0.0, []
        for message in file:
            now += message.time
            if message.type in ("note_on", "note_off"):
                events.append((round(now, 3), message.type, message.channel, message.note))
        assert events == [
            (0.5, "note_on", 0, 60),
            (1.0, "note_on", 9, 38),
            (1.1, "note_off", 9, 38),
            (1.25, "note_off", 0, 60),
        ]
        assert [m.program for m in file if m.type == "program_change"] == [40]

    def test_more_programs_than_channels(self) -> None:
        score = score_of([Note(0.1 * p, 0.1 * p + 1, 60, 90, p, False) for p in range(30)])
        file = mido.MidiFile(file=io.BytesIO(synth.score_to_midi(score)))
        assert 9 not in {m.channel for m in file if m.type == "note_on"}
        assert sum(m.type == "note_on" for m in file) == 30

    def test_a_missing_soundfont_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SPECTRO_RENDER_SOUNDFONT", "/nowhere/none.sf2")
        with pytest.raises(SpectroRenderError, match=r"/nowhere/none\.sf2"):
            synth.find_soundfont()


HAS_FLUIDSYNTH = bool(ctypes.util.find_library("fluidsynth")) and any(
    Path(path).exists() for path in synth.SOUNDFONTS
)


@pytest.mark.skipif(not HAS_FLUIDSYNTH, reason="FluidSynth or its soundfont is not installed")
class TestRenderedData:
    def test_a_note_sounds_when_it_should(self) -> None:
        synthesizer = synth.Synthesizer()
        audio = synthesizer.render_score(score_of([Note(1.0, 2.0, 69, 100, 0, False)]))
        assert audio.shape == (round((2 + TAIL_SECONDS) * 16_000),)
        level = log_mel(torch.from_numpy(audio)).exp().sum(-1)
        assert level[:49].max() < 0.01 * level[51:99].min()
        assert 0.001 < abs(audio).max() < 0.5

    def test_nothing_of_a_piece_is_left_in_the_next(self) -> None:
        organ = score_of([Note(0.0, 9.0, 60, 127, 19, False)])
        synthesizer = synth.Synthesizer()
        cut_off = synthesizer.render(synth.score_to_midi(organ), 1.0)
        assert abs(cut_off[-800:]).max() > 0.01
        silence = synthesizer.render(synth.score_to_midi(Score((), 0.0)), 1.0)
        assert abs(silence).max() < 1e-6

    def test_pieces_become_windows(self) -> None:
        score = made_up(Random(5), (PIECE_WINDOWS - 0.5) * WINDOW_SECONDS)
        tensors = piece_tensors(score, Vocabulary(32, "full"), synth.Synthesizer())
        assert tensors["samples"].shape == (PIECE_WINDOWS, WINDOW_SAMPLES)
        assert tensors["mel"].shape == (PIECE_WINDOWS, WINDOW_FRAMES, N_MELS)
        assert tensors["counts"].sum() == len(tensors["notes"])
        windows = tokenize(score, Vocabulary(32, "full"), seconds=PIECE_WINDOWS * WINDOW_SECONDS)
        ids = tensors["ids"].split(tensors["id_counts"].tolist())
        assert [x.tolist() for x in ids] == [list(w.ids) for w in windows[:PIECE_WINDOWS]]
        whole = log_mel(tensors["samples"].flatten())
        assert torch.allclose(tensors["mel"].flatten(0, 1).float(), whole, atol=0.01)

    def test_single_notes_are_played_and_cut_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = notes._Plan(tmp_path, Vocabulary(32, "full"), 0.05, 0)
        monkeypatch.setattr(notes, "_plan", plan, raising=False)
        monkeypatch.setattr(notes, "_synthesizer", synth.Synthesizer(), raising=False)
        for program in (0, DRUM_KIT):
            assert notes._write_shard(program) == plan.path(program)
        mels, rows = notes.read_notes(tmp_path)
        assert len(mels) == rows[:, 5].sum() and set(rows[:, 0].tolist()) == {0, DRUM_KIT}
        recordings = read_recordings(synth.find_soundfont(), 32)
        played = recordings.recording[rows[:, 0], rows[:, 1], rows[:, 2]] != SILENT
        heard = 0
        for program, _, _, onset, steps, frames, first in rows[played].tolist():
            level = mels[first : first + frames].float().exp().square().sum(1)
            begin = onset // STEPS_PER_FRAME
            assert frames == begin + -(-steps // STEPS_PER_FRAME) + 1 + notes.REST_FRAMES
            # Cymbals ring into the next hit; others are soft, or too low or high for the mel.
            if program != DRUM_KIT and level.max() > 0.01:
                heard += 1
                assert level[: begin - 1].max() < 0.01 * level[begin : begin + 10].max()
        assert heard > 10


class TestData:
    def test_every_file_is_on_one_side(self, tmp_path: Path) -> None:
        for k in range(200):
            (tmp_path / f"{k}.mid").touch()
        kept, out = midi_files(tmp_path, held_out=False), midi_files(tmp_path, held_out=True)
        assert len(kept) + len(out) == len({*kept, *out}) == 200
        assert 3 <= len(out) <= 20

    def test_small_folders_have_both_sides(self, tmp_path: Path) -> None:
        for k in range(2, 8):
            (tmp_path / f"{k}.KAR").touch()
        (tmp_path / "notes.txt").touch()
        assert len(midi_files(tmp_path, held_out=True)) == 1
        assert len(midi_files(tmp_path, held_out=False)) == 5
        with pytest.raises(SpectroRenderError, match=r"0 MIDI files under .*; give at least two"):
            midi_files(tmp_path / "nowhere", held_out=False)

    def test_a_folder_without_music_is_refused(self, tmp_path: Path) -> None:
        for k in range(3):
            (tmp_path / f"{k}.mid").write_bytes(b"no MIDI")
        spec = CacheSpec(tmp_path, tmp_path, Vocabulary(), hours=1.0, held_out=True)
        with pytest.raises(SpectroRenderError, match="no music in 1 held-out files"):
            make_piece(spec, 0)
        assert make_piece(replace(spec, held_out=False), 0).notes  # made up

    def test_a_cache_made_otherwise_is_not_mixed_in(self, tmp_path: Path) -> None:
        spec = CacheSpec(
            tmp_path, tmp_path / "cache", Vocabulary(), hours=1.0, soundfont=Path("a.sf2")
        )
        _claim(spec)
        _claim(replace(spec, hours=2.0))
        with pytest.raises(OptionError, match="holds data of other MIDI files"):
            _claim(replace(spec, seed=1))
        with pytest.raises(OptionError, match="holds data of other MIDI files"):
            _claim(replace(spec, soundfont=Path("b.sf2")))
        with pytest.raises(OptionError, match="holds data of other MIDI files"):
            _claim(replace(spec, vocabulary=Vocabulary(32, "full")))

    def test_a_cache_in_another_vocabulary_is_not_learned_from(self, tmp_path: Path) -> None:
        check_vocabulary(tmp_path, Vocabulary())  # early caches do not say
        spec = CacheSpec(tmp_path, tmp_path, Vocabulary(32, "full"), 1.0, soundfont=Path("a.sf2"))
        _claim(spec)
        check_vocabulary(tmp_path, Vocabulary(32, "full"))
        with pytest.raises(OptionError, match="with velocity_bins 32, but this preset needs 1"):
            check_vocabulary(tmp_path, Vocabulary(1, "full"))
        with pytest.raises(OptionError, match="with programs full, but this preset needs slakh34"):
            check_vocabulary(tmp_path, Vocabulary(32))

    def test_early_shards_have_no_ids(self, cache: Path) -> None:
        with pytest.raises(OptionError, match="early version and has no token ids; choose another"):
            Windows(cache, "cross_attention")

    def test_windows_follow_their_piece(self, cache: Path) -> None:
        batch = Windows(cache).batch([0, 1, 4, 5])
        assert batch.has_context.tolist() == [False, True, False, True]
        assert torch.equal(batch.context[1], batch.target[0])
        assert batch.notes[:, 0, 0].tolist() == [60, 65, 60, 65]
        assert batch.target.abs().max() <= 1

    def test_shards_that_come_later_are_read(self, cache: Path) -> None:
        windows = Windows(cache)
        write_shard(cache, "shard-00001")
        windows.refresh()
        assert len(windows) == 16
        windows.refresh()
        assert len(windows) == 16

    def test_hours_become_shards(self, tmp_path: Path) -> None:
        spec = CacheSpec(tmp_path, tmp_path, Vocabulary(), hours=1.0)
        assert spec.shards == round(3600 / (16 * PIECE_WINDOWS * WINDOW_SECONDS))


class TestMuon:
    def test_singular_values_near_one(self) -> None:
        matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrices))
        assert values.min() > 0.6
        assert values.max() < 1.3

    def test_solves_a_linear_problem(self) -> None:
        generator = torch.Generator().manual_seed(0)
        wanted = torch.randn(6, 4, generator=generator)
        weight = torch.nn.Parameter(torch.zeros(6, 4))
        optimizer = Muon([weight], lr=0.05)
        x = torch.randn(100, 4, generator=generator)
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
            optimizer.zero_grad()
            ((x @ (weight - wanted).T) ** 2).mean().backward()
            optimizer.step()
        assert (weight - wanted).abs().max() < 0.02

    def test_every_parameter_has_one_optimizer(self) -> None:
        model = SpectrogramModel(TINY)
        groups = [o.param_groups[0]["params"] for o in optimizers(model, TrainingOptions())]
        ids = [id(p) for group in groups for p in group]
        assert len(ids) == len(set(ids)) == len(list(model.parameters()))
        assert all(p.ndim == 2 for p in groups[0])

    def test_vectors_of_keys_and_recordings_learn_faster(self, cache: Path, tmp_path: Path) -> None:
        options = TrainingOptions(curve_rate=1e-3, vector_factor=5.0, batch_size=4, steps=10)
        trainer = Trainer(TestDrafts.config, options, tmp_path, CPU, lambda line: None)
        groups = [o.param_groups[0]["params"] for o in trainer.optimizers]
        assert len({id(p) for group in groups for p in group}) == sum(map(len, groups))
        assert sum(map(len, groups)) == len(list(trainer.model.parameters()))
        assert {len(p) for p in groups[3]} == {129 * 128, TestDrafts.config.recorded_frames}
        trainer._update(Windows(cache).batch([0, 1, 2, 3]))
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        # Of ten steps, the curves rise to their rate in two, the others would in 50.
        assert rates == pytest.approx([3e-3 / 50, 1e-3 / 50, 1e-3 / 2, 5e-3 / 2])


class TestObjective:
    def test_times_cover_the_interval(self) -> None:
        times = stratified_times(10, torch.Generator().manual_seed(1)).sort().values
        assert ((times * 10).floor() == torch.arange(10)).all()

    def test_dropped_windows_are_unconditional(self, cache: Path) -> None:
        torch.manual_seed(0)
        model = SpectrogramModel(TINY).eval()
        batch = Windows(cache).batch([1, 2])
        memory = drop_conditions(
            model.encode(batch.notes, batch.context, batch.has_context), torch.tensor([True, False])
        )
        time = torch.full((2,), 0.5)
        predicted = model.denoise(batch.target, time, memory)
        alone = model.denoise(batch.target, time, None)
        assert torch.allclose(predicted[1], alone[1], atol=1e-5)
        assert not torch.allclose(predicted[0], alone[0], atol=1e-2)

    @pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
    def test_gradients_reach_every_parameter(self, cache: Path, target: str) -> None:
        torch.manual_seed(0)
        model = SpectrogramModel(replace(TINY, target=target))
        loss = Denoising(model, torch.Generator().manual_seed(0))(Windows(cache).batch(range(8)))
        loss.backward()
        untouched = [
            name
            for name, p in model.named_parameters()
            if p.grad is None or not p.grad.isfinite().all()
        ]
        assert untouched == []

    @pytest.mark.parametrize("output_function", ["deterministic", "gaussian_mixture"])
    def test_teacher_forcing_reaches_every_parameter(
        self, cache: Path, output_function: str
    ) -> None:
        torch.manual_seed(0)
        model = make_model(replace(autoregressive(TINY), output_function=output_function))
        objective = make_objective(model, torch.Generator().manual_seed(0))
        objective(Windows(cache).batch(range(8))).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_notes_and_context_are_dropped_together(self, cache: Path) -> None:
        """What remains of the dropped share is the unconditional model; about one in ten."""
        torch.manual_seed(0)
        model, dropped = SpectrogramModel(TINY), []
        denoise = model.denoise
        model.denoise = lambda x, t, m: (
            dropped.append((m.frames == 0).all(-1).all(-1)) or denoise(x, t, m)
        )
        objective, batch = Denoising(model, torch.Generator()), Windows(cache).batch(range(8))
        with torch.no_grad():
            for _ in range(40):
                objective(batch)
        assert 0.05 < torch.cat(dropped).float().mean() < 0.16

    def test_the_draft_learns_to_be_a_mel(self, cache: Path) -> None:
        torch.manual_seed(0)
        config = replace(TINY, target="epsilon")  # the prediction itself does not ask for a draft
        model, batch = SpectrogramModel(config), Windows(cache).batch(range(8))
        objective = Denoising(model, torch.Generator().manual_seed(0))
        optimizer = torch.optim.Adam(model.notes.notes.parameters(), lr=0.01)

        def draft_error() -> float:
            memory = model.encode(batch.notes, batch.context, batch.has_context)
            return (memory.draft.detach() - batch.target).abs().mean().item()

        before = draft_error()
        for _ in range(30):
            optimizer.zero_grad()
            objective(batch).backward()
            optimizer.step()
        assert draft_error() < 0.7 * before

    @pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
    def test_own_predictions_are_mels(self, cache: Path, target: str) -> None:
        """Those of a perfect network are the true mels, whatever its target."""
        model, batch = (
            SpectrogramModel(replace(TINY, target=target)),
            Windows(cache).batch(range(8)),
        )

        def predict(noisy: torch.Tensor, times: torch.Tensor, _: object) -> torch.Tensor:
            level = times[:, None, None]
            noise = (noisy - alpha(level) * batch.target) / sigma(level)
            return learning_target(batch.target, noise, times, target)

        model.denoise = predict
        objective = Denoising(model, torch.Generator().manual_seed(0))
        objective(batch)
        numbers, mels = objective.own_predictions
        assert len(numbers) > 0
        assert torch.allclose(mels, batch.target[numbers], atol=1e-5)

    def test_some_contexts_are_the_models_own_predictions(self, cache: Path) -> None:
        torch.manual_seed(0)
        model, windows = SpectrogramModel(TINY).eval(), Windows(cache)
        objective = Denoising(model, torch.Generator().manual_seed(0))
        assert not windows.batch(range(8)).has_own_prediction.any()
        for _ in range(10):
            objective(windows.batch(range(8)))
            windows.keep_predictions(*objective.own_predictions)
        batch = windows.batch(range(8))
        assert batch.has_own_prediction.tolist() == [True] * 8
        assert not torch.equal(batch.own_prediction[1:4], batch.context[1:4])
        assert float(batch.own_prediction.abs().max()) <= 1
        contexts: list[torch.Tensor] = []
        model.encode = lambda notes, context, mask, drafted: contexts.append(context)
        for _ in range(40):
            objective.encode(model, batch)
        own = [(context == batch.own_prediction).all(-1).all(-1) for context in contexts]
        assert 0.35 < torch.cat(own).float().mean() < 0.65

    def test_where_windows_join_counts_most(self) -> None:
        weights = frame_weights(CPU)[:, 0]
        assert float(weights.mean()) == pytest.approx(1)
        assert bool((weights[1:] <= weights[:-1]).all())
        assert float(weights[0]) > 10 * float(weights[-1])

    def test_losses(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(objective_module, "DRAFT_WEIGHT", 0)
        torch.manual_seed(0)
        model, batch = SpectrogramModel(TINY), Windows(cache).batch(range(8))
        l1, mse = (
            Denoising(model, torch.Generator().manual_seed(0), loss)(batch).item()
            for loss in ("l1", "mse")
        )
        assert 0 < l1**2 < mse  # the mean of squares is no less than the square of the mean


class TestWindows:
    def test_notes_of_earlier_windows_of_the_piece_are_remembered(self, cache: Path) -> None:
        """Two pieces of four windows, a note each, which ends 2.12 s before its window does."""
        plain, remembers = Windows(cache), Windows(cache, memory_steps=300)
        for number in range(8):
            known = remembers.batch([number]).notes[0]
            assert known[-1].tolist() == plain.batch([number]).notes[0, 0].tolist()
            before = [] if number % 4 == 0 else plain.batch([number - 1]).notes[0].tolist()
            assert known[:-1, 4:].tolist() == [[row[4] - 512, row[5] - 512] for row in before]

    def test_windows_know_the_notes_that_begin_just_behind_them(self) -> None:
        notes = [WindowNote(60, 0, 20, False, False, onset, 300) for onset in (2, 3, 4, 0)]
        tables = [note_table([[note]])[0].short() for note in notes]
        known = recalled(tables, [True, False, False, True], 0)
        assert [rows[:, 4].tolist() for rows in known] == [[2, 512 + 3], [3], [4], [0]]


class TestDrafts:
    config = toy_config(
        **CURVES, recordings=5, recorded_frames=15, width=16, head_width=8, level_width=32
    )

    def test_drafts_are_drawn_once_for_each_window(self, cache: Path) -> None:
        torch.manual_seed(0)
        model, windows = SpectrogramModel(self.config), Windows(cache)
        notes = model.notes.notes
        drafts, counts = DraftCache(notes), []
        draw = notes.draw_draft
        notes.draw_draft = lambda table: (counts.append(len(table)), draw(table))[1]
        for numbers, new in (([0, 1, 2], 3), ([2, 3, 0], 1)):
            batch = drafts.add_to(windows.batch(numbers))
            assert counts.pop() == new
            with torch.no_grad():
                expected = draw(batch.notes)
            for kept, drawn in zip(batch.drafted, expected, strict=True):
                assert torch.allclose(kept, drawn, atol=2e-3)
        drafts.add_to(windows.batch([1, 3]))
        assert not counts

    def test_training_without_padding_gives_the_same_numbers(self, cache: Path) -> None:
        torch.manual_seed(0)
        model = SpectrogramModel(self.config)
        rows = Windows(cache).batch([0, 1, 2]).notes
        padded = torch.cat([rows, torch.full((3, 4, 6), -1)], 1)
        padded[1] = -1  # a window without notes
        with torch.no_grad():
            expected = model.notes(padded)
        for found, wanted in zip(model.notes(padded), expected, strict=True):
            assert found.requires_grad
            assert torch.allclose(found, wanted, atol=1e-5)


class TestLoop:
    def options(self, steps: int) -> TrainingOptions:
        return TrainingOptions(
            steps=steps, batch_size=4, warmup=2, decay_share=0.1, log_every=10, check_every=20
        )

    def test_learns_and_leaves_pictures(self, cache: Path, tmp_path: Path) -> None:
        lines: list[str] = []
        trainer = Trainer(TINY, self.options(60), tmp_path / "run", CPU, lines.append)
        trainer.train(Windows(cache), Windows(cache))
        losses = [float(line.split()[3]) for line in lines if " loss " in line]
        assert losses[-1] < 0.6 * losses[0]
        assert (tmp_path / "run" / "mel-0000060.png").stat().st_size > 1000
        assert any("sample_error" in line for line in lines)

    def test_resumes_where_it_stopped(self, cache: Path, tmp_path: Path) -> None:
        windows, options = Windows(cache), self.options(20)
        first = Trainer(TINY, options, tmp_path / "a", CPU, lambda line: None)
        first.train(windows, windows)
        again = Trainer(TINY, options, tmp_path / "a", CPU, lambda line: None)
        again.resume()
        assert again.step == 20
        for one in (first, again):
            one._update(windows.batch([0, 1, 2, 3]))
        for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_resumes_a_run_from_before_there_were_other_decoders(self, tmp_path: Path) -> None:
        trainer = Trainer(TINY, self.options(1), tmp_path, CPU)
        trainer.save()
        state = torch.load(trainer.checkpoint, weights_only=True)
        for name in ("decoder", "output_function", "components", "min_sigma", "max_sigma"):
            del state["config"][name]
        torch.save(state, trainer.checkpoint)
        Trainer(TINY, self.options(1), tmp_path, CPU).resume()

    def test_autoregressive_models_learn_and_leave_pictures(
        self, cache: Path, tmp_path: Path
    ) -> None:
        lines: list[str] = []
        options = replace(self.options(20), log_every=5)
        trainer = Trainer(autoregressive(TINY), options, tmp_path, CPU, lines.append)
        trainer.train(Windows(cache), Windows(cache))
        losses = [float(line.split()[3]) for line in lines if " loss " in line]
        assert losses[-1] < 0.6 * losses[0]
        assert (tmp_path / "mel-0000020.png").stat().st_size > 1000

    def test_refuses_a_checkpoint_of_another_network(self, cache: Path, tmp_path: Path) -> None:
        Trainer(TINY, self.options(1), tmp_path, CPU).save()
        other = Trainer(replace(TINY, mlp_width=8), self.options(1), tmp_path, CPU)
        with pytest.raises(OptionError, match="belongs to another network"):
            other.resume()

    def test_too_little_data_is_said(self, cache: Path, tmp_path: Path) -> None:
        empty = Windows(tmp_path / "nothing")
        trainer = Trainer(TINY, self.options(1), tmp_path, CPU)
        with pytest.raises(SpectroRenderError, match="0 windows to train on and 8 held-out ones"):
            trainer.train(empty, Windows(cache))
        with pytest.raises(SpectroRenderError, match="8 windows to train on and 0 held-out ones"):
            trainer.train(Windows(cache), empty)

    def test_starts_from_other_weights(self, tmp_path: Path) -> None:
        other = SpectrogramModel(TINY)
        trainer = Trainer(TINY, self.options(1), tmp_path, CPU)
        trainer.start_from(other)
        assert torch.equal(
            trainer.average.weights["decoder.input.weight"], other.decoder.input.weight
        )
        with pytest.raises(OptionError, match="belong to another network"):
            trainer.start_from(SpectrogramModel(replace(TINY, mlp_width=8)))

    def test_rate_rises_holds_and_falls_to_nothing(self) -> None:
        options = TrainingOptions(steps=1000, warmup=10, decay_share=0.2)
        assert rate_factor(0, options) == pytest.approx(0.1)
        assert rate_factor(500, options) == 1
        assert rate_factor(900, options) == pytest.approx(0.5)
        assert math.isclose(rate_factor(1000, options), 0)


def test_scores_are_ordered() -> None:
    score = score_of([Note(1.0, 2.0, 60, 90, 0, False), Note(0.0, 3.0, 61, 90, 0, False)])
    assert score == Score(score.notes, 3.0)
    assert [n.pitch for n in score.notes] == [61, 60]


class TestExport:
    def test_a_run_becomes_a_model_directory(self, cache: Path, tmp_path: Path) -> None:
        options = TrainingOptions(steps=3, batch_size=4, check_every=3)
        trainer = Trainer(TINY, options, tmp_path / "work" / "diffusion", CPU, lambda line: None)
        trainer.train(Windows(cache), Windows(cache))
        export(tmp_path / "work", tmp_path / "model")
        loaded = load_checkpoint(tmp_path / "model")
        assert loaded.config == TINY
        assert loaded.vocoder_kind == "griffin-lim"
        assert (loaded.defaults.sampler, loaded.defaults.steps) == ("dpm++", 10)
        for name, weight in loaded.model.state_dict().items():
            assert torch.allclose(weight, trainer.average.weights[name], atol=1e-2), name

    def test_the_vocoder_is_given_mels_that_the_transformer_draws(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = TrainingOptions(steps=2, batch_size=4, check_every=2)
        trainer = Trainer(TINY, options, tmp_path / "work" / "diffusion", CPU, lambda line: None)
        windows = Windows(cache)
        trainer.train(windows, windows)
        (tmp_path / "work" / "train").symlink_to(cache)
        given: dict[str, Any] = {}
        monkeypatch.setattr(
            "spectro_render.training.stages.train_vocoder", lambda *_, **k: given.update(k)
        )
        train_model_vocoder(tmp_path / "work", TINY, VocoderOptions(), CPU, "default")
        assert isinstance(given["start_from"], MelGAN)
        assert given["velocity_bins"] == TINY.velocity_bins
        expected = draw_mels(trainer.averaged(), windows, 0, 1000)
        assert torch.equal(given["drawn"], expected)
        assert expected.shape == (len(windows), 256, 128)
        assert expected.float().std() > 0.1

    def test_a_transformer_begins_with_the_curves_of_its_work_folder(
        self, cache: Path, tmp_path: Path
    ) -> None:
        for name in ("train", "valid"):
            (tmp_path / name).symlink_to(cache)
        options = TrainingOptions(steps=2, batch_size=4, check_every=2)
        config = toy_config(
            **CURVES, recordings=5, recorded_frames=15, width=16, head_width=8, level_width=32
        )
        with pytest.raises(SpectroRenderError, match="is missing; run the notes stage first"):
            train_diffusion(tmp_path, config, options, CPU)
        maps = RecordingMap(
            recording=torch.zeros(129, 128, 33),
            ratio=torch.ones(129, 128, 33),
            frames=torch.full((3,), 20.0),
            loop_start=torch.zeros(3),
            loop_length=torch.zeros(3),
        )
        known = with_recordings(config, maps)
        curves = CurveTrainer(known, maps, CurveOptions(steps=1), tmp_path / "curves", CPU)
        curves.save()
        train_diffusion(tmp_path, config, options, CPU)
        model, steps = trained_transformer(tmp_path)
        assert steps == 2 and model.config == known
        (learned,) = (part for part in model.modules() if isinstance(part, NoteCurves))
        for name, weights in curves.average.weights.items():
            assert learned.state_dict()[name].equal(weights), name

        # A run that goes on, or starts from a model with curves, needs no others.
        (tmp_path / "curves" / "checkpoint.pt").unlink()
        train_diffusion(tmp_path, config, replace(options, steps=3), CPU)
        assert trained_transformer(tmp_path)[1] == 3
        save_model(tmp_path / "model", model)
        (tmp_path / "diffusion" / "checkpoint.pt").unlink()
        train_diffusion(tmp_path, config, options, CPU, str(tmp_path / "model"))
        assert trained_transformer(tmp_path)[0].config == known

    def test_a_model_without_curves_is_no_start_for_one_with_them(
        self, cache: Path, tmp_path: Path
    ) -> None:
        for name in ("train", "valid"):
            (tmp_path / name).symlink_to(cache)
        save_model(tmp_path / "model", SpectrogramModel(TINY))
        config = toy_config(
            **CURVES, recordings=5, recorded_frames=15, width=16, head_width=8, level_width=32
        )
        with pytest.raises(OptionError, match="belong to another network"):
            train_diffusion(tmp_path, config, TrainingOptions(), CPU, str(tmp_path / "model"))

    def test_says_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(
            SpectroRenderError, match=r"checkpoint\.pt is missing; run the diffusion stage"
        ):
            export(tmp_path, tmp_path / "model")


class TestCommand:
    def test_unknown_preset_and_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["train", str(tmp_path), str(tmp_path / "m"), "--preset", "huge"]) == 2
        assert "unknown preset 'huge'; use one of bundled" in capsys.readouterr().err
        assert run(["train", str(tmp_path / "none"), str(tmp_path / "m")]) == 2
        assert "is not a folder" in capsys.readouterr().err
