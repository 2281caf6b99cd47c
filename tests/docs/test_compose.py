"""compose.yaml and Dockerfile as they are read: limits, no more rights than needed, and flags that exist."""

import re
from pathlib import Path

import pytest
import yaml

from mmrec.config import ServeConfig

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_has_limits_and_no_more_rights_than_it_needs(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"mem_limit", "cpus", "pids_limit", "restart"} <= set(service)
    assert "privileged" not in service
    # TLS is the proxy's, so nobody else reaches a port.
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_service_is_started_with_flags_that_exist():
    flags = [word for word in SERVICES["service"]["command"] if word.startswith("--")]
    names = {flag[2:].partition("=")[0].replace("-", "_") for flag in flags}
    assert "keys" in names
    assert names <= set(ServeConfig.model_fields)
    assert SERVICES["service"]["volumes"] == ["./model:/model:ro"]


def test_base_images_can_be_pinned_and_the_image_needs_no_certain_user():
    text = (ROOT / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - stages
    assert bases == {"${PYTHON_IMAGE}"}
    assert re.search(r"^USER [0-9]+$", text, re.MULTILINE)
    assert "MMREC_CACHE=/tmp/" in text
    assert SERVICES["database"]["image"].startswith("${POSTGRES_IMAGE:-")
