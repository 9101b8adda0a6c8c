"""Timbres by example: fitting one to a sound, its file, what changes, and what is refused."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectro_render.batch.recipe import Recipe
from spectro_render.checkpoints.find import fingerprint_of, resolve_model
from spectro_render.checkpoints.timbres import require_curves
from spectro_render.cli.timbre import split_value, timbre_files
from spectro_render.errors import OptionError, SpectroRenderError, WeightsCorrupt, WeightsError
from spectro_render.midi.score import Note, Score
from spectro_render.render.renderer import Renderer
from spectro_render.report import Reporter
from spectro_render.training.synth import score_to_midi
from spectro_render.training.timbre import make
from spectro_render.training.timbre.example import Example, read_example
from spectro_render.training.timbre.lines import fit_lines
from spectro_render.training.timbre.make import Report, fit_timbre
from spectro_render.training.timbre.pitch import find_notes
from spectro_render.vocoder.lines import LOWEST_PITCH, PITCH_STEP, LineTable

RATE, TRUMPET, VIOLIN = 16_000, 56, 40
MELODY = (60, 64, 67, 72, 62)


def tone(pitch: int, seconds: float = 0.5, detuned: float = 0.0) -> Tensor:
    """Odd harmonics, as a clarinet has them, with a soft begin and end; `detuned` in cents."""
    time = torch.arange(round(seconds * RATE)) / RATE
    hertz = 440 * 2 ** ((pitch - 69 + detuned / 100) / 12)
    sound = torch.zeros_like(time)
    for number in range(1, 24, 2):
        if number * hertz < RATE / 2:
            sound += torch.sin(2 * torch.pi * number * hertz * time + number) / number
    fade = (torch.minimum(time, seconds - time) / 0.02).clamp(0, 1)
    return 0.2 * sound * fade


def melody(pitches: Sequence[int] = MELODY, detuned: float = 0.0) -> tuple[Tensor, list[Note]]:
    """Tones one after another with rests between, and a rest at the end; and their notes."""
    parts, notes = [torch.zeros(RATE // 10)], []
    for number, pitch in enumerate(pitches):
        notes.append(Note(0.1 + 0.6 * number, 0.6 + 0.6 * number, pitch, 80, TRUMPET, False))
        parts += [tone(pitch, detuned=detuned), torch.zeros(RATE // 10)]
    return torch.cat([*parts, torch.zeros(RATE)]), notes


def write(path: Path, samples: Tensor, rate: int = RATE) -> Path:
    soundfile.write(path, samples.numpy(), rate, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A timbre of the default model's trumpet, and how well it fits."""
    folder = tmp_path_factory.mktemp("timbre")
    sound = write(folder / "mine.wav", melody()[0])
    return folder / "mine.timbre", fit_timbre(sound, "trumpet", folder / "mine.timbre")


def test_a_timbre_fits_its_sound_and_is_a_small_file(fitted: tuple[Path, Report]) -> None:
    path, report = fitted
    assert report.after < 0.6 * report.before
    assert report.notes == len(MELODY) and report.are_detected
    assert path.stat().st_size < 200_000
    assert path.stat().st_mode & 0o777 == (path.parent / "mine.wav").stat().st_mode & 0o777


def test_one_program_changes_and_all_others_stay_the_same_to_the_bit(
    fitted: tuple[Path, Report],
) -> None:
    plain, changed = Renderer.load(), Renderer.load(timbres={"trumpet": fitted[0]})

    def mel(renderer: Renderer, program: int) -> Tensor:
        notes = tuple(Note(0.5 * k, 0.5 * k + 0.4, 60 + k, 90, program, False) for k in range(4))
        return next(renderer.mels(renderer.windows(Score(notes, 2.0))))

    assert mel(changed, VIOLIN).equal(mel(plain, VIOLIN))
    assert (mel(changed, TRUMPET) - mel(plain, TRUMPET)).abs().mean() > 0.1
    song = Score((Note(0.0, 0.3, 60, 90, VIOLIN, False), Note(0.1, 0.4, 50, 90, 0, False)), 0.4)
    sounds = [r.render(song, duration=0.5).samples.tolist() for r in (plain, changed)]
    assert sounds[0] == sounds[1]


def test_a_timbre_may_be_used_for_another_program(fitted: tuple[Path, Report]) -> None:
    renderers = [Renderer.load(timbres={name: fitted[0]}) for name in ("trumpet", 41)]
    curves = [require_curves(each.checkpoint.model, "default") for each in renderers]
    programs = (TRUMPET, VIOLIN)
    made = [curve.timbre_of(each).vectors for curve, each in zip(curves, programs, strict=True)]
    torch.testing.assert_close(made[0], made[1])


def test_the_fingerprint_depends_on_timbres(fitted: tuple[Path, Report], tmp_path: Path) -> None:
    plain = fingerprint_of(resolve_model("default"))
    changed = fingerprint_of(resolve_model("default", timbres=[(TRUMPET, fitted[0])]))
    assert changed.startswith(plain) and changed != plain
    assert changed != fingerprint_of(resolve_model("default", timbres=[(VIOLIN, fitted[0])]))


def test_notes_are_found_in_a_sound() -> None:
    samples, notes = melody()
    found = find_notes(samples)
    assert [note.pitch for note in found.notes] == [note.pitch for note in notes]
    for one, other in zip(found.notes, notes, strict=True):
        assert one.start == pytest.approx(other.start, abs=0.03)
        assert one.end == pytest.approx(other.end, abs=0.05)


def test_notes_of_an_instrument_that_is_tuned_otherwise_are_found() -> None:
    found = find_notes(melody(detuned=-40)[0])
    assert [note.pitch for note in found.notes] == list(MELODY)


def test_velocities_follow_from_loudness() -> None:
    samples = torch.cat([tone(60), torch.zeros(1600), 0.25 * tone(60), torch.zeros(1600), tone(60)])
    loud, soft, _ = (note.velocity for note in find_notes(samples).notes)
    assert (loud / soft) ** 2 == pytest.approx(4, rel=0.1)


def test_two_notes_at_once_are_left_out() -> None:
    samples, _ = melody()
    both = torch.cat([samples, tone(60, 1.0) + tone(64, 1.0)])
    found = find_notes(both)
    assert [note.pitch for note in found.notes] == list(MELODY)
    begin, end = found.unclear[-1]
    assert begin == pytest.approx(len(samples) / RATE, abs=0.1) and end - begin > 0.7


def two_instruments(path: Path) -> None:
    notes = (Note(0.1, 0.6, 60, 80, 0, False), Note(0.7, 1.2, 64, 80, 40, False))
    path.write_bytes(score_to_midi(Score(notes, 1.2)))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (torch.zeros(RATE), "silent"),
        ((5 * melody()[0]).clamp(-0.5, 0.5), "clipped"),
        (0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0)), "clear pitch"),
        (tone(60, 0.2), "shorter than 0.25 s"),
    ],
)
def test_a_sound_that_cannot_be_used_is_refused(
    samples: Tensor, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=reason):
        read_example(write(tmp_path / "mine.wav", samples), None)


def test_a_midi_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    sound, midi = write(tmp_path / "mine.wav", melody()[0]), tmp_path / "mine.mid"
    two_instruments(midi)
    with pytest.raises(OptionError, match="2 instruments"):
        read_example(sound, midi)
    midi.write_bytes(b"no MIDI")
    with pytest.raises(OptionError, match=r"mine\.mid"):
        read_example(sound, midi)


def test_the_notes_of_a_midi_file_are_moved_to_the_sound(tmp_path: Path) -> None:
    samples, notes = melody()
    sound, midi = write(tmp_path / "mine.wav", samples), tmp_path / "mine.mid"
    later = [replace(note, start=note.start + 0.5, end=note.end + 0.5) for note in notes]
    midi.write_bytes(score_to_midi(Score(tuple(later), 3.6)))
    example = read_example(sound, midi)
    assert not example.are_detected
    for one, other in zip(example.notes, notes, strict=True):
        assert one.pitch == other.pitch and one.start == pytest.approx(other.start, abs=0.03)


def test_lines_are_those_of_the_sound_without_its_tuning() -> None:
    samples, notes = melody(detuned=30)
    rows = fit_lines(LineTable(8), Example(samples, tuple(notes), False), TRUMPET, 0.0)
    place = (60 - LOWEST_PITCH) // PITCH_STEP
    above = rows["semitones"][place] + rows["cents"][place] / 100
    for number in (1, 3, 5):
        assert float(above[number - 1]) == pytest.approx(12 * math.log2(number), abs=0.03)
    level = rows["level"][place]
    assert bool((level[[0, 2, 4]] > level[[1, 3, 5]] + 3).all())


def test_lines_of_a_sound_without_harmonics_are_those_of_the_program() -> None:
    table = LineTable(8)
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    example = Example(noise, (Note(0.1, 0.9, 60, 80, 0, False),), False)
    for name, rows in fit_lines(table, example, TRUMPET, 0.0).items():
        assert rows.equal(table.get_buffer(name)[: len(rows)])


def changed_file(path: Path, to: Path, **facts: str) -> Path:
    """A copy of a timbre with other metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), to, metadata={**metadata, **facts})
    return to


def test_a_timbre_of_another_model_is_refused(fitted: tuple[Path, Report], tmp_path: Path) -> None:
    other = changed_file(fitted[0], tmp_path / "other.timbre", model="mine", model_sha256="0")
    with pytest.raises(WeightsError, match="fitted to the model mine, not to this default"):
        Renderer.load(timbres={"trumpet": other})


def test_files_that_are_no_timbre_are_refused(fitted: tuple[Path, Report], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no timbre"):
        Renderer.load(timbres={"trumpet": changed_file(fitted[0], tmp_path / "a", kind="other")})
    with pytest.raises(WeightsError, match="format 2"):
        Renderer.load(timbres={"trumpet": changed_file(fitted[0], tmp_path / "b", version="2")})
    (tmp_path / "c").write_bytes(fitted[0].read_bytes()[:1000])
    with pytest.raises(WeightsCorrupt, match="not a whole safetensors file"):
        Renderer.load(timbres={"trumpet": tmp_path / "c"})
    with pytest.raises(WeightsError, match="missing"):
        Renderer.load(timbres={"trumpet": tmp_path / "d"})
    tensors = load_file(fitted[0])
    tensors["vectors"][0, 0] = math.nan
    with safe_open(fitted[0], framework="pt") as file:
        save_file(tensors, tmp_path / "e", metadata=file.metadata())
    with pytest.raises(WeightsCorrupt, match="NaN"):
        Renderer.load(timbres={"trumpet": tmp_path / "e"})


def test_a_model_without_curves_takes_no_timbre(
    fitted: tuple[Path, Report], tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="no curves of single notes"):
        Renderer.load(tiny_model, timbres={"trumpet": fitted[0]})
    sound = write(tmp_path / "mine.wav", melody()[0])
    with pytest.raises(WeightsError, match="no curves of single notes"):
        fit_timbre(sound, "trumpet", tmp_path / "mine.timbre", model=tiny_model)
    assert not (tmp_path / "mine.timbre").exists()


def test_a_timbre_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRO_RENDER_CACHE", str(tmp_path / "cache"))
    fitted: list[Path] = []

    def fit_to(files: object, sound: Path, midi: Path | None, program: int, path: Path) -> Report:
        fitted.append(sound)
        path.write_bytes(b"")
        return Report(program, 1, True, program, 0.0, 1.0, 0.5)

    monkeypatch.setattr(make, "_fit_to", fit_to)
    sound = write(tmp_path / "mine.wav", tone(60))

    def files(value: str = "trumpet=mine.wav") -> str:
        instrument, _, name = value.partition("=")
        (timbre,) = timbre_files(
            [f"{instrument}={tmp_path / name}"], "default", Reporter(quiet=True)
        )
        return timbre.file

    first = files()
    assert files() == first and len(fitted) == 1
    sound.rename(tmp_path / "other.wav")
    assert files("57=other.wav") == first and len(fitted) == 1
    assert files("violin=other.wav") != first and len(fitted) == 2
    (tmp_path / "other.mid").write_bytes(b"")
    assert files("57=other.wav") != first and len(fitted) == 3
    monkeypatch.setenv("SPECTRO_RENDER_CACHE", "off")
    kept = files("57=other.wav")
    assert len(fitted) == 4 and not kept.startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["trumpet"], "does not name an instrument and a file"),
        (["drums={}"], "drums cannot have another timbre"),
        (["kazoo={}"], "kazoo"),
        (["trumpet={}", "57={}"], "two timbres"),
        (["trumpet=no.wav"], "no file 'no.wav'"),
    ],
)
def test_wrong_values_are_refused(values: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.timbre"
    path.touch()
    with pytest.raises(SpectroRenderError, match=message):
        timbre_files([value.format(path) for value in values], "default", Reporter(quiet=True))


def test_a_value_is_split_at_its_first_equals_sign() -> None:
    assert split_value("violin=a=b.wav") == (VIOLIN, "a=b.wav")


def test_a_recipe_has_the_timbres() -> None:
    recipe = Recipe("0", "default", "", "", {"timbres": [[TRUMPET, "mine.wav"]], "steps": 2})
    assert "--timbre=57=mine.wav" in recipe.arguments()
