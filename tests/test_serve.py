"""The server: for people in a real browser, for programs over HTTP, and for `--server`."""

import asyncio
import http.client
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import pytest
import soundfile

from spectro_render.cli import run
from spectro_render.options import RenderOptions
from spectro_render.render.renderer import Renderer
from tests.support.browser import open_browser
from tests.support.processes import PIPE, Popen, start_program, usage, wait_until
from tests.support.songs import DEMO, MakeSong

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from spectro_render.serve.guard import COOKIE, Guard
from spectro_render.serve.limits import Limits, Refusal
from spectro_render.serve.studio import Studio

TOKEN = "a-secret-of-the-tests"
EVIL = "</script><script>alert(1)</script>.mid"


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def error(self) -> str:
        """The words of a refusal."""
        return str(json.loads(self.body)["error"])


class Server(NamedTuple):
    """A server that runs."""

    process: Popen
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = self.connect()
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.headers))
        finally:
            connection.close()


def start(model: Path, *options: str) -> Any:
    """Start a server with a model of its own: a context that yields a process."""
    command = [sys.executable, "-m", "spectro_render", "serve", "--port", "0"]
    command += ["--model", str(model), *options]
    return start_program(command, stderr=PIPE, text=True)


def port_of(process: Popen) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"serving on http://[\d.]+:(\d+)", line):
            return int(found[1])
    raise AssertionError(f"ended with {process.wait()}")


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Server]:
    with start(tiny_model, "--max-minutes", "1", "--max-megabytes", "0.1") as process:
        yield Server(process, port_of(process))


@pytest.fixture(scope="module")
def small(tiny_model: Path) -> Iterator[Server]:
    """A server with room for one song."""
    options = ("--max-jobs", "1", "--token", TOKEN)
    with start(tiny_model, *options) as process:
        yield Server(process, port_of(process))


BEARER = {"Authorization": f"Bearer {TOKEN}"}


# --- for programs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Renderer:
    return Renderer.load(tiny_model, device="cpu")


def test_a_song_is_rendered_as_here(server: Server, renderer: Renderer, song: MakeSong) -> None:
    path = song(seconds=8)
    answer = server.ask("POST", "/render?seed=3&duration=7", path.read_bytes())
    assert (answer.status, answer.headers["content-type"]) == (200, "audio/wav")
    samples, rate = soundfile.read(BytesIO(answer.body), dtype="float32")
    expected = renderer.render(path, seed=3, duration=7.0)
    assert rate == 16_000
    np.testing.assert_allclose(samples, expected.samples[0], atol=2 / 32_768)


@pytest.mark.parametrize("format", ["flac", "ogg", "mp3", "aiff"])
def test_sound_comes_in_other_formats(server: Server, song: MakeSong, format: str) -> None:
    path = f"/render?format={format}&sample_rate=48000&duration=2"
    answer = server.ask("POST", path, song().read_bytes())
    with soundfile.SoundFile(BytesIO(answer.body)) as file:
        assert (file.format.lower(), file.samplerate) == (format, 48_000)
        assert np.abs(file.read(24_000)).max() > 0.001


def test_sound_comes_while_it_is_rendered(server: Server, song: MakeSong) -> None:
    """The first window arrives long before the last."""
    connection = server.connect()
    connection.request("POST", "/render?format=raw&steps=200", song(seconds=40).read_bytes())
    begun = time.monotonic()
    response = connection.getresponse()
    first = response.read(2 * 16_000)
    to_first = time.monotonic() - begun
    rest = response.read()
    assert len(first) + len(rest) > 2 * 16_000 * 40
    assert to_first < 0.6 * (time.monotonic() - begun)
    connection.close()


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/render", b"not a song", {}, 400, "not a MIDI file"),
        ("/render", b"", {}, 400, "no MIDI file"),
        ("/render", bytes(100_001), {}, 413, "100000 bytes"),
        ("/render?steps=no", b"x", {}, 400, "steps is 'no'"),
        ("/render?steps=1001", b"x", {}, 400, "1 to 1000"),
        ("/render?gain=nan", b"x", {}, 400, "gain is nan"),
        ("/render?colour=red", b"x", {}, 400, "unknown parameter 'colour'"),
        ("/render?format=exe", b"x", {}, 400, "unknown format"),
        ("/render?sample_rate=1", b"x", {}, 400, "sample rate of 1 Hz"),
        ("/render", b"x", {"Host": "evil.example"}, 421, "not called 'evil.example'"),
        ("/render", b"x", {"Host": "[bad"}, 421, "not called"),
        ("/render", b"x", {"Origin": "https://evil.example"}, 403, "other sites"),
        ("/render", b"x", {"Origin": "null"}, 403, "other sites"),
        ("/render", b"x", {"Sec-Fetch-Site": "cross-site"}, 403, "other sites"),
        ("/jobs/../../etc/passwd", b"x", {}, 404, "nothing at this address"),
    ],
)
def test_what_is_refused_is_said_in_words(
    server: Server, path: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answer = server.ask("POST", path, body, **headers)
    assert answer.status == status
    assert words in answer.error
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_long_songs_are_refused(server: Server, song: MakeSong) -> None:
    answer = server.ask("POST", "/render", song(seconds=61).read_bytes())
    assert answer.status == 413
    assert "the sound would last 1:03, and at most 1:00" in answer.error
    part = server.ask("POST", "/render?start=50", song(seconds=61).read_bytes())
    assert part.status == 200


def test_uploads_without_a_length_are_bounded(server: Server) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(200):
            yield bytes(1000)

    connection = server.connect()
    connection.request("POST", "/render", parts(), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_job_has_its_own_addresses(server: Server, song: MakeSong) -> None:
    answer = server.ask("POST", "/jobs?name=a.mid&seed=1", song().read_bytes())
    job = json.loads(answer.body)
    address = f"/jobs/{job['id']}"
    assert (answer.status, answer.headers["location"], job["name"]) == (201, address, "a.mid")

    def state() -> Any:
        return json.loads(server.ask("GET", address).body)

    wait_until(lambda: state()["state"] == "done")
    assert state()["seconds"] == pytest.approx(4.5, abs=0.3)
    assert (state()["notes"], state()["ignored"]) == (4, [])
    sound = server.ask("GET", f"{address}/sound.flac").body
    assert soundfile.info(BytesIO(sound)).duration == pytest.approx(state()["seconds"], abs=1e-3)
    assert server.ask("GET", f"{address}/sound.flac").body == sound  # again
    page = server.ask("GET", f"{address}/report.html")
    assert b"<title>a.mid</title>" in page.body
    assert server.ask("DELETE", address).status == 204
    assert server.ask("GET", address).status == 404


def test_a_song_with_its_stems(server: Server) -> None:
    """... whose sum is the mix; its page has them, too, and nothing of them is left in the end."""
    data = DEMO.read_bytes()
    answer = server.ask("POST", "/jobs?stems=on&duration=6&gain=-30", data)
    job, address = json.loads(answer.body), f"/jobs/{json.loads(answer.body)['id']}"
    assert len(job["stems"]) == 3

    def is_done() -> bool:
        return bool(json.loads(server.ask("GET", address).body)["state"] == "done")

    early = server.ask("GET", f"{address}/stems.zip")
    assert early.status in (200, 409)
    wait_until(is_done)
    answer = server.ask("GET", f"{address}/stems.zip?format=wav&bit_depth=float")
    assert answer.headers["content-type"] == "application/zip"
    with ZipFile(BytesIO(answer.body)) as archive:
        index = json.loads(archive.read("stems.json"))
        assert archive.namelist()[0] == "mix.wav"
        assert archive.namelist()[1:-1] == [stem["file"] for stem in index["stems"]]
        sounds = [soundfile.read(BytesIO(archive.read(n)))[0] for n in archive.namelist()[:-1]]
    assert [stem["name"] for stem in index["stems"]] == job["stems"]
    assert index["gain_db"] == 0
    assert len(sounds[0]) == 6 * 16_000
    assert np.abs(sounds[0]).max() > 1e-3
    np.testing.assert_allclose(np.sum(sounds[1:], axis=0), sounds[0], atol=1e-6)
    page = server.ask("GET", f"{address}/report.html").body
    assert page.count(b'data-kind="solo"') == len(job["stems"])
    assert server.ask("DELETE", address).status == 204
    assert server.ask("GET", f"{address}/stems.zip").status == 404


def test_sound_in_larger_parts_is_the_same(server: Server) -> None:
    data = DEMO.read_bytes()
    one, other = (
        soundfile.read(BytesIO(server.ask("POST", f"/render?live={live}", data).body))[0]
        for live in ("on", "off")
    )
    np.testing.assert_allclose(one, other, atol=2.5 / 32768)
    assert server.ask("POST", "/render?live=no", data).error == "live is 'no', none of on, off"


def test_stems_that_cannot_be_had(server: Server, song: MakeSong) -> None:
    data = song().read_bytes()
    answer = server.ask("POST", "/render?stems=on", data)
    assert answer.status == 400 and b"POST /jobs" in answer.body
    job = json.loads(server.ask("POST", "/jobs", data).body)
    answer = server.ask("GET", f"/jobs/{job['id']}/stems.zip")
    assert answer.status == 404 and b"stems=on" in answer.body


def test_the_interface_is_described(server: Server) -> None:
    found = json.loads(server.ask("GET", "/openapi.json").body)
    assert found["openapi"].startswith("3.1")
    names = {one["name"] for one in found["paths"]["/render"]["post"]["parameters"]}
    assert {"format", "steps", "seed"} <= names
    assert b"POST /render" in server.ask("GET", "/docs").body
    about = json.loads(server.ask("GET", "/about").body)
    assert (len(about["instruments"]), about["max_seconds"]) == (129, 60)


def test_twenty_uploads_at_once(server: Server, song: MakeSong) -> None:
    """None is lost, each gets its own sound, and memory stays bounded."""
    data = song(seconds=10).read_bytes()
    alone = [server.ask("POST", f"/render?seed={seed}", data).body for seed in range(2)]
    before = usage(server.process.pid)
    with ThreadPoolExecutor(20) as pool:
        paths = [f"/render?seed={number % 2}" for number in range(20)]
        answers = list(pool.map(lambda path: server.ask("POST", path, data), paths))
    assert [answer.status for answer in answers] == [200] * 20
    for number, answer in enumerate(answers):
        mine, _ = soundfile.read(BytesIO(answer.body), dtype="int16")
        same, _ = soundfile.read(BytesIO(alone[number % 2]), dtype="int16")
        assert np.abs(mine.astype(int) - same.astype(int)).max() <= 2
    after = usage(server.process.pid)
    assert before is not None and after is not None
    assert after.peak_memory - before.peak_memory < 150e6


def test_a_slow_client_delays_nobody(server: Server, song: MakeSong) -> None:
    data = song(seconds=50).read_bytes()
    connection = server.connect()
    connection.request("POST", "/render?format=raw&bit_depth=float&sample_rate=192000", data)
    response = connection.getresponse()
    begin = response.read(1000)
    for _ in range(3):
        assert server.ask("POST", "/render?duration=2", data).status == 200
    rest = response.read()
    assert len(begin) + len(rest) > 50 * 192_000 * 4
    connection.close()


def leave(server: Server, data: bytes) -> None:
    """Order a song that would take long, and leave when it begins to come."""
    connection = server.connect()
    connection.request("POST", "/render?steps=300&format=raw", data, BEARER)
    connection.getresponse().read(100)
    assert server.ask("POST", "/render", data, **BEARER).status == 429
    connection.close()


def test_a_client_that_leaves_frees_its_place(small: Server, song: MakeSong) -> None:
    data = song(seconds=300).read_bytes()
    leave(small, data)
    short = song("short.mid").read_bytes()
    begun = time.monotonic()
    wait_until(lambda: small.ask("POST", "/render", short, **BEARER).status == 200)
    assert time.monotonic() - begun < 30  # the whole song takes minutes


def test_a_token_is_needed(small: Server) -> None:
    assert small.ask("GET", "/").status == 401
    assert small.ask("GET", "/", Authorization="Bearer no").status == 401
    assert small.ask("GET", "/?token=no").status == 401
    assert small.ask("GET", "/", **BEARER).status == 200
    opened = small.ask("GET", f"/?token={TOKEN}")
    assert (opened.status, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert small.ask("GET", "/", Cookie=f"{COOKIE}={TOKEN}").status == 200
    assert small.ask("GET", "/", Cookie="=;;\x80").status == 401


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "a token is needed"),
        (["--host", "::"], "a token is needed"),
        (["--token", "short"], "too short"),
    ],
)
def test_a_server_for_others_needs_a_secret(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80", "Proxy.example:1"])
def test_own_names_are_known(host: str) -> None:
    assert Guard(None, None, ["proxy.example"])._knows(host)  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_one_line(
    server: Server, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--port", str(server.port), "--model", str(tiny_model)]) == 1
    assert "address already in use; choose another --port" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_in_time(number: int, tiny_model: Path, song: MakeSong) -> None:
    """With a client that has half of its sound, and nothing is left behind."""
    with start(tiny_model) as process:
        server = Server(process, port_of(process))
        connection = server.connect()
        data = song(seconds=300).read_bytes()
        connection.request("POST", "/render?steps=300&format=raw", data)
        response = connection.getresponse()
        response.read(100)
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait() == 128 + number
        assert time.monotonic() - begun < 20
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        connection.close()


# --- the studio -----------------------------------------------------------------------------------


def test_songs_of_several_clients_share_batches(
    renderer: Renderer, song: MakeSong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    gate, usual = threading.Event(), renderer.try_advance

    def try_advance(songs: Any, on_progress: Any = None) -> Any:
        gate.wait()
        sizes.append(len(songs))
        return usual(songs, on_progress)

    monkeypatch.setattr(renderer, "try_advance", try_advance)
    data = song(seconds=20).read_bytes()

    async def work() -> list[str]:
        studio = Studio(renderer, Limits(jobs=8, jobs_of_client=6), tmp_path)
        orders = [studio.read(data, RenderOptions(), "a.mid", "a") for _ in range(6)]
        for order in orders:
            studio.add(order)
        with pytest.raises(Refusal, match="you have 6 unfinished songs"):
            studio.check_room("a")
        studio.check_room("b")
        gate.set()
        while not all(order.is_over for order in orders):
            await asyncio.sleep(0.01)
        states = [order.state for order in orders]
        for order in orders:
            studio.remove(order)
        studio.stop()
        with pytest.raises(Refusal, match="stopping"):
            studio.check_room("b")
        return states

    assert asyncio.run(work()) == ["done"] * 6
    assert max(sizes) > 1
    assert list(tmp_path.glob("*")) == [tmp_path / "song.mid"]


@pytest.mark.parametrize("limits", [Limits(age=0.2), Limits(age=60, unattended=0.2)])
def test_songs_are_removed_in_time(
    limits: Limits, renderer: Renderer, song: MakeSong, tmp_path: Path
) -> None:
    """A finished one after its age, an unfinished one also if nobody asks for it."""
    is_unfinished = limits.unattended < 1

    async def work() -> None:
        studio = Studio(renderer, limits, tmp_path)
        options = RenderOptions(steps=1000) if is_unfinished else RenderOptions(duration=1)
        data = song(seconds=200).read_bytes()
        order = studio.read(data, options, "a.mid", "a")
        tidying = asyncio.create_task(studio.tidy())
        studio.add(order)
        while order.number in studio.orders:
            await asyncio.sleep(0.02)
        assert (order.state == "failed") or not is_unfinished
        tidying.cancel()
        studio.stop()

    asyncio.run(work())
    leftover = [] if not is_unfinished else list(tmp_path.glob("*"))[1:]
    assert len(list(tmp_path.glob("*"))) - len(leftover) == 1  # the MIDI file


def test_a_song_that_fails_ends_alone(
    renderer: Renderer, song: MakeSong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = renderer.try_advance
    bad: list[Any] = []

    def try_advance(songs: Any, on_progress: Any = None) -> Any:
        parts = usual(songs, on_progress)
        return [MemoryError() if one in bad else p for one, p in zip(songs, parts, strict=True)]

    monkeypatch.setattr(renderer, "try_advance", try_advance)

    async def work() -> list[tuple[str, str]]:
        studio = Studio(renderer, Limits(), tmp_path)
        data = song().read_bytes()
        orders = [studio.read(data, RenderOptions(), "a.mid", "a") for _ in range(2)]
        bad.append(orders[0].song)
        for order in orders:
            studio.add(order)
        while not all(order.is_over for order in orders):
            await asyncio.sleep(0.01)
        studio.stop()
        return [(order.state, order.error) for order in orders]

    (failed, error), (done, _) = asyncio.run(work())
    assert (failed, done) == ("failed", "done")
    assert "not enough memory" in error


# --- --server -------------------------------------------------------------------------------------


def test_the_command_renders_on_a_server(
    server: Server, tiny_model: Path, song: MakeSong, tmp_path: Path
) -> None:
    song("in/a.mid", seconds=12)
    song("in/b.mid", seconds=3)
    options = ["--program", "2=Violin", "--mute", "drums", "--seed", "4", "-q"]
    options += ["--sample-rate", "44100", "--format", "flac"]
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    folder = str(tmp_path / "in")
    assert run([folder, "-o", here, *options, "--model", str(tiny_model)]) == 0
    assert run([folder, "-o", there, *options, "--server", server.url]) == 0
    for name in ("a.flac", "b.flac"):
        recipes = []
        for where in (here, there):
            with soundfile.SoundFile(Path(where, name)) as file:
                recipes.append(json.loads(file.comment))
        assert [recipe.pop("model") for recipe in recipes] == [str(tiny_model), "tiny"]
        assert recipes[0] == recipes[1]
        one, other = (soundfile.read(Path(where, name), dtype="int16") for where in (here, there))
        assert one[1] == other[1] == 44_100
        assert np.abs(one[0].astype(int) - other[0].astype(int)).max() <= 2


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--server", "nonsense"], 2, "no address of a server"),
        (["--server", "http://127.0.0.1:1"], 1, "does not answer: connection refused"),
        (["--server", "URL", "--model", "own/er"], 2, "a server has its own model"),
        (["--server", "URL", "--normalize", "peak"], 2, "before its limiter"),
        (["--server", "URL", "--stems"], 2, "servers do not take --stems"),
        (["--server", "URL", "--program", "9=Violin"], 1, "channel 9"),
        (["--server", "URL", "--steps", "5000"], 1, "steps is 5000; allowed is 1 to 1000"),
        (["--server", "SMALL"], 1, "give it in the variable SPECTRO_RENDER_TOKEN"),
    ],
)
def test_errors_of_a_server_are_one_line(
    server: Server,
    small: Server,
    song: MakeSong,
    options: list[str],
    status: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    urls = {"URL": server.url, "SMALL": small.url}
    path = song()
    assert run([str(path), *(urls.get(word, word) for word in options)]) == status
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not path.with_suffix(".wav").exists()


# --- for people -----------------------------------------------------------------------------------


def test_the_whole_way_in_a_browser(server: Server, song: MakeSong, tmp_path: Path) -> None:
    path = song(seconds=20).rename(tmp_path / EVIL.replace("/", "\N{DIVISION SLASH}"))
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 900, "height": 900}, accept_downloads=True)
        said: list[str] = []
        elsewhere: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((server.url, "blob:", "data:"))
                or elsewhere.append(request.url)
            ),
        )
        page.goto(server.url)
        page.set_input_files("#file", path)
        page.fill("[name=steps]", "3")
        page.fill("[name=seed]", "7")
        page.click("#send")
        wait_until(lambda: page.evaluate("element('live').currentTime > 0.2"))
        assert page.inner_text("#title") == path.name
        page.wait_for_selector("#downloads:visible")
        assert re.match(r"2[23]\.\d s of sound in", page.inner_text("#state"))
        report = page.frame_locator("#report")
        report.locator("#play").wait_for(state="visible")
        assert report.locator("h1").inner_text() == path.name
        assert "3 (dpm++)" in report.locator("body").inner_text()
        report.locator("#play").click()
        wait_until(lambda: report.locator("#play").inner_text() == "Pause")
        with page.expect_download() as download:
            page.click("a[data-format=flac]")
        assert soundfile.info(download.value.path()).duration > 20

        page.select_option("#instruments select >> nth=1", label="Violin")
        page.click("#send")
        page.wait_for_selector("#downloads:visible")
        report.get_by_text("2: Violin").wait_for()
        assert report.locator(".tracks").get_by_text("Violin").count() == 1

        assert not page.is_visible("#stems")
        page.check("[name=stems]")
        page.click("#send")
        page.wait_for_selector("#stems:visible")
        report.locator("button[data-kind=solo]").first.wait_for()
        with page.expect_download() as download:
            page.click("#stems")
        with ZipFile(download.value.path()) as archive:
            assert "stems.json" in archive.namelist()

        page.set_input_files("#file", {"name": "x.mid", "mimeType": "", "buffer": b"nonsense"})
        page.click("#send")
        page.wait_for_selector("#problem:visible")
        assert "not a MIDI file" in page.inner_text("#problem")
        assert page.evaluate("document.documentElement.scrollWidth") <= 900
        page.close()
    assert [text for text in said if "400 (Bad Request)" not in text] == []
    assert elsewhere == []
