"""Adds up the powers of a window's notes, and computes as few of them as that takes.

Notes repeat: a pair of a note and a frame that has the key, program, velocity, age and time since
the end of another pair has its power, too, which is computed once. And most notes that have ended
are drowned by others long before they are silent. Their power is computed in every GAP-th frame,
and between two of these only where it may matter.

P pairs of a note and a frame, U of them that differ, T = 256 frames, M mel bands.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spectro_render.constants import MEL_FLOOR, WINDOW_FRAMES

GAP = 8  # frames: a divisor of a window's
# A note is drowned between two frames if its power in both is below this share of the power that is
# certain between them, in every band. A line between the two takes its place.
DROWNED = 1e-5
CERTAIN = 0.03  # of the lower power of all notes in two frames that are GAP frames apart
AT_ONCE = 1024  # pairs, so that what is computed in between stays in the processor's cache


class Pairs(NamedTuple):
    """Pairs of a note and a frame in which it sounds, (P,) int64 each.

    Notes come one after the other, and so do the frames of each, without a gap.
    """

    note: Tensor  # its number
    frame: Tensor  # 0 is the last one of the window before
    age: Tensor  # steps since the onset, at the middle of the frame
    rest: Tensor  # steps since the end


def add_powers(
    pairs: Pairs,
    kind: Tensor,
    has_ended: Tensor,
    compute: Callable[[Tensor], Tensor],
    faintest: float,
) -> tuple[Tensor, Tensor]:
    """The power of all notes, (1 + T, M), and that of each of the pairs in frame 0, (n, M).

    `compute` takes numbers of pairs (n,), and returns their powers (n, M), none of which is below
    `faintest`. Pairs are equal if their kind (P,), age and time since the end are. `has_ended` (P,)
    says which may be left out where they are drowned.
    """
    note, frame, age, rest = pairs
    code = has_ended.long()
    for values in (kind, age, rest):  # so that similar pairs lie side by side
        code = code * (values.max() - values.min() + 1) + values - values.min()
    codes, which = torch.unique(code, return_inverse=True)
    numbers = torch.arange(len(note), device=note.device)
    example = torch.empty_like(codes).scatter_(0, which, numbers)
    is_known = torch.zeros_like(codes, dtype=torch.bool)
    power = compute(example[:1]).expand(len(codes), -1).clone()

    def learn(wanted: Tensor) -> None:
        """Compute what is not known yet of the powers of pairs (n,)."""
        is_missing = torch.zeros_like(is_known).index_fill_(0, which[wanted], True) & ~is_known
        for part in torch.split(is_missing.nonzero()[:, 0], AT_ONCE):
            power[part] = compute(example[part])
        is_known.logical_or_(is_missing)

    # A gap lies between two frames in which a note sounds, and in the first of which it has ended.
    step = frame % GAP
    end = (numbers + GAP).clamp(max=len(note) - 1)
    is_gap = (step == 0) & has_ended & (note[end] == note) & (frame[end] == frame + GAP)
    begin = (numbers - step).clamp(min=0)
    is_between = (step > 0) & is_gap[begin] & (note[begin] == note)
    sure = (~is_between).nonzero()[:, 0]
    learn(sure)
    total = power.new_zeros(1 + WINDOW_FRAMES, power.shape[1])
    total.index_add_(0, frame[sure], power.index_select(0, which[sure]))

    level = total + MEL_FLOOR**2
    rows = level[:-1].view(-1, GAP, power.shape[1])
    at_ends = torch.minimum(rows[:, 0], level[GAP::GAP])
    certain = torch.minimum(rows.amin(1), at_ends).maximum(CERTAIN * at_ends)
    gaps = is_gap.nonzero()[:, 0]
    place = frame[gaps] // GAP
    first, last = power[which[gaps]], power[which[gaps + GAP]]
    limit = (DROWNED * certain).clamp(min=1.001 * faintest)[place]
    is_drowned = (first.maximum(last) < limit).all(1)
    lines = power.new_zeros(2, *at_ends.shape)
    lines[0].index_add_(0, place[is_drowned], first[is_drowned])
    lines[1].index_add_(0, place[is_drowned], last[is_drowned])
    share = torch.arange(GAP, device=note.device)[:, None] / GAP
    between = lines[0][:, None].lerp(lines[1][:, None], share)
    between[:, 0] = 0  # frames that are known
    total[:-1] += between.flatten(0, 1)

    is_left_out = torch.zeros_like(is_gap).index_fill_(0, gaps[is_drowned], True)
    others = (is_between & ~is_left_out[begin]).nonzero()[:, 0]
    learn(others)
    total.index_add_(0, frame[others], power.index_select(0, which[others]))
    return total, power.index_select(0, which[frame == 0])
