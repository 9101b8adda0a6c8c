"""The published model on the Hugging Face Hub: its commit, its files and the numbers it must give.

A commit never changes. So its content is pinned here, and can be verified without the Hub. Another
commit is used only where a name has one: OWNER/REPO@main, OWNER/REPO@COMMIT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PinnedFile:
    """What is known of a file; None for what was never seen stated."""

    size: int | None = None  # bytes
    sha256: str | None = None


@dataclass(frozen=True)
class Pin:
    """A commit of a repository, and the files in it that loading reads."""

    commit: str
    files: Mapping[str, PinnedFile]  # by names with `/`


PUBLISHED = "google/music-spectrogram-diffusion"

# Sizes and SHA-256 of weights are those on the Hub's pages of the files at this commit, which holds
# all weights and configurations; later commits changed only the README. There the size of the
# decoder is given as 955 MB. Size and hash of melgan/model.onnx were seen in the repository from
# which this one was duplicated. Of JSON files the pages give only sizes.
PINS = {
    PUBLISHED: Pin(
        commit="b4e09e84a6563c9b38de3b82bd63fe3b1467f2ef",
        files={
            "model_index.json": PinnedFile(440),
            "notes_encoder/config.json": PinnedFile(300),
            "notes_encoder/diffusion_pytorch_model.bin": PinnedFile(
                350_875_059, "be7f951c6ed13ef10ae9298c10c315d9d27a29a4da42fad9f24355967fd37e4c"
            ),
            "continuous_encoder/config.json": PinnedFile(309),
            "continuous_encoder/diffusion_pytorch_model.bin": PinnedFile(
                341_044_659, "9ce0037cc2f9aad486141769202fed6a112db29487a358651424d1354ba52038"
            ),
            "decoder/config.json": PinnedFile(269),
            "decoder/diffusion_pytorch_model.bin": PinnedFile(
                None, "eda770548b0ac2432973dee6a99068fdf2120454e7599ea3b62acebde6aa1d5b"
            ),
            "scheduler/scheduler_config.json": PinnedFile(333),
            "melgan/model.onnx": PinnedFile(
                60_487_709, "0f7bfb7c042cfed63b133aa26ec440f7b2d08192823fbc2363499696b3720603"
            ),
        },
    ),
}


def pin_of(repo: str, commit: str) -> Pin | None:
    """What is pinned of a repository at this commit; None for any other commit or repository."""
    pin = PINS.get(repo)
    return pin if pin and pin.commit == commit else None
