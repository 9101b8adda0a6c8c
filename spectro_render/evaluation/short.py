"""A short measurement of a new model on music that its training left out, for the model's card."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectro_render.constants import WINDOW_SECONDS
from spectro_render.errors import MidiError
from spectro_render.evaluation.arrays import Samples
from spectro_render.evaluation.files import compare
from spectro_render.evaluation.measures import Measure, Measures, Values, pool, values_of
from spectro_render.evaluation.probes import identify
from spectro_render.evaluation.sources import fit_length
from spectro_render.evaluation.subject import RenderedSubject
from spectro_render.evaluation.tables import DESCRIPTIONS, as_text
from spectro_render.evaluation.transcription import note_f1, played_notes
from spectro_render.midi.length import sounding_seconds
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Score, section
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from spectro_render.training.data import midi_files
from spectro_render.training.job import Job
from spectro_render.training.recordings import held_out_music
from spectro_render.training.synth import Synthesizer

SECONDS = 20.0  # of each file
NAMES = (
    *("note_f1_ratio", "note_f1", "note_f1_reference", "drum_f1_ratio", "mel_l1", "mel_l1_sound"),
    *("stft_distance", "chroma", "loudness", "louder_db"),
)


@dataclass(frozen=True, eq=False)
class Clip:
    """Music and how it should sound."""

    score: Score
    sound: Samples  # (S,) at the level of the training data; at least as long as what is compared


def measure_model(model: Path, job: Job, say: Callable[[str], None] = print) -> list[str]:
    """Measure the model that a training made: the lines of its card, in Markdown.

    It is compared on at most `job.measured_files` held-out recordings, and as many held-out MIDI
    files that FluidSynth plays, as far as the training had such. With FluidSynth it is also
    compared on single instruments, if `job.measures_instruments`. `say` is called with messages
    about progress. Raises SpectroRenderError for a model that cannot be loaded.
    """
    renderer = Renderer.load(model, device=str(job.device), quiet=True)
    subject = RenderedSubject(renderer, RenderOptions())
    columns: dict[str, Values] = {}
    lines: list[str] = []
    if job.pairs:
        columns["recordings"] = _measure(subject, _recorded(job), "recordings", say)
    if job.soundfont is not None:
        synthesizer = Synthesizer(job.soundfont)
        name = job.soundfont.name
        columns[name] = _measure(subject, _synthesised(job, synthesizer), name, say)
        if job.measures_instruments:
            say("measuring instruments")
            found = identify(
                lambda _, score: subject.render(score, WINDOW_SECONDS).samples,
                lambda _, score: fit_length(synthesizer.render_score(score), WINDOW_SECONDS),
            )
            lines = [
                "",
                f"For {found.top1:.0%} of 34 programs and 10 drums the nearest sound of {name} is"
                f" their own; for {found.top3:.0%} it is among the nearest three.",
            ]
    return [*_table(columns), *lines]


def _recorded(job: Job) -> Iterator[Clip]:
    """The first SECONDS of held-out recordings, evenly spread."""
    for samples, score in held_out_music(job.pairs, job.work, job.measured_files):
        try:
            yield Clip(section(score, 0.0, SECONDS), samples.numpy())
        except MidiError:  # nothing sounds so early
            continue


def _synthesised(job: Job, synthesizer: Synthesizer) -> Iterator[Clip]:
    """The first SECONDS of held-out MIDI files, evenly spread, as FluidSynth plays them."""
    files = midi_files(job.source, held_out=True)
    count = min(job.measured_files, len(files))
    for path in (files[index * len(files) // count] for index in range(count)):
        try:
            score = section(read_midi(path), 0.0, SECONDS)
        except MidiError:
            continue
        yield Clip(score, synthesizer.render_score(score))


def _measure(
    subject: RenderedSubject, clips: Iterator[Clip], against: str, say: Callable[[str], None]
) -> Values:
    """The values of all clips together; "files" is their number."""
    found: list[Measures] = []
    for number, clip in enumerate(clips, start=1):
        say(f"measuring against {against}: {number}")
        seconds = sounding_seconds(clip.score, SECONDS)
        true = fit_length(clip.sound, seconds)
        reference = Measure.of(note_f1(true, played_notes(clip.score.notes)))
        output = subject.render(clip.score, seconds)
        found.append({"note_f1_reference": reference, **compare(output, true, clip.score)})
    return {"files": float(len(found)), **values_of(pool(found))}


def _table(columns: dict[str, Values]) -> Sequence[str]:
    """A row for each of NAMES, a column for each kind of reference."""
    heads = [f"{name}, {values['files']:.0f} files" for name, values in columns.items()]
    lines = [
        f"The first {SECONDS:.0f} s of held-out files, against their true sound, as by"
        " `spectro-render evaluate`:",
        "",
        " | ".join(["| ", *heads]) + " |",
        "| --- " * (1 + len(heads)) + "|",
    ]
    for name in NAMES:
        description = DESCRIPTIONS[name]
        cells = [as_text(values.get(name), description.digits) for values in columns.values()]
        lines.append(" | ".join([f"| {name}: {description.meaning}", *cells]) + " |")
    return lines
