"""Writes small ONNX graphs. Import it after `pytest.importorskip("onnx")`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Graph = tuple[list[Any], list[Any]]  # nodes and constants


def number(name: str, value: Any, dtype: str = "int64") -> Any:
    return numpy_helper.from_array(np.array(value, dtype), name)


def write_graph(
    path: Path,
    nodes: Sequence[Any],
    constants: Sequence[Any] = (),
    *,
    takes: int = TensorProto.FLOAT,
    gives: int = TensorProto.FLOAT,
    shape: Sequence[Any] | None = (1, "samples"),
    **parts: Any,
) -> Path:
    mel = helper.make_tensor_value_info("input_features", takes, (1, "frames", 128))
    out = helper.make_tensor_value_info("samples", gives, shape)
    graph = helper.make_graph(nodes, "vocoder", [mel], [out], list(constants))
    imports = [helper.make_opsetid("", 13), *parts.pop("imports", [])]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, **parts)
    path.write_bytes(model.SerializeToString())
    return path


def silent_vocoder(samples: int = 320) -> Graph:
    """A graph that gives `samples` zeros for each frame."""
    nodes = [
        helper.make_node("Shape", ["input_features"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "one"], ["frames"]),
        helper.make_node("Mul", ["frames", "each"], ["count"]),
        helper.make_node("Concat", ["one", "count"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["samples"]),
    ]
    return nodes, [number("one", [1]), number("each", [samples])]


def local_vocoder(before: int, after: int, memory: str = "") -> Graph:
    """A graph whose samples depend on this number of frames before and after their own.

    `memory` is an operator that looks at all frames: 'CumSum' at all before, 'ReduceMean' at all.
    """
    weights = np.random.default_rng(0).normal(size=(320, 128, before + after + 1)) / 100
    mel = "remembered" if memory else "input_features"
    nodes = [
        helper.make_node("Transpose", [mel], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["turned", "weights"], ["rows"], pads=[before, after]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["columns", "flat"], ["samples"]),
    ]
    if memory:
        axes: dict[str, Any] = {"axes": [1]} if memory == "ReduceMean" else {}
        inputs = ["input_features", *(["axis"] if memory == "CumSum" else [])]
        nodes[:0] = [
            helper.make_node(memory, inputs, ["all"], **axes),
            helper.make_node("Sub", ["input_features", "all"], ["remembered"]),
        ]
    constants = [number("weights", weights, "float32"), number("flat", [1, -1])]
    return nodes, [*constants, *([number("axis", 1)] if memory == "CumSum" else [])]
