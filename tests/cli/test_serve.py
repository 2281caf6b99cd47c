"""`mmrec serve` as a process: what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serving import command, serving


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--keys", "/nowhere"], "cannot be read"), (["--database", "nonsense"], "sqlite:///FILE")],
)
def test_wrong_flags_are_reported_before_the_server_starts(
    model: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    run = command("serve", model, *flags, cwd=tmp_path)
    assert run.returncode == 2
    assert message in " ".join(run.stderr.split())


def test_a_store_that_cannot_be_used_is_reported(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    manifest = json.loads((folder / "model.json").read_text())
    manifest["config"]["store"] = str(tmp_path)
    (folder / "model.json").write_text(json.dumps(manifest))
    run = command("serve", folder, cwd=tmp_path)
    assert run.returncode == 2
    assert f"the store {tmp_path} cannot be used" in " ".join(run.stderr.split())


def test_a_read_only_model_is_served_and_not_changed(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("live.sqlite*"))
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    folder.chmod(0o555)
    files = sorted(folder.iterdir())
    with serving(folder, "--database", f"sqlite:///{tmp_path / 'live.sqlite'}") as service:
        service.post("/v1/reviews", {"user": "ada", "item": "new", "rating": 5}, 201)
    assert sorted(folder.iterdir()) == files
