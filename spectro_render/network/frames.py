"""Notes laid out over the frames in which they sound: the `frame_aligned` conditioning.

The paper's model reads a window as a sequence of tokens and has to learn through attention *when*
each note sounds, which takes millions of windows. Here the tokens are decoded to notes, and fixed
envelopes spread every note over the 256 frames, so that even a small model has notes and frames
aligned from its first training steps. B windows, N notes, T = 256 frames, K = 11 envelopes,
M = 128 mel bands, D = width.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spectro_render.constants import (
    FRAME_RATE,
    LOG_MEL_MAX,
    LOG_MEL_MIN,
    MEL_FLOOR,
    N_MELS,
    STEPS_PER_SECOND,
    STEPS_PER_WINDOW,
    WINDOW_FRAMES,
)
from spectro_render.network.config import ModelConfig
from spectro_render.network.curves import DRUM_KIT, TIED_AGE, NoteCurves
from spectro_render.tokens.vocabulary import WindowNote

NOTE_FIELDS = 6  # pitch, program, velocity bin, tied, onset step, offset step
PAD_NOTE = -1  # in the pitch field of a row that is no note

HELD = 1e4  # frames: the offset of a note that sounds beyond the window, or of a drum
ENVELOPES = 11
# A window's last frame shows notes of the next window that begin before this step, by the first of
# the attack's three shapes.
AHEAD_STEPS = 4
SETTLED_STEPS = 4  # before a border: a note that begins earlier has shown there how loud it is

TAIL_FADES = (1.5, 6.0, 25.0)  # frames in which the tail's three shapes fall to 1/e
FIRST_FADE = 3.0  # frames in which the correction of `Tail` falls to 1/e, before training
LOUDER = 0.13  # on the model's scale: one nat
NATS = (LOG_MEL_MAX - LOG_MEL_MIN) / 2  # of log-mel in one unit of the model's scale


def note_table(windows: Sequence[Sequence[WindowNote]], multiple: int = 1) -> Tensor:
    """The notes of B windows as a table of integers, (B, N, 6), padded with rows of PAD_NOTE.

    N is the number of notes of the longest window, rounded up to a multiple of `multiple`.
    """
    rows = math.ceil(max(1, *map(len, windows)) / multiple) * multiple
    table = torch.full((len(windows), rows, NOTE_FIELDS), PAD_NOTE)
    for row, notes in zip(table, windows, strict=True):
        fields = []
        for pitch, program, velocity_bin, is_drum, is_tied, onset, offset in notes:
            kit, end = (DRUM_KIT, STEPS_PER_WINDOW) if is_drum else (program, offset)
            fields.append([pitch, kit, velocity_bin, is_tied, onset, end])
        if fields:
            row[: len(fields)] = torch.tensor(fields)
    return table


def table_notes(rows: Tensor) -> list[WindowNote]:
    """Convert one window's rows (N, 6) of a `note_table` back to notes."""
    notes = []
    for pitch, program, velocity_bin, is_tied, onset, offset in rows.tolist():
        if pitch == PAD_NOTE:
            continue
        if program == DRUM_KIT:
            note = WindowNote(pitch, 0, velocity_bin, True, bool(is_tied), onset, onset + 1)
        else:
            note = WindowNote(pitch, program, velocity_bin, False, bool(is_tied), onset, offset)
        notes.append(note)
    return notes


class NoteMemory:
    """Remembers the notes of a song's earlier windows that matter to the next window.

    A window's ids tell that a tied note sounds, but neither when it began nor how loud. They do not
    mention notes that have ended and still ring, nor notes that begin just after the window and
    within its last frame.
    """

    def __init__(self, steps: int) -> None:
        """`steps`: how long an ended note, or a drum hit, is remembered, in 10 ms steps.

        With 0, tied notes are not remembered either.
        """
        self._steps = steps
        # Times count from the next window's start.
        self._held: dict[tuple[int, int], WindowNote] = {}  # by program and pitch
        self._ended: list[WindowNote] = []

    def recall(
        self, notes: Sequence[WindowNote], following: Sequence[WindowNote] = ()
    ) -> list[WindowNote]:
        """The next window's notes, completed from memory; call once for each window, in order.

        Times count from the window's start. Tied notes get their true onset and velocity where
        these are known. Notes that ended before the window come first, with an offset of 0 or less;
        so do drum hits, whose onset is negative. `following` are the notes of the window after it:
        those that begin early enough to sound in this window's last frame come last. Without them
        that frame would differ from what the window after it expects before its start, and `Tail`
        would take the difference off its first notes.
        """
        coming = [
            note._replace(
                onset=note.onset + STEPS_PER_WINDOW, offset=note.offset + STEPS_PER_WINDOW
            )
            for note in following
            if note.onset < AHEAD_STEPS and not note.is_tied
        ]
        if not self._steps:
            return [*notes, *coming]
        held, joined = self._held, []
        for note in notes:
            begun = held.pop((note.program, note.pitch), None) if note.is_tied else None
            joined.append(note if begun is None else begun._replace(offset=note.offset))
        self._ended += held.values()  # held notes without a tie ended where this window begins
        known = [*self._ended, *joined]
        self._remember(known)
        return [*known, *coming]

    def _remember(self, notes: Sequence[WindowNote]) -> None:
        """Keep the notes that matter to the next window; their times then count from its start."""
        self._held, self._ended = {}, []
        for note in notes:
            onset, offset = note.onset - STEPS_PER_WINDOW, note.offset - STEPS_PER_WINDOW
            later = note._replace(onset=onset, offset=offset)
            if offset == 0 and not note.is_drum:
                self._held[note.program, note.pitch] = later
            elif offset > -self._steps:
                self._ended.append(later)


def envelopes(table: Tensor) -> Tensor:
    """The K = 11 envelopes over time of each note of a table (B, N, 6): (B, 1 + T, N, K), >= 0.

    Frame 0 of the result is the last frame of the window before, for notes that sound there
    already. A frame covers 40 ms, so its centre lies one frame (20 ms) after its start. The
    envelopes are the attack in three frames around the onset, the held note,
    three decays and a swell after the onset, and three releases after the offset, one of which is
    fainter the longer the note was held.
    """
    frames_per_step = FRAME_RATE / STEPS_PER_SECOND
    is_note, tied, onset, offset = (table[..., k].unsqueeze(-2) for k in (0, 3, 4, 5))  # (B, 1, N)
    start = torch.where(tied == 1, -TIED_AGE * frames_per_step, onset * frames_per_step)
    end = torch.where(offset >= STEPS_PER_WINDOW, HELD, offset * frames_per_step)
    centre = torch.arange(WINDOW_FRAMES + 1, device=table.device, dtype=torch.float32)[:, None]

    since_onset, since_offset = centre - start, centre - end  # (B, 1 + T, N), frames
    begun = ((since_onset + 1) / 2).clamp(0, 1)  # share of the frame after the onset
    ended = ((since_offset + 1) / 2).clamp(0, 1)
    held = begun * (1 - ended)
    age, rest = since_onset.clamp(min=0), since_offset.clamp(min=0)
    shapes = [
        *((1 - (since_onset - lag).abs()).clamp(min=0) for lag in (-1.0, 0.0, 1.0)),
        held,
        *(held * torch.exp(-age / tau) for tau in (4.0, 15.0, 60.0)),
        held * (1 - torch.exp(-age / 12.0)),
        *(ended * torch.exp(-rest / tau) for tau in (4.0, 20.0)),
        ended * torch.exp(-rest / 15.0 - (end - start).clamp(0, HELD) / 40.0),
    ]
    return torch.stack(shapes, -1) * (is_note != PAD_NOTE).unsqueeze(-1)


class NoteFrames(nn.Module):
    """Turns notes (B, N, 6) into features (B, T, D) and a draft (B, 1 + T, M) of their mel.

    The draft is additive synthesis: each note has mel powers, the powers of all notes add up, and
    the logarithm is taken last, as in the mel itself. A note's powers are a spectrum for each
    envelope, or come from `NoteCurves`. The Transformer only has to predict the difference. The
    draft begins one frame early, for `Tail`. For the same use comes the share (B, 1, M) of that
    frame's power that is of settled notes, which began at least SETTLED_STEPS before.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, velocity_bins, hidden = config.width, config.velocity_bins, config.note_width
        self.width = width
        self.pitch = nn.Embedding(2 * 128, hidden)  # pitches, then drum sounds
        self.program = nn.Embedding(DRUM_KIT + 1, hidden)
        self.velocity = nn.Embedding(velocity_bins + 1, hidden)
        self.tied = nn.Embedding(2, hidden)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, 2 * hidden), nn.GELU()
        )
        self.features = nn.Linear(2 * hidden, ENVELOPES * width)
        self.curves = NoteCurves(config) if config.draft == "curves" else None
        self.log_power = None
        if self.curves is None:
            self.log_power = nn.Linear(2 * hidden, ENVELOPES * N_MELS)
            nn.init.constant_(self.log_power.bias, -12.0)  # a quiet note: -6 in log-magnitude
        self.draft = nn.Linear(N_MELS, width)
        nn.init.normal_(self.features.weight, std=0.1 * hidden**-0.5)

    def forward(
        self, table: Tensor, drafted: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Notes (B, N, 6) -> features, draft and share; `drafted` is what `draw_draft` returned."""
        if not torch.is_grad_enabled() or table.device.type != "cpu":
            return self._lay_out(table, drafted)
        # A batch to train on mixes short and long lists of notes: two thirds of it are padding.
        rows = [window[window[:, 0] != PAD_NOTE][None] for window in table]
        each: Sequence[tuple[Tensor, Tensor] | None] = [None] * len(rows)
        if drafted is not None:
            each = [(draft[None], share[None]) for draft, share in zip(*drafted, strict=True)]
        parts = zip(*map(self._lay_out, rows, each), strict=True)
        frames, draft, share = map(torch.cat, parts)
        return frames, draft, share

    def draw_draft(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """The draft (B, 1 + T, M) and the share (B, 1, M) of notes (B, N, 6), from the curves."""
        assert self.curves is not None
        with torch.autocast(table.device.type, enabled=False):  # powers span e^-30 to e^12
            return _draft_and_share(*self.curves(table, _are_settled(table)))

    def _lay_out(
        self, table: Tensor, drafted: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, notes, _ = table.shape
        pitch, program, velocity, tied = table[..., :4].clamp(min=0).unbind(-1)
        pitch = pitch + 128 * (program == DRUM_KIT)
        note = self.pitch(pitch) + self.program(program) + self.velocity(velocity) + self.tied(tied)
        note = self.mlp(note)  # (B, N, 2 hidden)

        shapes = envelopes(table)  # (B, 1 + T, N, K)
        spread = shapes.flatten(2)
        features = self.features(note).view(batch, notes * ENVELOPES, self.width)
        if drafted is not None:
            draft, share = drafted
        elif self.curves is not None:
            draft, share = self.draw_draft(table)
        else:
            assert self.log_power is not None
            with torch.autocast(table.device.type, enabled=False):  # powers span e^-30 to e^12
                log_power = self.log_power(note.float()).clamp(-30, 12)
                power = log_power.exp().view(batch, notes * ENVELOPES, N_MELS)
                settled = shapes[:, :1] * _are_settled(table)[:, None, :, None]
                draft, share = _draft_and_share(spread @ power, settled.flatten(2) @ power)
        frames = spread[:, 1:].to(features.dtype) @ features + self.draft(draft[:, 1:])
        return frames, draft, share


def _are_settled(table: Tensor) -> Tensor:
    """Which notes (B, N, 6) have shown before the window how loud they are, (B, N)."""
    return (table[..., 3] == 1) | (table[..., 4] <= -SETTLED_STEPS)


def _draft_and_share(total: Tensor, settled: Tensor) -> tuple[Tensor, Tensor]:
    """Draft and share from the mel powers of all notes (B, 1 + T, M), and of settled ones."""
    share = (settled + MEL_FLOOR**2) / (total[:, :1] + MEL_FLOOR**2)
    return power_to_model(total), share


class Tail(nn.Module):
    """Adds the end of the previous window to a window's first frames, so that the two join.

    Attention to the whole previous window learns this too, but only late in training.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.width, self.frames = width, frames
        self.spread = nn.Linear(frames * N_MELS, len(TAIL_FADES) * width, bias=False)
        self.log_fade = nn.Parameter(torch.full((N_MELS,), math.log(FIRST_FADE)))  # of frames
        nn.init.zeros_(self.spread.weight)

    def forward(self, context: Tensor, draft: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, T, M), draft (B, 1 + T, M) -> features (B, T, D), correction (B, T, M).

        Mels are on the model's scale. The correction, which the caller adds to the draft, is the
        error of the draft in the context's last frame, fading over the window's first frames. It
        is multiplied by `share` (B, 1, M), the part of that frame's sound that settled notes make.
        The rest comes from notes that begin at the border. The window before did not know how loud
        they become, so without `share` they would be taken away.
        """
        last, before, draft = context[:, -1:], draft[:, :1], draft[:, 1:]
        time = torch.arange(WINDOW_FRAMES, device=context.device)[:, None]
        gap = (last - before) * share * torch.exp(-time / self.log_fade.exp())
        # Sound that the draft lacked goes on beside the notes that begin now: their powers add up.
        # It ends where the drafted sound ends.
        more = (_power(before + gap - draft) - _power(before - draft)).relu()
        lacking = torch.minimum(torch.log1p(more) / (2 * NATS), gap)
        # Sound that the draft had too much of is taken away until something louder begins.
        new = torch.exp(-(draft - before).clamp(min=0) / LOUDER)
        correction = torch.where(gap > 0, lacking, gap * new)

        # Row by row, because a product of one row rounds otherwise than one of many, and a song's
        # rounding should not depend on the songs beside it in the batch.
        rows = context[:, -self.frames :].flatten(1)
        shapes = torch.stack([self.spread(row) for row in rows])
        shapes = shapes.view(len(context), len(TAIL_FADES), self.width)
        fades = torch.cat([torch.exp(-time / frames) for frames in TAIL_FADES], 1)  # (T, fades)
        return fades.to(shapes.dtype) @ shapes, correction


def _power(level: Tensor) -> Tensor:
    """Mel power of a level on the model's scale, relative to the power at 0."""
    return torch.exp(2 * NATS * level)


def power_to_model(power: Tensor) -> Tensor:
    """Mel power -> log-mel on the model's scale, without clipping at the top."""
    log_mel = 0.5 * torch.log(power + MEL_FLOOR**2)
    return (log_mel - LOG_MEL_MIN) / (LOG_MEL_MAX - LOG_MEL_MIN) * 2 - 1
