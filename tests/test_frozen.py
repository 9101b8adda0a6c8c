"""The bundled model makes of twelve songs what it made before; `make freeze` stores it anew."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from spectro_render.render.renderer import Renderer
from tests.support import frozen
from tests.support.frozen import BANDS, FRAMES, MEL_STEPS, SAMPLES, SONGS, STORE

# On a processor like that of the stored sounds, and on others.
LEAST_SNR = {True: 60.0, False: 20.0}  # dB
MOST_MEL = {True: 1e-3, False: 1e-2}  # natural log; half a step of the store is 2.4e-4
MOST_LEVEL = 1.0  # dB


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(STORE) as content:
        return dict(content)


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    threads = torch.get_num_threads()
    yield frozen.load()
    torch.set_num_threads(threads)


def test_the_stored_sounds_are_those_of_the_bundled_weights(stored: dict[str, np.ndarray]) -> None:
    hint = "the weights have been replaced: run `make freeze`, see docs/development.md"
    assert str(stored["weights"]) == frozen.weights(), hint
    assert STORE.stat().st_size < 500_000
    names = {key.partition(".")[0] for key in stored} - {"weights", "processor"}
    assert names == {song.__name__ for song in SONGS} and len(SONGS) == 12


@pytest.mark.parametrize("song", SONGS, ids=lambda song: song.__name__)
def test_what_a_song_sounds_like(
    song: frozen.Song, renderer: Renderer, stored: dict[str, np.ndarray]
) -> None:
    is_alike = str(stored["processor"]) == frozen.processor()
    before = {
        key.partition(".")[2]: value
        for key, value in stored.items()
        if key.startswith(f"{song.__name__}.")
    }
    now = frozen.render(renderer, song)
    assert np.isfinite(now.mels).all() and np.isfinite(now.samples).all()
    assert len(now.samples) == before["length"]
    assert now.level > -70 and abs(now.level - before["level"]) < MOST_LEVEL

    mels = before["mels"] / MEL_STEPS
    assert np.abs(now.mels[::FRAMES, ::BANDS] - mels).max() < MOST_MEL[is_alike]

    sound = before["sound"] * (before["peak"] / 32_767)
    error = np.square(now.samples[::SAMPLES] - sound).mean()
    assert 10 * np.log10(np.square(sound).mean() / error) > LEAST_SNR[is_alike]
