"""Files of stems beside a mix, which get their names together.

Until a song is complete, its mix and stems lie in one temporary file: first the mix, then each
stem as a file of its own format, then an index and the index's length. So they can be sent like a
single output, and a program that is killed leaves nothing under a final name.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from spectro_render.atomic import NewFile
from spectro_render.audio.audio import AudioWriter
from spectro_render.audio.destination import Destination, FileDestination
from spectro_render.audio.limiter import safe_factor
from spectro_render.errors import OutputError, output_error
from spectro_render.options import Encoding

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

INDEX = "stems.json"  # in the folder of the stems
_LENGTH = struct.Struct("<Q")  # of the index, at the end of the temporary file
_BLOCK = 1 << 20  # bytes that are copied at once
_MAX_INDEX = 1 << 20  # bytes; a larger file of that name is none of ours


def stems_folder(target: Path) -> Path:
    """The folder of the stems of a mix: `song` beside `song.wav`."""
    return target.with_suffix("")


class StemSpool:
    """Keeps the sound of stems in a temporary file until their common gain is known."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._blocks: list[tuple[int, int]] = []  # position in the file, and samples of each stem
        self._peaks: Samples | None = None  # of each stem

    def add(self, stems: Samples) -> None:
        """Append the next samples (P, C, S) of all stems. Raises OutputError on a full disk."""
        import numpy as np

        if not stems.shape[2]:
            return
        peaks = np.abs(stems).max(axis=(1, 2))
        self._peaks = peaks if self._peaks is None else np.maximum(self._peaks, peaks)
        self._blocks.append((self._file.tell(), stems.shape[2]))
        try:
            self._file.write(np.ascontiguousarray(stems, np.float32).data)
        except OSError as error:
            raise output_error("the temporary file of the stems", error) from error

    def append_to(
        self,
        output: Destination,
        encoding: Encoding,
        sample_rate: int,
        channels: int,
        stems: Sequence[dict[str, Any]],
        facts: dict[str, Any],
    ) -> None:
        """Append the stems and their index to an output that has the mix already.

        `stems` has a dictionary for each, with its `file` without a suffix and what else the index
        says about it; `facts` is said about all. `sample_rate` in Hz is that of the sound. All
        stems get one gain, by which none is above full scale. Raises OutputError.
        """
        peaks = [] if self._peaks is None else self._peaks.tolist()
        factor = safe_factor(max(peaks, default=0.0))
        sections, described = [output.seek_end()], []
        for number, stem in enumerate(stems):
            writer = AudioWriter(
                output,
                sample_rate=sample_rate,
                out_rate=encoding.sample_rate,
                format=encoding.format,
                bit_depth=encoding.bit_depth,
                channels=channels,
                dither=encoding.dither,
                quality=encoding.quality,
            )
            for samples in self._samples(number, len(stems), channels):
                writer.write(samples * samples.dtype.type(factor))
            writer.finish()
            sections.append(output.seek_end())
            peak = peaks[number] * factor if peaks else 0.0
            level = round(20 * log10(peak), 2) if peak > 0 else None
            file = f"{stem['file']}.{encoding.format}"
            described.append({**stem, "file": file, "peak_db": level})
        index = {**facts, "gain_db": round(20 * log10(factor), 4), "stems": described}
        data = json.dumps({"sections": sections, "index": index}).encode()
        output.write(data + _LENGTH.pack(len(data)))

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def _samples(self, number: int, count: int, channels: int) -> Iterator[Samples]:
        """The samples (C, S) of one of `count` stems, block by block."""
        import numpy as np

        for position, length in self._blocks:
            size = channels * length * 4
            self._file.seek(position + number * size)
            yield np.frombuffer(self._file.read(size), np.float32).reshape(channels, length)


class StemsDestination(FileDestination):
    """An output with stems: a mix, and a folder beside it that has the stems and an index.

    Committing it gives the stems and the index their names, and then the mix. Stems of an earlier
    run that are not made again are removed. Raises OutputError where files are in the way that no
    earlier run has made.
    """

    def __init__(self, path: Path) -> None:
        self._folder = stems_folder(path)
        if os.path.lexists(path) and not path.is_file():
            raise OutputError(f"{path} is no file, so it has no stems beside it", "name a file")
        if os.path.lexists(self._folder) and not self._folder.is_dir():
            hint = "choose another name for the output"
            raise OutputError(f"{self._folder} is in the way: the stems need that folder", hint)
        super().__init__(path)

    def commit(self) -> None:
        """Give all files their names. Raises OutputError."""
        with self.reporting():
            self.flush()
            file = self._new.file
            end = file.seek(0, os.SEEK_END)
            file.seek(end - _LENGTH.size)
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            file.seek(end - _LENGTH.size - length)
            content = json.loads(file.read(length))
            self._take_apart(file, content["sections"], content["index"])
            file.truncate(content["sections"][0])
        super().commit()

    def _take_apart(self, file: BinaryIO, sections: list[int], index: dict[str, Any]) -> None:
        names = [stem["file"] for stem in index["stems"]]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            before = _names_in(self._folder / INDEX)
            for name in {*names} - before:
                if os.path.lexists(self._folder / name):
                    where = self._folder / name
                    raise OutputError(f"{where} is no stem of an earlier run", "move it away")
            # The index comes first: a file that it does not name would be taken for the user's.
            self._write(INDEX, [json.dumps(index, indent=1).encode()])
            for name, begin, end in zip(names, sections, sections[1:], strict=False):
                file.seek(begin)
                sizes = range(begin, end, _BLOCK)
                self._write(name, (file.read(min(_BLOCK, end - at)) for at in sizes))
            for name in before - {*names}:
                with suppress(FileNotFoundError):
                    os.unlink(self._folder / name)
        except OSError as error:
            raise output_error(str(self._folder), error) from error

    def _write(self, name: str, blocks: Iterator[bytes] | list[bytes]) -> None:
        new = NewFile(self._folder / name)
        try:
            for block in blocks:
                new.file.write(block)
            new.commit()
        finally:
            new.discard()


def _names_in(path: Path) -> set[str]:
    """The files that the index of an earlier run names, without any that lie elsewhere."""
    try:
        with open(path, "rb") as file:
            stems = json.loads(file.read(_MAX_INDEX))["stems"]
        names = [stem["file"] for stem in stems]
        return {name for name in names if isinstance(name, str) and name == os.path.basename(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
