"""What a server accepts, and the refusals of what it does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a server accepts; times are in seconds."""

    upload: int = 2_000_000  # bytes of a MIDI file
    song: float = 600.0  # of sound
    stems: float = 6000.0  # of the sound of all stems of a song
    steps: int = 1000  # of denoising in each window
    jobs: int = 64  # unfinished songs of all clients
    jobs_of_client: int = 32  # unfinished songs of one address
    kept: int = 64  # finished songs, whose sound is kept for downloads
    age: float = 900.0  # after which a song is removed, finished or not
    unattended: float = 30.0  # after which an unfinished song that nobody asks for is given up
    upload_time: float = 30.0  # in which a MIDI file has to arrive


class Refusal(Exception):
    """A request that is refused, with the status code of HTTP and the reason in words."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after  # seconds


class SongFailed(Exception):
    """A song failed when a part of its sound had been sent: the connection has to be cut."""
