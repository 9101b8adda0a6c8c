"""Models of the Hub: the real client against a server on this machine, with all that goes wrong."""

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.files import PICKLE, TENSORS
from spectro_render.checkpoints.find import find_model, get_model
from spectro_render.checkpoints.hub import KNOWN_MODELS, cached, pull
from spectro_render.checkpoints.hub_cache import HubName, cache_folder, parse_hub_name, snapshots
from spectro_render.checkpoints.manifest import INDEX, choose_files, has_vocoder, verify
from spectro_render.cli import app as cli
from spectro_render.errors import (
    DownloadError,
    WeightsCorrupt,
    WeightsError,
    WeightsNotFound,
    install_hint,
)
from spectro_render.render.renderer import Renderer
from spectro_render.report import Reporter, as_size
from tests.support.golden import PIPELINE
from tests.support.hub_server import GATED, PRIVATE, REPO, Hub, point_client_at, serve
from tests.support.processes import (
    DEVNULL,
    LIMIT,
    PIPE,
    REPOSITORY,
    CompletedProcess,
    run_on_terminal,
    run_program,
    start_program,
    wait_until,
)

BLOCK = 1 << 20  # bytes; the client's own blocks are larger than all our files
DECODER = f"decoder/{TENSORS}"  # 1.4 MB, the only file that comes in more than one block
FILES = sorted(path.relative_to(PIPELINE).as_posix() for path in PIPELINE.rglob("*.*"))
Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    return tmp_path / "home" / "hub"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with the tiny published pipeline, which the client takes for the only one."""
    with serve(PIPELINE) as hub:
        point_client_at(hub, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", BLOCK)
        yield hub


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again at once."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


@pytest.fixture
def command(hub: Hub, tmp_path: Path) -> Command:
    """Runs the program with the Hub's address in its environment."""

    def run(*words: str, **environment: str) -> CompletedProcess[str]:
        variables = environ(hub, **environment)
        return run_program(
            program(*words), capture_output=True, text=True, cwd=tmp_path, env=variables
        )

    return run


def program(*words: str) -> list[str]:
    return [sys.executable, "-m", "spectro_render", *words]


def environ(hub: Hub, **more: str) -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "HF_ENDPOINT": hub.address, **more}


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def halves(cache: Path) -> list[Path]:
    return list(cache.glob("models--*/blobs/*.incomplete"))


def refusal(kind: type[WeightsError], name: str = REPO) -> str:
    """The one line that fetching ends in."""
    with pytest.raises(kind) as caught:
        pull(name)
    line = str(caught.value)
    assert "\n" not in line and caught.value.hint
    assert type(caught.value) is kind
    return line


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google/music-spectrogram-diffusion", HubName("google/music-spectrogram-diffusion")),
        ("a/b.c_d@v1.0", HubName("a/b.c_d", "v1.0")),
        ("a/b@refs/pr/1", HubName("a/b", "refs/pr/1")),
        *((name, None) for name in ("default", "/a/b", "./a", "../a", "a/b/c", "a/", "~/a", "")),
        *((name, None) for name in ("a/..", "a/b--c", "a/b@", "a/b@../../c", "a/b c", "a\\b")),
    ],
)
def test_names_of_the_hub(name: str, expected: HubName | None) -> None:
    assert parse_hub_name(name) == expected
    assert expected is None or str(expected) == name


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "~/h"}, "~/h/hub"),
        ({"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "/c"}, "/c"),
    ],
)
def test_the_cache_is_where_the_client_has_it(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HOME")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder).expanduser()
    script = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    if len(variables) == 2:  # a process each takes long
        theirs = run_program([sys.executable, "-c", script], stdout=PIPE, text=True, check=True)
        assert theirs.stdout.strip() == str(cache_folder())


def test_sizes() -> None:
    sizes = {
        0: "0 bytes",
        999: "999 bytes",
        1000: "1.0 kB",
        57_700_000: "58 MB",
        10**13: "10000 GB",
    }
    assert {size: as_size(size) for size in sizes} == sizes
    assert [as_size(size) for size in KNOWN_MODELS.values()] == ["1.7 GB"]


# --- fetching ---------------------------------------------------------------------------------


def test_only_what_loading_reads_is_fetched(hub: Hub, cache: Path) -> None:
    extras = ("README.md", f"decoder/{PICKLE}", "decoder/flax_model.msgpack", "samples/a.wav")
    hub.files.update(dict.fromkeys(extras, b"much"))
    path = pull(REPO)
    assert path == cache / "models--owner--tiny" / "snapshots" / hub.commit
    assert files(path) == FILES
    assert all((path / name).read_bytes() == hub.files[name] for name in FILES)
    assert sorted(set(hub.asked_for())) == FILES
    assert len(hub.asked_for()) == len(FILES)
    assert cached(REPO) == find_model(REPO) == path
    assert load_checkpoint(REPO, vocoder="griffin-lim").name == REPO


def test_pickles_only_where_there_is_nothing_else() -> None:
    names = [INDEX, "melgan/model.onnx", "notes_encoder/config.json", f"notes_encoder/{PICKLE}"]
    assert set(choose_files([*names, "notes_encoder/model.bin", "a.py"])) == set(names)
    safe = choose_files([*names, f"notes_encoder/{TENSORS}"])
    assert f"notes_encoder/{TENSORS}" in safe and f"notes_encoder/{PICKLE}" not in safe


def test_the_client_itself_finds_everything_in_its_place(hub: Hub) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    path = pull(REPO)
    for name in FILES:
        assert try_to_load_from_cache(REPO, name, cache_dir=cache_folder()) == str(path / name)
    report = scan_cache_dir(cache_folder())
    assert [repo.repo_id for repo in report.repos] == [REPO] and not report.warnings


def test_the_token_is_for_the_hub_alone(hub: Hub) -> None:
    pull(REPO)
    storage = [request for request in hub.requests if request.path.startswith("/storage/")]
    others = [request for request in hub.requests if request.path.startswith(f"/{REPO}/")]
    assert storage and all(request.authorization is None for request in storage)
    assert others and all(request.authorization == "Bearer secret" for request in others)


def test_only_what_is_new_is_fetched_again(hub: Hub) -> None:
    old = pull(REPO)
    hub.requests.clear()
    assert pull(REPO) == old and hub.asked_for() == []
    first = hub.commit
    hub.files[INDEX] += b"\n"
    new = pull(REPO)
    assert hub.asked_for() == [INDEX]
    assert find_model(REPO) == new != old
    assert find_model(f"{REPO}@{first}") == old
    assert pull(f"{REPO}@{hub.commit}") == new


def test_the_vocoder_alone(hub: Hub) -> None:
    pytest.importorskip("onnxruntime")
    loaded = load_checkpoint(PIPELINE, vocoder=REPO)
    assert loaded.vocoder_kind == "onnx"
    assert sorted(hub.asked_for()) == ["melgan/model.onnx", INDEX]
    assert cached(REPO) is None and cached(REPO, has_vocoder)
    hub.requests.clear()
    assert load_checkpoint(PIPELINE, vocoder=REPO).vocoder_kind == "onnx" and hub.requests == []
    assert cached(REPO) is None
    pull(REPO)
    assert sorted(hub.asked_for()) == [
        name for name in FILES if name not in ("melgan/model.onnx", INDEX)
    ]


# --- what goes wrong --------------------------------------------------------------------------


def test_a_cut_connection_is_taken_up_again(hub: Hub, no_pause: None) -> None:
    from huggingface_hub import __version__

    hub.cut[DECODER] = [BLOCK + 1000]
    if __version__.startswith("0."):  # these releases try again only where no byte has come
        refusal(DownloadError)
    assert verify(pull(REPO))
    assert hub.ranges() == [f"bytes={BLOCK}-"]


def test_a_connection_that_stays_cut(hub: Hub, cache: Path, no_pause: None) -> None:
    hub.cut[DECODER] = [BLOCK + 1000] + 20 * [0]
    line = refusal(DownloadError)
    assert line.startswith(f"cannot fetch {REPO} from {hub.address}: ")
    assert "peer closed connection" in line or "Connection broken" in line
    assert line.endswith("; check the connection and try again; whole files are kept")
    kept = [half.stat().st_size for half in halves(cache)]  # by some releases of the client
    assert kept in ([], [BLOCK])
    assert cached(REPO) is None
    hub.cut.clear()
    hub.requests.clear()
    assert verify(pull(REPO))
    assert hub.asked_for() == [DECODER, INDEX] and hub.ranges() == [f"bytes={BLOCK}-"] * len(kept)


def test_a_wrong_checksum(hub: Hub, cache: Path) -> None:
    hub.altered = {DECODER}
    line = refusal(WeightsCorrupt)
    assert f"{REPO}: {DECODER} has the SHA-256 " in line and line.endswith("; get the model again")
    assert cached(REPO) is None and not halves(cache)
    hub.altered = set()
    assert verify(pull(REPO))


def test_a_half_file_that_is_no_part_of_the_file(hub: Hub, cache: Path) -> None:
    pull(REPO)
    blob = (find_model(REPO) / DECODER).resolve()
    half = blob.with_name(f"{blob.name}.incomplete")
    blob.rename(half)
    half.write_bytes(b"other")
    try:
        path = pull(REPO)
    except WeightsCorrupt as error:  # a client that goes on with the half
        assert "SHA-256" in str(error)
        path = pull(REPO)
    assert verify(path)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        (
            "owner/none",
            WeightsNotFound,
            "no model 'owner/none': it is neither a directory here",
        ),
        (PRIVATE, WeightsNotFound, f"no model '{PRIVATE}': it is neither a directory here nor"),
        (
            GATED,
            DownloadError,
            f"{GATED} is only for those to whom its owner gives access; ask",
        ),
        (f"{REPO}@v9", WeightsNotFound, f"{REPO} on the Hub has no branch, tag or commit 'v9'"),
        ("tiny", WeightsNotFound, "'tiny' is not a name of the Hub; use OWNER/REPO or OWNER/REPO@"),
    ],
)
def test_what_the_hub_does_not_give(
    hub: Hub, cache: Path, name: str, kind: type[WeightsError], said: str
) -> None:
    assert refusal(kind, name).startswith(said)
    assert cached(name) is None and list(snapshots()) == []
    assert not HubName(GATED).is_begun


@pytest.mark.parametrize("answer", [b"<html>Log in</html>", b"[]", b"{}", b'{"id": "a/b"}'])
def test_something_else_answers(hub: Hub, answer: bytes) -> None:
    hub.answer = answer
    kind = WeightsError if b"a/b" in answer else DownloadError
    said = "has no model_index.json" if b"a/b" in answer else "is not a Hugging Face Hub"
    assert said in refusal(kind)


def test_checksums_that_lead_elsewhere(hub: Hub, cache: Path) -> None:
    sibling = {"rfilename": INDEX, "size": 9, "blobId": "../../../stolen"}
    hub.answer = json.dumps({"id": REPO, "sha": hub.commit, "siblings": [sibling]}).encode()
    assert "the server there is not a Hugging Face Hub" in refusal(DownloadError)
    assert files(cache) == []


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_hub_that_is_ill(hub: Hub, status: int) -> None:
    hub.status = status
    said = f"cannot fetch {REPO}: {hub.address} answers {status}; "
    assert refusal(DownloadError).startswith(said)


def test_nobody_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    line = refusal(DownloadError)
    assert line.startswith(f"cannot fetch {REPO} from http://127.0.0.1:9: ")
    assert "refused" in line


def test_behind_a_proxy(command: Command, hub: Hub) -> None:
    """The proxy is the server of the tests; nothing else knows the name of the Hub."""
    environment = {"HTTP_PROXY": hub.address, "NO_PROXY": "", "HF_ENDPOINT": "http://hub.invalid"}
    done = command("models", "pull", REPO, **environment)
    assert done.returncode == 0, done.stderr
    assert verify(Path(done.stdout.rstrip("\n")))
    assert sorted(hub.asked_for()) == FILES


@pytest.mark.parametrize("address", ["http://[bad", "http://127.0.0.1:port"])
@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "HTTP_PROXY"])
def test_an_address_that_is_none(command: Command, variable: str, address: str) -> None:
    done = command("models", "pull", REPO, **{variable: address, "NO_PROXY": ""})
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]  # the client may have had a word before
    assert line.startswith("spectro-render: ") and REPO in line and "; check the " in line


def test_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refusal(DownloadError)
    assert line == (
        f"{REPO} is not here, and fetching it needs huggingface_hub; {install_hint('hub')}"
    )


def test_no_onnxruntime_is_known_beforehand(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    need = f"the vocoder of {REPO} needs onnxruntime, which is not installed"
    mend = install_hint("hub")
    for words in (["--model", REPO], ["--model", REPO, "--vocoder", "onnx"], ["--vocoder", REPO]):
        midi = str(REPOSITORY / "docs" / "demo.mid")
        assert cli.run([midi, "-o", str(cache.parents[1] / "song.wav"), *words]) == 1
        line = capfd.readouterr().err
        assert line.endswith(f"{need}; {mend}, or choose --vocoder griffin-lim\n")
        assert line.count("\n") == 1 and hub.asked_for() == [] and files(cache) == []
    assert cli.run(["models", "pull", REPO]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == f"spectro-render: {need}; {mend}"
    assert lines[1].startswith(f"spectro-render: fetching {REPO}: ")


def test_a_vocoder_that_is_not_used_needs_no_package(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert load_checkpoint(REPO, vocoder="griffin-lim").name == REPO


def test_small_files_come_zipped_and_without_a_length(hub: Hub) -> None:
    pull(REPO)
    small = [request for request in hub.requests if "/resolve-cache/" in request.path]
    fetched = [request.path for request in small if request.method == "GET" and request.zipped]
    assert len(fetched) == len([name for name in FILES if name.endswith(".json")])


def test_too_little_room_is_known_beforehand(hub: Hub, cache: Path) -> None:
    hub.sizes[DECODER] = 10**18
    line = refusal(DownloadError)
    assert line.startswith(f"{REPO} needs 1000000000 GB in {cache}: ")
    assert line.endswith(" are free; make room, or set HF_HOME to a folder on a larger disk")
    assert hub.asked_for() == [] and files(cache) == []


def test_what_is_there_already_needs_no_room(hub: Hub, cache: Path) -> None:
    pull(REPO)
    other = next(name for name in FILES if name.startswith("notes_encoder/diff"))
    free = shutil.disk_usage(cache).free
    hub.sizes[other] = free  # only this much may be asked for, and it is there
    assert pull(REPO) == find_model(REPO)


def test_a_disk_that_fills_up(hub: Hub, cache: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK + BLOCK // 8, hard))
    try:
        with pytest.raises(DownloadError) as caught:
            get_model(REPO, Reporter())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == (
        f"{REPO} does not fit into {cache}: file too large;"
        " make room and try again; whole files are kept"
    )
    assert cached(REPO) is None
    whole = hub.asked_for()[:-1]
    hub.requests.clear()
    assert verify(pull(REPO)) and whole and not {*whole} & {*hub.asked_for()}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, where this process may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or run_program(mount, capture_output=True).returncode:
        pytest.skip("only root may make a small file system")
    try:
        yield folder
    finally:
        run_program(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small(
    hub: Hub, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tiny_disk))
    assert refusal(DownloadError).startswith(f"{REPO} needs 3.3 MB in {tiny_disk}: 2.1 MB are free")
    assert files(tiny_disk) == []
    hub.sizes[DECODER] = 10  # the room runs out while it comes
    line = refusal(DownloadError)
    assert line.startswith(f"{REPO} does not fit into {tiny_disk}: no space left on device; make")


@pytest.mark.parametrize("place", ["file/hub", "closed/hub"])
def test_a_cache_that_cannot_be_written(
    hub: Hub, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.startswith("closed") and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o500)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / place))
    line = refusal(DownloadError)
    assert line.startswith(f"cannot write {tmp_path / place.split('/')[0]}")
    assert line.endswith("; set HF_HOME to a folder that you may write to")


def test_a_cache_that_is_only_read(hub: Hub, cache: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    path = pull(REPO)
    folders = [cache, *(folder for folder in cache.rglob("*") if folder.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert pull(REPO) == get_model(REPO, Reporter()) == path
    finally:
        for folder in folders:
            folder.chmod(0o700)


# --- checking ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [(DECODER, "SHA-256"), (INDEX, "SHA-1")])
def test_a_file_that_has_changed_in_the_cache(hub: Hub, name: str, kind: str) -> None:
    path = pull(REPO)
    assert verify(path)
    blob = (path / name).resolve()
    blob.write_bytes(blob.read_bytes().replace(b"s", b"z", 1))
    with pytest.raises(WeightsCorrupt) as caught:
        verify(path)
    assert f"{path / name} has the {kind} " in str(caught.value)


def test_a_file_that_is_gone_from_the_cache(hub: Hub) -> None:
    path = pull(REPO)
    (path / DECODER).resolve().unlink()
    assert cached(REPO) is None
    hub.requests.clear()
    assert pull(REPO) == path and hub.asked_for() == [DECODER]


def test_content_that_repositories_share(hub: Hub, cache: Path) -> None:
    """Newer clients keep it elsewhere, under another name, and make a blob a link to it."""
    path = pull(REPO)
    blob, shared = (path / DECODER).resolve(), cache / "blobs" / "01" / ("0" * 64)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert verify(path)
    shared.write_bytes(shared.read_bytes()[:-1])
    with pytest.raises(WeightsCorrupt, match="has the SHA-256"):
        verify(path)


def test_a_file_is_checked_before_the_model_is_found(hub: Hub) -> None:
    """A download that was killed before the check is checked by the next one."""
    path = pull(REPO)
    decoder = (path / DECODER).resolve()
    decoder.write_bytes(decoder.read_bytes()[:-1] + b"x")
    (path / INDEX).unlink()
    assert cached(REPO) is None
    assert "SHA-256" in refusal(WeightsCorrupt)
    assert cached(REPO) is None
    assert verify(pull(REPO))


# --- the command line -------------------------------------------------------------------------


def test_models_of_the_hub(hub: Hub, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", "path", REPO]) == 1
    assert capfd.readouterr().err == (
        f"spectro-render: no model '{REPO}' here: looked at {REPO} and {cache};"
        f" spectro-render models pull {REPO}, if the Hub has it\n"
    )
    assert cli.run(["models", "pull", REPO]) == 0
    path = cache / "models--owner--tiny" / "snapshots" / hub.commit
    fetching = f"spectro-render: fetching {REPO}: 3.3 MB from {hub.address} to {cache}\n"
    assert capfd.readouterr() == (f"{path}\n", fetching)
    assert cli.run(["models", "path", REPO]) == cli.run(["models", "pull", "-q", REPO]) == 0
    assert capfd.readouterr() == (f"{path}\n{path}\n", "")
    assert cli.run(["models", "verify", REPO]) == 0
    assert capfd.readouterr().out == f"{REPO}: all files match their checksums\n"


def test_a_model_of_the_hub_is_converted(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "converted"
    assert cli.run(["models", "convert", REPO, str(path), "--dtype", "float16", "-q"]) == 0
    assert capfd.readouterr() == ("", "")
    assert verify(path) and (path / DECODER).stat().st_size < len(hub.files[DECODER]) * 0.6
    assert cli.run(["models", "convert", REPO, str(path)]) == 1
    assert capfd.readouterr().err.startswith(f"spectro-render: {path} is there already; ")


def test_the_list_knows_states(hub: Hub, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    known = "google/music-spectrogram-diffusion"
    assert cli.run(["models"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split("\t")[:2] == ["default", "bundled"]
    assert lines[1:] == [f"{known}\tnot downloaded\t1.7 GB\t-"]
    path = pull(REPO)
    (cache / "models--someone--else" / "snapshots" / "0" / "weights").mkdir(parents=True)
    half = cache / "models--google--music-spectrogram-diffusion" / "blobs" / "0.incomplete"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"0")
    assert cli.run(["models", "list", "--json"]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    size = sum(len(content) for content in hub.files.values())
    assert records[1:] == [
        {"name": REPO, "state": "downloaded", "bytes": size, "path": str(path)},
        {"name": known, "state": "incomplete", "bytes": KNOWN_MODELS[known], "path": None},
    ]
    (path / DECODER).unlink()
    assert cli.run(["models", "list"]) == 0
    assert f"{REPO}\tincomplete\t1.9 MB\t{path}\n" in capfd.readouterr().out
    assert cli.run(["models", "verify"]) == 0
    assert REPO not in capfd.readouterr().out


def test_rendering_with_a_name_is_all_it_takes(
    command: Command, hub: Hub, song: Callable[..., Path]
) -> None:
    pytest.importorskip("onnxruntime")
    song(seconds=1)
    done = command("song.mid", "--model", REPO, "--steps", "1", "--json")
    lines = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 2 and "song.mid -> song.wav" in lines[1]
    assert lines[0].startswith(f"spectro-render: fetching {REPO}: 3.3 MB from {hub.address} to ")
    assert json.loads(done.stdout)["model"] == REPO


def test_a_model_in_the_cache_needs_no_hub(
    hub: Hub,
    song: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pull(REPO, Reporter(quiet=True))
    hub.requests.clear()
    song(seconds=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = ("--vocoder", "griffin-lim", "--steps", "1", "-q")
    assert cli.run(["song.mid", "--model", REPO, *words]) == 0
    assert hub.requests == [] and capfd.readouterr() == ("", "")


def test_quiet_fetches_without_a_word(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    renderer = Renderer.load(REPO, vocoder="griffin-lim", device="cpu", quiet=True)
    assert renderer.name == REPO and capfd.readouterr() == ("", "")


def test_offline(command: Command, hub: Hub) -> None:
    done = command("models", "pull", REPO, HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f" does not hold all of {REPO}, and HF_HUB_OFFLINE is set; unset it" in done.stderr
    path = pull(REPO)
    hub.requests.clear()
    done = command("models", "pull", REPO, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_an_interrupted_download_goes_on(hub: Hub, number: int, code: int) -> None:
    hub.cut[DECODER] = [BLOCK + 1000]
    hub.held.clear()
    with start_program(
        program("models", "pull", REPO), stdout=PIPE, stderr=PIPE, text=True, env=environ(hub)
    ) as process:
        wait_until(lambda: DECODER in hub.asked_for(), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT)
    hub.held.set()
    assert (process.returncode, out) == (code, "")
    assert err.splitlines()[1:] == ["spectro-render: interrupted"] * (number == signal.SIGINT)
    assert cached(REPO) is None
    hub.requests.clear()
    assert verify(pull(REPO))
    assert hub.asked_for() == [DECODER, INDEX]


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_terminal_sees_a_bar_unless_it_shall_be_quiet(hub: Hub, is_quiet: bool) -> None:
    """And never the client's own."""
    arguments = program("models", "pull", REPO, *["-q"] * is_quiet)
    code, shown = run_on_terminal(arguments, ("stderr",), stdout=DEVNULL, env=environ(hub))
    assert code == 0
    assert (shown == "") if is_quiet else (" MB of 3.3 MB" in shown)
