"""Songs on the machines of a Ray cluster: a real one, of three nodes on this machine."""

import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from spectro_render.batch.history import NAME
from spectro_render.batch.jobs import Job, longest_first
from spectro_render.cli.app import run
from tests.support.processes import DEVNULL, LIMIT, PIPE, run_program, start_program, wait_until
from tests.support.songs import MakeSong
from tests.support.tolerances import STEPS_OF_16_BIT

HEAD = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
NODE = {"num_cpus": 1, "object_store_memory": 10**8}
SECONDS = (9.0, 1.0, 6.0, 3.0, 1.5, 2.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    # The paths of Ray's sockets must be short, and it tells the address of the last cluster to all
    # who share its folder.
    folder = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
    with folder as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", name)
        cluster = cluster_utils.Cluster()
        try:
            for options in (HEAD, NODE, NODE):
                add_node(cluster, options)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster: Any, options: dict[str, Any]) -> Any:
    """Start a node and wait until it is one of the cluster."""
    handler = signal.getsignal(signal.SIGTERM)
    node = cluster.add_node(wait=False, **options)
    signal.signal(signal.SIGTERM, handler)  # Ray puts its own there
    cluster.wait_for_nodes(timeout=LIMIT)
    return node


@pytest.fixture
def library(song: MakeSong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, seconds in enumerate(SECONDS):
        song(f"in/{number}.mid", seconds=seconds)
    return tmp_path


@pytest.fixture
def command(cluster: Any, tiny_model: Path) -> Callable[..., list[str]]:
    """Renders the library on the cluster."""

    def command(*options: str, program: tuple[str, ...] = ("-m", "spectro_render")) -> list[str]:
        arguments = ["in", "-o", "out", "--model", str(tiny_model), "--json"]
        engine = ["--engine", "ray", "--ray-address", cluster.address]
        return [sys.executable, *program, *arguments, *engine, *options]

    return command


def finish(command: list[str], code: int = 0) -> tuple[list[dict[str, Any]], str]:
    """What a run puts out as JSON, and what it says."""
    done = run_program(command, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def render_here(model: Path, *options: str) -> dict[str, bytes]:
    assert run(["in", "-o", "here", "-q", "--model", str(model), *options]) == 0
    return contents("here")


def contents(folder: str) -> dict[str, bytes]:
    """All files, but for what the folder remembers."""
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name != NAME}


def workers(*nodes: Any) -> list[str]:
    """What the workers of some nodes do, by their titles: `ray::RayWorker.render`, for instance."""
    parents = {str(node.all_processes["raylet"][0].process.pid) for node in nodes}
    listed = run_program(["ps", "-eo", "ppid,args"], capture_output=True, text=True).stdout
    children = [line.split(maxsplit=1) for line in listed.splitlines()]
    return [title for ppid, title in children if ppid in parents and "ray::RayWorker" in title]


def test_one_by_one_the_bytes_are_those_of_this_machine(
    library: Path, tiny_model: Path, command: Callable[..., list[str]]
) -> None:
    Path("in/bad.mid").write_bytes(b"no MIDI at all")
    assert run(["in", "-o", "here", "-q", "--model", str(tiny_model), "--batch-size", "1"]) == 1
    made, said = finish(command("--batch-size", "1", "--ray-cores", "1"), code=1)
    assert contents("out") == contents("here")
    status = {Path(record["input"]).stem: record["status"] for record in made}
    assert status == {**dict.fromkeys("012345", "rendered"), "bad": "failed"}
    assert all(record["host"] for record in made if record["status"] == "rendered")
    assert "spectro-render: in/bad.mid: not a MIDI file" in said
    assert "6 rendered, 1 failed" in said


def test_side_by_side_they_sound_the_same(
    library: Path, tiny_model: Path, command: Callable[..., list[str]]
) -> None:
    render_here(tiny_model, "--batch-size", "1")
    finish(command("--batch-size", "3"))
    for path in Path("here").glob("*.wav"):
        samples, expected = (
            soundfile.read(f"{folder}/{path.name}")[0] for folder in ("out", "here")
        )
        np.testing.assert_allclose(samples, expected, rtol=0, atol=STEPS_OF_16_BIT)


def test_what_is_there_needs_no_cluster(
    library: Path, tiny_model: Path, command: Callable[..., list[str]]
) -> None:
    assert run(["in", "-o", "out", "-q", "--model", str(tiny_model)]) == 0
    nowhere = command("--ray-address", "127.0.0.1:1")  # which the last one given overrides
    made, _ = finish(nowhere)
    assert [record["status"] for record in made] == ["skipped"] * len(SECONDS)


def test_a_stream_is_whole(
    library: Path, tiny_model: Path, command: Callable[..., list[str]]
) -> None:
    program, options = command()[:3], command()[6:]
    data = Path("in/2.mid").read_bytes()
    done = run_program([*program, "-", "-o", "-", *options], input=data, capture_output=True)
    assert done.returncode == 0
    assert json.loads(done.stderr.splitlines()[-1])["status"] == "rendered"
    assert run(["in/2.mid", "-o", "here.wav", "-q", "--model", str(tiny_model)]) == 0
    samples, expected = (soundfile.read(file)[0] for file in (BytesIO(done.stdout), "here.wav"))
    np.testing.assert_allclose(samples, expected, rtol=0, atol=STEPS_OF_16_BIT)


class TestLost:
    """A node dies in the middle."""

    def test_nothing_else_is(
        self,
        library: Path,
        song: MakeSong,
        tiny_model: Path,
        command: Callable[..., list[str]],
        cluster: Any,
    ) -> None:
        for number in range(6, 24):
            song(f"in/{number}.mid", seconds=12)
        options = ("--batch-size", "1", "--steps", "30")
        expected = render_here(tiny_model, *options)
        node = add_node(cluster, NODE)
        arguments = command(*options, "--ray-cores", "1")
        with start_program(arguments, stdout=PIPE, stderr=PIPE, text=True) as process:
            wait_until(lambda: workers(node) == ["ray::RayWorker.render"], process)
            cluster.remove_node(node, allow_graceful=False)
            out, said = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        made = [json.loads(line) for line in out.splitlines()]  # nothing of Ray's among them
        assert sorted(record["status"] for record in made) == ["rendered"] * len(expected)
        assert len({record["input"] for record in made}) == len(expected)
        assert contents("out") == expected
        assert " is lost (" in said and "Traceback" not in said

    def test_machines_that_join_are_used(
        self, library: Path, song: MakeSong, command: Callable[..., list[str]], cluster: Any
    ) -> None:
        for number in range(6, 24):
            song(f"in/{number}.mid", seconds=12)
        arguments = command("--steps", "300", "--batch-size", "1")
        with start_program(arguments, stdout=DEVNULL) as process:
            wait_until(lambda: len(workers(*cluster.list_all_nodes())) == 3, process)
            node = add_node(cluster, NODE)
            try:
                wait_until(lambda: workers(node), process)
                process.terminate()
                process.wait(LIMIT)
            finally:
                cluster.remove_node(node)
        assert process.returncode == 128 + signal.SIGTERM
        assert all(name.endswith(".wav") for name in contents("out"))
        wait_until(lambda: not workers(*cluster.list_all_nodes()))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_an_interrupt_leaves_only_what_is_complete(
    library: Path, command: Callable[..., list[str]], number: int, code: int
) -> None:
    arguments = command("--steps", "80", "--batch-size", "1")
    with start_program(arguments, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(number)
        rest, said = process.communicate(timeout=LIMIT)
    assert (process.returncode, "Traceback" in said) == (code, False)
    made = {
        Path(first["output"]).name,
        *(Path(json.loads(x)["output"]).name for x in rest.splitlines()),
    }
    assert contents("out").keys() == made
    again, _ = finish(command("--steps", "80"))
    rendered = {Path(r["output"]).name for r in again if r["status"] == "rendered"}
    assert rendered == {f"{k}.wav" for k in range(len(SECONDS))} - made


def program(path: Path, changes: str) -> tuple[str, ...]:
    """The program with something changed on this side of the cluster, or on the other."""
    path.write_text(
        "import os, sys, time\n"
        "from spectro_render import cli\n"
        "from spectro_render.batch import engine as worker, ray_engine as cluster, tasks\n"
        "from spectro_render.batch import worker_engine\n"
        "from spectro_render.batch.engine import LocalEngine\n"
        "from spectro_render.errors import WeightsError\n"
        f"{changes}\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    return (str(path),)


POISON = """
class Engine(LocalEngine):
    def begin(self, task):
        if task.job.source.name == "3.mid":
            os._exit(1)
        super().begin(task)

def make_engine(settings, cores):
    engine = worker.make_engine(settings, cores)
    engine.__class__ = Engine
    return engine

cluster.RayEngine.__init__.__defaults__ = (make_engine,)
"""


def test_a_song_that_kills_its_worker_is_given_up_and_the_others_are_not(
    library: Path, command: Callable[..., list[str]]
) -> None:
    made, said = finish(command(program=program(library / "poison.py", POISON)), code=1)
    status = {Path(record["input"]).stem: record["status"] for record in made}
    assert status == {**dict.fromkeys("01245", "rendered"), "3": "failed"}
    assert "in/3.mid: 3 workers were lost while rendering it; " in said
    assert sorted(contents("out")) == [f"{k}.wav" for k in (0, 1, 2, 4, 5)]


BUG = """
class Engine(LocalEngine):
    def begin(self, task):
        if task.job.source.name == "3.mid":
            raise ZeroDivisionError("a bug")
        super().begin(task)

def make_engine(settings, cores):
    engine = worker.make_engine(settings, cores)
    engine.__class__ = Engine
    return engine

cluster.RayEngine.__init__.__defaults__ = (make_engine,)
"""


def test_a_bug_on_a_worker_is_shown_with_its_trace(
    library: Path, command: Callable[..., list[str]]
) -> None:
    done = run_program(
        command(program=program(library / "bug.py", BUG)), capture_output=True, text=True
    )
    assert done.returncode == 1
    status = {r["input"]: r["status"] for r in map(json.loads, done.stdout.splitlines())}
    assert list(status.values()).count("failed") == 1 and status["in/3.mid"] == "failed"
    assert "spectro-render: in/3.mid: ZeroDivisionError: a bug\n" in done.stderr
    if sys.version_info >= (3, 11):
        assert "in _begin\n" in done.stderr  # of the worker


BAD_MACHINE = """
class Engine(LocalEngine):
    def begin(self, task):
        raise OSError(28, "No space left on device")

def make_engine(settings, cores):
    import ray
    engine = worker.make_engine(settings, cores)
    if ray.get_runtime_context().get_node_id() == BAD_NODE:
        engine.__class__ = Engine
    else:
        time.sleep(5)
    return engine

cluster.RayEngine.__init__.__defaults__ = (make_engine,)
worker_engine.STARTING_SECONDS = 600.0  # on a busy machine the good ones start slowly
"""
KILLING_MACHINE = """
class Engine(LocalEngine):
    def begin(self, task):
        os._exit(1)

def make_engine(settings, cores):
    import ray
    engine = worker.make_engine(settings, cores)
    if ray.get_runtime_context().get_node_id() == BAD_NODE:
        engine.__class__ = Engine
    return engine

cluster.RayEngine.__init__.__defaults__ = (make_engine,)
"""


@pytest.mark.parametrize("changes", [BAD_MACHINE, KILLING_MACHINE], ids=["failing", "killing"])
def test_a_bad_machine_fails_no_song(
    library: Path,
    command: Callable[..., list[str]],
    cluster: Any,
    changes: str,
    song: MakeSong,
) -> None:
    """One node in three, the first that is ready: whatever it gets it fails at once."""
    for number in range(6, 12):
        song(f"in/{number}.mid", seconds=12)
    bad = cluster.list_all_nodes()[1].node_id
    changes = changes.replace("BAD_NODE", repr(bad))
    options = ("--batch-size", "1", "--steps", "30")
    made, _ = finish(command(*options, program=program(library / "bad.py", changes)))
    assert [record["status"] for record in made] == ["rendered"] * 12
    assert sorted(contents("out")) == sorted(f"{k}.wav" for k in range(12))


NO_MODEL = """
def make_engine(settings, cores):
    raise WeightsError("no model here", "fetch it")

cluster.RayEngine.__init__.__defaults__ = (make_engine,)
"""
OTHER_MODEL = "cluster.fingerprint_of = lambda files: 'another'"
OTHER_VERSION = "cluster.__version__ = '0.0.0'"
NO_ENGINE = """
def make_engine(settings, cores):
    os._exit(1)

cluster.RayEngine.__init__.__defaults__ = (make_engine,)
cluster.MACHINES_SECONDS = 0.5
"""
NO_PATIENCE = "cluster.WAITING_SECONDS = 1.0; cluster.CORES = 64"


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (NO_MODEL, (), ": no model here; fetch it\n"),
        (OTHER_MODEL, (), " differs from the one here; install the same model everywhere"),
        (OTHER_VERSION, (), "of spectro-render, not 0.0.0; install the same version everywhere\n"),
        (NO_ENGINE, (), "no worker can be started: "),
        (
            NO_PATIENCE,
            ("--ray-cores", "64"),
            "no machine of the cluster has 64 cores; add such a machine",
        ),
    ],
    ids=["no model", "other model", "other version", "no engine", "no machine"],
)
def test_what_keeps_all_workers_from_rendering_ends_the_run(
    library: Path,
    command: Callable[..., list[str]],
    changes: str,
    options: tuple[str, ...],
    words: str,
) -> None:
    made, said = finish(command(*options, program=program(library / "changed.py", changes)), code=1)
    assert [record["status"] for record in made] == ["failed"] * len(SECONDS)
    assert words in said
    assert contents("out") == {}


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:1", "connection refused; "), ("nonsense", "")],  # for which Ray has words
)
def test_no_cluster(
    library: Path, command: Callable[..., list[str]], address: str, reason: str
) -> None:
    _, said = finish(command("--ray-address", address), code=1)
    assert said.startswith(f"spectro-render: no Ray cluster at {address}: {reason}")
    assert said.count("\n") == 1


def test_a_cluster_that_is_gone_is_replaced(library: Path, tiny_model: Path) -> None:
    """Ray's file names a head that was killed; Ray would try to reach it for minutes."""
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as name:
        current = Path(name, "ray", "ray_current_cluster")
        current.parent.mkdir()
        current.write_text("127.0.0.1:1")
        environment = {**os.environ, "RAY_TMPDIR": name}
        arguments = ["in", "-o", "out", "--json", "--engine", "ray", "--model", str(tiny_model)]
        program = [sys.executable, "-m", "spectro_render", *arguments]
        done = run_program(program, env=environment, capture_output=True, text=True)
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(made)) == (0, len(SECONDS)), done.stderr


def test_no_ray(
    library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "ray" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert run(["in", "-o", "out", "--engine", "ray"]) == 1
    assert capsys.readouterr().err == (
        "spectro-render: Ray is not installed; pip install 'ray>=2.40'\n"
    )


@pytest.mark.parametrize(
    "options", [("--ray-cores", "2"), ("--engine", "ray", "--device", "cuda:1")]
)
def test_options_that_cannot_be(library: Path, options: tuple[str, ...]) -> None:
    assert run(["in", "-o", "out", *options]) == 2
    assert not Path("out").exists()


def test_the_longest_comes_first(tmp_path: Path) -> None:
    sizes = {"a": 10, "b": 30, "c": 20, "d": 30}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    jobs = [Job(tmp_path / name, None) for name in (*sizes, "gone")]
    order = [job.source.name for job in longest_first([*jobs, Job(None, None)]) if job.source]
    assert order == ["gone", "b", "d", "c", "a"]
