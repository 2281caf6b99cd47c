"""Golden outputs: what mmrec answers now, written down, so that every later change can be held against it.

Usage: python bench/golden.py write FOLDER [--reviews FILE --items FILE --limit N]
       python bench/golden.py compare FOLDER [the same options]

Without a file it is a small Sample City that is learned from; else the first N lines of a file of JSON
lines. `write` leaves a JSON file a subject, and the saved model. `compare` does all of it anew, also asks the
model that `write` saved, prints what differs, and ends with status 1 where something does. Floats may differ
by 1e-6; timings, sizes of files, dates and versions are left out. All names of the
package stand in golden_names.py.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import golden_names as names
from golden_compare import ABSENT, differences, plain, read_again

_NEW_ROWS = 300
_EARLIER = "a model saved before"
Golden = dict[str, Any]


def town_of(
    folder: Path, reviews: Path | None, items: Path | None, limit: int, size: tuple[int, ...]
) -> names.Town:
    """A city of so many users, items and reviews; or the first lines of a file, and as new ones the next."""
    folder.mkdir(parents=True)
    if reviews is None:
        data, places = names.city(folder, 3, *size)
        return names.Town(folder, data, names.city(folder / "new", 4, *size)[0], places)
    data, new = folder / "reviews.jsonl", folder / "new.jsonl"
    town = names.Town(folder, data, new, items and folder / "places.jsonl")
    with _lines(reviews) as lines:
        data.write_text("".join(islice(lines, limit)))
        new.write_text("".join(islice(lines, _NEW_ROWS)))
    if items and town.items:
        with _lines(items) as lines:
            town.items.write_text("".join(lines))
    return town


def _lines(path: Path) -> Any:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def library(town: names.Town, some: int, *, whole: bool) -> Golden:
    """What the library and the service answer; `whole` with all notes, what machines differ in, and pages."""
    one = names.fit(town)
    found: Golden = {"predictions": names.predictions(one, some), "lists": names.lists(one, some)}
    found |= {"reasons": names.reasons(one, some), "known": names.known(one, some)}
    found |= {"notes": names.notes(one, None if whole else 6 * some)}
    found |= {"summaries": names.summaries(one, town, some)}
    if whole:
        keys = names.stored(town)
        found["learned"] = names.learned(one)
        found["stored"] = {"count": len(keys), "keys": hashlib.sha256(b"".join(keys)).hexdigest()}
    model = names.saved(one, town.folder / "saved")
    again = names.loaded(model)
    found["loaded"] = {
        "predictions": names.predictions(again, some),
        "lists": names.lists(again, some),
    }
    user, item = found["predictions"][0]["user"], found["predictions"][0]["of"]
    names.hear(one)
    found["live"] = {"predictions": names.predictions(one, some), "lists": names.lists(one, some)}
    found["live"] |= {"known": names.known(one, some), "reasons": names.reasons(one, some)}
    found["contract"] = names.contract(model)
    shutil.copytree(model, town.folder / "served")
    found["service"] = names.served(town.folder / "served", user, item, whole)
    return read_again(found)


def commands(town: names.Town, user: str, item: str, small: bool) -> Golden:
    """What commands print, run in the town's folder so that no path is another in every run."""
    os.chdir(town.folder)
    words = {
        "data": town.data.name,
        "new": town.new.relative_to(town.folder),
        "user": user,
        "item": item,
    }
    words |= {"store": town.store.name, "items": f"--items {town.items.name}" if town.items else ""}
    words |= {"truth": f"--truth {town.items.name}" if town.items else ""}
    words["how"] = names.SETTINGS.format(**words)
    found: Golden = {"flags": names.helped()}
    for name, command in (names.COMMANDS | (names.SMALL_COMMANDS if small else {})).items():
        status, told = names.typed(f"{command.format(**words)} --json")
        answer = json.loads(told) if told.startswith("{") else told
        found[name] = {"status": status, "told": sorted(answer) if name == "doctor" else answer}
    return read_again(found)


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reviews", type=Path)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # libraries look at it when they are imported
        os.execve(
            sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_NUM_THREADS": "1"}
        )
    torch.set_num_threads(1)
    folder, some = given.folder.resolve(), 8
    reviews, items = (path and path.resolve() for path in (given.reviews, given.items))
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"MMREC_CACHE": f"{name}/cache", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
        town = town_of(Path(name).resolve() / "town", reviews, items, given.limit, (60, 25, 500))
        found = library(town, some, whole=True)
        first = found["predictions"][0]
        found["commands"] = commands(town, first["user"], first["of"], small=reviews is None)
        os.chdir("/")
        if given.what == "write":
            folder.mkdir(parents=True, exist_ok=True)
            for subject, own in found.items():
                (folder / f"{subject}.json").write_text(json.dumps(own, indent=1))
            shutil.copytree(town.folder / "saved", folder / "model", dirs_exist_ok=True)
            print(f"{len(found)} subjects: {folder}")
            return
        old = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
        old[_EARLIER] = old.get("predictions", ABSENT)
        found[_EARLIER] = plain(names.predictions(names.loaded(folder / "model"), some))
        changes = [*differences(old, found)]
    for at, was, now in changes:
        print(f"{at[1:]}: {str(was)[:200]} -> {str(now)[:200]}")
    print(f"{len(changes)} differences")
    sys.exit(min(len(changes), 1))


if __name__ == "__main__":
    main()
