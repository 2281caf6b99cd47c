"""A model's files: pinned, found in folders and in the hub's cache, downloaded from a test double."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from mmrec.encoder.weights import Placement, Weights, folder_digest
from mmrec.errors import ModelError
from mmrec.llm.transformers_model import TransformersModel
from mmrec.llm.types import Answer, Prompt, Task
from tiny_models import tiny_resnet_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "tiny/model"


@pytest.fixture
def hub(copy, tmp_path, monkeypatch):
    """A hub that has one model, for `huggingface_hub`; it notes requests and downloads."""
    hub = SimpleNamespace(folder=copy, requests=[], downloads=[])

    def respond(request):
        hub.requests.append(request)
        files, hashes, entries = {}, {}, []
        for path in filter(Path.is_file, copy.rglob("*")):
            name = path.relative_to(copy).as_posix()
            files[name] = path.read_bytes()
            hashes[name] = hashlib.sha1(files[name]).hexdigest()
            entries.append({"type": "file", "path": name, "size": len(files[name]), "oid": hashes[name]})
        if request.url.path.startswith(f"/api/models/{NAME}"):
            model = {"id": NAME, "sha": COMMIT, "siblings": []}
            return httpx2.Response(200, json=entries if "/tree/" in request.url.path else model)
        name = request.url.path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
        if name not in files:
            return httpx2.Response(404)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashes[name]}"'}
        if request.method == "HEAD":
            return httpx2.Response(200, headers={**headers, "Content-Length": str(len(files[name]))})
        hub.downloads.append(name)
        return httpx2.Response(200, headers=headers, content=files[name])

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    transport = httpx2.MockTransport(respond)
    set_client_factory(lambda: httpx2.Client(transport=transport, follow_redirects=True))
    yield hub
    set_client_factory(default_client_factory)


def test_a_downloaded_model_is_found_and_pinned(hub):
    (hub.folder / "onnx").mkdir()
    for unwanted in ("pytorch_model.bin", "consolidated.safetensors", "onnx/config.json", "README.md"):
        (hub.folder / unwanted).write_text("{}")
    assert Weights.find(NAME) is None
    weights = Weights.find_or_download(NAME)
    assert weights.revision == COMMIT
    files = "chat_template.jinja config.json generation_config.json model.safetensors tokenizer.json"
    assert sorted(hub.downloads) == [*files.split(), "tokenizer_config.json"]
    first = next(request for request in hub.requests if request.url.path.startswith("/api/models/"))
    assert first.extensions["timeout"]["read"] == 10
    hub.requests.clear()
    assert Weights.find(NAME) == Weights.find_or_download(NAME) == weights
    assert Weights.find(NAME, COMMIT) == weights
    assert Weights.find(NAME, "f" * 40) is None
    assert not hub.requests


def test_weights_of_a_language_model_are_downloaded_at_the_first_prompt(hub):
    task = Task("note", "Say what the review says.", None, 2)
    model = TransformersModel(NAME, None, 3000, Placement("cpu", "fp32"))
    assert model.provenance(task)["revision"] == COMMIT
    assert model.count_tokens(["a"]) == [1]
    assert model.window
    assert "model.safetensors" not in hub.downloads
    assert Weights.find(NAME) is None
    hub.requests.clear()
    assert TransformersModel(NAME, None, 3000).count_tokens(["a"]) == [1]
    assert not hub.requests, "a model on this machine needs no request"
    (_, answer), *_ = model.generate(iter([[(0, Prompt(task, ("a",)))]]))
    assert isinstance(answer, Answer)
    assert hub.downloads[-1] == "model.safetensors"
    assert Weights.find(NAME) is not None


def test_a_model_whose_weights_are_pickled_is_refused(hub):
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="never pickles"):
        Weights.find_or_download(NAME)
    assert "pytorch_model.bin" not in hub.downloads


def test_a_hub_that_does_not_answer_is_an_error_with_a_remedy(hub, monkeypatch):
    def time_out(request):
        raise httpx2.ReadTimeout("timed out", request=request)

    set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(time_out)))
    with pytest.raises(ModelError, match=f"cannot load the model {NAME}: timed out; .* `hf download {NAME}`"):
        Weights.find_or_download(NAME)


@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.jinja", "tokenizer.json"])
def test_every_file_pins_a_folder_but_neither_readmes_nor_its_path(chat_folder, copy, name):
    (copy / "README.md").write_text("a note")
    (copy / ".cache").mkdir()
    (copy / ".cache/download.json").write_text("{}")
    first = Weights.find_or_download(str(copy)).revision
    assert first == Weights.find_or_download(str(chat_folder)).revision
    path = copy / name
    path.write_bytes(path.read_bytes() + b" ")
    changed = Weights.find_or_download(str(copy)).revision
    path.rename(copy / f"new_{name}")
    assert len({first, changed, folder_digest(copy)}) == 3


@pytest.mark.parametrize(
    ("removed", "added", "has_weights", "has_tokenizer"),
    [
        ("", "", True, True),
        ("config.json", "", False, False),
        ("model.safetensors", "", False, True),
        ("tokenizer_config.json", "", True, False),
        ("", "model.safetensors.index.json", True, True),
        ("model.safetensors", "model-1-of-2.safetensors", False, True),
        ("model.safetensors", "model-1-of-2.safetensors model-2-of-2.safetensors", True, True),
    ],
)
def test_a_folder_needs_its_settings_its_weights_and_a_tokenizer(
    copy, removed, added, has_weights, has_tokenizer
):
    if removed:
        (copy / removed).unlink()
    if "-1-of-2" in added:
        index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in added.split():
        (copy / name).write_text("{")
    assert (Weights.find(str(copy)) is not None) == has_weights
    assert (Weights.find(str(copy), tensors=False) is not None) == has_tokenizer


def test_loading_restores_the_verbosity_of_transformers(tmp_path):
    from transformers.utils import logging

    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        Weights.find_or_download(str(tiny_resnet_folder(tmp_path / "resnet"))).load_part("AutoConfig")
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()
