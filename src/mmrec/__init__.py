"""mmrec: recommendations that people can trust, from what reviews and photos say."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrec.config import Config
    from mmrec.data import read_reviews
    from mmrec.recommender.recommender import Recommender

__version__ = "0.1.0"
__all__ = ["Config", "Recommender", "__version__", "read_reviews"]

_HOMES = {
    "Config": "mmrec.config",
    "Recommender": "mmrec.recommender.recommender",
    "read_reviews": "mmrec.data",
}


def __getattr__(name: str) -> Any:
    # Lazily, since torch takes seconds to import and `mmrec --help` needs none of it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmrec' has no attribute {name!r}")
