"""Reads and writes the files of a model directory: JSON objects and tensors.

Every error is one line that names the file. Tensors lie in safetensors files or, in directories of
older releases of diffusers, in pickles, of which only tables of tensors are read: no code is run.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectro_render.atomic import read_regular
from spectro_render.checkpoints.pickles import AS_SAFETENSORS, check_pickle
from spectro_render.errors import WeightsCorrupt, WeightsError, reason_of

if TYPE_CHECKING:
    from torch import Tensor, nn

Json = dict[str, Any]  # a JSON object

CONFIG = "config.json"
TENSORS = "diffusion_pytorch_model.safetensors"
PICKLE = "diffusion_pytorch_model.bin"
MAX_BYTES = 1 << 24  # of a JSON file or a list of checksums
GET_AGAIN = "get the model again"  # what to do about damaged files


@contextmanager
def without_numbers() -> Iterator[None]:
    """Inside the block, modules are built with shapes, but without memory for numbers; see `fill`.

    On the meta device torch's initialisers do nothing but import a compiler, for a second or two.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class SkipInitialisers(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if getattr(function, "__module__", None) == torch.nn.init.__name__:
                return None
            return function(*args, **(kwargs or {}))

    with torch.device("meta"), SkipInitialisers():
        yield


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of an open file: their names and size, and a function that reads one."""

    names: Set[str]
    count: int  # of the numbers in all tensors
    read: Callable[[str], Tensor]


def fill(
    module: nn.Module, path: Path, names: Mapping[str, str], *, are_finite: bool = False
) -> None:
    """Replace the tensors of a module by those of a file, in float32.

    `names` maps the module's names of its tensors to the file's. Both sides must match exactly.
    Float32 in the file is not copied but mapped into memory; other formats are converted tensor by
    tensor. Raises WeightsCorrupt where the names or shapes do not match, and for numbers that are
    not finite, unless it is known that they `are_finite`.
    """
    stored = open_tensors(path)
    missing, unknown = set(names.values()) - stored.names, stored.names - set(names.values())
    if missing or unknown:
        lacks = f"lacks {some(missing)}" if missing else f"holds unknown {some(unknown)}"
        raise WeightsCorrupt(f"{path} {lacks}", "check that its config.json belongs to it")
    state = {}
    for ours, expected in module.state_dict().items():
        place = f"{path}: {names[ours]}"
        tensor = stored.read(names[ours])
        state[ours] = as_weights(tensor, expected.shape, place, are_finite=are_finite)
    module.load_state_dict(state, strict=True, assign=True)


def as_weights(
    tensor: Tensor, shape: Sequence[int], place: str, *, are_finite: bool = False
) -> Tensor:
    """Convert a tensor to float32. Raises WeightsCorrupt for another shape or bad numbers.

    Numbers of which it is known that they `are_finite` are not looked at.
    """
    import torch

    if tuple(tensor.shape) != tuple(shape):
        found, expected = list(tensor.shape), list(shape)
        raise WeightsCorrupt(
            f"{place} has the shape {found}, not {expected} as configured", GET_AGAIN
        )
    if not tensor.is_floating_point():
        raise WeightsCorrupt(f"{place} holds {tensor.dtype}, not floating-point numbers", GET_AGAIN)
    tensor = tensor.to(torch.float32).contiguous()
    if not are_finite and not is_finite(tensor):
        raise WeightsCorrupt(f"{place} holds NaN or infinity", GET_AGAIN)
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of a tensor is NaN or infinite; needs no memory of the tensor's size."""
    import torch

    if tensor.numel() == 0:
        return True
    extremes = torch.stack(tensor.aminmax())  # NaN if any number is
    return bool(extremes.isfinite().all())


def some(names: Set[str]) -> str:
    """List up to three names, and count the others: `a, b, c and 4 more`."""
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def tensors_file(folder: Path) -> Path:
    """Find the file of tensors in a folder, safetensors or else a pickle. Raises WeightsError."""
    pickled, path = folder / PICKLE, folder / TENSORS
    if os.path.exists(pickled) and not os.path.exists(path):
        path = pickled
    require(path)
    return path


def open_tensors(path: Path) -> StoredTensors:
    """Open a safetensors file, or a pickle of tensors, without reading the tensors yet.

    Raises WeightsError for a file that is missing or may not be read, WeightsCorrupt for a damaged
    one or a pickle that holds more than float32 tensors.
    """
    require(path)
    try:
        return _open_pickle(path) if path.suffix == ".bin" else _open_safetensors(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _open_safetensors(path: Path) -> StoredTensors:
    import torch
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> Tensor:
        tensor: Tensor = file.get_tensor(name)  # only maps the file: nothing is read yet
        if tensor.dtype == torch.float32 or not tensor.is_floating_point():  # rejected later
            return tensor
        # Opened anew for each tensor: closing it frees what was read, so that only the copy stays.
        with safe_open(path, framework="pt") as own:
            return own.get_tensor(name).to(torch.float32)

    try:
        file: Any = safe_open(path, framework="pt")
    except SafetensorError as error:
        message = f"{path} is not a whole safetensors file: {error}"
        raise WeightsCorrupt(message, GET_AGAIN) from error
    names = set(file.keys())
    count = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return StoredTensors(names, count, read)


def _open_pickle(path: Path) -> StoredTensors:
    import torch

    is_archive = check_pickle(path)  # only these can be mapped into memory
    try:
        content = torch.load(path, map_location="cpu", mmap=is_archive, weights_only=True)
    except pickle.UnpicklingError as error:
        message = f"{path} is damaged or holds code, which was not run"
        raise WeightsCorrupt(message, AS_SAFETENSORS) from error
    except Exception as error:  # in a damaged file, anything can fail anywhere
        raise WeightsCorrupt(f"{path} is not a whole pickle of tensors", GET_AGAIN) from error
    if not isinstance(content, dict) or not all(_is_named(*item) for item in content.items()):
        raise WeightsCorrupt(f"{path} is a pickle of other things than tensors", GET_AGAIN)
    count = sum(tensor.numel() for tensor in content.values())
    return StoredTensors(set(content), count, lambda name: content[name].detach())


def _is_named(name: object, value: object) -> bool:
    """Whether `name` is text and `value` an ordinary tensor: dense, on the CPU, not quantised."""
    import torch

    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized


def read_json(path: Path) -> Json:
    """Read the object in a JSON file.

    Raises WeightsError for a file that cannot be read, WeightsCorrupt if it holds no JSON object.
    """
    require(path)
    try:
        content = json.loads(read_regular(path, MAX_BYTES))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise WeightsCorrupt(f"{path} is not JSON: {error}", GET_AGAIN) from error
    if not isinstance(content, dict):
        raise WeightsCorrupt(f"{path} is not a JSON object", GET_AGAIN)
    return content


def require(path: Path) -> None:
    """Raise WeightsError if there is no such file."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise unreadable(path, error) from error
    raise WeightsError(f"{path} is missing", GET_AGAIN)


def write_part(folder: Path, config: Json, tensors: Mapping[str, Tensor], dtype: str) -> None:
    """Write a folder with a configuration and with tensors in the number format `dtype`.

    A tensor of whole numbers that this format would round, such as numbers of recordings, stays in
    float32. Raises WeightsError for a tensor that is not finite in that format, and OSError.
    """
    import torch

    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        exact = tensor.detach().cpu()
        stored[name] = exact.to(getattr(torch, dtype)).contiguous()
        if exact.equal(exact.round()) and not stored[name].to(exact).equal(exact):
            stored[name] = exact.float().contiguous()
        if not is_finite(stored[name]):
            message = f"{name} is not finite in {dtype}: {folder.name} cannot be saved"
            raise WeightsError(message, "choose a wider number format, or an earlier checkpoint")
    write_json(folder / CONFIG, config)
    # safetensors demands that no two tensors share memory.
    owners = {tensor.data_ptr(): name for name, tensor in stored.items()}
    untied = {
        name: tensor if owners[tensor.data_ptr()] == name else tensor.clone()
        for name, tensor in stored.items()
    }
    _write_safetensors(folder / TENSORS, untied)
    shutil.copymode(folder / CONFIG, folder / TENSORS)  # safetensors lets only the owner read it


def _write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # contains the system's error only as text
        number = re.search(r"\b(?:os error|code:) (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def write_json(path: Path, content: Json) -> None:
    """Write an object as a JSON file, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def unreadable(path: Path, error: OSError) -> WeightsError:
    """Make the error to raise for a file that exists but cannot be read."""
    return WeightsError(f"cannot read {path}: {reason_of(error)}", "check its permissions")
