"""The lock files: every package by hash, in the versions of constraints.txt, and no server named."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Those that build the package, and torch, whose build is the user's choice.
NOT_LOCKED = {"hatchling", "tomlkit", "trove-classifiers", "torch"}


@pytest.mark.parametrize("file", ["requirements.lock", "deploy/requirements.lock"])
def test_a_lock_pins_all_by_hash_and_names_no_server(file):
    text = (ROOT / file).read_text()
    assert "//" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    locked = {}
    for entry in entries:
        first, *hashes = entry.split("\\\n")
        name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)(?: ; .+)?", first.strip()).groups()
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64} ?", line) for line in hashes)
        assert hashes, name
        locked[name.lower()] = version
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = {re.sub("[-_.]+", "-", name): version for name, version in pins.items()}
    assert all(pins.get(name, version) == version for name, version in locked.items())
    if file == "requirements.lock":
        assert pins.keys() - locked.keys() == NOT_LOCKED
