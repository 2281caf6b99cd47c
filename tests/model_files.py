"""Saved models as whoever made the folder can change them: all sizes and hashes fit again."""

import json
import shutil
from pathlib import Path

from mmrec.recommender.persistence import describe_files, manifest_bytes


def copy_model(model, folder):
    """A copy, without live reviews."""
    return Path(shutil.copytree(model, folder, ignore=shutil.ignore_patterns("live.sqlite*")))


def files_of(folder):
    """The subfolder with the files of a model."""
    return folder / json.loads((folder / "model.json").read_bytes())["folder"]


def change_manifest(folder, change):
    """Change the content of `model.json`, a dictionary, in place."""
    values = json.loads((folder / "model.json").read_bytes())
    del values["sha256"]
    change(values)
    (folder / "model.json").write_bytes(manifest_bytes(json.dumps(values)))


def change_file(folder, name, change):
    """Change a file: `change` takes its path."""
    files = files_of(folder)
    change(files / name)

    def describe(values):
        values["files"] = {file: entry.model_dump() for file, entry in describe_files(files).items()}

    change_manifest(folder, describe)
