"""What the program keeps for later starts: in a folder of its own, beside the Hub's.

Nothing depends on it. Where the folder cannot be written, or the user wants none, the same is
computed again at each start. It may be removed at any time.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from spectro_render.atomic import new_file, read_regular
from spectro_render.checkpoints.hub_cache import hub_folder
from spectro_render.errors import OutputError

VARIABLE = "SPECTRO_RENDER_CACHE"  # a folder; or OFF, and nothing is kept
OFF = "off"
MAX_BYTES = 1 << 20  # of a file of facts
MAX_FACTS = 1000  # in a file; the oldest go first


def kept_folder() -> Path | None:
    """The folder; None where nothing shall be kept.

    By default it has the program's name and lies beside the folder of the Hub's tools, so on the
    disk that was chosen for models.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen == OFF:
        return None
    if chosen:
        return Path(os.path.expanduser(chosen))
    return hub_folder().absolute().with_name("spectro-render")


def recall(kind: str, key: str) -> Any:
    """The fact of this kind that was remembered for a key; None if there is none."""
    return _read(kind).get(key)


def remember(kind: str, key: str, value: Any) -> None:
    """Remember a fact, a value for JSON, if the folder can be written."""
    folder = kept_folder()
    if folder is None:
        return
    facts = {**_read(kind), key: value}
    kept = dict(list(facts.items())[-MAX_FACTS:])
    with suppress(OSError, OutputError):  # also if another process is writing it
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / f"{kind}.json") as path:
            path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _read(kind: str) -> dict[str, Any]:
    folder = kept_folder()
    try:
        content = json.loads(read_regular(folder / f"{kind}.json", MAX_BYTES)) if folder else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
