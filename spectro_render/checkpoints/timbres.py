"""Timbres of single programs: files that are made from a sound, and read beside a model.

A timbre belongs to the model whose curves of notes it was fitted to. It is a safetensors file:
    vectors     float16 (128, W)    of each key
    recording   int16 (128, V)      the recording that each key plays at each velocity; -1: none
    ratio       float16 (128, V)    its speed
    lines.NAME  float16 (P, ...)    rows of the vocoder's table of lines, if it has one: see
                                    `vocoder/lines.py`, P pitches
Its metadata say of which program, model and sound it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render.atomic import new_file
from spectro_render.checkpoints.files import as_weights, open_tensors, tensors_file
from spectro_render.checkpoints.manifest import ModelFiles, checksum_of
from spectro_render.checkpoints.names import FOLDERS
from spectro_render.errors import WeightsCorrupt, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spectro_render.network.curves import NoteCurves, Timbre
    from spectro_render.vocoder.lines import LineTable
    from spectro_render.vocoder.melgan import Vocoder

KIND = "spectro-render timbre"  # in the metadata
VERSION = "1"
MAX_BYTES = 200_000  # of a file
LINES = "lines."  # before the names of the rows of lines
FIT_AGAIN = "fit it again with 'spectro-render models timbre'"


@dataclass(frozen=True, eq=False)
class StoredTimbre:
    """The timbre of a program, as it is kept in a file."""

    program: int  # that it was made for
    model: str  # the name of the model that it belongs to
    digest: str  # of this model's curves of notes: see `digest_of`
    sound: str  # the name of the sound that it was fitted to
    timbre: Timbre
    lines: Mapping[str, Tensor]  # rows of the vocoder's table; empty: its own


def digest_of(directory: Path) -> str:
    """The SHA-256 of the file with a model's curves of notes. Raises WeightsError."""
    return checksum_of(tensors_file(directory / FOLDERS["notes"]))


def find_curves(model: nn.Module) -> NoteCurves | None:
    """The curves of notes of a network; None if it has none."""
    from spectro_render.network.curves import NoteCurves

    return next((part for part in model.modules() if isinstance(part, NoteCurves)), None)


def require_curves(model: nn.Module, name: str) -> NoteCurves:
    """The curves of notes of a network. Raises WeightsError if it has none."""
    curves = find_curves(model)
    if curves is None:
        message = f"the model {name} has no curves of single notes, so it takes no timbres"
        raise WeightsError(message, "leave --timbre out, or use the model default")
    return curves


def table_of(vocoder: Vocoder) -> LineTable | None:
    """The table of lines of a vocoder; None if it has none."""
    from spectro_render.vocoder.lines import LineTable

    parts = vocoder.modules() if hasattr(vocoder, "modules") else ()
    return next((part for part in parts if isinstance(part, LineTable)), None)


def write_timbre(path: Path, stored: StoredTimbre) -> None:
    """Write a file. Raises OutputError."""
    import torch
    from safetensors.torch import save

    tensors = {
        "vectors": stored.timbre.vectors.half(),
        "recording": stored.timbre.recording.to(torch.int16),
        "ratio": stored.timbre.ratio.half(),
        **{LINES + name: rows.half() for name, rows in stored.lines.items()},
    }
    metadata = {
        "kind": KIND,
        "version": VERSION,
        "program": str(stored.program),
        "model": stored.model,
        "model_sha256": stored.digest,
        "sound": stored.sound,
    }
    with new_file(path) as temporary:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        temporary.write_bytes(save(plain, metadata=metadata))


def read_timbre(path: Path) -> StoredTimbre:
    """Read a file. Raises WeightsError for a missing one, WeightsCorrupt for a damaged one."""
    import torch
    from safetensors import safe_open

    from spectro_render.network.curves import KEYS, Timbre

    names = open_tensors(path).names
    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
        if facts.get("kind") != KIND:
            raise WeightsError(f"{path} is no timbre", "name a .timbre file or a sound")
        if facts.get("version") != VERSION:
            message = f"{path} has the format {facts.get('version')}, this version reads {VERSION}"
            raise WeightsError(message, FIT_AGAIN)
        if path.stat().st_size > MAX_BYTES:
            raise WeightsCorrupt(f"{path} is larger than {MAX_BYTES} bytes", FIT_AGAIN)
        tensors = {name: file.get_tensor(name) for name in names}
    fields = {name: tensors.get(name) for name in Timbre._fields}
    program = facts.get("program", "")
    if not program.isdecimal() or int(program) >= 128 or None in fields.values():
        raise WeightsCorrupt(f"{path} is not whole", FIT_AGAIN)
    exact = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    if any(len(exact[name].shape) != 2 or len(exact[name]) != KEYS for name in fields):
        raise WeightsCorrupt(f"{path} does not have {KEYS} keys", FIT_AGAIN)
    return StoredTimbre(
        int(program),
        facts.get("model", ""),
        facts.get("model_sha256", ""),
        facts.get("sound", ""),
        Timbre(**{name: exact[name] for name in fields}),
        {name.removeprefix(LINES): exact[name] for name in names if name.startswith(LINES)},
    )


def put_timbres(files: ModelFiles, model: nn.Module, table: LineTable | None) -> None:
    """Give programs of a loaded model the timbres that `files` name, and their lines to the table.

    Raises WeightsError for a timbre of another model, and for a model that takes none.
    """
    if not files.timbres:
        return
    curves, digest = require_curves(model, files.name), digest_of(files.directory)
    for program, path in files.timbres:
        stored = read_timbre(path)
        if stored.digest != digest:
            message = f"{path} was fitted to the model {stored.model}, not to this {files.name}"
            raise WeightsError(message, FIT_AGAIN)
        _check(stored, curves, path)
        curves.set_timbre(program, stored.timbre)
        if table is not None and stored.lines:
            _put_lines(stored, table, program, path)


def _check(stored: StoredTimbre, curves: NoteCurves, path: Path) -> None:
    """Raise WeightsCorrupt for numbers that the curves cannot use."""
    from spectro_render.network.curves import MOST_SPEED, SILENT

    _, recording, ratio = stored.timbre
    own = curves.timbre_of(stored.program)
    for name, tensor in stored.timbre._asdict().items():
        as_weights(tensor, getattr(own, name).shape, f"{path}: {name}")
    is_known = (recording >= SILENT) & (recording < len(curves.frames))
    if not (is_known.all() and ((ratio > 0) & (ratio < MOST_SPEED)).all()):
        raise WeightsCorrupt(f"{path} names recordings that the model does not have", FIT_AGAIN)


def _put_lines(stored: StoredTimbre, table: LineTable, program: int, path: Path) -> None:
    """Put rows of lines into a vocoder's table, in which one program alone changes."""
    from spectro_render.vocoder.lines import PITCHES

    rows = slice(PITCHES * program, PITCHES * (program + 1))
    buffers = dict(table.named_buffers())
    if set(stored.lines) != set(buffers):
        message = f"{path} was fitted beside another vocoder than the model {stored.model} has"
        raise WeightsError(message, FIT_AGAIN)
    for name, known in buffers.items():
        wanted = as_weights(stored.lines[name], known[rows].shape, f"{path}: {LINES}{name}")
        changed = known.clone()
        changed[rows] = wanted.to(known)
        setattr(table, name, changed)
