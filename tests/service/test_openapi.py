"""The service keeps to its OpenAPI document, whatever the request."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving import WAIT, serving

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

KEY = "open-sesame"


def test_every_response_is_as_described(model, tmp_path):
    (tmp_path / "keys").write_text(KEY)
    config = Path(__file__).with_name("schemathesis.toml")
    flags = ["--max-examples", "10", "--seed", "1", "--generation-deterministic"]
    flags += ["--header", f"Authorization: Bearer {KEY}", "--no-color"]
    with serving(model, "--keys", str(tmp_path / "keys"), "--per-minute", "1000000") as served:
        url = f"{served.client.base_url}/openapi.json"
        program = "from schemathesis.cli import schemathesis; schemathesis()"
        command = [sys.executable, "-c", program, "--config-file", str(config), "run", url, *flags]
        run = subprocess.run(command, capture_output=True, text=True, timeout=5 * WAIT, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Tested: 19" in run.stdout
