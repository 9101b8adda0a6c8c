"""Files of strangers in a model directory: ONNX graphs and pickles, refused before they are run."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectro_render.checkpoints import onnx_file
from spectro_render.checkpoints.files import open_tensors
from spectro_render.checkpoints.load import load_vocoder
from spectro_render.checkpoints.onnx_file import check_onnx
from spectro_render.checkpoints.pickles import ALLOWED, check_pickle
from spectro_render.errors import WeightsCorrupt, WeightsError
from spectro_render.vocoder.onnx import OnnxVocoder
from tests.support.golden import PIPELINE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

from tests.support.onnx_writer import number, silent_vocoder, write_graph  # noqa: E402

# --- ONNX -------------------------------------------------------------------------------------

FLOAT, DOUBLE, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.STRING


def refusal(path: Path) -> str:
    """The one line that loading an ONNX vocoder ends in."""
    with pytest.raises(WeightsError) as caught:
        load_vocoder(path, "onnx")
    line = str(caught.value)
    assert "\n" not in line and str(path) in line and len(line) < 600
    return line


def test_a_graph_that_gives_silence(tmp_path: Path) -> None:
    vocoder = load_vocoder(write_graph(tmp_path / "a.onnx", *silent_vocoder()), "onnx")
    assert torch.equal(vocoder(torch.zeros(2, 7, 128)), torch.zeros(2, 7 * 320))


@pytest.mark.parametrize("samples", [0, 1, 160, 640])
def test_another_number_of_samples(tmp_path: Path, samples: int) -> None:
    line = refusal(write_graph(tmp_path / "a.onnx", *silent_vocoder(samples)))
    assert f"gives an array [1, {16 * samples}] for 16 frames, not 5120 samples" in line


def test_samples_in_a_table(tmp_path: Path) -> None:
    nodes, constants = silent_vocoder()
    nodes[-1].output[0] = "flat"
    nodes.append(helper.make_node("Reshape", ["flat", "table"], ["samples"]))
    constants.append(number("table", [-1, 320]))
    path = write_graph(tmp_path / "a.onnx", nodes, constants, shape=None)
    assert "gives an array [16, 320] for 16 frames" in refusal(path)


def test_output_of_text(tmp_path: Path) -> None:
    cast = helper.make_node("Cast", ["input_features"], ["samples"], to=STRING)
    path = write_graph(tmp_path / "a.onnx", [cast], gives=STRING, shape=None)
    assert "gives tensor(string), not tensor(float)" in refusal(path)


@pytest.mark.parametrize("kind", [DOUBLE, TensorProto.FLOAT16, TensorProto.INT64])
def test_inputs_and_outputs_of_other_numbers(tmp_path: Path, kind: int) -> None:
    same = helper.make_node("Identity", ["input_features"], ["samples"])
    path = write_graph(tmp_path / "a.onnx", [same], takes=kind, gives=kind, shape=None)
    assert "takes tensor(" in refusal(path)
    cast = helper.make_node("Cast", ["input_features"], ["samples"], to=kind)
    path = write_graph(tmp_path / "b.onnx", [cast], gives=kind, shape=None)
    assert "gives tensor(" in refusal(path)


def test_a_graph_that_fails_when_it_is_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reshape = helper.make_node("Reshape", ["input_features", "shape"], ["samples"])
    path = write_graph(tmp_path / "a.onnx", [reshape], [number("shape", [1, 7])], shape=None)
    assert "is not a usable ONNX file: " in refusal(path)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_fails_for_some_lengths_only(tmp_path: Path) -> None:
    nodes, constants = silent_vocoder()
    nodes[-1].output[0] = "flat"
    nodes.append(helper.make_node("Reshape", ["flat", "fixed"], ["samples"]))
    constants.append(number("fixed", [1, 16 * 320]))
    path = write_graph(tmp_path / "a.onnx", nodes, constants)
    assert "is not a usable ONNX file: " in refusal(path)  # when its reach is measured
    vocoder = OnnxVocoder(path)
    with pytest.raises(WeightsCorrupt, match="is not a usable ONNX file") as caught:
        vocoder(torch.zeros(1, 17, 128))
    assert "\n" not in str(caught.value)


def test_unknown_operators(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "a.onnx", [helper.make_node("Boil", [], ["samples"])])
    assert "is not a usable ONNX file: " in refusal(path)


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
@pytest.mark.parametrize("depth", [0, 1])
def test_loops_are_refused(tmp_path: Path, operator: str, depth: int) -> None:
    """At any depth: here also in a branch of an `If`."""
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node(operator, [], ["samples"], body=body)
    if depth:
        branch = helper.make_graph([node], "branch", [], [])
        node = helper.make_node(
            "If", ["input_features"], ["samples"], then_branch=branch, else_branch=branch
        )
    line = refusal(write_graph(tmp_path / "a.onnx", [node]))
    assert f"the operator {operator}, which may never end, is refused" in line


def test_an_endless_loop(tmp_path: Path) -> None:
    go_on = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    again = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    value = helper.make_tensor_value_info("value", FLOAT, None)
    changed = helper.make_tensor_value_info("changed", FLOAT, None)
    nodes = [
        helper.make_node("Identity", ["go_on"], ["again"]),
        helper.make_node("Identity", ["value"], ["changed"]),
    ]
    body = helper.make_graph(nodes, "body", [turn, go_on, value], [again, changed])
    loop = helper.make_node("Loop", ["", "yes", "input_features"], ["samples"], body=body)
    path = write_graph(tmp_path / "a.onnx", [loop], [number("yes", True, "bool")], shape=None)
    assert "the operator Loop, which may never end, is refused" in refusal(path)


def test_functions_and_foreign_operators(tmp_path: Path) -> None:
    imports = [helper.make_opsetid("own", 1)]
    call = helper.make_node("twice", ["input_features"], ["samples"], domain="own")
    same = helper.make_node("Identity", ["x"], ["y"])
    function = helper.make_function("own", "twice", ["x"], ["y"], [same], [imports[0]])
    path = write_graph(tmp_path / "a.onnx", *silent_vocoder(), functions=[function])
    assert "functions of its own" in refusal(path)
    path = write_graph(tmp_path / "b.onnx", [call], imports=imports)
    assert "operators of 'own' are not supported" in refusal(path)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd"])
@pytest.mark.parametrize("place", ["graph", "attribute", "sparse"])
def test_data_in_other_files(
    tmp_path: Path, location: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def session(*_: Any, **__: Any) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    (tmp_path / "weights.bin").write_bytes(bytes(512))
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[1, 1, 128])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    nodes = [helper.make_node("Add", ["input_features", "w"], ["samples"])]
    constants = [tensor] if place == "graph" else []
    if place == "attribute":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    if place == "sparse":
        sparse = onnx.SparseTensorProto(values=tensor, indices=number("i", [0]), dims=[1])
        nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    path = write_graph(tmp_path / "a.onnx", nodes, constants)
    assert "it keeps data in another file, which is not read" in refusal(path)


def test_large_onnx_files(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.truncate(onnx_file.MAX_BYTES + 1)
    assert "more than" in refusal(path)
    nodes = [helper.make_node("Identity", [], [])] * (onnx_file.MAX_NODES + 1)
    assert "more than 20000 operators" in refusal(write_graph(path, nodes))


def test_graphs_within_graphs(tmp_path: Path) -> None:
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(onnx_file.MAX_DEPTH):
        branch = helper.make_node("If", ["x"], ["y"], then_branch=graph)
        graph = helper.make_graph([branch], "outer", [], [])
    path = write_graph(tmp_path / "a.onnx", list(graph.node))
    assert "nested more than 16 deep" in refusal(path)


def test_damaged_onnx_files(tmp_path: Path) -> None:
    """Every cut and every changed byte: a refusal, or a file that the walk finds in order."""
    whole = (PIPELINE / "melgan" / "model.onnx").read_bytes()
    path, rng = tmp_path / "a.onnx", np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.5 else whole)
        for place in rng.integers(len(data) or 1, size=3):
            if data:
                data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            check_onnx(path)
        except WeightsCorrupt as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


# --- pickles ----------------------------------------------------------------------------------

STATE = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(4))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("content", [STATE, dict(STATE)])
def test_pickles_of_tensors_are_read(tmp_path: Path, content: Any, is_archive: bool) -> None:
    path = tmp_path / "weights.bin"
    torch.save(content, path, _use_new_zipfile_serialization=is_archive)
    stored = open_tensors(path)
    assert stored.names == set(content)
    assert stored.count == sum(tensor.numel() for tensor in content.values())
    assert all(torch.equal(stored.read(name), content[name]) for name in content)


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_pickles(
    tmp_path: Path, is_archive: bool, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by their names alone: torch does not even get to see the file."""
    monkeypatch.setattr(torch, "load", None)
    path, mark = tmp_path / "weights.bin", tmp_path / "mark"
    content = {**STATE, "c": Hostile(os.system, f"touch {mark}")}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_archive)
    with pytest.raises(
        WeightsCorrupt, match=r"holds (more than float32 tensors|code).* was not run"
    ) as caught:
        open_tensors(path)
    assert caught.value.hint == "get the model as safetensors"
    if protocol == 2:
        assert "'posix system'" in str(caught.value)
    assert not mark.exists()


def test_the_names_of_the_published_weights_and_no_others() -> None:
    assert ALLOWED == {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
    }


@pytest.mark.parametrize("content", [torch.ones(2).half(), torch.nn.Parameter(torch.ones(2))])
def test_other_tensors_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.bin"
    torch.save({"a": content}, path)
    with pytest.raises(WeightsCorrupt, match=r"more than float32 tensors: 'torch.* was not run"):
        open_tensors(path)


@pytest.mark.parametrize(
    "name", ["torch.jit load", "builtins getattr", "torch.hub load", "torch._utils _rebuild_xla"]
)
def test_names_that_are_not_needed(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.partition(" ")
    path = tmp_path / "weights.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(WeightsCorrupt, match=name):
        check_pickle(path)


def test_a_second_pickle_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    torch.save(STATE, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps(Hostile(print), protocol=2))
    with pytest.raises(WeightsCorrupt, match="holds more than float32 tensors"):
        check_pickle(path)


def test_archives_that_unpack_to_more(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", bytes(1 << 25))
    with pytest.raises(WeightsCorrupt, match="is damaged or holds code"):
        check_pickle(path)


def test_damaged_pickles(tmp_path: Path) -> None:
    path, rng = tmp_path / "weights.bin", np.random.default_rng(0)
    for is_archive in (True, False):
        torch.save(STATE, path, _use_new_zipfile_serialization=is_archive)
        whole = path.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(len(data), size=3):
                data[place] = rng.integers(256)
            path.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.3 else data)
            try:
                open_tensors(path)
            except WeightsCorrupt as error:
                assert "\n" not in str(error)
