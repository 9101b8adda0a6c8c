"""Progress of a stage of training as lines of text, with the time that is left."""

import time
from collections.abc import Callable

EVERY = 5.0  # seconds between lines


def clock(seconds: float) -> str:
    """A length of time as minutes and seconds, or as hours, minutes and seconds: `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Countdown:
    """Counts the parts of a stage that are done, and estimates the time that the others take."""

    def __init__(self, what: str, total: int, say: Callable[[str], None]) -> None:
        """`what` names the parts, of which there are `total`; `say` is called with each line."""
        self._what, self._total, self._say = what, total, say
        self._done, self._begun, self._said = 0, time.monotonic(), 0.0

    def count(self) -> None:
        """Count one more part. A line is due after EVERY seconds, and after the last part."""
        self._done += 1
        now = time.monotonic()
        if now - self._said < EVERY and self._done < self._total:
            return
        self._said = now
        left = (now - self._begun) / self._done * (self._total - self._done)
        end = f", {clock(left)} left" if self._done < self._total else ""
        self._say(f"{self._what}: {self._done} of {self._total}{end}")
