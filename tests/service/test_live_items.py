"""Items that are added to a running service, and models that annotate what is added."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from chat_server import serve
from mmrec.errors import ModelError
from mmrec.llm.parsing import check_supported
from mmrec.recommender.recommender import Recommender
from model_files import change_manifest, copy_model
from serving import service_in_process, serving

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
from mmrec.service.live_store import LiveStore
from mmrec.service.recommendations import RecommendationService

DESCRIPTION = "Sichuan hotpot with numbing pepper broth. Cheap lunch menu."


def jpeg():
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (900, 600), "red").save(out, "JPEG", exif=exif)
    return out.getvalue()


def test_a_new_item_is_known_at_once_and_after_a_restart(model, tmp_path):
    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    with service_in_process(model, database=database) as service:
        form = {"item": "hotpot", "name": "The Hot Pot", "description": DESCRIPTION}
        photo = {"photo": ("a.jpg", jpeg(), "image/jpeg")}
        added = service.client.post("/v1/items", data=form, files=photo)
        assert added.json() == {"item": "hotpot", "shows": None}  # the builtin captioner names colours
        request = {"likes": "sichuan hotpot with numbing broth", "n": 3, "why": True}
        first = service.post("/v1/recommendations", request)[0]
        assert (first["item"], first["name"]) == ("hotpot", "The Hot Pot")
        assert service.client.post("/v1/items", data=form, files=photo).status_code == 201
        assert service.client.post("/v1/items", data=form | {"name": "Again"}).status_code == 409
        with Image.open(io.BytesIO(service.client.get("/photos/hotpot").content)) as image:
            assert max(image.size) == 640
            assert not image.getexif()
        page = service.client.get("/places/hotpot").text
        assert "<figcaption>" not in page
        assert 'alt="photo of The Hot Pot"' in page
        with mock.patch.object(service.client.app.state.service, "_shows_captions", True):
            assert "red.</figcaption>" in service.client.get("/places/hotpot").text
        service.post("/v1/reviews", {"user": "ann", "item": "hotpot", "rating": 5, "text": "Hot!"}, 201)
    with service_in_process(model, database=database) as service:
        assert service.get("/v1/items/hotpot")["name"] == "The Hot Pot"
        assert service.get("/v1/users/ann")["reviewed"] == ["hotpot"]


@pytest.mark.parametrize(
    ("item", "description", "photo", "status"),
    [
        ("new", None, None, 400),
        ("new", " ", None, 400),
        ("new", None, b"GIF89a, or so it says", 400),
        ("new", None, jpeg()[:500], 400),
        ("", DESCRIPTION, None, 422),
        (None, DESCRIPTION, None, 422),
        ("new", "x" * 10_001, None, 422),
    ],
)
def test_an_item_without_usable_content_is_refused(service, item, description, photo, status):
    files = {"photo": ("a.jpg", photo, "image/jpeg")} if photo else None
    form = {"item": item, "description": description}
    response = service.client.post("/v1/items", data=form, files=files)
    assert response.status_code == status, response.text
    assert service.client.get("/v1/items/new").status_code == 404


def test_an_item_of_the_model_cannot_be_overwritten(service, item):
    before = service.get(f"/v1/items/{item}")
    form = {"item": item, "name": "HACKED", "description": DESCRIPTION}
    assert service.client.post("/v1/items", data=form).status_code == 409
    assert service.get(f"/v1/items/{item}") == before


def test_a_photo_has_a_size_limit_of_its_own(model):
    with service_in_process(model, max_photo=200_000) as service:
        for size, status in ((100_000, 400), (300_000, 413)):  # the first is read, and is no photo
            files = {"photo": ("a.jpg", b"x" * size, "image/jpeg")}
            assert service.client.post("/v1/items", data={"item": "new"}, files=files).status_code == status


def test_many_pixels_at_once_take_little_memory_and_give_it_back(model, tmp_path):
    out = io.BytesIO()
    Image.new("RGBA", (4900, 4900), (200, 30, 60, 200)).save(out, "PNG")
    flags = ["--database", f"sqlite:///{tmp_path / 'live.sqlite'}", "--per-minute", "100000"]
    with serving(model, *flags) as service, ThreadPoolExecutor(16) as pool:

        def memory(name):
            text = Path(f"/proc/{service.process.pid}/status").read_text()
            return int(text.partition(f"{name}:")[2].split()[0]) / 1024  # MiB

        def add(number):
            photo = {"photo": ("a.png", out.getvalue(), "image/png")}
            options = {"data": {"item": f"new-{number}"}, "files": photo, "timeout": 300}
            return service.client.post("/v1/items", **options).status_code

        assert add(0) == 201
        before = memory("VmRSS")
        assert {*pool.map(add, range(1, 25))} == {201}
        assert memory("VmRSS") < before + 150
        assert memory("VmHWM") < before + 500
        Image.new("RGB", (5001, 5001)).save(out := io.BytesIO(), "PNG")
        assert add(25) == 400


def test_a_review_that_fails_for_a_moment_is_added_later(model, tmp_path):
    store = LiveStore(f"sqlite:///{tmp_path / 'live.sqlite'}")
    recommender = Recommender.load(model)
    service = RecommendationService(recommender, store)
    with mock.patch.object(recommender, "read_changes", side_effect=ModelError):
        service.add_review("ann", "x", 5.0, "Good soup.", "one")  # it is stored
        assert service.reviewed_items("ann") == []
    deadline = time.monotonic() + 10
    while service.reviewed_items("ann") != ["x"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    service.close()


def test_a_language_model_writes_sentences_and_annotates_live_reviews(model, fitted, tmp_path):
    pytest.importorskip("openai")
    copy = copy_model(model, tmp_path / "model")
    with serve() as server:
        llm = {"llm": f"openai:test-model@{server.url}"}
        change_manifest(copy, lambda values: values["builder"]["config"]["language"].update(llm))
        database = f"sqlite:///{tmp_path / 'live.sqlite'}"
        path = f"/v1/users/{fitted.state.dataset.data.users[1]}/recommendations"
        with service_in_process(copy, database=database, sentences=True, trust=True) as service:
            reasons = [row["why"] for row in service.get(path, params={"n": 3, "why": True})]
            assert any(why["sentence"] for why in reasons)
            for why in reasons:
                check_supported(why["sentence"], [quote["text"] for quote in why["quotes"]])
            calls = server.status[200]
            review = {"user": "ann", "item": "x", "rating": 5, "text": "Great tacos."}
            service.post("/v1/reviews", review, 201)
            assert server.status[200] == calls + 1
        with service_in_process(copy, database=database, trust=True) as service:
            rows = service.get(path, params={"n": 3, "why": True})
            assert [row["why"]["sentence"] for row in rows] == ["", "", ""]
        assert server.status[200] == calls + 1
