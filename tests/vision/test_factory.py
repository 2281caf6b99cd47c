"""Captioners by name, and the models that are found in the hub's local cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from mmrec.cache.store import Failure
from mmrec.config import LanguageConfig, VisionConfig
from mmrec.errors import ConfigError, ModelError
from mmrec.llm.cost import Budget
from mmrec.llm.types import Answer
from mmrec.vision.factory import open_captioner, vision_checks
from mmrec.vision.openai_captioner import OpenAICaptioner
from tiny_models import tiny_blip_folder, tiny_resnet_folder

pytest.importorskip("torch")

from mmrec.vision.resnet import ImageEncoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_in_cache(cache: Path, name: str, folder: Path) -> Path:
    """A model as the hub's cache holds it."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, home / "snapshots" / COMMIT))


def test_models_in_the_hubs_cache_are_found_by_name_and_pinned_by_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    encoder = ImageEncoder(VisionConfig())
    assert not encoder.available()
    assert {state for state, _ in vision_checks().values()} == {"ok", "missing"}
    tiny_blip = tiny_blip_folder(tmp_path / "blip")
    put_in_cache(cache, "Salesforce/blip-image-captioning-base", tiny_blip)
    incomplete = put_in_cache(cache, "Salesforce/blip2-opt-2.7b", tiny_blip)
    (incomplete / "model.safetensors").unlink()
    put_in_cache(cache, "microsoft/resnet-50", tiny_resnet_folder(tmp_path / "resnet"))
    captioner = open_captioner(VisionConfig(captioner="blip"))
    assert captioner.provenance["revision"] == COMMIT
    ((_, answer),) = captioner.caption(iter([[(0, Image.new("RGB", (30, 20), "red"))]]))
    assert isinstance(answer, Answer | Failure)
    assert encoder.available()
    assert encoder.provenance["revision"] == COMMIT
    states = {subject: state for subject, (state, _) in vision_checks().items()}
    assert states == {
        "captions": "ok",
        "captions by blip2": "missing",
        "captions by blip": "ok",
        "image baseline": "ok",
    }
    pinned = VisionConfig(captioner="blip", captioner_revision="f" * 40)
    with pytest.raises(ModelError, match="hf download"):
        _ = open_captioner(pinned).provenance


def test_local_captioners_are_opened_by_name() -> None:
    assert open_captioner(VisionConfig()).provenance["model"] == "builtin"
    assert open_captioner(VisionConfig(captioner="blip2"))._model == "Salesforce/blip2-opt-2.7b"  # type: ignore[attr-defined]
    assert open_captioner(VisionConfig(captioner="blip:a/b:c"))._model == "a/b:c"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("openai:gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("openai:Qwen/Qwen3-VL@http://gpu:8000/v1", "server", "Qwen/Qwen3-VL"),
        ("ollama:llava:7b", "ollama", "llava:7b"),
    ],
)
def test_captioners_behind_http_are_opened_by_name(name: str, provider: str, model: str) -> None:
    config, language = VisionConfig(captioner=name), LanguageConfig(llm_price="1/2", in_flight=7)
    captioner = open_captioner(config, language, Budget(None))
    assert isinstance(captioner, OpenAICaptioner)
    assert captioner.chunk_size == 1
    assert {"kind": "caption", "provider": provider, "model": model}.items() <= captioner.provenance.items()
    assert "gpu:8000" not in str(captioner.provenance)
    with pytest.raises(ConfigError, match="no such captioner"):
        open_captioner(config)


@pytest.mark.parametrize("name", ["blip3", "openai:", "builtin:x", "", "openai"])
def test_other_names_are_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such captioner; there are builtin, blip2|name a model"):
        open_captioner(VisionConfig(captioner=name), LanguageConfig(), Budget(None))
