"""Checks an ONNX file before onnxruntime opens it: what it may contain, and that it ends.

The file is walked as protobuf (field numbers are those of onnx.proto, opset 1 to 21). Refused are

- files that hold data elsewhere: a tensor may name any path, in the directory or outside;
- `Loop`, `Scan` and `SequenceMap`: without them every graph ends, and no vocoder needs them. A
  limit of time would depend on the machine, and on what else it does;
- functions of the file's own, which can double their size with every call;
- operators of other domains than ONNX's own, as those of onnxruntime can hold loops.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from spectro_render.atomic import open_regular
from spectro_render.checkpoints.files import require, unreadable
from spectro_render.errors import WeightsCorrupt
from spectro_render.report import as_size

MAX_BYTES = 1 << 30  # of a file: many times the published vocoder
MAX_NODES = 20_000
MAX_DEPTH = 16  # of graphs within graphs, the branches of `If`
REFUSED = ("Loop", "Scan", "SequenceMap")
DOMAINS = ("", "ai.onnx")

CHOOSE_OTHER = "get the model again, or choose the vocoder griffin-lim"

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE = (6, 11), (5, 10), (22, 23)
_TENSOR_ELSEWHERE = (13, 14)  # where the data is, and that it is not here
_SPARSE_TENSORS = (1, 2)


def check_onnx(path: Path) -> None:
    """Raise WeightsCorrupt for an ONNX file that is damaged or refused, WeightsError for no file.

    Takes memory only for the parts that are looked at.
    """
    require(path)
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            if size > MAX_BYTES:
                message = f"{path} has {as_size(size)}, more than {as_size(MAX_BYTES)}"
                raise WeightsCorrupt(message, CHOOSE_OTHER)
            if size == 0:
                raise WeightsCorrupt(f"{path} is empty", CHOOSE_OTHER)
            # It is not closed here, as the traceback of an error still holds parts of it.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            _Walk().model(memoryview(content))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise WeightsCorrupt(f"{path} is not a usable ONNX file: {error}", CHOOSE_OTHER) from None


class _Walk:
    """Visits the messages of a model. All methods raise ValueError with what is wrong."""

    def __init__(self) -> None:
        self._nodes = 0

    def model(self, message: memoryview) -> None:
        graphs = 0
        for number, value in _fields(message):
            if number == _MODEL_GRAPH and not isinstance(value, int):
                graphs += 1
                self._graph(value, 1)
            elif number == _MODEL_FUNCTIONS:
                raise ValueError("it has functions of its own, which are not supported")
        if graphs != 1:
            raise ValueError(f"it has {graphs} graphs")

    def _graph(self, message: memoryview, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValueError(f"graphs are nested more than {MAX_DEPTH} deep")
        for number, value in _fields(message):
            if isinstance(value, int):
                continue
            if number == _GRAPH_NODE:
                self._node(value, depth)
            elif number == _GRAPH_TENSOR:
                self._tensor(value)
            elif number == _GRAPH_SPARSE:
                self._sparse(value)

    def _node(self, message: memoryview, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES} operators")
        for number, value in _fields(message):
            if isinstance(value, int):
                continue
            if number == _NODE_OPERATOR:
                operator = str(value, "utf-8", "replace")
                if operator in REFUSED:
                    raise ValueError(f"the operator {operator}, which may never end, is refused")
            elif number == _NODE_DOMAIN:
                domain = str(value, "utf-8", "replace")
                if domain not in DOMAINS:
                    raise ValueError(f"operators of {domain[:60]!r} are not supported")
            elif number == _NODE_ATTRIBUTE:
                self._attribute(value, depth)

    def _attribute(self, message: memoryview, depth: int) -> None:
        for number, value in _fields(message):
            if isinstance(value, int):
                continue
            if number in _ATTRIBUTE_GRAPHS:
                self._graph(value, depth + 1)
            elif number in _ATTRIBUTE_TENSORS:
                self._tensor(value)
            elif number in _ATTRIBUTE_SPARSE:
                self._sparse(value)

    def _sparse(self, message: memoryview) -> None:
        for number, value in _fields(message):
            if number in _SPARSE_TENSORS and not isinstance(value, int):
                self._tensor(value)

    def _tensor(self, message: memoryview) -> None:
        for number, value in _fields(message):
            if number in _TENSOR_ELSEWHERE and value != 0:
                raise ValueError("it keeps data in another file, which is not read")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: numbers, and values or, where they have a length, bytes.

    Numbers of fixed size are given as 0, as no field that matters has any. Raises ValueError for
    bytes that are no message (Protocol Buffers, Encoding).
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = 0
        if kind == 2:
            size, at = _varint(message, at)
        elif kind not in (1, 5):
            raise ValueError("it is damaged")
        stop = at + (size if kind == 2 else 8 if kind == 1 else 4)
        if stop > end:
            raise ValueError("it is cut off")
        yield number, message[at:stop] if kind == 2 else 0
        at = stop


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at byte `at`, and where it ends. Raises ValueError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it is damaged")
