"""How the mel of a single note develops: the draft of models whose `draft` is "curves".

A sampler plays recordings: the same piano string, faster or slower, under several keys. So does
this network, without their sound. For each 20 ms of each recording it has a learned vector, which
says how the spectrum moves there, and each key of each program says which recording it plays, and
how fast. The rest of a note's mel follows from learned vectors of its key, program and velocity,
its age, and the time since its end.

B windows, N notes, T = 256 frames, M = 128 mel bands; P is the number of pairs of a note and a
frame in which it sounds. Times are in steps of 10 ms, the time grid of the tokens.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectro_render.constants import (
    FRAME_RATE,
    N_MELS,
    STEPS_PER_SECOND,
    STEPS_PER_WINDOW,
    WINDOW_FRAMES,
)
from spectro_render.mel import band_centres, band_of
from spectro_render.network.config import ModelConfig
from spectro_render.network.pairs import Pairs, add_powers

DRUM_KIT = 128  # the program number after the last of General MIDI
KEYS = 128
STEPS_PER_FRAME = STEPS_PER_SECOND // FRAME_RATE
SILENT = -1  # in the table of recordings: a key that plays none
LEAD = 2  # steps before a note's onset or end at which a frame's 40 ms begin to show it
AGES = 1024  # steps: a note does not change any more when it has sounded for so long
RESTS = 256  # steps after a note's end from which on it only fades
RINGING = 300  # steps after a note's end at which it is silent
DRUM_RINGING = 400  # steps after a drum hit at which it is silent
# Drums of which only one sounds at a time in General MIDI: hi-hats, whistles, guiros, cuicas
# and triangles.
CHOKES = ((42, 44, 46), (71, 72), (73, 74), (78, 79), (80, 81))
CHOKED = 4  # steps after which a drum is silent that another one of its group has cut off
TIED_AGE = 120  # steps for which a tied note of unknown onset is assumed to have sounded
LOWEST, HIGHEST = -15.0, 6.0  # limits of a note's natural log-mel
PAIRS_AT_ONCE = 2048  # so that what is computed in between stays in the processor's cache

SHORTEST_LOOP = 8.0  # steps: what repeats faster than 80 ms does not move from frame to frame
MOST_SPEED = 1e4  # of a recording; far more than six octaves
LAST_STEP = 1e6  # of a recording: hours
OCTAVES = 4  # by which a recording is played faster or slower at most
TUNINGS = 60  # in an octave, for which the shift of the mel bands is tabulated


class _Notes(NamedTuple):
    """What the curve of each of N notes depends on; H is the width of the hidden layer."""

    gain: Tensor  # (N, H), of the features of age
    rest_gain: Tensor  # (N, H), of the features of the time since the end
    latent_gain: Tensor  # (N, H), of the recording's features
    shift: Tensor  # (N, H)
    base: Tensor  # (N, M), natural log-mel
    fall: Tensor  # (N, M), nats that it falls in 100 ms after the end
    recording: Tensor  # (N,) int64
    ratio: Tensor  # (N,), steps of the recording in one step
    bands: Tensor  # (N, M), the recording's band, with a fraction, that each band shows


class Timbre(NamedTuple):
    """What the notes of one program are made of, in place of what the model has learned for it.

    W is the width of a key's vector, V the number of velocity bins.
    """

    vectors: Tensor  # (128, W): of each key, together with the program's
    recording: Tensor  # (128, V + 1): the recording that each key plays
    ratio: Tensor  # (128, V + 1): its speed


class NoteCurves(nn.Module):
    """The mel powers of notes, added up: a table (B, N, 6) -> power (B, 1 + T, M).

    Buffers, which the soundfont determines and training leaves alone: for each program (the drum
    kit comes last), key and velocity bin, the number of the recording that is played and the speed;
    for each recording, how many vectors it has, and begin and length in steps of the loop that is
    repeated while the note is held (length 0: there is none).
    """

    recording: Tensor
    ratio: Tensor
    frames: Tensor
    loop_start: Tensor
    loop_length: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden, bins = config.curve_width, config.curve_hidden, config.velocity_bins
        self.key = nn.Embedding((DRUM_KIT + 1) * KEYS, width)
        self.program = nn.Embedding(DRUM_KIT + 1, width)
        self.pitch = nn.Embedding(2 * KEYS, width)  # pitches, then drum sounds
        self.velocity = nn.Embedding(bins + 1, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gain = nn.Linear(width, hidden)
        self.rest_gain = nn.Linear(width, hidden)
        self.latent_gain = nn.Linear(width, hidden)
        self.shift = nn.Linear(width, hidden)
        self.base = nn.Linear(width, N_MELS)
        self.fall = nn.Linear(width, N_MELS)
        self.age = nn.Parameter(torch.empty(AGES + LEAD, hidden))
        self.rest = nn.Parameter(torch.empty(RESTS + LEAD, hidden))
        self.latent = nn.Embedding(config.recorded_frames, config.latent_width)
        self.read = nn.Linear(config.latent_width, hidden)
        self.texture = nn.Linear(config.latent_width, N_MELS, bias=False)
        self.middle = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, N_MELS)

        played = (DRUM_KIT + 1, KEYS, bins + 1)
        self.register_buffer("recording", torch.zeros(played))
        self.register_buffer("ratio", torch.ones(played))
        self.register_buffer("frames", torch.empty(config.recordings))
        self.register_buffer("loop_start", torch.zeros(config.recordings))
        self.register_buffer("loop_length", torch.zeros(config.recordings))

        if not self.age.is_meta:  # there, arithmetic would import a compiler, for a second
            self._initialise(config)

    @torch.no_grad()
    def _initialise(self, config: ModelConfig) -> None:
        """Set the numbers to begin with; all recordings have vectors, but no loops."""
        self.age.copy_(_time_features(*self.age.shape))
        self.rest.copy_(0.3 * _time_features(*self.rest.shape))
        each, rest = divmod(config.recorded_frames, config.recordings)
        self.frames.fill_(each)
        self.frames[-1] += rest
        for table, deviation in (
            (self.program, 0.3),
            (self.pitch, 0.3),
            (self.key, 0.1),
            (self.velocity, 0.05),
            (self.latent, 0.2),
        ):
            nn.init.normal_(table.weight, std=deviation)
        nn.init.normal_(self.gain.weight, std=config.curve_width**-0.5)
        nn.init.normal_(self.texture.weight, std=0.1)
        nn.init.constant_(self.base.bias, -6.0)
        nn.init.constant_(self.fall.bias, -3.0)
        nn.init.normal_(self.fall.weight, std=0.01)

    def check(self) -> None:
        """Raise ValueError where buffers contradict each other, so that vectors would be missed."""
        recordings, vectors = len(self.frames), self.latent.num_embeddings
        frames = self.frames.round()
        if not ((frames == self.frames) & (frames >= 2)).all() or frames.sum() != vectors:
            raise ValueError(f"the recordings do not have {vectors} vectors, at least 2 each")
        if not ((self.recording >= SILENT) & (self.recording < recordings)).all():
            raise ValueError(f"keys name recordings that are not among its {recordings}")
        if not ((self.ratio > 0) & (self.ratio < MOST_SPEED)).all():
            raise ValueError(f"the speeds of its recordings are not between 0 and {MOST_SPEED:g}")
        for places in (self.loop_start, self.loop_length):
            if not ((places >= 0) & (places < LAST_STEP)).all():
                raise ValueError(f"loops of its recordings are not within {LAST_STEP:g} steps")

    @torch.no_grad()
    def set_timbre(self, program: int, timbre: Timbre) -> None:
        """Give a program another timbre; all others sound as before."""
        rows = slice(KEYS * program, KEYS * (program + 1))
        # Copied, as the numbers may be those of a file that is mapped into memory.
        key = self.key.weight.clone()
        key[rows] = timbre.vectors.to(key) - self.program.weight[program]
        self.key.weight = nn.Parameter(key, requires_grad=False)
        for name in ("recording", "ratio"):
            played = self.get_buffer(name).clone()
            played[program] = getattr(timbre, name).to(played)
            self.register_buffer(name, played)

    def forward(self, table: Tensor, is_settled: Tensor) -> tuple[Tensor, Tensor]:
        """Notes (B, N, 6) -> mel power (B, 1 + T, M), and that of settled notes in frame 0.

        Frame 0 is the last one of the window before. `is_settled` (B, N) says whose power counts in
        the second result, (B, 1, M).
        """
        # Window by window, as the rounding of products depends on the number of rows, and a song's
        # rounding should not depend on the songs beside it in the batch.
        totals, parts = [], []
        for rows, settled in zip(table, is_settled, strict=True):
            total = self.key.weight.new_zeros(1 + WINDOW_FRAMES, N_MELS)
            part = self.key.weight.new_zeros(1, N_MELS)
            # Rows of padding are left out, as their number depends on the other windows.
            rows, settled = rows[rows[:, 0] >= 0], settled[rows[:, 0] >= 0]
            pitch, program, velocity = rows[:, :3].unbind(1)
            is_heard = ~self.are_silent(program, pitch, velocity)
            rows, settled = rows[is_heard], settled[is_heard]
            pairs = sounding(rows)
            if len(pairs.note) and not torch.is_grad_enabled():
                total, part = self._add_up(rows, pairs, settled)
            elif len(pairs.note):
                notes = self._notes(*rows[:, :3].unbind(1))
                pieces = (torch.split(x, PAIRS_AT_ONCE) for x in pairs)
                for number, place, since_onset, since_end in zip(*pieces, strict=True):
                    power = (2 * self._curve(notes, number, since_onset, since_end)).exp()
                    total = total.index_add(0, place, power)
                    before = (place == 0) & settled[number]
                    part = part + power[before].sum(0)
            totals.append(total)
            parts.append(part)
        return torch.stack(totals), torch.stack(parts)

    def _add_up(self, rows: Tensor, pairs: Pairs, settled: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` returns of one window, without its powers that do not matter."""
        kinds, kind = torch.unique(rows[:, :3], dim=0, return_inverse=True)
        notes, kind = self._notes(*kinds.unbind(1)), kind[pairs.note]
        has_ended = pairs.rest >= -LEAD
        pairs = pairs._replace(rest=pairs.rest.clamp(min=-LEAD - 1))

        def compute(numbers: Tensor) -> Tensor:
            note, age, rest = (x[numbers] for x in (kind, pairs.age, pairs.rest))
            return (2 * self._curve(notes, note, age, rest)).exp_()

        total, before = add_powers(pairs, kind, has_ended, compute, math.exp(2 * LOWEST))
        is_settled = settled[pairs.note[pairs.frame == 0]]
        return total, before[is_settled].sum(0, keepdim=True)

    def are_silent(self, program: Tensor, pitch: Tensor, velocity: Tensor) -> Tensor:
        """Which notes (N,) play no recording, and are not heard; see `log_mels`."""
        return self.recording[program, pitch, velocity] == SILENT

    def log_mels(
        self,
        program: Tensor,
        pitch: Tensor,
        velocity: Tensor,
        note: Tensor,
        time: Tensor,
        timbre: Timbre | None = None,
    ) -> Tensor:
        """Natural log-mels (P, M) of single notes: programs, pitches and velocity bins (N,).

        `note` (P,) is the number of each row's note, and `time` (P, 2) its age and the time since
        its end, in steps, at the middle of the frame. With a `timbre` the programs do not matter.
        """
        notes = self._notes(pitch, program, velocity, timbre)
        return self._curve(notes, note, time[:, 0], time[:, 1])

    def timbre_of(self, program: int) -> Timbre:
        """The timbre that the model has learned for a program."""
        rows = slice(KEYS * program, KEYS * (program + 1))
        vectors = self.key.weight[rows] + self.program.weight[program]
        return Timbre(vectors, self.recording[program], self.ratio[program])

    def _notes(
        self, pitch: Tensor, program: Tensor, velocity: Tensor, timbre: Timbre | None = None
    ) -> _Notes:
        sound = pitch + KEYS * (program == DRUM_KIT)
        if timbre is None:
            x = self.key(program * KEYS + pitch) + self.program(program) + self.pitch(sound)
            recording, ratio = (
                played[program, pitch, velocity] for played in (self.recording, self.ratio)
            )
        else:
            x = timbre.vectors[pitch] + self.pitch(sound)
            recording, ratio = (
                played[pitch, velocity] for played in (timbre.recording, timbre.ratio)
            )
        x = x + self.velocity(velocity)
        latent_gain = 1 + self.latent_gain(x)
        x = x + self.down(F.gelu(self.up(x)))
        tuning = (ratio.log2() * TUNINGS).round().long() + OCTAVES * TUNINGS
        return _Notes(
            gain=1 + self.gain(x),
            rest_gain=self.rest_gain(x),
            latent_gain=latent_gain,
            shift=self.shift(x),
            base=self.base(x),
            fall=F.softplus(self.fall(x)),
            recording=recording.long().clamp(min=0),
            ratio=ratio,
            bands=_shifted_bands().to(x)[tuning.clamp(0, 2 * OCTAVES * TUNINGS)],
        )

    def _curve(self, notes: _Notes, note: Tensor, age: Tensor, rest: Tensor) -> Tensor:
        """Natural log-mels (P, M) of notes (P,) at their ages and times since their ends (P,)."""
        gain, rest_gain, latent_gain, shift, base, fall, recording, ratio, bands = (
            values.index_select(0, note) for values in notes
        )
        latent = self.vectors_at(recording, age * ratio)
        # Each `addcmul_` adds the product of its two arguments.
        age = (age + LEAD).clamp(0, AGES + LEAD - 1)
        h = shift.addcmul_(self.age.index_select(0, age), gain)
        h = h.addcmul_(self.read(latent), latent_gain)
        has_ended = rest >= -LEAD
        if bool(has_ended.any()):
            place = (rest + LEAD).clamp(0, RESTS + LEAD - 1)
            h = h.addcmul_(self.rest.index_select(0, place) * has_ended[:, None], rest_gain)
        h = F.gelu(h)
        h = h + F.gelu(self.middle(h))
        # Played faster, a recording shows in each band what it has in a lower one.
        texture, below = self.texture(latent), bands.long()
        texture = torch.lerp(texture.gather(1, below), texture.gather(1, below + 1), bands.frac())
        level = self.output(h).add_(base).add_(texture)
        level = level.addcmul_(fall, rest.clamp(min=0)[:, None].to(fall), value=-0.1)
        return level.clamp_(LOWEST, HIGHEST)

    def vectors_at(self, recording: Tensor, position: Tensor) -> Tensor:
        """The vectors (P, D) of recordings (P,) at positions (P,) in steps, interpolated."""
        start, length = self.loop_start[recording], self.loop_length[recording]
        is_short = length < SHORTEST_LOOP
        end = start + torch.where(is_short, length / 2, length)
        repeated = start + torch.remainder(position - start, length.clamp(min=0.01))
        repeated = torch.where(is_short, start + length / 2, repeated)
        position = torch.where((length > 0) & (position >= end), repeated, position)
        frames = self.frames.long()
        last = self.frames[recording] - 1.001
        place = torch.minimum((position / STEPS_PER_FRAME + 1).clamp(min=0), last)
        first = (frames.cumsum(0) - frames)[recording] + place.long()
        share = place.frac()[:, None]
        return self.latent(first) * (1 - share) + self.latent(first + 1) * share


def sounding(rows: Tensor) -> Pairs:
    """The P pairs of a note of one window, (N, 6), and a frame in which it sounds."""
    pitch, program, _, tied, onset, offset = rows.unbind(1)
    start = torch.where(tied == 1, -TIED_AGE, onset)
    is_drum = program == DRUM_KIT
    # Frame k of the window lasts from step 2 k - 2 to step 2 k + 2.
    middle = STEPS_PER_FRAME * torch.arange(1 + WINDOW_FRAMES, device=rows.device)
    age = middle - start[:, None]
    never = torch.full_like(offset, -2 * STEPS_PER_WINDOW)
    held = is_drum | (offset >= STEPS_PER_WINDOW)
    rest = torch.where(held[:, None], never[:, None], middle - offset[:, None])
    last_age = torch.where(is_drum, DRUM_RINGING, age.new_full((), 1 << 40))
    for group in CHOKES:
        number = (is_drum & torch.isin(pitch, pitch.new_tensor(group))).nonzero()[:, 0]
        hits = torch.unique(onset[number])
        following = torch.searchsorted(hits, onset[number], right=True)
        until = torch.cat([hits, hits.new_full((1,), 1 << 20)])[following] - onset[number] + CHOKED
        last_age[number] = last_age[number].minimum(until)
    last_age = last_age[:, None]
    sounds = (age >= -LEAD) & (age <= last_age) & (rest <= RINGING)
    note, frame = sounds.nonzero(as_tuple=True)
    return Pairs(note, frame, age[note, frame], rest[note, frame])


def _time_features(steps: int, width: int) -> Tensor:
    """Sines of the logarithm of the time and of the time itself, (steps, width), to begin with."""
    time = torch.arange(steps, dtype=torch.float32)[:, None]
    slow = torch.linspace(0.25, 3.5, width // 4) * torch.pi
    # From 20 s to 83 ms, the range of beats and vibrato.
    fast = 2 * torch.pi * torch.linspace(math.log(0.0005), math.log(0.12), width // 4).exp()
    angles = torch.log1p(time) * slow, (time - LEAD) * fast
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # training may use the cached tensor after inference made it
def _shifted_bands() -> Tensor:
    """For each tuning, the band with a fraction where each band's centre lies in the recording."""
    ratios = torch.exp2(torch.arange(-OCTAVES * TUNINGS, OCTAVES * TUNINGS + 1) / TUNINGS)
    return band_of(band_centres() / ratios[:, None]).clamp(0, N_MELS - 1.001)
