"""Plays sound on a device of this machine, while more of it is still being made.

A thread writes blocks to the device. It begins when some seconds are ready. If no more comes in
time, the sound is faded out, and goes on when twice as much is ready, so that no gap clicks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from spectro_render.errors import DeviceError, OutputError, SpectroRenderError, install_hint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

LATENCY = 0.3  # seconds that the device has in its buffer
FIRST_WAIT = 1.0  # seconds of sound that are ready before the first is played
MOST_WAITING = 64 << 20  # bytes of sound that are made ahead of what is played
_BLOCK, _MARGIN, _FADE = 0.05, 0.05, 0.01  # seconds


class Player:
    """Plays sound on a device, in the order in which it is written.

    `write` returns at once while at most `most_waiting` bytes wait to be played. Sound in mono is
    played on two channels, and resampled if the device does not have its rate.
    """

    def __init__(
        self, device: str | int | None = None, *, most_waiting: int = MOST_WAITING
    ) -> None:
        """Find a device by its number or by a part of its name; None is the system's default.

        Raises SpectroRenderError without the package sounddevice, DeviceError without the library
        PortAudio or such a device.
        """
        self._sounddevice = _import()
        self._device = _find(self._sounddevice, device)
        self._channels = min(2, int(self._device["max_output_channels"]))
        self._most = most_waiting // (4 * self._channels)  # samples
        self._rate = 0  # Hz, of the sound that is written; 0: nothing has begun
        self._resampler: Any = None
        self._thread: threading.Thread | None = None
        # These queues are written in C. An interrupt leaves Python's own locks in disorder.
        self._coming: SimpleQueue[Samples | None] = SimpleQueue()  # None: no more comes
        self._played: SimpleQueue[int] = SimpleQueue()  # samples, as they go to the device
        self._waiting = 0  # samples that are written and not known to be played
        self._ended: SimpleQueue[None] = SimpleQueue()  # has something when the thread has ended
        self._is_over = self._is_stopped = False
        self._error: Exception | None = None
        self.pauses = 0  # how often sound was not made in time
        self.seconds_played = 0.0  # and what the device has in its buffer
        self.seconds_written = 0.0

    def begin(self, sample_rate: int) -> None:
        """Play what is written from now on at another sample rate in Hz.

        Raises DeviceError if the device cannot be used, OutputError if it has failed before.
        """
        if self._error is not None:
            raise OutputError(f"the sound cannot be played: {self._error}", "check the device")
        if sample_rate == self._rate:
            return
        self._flush()
        if self._thread is None:
            self._open(sample_rate)
        if sample_rate != self._device_rate:
            import soxr

            self._resampler = soxr.ResampleStream(
                sample_rate, self._device_rate, self._channels, dtype="float32"
            )
        self._rate = sample_rate

    def write(self, frames: Samples) -> None:
        """Play samples (S, channels), float32 in [-1, 1], after those written before.

        Waits while much is to be played. After an error of the device it does nothing.
        """
        import numpy as np

        self.seconds_written += len(frames) / self._rate
        if frames.shape[1] != self._channels:
            mean = frames.mean(axis=1, keepdims=True)
            frames = np.broadcast_to(mean, (len(frames), self._channels))
        frames = np.ascontiguousarray(frames, np.float32)
        if self._resampler is not None:
            frames = self._resampler.resample_chunk(frames)
        self._put(frames)

    def finish(self, seconds: float | None = None) -> bool:
        """Wait until everything is played, or for some seconds; returns whether it is.

        Nothing can be written after that. Raises OutputError if the device has failed.
        """
        if self._rate:
            self._flush()
            self._rate = 0
            self._coming.put(None)
        is_over = self._wait(seconds)
        if self._error is not None:
            raise OutputError(f"the sound cannot be played: {self._error}", "check the device")
        return is_over

    def stop(self) -> None:
        """Stop the sound at once, and drop what was not played."""
        self._is_stopped = True
        self._coming.put(None)
        self._resampler = None
        self._wait(2.0)  # a device that hangs does not hold up the end

    def _wait(self, seconds: float | None) -> bool:
        """Wait for the end of the thread, at most for some seconds; returns whether it is over."""
        if self._thread is None or self._is_over:
            return True
        with suppress(Empty):
            self._ended.get(timeout=seconds)
        return self._is_over

    def _put(self, frames: Samples) -> None:
        while not self._played.empty():
            self._waiting -= self._played.get()
        while self._waiting > self._most and not self._is_stopped and self._error is None:
            self._waiting -= self._played.get()
        if len(frames):
            self._waiting += len(frames)
            self._coming.put(frames)

    def _flush(self) -> None:
        """Play what the resampler holds."""
        import numpy as np

        if self._resampler is not None:
            nothing: Samples = np.zeros((0, self._channels), np.float32)
            self._put(self._resampler.resample_chunk(nothing, last=True))
            self._resampler = None

    def _open(self, sample_rate: int) -> None:
        """Open the device at a rate, or else at its own, and start the thread."""
        device = {"device": self._device["index"], "channels": self._channels, "dtype": "float32"}
        error_type = self._sounddevice.PortAudioError
        self._device_rate = sample_rate
        try:
            self._sounddevice.check_output_settings(samplerate=sample_rate, **device)
        except error_type:
            self._device_rate = round(self._device["default_samplerate"])
        try:
            stream = self._sounddevice.OutputStream(
                samplerate=self._device_rate, latency=LATENCY, **device
            )
        except error_type as error:
            raise _no_sound(self._device["name"], error) from error
        self._thread = threading.Thread(target=self._run, args=(stream,), daemon=True)
        self._thread.start()

    def _run(self, stream: Any) -> None:
        """The thread: play until no more comes."""
        try:
            self._play(stream)
            if self._is_stopped:
                stream.abort()
        except Exception as error:
            self._error = error
        finally:
            stream.close()
            self._is_over = True
            self._ended.put(None)
            self._played.put(self._most)  # should `write` be waiting

    def _play(self, stream: Any) -> None:
        import numpy as np

        rate = self._device_rate
        block, fade = round(_BLOCK * rate), round(_FADE * rate)
        rise = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)[:, None]
        ready = _Ready(self._coming)
        wanted = FIRST_WAIT
        while ready.wait_for(round(wanted * rate)) and not self._is_stopped:
            stream.start()
            begun, written = time.monotonic(), 0
            is_out = False  # whether there was no more in time
            while not is_out and not self._is_stopped:
                # Something stays back until more follows, as it may have to be faded out.
                until = begun + written / rate - _MARGIN
                is_out = not ready.wait_for(block + fade, until)
                piece = ready.take(block + fade if is_out else block)
                if is_out and not ready.is_complete:
                    piece[-fade:] *= rise[::-1][-len(piece) :]
                if self.pauses and not written:
                    piece[:fade] *= rise[: len(piece)]
                stream.write(piece)
                written += len(piece)
                self.seconds_played += len(piece) / rate
                self._played.put(len(piece))
            if self._is_stopped or (ready.is_complete and not ready.samples):
                break
            stream.stop()  # when all of it is played
            self.pauses += 1
            wanted *= 2
        if stream.active and not self._is_stopped:
            stream.stop()


_playing: Player | None = None  # by the last call of `play`


def play(samples: Samples, sample_rate: int, device: str | int | None, block: bool) -> Player:
    """Play samples (channels, S) or (S,), float32 in [-1, 1]; see `Audio.play`."""
    import numpy as np

    global _playing
    if _playing is not None:
        _playing.stop()
    _playing = player = Player(device, most_waiting=samples.size * 8)
    player.begin(sample_rate)
    player.write(np.clip(samples[:, None] if samples.ndim == 1 else samples.T, -1.0, 1.0))
    try:
        player.finish(None if block else 0.0)
    except BaseException:
        player.stop()
        raise
    return player


class _Ready:
    """The sound that is ready to be played: what has come from a queue."""

    def __init__(self, coming: SimpleQueue[Samples | None]) -> None:
        self._coming = coming
        self._pieces: deque[Samples] = deque()
        self.samples = 0
        self.is_complete = False  # whether no more comes

    def wait_for(self, samples: int, until: float | None = None) -> bool:
        """Wait until this many samples are ready, or until a time of the monotonic clock.

        Returns whether they are; at the end, whether any are.
        """
        while self.samples < samples and not self.is_complete:
            try:
                timeout = None if until is None else max(0.0, until - time.monotonic())
                piece = self._coming.get(timeout=timeout)
            except Empty:
                return False
            if piece is None:
                self.is_complete = True
            else:
                self._pieces.append(piece)
                self.samples += len(piece)
        return self.samples >= samples if until is not None else self.samples > 0

    def take(self, samples: int) -> Samples:
        """The next samples (S, channels), at most this many."""
        import numpy as np

        taken, missing = [], min(samples, self.samples)
        self.samples -= missing
        while missing:
            piece = self._pieces.popleft()
            if len(piece) > missing:
                self._pieces.appendleft(piece[missing:])
                piece = piece[:missing]
            taken.append(piece)
            missing -= len(piece)
        return np.concatenate(taken)


def _import() -> Any:
    """The package sounddevice, with PortAudio. Raises SpectroRenderError or DeviceError."""
    try:
        import sounddevice
    except ImportError as error:
        message = "playing needs the package sounddevice"
        raise SpectroRenderError(message, install_hint("play")) from error
    except OSError as error:
        message = "playing needs the library PortAudio"
        raise DeviceError(message, "on Debian and Ubuntu: apt install libportaudio2") from error
    except Exception as error:  # PortAudio cannot be used
        raise DeviceError(f"sound cannot be played: {error}", "check the sound system") from error
    return sounddevice


def _find(sounddevice: Any, device: str | int | None) -> dict[str, Any]:
    """What PortAudio knows of a device for output. Raises DeviceError if there is none."""
    if isinstance(device, str) and device.isdecimal():
        device = int(device)
    try:
        found: dict[str, Any] = sounddevice.query_devices(device, "output")
        return found
    except (ValueError, sounddevice.PortAudioError) as error:
        names = ", ".join(output_devices())
        if not names:
            message = "there is no device that plays sound"
            raise DeviceError(message, "connect one, or write a file with -o") from error
        if device is None:
            message = f"there is no default device for sound: {error}"
            raise DeviceError(message, f"choose one of {names}") from error
        reason = "several are" if "Multiple" in str(error) else "none is"
        message = f"{reason} named {device!r} among the devices that play sound"
        raise DeviceError(message, f"give a number or a name: {names}") from error


def output_devices() -> list[str]:
    """The devices that play sound: their numbers and names. Raises as Player does."""
    return [
        f"{device['index']} ({device['name']})"
        for device in _import().query_devices()
        if device["max_output_channels"] > 0
    ]


def _no_sound(name: str, error: Exception) -> DeviceError:
    return DeviceError(f"the device {name} cannot play: {error}", "choose another device")
