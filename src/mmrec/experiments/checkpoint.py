"""Results of long experiments, written as they come, so that a stopped one resumes where it was."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmrec
from mmrec.config import Config
from mmrec.console import console
from mmrec.data.schema import Reviews
from mmrec.errors import DataError
from mmrec.features.dataset import Models


class Checkpoint:
    """What an experiment is made from, and a JSON file of its `results` by name.

    Those of other reviews, settings (but for the seed), models or code stay in the file, for when
    these come back. Raises DataError where the file is no checkpoint.
    """

    def __init__(self, path: Path, reviews: Reviews, config: Config, models: Models) -> None:
        self._path, self.reviews, self.config, self.models = path, reviews, config, models
        self._runs: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                runs = json.loads(path.read_bytes())["runs"]
                self._runs = {key: dict(results) for key, results in runs.items()}
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                mend = "remove it, or name another --out"
                raise DataError(f"{path}: no results of mmrec; {mend}") from error
        # How a model is called does not change its answers.
        calls = {"in_flight", "budget", "llm_price"}
        excluded: Any = {"seed": True, "store": True, "read": True, "language": calls}
        parts = [config.model_dump_json(exclude=excluded), str(models.image_encoder.available())]
        parts += [reviews.table.write_ndjson(), reviews.items.write_ndjson()]
        digest = hashlib.sha256("\n".join(parts).encode())
        for source in sorted(Path(mmrec.__file__).parent.rglob("*.py")):
            digest.update(source.read_bytes())
        provenance = digest.hexdigest()
        if self._runs and provenance not in self._runs:
            text = f"{path} has results of other reviews, settings, models or code; they stay,"
            console.print(f"{text} and everything is computed anew", markup=False, highlight=False)
        self.results: dict[str, Any] = self._runs.pop(provenance, {})
        self._runs[provenance] = self.results  # the last ones are the latest

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """A stored result; computed and stored first where there is none."""
        if name not in self.results:
            self.put(name, compute())
        return self.results[name]

    def put(self, name: str, result: Any) -> None:
        """Store a result; the file always holds all of it or nothing of it."""
        self.results[name] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".part")
        unfinished.write_text(json.dumps({"runs": self._runs}, indent=1))
        os.replace(unfinished, self._path)
