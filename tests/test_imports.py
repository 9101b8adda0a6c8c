"""What is imported when: nothing heavy for `--help`, every public name on demand."""

import json
import resource
import subprocess
import sys

import pytest

import spectro_render

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


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import spectro_render",
        "from spectro_render import audio, errors, midi, tokens, weights",
        "from spectro_render.cli import run; assert run(['--help']) == 0",
        "from spectro_render.cli import run; assert run(['--version']) == 0",
        "from spectro_render.cli import run; assert run(['info', '--help']) == 0",
        "from spectro_render.cli import run; assert run(['x.mid', '--steps', '0']) == 2",
        "from spectro_render.cli import run; assert run(['models', 'list']) == 0",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert modules_after(code) & HEAVY == set()


def test_help_comes_at_once() -> None:
    before = cpu_seconds_of_children()
    subprocess.run([sys.executable, "-m", "spectro_render", "--help"], stdout=subprocess.DEVNULL)
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
