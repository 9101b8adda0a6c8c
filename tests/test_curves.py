"""The curves of single notes: when notes sound, what a recording shows, and learning them."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from spectro_render.checkpoints.find import resolve_model
from spectro_render.checkpoints.load import load_model, save_model
from spectro_render.constants import N_MELS, WINDOW_FRAMES
from spectro_render.errors import SpectroRenderError, WeightsCorrupt
from spectro_render.network.config import ModelConfig
from spectro_render.network.curves import DRUM_KIT, SILENT, NoteCurves, sounding
from spectro_render.network.frames import note_table
from spectro_render.network.model import SpectrogramModel
from spectro_render.tokens.vocabulary import WindowNote
from spectro_render.training.curves import CurveOptions, CurveTrainer
from spectro_render.training.notes import read_notes
from spectro_render.training.soundfont import RecordingMap, read_recordings
from tests.support.toys import toy_config

SIZES = {
    "draft": "curves",
    "curve_width": 8,
    "curve_hidden": 16,
    "latent_width": 4,
    "recordings": 3,
    "recorded_frames": 60,
}
NOTE = WindowNote(60, 0, 20, False, False, 100, 200)


def curves_config(**changes: object) -> ModelConfig:
    return toy_config(**{**SIZES, **changes})


def curves(seed: int = 0) -> NoteCurves:
    torch.manual_seed(seed)
    return NoteCurves(curves_config()).requires_grad_(False)


def powers(network: NoteCurves, *notes: WindowNote) -> Tensor:
    table = note_table([notes])
    return network(table, torch.ones(table.shape[:2], dtype=torch.bool))[0][0]


def test_a_note_sounds_from_its_onset_until_it_has_faded() -> None:
    power = powers(curves(), NOTE).sum(1)
    heard = (power > 0).nonzero()[:, 0]
    # Frame k of the result covers the steps from 2 k - 2 to 2 k + 2.
    assert heard[0] == 49 and heard[-1] == 250
    drum = powers(curves(), NOTE._replace(is_drum=True, offset=101)).sum(1)
    assert (drum > 0).nonzero()[-1] == 250  # four seconds after the hit
    held = powers(curves(), NOTE._replace(offset=512)).sum(1)
    assert bool((held[49:] > 0).all())


def test_powers_of_notes_add_up_in_any_order() -> None:
    network, other = curves(), NOTE._replace(pitch=64, onset=0, offset=512)
    both = powers(network, NOTE, other)
    torch.testing.assert_close(both, powers(network, NOTE) + powers(network, other))
    torch.testing.assert_close(both, powers(network, other, NOTE))


def test_the_rounding_does_not_depend_on_the_windows_beside_it() -> None:
    network = curves()
    windows = [[NOTE], [NOTE._replace(pitch=40 + k) for k in range(30)], []]
    table = note_table(windows)
    together = network(table, table[..., 3] == 1)[0]
    for window, expected in zip(windows, together, strict=True):
        assert powers(network, *window).equal(expected)


def test_settled_notes_are_counted_apart() -> None:
    network = curves()
    before, now = NOTE._replace(onset=-50, offset=300), NOTE._replace(pitch=70, onset=0, offset=300)
    table = note_table([[before, now]])
    total, settled = network(table, torch.tensor([[True, False]]))
    torch.testing.assert_close(settled[0], powers(network, before)[:1])
    assert bool((total[0, 0] > settled[0, 0]).any())


def test_a_key_without_a_recording_is_silent() -> None:
    network = curves()
    network.recording[0, 60] = SILENT
    assert not powers(network, NOTE).any()
    torch.testing.assert_close(
        powers(network, NOTE, NOTE._replace(pitch=61)), powers(network, NOTE._replace(pitch=61))
    )


def test_a_closed_hi_hat_cuts_an_open_one_off() -> None:
    network = curves()
    drum = NOTE._replace(is_drum=True, offset=101)
    opened, closed = drum._replace(pitch=46), drum._replace(pitch=42, onset=140)
    alone, both = powers(network, opened), powers(network, opened, closed)
    assert bool((alone[60:120] > 0).all())
    torch.testing.assert_close(both[:69], powers(network, opened)[:69])
    torch.testing.assert_close(both[73:], powers(network, closed)[73:])
    # A snare does not, and neither does a hit at the same time.
    for other in (closed._replace(pitch=38), closed._replace(onset=100)):
        together = powers(network, opened) + powers(network, other)
        torch.testing.assert_close(powers(network, opened, other), together)


def test_a_tied_note_of_unknown_onset_is_old() -> None:
    _, _, age, _ = sounding(note_table([[NOTE._replace(is_tied=True, onset=0)]])[0])
    assert age[0] == 120


def recorded(**buffers: Tensor) -> NoteCurves:
    """A network of which nothing is heard but a recording whose vector counts its frames."""
    network = curves()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(network.fall.bias, -30.0)
    network.latent.weight[:, 0] = torch.arange(60.0) / 100
    network.texture.weight[:, 0] = 1.0
    network.load_state_dict(buffers, strict=False)
    return network


@pytest.mark.parametrize(("speed", "frames"), [(1.0, 10), (2.0, 5), (0.5, 20)])
def test_a_recording_is_played_at_its_speed(speed: float, frames: int) -> None:
    network = recorded(ratio=torch.full((129, 128, 33), speed))
    log_mel = powers(network, NOTE).log()[:, 50] / 2
    # The first vector is that of 20 ms before the onset, which lies in the middle of frame 50.
    assert log_mel[50].item() == pytest.approx(0.01, abs=1e-5)
    assert log_mel[50 + frames].item() == pytest.approx(0.11, abs=1e-5)


def test_a_loop_is_repeated_while_the_note_sounds() -> None:
    loop = {"loop_start": torch.full((3,), 8.0), "loop_length": torch.full((3,), 12.0)}
    log_mel = powers(recorded(**loop), NOTE._replace(offset=512)).log()[50:, 50] / 2
    torch.testing.assert_close(log_mel[5:60], log_mel[11:66], atol=1e-5, rtol=0)
    assert log_mel.max() == pytest.approx(0.10, abs=1e-3)
    short = {"loop_start": torch.full((3,), 8.0), "loop_length": torch.full((3,), 2.0)}
    still = powers(recorded(**short), NOTE._replace(offset=512)).log()[55:, 50] / 2
    assert still.max() - still.min() < 1e-6


def test_a_faster_recording_has_its_partials_higher() -> None:
    peaks = {}
    for speed in (1.0, 2.0):
        network = recorded(ratio=torch.full((129, 128, 33), speed))
        network.latent.weight[:, 0] = 1.0
        network.texture.weight[:, 0] = 0.0
        network.texture.weight[40, 0] = 3.0
        peaks[speed] = int(powers(network, NOTE)[60].argmax())
    assert peaks[1.0] == 40  # 860 Hz
    assert peaks[2.0] == 62  # 1710 Hz


def test_a_model_with_curves_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = SpectrogramModel(curves_config())
    save_model(tmp_path / "model", model, dtype="float32")
    loaded = load_model(resolve_model(str(tmp_path / "model")))
    table = note_table([[NOTE]])
    assert loaded.config == model.config
    drafts = [network.encode_notes(table).draft for network in (loaded.model, model)]
    torch.testing.assert_close(*drafts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames", 1e4),
        ("recording", 3.0),
        ("recording", -2.0),
        ("ratio", 0.0),
        ("loop_length", -1.0),
    ],
)
def test_buffers_that_point_beyond_the_vectors_are_refused(
    name: str, value: float, tmp_path: Path
) -> None:
    model = SpectrogramModel(curves_config())
    (network,) = (part for part in model.modules() if isinstance(part, NoteCurves))
    getattr(network, name).view(-1)[0] = value
    save_model(tmp_path / "model", model, dtype="float32")
    with pytest.raises(WeightsCorrupt):
        load_model(resolve_model(str(tmp_path / "model")))


@pytest.mark.parametrize("name", [name for name in SIZES if name != "draft"])
def test_sizes_of_zero_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        curves_config(**{name: 0})


# --- learning ---------------------------------------------------------------------------------


def write_shard(folder: Path, program: int, pitches: range) -> None:
    """Notes of half a second, each a block of one band that fades after its end."""
    folder.mkdir(exist_ok=True)
    mels, rows = [], []
    for pitch in pitches:
        mel = torch.full((60, N_MELS), -9.0)
        mel[2:28, pitch - 20] = 1.0
        mels.append(mel)
        rows.append([program, pitch, 20, 4, 50, 60])
    tensors = {"mel": torch.cat(mels).half(), "notes": torch.tensor(rows, dtype=torch.int32)}
    save_file(tensors, folder / f"program-{program:03d}.safetensors")


def test_curves_learn_notes_and_continue_after_an_interruption(tmp_path: Path) -> None:
    for program in (0, 5, DRUM_KIT):
        write_shard(tmp_path / "notes", program, range(40, 70))
    mels, notes = read_notes(tmp_path / "notes")
    assert mels.shape == (90 * 60, N_MELS) and notes[31, 6] == 31 * 60
    maps = RecordingMap(
        recording=torch.zeros(129, 128, 33),
        ratio=torch.ones(129, 128, 33),
        frames=torch.full((3,), 20.0),
        loop_start=torch.zeros(3),
        loop_length=torch.zeros(3),
    )
    losses: list[str] = []

    def trainer(folder: str, steps: int) -> CurveTrainer:
        options = CurveOptions(steps=steps, batch_size=64, warmup=5, check_every=30, log_every=10)
        cpu = torch.device("cpu")
        return CurveTrainer(curves_config(), maps, options, tmp_path / folder, cpu, losses.append)

    whole = trainer("whole", 60)
    slow = replace(whole.options, full_rate_steps=240)
    gentle = CurveTrainer(
        curves_config(), maps, slow, tmp_path / "gentle", torch.device("cpu"), losses.append
    )
    assert gentle._rate() == pytest.approx(whole._rate() / 4)
    whole.train(mels, notes)
    held_out = [float(row.split()[-1]) for row in losses if "held_out" in row]
    assert held_out[-1] < 0.8 * held_out[0]

    stopped = trainer("stopped", 60)
    stopped.say = stop_at_step_40
    with pytest.raises(KeyboardInterrupt):
        stopped.train(mels, notes)
    again = trainer("stopped", 60)
    again.resume()
    assert again.step == 30
    again.train(mels, notes)
    for name, weights in whole.average.weights.items():
        assert again.average.weights[name].equal(weights), name


def stop_at_step_40(row: str) -> None:
    if row.startswith("step 40"):
        raise KeyboardInterrupt


# --- soundfonts -------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data


def soundfont() -> bytes:
    """A soundfont of one preset with two recordings: one looped and played up to key 59."""

    def rows(form: str, *values: tuple[object, ...]) -> bytes:
        return b"".join(struct.pack(form, *value) for value in values)

    end = (b"EOP",)
    parts = {
        b"phdr": rows("<20sHHHIII", (b"piano", 0, 0, 0, 0, 0, 0), (*end, 0, 0, 1, 0, 0, 0)),
        b"pbag": rows("<HH", (0, 0), (1, 0)),
        b"pgen": rows("<HH", (41, 0), (0, 0)),
        b"inst": rows("<20sH", (b"piano", 0), (b"EOI", 2)),
        b"ibag": rows("<HH", (0, 0), (3, 0), (6, 0)),
        b"igen": rows(
            "<HH", (43, 59 << 8), (54, 1), (53, 0), (43, 60 | 127 << 8), (58, 72), (53, 1), (0, 0)
        ),
        b"shdr": rows(
            "<20sIIIIIBbHH",
            (b"low", 1000, 9000, 2000, 6000, 10_000, 48, 0, 0, 1),
            (b"high", 10_000, 20_000, 10_000, 10_000, 10_000, 60, 0, 0, 1),
            (b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0),
        ),
    }
    pdta = b"pdta" + b"".join(chunk(name, data) for name, data in parts.items())
    return chunk(b"RIFF", b"sfbk" + chunk(b"LIST", b"sdta") + chunk(b"LIST", pdta))


def test_the_recordings_of_a_soundfont(tmp_path: Path) -> None:
    path = tmp_path / "two.sf2"
    path.write_bytes(soundfont())
    found = read_recordings(path, 32)
    low, high = (int(found.recording[0, key, 20]) for key in (50, 60))
    assert low != high and int(found.recording[0, 127, 1]) == high
    assert found.ratio[0, 60, 20].item() == pytest.approx(0.5)  # an octave below key 72
    assert found.ratio[0, 36, 20].item() == pytest.approx(0.5)
    assert found.loop_start[low] == 10 and found.loop_length[low] == 40
    assert found.loop_length[high] == 0 and found.frames[high] == 203
    assert found.recording[1, 60, 20] == SILENT  # a program that it lacks
    assert int(found.frames.sum()) == found.frames.sum()


def test_what_is_no_soundfont_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.sf2"
    for data in (b"", b"RIFF", soundfont()[:300], bytes(1000)):
        path.write_bytes(data)
        with pytest.raises(SpectroRenderError, match=r"no\.sf2 is no soundfont"):
            read_recordings(path, 32)


def test_a_window_of_silence_has_no_power() -> None:
    assert powers(curves()).shape == (1 + WINDOW_FRAMES, N_MELS)
    assert not powers(curves()).any()
    assert replace(curves_config(), draft="envelopes").draft == "envelopes"


def count_pairs(network: NoteCurves, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of pairs of a note and a frame that are computed from now on."""
    counts: list[int] = []
    compute = network._curve

    def curve(*arguments: Any) -> Tensor:
        level: Tensor = compute(*arguments)
        counts.append(len(level))
        return level

    monkeypatch.setattr(network, "_curve", curve)
    return counts


@pytest.mark.parametrize("held", [True, False])
def test_powers_that_others_drown_are_left_out_of_a_draft(
    monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    network = curves()
    network.fall.bias.fill_(3.0)  # 26 dB in 100 ms
    soft = [NOTE._replace(pitch=40 + 3 * i, onset=20 * i, offset=20 * i + 15) for i in range(16)]
    notes = [*soft, NOTE._replace(onset=-10, offset=512 if held else 400)]
    table = note_table([notes])
    settled = torch.tensor([[note.onset < 0 for note in notes]])
    whole, before = network(table, settled)  # training computes all of them
    counts = count_pairs(network, monkeypatch)
    with torch.no_grad():
        total, part = network(table, settled)
    assert torch.allclose(total, whole, rtol=2e-5, atol=1e-15)
    assert torch.allclose(part, before, rtol=1e-6)
    assert bool((before > 0).all())
    every = len(sounding(table[0]).note)
    assert 0.1 * every < sum(counts) < 0.5 * every


def test_powers_of_equal_notes_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = curves()
    once = powers(network, NOTE)
    counts = count_pairs(network, monkeypatch)
    with torch.no_grad():
        twice = powers(network, NOTE, NOTE)
        later = powers(network, NOTE, NOTE._replace(onset=180, offset=280))  # 40 frames
    every = len(sounding(note_table([[NOTE]])[0]).note)
    assert sum(counts) <= 2 * every + 10
    assert torch.allclose(twice, 2 * once, rtol=1e-5)
    shifted = torch.zeros_like(once)
    shifted[40:] = once[:-40]
    assert torch.allclose(later, once + shifted, rtol=1e-5)
