"""What a model's folder may decide by itself, and what only with the consent of its user.

Whoever made the folder chose its settings. They must not say where keys and reviews are sent, which
files are written, which other folders are read, or which photos of this machine are shown.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from mmrec.config import Config, EngineConfig, ReadConfig
from mmrec.console import escape_text
from mmrec.data.schema import Reviews
from mmrec.errors import ModelError

# Without consent: models that are known here, and servers that the user's own settings name.
_SERVERS = "(openai|ollama):[^@]+"
_KNOWN_MODELS = {
    ("language", "llm"): f"builtin|{_SERVERS}",
    ("vision", "captioner"): f"builtin|blip2?|{_SERVERS}",
    ("vision", "image_model"): "microsoft/resnet-50",
    ("encoder", "encoder_model"): "(sentence-transformers/)?all-MiniLM-L6-v2",
}


def limit_settings(config: Config, folder: Path, *, trust: bool) -> Config:
    """The settings of a saved model that hold here; a ModelError for models that need consent.

    Without `trust` the store is the default one, and photos have the usual limits. A store in a
    folder that is not here is that of another machine.
    """
    config = config.model_copy(update={"engine": EngineConfig()})  # which is never saved
    if config.store is not None and not (trust and config.store.parent.is_dir()):
        config = config.model_copy(update={"store": None})
    if trust:
        return config
    for (section, name), known in _KNOWN_MODELS.items():
        value = getattr(getattr(config, section), name)
        if not re.fullmatch(known, value):
            mend = "if you trust whoever made this folder, pass --trust (in Python, trust=True)"
            text = f"it wants to use the model {escape_text(value)!r} ({section}.{name})"
            raise ModelError(f"{folder}: {text}; {mend}")
    return config.model_copy(update={"read": ReadConfig()})


def limit_photos(reviews: Reviews, folder: Path) -> Reviews:
    """The reviews with photos inside of the folder alone."""
    root = folder.resolve()

    def inside(paths: list[str]) -> list[str]:
        kept = []
        for path in paths:
            try:
                photo = Path(path).resolve()
                is_own = photo.is_relative_to(root) and photo.is_file()
            except (OSError, ValueError, RuntimeError):  # too long, holds NUL, or a loop of links
                is_own = False
            if is_own:
                kept.append(str(photo))
        return kept

    tables = []
    for table in (reviews.table, reviews.items):
        if not table["photos"].list.len().sum():
            tables.append(table)
            continue
        cells = list(map(inside, table["photos"].to_list()))
        tables.append(table.with_columns(pl.Series("photos", cells, pl.List(pl.String()))))
    return replace(reviews, table=tables[0], items=tables[1])
