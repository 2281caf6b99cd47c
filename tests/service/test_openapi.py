"""The service keeps to its OpenAPI document, whatever the request."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import WAIT, Served, serving

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

KEY = "open-sesame"
SCHEMATHESIS = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "keys").write_text(KEY)
    flags = ["--keys", str(folder / "keys"), "--database", f"sqlite:///{folder / 'live.sqlite'}"]
    with serving(model, *flags, "--per-minute", "1000000") as running:
        yield running


def test_every_response_is_as_described(served: Served, tmp_path: Path) -> None:
    config = Path(__file__).with_name("schemathesis.toml")
    flags = ["--max-examples", "10", "--seed", "1", "--generation-deterministic"]
    flags += ["--header", f"Authorization: Bearer {KEY}", "--no-color"]
    url = f"{served.client.base_url}/openapi.json"
    command = [*SCHEMATHESIS, "--config-file", str(config), "run", url, *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Tested: 13" in run.stdout


def test_every_route_describes_its_error_responses(served: Served) -> None:
    paths = served.get("/openapi.json")["paths"]
    assert len(paths) == 13
    for path, methods in paths.items():
        for method, operation in methods.items():
            statuses = set(operation["responses"])
            assert "413" in statuses, path
            assert method == "get" or "400" in statuses, path
            if path.startswith("/v1/"):
                assert {"401", "422", "429", "503"} <= statuses, path
                assert operation["security"], path
    assert "503" in paths["/ready"]["get"]["responses"]
