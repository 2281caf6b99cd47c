"""Keys, limits and headers; metrics and logs that name no user."""

import json
import logging
import re

import pytest

from mmrec.errors import ConfigError
from serving import service_in_process, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
from mmrec.service.app import read_keys


def test_the_api_wants_one_of_the_keys(model, tmp_path, caplog):
    (tmp_path / "keys").write_text("# ours\nsecret-1\n\nsecret-2\n")
    caplog.set_level(logging.INFO)
    with service_in_process(model, keys=tmp_path / "keys") as service:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret-1"}):
            response = service.client.get("/v1/users/u", headers=headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
        for key in ("secret-1", "secret-2"):
            headers = {"Authorization": f"Bearer {key}"}
            assert service.client.get("/v1/users/u", headers=headers).status_code == 200
        assert service.client.get("/").status_code == 404  # pages cannot send a key
        paths = service.get("/openapi.json")["paths"]
        assert paths["/v1/reviews"]["post"]["security"]
        assert "security" not in paths["/ready"]["get"]
    assert "401" in caplog.text
    assert "secret" not in caplog.text


def test_guesses_of_keys_are_few_right_or_wrong(model, tmp_path):
    (tmp_path / "keys").write_text("open-sesame")
    with service_in_process(model, keys=tmp_path / "keys", per_minute=20) as service:
        guesses = [f"Bearer {number}" for number in range(30)] + ["Bearer open-sesame"]
        answers = [service.client.get("/v1/users/u", headers={"Authorization": guess}) for guess in guesses]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:20] == [401] * 20
        assert statuses[21:] == [429] * 10
        assert answers[-1].headers["Retry-After"]


def test_right_keys_of_one_address_have_their_own_limits(model, tmp_path):
    (tmp_path / "keys").write_text("\n".join(f"key-{number}" for number in range(5)))
    with service_in_process(model, keys=tmp_path / "keys", per_minute=20) as service:
        keys = [{"Authorization": f"Bearer key-{number % 5}"} for number in range(80)]
        assert {service.client.get("/v1/users/u", headers=sent).status_code for sent in keys} == {200}


def test_metrics_and_the_document_can_be_closed(model, item):
    with service_in_process(model, metrics=False, openapi=False) as service:
        for path, status in (
            ("/metrics", 404),
            ("/openapi.json", 404),
            (f"/v1/items/{item}", 200),
            ("/", 200),
        ):
            assert service.client.get(path).status_code == status


def test_a_key_file_may_begin_with_a_mark_and_names_lines_that_are_no_keys(tmp_path):
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbffirst\r\n# second\r\n third \r\n")
    assert read_keys(tmp_path / "keys") == ["first", "third"]
    for key in ("schlüssel", "two words", "tab\tbed", "bell\a"):
        (tmp_path / "keys").write_text(f"first\n{key}\n", "utf-8")
        with pytest.raises(ConfigError, match="line 2 has") as refused:
            read_keys(tmp_path / "keys")
        assert key not in str(refused.value)
    (tmp_path / "keys").write_text("first", "utf-16")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_keys(tmp_path / "keys")


def test_every_client_has_a_rate_limit_of_its_own(model, tmp_path):
    (tmp_path / "keys").write_text("first\nsecond")
    with service_in_process(model, keys=tmp_path / "keys", per_minute=30) as service:
        # More spaces before a key do not make another client.
        keys = [f"Bearer{' ' * (1 + number % 4)}first" for number in range(40)]
        headers = [{"Authorization": key} for key in keys]
        statuses = [service.client.get("/v1/users/u", headers=sent).status_code for sent in headers]
        second = {"Authorization": "Bearer second"}
        assert statuses[0] == 200
        assert statuses[-1] == 429
        assert service.client.get("/v1/users/u", headers=second).status_code == 200
        assert service.client.get("/health").status_code == 200  # monitoring has no limit


def test_a_body_has_a_size_limit_with_and_without_a_declared_length(service):
    chunks = (b" " * 10_000 for _ in range(10))
    for content in (b" " * 70_000, chunks):
        assert service.client.post("/v1/reviews", content=content).status_code == 413


def test_head_is_answered_as_get_without_a_body(model, item):
    with serving(model) as service:
        for path in (
            "/",
            "/health",
            "/ready",
            f"/photos/{item}",
            "/v1/users/u",
            "/static/page.js",
            "/nothing",
        ):
            full, head = service.client.get(path), service.client.head(path)
            assert head.status_code == full.status_code, path
            assert head.headers["content-type"] == full.headers["content-type"]
            assert (head.content, bool(full.content)) == (b"", True)
        log = [json.loads(line) for line in service.log.read_text().splitlines() if line.endswith("}")]
        assert {"/photos/{item:id}"} <= {line["route"] for line in log if line["method"] == "HEAD"}


def test_metrics_and_logs_name_routes_and_no_user(model, fitted, caplog):
    caplog.set_level(logging.INFO, "mmrec.service")
    item = fitted.state.dataset.data.items[0]
    paths = ["/", f"/places/{item}", f"/photos/{item}", "/static/page.js", "/openapi.json", "/very-private"]
    paths += ["/v1/users/very-private/recommendations?n=1", "/static/very-private", "/places/very-private"]
    with service_in_process(model) as service:
        for path in paths:
            service.client.get(path)
        for path in ("/static/very-private", "/places/very-private", "/v1/very-private", "/health/"):
            service.client.request("VERY-PRIVATE", path)
        figures = service.client.get("/metrics").text
    routes = {"/v1/users/{user:id}/recommendations", "/", "/places/{item:id}", "/photos/{item:id}"}
    routes |= {"/static", "/openapi.json", "none"}
    assert routes <= set(re.findall('handler="([^"]*)"', figures))
    assert 'method="other"' in figures
    assert 'status="404"' in figures
    lines = [json.loads(record.message) for record in caplog.records if record.message.startswith("{")]
    lines = [line for line in lines if line["route"] != "/ready"]  # until the model was loaded
    assert len(lines) == len(paths) + 5
    assert set(lines[-1]) == {"method", "route", "status", "request_id", "ms"}
    service_log = "".join(record.getMessage() for record in caplog.records if record.name == "mmrec.service")
    assert "very-private" not in (figures + service_log).lower()
