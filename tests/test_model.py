"""The Transformer equals the published one; what must not matter does not; notes lie on frames."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from spectro_render.constants import N_MELS, STEPS_PER_WINDOW, WINDOW_FRAMES
from spectro_render.diffusion import DiscreteSchedule, guide, sample, sampling_levels
from spectro_render.network.frames import (
    DRUM_KIT,
    NATS,
    PAD_NOTE,
    NoteMemory,
    Tail,
    envelopes,
    note_table,
    table_notes,
)
from spectro_render.network.layers import attend, gelu
from spectro_render.network.model import LEVELS_AT_ONCE, FrameEncoder, SpectrogramModel
from spectro_render.options import SAMPLERS, Sampling
from spectro_render.tokens.vocabulary import WindowNote
from tests.support.golden import arrays, checkpoint, difference, tokens
from tests.support.toys import toy_config

SAME = 2e-6  # two orders of float32 sums

FRAMED = toy_config(mlp_width=64, decoder_layers=2)
PIANO = WindowNote(60, 0, 20, False, False, 100, 200)
TIED = WindowNote(64, 5, 20, False, True, 0, 150)
LONG = WindowNote(67, 0, 9, False, False, 300, STEPS_PER_WINDOW)
DRUM = WindowNote(38, 0, 30, True, False, 50, 51)

# Columns of `envelopes`.
ONSET, HELD, DECAY, RELEASE = slice(0, 3), 3, slice(4, 7), slice(8, 11)


@pytest.fixture(scope="module")
def published() -> SpectrogramModel:
    return checkpoint().model


@pytest.fixture(scope="module")
def framed() -> SpectrogramModel:
    torch.manual_seed(0)
    return SpectrogramModel(FRAMED).eval().requires_grad_(False)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def mels(batch: int) -> Tensor:
    return noise(batch, WINDOW_FRAMES, N_MELS)


# --- against the published numbers ------------------------------------------------------------


@pytest.mark.parametrize("window", [0, 1])
def test_note_encoder(published: SpectrogramModel, window: int) -> None:
    encoded = published.notes(tokens(window))[0]
    assert difference(encoded, arrays("runs")[f"notes_encoded_{window}"]) < 1e-5


def test_context_encoder(published: SpectrogramModel) -> None:
    assert published.context is not None
    encoded = published.context(arrays("runs")["context"][None])[0]
    assert difference(encoded, arrays("runs")["ctx_encoded_1"]) < 1e-5


@pytest.mark.parametrize("call", [0, 1, 2])
def test_decoder(published: SpectrogramModel, call: int) -> None:
    runs = arrays("runs")
    memory = published.encode(tokens(1), runs["context"][None])
    epsilon = published.denoise(runs["x"][call][None], runs["times"][call][None], memory)[0]
    assert difference(epsilon[::4], runs["eps"][call]) < 1e-5


# --- what must not matter ---------------------------------------------------------------------


def test_padding_changes_nothing(published: SpectrogramModel) -> None:
    x, time = mels(1), torch.tensor([0.5])
    padded = torch.nn.functional.pad(tokens(0), (0, 100))
    one, other = (published.denoise(x, time, published.encode(t, x)) for t in (tokens(0), padded))
    assert difference(one, other) < SAME


def test_no_context_is_masked_context(published: SpectrogramModel) -> None:
    x, time = mels(1), torch.tensor([0.5])
    masked = published.encode(tokens(0), x, torch.tensor([False]))
    absent = published.encode(tokens(0), None)
    one, other = (published.denoise(x, time, memory) for memory in (masked, absent))
    assert difference(one, other) < SAME


def test_two_windows_at_once(published: SpectrogramModel) -> None:
    x, context, times = mels(2), mels(2).clamp(-1, 1), torch.tensor([0.2, 0.9])
    ids = torch.zeros(2, tokens(1).shape[1], dtype=torch.long)
    ids[0, : tokens(0).shape[1]], ids[1] = tokens(0), tokens(1)
    both = published.denoise(x, times, published.encode(ids, context, torch.tensor([False, True])))
    first = published.denoise(x[:1], times[:1], published.encode(tokens(0), None))
    second = published.denoise(x[1:], times[1:], published.encode(tokens(1), context[1:]))
    assert difference(both, torch.cat([first, second])) < SAME


@pytest.mark.parametrize("training", [False, True])
def test_attention_to_nothing_is_zero(training: bool) -> None:
    query, key, value = noise(3, 2, 1, 4, 8)
    mask = torch.tensor([[False] * 4, [True] * 4])
    with torch.set_grad_enabled(training):
        attended = attend(
            query.expand(2, 2, 4, 8), key.expand(2, 2, 4, 8), value.expand(2, 2, 4, 8), mask
        )
    assert bool((attended[0] == 0).all())
    assert bool((attended[1] != 0).all())


def test_training_attends_as_rendering_does() -> None:
    query, key, value = noise(3, 2, 2, 5, 8)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    for allowed in (None, mask):
        with torch.no_grad():
            fused = attend(query, key, value, allowed)
        with torch.enable_grad():
            assert difference(attend(query, key, value, allowed), fused) < SAME


# --- notes on frames --------------------------------------------------------------------------


def shapes(note: WindowNote) -> Tensor:
    """The envelopes of one note in the window's frames, (T, K)."""
    return envelopes(note_table([[note]]))[0, 1:, 0]


def test_note_table() -> None:
    table = note_table([[PIANO, DRUM], []])
    assert table.tolist() == [
        [[60, 0, 20, 0, 100, 200], [38, DRUM_KIT, 30, 0, 50, STEPS_PER_WINDOW]],
        [[PAD_NOTE] * 6] * 2,
    ]


def test_note_tables_of_a_multiple_of_rows() -> None:
    for notes, rows in ((0, 4), (1, 4), (4, 4), (5, 8)):
        table = note_table([[PIANO] * notes], 4)
        assert table.shape == (1, rows, 6)
        assert int((table[..., 0] != PAD_NOTE).sum()) == notes


def test_a_note_sounds_from_onset_to_offset() -> None:
    rows = shapes(PIANO)  # one second to two seconds: frames 50 to 100, centred a frame later
    assert not rows[:48].any()
    assert rows[48:52, ONSET].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert rows[48:51, HELD].tolist() == [0, 0.5, 1]
    assert rows[97:101, HELD].tolist() == [1, 1, 0.5, 0]
    assert not rows[:98, RELEASE].any()


def test_decays_and_release() -> None:
    rows = shapes(PIANO)
    frame = 60  # centred on 61: 11 frames after the onset
    expected = torch.tensor([math.exp(-11 / tau) for tau in (4, 15, 60)])
    assert torch.allclose(rows[frame, DECAY], expected)
    frame = 109  # 10 frames after the offset of a note of 50 frames
    expected = torch.tensor([math.exp(-10 / tau) for tau in (4, 20)])
    assert torch.allclose(rows[frame, RELEASE][:2], expected)
    assert float(rows[frame, RELEASE][2]) == pytest.approx(math.exp(-10 / 15 - 50 / 40))


def test_a_tied_note_has_no_onset() -> None:
    rows = shapes(TIED)
    assert not rows[:, ONSET].any()
    assert rows[:74, HELD].tolist() == [1] * 74
    assert float(rows[0, DECAY][2]) == pytest.approx(math.exp(-61 / 60))


def test_a_tied_note_sounds_in_the_frame_before_the_window() -> None:
    before = envelopes(note_table([[TIED, PIANO]]))[0, 0]
    assert float(before[0, HELD]) == 1
    assert float(before[0, DECAY][2]) == pytest.approx(math.exp(-60 / 60))
    assert not before[1].any()


# --- what earlier windows told ----------------------------------------------------------------


def note(onset: int, offset: int, pitch: int = 60, **changes: object) -> WindowNote:
    return WindowNote(pitch, 0, 20, False, False, onset, offset)._replace(**changes)


def tied(offset: int, pitch: int = 60) -> WindowNote:
    """As a window has it: neither onset nor velocity are told."""
    return note(0, offset, pitch, is_tied=True, velocity_bin=32)


def test_a_tied_note_is_remembered_since_its_onset() -> None:
    memory = NoteMemory(100)
    assert memory.recall([note(300, 512)]) == [note(300, 512)]
    assert memory.recall([tied(512)]) == [note(300 - 512, 512)]
    assert memory.recall([tied(40)]) == [note(300 - 2 * 512, 40)]


def test_without_memory_nothing_is_known() -> None:
    memory = NoteMemory(0)
    memory.recall([note(300, 512), note(400, 510, 61)])
    assert memory.recall([tied(40)]) == [tied(40)]


def test_what_nobody_told_stays_tied() -> None:
    assert NoteMemory(100).recall([tied(40), note(50, 60)]) == [tied(40), note(50, 60)]


def test_ended_notes_are_remembered_for_a_while() -> None:
    memory = NoteMemory(100)
    memory.recall([note(0, 412), note(0, 413, 61), note(200, 500, 62)])
    assert memory.recall([]) == [note(-512, -99, 61), note(-312, -12, 62)]
    assert memory.recall([]) == []


def test_what_is_not_tied_has_ended_at_the_border() -> None:
    memory = NoteMemory(100)
    memory.recall([note(300, 512)])
    assert memory.recall([note(80, 90)]) == [note(-212, 0), note(80, 90)]


def test_a_pitch_struck_again_is_another_note() -> None:
    memory = NoteMemory(100)
    memory.recall([note(0, 450), note(450, 512)])
    assert memory.recall([tied(10), note(20, 512)]) == [
        note(-512, -62),
        note(-62, 10),
        note(20, 512),
    ]
    assert memory.recall([tied(5)]) == [note(-492, 5)]


def test_drums_are_remembered_from_their_onset() -> None:
    hit = DRUM._replace(onset=500, offset=501)
    memory = NoteMemory(100)
    memory.recall([DRUM, hit])
    (known,) = memory.recall([])
    assert (known.is_drum, known.onset, known.offset) == (True, -12, -11)


def test_remembered_notes_go_on_sounding_as_they_would_have() -> None:
    """The last frame of a window and the frame before the next one are one and the same."""
    played = [
        note(300, 512),
        note(0, 490, 61),
        note(500, 512, 62),
        DRUM._replace(onset=500, offset=501),
    ]
    memory = NoteMemory(200)
    memory.recall(played)
    later = note_table([memory.recall([tied(100), tied(512, 62)])])
    here = envelopes(note_table([played]))[0, -1]
    there = envelopes(later)[0, 0]
    assert torch.allclose(here.sum(0), there.sum(0), atol=1e-5)


def test_a_windows_last_frame_shows_the_notes_that_begin_just_behind_it() -> None:
    """That frame and the frame before the next window's first are one and the same."""
    for step in range(8):
        memory = NoteMemory(200)
        following = [note(step, 40, 50), DRUM._replace(onset=step, offset=step + 1)]
        here = envelopes(note_table([memory.recall([], following)]))[0, -1]
        there = envelopes(note_table([memory.recall(following)]))[0, 0]
        assert torch.allclose(here.sum(0), there.sum(0), atol=1e-5)


@pytest.mark.parametrize("steps", [0, 200])
def test_notes_that_are_not_due_yet_are_not_remembered(steps: int) -> None:
    memory = NoteMemory(steps)
    following = [tied(100, 62), note(3, 40), note(4, 40, 61)]
    assert memory.recall([note(300, 512, 62)], following) == [note(300, 512, 62), note(515, 552)]
    remembered = [note(-212, 100, 62) if steps else tied(100, 62), *following[1:]]
    assert memory.recall(following) == remembered


def test_tables_and_notes() -> None:
    notes = [PIANO, DRUM, note(-30, 10, is_tied=False), tied(5)]
    assert table_notes(note_table([notes, [PIANO] * 9])[0]) == notes


@pytest.mark.parametrize("note", [LONG, DRUM])
def test_no_release_within_the_window(note: WindowNote) -> None:
    rows = shapes(note)
    assert not rows[:, RELEASE].any()
    assert float(rows[-1, HELD]) == 1


def test_envelopes_are_never_negative() -> None:
    assert bool((envelopes(note_table([[PIANO, TIED, LONG, DRUM]])) >= 0).all())


# --- where windows join -------------------------------------------------------------------------

ALL_SETTLED = torch.ones(1, 1, N_MELS)


def corrected(framed: SpectrogramModel, *notes: WindowNote, above: float) -> tuple[Tensor, Tensor]:
    """The draft (T, M) of notes, and after a context that ends `above` its own draft there."""
    table = note_table([notes])
    assert isinstance(framed.notes, FrameEncoder)
    early = framed.notes.notes(table)[1]
    context = early[:, :1].expand(-1, WINDOW_FRAMES, -1) + above
    memory = framed.encode(table, context)
    assert memory.draft is not None
    return early[0, 1:], memory.draft[0]


@pytest.mark.parametrize("above", [0.2, -0.2])
def test_a_draft_goes_on_where_the_context_ended(framed: SpectrogramModel, above: float) -> None:
    plain, draft = corrected(framed, TIED, above=above)
    gap = (draft - plain).abs()
    # The draft itself changes a little from the frame before the window to its first one.
    assert torch.allclose(draft[0] - plain[0], torch.tensor(above), atol=0.005)
    assert bool((gap[1:] <= gap[:-1] + 1e-6).all())
    assert float(gap[40:].max()) < 1e-4


@torch.no_grad()
def test_a_new_loud_note_ends_the_correction() -> None:
    draft = torch.full((1, 1 + WINDOW_FRAMES, N_MELS), -0.9)
    draft[:, 6:] = 0.5  # from the window's frame 5 on
    context = torch.full((1, WINDOW_FRAMES, N_MELS), -0.5)
    features, correction = Tail(8, 4)(context, draft, ALL_SETTLED)
    assert features.shape == (1, WINDOW_FRAMES, 8)
    assert correction[0, :5, 0].tolist() == pytest.approx(
        [0.4 * math.exp(-t / 3) for t in range(5)]
    )
    assert float(correction[0, 5].abs().max()) < 0.001 < float(correction[0, 4].abs().min())


@torch.no_grad()
def test_what_begins_at_the_border_is_not_taken_for_too_little_before_it() -> None:
    draft = torch.full((1, 1 + WINDOW_FRAMES, N_MELS), 0.5)  # from the frame before the window on
    context = torch.full((1, WINDOW_FRAMES, N_MELS), -0.9)
    settled = torch.ones(1, 1, N_MELS)
    settled[..., 64:] = 0.001
    correction = Tail(8, 4)(context, draft, settled)[1]
    assert float(correction[0, 0, :64].max()) == pytest.approx(-1.4)
    assert float(correction[..., 64:].abs().max()) < 0.01


def test_notes_are_settled_that_began_two_frames_before_the_window(
    framed: SpectrogramModel,
) -> None:
    assert isinstance(framed.notes, FrameEncoder)
    for known, share in ((note(-4, 100), 1.0), (tied(100), 1.0), (note(-3, 100), 0.0)):
        settled = framed.notes.notes(note_table([[known]]))[2]
        assert settled.shape == (1, 1, N_MELS)
        assert float(settled.mean()) == pytest.approx(share, abs=0.05)
    silence = framed.notes.notes(note_table([[]]))[2]
    assert silence.unique().tolist() == [1]


@torch.no_grad()
def test_what_ended_at_the_border_does_not_swell_what_begins_there() -> None:
    draft = torch.full((1, 1 + WINDOW_FRAMES, N_MELS), -0.2)
    draft[:, 0] = -1.0  # all that sounded before has ended, and is in no note of this window
    context = torch.full((1, WINDOW_FRAMES, N_MELS), -0.2)
    correction = Tail(8, 4)(context, draft, ALL_SETTLED)[1]
    twice_the_power = math.log(2) / 2 / NATS
    assert float(correction.max()) == pytest.approx(twice_the_power, rel=0.01)
    assert float(correction[0, 20:].max()) < 0.001


@torch.no_grad()
def test_a_correction_is_never_more_than_the_gap() -> None:
    draft = torch.full((1, 1 + WINDOW_FRAMES, N_MELS), -0.2)
    draft[:, 3:] = -0.9  # what sounded at the border ends soon after it
    context = torch.full((1, WINDOW_FRAMES, N_MELS), -0.1)
    correction = Tail(8, 4)(context, draft, ALL_SETTLED)[1]
    assert correction[0, :9, 0].tolist() == pytest.approx(
        [0.1 * math.exp(-t / 3) for t in range(9)]
    )


@torch.no_grad()
def test_the_last_frames_of_the_context_reach_the_first_ones() -> None:
    tail = Tail(8, 4)
    torch.nn.init.normal_(tail.spread.weight)
    draft = torch.zeros(1, 1 + WINDOW_FRAMES, N_MELS)
    context = torch.zeros(2, WINDOW_FRAMES, N_MELS)
    context[0, -5], context[1, -4] = 1, 1  # beyond the tail's reach, and just within
    features = tail(context, draft.expand(2, -1, -1), ALL_SETTLED)[0]
    assert not features[0].any()
    assert bool((features[1, 1:].norm(dim=1) < features[1, :-1].norm(dim=1)).all())


def test_rows_of_padding_change_nothing(framed: SpectrogramModel) -> None:
    x, time = mels(2), torch.tensor([0.3, 0.6])
    short, long = [PIANO], [TIED, LONG, DRUM]
    both = framed.denoise(x, time, framed.encode(note_table([short, long]), None))
    alone = framed.denoise(x[:1], time[:1], framed.encode(note_table([short]), None))
    assert difference(both[:1], alone) < SAME


def test_the_order_of_notes_changes_nothing(framed: SpectrogramModel) -> None:
    one, other = (
        framed.encode(note_table([notes]), None) for notes in ([PIANO, DRUM], [DRUM, PIANO])
    )
    assert one.frames is not None and other.frames is not None
    assert difference(one.frames, other.frames) < 1e-5


@pytest.mark.parametrize("changed", [DRUM, TIED, PIANO._replace(velocity_bin=1)])
def test_every_field_of_a_note_is_heard(framed: SpectrogramModel, changed: WindowNote) -> None:
    one, other = (framed.encode(note_table([[note]]), None).draft for note in (PIANO, changed))
    assert one is not None and other is not None
    assert difference(one, other) > 1e-4


def test_drums_share_nothing_with_pitches(framed: SpectrogramModel) -> None:
    as_drum = PIANO._replace(is_drum=True, program=0)
    as_effect = PIANO._replace(program=127)
    drafts = [framed.encode(note_table([[note]]), None).draft for note in (as_drum, as_effect)]
    assert drafts[0] is not None and drafts[1] is not None
    assert difference(drafts[0], drafts[1]) > 1e-4


def test_silence_drafts_silence(framed: SpectrogramModel) -> None:
    draft = framed.encode(note_table([[]]), None).draft
    assert draft is not None
    assert torch.allclose(draft, torch.tensor(-1.0))


def test_unconditional_pass_knows_nothing(framed: SpectrogramModel) -> None:
    x, time = mels(1), torch.tensor([0.5])
    unconditional = framed.denoise(x, time, None)
    conditional = framed.denoise(x, time, framed.encode(note_table([[PIANO]]), None))
    assert bool(unconditional.isfinite().all())
    assert difference(unconditional, conditional) > 1e-2


def test_context_of_a_frame_aligned_model_can_be_masked_window_by_window(
    framed: SpectrogramModel,
) -> None:
    x, time, context = mels(2), torch.tensor([0.5, 0.5]), mels(2).clamp(-1, 1)
    table = note_table([[PIANO], [PIANO]])
    half = framed.denoise(x, time, framed.encode(table, context, torch.tensor([False, True])))
    absent = framed.denoise(x, time, framed.encode(table, None))
    present = framed.denoise(x, time, framed.encode(table, context))
    assert difference(half, torch.cat([absent[:1], present[1:]])) < SAME
    assert difference(absent, present) > 1e-3


def test_loud_and_faint_notes_survive_half_precision() -> None:
    """Their powers span e^-30 to e^12, float16 only e^-16 to e^11."""
    torch.manual_seed(0)
    notes = SpectrogramModel(FRAMED).notes.notes
    torch.nn.init.constant_(notes.log_power.weight, 0.0)
    for log_power in (-40.0, 40.0):
        torch.nn.init.constant_(notes.log_power.bias, log_power)
        exact = notes(note_table([[PIANO, LONG]]))[1]
        with torch.autocast("cpu", torch.float16):
            half = notes(note_table([[PIANO, LONG]]))[1]
        assert half.isfinite().all()
        assert (half - exact).abs().max() < 1e-3


# --- what is computed together ------------------------------------------------------------------


def token_model() -> SpectrogramModel:
    torch.manual_seed(0)
    config = toy_config(conditioning="cross_attention", decoder_layers=2)
    return SpectrogramModel(config).eval().requires_grad_(False)


@torch.no_grad()
def test_one_time_for_all_windows(framed: SpectrogramModel) -> None:
    """A single time equals as many of it as there are windows."""
    memory, x = framed.encode(note_table([[PIANO], [TIED]]), None), mels(2)
    expected = framed.denoise(x, torch.tensor([0.3, 0.3]), memory)
    assert difference(framed.denoise(x, torch.tensor([0.3]), memory), expected) < SAME
    assert difference(framed.denoise(x, torch.tensor([0.4]), memory), expected) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("steps", "products"), [(3, 1), (LEVELS_AT_ONCE + 2, 2)])
def test_levels_of_a_window_are_computed_together(
    framed: SpectrogramModel, steps: int, products: int
) -> None:
    """However often the network is asked, and with the mel that levels one by one would give."""
    memory, asked = framed.encode(note_table([[PIANO]]), None), []
    sampling = Sampling("ddim", steps, 2.0, 0)
    handle = framed.decoder.level.register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    drawn = framed.draw(memory, lambda: mels(1), sampling)
    handle.remove()
    assert len(asked) == products
    assert torch.cat(asked).tolist() == pytest.approx([i / steps for i in range(steps, 0, -1)])

    known, unknown = (
        lambda x, t, m=m: framed.denoise(x, torch.tensor([t]), m) for m in (memory, None)
    )
    one_by_one = sample(
        guide(known, unknown, 2.0),
        mels(1),
        sampler="ddim",
        steps=steps,
        draw=lambda: mels(1),
        target=framed.config.target,
    )
    assert difference(drawn, one_by_one) < SAME


@torch.no_grad()
@pytest.mark.parametrize("conditioning", ["frame_aligned", "cross_attention"])
def test_notes_encoded_together_are_those_encoded_alone(conditioning: str) -> None:
    model, context, half = token_model(), mels(1).clamp(-1, 1), torch.tensor([0.5])
    windows = [tokens(window) for window in range(3)]
    batch = torch.nn.utils.rnn.pad_sequence([ids[0] for ids in windows], batch_first=True)
    if conditioning == "frame_aligned":
        torch.manual_seed(0)
        model = SpectrogramModel(FRAMED).eval()
        notes = [[PIANO], [TIED, LONG, DRUM], []]
        windows, batch = [note_table([rows]) for rows in notes], note_table(notes)
    together = model.encode_notes(batch)
    for before in (context, None):
        contexts = None if before is None else before.expand(3, -1, -1)
        denoised = model.denoise(mels(3), half, model.remember(together, contexts))
        for x, alone, made in zip(mels(3), windows, denoised, strict=True):
            memory = model.encode(alone, before)
            assert memory.mask is None
            assert difference(made[None], model.denoise(x[None], half, memory)) < SAME


@pytest.mark.parametrize("conditioning", ["frame_aligned", "cross_attention"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_step_waits_for_the_device(conditioning: str, sampler: str) -> None:
    """Nothing within a window asks for a number that a device has computed: here none has any."""
    sampling_levels(sampler, 3, DiscreteSchedule())  # made once, and not on a device
    with FakeTensorMode(), torch.inference_mode():
        model = SpectrogramModel(toy_config(conditioning=conditioning))
        notes = torch.zeros(2, 7, 6, dtype=torch.long)
        if conditioning == "cross_attention":
            notes = notes[..., 0]
        encoded = model.encode_notes(notes, [7, 5])
        heard = torch.ones(2, dtype=torch.bool)
        memory = model.remember(encoded, torch.zeros(2, WINDOW_FRAMES, N_MELS), heard)
        noise = partial(torch.randn, 2, WINDOW_FRAMES, N_MELS)
        mel = model.draw(memory, noise, Sampling(sampler, 3, 2.0, 0))
        assert mel.shape == (2, WINDOW_FRAMES, N_MELS)
        with pytest.raises(DataDependentOutputException):
            float(mel.sum())


def test_gelu_is_the_tanh_form() -> None:
    x = torch.linspace(-20, 20, 4001)
    with torch.no_grad():
        assert difference(gelu(x), torch.nn.functional.gelu(x, approximate="tanh")) < 1e-6
        assert gelu(torch.tensor([-1e4, 0.0, 1e4])).tolist() == [0, 0, 1e4]
