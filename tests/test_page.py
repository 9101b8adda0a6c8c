"""Pictures and pages of rendered songs; the pages are opened in a real browser."""

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from spectro_render.audio import Audio
from spectro_render.cli import run
from spectro_render.constants import SAMPLE_RATE
from spectro_render.mel import log_mel
from spectro_render.midi.read import read_midi
from spectro_render.midi.score import Note, Score
from spectro_render.options import RenderOptions, Sampling
from spectro_render.page import html, sound
from spectro_render.page.drawings import piano_roll, spectrogram
from spectro_render.page.html import make_page
from spectro_render.page.pages import describe
from spectro_render.page.rendering import Rendering, Stem, as_time, parts_of, time_step
from spectro_render.page.sound import embed, measure, sound_of_audio, sound_of_file
from tests.support.browser import open_browser
from tests.support.processes import wait_until
from tests.support.songs import MakeSong

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "</script><script>alert(1)</script>"
SECONDS = 12.0
NOTES = (
    *(
        Note(time, time + 0.4, 60 + int(time), 90, program, False)
        for program in (0, 40)
        for time in np.arange(0, 11, 0.5)
    ),
    Note(3.0, 3.1, 38, 90, 0, True),
)
SCORE = Score(notes=tuple(sorted(NOTES, key=lambda note: note.start)), duration=11.4)


def tone(hz: float, seconds: float = SECONDS) -> Audio:
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return Audio((0.25 * np.sin(2 * np.pi * hz * times)).astype(np.float32)[None])


def rendering(*stems: Stem, title: str = "song.mid") -> Rendering:
    both = sound_of_audio(Audio(tone(440).samples + tone(1500).samples))
    return Rendering(title, SCORE, both, {"model": "tiny"}, {}, ["ignored: pan"], stems)


STEMS = (
    Stem(EVIL, sound_of_audio(tone(440))),
    Stem("high", sound_of_audio(tone(1500))),
)


# --- the parts ------------------------------------------------------------------------------------


def test_a_sound_is_measured_block_by_block(tmp_path: Path) -> None:
    """As if it were read at once, whatever the blocks."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 45 * SAMPLE_RATE + 7))
    whole = Audio(samples.astype(np.float32))
    whole.save(tmp_path / "a.wav", bit_depth="float")
    of_file = measure(sound_of_file(tmp_path / "a.wav"), most_bins=100, most_columns=10**6)
    of_memory = measure(sound_of_audio(whole), most_bins=100, most_columns=10**6)
    np.testing.assert_allclose(of_file.mel, of_memory.mel, atol=1e-3)
    np.testing.assert_array_equal(of_file.highs, of_memory.highs)
    expected = log_mel(torch.from_numpy(whole.samples[0])).numpy()
    np.testing.assert_allclose(of_memory.mel, expected, atol=1e-3)
    assert len(of_file.highs) == len(of_file.lows) == 100
    assert of_file.peak == pytest.approx(20 * np.log10(np.abs(whole.samples).max()), abs=1e-4)
    assert of_file.rms == pytest.approx(
        20 * np.log10(np.sqrt(np.square(whole.samples).mean())), abs=1e-3
    )


def test_few_columns_keep_the_loudest_frames() -> None:
    shape = measure(sound_of_audio(tone(440)), most_bins=7, most_columns=5)
    assert shape.mel.shape == (5, 128)
    assert len(shape.highs) == 7
    assert (shape.mel.max(axis=1) > 1).all()


def test_stereo_at_another_rate_is_measured(tmp_path: Path) -> None:
    left = np.sin(np.arange(88_200) * 2 * np.pi * 440 / 44_100) * 0.5
    soundfile.write(tmp_path / "a.flac", np.stack([left, np.zeros(88_200)], axis=1), 44_100)
    shape = measure(sound_of_file(tmp_path / "a.flac"), most_bins=50, most_columns=1000)
    assert len(shape.mel) == 100  # 2 s
    assert shape.peak == pytest.approx(-6.0, abs=0.1)


@pytest.mark.parametrize("most", [10**9, 1000])
def test_long_sound_is_embedded_as_mp3(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "MOST_FLAC", most)
    kind, data = embed(replace(sound_of_audio(tone(440, 2.0)), sample_rate=96_000))
    assert kind == ("audio/flac" if most > 1000 else "audio/mpeg")
    info = soundfile.info(BytesIO(data))
    assert info.frames / info.samplerate == pytest.approx(32_000 / 96_000, abs=0.06)


def test_a_spectrogram_is_a_png() -> None:
    mel = np.linspace(-20, 20, 300 * 128, dtype=np.float32).reshape(300, 128)
    data = spectrogram(mel)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(BytesIO(data)) as image:
        assert image.size == (300, 128)
        pixels = image.convert("RGB")
    assert pixels.getpixel((0, 127)) == (0, 0, 4)  # the first frame is silent
    assert pixels.getpixel((299, 0)) == (252, 253, 191)
    (length,) = struct.unpack(">I", data[8:12])
    assert zlib.crc32(data[12 : 16 + length]) == struct.unpack(">I", data[16 + length :][:4])[0]


def test_a_piano_roll_has_a_path_for_each_instrument() -> None:
    parts = parts_of(SCORE)
    assert [part.name for part in parts] == ["Acoustic Grand Piano", "Violin", "Drums"]
    drawn = piano_roll(SCORE, parts, SECONDS)
    assert drawn.count('class="part"') == 3
    paths = re.findall(r'class="part"[^>]* d="([^"]+)"', drawn)
    assert [path.count("M") for path in paths] == [22, 22, 1]
    assert paths[2] == "M3.00 33.5h0.10"  # 38 in the octaves 36 to 72


def test_times_are_words() -> None:
    assert [as_time(seconds) for seconds in (0, 65.9, 3605)] == ["0:00", "1:05", "1:00:05"]
    assert [time_step(seconds) for seconds in (3, 28, 600, 40_000)] == [0.5, 5, 60, 3600]


def test_long_stems_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_page(rendering(*STEMS)).count('class="sound"') == 3
    monkeypatch.setattr(html, "MOST_STEM_SAMPLES", 1000)
    page = make_page(rendering(*STEMS))
    assert page.count('class="sound"') == 1
    assert "too long to be played together" in page


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def show(browser: "Browser", tmp_path: Path) -> Iterator[Callable[..., "Page"]]:
    """Opens a page as a file; nothing may be requested or reported, also later on."""
    found: list[str] = []
    pages: list[Page] = []

    def show(text: str, **options: Any) -> "Page":
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        page = browser.new_page(**options)
        pages.append(page)
        page.on("console", lambda message: found.append(message.text))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("dialog", lambda dialog: (found.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: found.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#play:visible")
        assert found.pop(0) == path.as_uri()
        return page

    yield show
    for page in pages:
        page.close()
    assert [one for one in found if not one.startswith(("blob:", "data:"))] == []


CURSOR = "parseFloat(player.getWrapper().querySelector('.cursor').style.left) / 100"
BOTH = f"[player.getCurrentTime(), {CURSOR} * player.getDuration()]"


def click_until(page: "Page", place: tuple[float, float], condition: str) -> None:
    """Click at a place until a condition is true: a browser without time may lose a click."""
    for _ in range(5):
        page.mouse.click(*place)
        for _ in range(100):
            if page.evaluate(condition):
                return
            page.wait_for_timeout(20)
    pytest.fail(f"after 5 clicks it is not true that {condition}")


@pytest.mark.parametrize("stems", [(), STEMS])
def test_a_page_plays_and_seeks(show: Callable[..., "Page"], stems: tuple[Stem, ...]) -> None:
    page = show(make_page(rendering(*stems)), viewport={"width": 1000, "height": 900})
    assert page.evaluate("player.getDuration()") == SECONDS
    page.click("#play")
    wait_until(lambda: page.evaluate("player.getCurrentTime() > 0.5"))
    assert page.inner_text("#play") == "Pause"
    for _ in range(5):
        time, cursor = page.evaluate(BOTH)
        assert cursor == pytest.approx(time, abs=0.05)
        page.wait_for_timeout(60)
    page.click("#play")
    stopped = page.evaluate("player.getCurrentTime()")
    page.wait_for_timeout(100)
    assert page.evaluate("player.getCurrentTime()") == stopped

    for drawing in (".roll", ".mel"):  # a click anywhere on the drawings
        box = page.locator(f"#chart {drawing}").bounding_box()
        assert box is not None
        for share in (0.25, 0.5):
            click_until(
                page,
                (box["x"] + share * box["width"], box["y"] + box["height"] / 2),
                f"Math.abs(player.getCurrentTime() - {share * SECONDS}) < 0.05",
            )
    assert page.evaluate(BOTH) == pytest.approx([6, 6], abs=0.05)
    assert page.locator("#position").get_attribute("aria-valuetext") == "0:06.0 of 0:12.0"

    page.evaluate("player.setTime(11.8)")
    page.click("#play")
    wait_until(lambda: page.evaluate("!player.isPlaying() && player.getCurrentTime() > 11.9"))
    assert page.inner_text("#play") == "Play"


def test_the_keyboard_is_enough(show: Callable[..., "Page"]) -> None:
    page = show(make_page(rendering(*STEMS)))
    page.keyboard.press("Space")
    wait_until(lambda: page.evaluate("player.isPlaying()"))
    page.keyboard.press("Space")
    wait_until(lambda: page.evaluate("!player.isPlaying()"))
    page.focus("#position")
    page.keyboard.press("End")
    assert page.evaluate("player.getCurrentTime()") == SECONDS
    page.focus("#zoom")
    page.keyboard.press("End")
    width = page.evaluate("player.getWrapper().clientWidth / player.getWidth()")
    assert width == pytest.approx(64, rel=0.02)
    assert page.evaluate("player.getWrapper().querySelector('.mel').clientWidth") == page.evaluate(
        "player.getWrapper().clientWidth"
    )
    focused = []
    page.focus("#play")
    for _ in range(8):
        page.keyboard.press("Tab")
        focused.append(
            page.evaluate("document.activeElement.ariaLabel || document.activeElement.id")
        )
    assert focused[:2] == ["position", "zoom"]
    assert f"Solo: {EVIL}" in focused
    assert "Mute: high" in focused


def test_stems_are_soloed_and_muted(show: Callable[..., "Page"]) -> None:
    page = show(make_page(rendering(*STEMS)))
    listen = """
        () => new Promise(done => {
            const mixer = player.player?.media || player.media;
            const options = {fftSize: 4096, smoothingTimeConstant: 0};
            const analyser = new AnalyserNode(mixer.context, options);
            for (const gain of mixer.gains) gain.connect(analyser);
            const bins = new Float32Array(analyser.frequencyBinCount);
            setTimeout(() => {
                analyser.getFloatFrequencyData(bins);
                const at = hz => bins[Math.round(hz / (mixer.context.sampleRate / 4096))];
                done([at(440) > -40, at(1500) > -40]);
            }, 600);
        })"""
    page.click("#play")
    solo = [page.get_by_label(f"Solo: {name}") for name in (EVIL, "high")]
    mute = [page.get_by_label(f"Mute: {name}") for name in (EVIL, "high")]
    assert page.evaluate(listen) == [True, True]
    solo[0].click()
    assert page.evaluate(listen) == [True, False]
    solo[1].click()
    mute[0].click()
    assert page.evaluate(listen) == [False, True]
    assert mute[0].get_attribute("aria-pressed") == "true"
    mute[0].click()
    assert page.evaluate(listen) == [True, True]


def test_names_cannot_run(show: Callable[..., "Page"]) -> None:
    song = replace(rendering(*STEMS, title=EVIL), settings={EVIL: EVIL}, losses=[EVIL])
    page = show(make_page(song))
    assert page.inner_text("h1") == EVIL
    assert page.title() == EVIL
    assert page.locator("li").inner_text() == EVIL


def test_the_policy_stops_other_scripts_and_requests(browser: "Browser", tmp_path: Path) -> None:
    """Should a name ever get through; here it is the test that lets one through."""
    hole = "<main><script>window.ran = 1</script><img src='https://127.0.0.1:9/a.png'>"
    (tmp_path / "page.html").write_text(make_page(rendering()).replace("<main>", hole))
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("#play:visible")
    assert page.evaluate("window.ran === undefined")
    assert sum("Content Security Policy" in text for text in said) == 2
    page.close()


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits(show: Callable[..., "Page"], width: int, scheme: str) -> None:
    page = show(
        make_page(rendering(*STEMS, title="a_name_without_any_space_" * 5 + ".mid")),
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 28)")
    page.emulate_media(media="print")
    assert not page.locator("#play").is_visible()
    assert page.locator("#chart .mel").is_visible()


# --- the options ----------------------------------------------------------------------------------


def test_the_command_draws(
    song: MakeSong, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    plot, report = tmp_path / "new" / "a.png", tmp_path / "a.html"
    arguments = [str(song()), "--model", str(tiny_model), "--json"]
    assert run([*arguments, "--plot", str(plot), "--report", str(report)]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert (fields["plot"], fields["report"]) == (str(plot), str(report))
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = report.read_text(encoding="utf-8")
    assert "<td>2 (dpm++)</td>" in text
    assert "<title>song.mid</title>" in text


def test_several_songs_are_drawn_into_folders(
    song: MakeSong, tiny_model: Path, tmp_path: Path
) -> None:
    song("in/a.mid")
    song("in/b/a.mid")
    out, pages = tmp_path / "out", tmp_path / "pages"
    arguments = [str(tmp_path / "in"), "-o", str(out), "--model", str(tiny_model)]
    assert run([*arguments, "--report", str(pages)]) == 0
    assert sorted(path.relative_to(pages).as_posix() for path in pages.rglob("*.html")) == [
        "a.html",
        "b/a.html",
    ]


def test_stems_beside_the_mix_are_on_the_page(
    song: MakeSong, tiny_model: Path, tmp_path: Path
) -> None:
    page = tmp_path / "a.html"
    arguments = [str(song()), "--model", str(tiny_model), "--stems", "--stems-by", "program"]
    assert run([*arguments, "--report", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('class="sound"') == 1 + 4
    assert 'aria-label="Solo: String Ensemble 1"' in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "-", "--report", "a.html"], "needs a file of the sound"),
        (["--raw", "--report", "a.html"], "bare samples"),
        (["--report", "a.txt"], "name it a.txt.html"),
        (["other.mid", "--report", "a.html"], "one file for several songs"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    arguments: list[str],
    words: str,
    song: MakeSong,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    song(), song("other.mid")
    assert run(["song.mid", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("*.wav"))


def test_a_drawing_that_fails_is_an_error_of_its_own(
    song: MakeSong, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = [str(song()), "--model", str(tiny_model)]
    assert run([*arguments, "--report", str(tmp_path / "file" / "a.html")]) == 1
    assert "cannot make the folder" in capsys.readouterr().err
    assert (tmp_path / "song.wav").exists()


def test_only_the_part_that_was_rendered_is_drawn(song: MakeSong, tiny_model: Path) -> None:
    path = song(seconds=8)
    page = path.with_name("a.html")
    arguments = [str(path), "--model", str(tiny_model), "--report", str(page)]
    assert run([*arguments, "--start", "2", "--duration", "3"]) == 0
    text = page.read_text(encoding="utf-8")
    assert 'viewBox="0 0 3.00 ' in text
    notes = sum(2 <= note.start < 5 for note in read_midi(path).notes)
    assert f'<tr><th scope="row">notes</th><td>{notes}</td>' in text
    assert "<td>3 s</td>" in text


def test_settings_that_are_not_the_defaults_are_shown() -> None:
    sampling = Sampling("dpm++", 3, 1.0, 7)
    plain = describe("default", "cpu", sampling, RenderOptions(seed=7))
    assert list(plain) == ["model", "seed", "steps", "guidance", "device", "program"]
    options = RenderOptions(channels="mono", stems=True, solo=("1", "Bass"), full_band=False)
    options = replace(options, tail=1.0, gain=3.0, drums=False)
    shown = describe("default", "cpu", sampling, options)
    assert {name: value for name, value in shown.items() if name not in plain} == {
        "drums": "off",
        "gain": "3 dB",
        "channels": "mono",
        "stems": "on",
        "solo": "1, Bass",
        "full band": "off",
        "tail": "1.0",
    }
