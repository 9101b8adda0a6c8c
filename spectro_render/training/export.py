"""Writes the result of a training run as a model directory, with a card that describes it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectro_render.atomic import new_directory, new_file
from spectro_render.checkpoints import load_checkpoint
from spectro_render.checkpoints.load import Defaults, save_model
from spectro_render.checkpoints.manifest import write_checksums
from spectro_render.errors import SpectroRenderError
from spectro_render.network.build import make_model
from spectro_render.network.config import ModelConfig
from spectro_render.network.model import MelModel
from spectro_render.training.band import load_trained_band
from spectro_render.training.recordings import RESULTS, read_outcomes
from spectro_render.training.run import LOG
from spectro_render.training.vocoder import load_trained_vocoder

TRANSFORMER = Path("diffusion", "checkpoint.pt")  # in the work folder
RECIPE = "recipe.json"  # in the work folder: how the training was started
CARD = "MODEL_CARD.md"
MOST_NAMED = 50  # recordings in a card


def trained_transformer(work: Path) -> tuple[MelModel, int]:
    """The Transformer trained in a work folder, with its averaged weights, and its steps so far."""
    state = torch.load(work / TRANSFORMER, map_location="cpu", weights_only=True)
    model = make_model(ModelConfig(**state["config"]))
    model.load_state_dict(state["average"])
    return model.eval(), state["step"]


def write_recipe(work: Path, facts: Mapping[str, Any]) -> None:
    """Record how a training was started, for the card of its model."""
    work.mkdir(parents=True, exist_ok=True)
    with new_file(work / RECIPE) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")


def export(
    work: Path,
    output: Path,
    measure: Callable[[Path], Sequence[str]] = lambda _: (),
) -> None:
    """Write the averaged weights as a model directory, with vocoder and band if these were trained.

    `work` is the work folder of the training. The default options are those of the model that the
    training started from. `measure` takes the complete directory and returns lines about how good
    the model sounds, which are added to its card. Raises SpectroRenderError if the folder has no
    Transformer.
    """
    if not (work / TRANSFORMER).exists():
        raise SpectroRenderError(
            f"{work / TRANSFORMER} is missing", "run the diffusion stage first"
        )
    model, steps = trained_transformer(work)
    trained = work / "vocoder" / "vocoder.json"
    vocoder = load_trained_vocoder(work / "vocoder") if trained.exists() else None
    band, recipe = load_trained_band(work / "band"), _recipe(work)
    start = recipe.get("start_from")
    defaults = Defaults(sampler="dpm++", steps=10, guidance=1.0)
    if start is not None:
        known = load_checkpoint(start)
        defaults, band = known.defaults, band or known.band
    card = write_card(work, recipe, model, steps)

    def write(folder: Path) -> None:
        (folder / CARD).write_text(card, encoding="utf-8")
        save_model(folder, model, vocoder, band, defaults=defaults)

    if output.exists():
        write(output)
    else:
        with new_directory(output) as folder:
            write(folder)
    if lines := measure(output):
        with new_file(output / CARD) as temporary:
            temporary.write_text("\n".join([card, *lines]) + "\n", encoding="utf-8")
        write_checksums(output)
    print(json.dumps({"model": str(output), "steps": steps}))


def _recipe(work: Path) -> dict[str, Any]:
    path = work / RECIPE
    recipe: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return recipe


def write_card(work: Path, recipe: Mapping[str, Any], model: MelModel, steps: int) -> str:
    """The text of a model card: data and licence as told, recipe, and the errors of held-out music.

    `recipe` is what `write_recipe` recorded.
    """
    outcomes = read_outcomes(work / RESULTS).values()
    used = [outcome for outcome in outcomes if outcome.problem is None]
    lines = [
        "# A model trained with spectro-render",
        "",
        "## Data",
        "",
        f"- Licence of the data, as told: {recipe.get('licence') or 'not told'}",
    ]
    if used:
        hours = sum(outcome.seconds for outcome in used) / 3600
        lines.append(f"- Recordings: {len(used)} with {hours:.2f} hours, with their notes")
        lines += [f"  - {outcome.name}" for outcome in used[:MOST_NAMED]]
        if len(used) > MOST_NAMED:
            lines.append(f"  - and {len(used) - MOST_NAMED} more")
    if recipe.get("soundfont"):
        lines.append(
            f"- Synthesised by FluidSynth with {Path(recipe['soundfont']).name}:"
            f" {recipe['hours']:.2f} hours of music, {recipe['note_hours']:.2f} of single notes"
        )
    weights = sum(parameter.numel() for parameter in model.parameters())
    lines += [
        "",
        "## Recipe",
        "",
        f"- Command: `{recipe.get('command', 'not known')}`",
        f"- Started from: {recipe.get('start_from') or 'random weights'}",
        f"- Network: {weights / 1e6:.1f} M weights in the Transformer and its draft; seed"
        f" {recipe.get('seed', 0)}",
    ]
    for name, title in (("curves", "curves of notes"), ("diffusion", "Transformer")):
        if last := _last_row(work / name / LOG, "step"):
            lines.append(f"- Steps of the {title}: {last['step']:.0f}")
    if last := _last_row(work / "vocoder" / LOG, "step"):
        lines.append(f"- Steps of the vocoder: {last['step']:.0f}")
    lines += ["", "## How good it is", ""]
    if found := _last_row(work / "diffusion" / LOG, "sample_error"):
        lines += [
            "Mean absolute error of log-mels on held-out music, after true predecessors, in nats:",
            "",
            "| | error |",
            "| --- | --- |",
            f"| drawn by the model | {found['sample_error']:.3f} |",
            f"| its draft alone | {found['draft_error']:.3f} |",
            "",
        ]
    lines.append("`spectro-render evaluate` measures the sound, against FluidSynth or recordings.")
    return "\n".join(lines) + "\n"


def _last_row(log: Path, wanted: str) -> dict[str, float] | None:
    """The last row of a log that has a value of this name."""
    rows = log.read_text().splitlines() if log.exists() else []
    found = (json.loads(row) for row in reversed(rows))
    return next((row for row in found if wanted in row), None)
