"""Photos that the tests of several models share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def photos():
    """Four of noise, three of one colour."""
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(4)]
    sizes = {"red": (30, 20), "blue": (30, 27), "white": (30, 34)}
    return [*noise, *(Image.new("RGB", size, color) for color, size in sizes.items())]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """As with HF_HUB_OFFLINE=1: no call to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
