"""The window loop and the renderer, with a tiny model of random weights."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spectro_render.checkpoints import load_checkpoint
from spectro_render.constants import SAMPLE_RATE, WINDOW_SECONDS
from spectro_render.errors import DeviceError, MidiError, OptionError, WeightsNotFound
from spectro_render.midi.buses import Bus
from spectro_render.midi.course import Curve
from spectro_render.midi.length import TAIL_SECONDS
from spectro_render.midi.score import Note, Score, section
from spectro_render.network.device import find_device
from spectro_render.network.model import Attention, DecoderLayer, SpectrogramModel
from spectro_render.options import Progress, RenderOptions, Sampling
from spectro_render.render.mixer import BusGain, Mixer
from spectro_render.render.renderer import Renderer
from spectro_render.render.song import FADE_OUT, Ending, SongSound
from spectro_render.render.voice import Voice, WindowCursor
from spectro_render.tokens.vocabulary import Vocabulary
from spectro_render.vocoder.streaming import StreamingVocoder
from tests.support.costs import time_and_memory
from tests.support.golden import checkpoint
from tests.support.tolerances import STEPS_OF_16_BIT
from tests.support.toys import window_alone


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Renderer:
    return Renderer.load(tiny_model, device="cpu")


def make_score(seconds: float) -> Score:
    """Two notes a second, one of them held over the first window's end."""
    notes = [Note(k / 2, k / 2 + 0.5, 50 + k % 20, 90, 0, False) for k in range(int(2 * seconds))]
    if seconds >= 7:
        notes.append(Note(4.0, 7.0, 40, 80, 48, False))
    return Score(tuple(sorted(notes, key=lambda note: note.start)), seconds)


class TestLength:
    def test_ends_when_the_music_has_rung_out(self, renderer: Renderer) -> None:
        audio = renderer.render(make_score(8.0), tail=TAIL_SECONDS)
        assert audio.samples.shape == (1, round((8.0 + TAIL_SECONDS) * SAMPLE_RATE))
        assert audio.samples.dtype == np.float32
        assert np.isfinite(audio.samples).all()

    def test_duration_is_exact(self, renderer: Renderer) -> None:
        assert renderer.render(make_score(8.0), duration=3.21).seconds == pytest.approx(3.21)

    def test_duration_beyond_the_end_adds_nothing(self, renderer: Renderer) -> None:
        assert renderer.render(make_score(8.0), duration=60.0, tail=3.0).seconds == 11.0


class Falling(torch.nn.Module):
    """A vocoder that gives each sample the level of its frame."""

    receptive_field, period = 4, 1

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        return log_mel.amax(2).exp().repeat_interleave(320, 1)


class TestEnding:
    @pytest.mark.parametrize(
        ("per_frame", "seconds"), [(-0.02, 6.9), (-0.1, 3.0), (-0.019, 7.0), (-0.001, 3.0)]
    )
    def test_goes_on_until_the_sound_is_60_db_down(self, per_frame: float, seconds: float) -> None:
        bus = Bus(make_score(3.0), (0,), Curve((), (64.0,)))
        cursor, gain = WindowCursor([], Vocabulary(), 0), BusGain(bus, 1, 0.0)
        vocoder = StreamingVocoder(Falling(), live=True)  # type: ignore[arg-type]
        voice = Voice(cursor, vocoder, gain)
        sound = SongSound(Mixer([gain], [0], 1), 0.0, Ending(48_000, 112_000))
        frames, parts = torch.arange(4 * 256.0)[:, None].expand(-1, 128) * per_frame - 1, []
        for number, window in enumerate(frames.split(256), start=1):
            piece = voice.add(window)
            sound.find_end(voice.take_levels(256 * number))
            parts.append(sound.add([piece])[0])
            if not sound.rings_on and len(parts) >= 1:
                break
        parts.append(sound.add([voice.finish()], is_last=True)[0])
        samples = np.concatenate(parts, axis=1)[0]
        assert len(samples) / SAMPLE_RATE == pytest.approx(seconds, abs=0.05)
        assert abs(samples[-1]) < 1e-6

    def test_music_that_is_cut_by_a_duration_is_not_faded(self, renderer: Renderer) -> None:
        part = renderer.render(make_score(8.0), duration=3.0).samples[0]
        assert np.abs(part[-20:]).max() > 1e-3


class TestStream:
    def test_joins_to_the_whole(self, renderer: Renderer) -> None:
        score = make_score(17.0)
        whole = renderer.render(score)
        parts = [part.samples for part in renderer.stream(score)]
        lengths = [part.shape[1] for part in parts]
        assert len(lengths) >= 3 and lengths[0] < WINDOW_SECONDS * SAMPLE_RATE
        assert lengths[1] <= 2 * WINDOW_SECONDS * SAMPLE_RATE
        joined = np.concatenate(parts, axis=1)
        np.testing.assert_allclose(joined, whole.samples, rtol=0, atol=STEPS_OF_16_BIT)

    def test_sound_comes_after_the_first_window(self, renderer: Renderer) -> None:
        windows: list[int] = []
        sound = renderer.stream(make_score(17.0), on_progress=lambda p: windows.append(p.window))
        first = next(sound)
        assert set(windows) == {1}
        assert first.seconds > 1

    def test_is_the_vocoder_on_the_joined_mel(self, renderer: Renderer) -> None:
        """Piecewise vocoding equals vocoding at once (no limiter at this level)."""
        score, options = make_score(12.0), RenderOptions(gain=-20.0, tail=TAIL_SECONDS)
        mels = list(renderer.mels(renderer.windows(score, options), options))
        at_once = renderer.vocode(torch.cat(mels)).numpy() * 10 ** (-20 / 20)
        streamed = renderer.render(score, options).samples[0]
        assert np.abs(streamed - at_once[: len(streamed)])[:-FADE_OUT].max() < 1e-4
        assert abs(streamed[-1]) < 1e-4


class TestNoise:
    def test_same_seed_same_samples(self, renderer: Renderer) -> None:
        score = make_score(6.0)
        one, two = (
            renderer.render(score, seed=1, tail=1.0),
            renderer.render(score, seed=1, tail=1.0),
        )
        other = renderer.render(score, seed=2, tail=1.0)
        assert np.array_equal(one.samples, two.samples)
        assert not np.allclose(one.samples, other.samples, atol=1e-3)

    def test_a_window_alone_equals_itself_in_the_run(self, renderer: Renderer) -> None:
        """Noise hangs on (seed, window) and the past on the mel before, on nothing else."""
        score, options = make_score(14.0), RenderOptions(seed=3)
        windows = renderer.windows(score, options)
        mels = list(renderer.mels(windows, options))
        assert torch.equal(window_alone(renderer, windows[2], mels[1], options), mels[2])
        unheard = window_alone(renderer, windows[2], None, options)
        assert not torch.allclose(unheard, mels[2], atol=1e-3)


def test_windows_hear_what_earlier_ones_told(tiny_model: Path) -> None:
    """Same weights, same context: what is known of notes that have ended makes a difference."""
    score = make_score(12.0)
    loaded, mels = load_checkpoint(tiny_model), []
    for steps in (0, 300):
        model = SpectrogramModel(replace(loaded.config, memory_steps=steps))
        model.load_state_dict(loaded.model.state_dict())
        renderer = Renderer(replace(loaded, model=model), torch.device("cpu"), torch.float32)
        mels.append(list(renderer.mels(renderer.windows(score))))
    deaf, hears = mels
    assert torch.equal(deaf[0], hears[0])
    assert not torch.allclose(deaf[1], hears[1], atol=1e-3)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_song(tiny_model: Path, tmp_path: Path) -> None:
    (_, short), (_, long) = (
        time_and_memory(minutes, tmp_path, str(tiny_model)) for minutes in (3, 20)
    )
    assert long < short + 50  # MB; the samples of 17 minutes alone would be 62, the mels 25


class TestOptions:
    def test_model_defaults_fill_in(self, renderer: Renderer) -> None:
        assert renderer.sampling(RenderOptions(seed=4)) == Sampling("dpm++", 2, 1.0, seed=4)
        assert renderer.sampling(RenderOptions(steps=7)).steps == 7
        assert renderer.gain(RenderOptions()) == 12.0
        assert renderer.gain(RenderOptions(gain=0.0)) == 0.0

    def test_presets(self, renderer: Renderer) -> None:
        for quality, preset in (("fast", ("dpm++", 10)), ("best", ("ddpm", 1000))):
            sampling = renderer.sampling(RenderOptions(quality=quality))
            assert (sampling.sampler, sampling.steps) == preset
        sampling = renderer.sampling(RenderOptions(quality="best", steps=3, sampler="ddim"))
        assert (sampling.sampler, sampling.steps) == ("ddim", 3)

    @pytest.mark.parametrize(
        ("sampler", "steps"), [("ddpm", 3), ("ddpm-small", 3), ("ddim", 3), ("diffusers", 3)]
    )
    def test_every_sampler_renders(self, renderer: Renderer, sampler: str, steps: int) -> None:
        score = make_score(2.0)
        audio = renderer.render(score, sampler=sampler, steps=steps)
        assert np.isfinite(audio.samples).all()
        assert not np.array_equal(audio.samples, renderer.render(score).samples)

    def test_guidance_matters_and_gain_scales(self, renderer: Renderer) -> None:
        score = make_score(2.0)
        plain = renderer.render(score, gain=-30.0, tail=2.5).samples
        assert not np.allclose(
            plain, renderer.render(score, gain=-30.0, guidance=3.0, tail=2.5).samples
        )
        louder = renderer.render(score, gain=-24.0, tail=2.5).samples
        assert np.allclose(louder, plain * 10 ** (6 / 20), atol=1e-5)

    def test_nothing_clips(self, renderer: Renderer) -> None:
        assert np.abs(renderer.render(make_score(3.0), gain=50.0).samples).max() <= 0.9801

    def test_impossible_options(self, renderer: Renderer) -> None:
        with pytest.raises(OptionError, match="at least 1"):
            renderer.render(make_score(1.0), steps=0)
        with pytest.raises(OptionError, match="unknown sampler 'euler'"):
            renderer.render(make_score(1.0), sampler="euler")
        with pytest.raises(OptionError, match="unknown quality 'good'; use one of fast, best"):
            renderer.render(make_score(1.0), quality="good")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_near_float32(self, renderer: Renderer, dtype: torch.dtype) -> None:
        window = renderer.windows(make_score(2.0))[:1]
        rough = Renderer(renderer.checkpoint, torch.device("cpu"), dtype)
        exact, near = next(renderer.mels(window)), next(rough.mels(window))
        assert 0 < (exact - near).abs().mean() < 0.1


class TestGuidance:
    @pytest.fixture(params=["paper", "own"])
    def guided(self, request: pytest.FixtureRequest, renderer: Renderer) -> Renderer:
        """A model that reads its notes through cross-attention, and one that lays them out."""
        cpu, float32 = torch.device("cpu"), torch.float32
        return Renderer(checkpoint(), cpu, float32) if request.param == "paper" else renderer

    @pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (2.0, 2), (0.5, 2)])
    def test_the_unconditional_pass_needs_no_cross_attention(
        self, guided: Renderer, guidance: float, passes: int
    ) -> None:
        """Of the two windows the second has a mel before it, so that every model listens then."""
        calls: Counter[type] = Counter()
        model = guided.checkpoint.model
        layers = [module for module in model.modules() if isinstance(module, DecoderLayer)]
        watched = [model.decoder, *(layer.cross_attention for layer in layers)]
        hooks = [
            module.register_forward_hook(lambda called, *_: calls.update([type(called)]))
            for module in watched
        ]
        windows = guided.windows(make_score(7.0))[:2]
        options = RenderOptions(sampler="ddim", steps=3, guidance=guidance)
        mels = guided.mels(windows, options)
        listening = len(windows) if model.config.conditioning == "cross_attention" else 1
        assert len(list(mels)) == 2
        assert calls[type(model.decoder)] == 2 * 3 * passes
        assert calls[Attention] == listening * 3 * len(layers)
        for hook in hooks:
            hook.remove()

    def test_the_published_weights_were_meant_for_two(self) -> None:
        assert Renderer(checkpoint(), torch.device("cpu"), torch.float32).sampling().guidance == 2


class TestProgress:
    def test_counts_every_step_of_every_window(self, renderer: Renderer) -> None:
        seen: list[Progress] = []
        renderer.render(make_score(8.0), steps=3, tail=TAIL_SECONDS, on_progress=seen.append)
        assert seen == [Progress(w, 3, s / 3) for w in (1, 2, 3) for s in (1, 2, 3)]


class TestSection:
    score = Score(
        (
            Note(0.0, 3.0, 60, 90, 0, False),
            Note(1.0, 1.1, 38, 90, 0, True),
            Note(2.0, 2.5, 62, 90, 0, False),
            Note(4.0, 6.0, 64, 90, 0, False),
        ),
        6.0,
    )

    def test_notes_move_and_are_cut_at_the_edges(self) -> None:
        notes = section(self.score, 1.5, 3.0).notes
        assert [(n.pitch, n.start, n.end) for n in notes] == [
            (60, 0.0, 1.5),
            (62, 0.5, 1.0),
            (64, 2.5, 3.0),
        ]

    def test_rests_count(self) -> None:
        assert section(self.score, 1.5, 2.0).duration == 2.0  # the last note ends at 1.0
        assert section(self.score, 1.5, 99.0).duration == 4.5

    def test_whole_is_untouched(self) -> None:
        assert section(self.score, 0.0, None) is self.score

    def test_nothing_there(self) -> None:
        with pytest.raises(MidiError, match=r"no note sounds from 10 s to the end; the music"):
            section(self.score, 10.0, None)
        with pytest.raises(MidiError, match=r"from 3\.2 s to 3\.7 s"):
            section(self.score, 3.2, 0.5)


class TestLoading:
    def test_devices(self) -> None:
        assert find_device("cpu").type == "cpu"
        assert find_device("auto").type in ("cpu", "cuda")
        with pytest.raises(DeviceError, match="'cuda:99' cannot be used here"):
            find_device("cuda:99")

    def test_number_formats(self) -> None:
        with pytest.raises(DeviceError, match="unknown number format 'int3'"):
            Renderer.load(dtype="int3")

    def test_unknown_model(self) -> None:
        with pytest.raises(WeightsNotFound, match="no model 'nonsense'"):
            Renderer.load("nonsense")

    def test_reads_bytes_and_paths(self, renderer: Renderer, song: object) -> None:
        path = song(seconds=1.0)  # type: ignore[operator]
        from_path = renderer.render(path)
        assert np.array_equal(renderer.render(path.read_bytes()).samples, from_path.samples)
        with path.open("rb") as file:
            assert np.array_equal(renderer.render(file).samples, from_path.samples)


def test_options_are_values() -> None:
    assert replace(RenderOptions(), seed=1) == RenderOptions(seed=1)
