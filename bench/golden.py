"""Golden outputs: results of mmrec, written down so that later versions can be compared with them.

Usage: python bench/golden.py write FOLDER [--reviews FILE --items FILE --limit N]
       python bench/golden.py compare FOLDER [the same options]

The data are a small Sample City, or the first N lines of a file of JSON lines. `write` leaves one JSON
file for each subject, and the saved model. `compare` computes the results again, also those of the
model that `write` saved, prints the differences, and ends with status 1 if there are any. Floats may
differ by 1e-6; times, sizes of files, dates and versions are left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from golden_compare import ABSENT, as_stored, differences
from golden_results import InputFiles, command_results, library_results, model_results
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import ModelError
from mmrec.recommender.recommender import Recommender

SAVED_BEFORE = "a model saved before"


def city_files(folder: Path, users: int, items: int, reviews: int) -> InputFiles:
    """A Sample City, and new reviews of another one."""
    sizes = {"users": users, "items": items, "reviews": reviews}
    data = write_sample_city(folder, seed=3, **sizes)
    new = write_sample_city(folder / "new", seed=4, **sizes)
    return InputFiles(folder, data, new, folder / "places.jsonl")


def first_lines(folder: Path, reviews: Path, items: Path | None, limit: int) -> InputFiles:
    """The first lines of a file of reviews, the 300 after them as new ones, and all items."""
    folder.mkdir(parents=True)
    places = folder / "places.jsonl" if items else None
    files = InputFiles(folder, folder / "reviews.jsonl", folder / "new.jsonl", places)
    with gzip.open(reviews, "rt") if reviews.suffix == ".gz" else reviews.open() as lines:
        files.data.write_text("".join(islice(lines, limit)))
        files.new.write_text("".join(islice(lines, 300)))
    if items and places:
        with gzip.open(items, "rt") if items.suffix == ".gz" else items.open() as lines:
            places.write_text(lines.read())
    return files


def write(folder: Path, results: dict[str, Any], model: Path) -> int:
    """Write a file for each subject, and the model."""
    folder.mkdir(parents=True, exist_ok=True)
    for subject, result in results.items():
        (folder / f"{subject}.json").write_text(json.dumps(result, indent=1))
    shutil.copytree(model, folder / "model", dirs_exist_ok=True)
    print(f"{len(results)} subjects: {folder}")
    return 0


def compare(folder: Path, results: dict[str, Any], count: int) -> int:
    """Print how the results differ from those in the folder; 1 if they do."""
    old = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    old[SAVED_BEFORE] = old.get("predictions", ABSENT)
    try:
        loaded = model_results(Recommender.load(folder / "model"), count)
        results[SAVED_BEFORE] = as_stored(loaded["predictions"])
    except ModelError as error:  # of another format
        results[SAVED_BEFORE] = str(error)
    changes = [*differences(old, results)]
    for path, before, after in changes:
        print(f"{path[1:]}: {str(before)[:200]} -> {str(after)[:200]}")
    print(f"{len(changes)} differences")
    return min(len(changes), 1)


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reviews", type=Path)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    options = parser.parse_args()
    # Libraries read it when they are imported.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(1)
    folder, count = options.folder.resolve(), 8
    reviews, items = (path and path.resolve() for path in (options.reviews, options.items))
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"MMREC_CACHE": f"{name}/cache", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
        data_folder = Path(name).resolve() / "data"
        if reviews:
            files = first_lines(data_folder, reviews, items, options.limit)
        else:
            files = city_files(data_folder, 60, 25, 500)
        results = library_results(files, count, full=True)
        first = results["predictions"][0]
        user, item = first["user"], first["of"]
        results["commands"] = command_results(files, user, item, is_city=not reviews)
        os.chdir("/")
        if options.action == "write":
            sys.exit(write(folder, results, files.folder / "saved"))
        sys.exit(compare(folder, results, count))


if __name__ == "__main__":
    main()
