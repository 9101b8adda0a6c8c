"""Fetches models from the Hugging Face Hub, through the Hub's own client and into its cache.

Only what loading needs is fetched, and every file is compared with the checksum that the Hub gives.
model_index.json, without which no model is found in the cache, comes last.

The client fetches one file after the other here. Its `snapshot_download` fetches in threads, so
Ctrl-C would have to wait until each thread has finished its file.
"""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spectro_render.checkpoints.files import TENSORS
from spectro_render.checkpoints.hub_cache import (
    MAIN,
    HubName,
    cache_folder,
    name_of_snapshot,
    parse_hub_name,
    snapshots,
)
from spectro_render.checkpoints.manifest import (
    INDEX,
    MELGAN,
    ONNX,
    check,
    choose_files,
    is_blob,
    is_whole,
)
from spectro_render.checkpoints.published import PINS, PUBLISHED, pin_of
from spectro_render.errors import (
    DownloadError,
    SpectroRenderError,
    WeightsCorrupt,
    WeightsError,
    WeightsNotFound,
    install_hint,
    reason_of,
)
from spectro_render.report import Reporter, as_size

KNOWN_MODELS = {PUBLISHED: 1_707_000_000}  # about how large each is, in bytes

NO_HUB = "the server there is not a Hugging Face Hub"
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

OnBytes = Callable[[int], None]
# What becomes of a fetched vocoder: it is run now, perhaps later, or not at all.
VocoderUse = Literal["now", "later", "never"]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository on the Hub."""

    name: str
    size: int  # bytes
    blob: Path  # its content in the cache, named after its SHA-256 or, if small, git's SHA-1

    @property
    def fetched(self) -> int:
        """Bytes of the content that the cache has already."""
        if os.path.exists(self.blob):
            return self.size
        # Some releases of the client resume it.
        begun = self.blob.with_name(f"{self.blob.name}.incomplete")
        size = begun.stat().st_size if os.path.exists(begun) else 0
        return size if size <= self.size else 0


@dataclass(frozen=True)
class Listing:
    """The wanted files of a repository at one commit, with model_index.json at the end."""

    name: HubName
    commit: str
    files: Sequence[RemoteFile]

    @property
    def folder(self) -> Path:
        """The directory in which the cache shows the files."""
        return self.name.folder / "snapshots" / self.commit

    @property
    def is_complete(self) -> bool:
        """Whether all files are in the directory."""
        return all(os.path.exists(self.folder / file.name) for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def fetched(self) -> int:
        """Bytes of all files that the cache has already."""
        return sum(file.fetched for file in self.files)


def cached(
    name: str | os.PathLike[str], is_ready: Callable[[Path], bool] = is_whole
) -> Path | None:
    """The directory of a Hub's model in the cache; None if it is missing or not `is_ready`."""
    hub_name = parse_hub_name(name)
    path = hub_name.snapshot if hub_name else None
    return path if path and os.path.isfile(path / INDEX) and is_ready(path) else None


def pull(
    name: str,
    reporter: Reporter | None = None,
    *,
    choose: Callable[[Collection[str]], Sequence[str]] = choose_files,
    vocoder_use: VocoderUse = "now",
) -> Path:
    """Fetch a model from the Hub; returns its directory in the cache.

    `name` is OWNER/REPO or OWNER/REPO@REVISION. `choose` picks the files to fetch from the names of
    all. What is in the cache already is not fetched again; with HF_HUB_OFFLINE set, the model must
    be complete there. The reporter, by default one on standard error, prints how much is fetched
    and shows a bar.

    Before anything is fetched, a package that the model's vocoder needs is looked for: without it
    DownloadError is raised or, if the vocoder is run "later", a line is printed. Raises
    WeightsNotFound for what the Hub does not have, DownloadError where the download fails,
    WeightsCorrupt for content that differs from the Hub's checksum, or from the pinned one.
    """
    wanted = parse_hub_name(name)
    if wanted is None:
        message = f"{name!r} is not a name of the Hub"
        raise WeightsNotFound(message, "use OWNER/REPO or OWNER/REPO@REVISION")
    _require_client(wanted)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    reporter = reporter or Reporter()
    with _quiet_client(), _in_one_line(wanted):
        try:
            listing = _list(wanted, choose)
        except OfflineModeIsEnabled as error:
            path = cached(str(wanted))
            if path is None:
                message = f"{cache_folder()} does not hold all of {wanted}, and HF_HUB_OFFLINE"
                hint = f"unset it, or name a directory{_others_at_hand(wanted)}"
                raise WeightsNotFound(f"{message} is set", hint) from error
            return path
        if not listing.is_complete:
            _check_packages(listing, vocoder_use, reporter)
            missing = listing.size - listing.fetched
            if missing:
                _check_disk(listing, missing)
                place = f"from {HfApi().endpoint} to {cache_folder()}"
                reporter.say(f"fetching {wanted}: {as_size(missing)} {place}")
            with reporter.download(str(wanted), listing.fetched, listing.size) as on_bytes:
                _fetch(listing, on_bytes)
        if wanted.revision != listing.commit:
            # So that the cache maps the revision to the commit.
            _download(wanted, INDEX, wanted.revision)
        return listing.folder


def _require_client(name: HubName) -> None:
    try:
        with redirect_stdout(sys.stderr):  # its prints are no results
            from huggingface_hub import HfApi  # noqa: F401
    except ImportError as error:
        message = f"{name} is not here, and fetching it needs {error.name or 'huggingface_hub'}"
        raise DownloadError(message, f"{install_hint('hub')}{_others_at_hand(name)}") from error
    except ValueError as error:  # it reads its variables when it is imported
        message = f"{name} is not here, and the Hub's client does not start: {error}"
        raise DownloadError(message, "check the variables whose names begin with HF_") from error


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Inside the block, the client shows no bars, logs nothing and does not warn."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    verbosity, had_bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    if had_bars:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


def _list(name: HubName, choose: Callable[[Collection[str]], Sequence[str]]) -> Listing:
    """Ask the Hub for the files of a repository, and choose the wanted ones.

    Raises WeightsError for a repository without a model, and the errors of the client.
    """
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi().model_info(
            name.repo,
            revision=name.revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(NO_HUB) from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    if INDEX not in siblings:
        message = f"{name} on the Hub has no {INDEX}: it is not a model for this program"
        raise WeightsError(message, "choose another model")
    files = []
    for file in (*(file for file in choose(siblings) if file != INDEX), INDEX):
        size, lfs = siblings[file].size, siblings[file].lfs
        blob = name.folder / "blobs" / str(lfs.sha256 if lfs else siblings[file].blob_id)
        if size is None or not is_blob(blob):
            raise ValueError(NO_HUB)
        files.append(RemoteFile(file, size, blob))
    listing = Listing(name, str(info.sha), files)
    _check_pinned(listing)
    return listing


def _check_pinned(listing: Listing) -> None:
    """Raise WeightsCorrupt if the Hub lists other content than is known of a pinned commit."""
    name = listing.name
    pin = pin_of(name.repo, listing.commit)
    if pin is None:
        return
    for file in listing.files:
        pinned = pin.files.get(file.name)
        is_same = pinned is not None and pinned.size in (None, file.size)
        if pinned and pinned.sha256:
            is_same = is_same and pinned.sha256 == file.blob.name
        if not is_same:
            message = f"{name}: at commit {listing.commit[:7]} the Hub lists another {file.name}"
            hint = f"for another commit, name it: {name.repo}@{MAIN} or {name.repo}@COMMIT"
            raise WeightsCorrupt(f"{message} than was published", hint)


def _check_packages(listing: Listing, vocoder_use: VocoderUse, reporter: Reporter) -> None:
    """Raise DownloadError, or print a line, if the model's vocoder needs a missing package."""
    names = {file.name for file in listing.files}
    if vocoder_use == "never" or ONNX.as_posix() not in names or f"{MELGAN}/{TENSORS}" in names:
        return
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        message = f"the vocoder of {listing.name} needs onnxruntime, which is not installed"
        if vocoder_use == "now":
            hint = f"{install_hint('hub')}, or choose --vocoder griffin-lim"
            raise DownloadError(message, hint) from None
        reporter.say(f"{message}; {install_hint('hub')}")


def _others_at_hand(name: HubName) -> str:
    """The end of a hint: another commit of a repository that the cache holds, if there is one."""
    for path in snapshots(name.repo):
        other = name_of_snapshot(path)
        if other is not None and other != name and is_whole(path):
            return f"; another commit is in the cache: {other}"
    return ""


def _check_disk(listing: Listing, needed: int) -> None:
    """Raise DownloadError if `needed` bytes do not fit on the disk of the cache."""
    folder = cache_folder()
    folders = (folder, *folder.absolute().parents)
    place = next((path for path in folders if os.path.isdir(path)), folder)
    free = shutil.disk_usage(place).free
    if needed > free:
        message = f"{listing.name} needs {as_size(needed)} in {folder}: {as_size(free)} are free"
        raise DownloadError(message, "make room, or set HF_HOME to a folder on a larger disk")


def _fetch(listing: Listing, on_bytes: OnBytes) -> None:
    """Fetch the files that are missing, and verify all. Raises WeightsCorrupt.

    The index is removed first and fetched last. So a model that is found has been verified, even if
    a download was killed at the worst moment.
    """
    (listing.folder / INDEX).unlink(missing_ok=True)
    for file in listing.files:
        others = listing.fetched - file.fetched
        path = _download(listing.name, file.name, listing.commit, on_bytes, others)
        try:
            check(path, file.blob.name, f"{listing.name}: {file.name}")
        except WeightsCorrupt:
            # The path is a link to the blob; with newer clients that is a link to shared content.
            for part in (path.resolve(), file.blob, path):
                part.unlink(missing_ok=True)
            raise
        on_bytes(listing.fetched)


def _download(
    name: HubName, file: str, revision: str, on_bytes: OnBytes = lambda _: None, others: int = 0
) -> Path:
    """Fetch a file into the cache, unless it is there; returns its path.

    `on_bytes` is called with `others` plus the number of bytes fetched so far, if the client's
    release can report it.
    """
    from huggingface_hub import hf_hub_download

    options: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = _make_bar_class(on_bytes, others)
    path = hf_hub_download(
        name.repo,
        file,
        revision=revision,
        cache_dir=cache_folder(),
        library_name="spectro-render",
        **options,
    )
    return Path(path)


def _make_bar_class(on_bytes: OnBytes, others: int) -> type[Any]:
    """Make a class of progress bars that show nothing and call `on_bytes` with the bytes so far."""
    from tqdm import tqdm

    most = 0  # the client may have two bars for one file: bytes that came, and bytes written

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *_: Any, initial: int = 0, **__: Any) -> None:
            super().__init__(disable=True)
            self._done = 0
            self.update(initial)

        def update(self, n: float | None = 1) -> None:
            nonlocal most
            self._done += int(n or 0)
            most = max(most, self._done)
            on_bytes(others + most)

    return Bar


# --- errors -----------------------------------------------------------------------------------


@contextmanager
def _in_one_line(name: HubName) -> Iterator[None]:
    """Turn the client's errors, of classes from several packages, into our own of one line."""
    from huggingface_hub import HfApi, errors

    page = f"{HfApi().endpoint}/{name.repo}"
    try:
        yield
    except SpectroRenderError:
        raise
    except errors.GatedRepoError as error:
        hint = f"ask for access at {page}, then set HF_TOKEN or log in with `hf auth login`"
        message = f"{name} is only for those to whom its owner gives access"
        raise DownloadError(message, hint) from error
    except errors.RepositoryNotFoundError as error:
        message = f"no model {str(name)!r}: it is neither a directory here nor known to {page}"
        hint = "check the name; for a private one set HF_TOKEN or log in with `hf auth login`"
        raise WeightsNotFound(message, hint) from error
    except errors.RevisionNotFoundError as error:
        message = f"{name.repo} on the Hub has no branch, tag or commit {name.revision!r}"
        is_pinned = name == HubName(name.repo) and name.repo in PINS
        hint = f"for another commit, name it: {name.repo}@{MAIN}" if is_pinned else f"see {page}"
        raise WeightsNotFound(message, hint) from error
    except Exception as error:
        raise _failure(name, error) from error


def _failure(name: HubName, error: Exception) -> DownloadError:
    """Make the error to raise for a failure of the disk, the connection or the server."""
    from huggingface_hub import HfApi

    endpoint = HfApi().endpoint
    cause = error.__cause__ or error  # the client wraps errors of the connection
    cause = error if str(error) == NO_HUB else cause
    response = getattr(cause, "response", None)
    if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
        message = f"{name} does not fit into {cache_folder()}: {reason_of(error)}"
        return DownloadError(message, "make room and try again; whole files are kept")
    if isinstance(error, OSError) and error.errno and error.filename:
        message = f"cannot write {error.filename}: {reason_of(error)}"
        return DownloadError(message, "set HF_HOME to a folder that you may write to")
    if response is not None:
        message = f"cannot fetch {name}: {endpoint} answers {response.status_code}"
        return DownloadError(message, "try again later; if it requires a login, set HF_TOKEN")
    reason = str(cause).partition("\n")[0] or type(cause).__name__
    message = f"cannot fetch {name} from {endpoint}: {reason}"
    return DownloadError(message, "check the connection and try again; whole files are kept")
