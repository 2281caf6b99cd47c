"""`mmrec serve` as a process: what it refuses, and what it leaves alone."""

import json
import shutil

import pytest

from serving import command, serving


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--keys /nowhere", "cannot be read"),
        ("--database nonsense", "sqlite:///FILE"),
        ("--database postgresql://127.0.0.1:xx/x", "sqlite:///FILE"),
        ("--database postgresql://me:hidden@pass@127.0.0.1/x", "write @ as %40"),
        ("--database POSTGRESQL://me:5432:hidden@pass:xx/x", "write @ as %40"),
        ("", "the store {folder} cannot be used"),
    ],
)
def test_what_cannot_work_is_reported_before_the_server_starts(model, tmp_path, flags, message):
    folder = model
    if not flags:
        folder = shutil.copytree(model, tmp_path / "model")
        manifest = json.loads((folder / "model.json").read_text())
        manifest["builder"]["config"]["store"] = str(tmp_path)
        (folder / "model.json").write_text(json.dumps(manifest))
    run = command("serve", folder, *flags.split(), cwd=tmp_path)
    assert run.returncode == 2
    assert message.format(folder=tmp_path) in " ".join(run.stderr.split())
    assert not any(secret in run.stderr for secret in ("hidden", "pass@"))


def test_a_read_only_model_is_served_and_not_changed(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("live.sqlite*"))
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    folder.chmod(0o555)
    files = sorted(folder.iterdir())
    with serving(folder, "--database", f"sqlite:///{tmp_path / 'live.sqlite'}") as service:
        review = {"user": "ada", "item": "new", "rating": 5, "text": "Good soup."}
        service.post("/v1/reviews", review, 201)
        # No progress bars stand in the log.
        assert [line for line in service.log.read_text().splitlines()[1:] if line[0] != "{"] == []
    assert sorted(folder.iterdir()) == files
