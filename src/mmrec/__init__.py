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


def __getattr__(name: str) -> Any:
    # Lazily, since torch takes seconds to import and `mmrec --help` needs none of it.
    modules = {"Config": "config", "Recommender": "recommender.recommender", "read_reviews": "data"}
    if name in modules:
        return getattr(import_module(f"mmrec.{modules[name]}"), name)
    raise AttributeError(f"module 'mmrec' has no attribute {name!r}")
