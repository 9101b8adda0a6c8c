"""Fetches models from the Hugging Face Hub, through the Hub's own client and into its cache.

Only what loading needs is fetched. A file gets its final name when it is whole and has the checksum
that the Hub gives; until then it is `.incomplete`, and the next attempt goes on from there. The
snapshot, which is what makes a model findable, is put together last.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectro_render.checkpoints.hub_cache import HubName, cache_folder, cached, parse_hub_name
from spectro_render.checkpoints.manifest import INDEX, check, choose_files, is_blob
from spectro_render.errors import DownloadError, WeightsError, WeightsNotFound, reason_of
from spectro_render.report import Reporter, as_size

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What is fetched when only its name is given, and about how large it is. Neither a commit nor
# checksums of it were ever published outside the Hub, so both are taken from there.
KNOWN_MODELS = {"google/music-spectrogram-diffusion": 1_707_000_000}  # bytes

BLOCK = 1 << 20  # bytes; what an interruption loses at most
MISSING_CLIENT = "pip install 'spectro-render[hub]'"
ITS_BAR = "huggingface_hub.http_get"  # what the client calls it
NO_HUB = "what answers there is no Hub"
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, and where the cache keeps its content."""

    name: str
    size: int  # bytes
    blob: Path  # named after the content's SHA-256, or for small files git's SHA-1

    @property
    def incomplete(self) -> Path:
        """Its content as far as it has come."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    @property
    def fetched(self) -> int:
        """Bytes that need not be fetched any more."""
        if os.path.exists(self.blob):
            return self.size
        there = self.incomplete.stat().st_size if os.path.exists(self.incomplete) else 0
        return there if there <= self.size else 0


@dataclass(frozen=True)
class Listing:
    """What of a repository is wanted, at one commit."""

    name: HubName
    commit: str
    files: Sequence[RemoteFile]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)

    @property
    def fetched(self) -> int:
        """Bytes that are there already."""
        return sum(file.fetched for file in self.files)


def pull(
    name: str,
    reporter: Reporter | None = None,
    *,
    revision: str | None = None,
    vocoder_only: bool = False,
) -> Path:
    """Fetch a model of the Hub, or only what its vocoder needs; the directory it then lies in.

    What is in the cache already is not fetched again, and offline the cache alone answers. The
    reporter, by default one on standard error, says how much is fetched and shows a bar. Raises
    WeightsNotFound for what the Hub does not have, DownloadError for what keeps it from coming,
    WeightsCorrupt for what came but is not what the Hub promises.
    """
    wanted = parse_hub_name(f"{name}@{revision}" if revision else name)
    if wanted is None:
        raise WeightsNotFound(f"{name!r} is no name of the Hub", "OWNER/REPO or OWNER/REPO@COMMIT")
    _require_client(wanted)
    reporter = reporter or Reporter()
    with _explained(wanted), _terse_client() as endpoint:
        if _is_offline():
            return _from_cache(wanted, vocoder_only)
        listing = _list(wanted, vocoder_only)
        if listing.fetched < listing.size:
            _check_disk(listing)
            size = as_size(listing.size - listing.fetched)
            reporter.say(f"fetching {wanted}: {size} from {endpoint} to {cache_folder()}")
            with reporter.download(str(wanted), listing.fetched, listing.size) as on_bytes:
                _fetch_all(listing, on_bytes)
        return _assemble(listing)


def _require_client(name: HubName) -> None:
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no result
            from huggingface_hub import HfApi  # noqa: F401
    except ImportError as error:
        message = f"{name} is not here, and fetching it needs {error.name or 'huggingface_hub'}"
        raise DownloadError(message, MISSING_CLIENT) from error
    except ValueError as error:  # it reads its variables when it is imported
        message = f"{name} is not here, and the Hub's client does not start: {error}"
        raise DownloadError(message, "check the variables whose names begin with HF_") from error


@contextmanager
def _terse_client() -> Iterator[str]:
    """The address of the Hub, while its client says nothing and loses little on interruption."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, logging

    verbosity, block = logging.get_verbosity(), constants.DOWNLOAD_CHUNK_SIZE
    has_bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None  # the user left it to programs
    logging.set_verbosity(logging.ERROR)
    constants.DOWNLOAD_CHUNK_SIZE = BLOCK  # its own 10 MB reach the file, or the bar, too seldom
    if has_bars:
        disable_progress_bars(ITS_BAR)
    try:
        yield constants.ENDPOINT
    finally:
        logging.set_verbosity(verbosity)
        constants.DOWNLOAD_CHUNK_SIZE = block
        if has_bars:
            enable_progress_bars(ITS_BAR)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _from_cache(name: HubName, vocoder_only: bool) -> Path:
    path = cached(str(name), vocoder_only=vocoder_only)
    if path is None:
        message = f"{cache_folder()} lacks {name} or a part of it, and HF_HUB_OFFLINE is set"
        raise WeightsNotFound(message, "unset it, or name a directory")
    return path


# --- what is there ----------------------------------------------------------------------------


def _list(name: HubName, vocoder_only: bool) -> Listing:
    """Ask the Hub which of the wanted files it has."""
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
    files = []
    for file in choose_files(siblings, vocoder_only=vocoder_only):
        size, lfs = siblings[file].size, siblings[file].lfs
        blob = name.folder / "blobs" / str(lfs.sha256 if lfs else siblings[file].blob_id)
        if size is None or not is_blob(blob):
            raise ValueError(NO_HUB)
        files.append(RemoteFile(file, size, blob))
    if INDEX not in siblings:
        message = f"{name} on the Hub has no {INDEX}: it is no model for this program"
        raise WeightsError(message, "choose another")
    return Listing(name, str(info.sha), files)


def _check_disk(listing: Listing) -> None:
    """Raise DownloadError if what is missing does not fit into the cache."""
    folder = cache_folder()
    folders = (folder, *folder.absolute().parents)
    place = next((path for path in folders if os.path.isdir(path)), folder)
    needed, free = listing.size - listing.fetched, shutil.disk_usage(place).free
    if needed > free:
        message = f"{listing.name} needs {as_size(needed)} in {folder}: {as_size(free)} are free"
        raise DownloadError(message, "make room, or set HF_HOME to a folder on a larger disk")


# --- fetching ---------------------------------------------------------------------------------


class _PartialFile(io.BufferedWriter):
    """A file that is added to, and says how many bytes it and the `others` have by then."""

    def __init__(self, path: Path, others: int, on_bytes: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._others = others
        self._on_bytes = on_bytes

    def write(self, block: ReadableBuffer) -> int:
        written = super().write(block)
        self._on_bytes(self._others + self.tell())
        return written


def _fetch_all(listing: Listing, on_bytes: Callable[[int], None]) -> None:
    """Fetch what is missing; `on_bytes` hears how much of the whole is there."""
    from huggingface_hub.utils import WeakFileLock

    locks = cache_folder() / ".locks" / listing.name.folder.name  # those of the client
    for folder in (locks, listing.name.folder / "blobs"):
        folder.mkdir(parents=True, exist_ok=True)
    for file in listing.files:
        with WeakFileLock(locks / f"{file.blob.name}.lock"):
            if not file.blob.exists():
                _fetch(listing, file, on_bytes)


def _fetch(listing: Listing, file: RemoteFile, on_bytes: Callable[[int], None]) -> None:
    """Fetch one file, from where the last attempt ended. Raises WeightsCorrupt."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if not file.fetched:
        file.incomplete.unlink(missing_ok=True)  # longer than the file: not a part of it
    others = listing.fetched - file.fetched
    with _PartialFile(file.incomplete, others, on_bytes) as stream:
        http_get(
            hf_hub_url(listing.name.repo, file.name, revision=listing.commit),
            stream,
            resume_size=stream.tell(),
            headers=build_hf_headers(library_name="spectro-render"),
            expected_size=file.size,
        )
    try:
        check(file.incomplete, file.blob.name, f"{listing.name}: {file.name}")
    except WeightsError:
        file.incomplete.unlink()
        raise
    file.incomplete.replace(file.blob)


def _assemble(listing: Listing) -> Path:
    """Let the client put the snapshot together from what is there, and then name it."""
    from huggingface_hub import hf_hub_download

    repo, cache = listing.name.repo, cache_folder()
    for file in listing.files:
        hf_hub_download(repo, file.name, revision=listing.commit, cache_dir=cache)
    hf_hub_download(repo, INDEX, revision=listing.name.revision, cache_dir=cache)
    # By its commit, as the branch may have moved on since it was listed.
    return Path(hf_hub_download(repo, INDEX, revision=listing.commit, cache_dir=cache)).parent


# --- what can go wrong ------------------------------------------------------------------------


@contextmanager
def _explained(name: HubName) -> Iterator[None]:
    """Say in one line what the client raises in many ways."""
    from huggingface_hub import constants, errors

    # Its releases stand on different HTTP clients; the errors of all descend from this or OSError.
    transport_error: Any = errors.HfHubHTTPError.__bases__[0]
    # But not httpx's word for an address, of the Hub or of a proxy, that is none.
    http_client = sys.modules[transport_error.__module__.partition(".")[0]]
    invalid_url: Any = getattr(http_client, "InvalidURL", ValueError)
    page = f"{constants.ENDPOINT}/{name.repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        hint = f"ask for access at {page}, then set HF_TOKEN or log in with `hf auth login`"
        raise DownloadError(f"{name} is only for those whom its owner lets in", hint) from error
    except errors.RepositoryNotFoundError as error:
        message = f"no model {str(name)!r}: neither a directory here nor known to {page}"
        hint = "check the name; for a private one set HF_TOKEN or log in with `hf auth login`"
        raise WeightsNotFound(message, hint) from error
    except errors.RevisionNotFoundError as error:
        message = f"{name.repo} on the Hub has no branch, tag or commit {name.revision!r}"
        raise WeightsNotFound(message, f"see {page}") from error
    except (transport_error, invalid_url, OSError, ValueError) as error:
        raise _failure(name, error) from error


def _failure(name: HubName, error: BaseException) -> DownloadError:
    """What is wrong with the disk, the connection or the answer."""
    from huggingface_hub import constants

    cause = error.__cause__ or error  # the client wraps what a connection says
    cause = error if str(error) == NO_HUB else cause
    number = getattr(error, "errno", None)
    response = getattr(cause, "response", None)
    if number in DISK_IS_FULL:
        message = f"{name} does not fit into {cache_folder()}: {os.strerror(number).lower()}"
        return DownloadError(message, "make room and try again; what has come is kept")
    if number and isinstance(error, OSError) and error.filename:
        message = f"cannot write {error.filename}: {reason_of(error)}"
        return DownloadError(message, "set HF_HOME to a folder that you may write to")
    if response is not None:
        message = f"cannot fetch {name}: {constants.ENDPOINT} answers {response.status_code}"
        return DownloadError(message, "try again later; if it asks who you are, set HF_TOKEN")
    reason = str(cause).partition("\n")[0] or type(cause).__name__
    message = f"cannot fetch {name} from {constants.ENDPOINT}: {reason}"
    return DownloadError(message, "check the connection and try again; what has come is kept")
