"""The model card, and a recommender on a hub that is played."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from huggingface_hub import ModelCard, constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from mmrec.config import (
    Config,
    EncoderConfig,
    LanguageConfig,
    OperatingConfig,
    RankerConfig,
    ReadConfig,
    SplitConfig,
    TrainingConfig,
)
from mmrec.data import read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import ConfigError, ModelError
from mmrec.evaluation.metrics import Metrics
from mmrec.evaluation.thresholds import ThresholdRates
from mmrec.llm.types import Note
from mmrec.recommender.hub import model_card
from mmrec.recommender.persistence import SavedRecommender, load_recommender, save_recommender
from mmrec.recommender.recommender import Recommender

NAME = "ann/town"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = "a`b`\n---\nlicense: mit\n# <script>alert(1)</script> [x](http://e.vil) | *b* &lt; $y$ {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def fitted(minilm: None, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("city")
    path = write_sample_city(folder, seed=3, users=30, items=12, reviews=200)
    read = ReadConfig(items=folder / "places.jsonl")
    config = Config(
        store=folder / "store.sqlite",
        read=read,
        split=SplitConfig(valid_share=0.3),
        ranker=RankerConfig(features="proposed"),
        training=TrainingConfig(epochs=1),
    )
    return Recommender(config).fit(read_reviews(path, read))


@pytest.fixture(scope="module")
def saved(fitted: Recommender, tmp_path_factory: pytest.TempPathFactory) -> SavedRecommender:
    return load_recommender(fitted.save(tmp_path_factory.mktemp("saved") / "model"))


def changed(saved: SavedRecommender, **parts: object) -> SavedRecommender:
    """With other settings."""
    assembler = saved.model.builder
    config = assembler.config.model_copy(update=parts)
    model = replace(saved.model, builder=assembler.model_copy(update={"config": config}))
    return replace(saved, config=config, model=model)


def rendered(saved: SavedRecommender) -> str:
    return str(model_card(saved))


def front(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_a_saved_model_has_a_card_whose_figures_are_its_scores(fitted: Recommender, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "model") / "README.md"
    text, card, own = path.read_text(), ModelCard.load(path), fitted.evaluation.metrics["proposed"]
    data = front(text)
    assert data["library_name"] == card.data.library_name == "mmrec"
    assert data["tags"] == ["recommender-system", "dlrm", "reviews"]
    assert "license" not in data
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert result["dataset"]["name"] == "reviews.jsonl"
    figures = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert figures == pytest.approx(
        {"roc_auc": own["auc"], "fpr_at_tpr_90": own["fpr_at_90"], "average_precision": own["ap_negative"]},
        abs=5e-5,
    )
    assert len(card.data.eval_results or ()) == 3
    for name, row in fitted.evaluation.metrics.items():
        shown = f"**{name}**" if name == "proposed" else name
        cells = [f"{row[key]:.4f}" for key in ("auc", "fpr_at_90", "ap_negative")]
        assert f"| {shown} | {' | '.join(cells)} |\n" in text
    assert f"{len(fitted.reviews):,} reviews by {len(fitted.state.dataset.data.users)} users" in text
    assert "no language model" in text
    assert "Flag" not in text
    assert str(fitted.reviews.source) not in text
    assert str(path.parent) not in text


def test_the_readme_of_a_project_is_not_replaced(fitted: Recommender, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My project")
    fitted.save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project"
    (tmp_path / "README.md").write_text("---\nlibrary_name: mmrec\n---\nold")
    fitted.save(tmp_path)
    assert (tmp_path / "README.md").read_text() == str(fitted.generate_model_card())


def test_the_operating_point_is_kept_and_told(fitted: Recommender, saved: SavedRecommender) -> None:
    fit, rates = fitted.evaluation, fitted.evaluation.test_rates
    assert 0 < fit.threshold < 1
    assert saved.evaluation == fit
    text = rendered(saved)
    assert f"a probability of {fit.threshold:.4f} on, chosen on valid to recommend at most 20% of" in text
    assert f"{rates.tpr:.1%} of the likes and {rates.fpr:.1%} of the dislikes" in text
    liked = rendered(changed(saved, operating=OperatingConfig(min_tpr=0.7)))
    assert "at least 70% of the likes" in liked


def test_a_threshold_that_recommends_nothing_survives_json(saved: SavedRecommender, tmp_path: Path) -> None:
    rates = ThresholdRates(0.0, 0.0, 0.0, float("nan"))
    nothing = replace(saved.evaluation, threshold=inf, test_rates=rates)
    again = load_recommender(save_recommender(replace(saved, evaluation=nothing), tmp_path))

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads((tmp_path / "model.json").read_text(), parse_constant=refuse)
    assert again.evaluation.threshold == inf
    assert str(again.evaluation.test_rates.precision) == "nan"
    assert "so nothing is to be recommended" in rendered(again)


def test_what_users_name_means_nothing_but_itself(saved: SavedRecommender) -> None:
    bad = changed(
        saved,
        encoder=EncoderConfig(encoder_model=HOSTILE),
        language=LanguageConfig(llm=f"openai:{HOSTILE}"),
        annotation=saved.config.annotation.model_copy(update={"item_kind": HOSTILE}),
    )
    own: Metrics = saved.evaluation.metrics["proposed"]
    source = "/home/ann/" + HOSTILE.replace("/", "_")
    evaluation = replace(saved.evaluation, metrics={HOSTILE: own, "proposed": own})
    bad = replace(bad, reviews=replace(saved.reviews, source=source), evaluation=evaluation)
    text, clean = rendered(bad), rendered(saved)
    assert front(text).keys() == front(clean).keys()
    (result,) = front(text)["model-index"][0]["results"]
    assert result["dataset"]["name"].startswith("a`b`\\n---\\nlicense: mit")
    body, expected = text.split("\n---\n", 1)[1], clean.split("\n---\n", 1)[1]
    assert re.findall("^#+ .*", body, re.MULTILINE) == re.findall("^#+ .*", expected, re.MULTILINE)
    lines = [line for line in body.splitlines() if "alert" in line]
    assert len(lines) == 5
    for line in lines:
        plain = re.sub(r"\\[!-/:-@\[-`{-~]|&(lt|gt|amp);", "", line.replace("https://arxiv.org", ""))
        assert not re.search(r"[<>`$]|://|\[x|\*b", plain)
    assert r"\{\{ 7 \* 7 \}\}" in text
    assert "home" not in text
    (row,) = [line for line in lines if line.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5


def test_addresses_and_folders_of_models_stay_private(saved: SavedRecommender) -> None:
    server = LanguageConfig(llm="openai:Qwen/Qwen3-8B@http://10.1.2.3:8000/v1")
    text = rendered(changed(saved, language=server, encoder=EncoderConfig(encoder_model="/home/ann/mini")))
    assert "language model openai\\:Qwen/Qwen3-8B, which" in text
    assert "the encoder mini." in text
    assert "10" + r"\." not in text
    assert "home" not in text
    assert "no language model" not in text


def test_flags_of_the_configuration_are_told(saved: SavedRecommender) -> None:
    evidence = saved.config.evidence.model_copy(update={"policy": "leave_one_out"})
    text = rendered(changed(saved, training=TrainingConfig(select="test"), evidence=evidence))
    assert "- Flag: the epochs were chosen on test rows" in text
    assert "- Flag: evidence policy `leave_one_out` leaks" in text
    assert "all known reviews but its own" in text


class Hub:
    """Answers what `huggingface_hub` asks when something is put into one repository, and gives it back."""

    def __init__(self) -> None:
        self.private = True
        self.files: dict[str, bytes] = {}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path == "/api/repos/create":
            return httpx2.Response(200, json={"url": f"https://huggingface.co/{NAME}"})
        if path == "/api/validate-yaml":
            return httpx2.Response(200, json={"errors": [], "warnings": []})
        if "/preupload/" in path:
            asked = json.loads(request.content)["files"]
            each = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return httpx2.Response(200, json={"files": each})
        if "/commit/" in path:
            for line in map(json.loads, request.content.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"https://huggingface.co/{NAME}/commit/{COMMIT}"
            return httpx2.Response(200, json={"success": True, "commitOid": COMMIT, "commitUrl": url})
        if "/tree/" in path:
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": COMMIT[::-1] + str(at)}
                for at, (name, content) in enumerate(self.files.items())
            ]
            return httpx2.Response(200, json=files)
        if path.startswith("/api/models/"):
            return httpx2.Response(
                200, json={"id": NAME, "sha": COMMIT, "private": self.private, "siblings": []}
            )
        name = path.rpartition("/")[2]
        if name not in self.files:
            return httpx2.Response(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = self.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"', "Content-Length": str(len(content))}
        return httpx2.Response(200, headers=headers, content=None if request.method == "HEAD" else content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    played = Hub()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(played), follow_redirects=True))
    yield played
    set_client_factory(default_client_factory)


def test_what_is_pushed_comes_back_without_paths(fitted: Recommender, hub: Hub, tmp_path: Path) -> None:
    url = fitted.push_to_hub(NAME, private=True, token="hf_none")
    assert url.endswith(COMMIT)
    assert hub.files["README.md"].decode() == str(fitted.generate_model_card())
    assert b"city" not in hub.files["model.json"]
    hub.files["evil.pkl"] = b"a pickle"
    again = Recommender.from_pretrained(NAME)
    user = fitted.state.dataset.data.users[0]
    assert again.recommend(user, 5).equals(fitted.recommend(user, 5))
    assert again.evaluation.threshold == fitted.evaluation.threshold
    assert again.config.store is None
    assert not sum(map(len, again.reviews.table["photos"]))
    assert not list((tmp_path / "cache").rglob("evil.pkl"))
    assert str(again.generate_model_card()) == str(fitted.generate_model_card())


def test_reviews_are_published_only_on_purpose(fitted: Recommender, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public_reviews=True"):
        fitted.push_to_hub(NAME)
    hub.private = False
    with pytest.raises(ConfigError, match="public already"):
        fitted.push_to_hub(NAME, private=True)
    with pytest.raises(ConfigError, match="would be public"):
        fitted.save_pretrained(tmp_path / "model", repo_id=NAME, push_to_hub=True)
    assert not hub.files
    assert fitted.push_to_hub(NAME, public_reviews=True)
    assert "reviews.parquet" in hub.files


def test_a_hub_that_is_not_there_is_told(
    fitted: Recommender, unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=f"cannot push to {NAME}: .*; check the token and the network"):
        fitted.push_to_hub(NAME, private=True, token="hf_none")
    with pytest.raises(ModelError, match=f"cannot load the model {NAME}"):
        Recommender.from_pretrained(NAME, local_files_only=True)


def test_the_mixin_saves_what_loads(
    fitted: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert fitted.save_pretrained(tmp_path / "model") is None
    assert (tmp_path / "model/README.md").read_text() == str(fitted.generate_model_card())
    for again in (Recommender.load(tmp_path / "model"), Recommender.from_pretrained(tmp_path / "model")):
        assert again.evaluation.metrics == fitted.evaluation.metrics
        assert again.state.dataset.notes == fitted.state.dataset.notes
        assert isinstance(again.state.dataset.notes[0], Note)
    assert not caplog.records
    with pytest.raises(ModelError, match="cannot load the model"):
        Recommender.from_pretrained("no such model")
