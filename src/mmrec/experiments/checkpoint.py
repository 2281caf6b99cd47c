"""Results of long experiments, kept as they come: what was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import mmrec
from mmrec.config import Config
from mmrec.console import console
from mmrec.data.schema import Reviews
from mmrec.errors import DataError
from mmrec.features.dataset import Models

__all__ = ["Checkpoint", "latest_results"]

_CALLS = {"in_flight", "budget", "llm_price"}


class Checkpoint:
    """A JSON file of results, by what they were made from and by name.

    Results of other reviews, settings (but for the seed), models or code stay in the file, and are there
    again when these come back; `results` are those of what is given.

    Raises:
        DataError: the file is no journal.
    """

    def __init__(self, path: Path, reviews: Reviews, config: Config, models: Models) -> None:
        made = config.model_dump_json(
            exclude={"seed": True, "store": True, "read": True, "language": _CALLS}
        )
        rows = reviews.table.write_ndjson(), reviews.items.write_ndjson()
        digest = hashlib.sha256(
            "\n".join((made, str(models.image_encoder.available()), *rows)).encode()
        )
        for source in sorted(Path(mmrec.__file__).parent.rglob("*.py")):
            digest.update(source.read_bytes())
        self._path, self._runs, made_from = (
            path,
            _runs(path) if path.is_file() else {},
            digest.hexdigest(),
        )
        if self._runs and made_from not in self._runs:
            other = "results of other reviews, settings, models or code; they stay, and all is made anew"
            console.print(f"{path} has {other}", markup=False, highlight=False)
        # Those of today are the last ones.
        self.results: dict[str, Any] = self._runs.pop(made_from, {})
        self._runs[made_from] = self.results

    def put(self, name: str, result: Any) -> None:
        """Keep a result; the file has it whole or not at all."""
        self.results[name] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"runs": self._runs}, indent=1))
        os.replace(part, self._path)


def latest_results(path: Path) -> dict[str, Any]:
    """The results that were written last.

    Raises:
        DataError: the file is no journal.
    """
    return [*_runs(path).values()][-1]


def _runs(path: Path) -> dict[str, dict[str, Any]]:
    try:
        runs = json.loads(path.read_bytes())["runs"]
        return {made_from: dict(results) for made_from, results in runs.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: no results of mmrec; take it away, or name another --out"
        ) from error
