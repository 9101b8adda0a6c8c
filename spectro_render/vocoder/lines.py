"""The lines in the spectra of single notes: a table measured from a soundfont, for `harmonic_map`.

A note of a sampled instrument has its partials where the sample has them: detuned, stretched,
inharmonic. So each source of sound, a program at a pitch or a drum, has a row of its own in this
table. S sources, I lines of each, M = 128 mel bands.
"""

import torch
from torch import Tensor, nn

from spectro_render.constants import FRAME_RATE, HOP_LENGTH, N_MELS

PROGRAMS = 128
DRUM_KIT = 128  # the program number of drums
LOWEST_PITCH, HIGHEST_PITCH = 21, 108  # those of a piano: others are taken for the nearest
PITCH_STEP = 3  # semitones between the pitches that are measured
PITCHES = (HIGHEST_PITCH - LOWEST_PITCH) // PITCH_STEP + 1
MELODIC_SOURCES = PROGRAMS * PITCHES
SOURCES = MELODIC_SOURCES + 128  # then one for each drum sound
LONGEST_DECAY = 1000.0  # frames
MOST_DELAY = 240.0  # samples, 15 ms: what begins later has no attack
USUAL_DELAY = 56.0  # samples: a common one, where delays are not known
COURSE_FRAMES = 160  # 3.2 s
MOST_CENTS = 200.0  # by which lines move
NO_LINE = -30.0  # natural log: the level of lines that a source does not have


class LineTable(nn.Module):
    """What a note of each source is made of: lines, noise, and how both decay.

    Levels are natural logarithms of magnitudes in the mel's own STFT for a note at full velocity.
    Frequencies are split into semitones and cents, so that they stay exact in 16-bit formats.
    """

    semitones: Tensor  # (S, I) whole semitones above the note's nominal pitch
    cents: Tensor  # (S, I) to be added, -50 to 50
    level: Tensor  # (S, I) of the peak of each line; NO_LINE where there is none
    noise: Tensor  # (S, M) of the mel of everything that is no line
    decay: Tensor  # (S,) frames in which a held note falls to 1/e
    release: Tensor  # (S,) frames in which it does so after its end
    vibrato: Tensor  # (S,) standard deviation of its frequency in cents
    delay: Tensor  # (S,) samples at 16 kHz from a note's onset to where its sound begins
    course: Tensor  # (S, F) cents by which its lines move, from its onset on, frame by frame
    repeat: Tensor  # (S,) frames at the end of a course that are repeated after it

    def __init__(self, lines: int, *, delays: bool = False, courses: bool = False) -> None:
        """Make a table of harmonics.

        `lines` are those of each source. `delays` and `courses` say whether `delay`, and whether
        `course` and `repeat`, are stored with the others. What is not stored has a usual value.
        """
        super().__init__()
        self.has_courses = courses
        h = torch.arange(1, lines + 1)
        interval = 12 * h.log2()
        self.register_buffer("semitones", interval.round().repeat(SOURCES, 1))
        self.register_buffer("cents", (100 * (interval - interval.round())).repeat(SOURCES, 1))
        level = -h.float().log().repeat(SOURCES, 1)  # harmonics that fall with their number
        level[MELODIC_SOURCES:] = NO_LINE
        self.register_buffer("level", level)
        self.register_buffer("noise", torch.full((SOURCES, N_MELS), -3.0))
        self.register_buffer("decay", torch.full((SOURCES,), 50.0))
        self.register_buffer("release", torch.full((SOURCES,), 5.0))
        self.register_buffer("vibrato", torch.zeros(SOURCES))
        self.register_buffer("delay", torch.full((SOURCES,), USUAL_DELAY), persistent=delays)
        frames = COURSE_FRAMES if courses else 1
        self.register_buffer("course", torch.zeros(SOURCES, frames), persistent=courses)
        self.register_buffer("repeat", torch.ones(SOURCES), persistent=courses)

    def hertz(self, source: Tensor, pitch: Tensor) -> Tensor:
        """Frequencies (N, I) in Hz of the lines of notes, given their sources and pitches (N,)."""
        above = self.semitones[source] + self.cents[source] / 100
        return 440 * 2 ** ((pitch[:, None] - 69 + above) / 12)

    def deviation(
        self, source: Tensor, pitch: Tensor, note: Tensor, age: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How far the lines of notes lie from `hertz`, for Q pairs of a note and its age.

        `source` and `pitch` are those of the N notes, `note` the number of each pair's note, and
        `age` (Q,) the mel frames since its onset. Returns the deviation in cents (Q,), and by how
        many seconds the phases of its lines are ahead of steady ones, (Q,) float64: the integral of
        the relative deviation over time.
        """
        # A sampler plays a recording faster for a higher key, and so its vibrato.
        measured = LOWEST_PITCH + PITCH_STEP * (source % PITCHES)
        speed = 2 ** ((pitch - measured).double() / 12)
        speed = torch.where(source < MELODIC_SOURCES, speed, torch.ones_like(speed))[note]
        course = self.course[source].clamp(-MOST_CENTS, MOST_CENTS).double()
        last = course.shape[1] - 1
        repeat = self.repeat[source].clamp(1, max(last, 1)).double()[note]
        relative = 2 ** (course / 1200) - 1
        ahead = torch.zeros_like(course)
        ahead[:, 1:] = ((relative[:, 1:] + relative[:, :-1]) / 2).cumsum(1)

        def value(curve: Tensor, place: Tensor) -> Tensor:
            whole = place.floor().clamp(0, last)
            left = note * (last + 1) + whole.long()
            right = torch.where(whole < last, left + 1, left)
            curve = curve.flatten()
            return torch.lerp(curve[left], curve[right], (place - whole).clamp(0, 1))

        place = age.double() * speed
        rounds = torch.where(place > last, ((place - last) / repeat).ceil(), 0.0)
        place = place - rounds * repeat
        more = value(ahead, torch.full_like(place, last)) - value(ahead, last - repeat)
        seconds = (value(ahead, place) + rounds * more) / (speed * FRAME_RATE)
        return value(course, place).to(self.course), seconds

    def begins(self, notes: Tensor) -> Tensor:
        """The mel frames (N,), from time 0, at which the sounds of notes (N, 5) begin."""
        source = source_of(notes[:, 0].long(), notes[:, 1].long()).to(self.delay.device)
        delay = self.delay[source].clamp(0, MOST_DELAY).to(notes)
        return notes[:, 3] + delay / HOP_LENGTH


def numbers_of_table(lines: int, *, delays: bool = False, courses: bool = False) -> int:
    """The number of numbers that are stored of a LineTable."""
    return SOURCES * (3 * lines + N_MELS + 3 + delays + courses * (COURSE_FRAMES + 1))


def source_of(program: Tensor, pitch: Tensor) -> Tensor:
    """The sources of notes, rows of the table, given their programs and pitches, (N,) int64."""
    step = (pitch.clamp(LOWEST_PITCH, HIGHEST_PITCH) - LOWEST_PITCH + PITCH_STEP // 2) // PITCH_STEP
    melodic = program.clamp(max=PROGRAMS - 1) * PITCHES + step.clamp(max=PITCHES - 1)
    return torch.where(program == DRUM_KIT, MELODIC_SOURCES + pitch.clamp(0, 127), melodic)
