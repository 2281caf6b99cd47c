"""The service behind nginx, as deploy/nginx.conf and docs/behind-a-proxy.md have it."""

import html
import re
import shutil
import subprocess
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import httpx2 as httpx
import pytest

from serving import WAIT, free_port, serving

CONFIG = Path(__file__).parents[2] / "deploy" / "nginx.conf"


@contextmanager
def nginx(folder, service, **changes):
    """nginx with deploy/nginx.conf in front of a service, and a client that comes by TLS."""
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("Debian's packages nginx-light and openssl are not installed")
    names = ["-subj", "/CN=mmrec.example", "-keyout", folder / "mmrec.key", "-out", folder / "mmrec.crt"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *map(str, names)]
    subprocess.run(command, check=True, capture_output=True)
    port, text = free_port(), CONFIG.read_text()
    url = str(service.client.base_url).rstrip("/")
    changes |= {
        "http://127.0.0.1:8000": url,
        "/etc/nginx/": f"{folder}/",
        "listen 443": f"listen 127.0.0.1:{port}",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(f"daemon off; pid {folder}/pid; error_log {folder}/log;\n{text}")
    process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])
    options = {"verify": False, "headers": {"Host": "mmrec.example"}, "timeout": 30}
    try:
        with closing(httpx.Client(base_url=f"https://127.0.0.1:{port}", **options)) as client:
            deadline = time.monotonic() + WAIT
            while True:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                with suppress(httpx.TransportError):
                    client.get("/health")
                    break
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def test_pages_reviews_and_limits_work_behind_nginx(model, tmp_path, item):
    flags = ["--allowed-hosts", "mmrec.example", "--database", f"sqlite:///{tmp_path / 'live.sqlite'}"]
    with serving(model, *flags) as service, nginx(tmp_path, service) as client:
        assert client.get("/").status_code == 200
        assert client.get("/metrics").status_code == 403
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400
        own = {"Origin": "https://mmrec.example", "Sec-Fetch-Site": "same-origin"}
        review = {"user": "ann", "rating": "5"}
        sent = client.post(f"/places/{item}", data=review, headers=own)
        assert sent.status_code == 303
        foreign = client.post(
            f"/places/{item}", data=review, headers=own | {"Origin": "https://evil.example"}
        )
        assert foreign.status_code == 403


def test_every_visitor_of_a_proxy_that_is_believed_has_a_limit_of_their_own(model, tmp_path):
    # The proxy has an address of its own, as one in a container has, and names a visitor.
    changes = {"proxy_http_version 1.1;": "proxy_http_version 1.1; proxy_bind 127.0.0.9;"}
    changes["X-Forwarded-For $remote_addr"] = "X-Forwarded-For $http_x_visitor"
    counts = []
    for flags in ([], ["--forwarded-allow-ips", "127.0.0.9"]):
        with (
            serving(model, "--per-minute", "10", "--allowed-hosts", "mmrec.example", *flags) as service,
            nginx(tmp_path, service, **changes) as client,
        ):
            visitors = [{"X-Visitor": f"203.0.113.{number}"} for number in range(30)]
            answers = [client.get("/v1/search?q=x&n=1", headers=visitor) for visitor in visitors]
            counts.append(sum(answer.status_code == 200 for answer in answers))
            redirected = client.get("/v1/search/", headers=visitors[0]).headers.get("location", "")
    assert counts[0] < 15
    assert counts[1] == 30
    assert redirected.startswith("https://mmrec.example/")


@pytest.mark.parametrize("passes_on", [True, False])
def test_pages_and_ids_work_below_a_path_whether_nginx_passes_it_on_or_not(model, tmp_path, passes_on):
    url, changes = "http://127.0.0.1:8000", {}
    changes["location / {"] = "location /shown/here/ {"
    if not passes_on:
        changes[f"proxy_pass {url}"] = f"proxy_pass {url}/"
    flags = ["--allowed-hosts", "mmrec.example", "--root-path", "/shown/here"]
    flags += ["--database", f"sqlite:///{tmp_path / 'live.sqlite'}"]
    own, long = {"Origin": "https://mmrec.example", "Sec-Fetch-Site": "same-origin"}, "\U0001f35c" * 512
    with serving(model, *flags) as service, nginx(tmp_path, service, **changes) as client:
        home = client.get("/shown/here/").text
        style = re.search('href="([^"]*style.css)"', home)[1]
        assert client.get(style).status_code == 200
        for name in ("..", "x/../y", "a//b", "50%41", long):
            place = f"/shown/here/places/?item={quote(name, safe='')}"
            for path in (place, None):
                if path is None:
                    page = client.get(f"{place}&user=ann").text
                    path = html.unescape(re.search('class="review" action="([^"]+)"', page)[1])
                sent = client.post(path, data={"user": long, "rating": "5"}, headers=own)
                assert sent.status_code == 303, sent.text
                assert sent.headers["location"].startswith("/shown/here/places/")
                assert "Thank you" in client.get(sent.headers["location"]).text
