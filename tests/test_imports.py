"""What is imported when: nothing heavy for `--help`, every public name on demand."""

import ast
import json
import resource
import sys
from pathlib import Path

import pytest

import spectro_render
from tests.support.processes import DEVNULL, PIPE, run_program
from tests.support.songs import DEMO, MakeSong

HEAVY = {
    "huggingface_hub",
    "librosa",
    "matplotlib",
    "mido",
    "note_seq",
    "numpy",
    "onnxruntime",
    "pretty_midi",
    "rich.progress",
    "safetensors",
    "scipy",
    "soundfile",
    "soxr",
    "torch",
    "tqdm",
}

COMPLETING = """
import os
os.environ |= {"COMP_WORDS": "spectro-render --model d", "COMP_CWORD": "2"}
os.environ["_SPECTRO_RENDER_COMPLETE"] = "complete_bash"
from spectro_render.cli.app import run
try:
    run([])
except SystemExit as done:
    assert done.code == 0
"""


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    command = [sys.executable, "-c", script]
    done = run_program(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import spectro_render",
        "from spectro_render import audio, batch, checkpoints, errors, midi, options, tokens",
        "from spectro_render.cli.app import run; assert run(['--help']) == 0",
        "from spectro_render.cli.app import run; assert run(['--version']) == 0",
        "from spectro_render.cli.app import run; assert run(['info', '--help']) == 0",
        "from spectro_render.cli.app import run; assert run(['train', '--help']) == 0",
        "from spectro_render.cli.app import run; assert run(['evaluate', '--help']) == 0",
        "from spectro_render.cli.app import run; assert run(['config']) == 0",
        "from spectro_render.cli.app import run; assert run(['x.mid', '--steps', '0']) == 2",
        "from spectro_render.cli.app import run; assert run(['models', 'list']) == 0",
        COMPLETING,
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert modules_after(code) & HEAVY == set()


def test_reading_midi_loads_nothing_heavy() -> None:
    loaded = modules_after(f"from spectro_render import read_midi; read_midi({str(DEMO)!r})")
    assert loaded & HEAVY == set()


def test_no_garbage_is_collected_while_the_model_loads() -> None:
    """Python would look through everything that torch makes, some hundred times."""
    code = """
import gc, json
from spectro_render.batch.engine import LocalEngine
from spectro_render.batch.tasks import Settings
from spectro_render.checkpoints.find import resolve_model
from spectro_render.options import Encoding, ModelChoice, RenderOptions
passes = []
gc.callbacks.append(lambda phase, info: passes.append(phase))
settings = Settings(ModelChoice(), RenderOptions(), Encoding("wav"))
engine = LocalEngine(settings, 1, resolve_model)
passes.clear()
engine.renderer
gc.callbacks.clear()
print(json.dumps([len(passes), gc.isenabled(), gc.get_freeze_count() > 100_000]))
"""
    done = run_program([sys.executable, "-c", code], stdout=PIPE, check=True)
    passes, is_on_again, is_kept_apart = json.loads(done.stdout)
    assert passes <= 2  # the first of those later on
    assert is_on_again
    assert is_kept_apart


def test_help_comes_at_once() -> None:
    before = cpu_seconds_of_children()
    run_program([sys.executable, "-m", "spectro_render", "--help"], stdout=DEVNULL, check=True)
    assert cpu_seconds_of_children() - before < 2  # 0.2 s where nothing else runs


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", spectro_render.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(spectro_render, name) is not None
    assert name in dir(spectro_render)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nonesuch'"):
        _ = spectro_render.Nonesuch


TESTS = Path(__file__).parent
FUZZING = ("test_fuzz.py", "test_growth.py")  # read files that the fuzzers damage
STARTERS = {"subprocess", "multiprocessing", "pty"}


def imported(path: Path) -> set[str]:
    """The modules that a file imports; `from a import b` may mean `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.name)
def test_what_tests_share_is_in_support(path: Path) -> None:
    """No test is imported, and of the rest only `tests.support` is for all."""
    own = {file.stem for file in TESTS.rglob("*.py")} - {"__init__"}
    modules = imported(path)
    assert not {name.split(".")[0] for name in modules} & own  # such as `toys`, found by luck
    inside = {name for name in modules if name.startswith("tests.")}
    assert not {name for name in inside if name.split(".")[1].startswith(("test_", "conftest"))}
    others = {name.split(".")[1] for name in inside} - {"support"}
    folder = path.relative_to(TESTS).parts[0]
    assert others <= ({"fuzz"} if path.name in FUZZING else {folder} - {path.name})


@pytest.mark.parametrize("path", sorted(TESTS.glob("test_*.py")), ids=lambda path: path.name)
def test_programs_are_started_by_the_helper(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & STARTERS


FIRST_USE = """
import sys, threading
import spectro_render as sr

def read():
    assert sr.read_midi(song).notes

def render():
    assert sr.Renderer.load(model).render(song, steps=1).seconds > 1

def begin(work):
    barrier.wait()
    work()
    done.append(work)

song, model = sys.argv[1:]
barrier, done = threading.Barrier(8), []
threads = [threading.Thread(target=begin, args=(work,)) for work in [read, render] * 4]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(done) == 8
"""


def test_many_threads_may_begin_at_once(song: MakeSong, tiny_model: Path) -> None:
    """With the first imports of all that reads, loads and renders."""
    run_program([sys.executable, "-c", FIRST_USE, song(), tiny_model], check=True)
