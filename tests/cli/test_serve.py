"""`mmrec serve` as a process: what it refuses, and what it leaves alone."""

import pytest

from model_files import change_manifest, copy_model
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
        folder, flags = copy_model(model, tmp_path / "model"), "--trust"
        store = {"store": str(tmp_path)}
        change_manifest(folder, lambda values: values["builder"]["config"].update(store))
    run = command("serve", folder, *flags.split(), cwd=tmp_path)
    assert run.returncode == 2
    assert message.format(folder=tmp_path) in " ".join(run.stderr.split())
    assert not any(secret in run.stderr for secret in ("hidden", "pass@"))


def test_a_read_only_model_is_served_and_not_changed(model, tmp_path):
    folder = copy_model(model, tmp_path / "model")
    assert len({path.stat().st_mode for path in folder.rglob("*.*") if path.is_file()}) == 1
    folder.chmod(0o555)
    files = sorted(folder.iterdir())
    with serving(folder, "--database", f"sqlite:///{tmp_path / 'live.sqlite'}") as service:
        review = {"user": "ada", "item": "new", "rating": 5, "text": "Good soup."}
        service.post("/v1/reviews", review, 201)
        # No progress bars stand in the log.
        assert [line for line in service.log.read_text().splitlines()[1:] if line[0] != "{"] == []
    assert sorted(folder.iterdir()) == files
