"""A model's files: pinned, found in folders and in the hub's cache, downloaded from a test double."""

import hashlib
import json
import shutil
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from mmrec.encoder.weights import Placement, Weights, folder_digest
from mmrec.errors import ModelError
from mmrec.llm.transformers_model import TransformersModel
from mmrec.llm.types import Answer, Prompt, Task
from tiny_models import tiny_chat_folder, tiny_resnet_folder

pytestmark = pytest.mark.usefixtures("one_thread")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "tiny/model"


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return tiny_chat_folder(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture
def copy(chat, tmp_path):
    """A folder that a test may change."""
    return Path(shutil.copytree(chat, tmp_path / "copy"))


class Hub:
    """Answers `huggingface_hub` like a hub that has one model, and notes requests and downloads."""

    def __init__(self, folder):
        self.folder, self.requests, self.downloads = folder, [], []

    def __call__(self, request):
        self.requests.append(request)
        if request.url.path.startswith(f"/api/models/{NAME}/tree/"):
            entries = []
            for path in filter(Path.is_file, self.folder.rglob("*")):
                content, name = path.read_bytes(), path.relative_to(self.folder).as_posix()
                oid = hashlib.sha1(content).hexdigest()
                entries.append({"type": "file", "path": name, "size": len(content), "oid": oid})
            return httpx2.Response(200, json=entries)
        if request.url.path.startswith(f"/api/models/{NAME}"):
            return httpx2.Response(200, json={"id": NAME, "sha": COMMIT, "siblings": []})
        path = self.folder / request.url.path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
        if not path.is_file():
            return httpx2.Response(404)
        content = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if request.method == "HEAD":
            return httpx2.Response(200, headers={**headers, "Content-Length": str(len(content))})
        self.downloads.append(path.relative_to(self.folder).as_posix())
        return httpx2.Response(200, headers=headers, content=content)


@pytest.fixture
def hub(copy, tmp_path, monkeypatch):
    hub_double = Hub(copy)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    transport = httpx2.MockTransport(hub_double)
    set_client_factory(lambda: httpx2.Client(transport=transport, follow_redirects=True))
    yield hub_double
    set_client_factory(default_client_factory)


def test_a_downloaded_model_is_found_and_pinned(hub):
    (hub.folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (hub.folder / "consolidated.safetensors").write_bytes(b"the same weights once more")
    (hub.folder / "onnx").mkdir()
    (hub.folder / "onnx/config.json").write_text("{}")
    (hub.folder / "README.md").write_text("a model")
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
def test_every_file_pins_a_folder(copy, name):
    first = Weights.find_or_download(str(copy)).revision
    path = copy / name
    path.write_bytes(path.read_bytes() + b" ")
    changed = Weights.find_or_download(str(copy)).revision
    path.rename(copy / f"new_{name}")
    assert len({first, changed, folder_digest(copy)}) == 3


def test_readmes_and_the_path_of_a_folder_do_not_change_its_revision(chat, copy):
    (copy / "README.md").write_text("a note")
    (copy / ".cache").mkdir()
    (copy / ".cache/download.json").write_text("{}")
    assert Weights.find_or_download(str(copy)).revision == Weights.find_or_download(str(chat)).revision


def shards(folder):
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "has_weights", "has_tokenizer"),
    [
        (lambda folder: None, True, True),
        (lambda folder: (folder / "config.json").unlink(), False, False),
        (lambda folder: (folder / "model.safetensors").unlink(), False, True),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), True, False),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), True, True),
        (shards, False, True),
        (lambda folder: (shards(folder), (folder / "model-2-of-2.safetensors").write_bytes(b"")), True, True),
    ],
)
def test_a_folder_needs_its_settings_its_weights_and_a_tokenizer(copy, damage, has_weights, has_tokenizer):
    damage(copy)
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
