"""The service keeps to its own OpenAPI document, whatever is asked of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import WAIT, Served, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
pytest.importorskip("schemathesis", reason="schemathesis is not installed")

KEY = "open-sesame"
ASK = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "keys").write_text(KEY)
    flags = ["--keys", str(folder / "keys"), "--database", f"sqlite:///{folder / 'live.sqlite'}"]
    with serving(model, *flags, "--per-minute", "1000000") as running:
        yield running


def test_every_answer_is_as_described(served: Served, tmp_path: Path) -> None:
    config = Path(__file__).with_name("schemathesis.toml")
    how = ["--max-examples", "10", "--seed", "1", "--generation-deterministic"]
    how += ["--header", f"Authorization: Bearer {KEY}", "--no-color"]
    command = [*ASK, "--config-file", str(config), "run", f"{served.client.base_url}/openapi.json", *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 13" in done.stdout


def test_every_route_says_how_it_refuses(served: Served) -> None:
    paths = served.get("/openapi.json")["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            said = set(operation["responses"])
            assert "413" in said, path
            assert not path.startswith("/v1/") or {"401", "422", "429", "503"} <= said, path
            assert not path.startswith("/v1/") or operation["security"], path
            assert method == "get" or "400" in said, path
    assert "503" in paths["/ready"]["get"]["responses"]
