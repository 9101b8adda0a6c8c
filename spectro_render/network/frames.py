"""4a · Notes laid out over the frames they sound in: the `frame_aligned` conditioning.

The paper's model reads a window as a sequence of tokens and has to learn *when* each note sounds
through attention, which takes millions of windows. Here the tokens are decoded back to notes, and
every note is drawn onto the 256 frames by a handful of fixed envelopes; a small model then aligns
from its first steps.
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
from spectro_render.tokens.vocabulary import WindowNote

DRUM_KIT = 128  # the program number after the last of General MIDI
NOTE_FIELDS = 6  # pitch, program, velocity bin, tied, onset step, offset step
PAD_NOTE = -1  # in the pitch field of a row that is no note

TIED_AGE = 60.0  # frames: how long a tied note is taken to have sounded already
HELD = 1e4  # frames: the offset of a note that sounds beyond the window, or of a drum
ENVELOPES = 11

TAIL_FADES = (1.5, 6.0, 25.0)  # frames
FIRST_FADE = 3.0  # frames, before training
LOUDER = 0.13  # on the model's scale: one nat
NATS = (LOG_MEL_MAX - LOG_MEL_MIN) / 2  # of log-mel in one unit of that scale


def note_table(windows: Sequence[Sequence[WindowNote]], multiple: int = 1) -> Tensor:
    """Notes of B windows as integers, (B, N, 6), padded with rows of PAD_NOTE.

    N is that of the longest window, or the next `multiple`.
    """
    rows = math.ceil(max(1, *map(len, windows)) / multiple) * multiple
    table = torch.full((len(windows), rows, NOTE_FIELDS), PAD_NOTE)
    for row, notes in zip(table, windows, strict=True):
        if notes:
            row[: len(notes)] = torch.tensor([_row(note) for note in notes])
    return table


def _row(note: WindowNote) -> list[int]:
    program = DRUM_KIT if note.is_drum else note.program
    offset = STEPS_PER_WINDOW if note.is_drum else note.offset
    return [note.pitch, program, note.velocity_bin, note.is_tied, note.onset, offset]


def table_notes(rows: Tensor) -> list[WindowNote]:
    """The notes (N, 6) of one window's table, the inverse of `note_table`."""
    return [_note(*row) for row in rows.tolist() if row[0] != PAD_NOTE]


def _note(
    pitch: int, program: int, velocity_bin: int, tied: int, onset: int, offset: int
) -> WindowNote:
    if program == DRUM_KIT:
        return WindowNote(pitch, 0, velocity_bin, True, bool(tied), onset, onset + 1)
    return WindowNote(pitch, program, velocity_bin, False, bool(tied), onset, offset)


class NoteMemory:
    """What the windows of a song have told so far of the notes that the next one hears.

    By itself a window knows of a tied note only that it sounds: not since when, nor how loud it
    began; and of notes that have ended, and ring on, it knows nothing.
    """

    def __init__(self, steps: int) -> None:
        """`steps`: of 10 ms, for how long a note that has ended, or a drum, is remembered.

        With none, not even tied notes are.
        """
        self._steps = steps
        self._held: dict[tuple[int, int], WindowNote] = {}  # by program and pitch, to the border
        self._ended: list[WindowNote] = []

    def recall(self, notes: Sequence[WindowNote]) -> list[WindowNote]:
        """The next window's notes, with what is remembered; times count from its start.

        Tied notes get their onset and velocity, where they are known; notes that ended before the
        window come first, with an offset of 0 or less. Drums have none: they ended as they began.
        """
        if not self._steps:
            return list(notes)
        held, joined = self._held, []
        for note in notes:
            begun = held.pop((note.program, note.pitch), None) if note.is_tied else None
            joined.append(note if begun is None else _continued(begun, note.offset))
        self._ended += held.values()  # what the window does not tie has ended at the border
        known = [*self._ended, *joined]
        self._keep(known)
        return known

    def _keep(self, notes: Sequence[WindowNote]) -> None:
        """Remember what the next window should know, in its time."""
        goes_on = [note.offset == STEPS_PER_WINDOW and not note.is_drum for note in notes]
        later = [_moved(note, -STEPS_PER_WINDOW) for note in notes]
        pairs = list(zip(later, goes_on, strict=True))
        self._held = {(note.program, note.pitch): note for note, goes in pairs if goes}
        self._ended = [n for n, goes in pairs if not goes and n.offset > -self._steps]


def _continued(begun: WindowNote, offset: int) -> WindowNote:
    return begun._replace(offset=offset)


def _moved(note: WindowNote, steps: int) -> WindowNote:
    return note._replace(onset=note.onset + steps, offset=note.offset + steps)


def envelopes(table: Tensor) -> Tensor:
    """How much each note sounds, in eleven shapes: (B, N, 6) -> (B, 1 + T, N, K) >= 0.

    Frame 0 is the last one of the window before, as far as these notes sound in it already.
    A frame covers 40 ms, so its centre lies one frame (20 ms) after its start. The shapes are the
    blow in the frames around the onset, the held note, three decays and a swell since the onset,
    and three releases since the offset, one of them fainter the longer the note was held.
    """
    frames_per_step = FRAME_RATE / STEPS_PER_SECOND
    is_note, tied, onset, offset = (table[..., k].unsqueeze(-2) for k in (0, 3, 4, 5))  # (B, 1, N)
    start = torch.where(tied == 1, -TIED_AGE, onset * frames_per_step)
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
    """Notes (B, N, 6) -> features (B, T, D) and a draft (B, 1 + T, 128) of the mel they make.

    The draft is additive synthesis: each note owns a spectrum of power for each envelope, powers
    of the notes add up, and the logarithm is taken last, as in the mel itself. What remains for
    the Transformer is the difference. The draft begins a frame early: see `Tail`.
    """

    def __init__(self, width: int, velocity_bins: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.pitch = nn.Embedding(2 * 128, hidden)  # pitches, then drums: they share nothing
        self.program = nn.Embedding(DRUM_KIT + 1, hidden)
        self.velocity = nn.Embedding(velocity_bins + 1, hidden)
        self.tied = nn.Embedding(2, hidden)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, 2 * hidden), nn.GELU()
        )
        self.features = nn.Linear(2 * hidden, ENVELOPES * width)
        self.log_power = nn.Linear(2 * hidden, ENVELOPES * N_MELS)
        self.draft = nn.Linear(N_MELS, width)
        nn.init.constant_(self.log_power.bias, -12.0)  # a quiet note: -6 in log-magnitude
        nn.init.normal_(self.features.weight, std=0.1 * hidden**-0.5)

    def forward(self, table: Tensor) -> tuple[Tensor, Tensor]:
        batch, notes, _ = table.shape
        pitch, program, velocity, tied = table[..., :4].clamp(min=0).unbind(-1)
        pitch = pitch + 128 * (program == DRUM_KIT)
        note = self.pitch(pitch) + self.program(program) + self.velocity(velocity) + self.tied(tied)
        note = self.mlp(note)  # (B, N, 2 hidden)

        spread = envelopes(table).flatten(2)  # (B, 1 + T, N K)
        features = self.features(note).view(batch, notes * ENVELOPES, self.width)
        with torch.autocast(table.device.type, enabled=False):  # powers span e^-30 to e^12
            log_power = self.log_power(note.float()).clamp(-30, 12)
            power = log_power.exp().view(batch, notes * ENVELOPES, N_MELS)
            draft = power_to_model(spread @ power)
        return spread[:, 1:].to(features.dtype) @ features + self.draft(draft[:, 1:]), draft


class Tail(nn.Module):
    """The end of the window before, laid over this window's first frames, so that they join.

    Attention to the whole window before finds the border late in training; this shows it.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.width, self.frames = width, frames
        self.spread = nn.Linear(frames * N_MELS, len(TAIL_FADES) * width, bias=False)
        self.log_fade = nn.Parameter(torch.full((N_MELS,), math.log(FIRST_FADE)))  # of frames
        nn.init.zeros_(self.spread.weight)

    def forward(self, context: Tensor, draft: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, T, M), draft (B, 1 + T, M) -> features (B, T, D), correction (B, T, M).

        Both on the model's scale. The correction is what the draft of the context's last frame
        lacked there, or had too much; it fades over the first frames.
        """
        last, before, draft = context[:, -1:], draft[:, :1], draft[:, 1:]
        time = torch.arange(WINDOW_FRAMES, device=context.device)[:, None]
        gap = (last - before) * torch.exp(-time / self.log_fade.exp())
        # What was lacking goes on beside what sets in: powers add up. It ends with what ends.
        more = (_power(before + gap - draft) - _power(before - draft)).relu()
        lacking = torch.minimum(torch.log1p(more) / (2 * NATS), gap)
        # What was too much is soft only until something new and louder sets in.
        new = torch.exp(-(draft - before).clamp(min=0) / LOUDER)
        correction = torch.where(gap > 0, lacking, gap * new)

        # One by one: a product of one row rounds otherwise than one of many, and how a song rounds
        # should not hang on who is beside it.
        rows = context[:, -self.frames :].flatten(1)
        shapes = torch.stack([self.spread(row) for row in rows])
        shapes = shapes.view(len(context), len(TAIL_FADES), self.width)
        fades = torch.cat([torch.exp(-time / frames) for frames in TAIL_FADES], 1)  # (T, fades)
        return fades.to(shapes.dtype) @ shapes, correction


def _power(level: Tensor) -> Tensor:
    """Mel power, relative to that of 0, of a level on the model's scale."""
    return torch.exp(2 * NATS * level)


def power_to_model(power: Tensor) -> Tensor:
    """Mel power -> log-mel on the model's scale, without clipping at the top."""
    log_mel = 0.5 * torch.log(power + MEL_FLOOR**2)
    return (log_mel - LOG_MEL_MIN) / (LOG_MEL_MAX - LOG_MEL_MIN) * 2 - 1
