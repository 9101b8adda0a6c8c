"""The published model: its commit, sizes and checksums are known without the Hub."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectro_render.checkpoints import published
from spectro_render.checkpoints.find import find_model, get_model
from spectro_render.checkpoints.hub import KNOWN_MODELS, cached, pull
from spectro_render.checkpoints.hub_cache import HubName, parse_hub_name
from spectro_render.checkpoints.manifest import sha256, verify
from spectro_render.checkpoints.names import SCHEDULER
from spectro_render.checkpoints.published import PINS, PUBLISHED, Pin, PinnedFile
from spectro_render.cli import app as cli
from spectro_render.errors import WeightsCorrupt, WeightsNotFound
from spectro_render.report import Reporter
from tests.support.golden import PIPELINE
from tests.support.hub_server import Hub, point_client_at, serve
from tests.support.published import write_configs

COMMIT = PINS[PUBLISHED].commit
WEIGHTS = "decoder/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub whose published model is the tiny pipeline, with what is pinned of that."""
    with serve(PIPELINE) as hub:
        point_client_at(hub, monkeypatch)
        hub.repo, hub.pinned = PUBLISHED, COMMIT
        files = {
            name: PinnedFile(
                None if name == WEIGHTS else (PIPELINE / name).stat().st_size,
                None if name.endswith(".json") else sha256(PIPELINE / name),
            )
            for name in hub.files
        }
        monkeypatch.setitem(PINS, PUBLISHED, Pin(COMMIT, files))
        yield hub


def as_copies(path: Path) -> None:
    """Put copies in the place of the cache's links, as on a file system without any."""
    for file in path.rglob("*"):
        if file.is_symlink():
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
    shutil.rmtree(path.parents[1] / "blobs")


# --- what is known ----------------------------------------------------------------------------


def test_the_table() -> None:
    pin = PINS[PUBLISHED]
    assert len(pin.commit) == 40 and len(pin.files) == 9
    hashes = {name: file.sha256 for name, file in pin.files.items() if file.sha256}
    assert all(re.fullmatch("[0-9a-f]{64}", found) for found in hashes.values())
    assert len(set(hashes.values())) == 4
    assert all(name.endswith(".json") for name in pin.files if name not in hashes)
    assert pin.files["decoder/diffusion_pytorch_model.bin"].size is None
    known = sum(file.size or 955_000_000 for file in pin.files.values())
    assert abs(known - KNOWN_MODELS[PUBLISHED]) < 1e6


def test_the_configurations_have_the_published_sizes(tmp_path: Path) -> None:
    write_configs(tmp_path)
    for file in tmp_path.rglob("*.json"):
        name = file.relative_to(tmp_path).as_posix()
        assert file.stat().st_size == PINS[PUBLISHED].files[name].size


def test_the_name_alone_means_the_pinned_commit() -> None:
    name = parse_hub_name(PUBLISHED)
    assert name and name.revision == COMMIT and str(name) == PUBLISHED
    assert parse_hub_name(f"{PUBLISHED}@{COMMIT}") == name
    assert str(HubName(PUBLISHED, "main")) == f"{PUBLISHED}@main"


# --- fetching ---------------------------------------------------------------------------------


def test_the_pinned_commit_is_fetched(hub: Hub, cache: Path) -> None:
    path = pull(PUBLISHED)
    assert path.name == COMMIT != hub.commit
    assert all("main" not in request.path for request in hub.requests)
    assert cached(PUBLISHED) == find_model(PUBLISHED) == path
    assert cached(f"{PUBLISHED}@main") is None


@pytest.mark.parametrize("revision", ["main", "commit"])
def test_another_commit_only_where_it_is_named(hub: Hub, revision: str) -> None:
    name = f"{PUBLISHED}@{hub.commit if revision == 'commit' else revision}"
    other = get_model(name, Reporter(quiet=True))
    assert other.name == hub.commit and cached(PUBLISHED) is None
    hub.files["melgan/model.onnx"] = b"new"  # nothing is pinned of other commits
    hub.requests.clear()
    path = pull(f"{PUBLISHED}@main")
    assert path.name == hub.commit != other.name and hub.asked_for() != []


@pytest.mark.parametrize("name", [WEIGHTS, "melgan/model.onnx", "scheduler/scheduler_config.json"])
def test_other_content_is_refused_before_anything_is_fetched(hub: Hub, name: str) -> None:
    content = hub.files[name]
    assert isinstance(content, bytes)
    hub.files[name] = content + b" "
    with pytest.raises(WeightsCorrupt) as caught:
        pull(PUBLISHED)
    assert str(caught.value) == (
        f"{PUBLISHED}: at commit b4e09e8 the Hub lists another {name} than was published;"
        f" for another commit, name it: {PUBLISHED}@main or {PUBLISHED}@COMMIT"
    )
    assert hub.asked_for() == [] and verify(pull(f"{PUBLISHED}@main"))


def test_a_mirror_without_the_commit(hub: Hub) -> None:
    hub.pinned = ""
    with pytest.raises(WeightsNotFound, match=f"name it: {PUBLISHED}@main"):
        pull(PUBLISHED)


def test_another_commit_in_the_cache_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with diffusers, which fetches the main branch."""
    pull(f"{PUBLISHED}@main", Reporter(quiet=True))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True, raising=False)
    with pytest.raises(WeightsNotFound) as caught:
        pull(PUBLISHED)
    assert caught.value.hint.endswith(f"; another commit is in the cache: {PUBLISHED}@main")


# --- checking ---------------------------------------------------------------------------------


@pytest.mark.parametrize("has_links", [True, False])
def test_checking_without_the_hub(
    hub: Hub, has_links: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = pull(PUBLISHED, Reporter(quiet=True))
    if not has_links:
        as_copies(path)
    hub.requests.clear()
    assert cli.run(["models", "verify", PUBLISHED]) == 0
    assert capfd.readouterr().out == f"{PUBLISHED}: all files match their checksums\n"
    for name, found in ((WEIGHTS, "has the SHA-256"), (SCHEDULER, "has the SHA-1")):
        file = path / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + b" ")
        if has_links or name == WEIGHTS:
            with pytest.raises(WeightsCorrupt, match=found):
                verify(path)
        file.write_bytes(whole)
    file = path / SCHEDULER
    file.write_text(json.dumps(json.loads(file.read_text())))
    with pytest.raises(WeightsCorrupt) as caught:
        verify(path)
    assert f"{file} has {file.stat().st_size} bytes, not " in str(caught.value)
    assert caught.value.hint.endswith(f"; for another commit, name it: {PUBLISHED}@main")
    assert hub.requests == []


def test_what_is_not_pinned(hub: Hub) -> None:
    """Copies of other commits have nothing that they could be compared with."""
    path = pull(f"{PUBLISHED}@main")
    as_copies(path)
    assert not verify(path)
    assert published.pin_of(PUBLISHED, hub.commit) is None


def test_a_file_that_is_no_part_of_the_commit(hub: Hub) -> None:
    path = pull(PUBLISHED)
    safe, pickled = path / WEIGHTS, path / "decoder" / "diffusion_pytorch_model.bin"
    safe.rename(pickled)
    with pytest.raises(WeightsCorrupt, match="is no part of commit b4e09e8"):
        verify(path)
