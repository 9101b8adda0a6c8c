"""The files of a model directory: JSON objects and tensors, and what can be wrong with them.

Every error is one line that names the file. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spectro_render.errors import WeightsCorrupt, WeightsError
from spectro_render.layout import Config

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONFIG = "config.json"
TENSORS = "diffusion_pytorch_model.safetensors"
GET_ANEW = "get the model anew"


def fill(module: nn.Module, path: Path, names: Mapping[str, str]) -> None:
    """Put the tensors of a file into a module, as float32 in place of what is there.

    `names` are the module's names of its tensors -> the file's. Both sides must match exactly.
    Raises WeightsCorrupt where they do not, and for numbers that are not finite.
    """
    stored = read_tensors(path)
    missing, unknown = set(names.values()) - set(stored), set(stored) - set(names.values())
    if missing or unknown:
        lacks = f"lacks {_some(missing)}" if missing else f"holds unknown {_some(unknown)}"
        raise WeightsCorrupt(f"{path} {lacks}", "is its config.json the right one?")
    for ours, expected in module.state_dict().items():
        _check_tensor(stored[names[ours]], expected.shape, f"{path}: {names[ours]}")
    state = {ours: stored[theirs].float() for ours, theirs in names.items()}
    module.load_state_dict(state, strict=True, assign=True)


def _check_tensor(tensor: Tensor, shape: torch.Size, place: str) -> None:
    if tensor.shape != shape:
        found, expected = list(tensor.shape), list(shape)
        raise WeightsCorrupt(
            f"{place} has the shape {found}, not {expected} as configured", GET_ANEW
        )
    if not tensor.is_floating_point():
        raise WeightsCorrupt(f"{place} holds {tensor.dtype}, not floating-point numbers", GET_ANEW)
    if not bool(tensor.isfinite().all()):
        raise WeightsCorrupt(f"{place} holds NaN or infinity", GET_ANEW)


def _some(names: set[str]) -> str:
    """A few of the names, and how many more there are."""
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises WeightsError, WeightsCorrupt."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        message = f"{path} is not a whole safetensors file: {error}"
        raise WeightsCorrupt(message, GET_ANEW) from error
    except OSError as error:
        raise unreadable(path, error) from error


def read_json(path: Path) -> Config:
    """The object in a JSON file. Raises WeightsError, WeightsCorrupt."""
    require(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise WeightsCorrupt(f"{path} is not JSON: {error}", GET_ANEW) from error
    if not isinstance(content, dict):
        raise WeightsCorrupt(f"{path} is not a JSON object", GET_ANEW)
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
    pickled = path.with_suffix(".bin")
    hint = f"{pickled.name} is a pickle, which is never read; convert it to safetensors"
    raise WeightsError(f"{path} is missing", hint if pickled.is_file() else GET_ANEW)


def write_part(folder: Path, config: Config, tensors: Mapping[str, Tensor], dtype: str) -> None:
    """Write a folder of configuration and tensors, the latter in the number format `dtype`.

    Raises WeightsError for a tensor that is not finite in that format.
    """
    import torch
    from safetensors.torch import save_file

    stored = {}
    for name, tensor in tensors.items():
        stored[name] = tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
        if not bool(stored[name].isfinite().all()):
            message = f"{name} is not finite in {dtype}: {folder.name} cannot be saved"
            raise WeightsError(message, "choose a wider number format, or an earlier checkpoint")
    write_json(folder / CONFIG, config)
    save_file(stored, folder / TENSORS, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG, folder / TENSORS)  # safetensors lets only the owner read it


def write_json(path: Path, content: Config) -> None:
    """Write an object as a JSON file, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def unreadable(path: Path, error: OSError) -> WeightsError:
    """What to raise for a file that is there but cannot be read."""
    reason = (error.strerror or str(error)).lower()
    return WeightsError(f"cannot read {path}: {reason}", "check who may read it")
