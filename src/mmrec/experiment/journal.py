"""Results of long experiments, kept as they come: what was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import mmrec
from mmrec.config import Config
from mmrec.errors import DataError
from mmrec.progress import console
from mmrec.reviews.table import Reviews

__all__ = ["Journal"]

_CALLS = {"in_flight", "budget", "llm_price", "retry_failed"}


class Journal:
    """A JSON file of `results` by name; one of other reviews or settings (but for the seed) is put aside.

    Raises:
        DataError: the file is no journal.
    """

    def __init__(self, path: Path, reviews: Reviews, config: Config) -> None:
        made = config.model_dump_json(exclude={"seed": True, "store": True, "read": True, "language": _CALLS})
        content = (mmrec.__version__, made, reviews.table.write_ndjson(), reviews.items.write_ndjson())
        self._path, self._made_from = path, hashlib.sha256("\n".join(content).encode()).hexdigest()
        self.results: dict[str, Any] = {}
        if not path.is_file():
            return
        try:
            stored = json.loads(path.read_bytes())
            made_from, results = stored["made_from"], dict(stored["results"])
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"{path}: no results of mmrec; take it away, or name another --out") from error
        if made_from == self._made_from:
            self.results = results
            return
        aside = path.replace(path.with_suffix(".old.json"))
        said = f"{path} was of other reviews or settings, and is now {aside}; starting anew"
        console.print(said, markup=False, highlight=False)

    def put(self, name: str, result: Any) -> None:
        """Keep a result; the file has it whole or not at all."""
        self.results[name] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"made_from": self._made_from, "results": self.results}, indent=1))
        os.replace(part, self._path)
