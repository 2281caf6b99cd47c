"""The model card, and a recommender on a simulated hub."""

import base64
import json
import re
from dataclasses import replace
from math import inf

import httpx2
import pytest
import yaml
from huggingface_hub import ModelCard, constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from mmrec.config import EncoderConfig, LanguageConfig, OperatingConfig, TrainingConfig
from mmrec.errors import ConfigError, DataError, ModelError
from mmrec.evaluation.metrics import ThresholdRates
from mmrec.recommender.hub import model_card
from mmrec.recommender.persistence import load_recommender, save_recommender
from mmrec.recommender.recommender import Recommender

NAME = "ann/town"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = "a`b`\n---\nlicense: mit\n# <script>alert(1)</script> [x](http://e.vil) | *b* &lt; $y$ {{ 7 * 7 }}"
TITLES = ["What it is", "How to use it", "Trained on", "Figures on test reviews", "Operating point", "Limits"]


@pytest.fixture(scope="module")
def saved(model):
    return load_recommender(model)


def changed(saved, **settings):
    """With other settings."""
    builder = saved.model.builder
    config = builder.config.model_copy(update=settings)
    model = replace(saved.model, builder=builder.model_copy(update={"config": config}))
    return replace(saved, model=model)


def front_matter(text):
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_a_saved_model_has_a_card_whose_figures_are_its_metrics(fitted, model, saved):
    path, metrics = model / "README.md", fitted.evaluation.metrics["mmrec"]
    text, card = path.read_text(), ModelCard.load(path)
    data = front_matter(text)
    assert text == str(model_card(fitted.saved)) == str(model_card(saved))
    assert data["library_name"] == card.data.library_name == "mmrec"
    assert data["tags"] == ["recommender-system", "dlrm", "reviews"]
    assert "license" not in data
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"]["name"] == "reviews.jsonl"
    figures = {metric["type"]: metric["value"] for metric in result["metrics"]}
    expected = {"roc_auc": "auc", "fpr_at_tpr_90": "fpr_at_90", "average_precision": "ap_negative"}
    assert figures == pytest.approx({kind: metrics[key] for kind, key in expected.items()}, abs=5e-5)
    assert len(card.data.eval_results or ()) == 3
    cells = [f"{metrics[key]:.4f}" for key in expected.values()]
    assert f"| **mmrec** | {' | '.join(cells)} |\n" in text
    assert f"{len(fitted.reviews):,} reviews by {len(fitted.state.online.codes['user'])} users" in text
    assert "no language model" in text
    assert "Flag" not in text
    assert str(fitted.reviews.source) not in text
    assert str(model) not in text


def test_the_readme_of_a_project_is_not_replaced(fitted, tmp_path):
    (tmp_path / "README.md").write_text("# My project")
    fitted.save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project"
    (tmp_path / "README.md").write_text("---\nlibrary_name: mmrec\n---\nold")
    fitted.save(tmp_path)
    assert (tmp_path / "README.md").read_text() == str(model_card(fitted.saved))


def test_the_operating_point_is_saved_and_in_the_card(fitted, saved):
    fit, rates = fitted.evaluation, fitted.evaluation.test_rates
    assert 0 < fit.threshold < 1
    assert saved.evaluation == fit
    text = str(model_card(saved))
    assert f"a probability of {fit.threshold:.4f} on, chosen on valid to recommend at most 20% of" in text
    assert f"{rates.tpr:.1%} of the likes and {rates.fpr:.1%} of the dislikes" in text
    assert "at least 70% of the likes" in str(
        model_card(changed(saved, operating=OperatingConfig(min_tpr=0.7)))
    )


def test_a_threshold_that_recommends_nothing_survives_json(saved, tmp_path):
    rates = ThresholdRates(0.0, 0.0, 0.0, float("nan"))
    evaluation = replace(saved.evaluation, threshold=inf, test_rates=rates)
    again = load_recommender(save_recommender(replace(saved, evaluation=evaluation), tmp_path))

    def refuse(name):
        raise AssertionError(name)

    json.loads((tmp_path / "model.json").read_text(), parse_constant=refuse)
    assert again.evaluation.threshold == inf
    assert str(again.evaluation.test_rates.precision) == "nan"
    assert "so nothing is to be recommended" in str(model_card(again))


def test_untrusted_text_is_inert(saved):
    hostile = changed(
        saved,
        encoder=EncoderConfig(encoder_model=HOSTILE),
        language=LanguageConfig(llm=f"openai:{HOSTILE}"),
        annotation=saved.config.annotation.model_copy(update={"item_kind": HOSTILE}),
    )
    metrics = saved.evaluation.metrics["mmrec"]
    reviews = replace(saved.reviews, source="/home/ann/" + HOSTILE.replace("/", "_"))
    evaluation = replace(saved.evaluation, metrics={HOSTILE: metrics, "mmrec": metrics})
    text = str(model_card(replace(hostile, reviews=reviews, evaluation=evaluation)))
    assert front_matter(text).keys() == front_matter(str(model_card(saved))).keys()
    (result,) = front_matter(text)["model-index"][0]["results"]
    assert result["dataset"]["name"].startswith("a`b`\\n---\\nlicense: mit")
    body = text.split("\n---\n", 1)[1]
    titles = ["# A recommender made of reviews", *(f"## {title}" for title in TITLES), "## Made with"]
    assert re.findall("^#+ .*", body, re.MULTILINE) == titles
    lines = [line for line in body.splitlines() if "alert" in line]
    assert len(lines) == 5
    for line in lines:
        plain = re.sub(r"\\[!-/:-@\[-`{-~]|&(lt|gt|amp);", "", line.replace("https://arxiv.org", ""))
        assert not re.search(r"[<>`$]|://|\[x|\*b", plain)
    assert r"\{\{ 7 \* 7 \}\}" in text
    assert "home" not in text
    (row,) = [line for line in lines if line.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5


def test_addresses_and_folders_of_models_stay_private(saved):
    server = LanguageConfig(llm="openai:Qwen/Qwen3-8B@http://10.1.2.3:8000/v1")
    private = changed(saved, language=server, encoder=EncoderConfig(encoder_model="/home/ann/mini"))
    text = str(model_card(private))
    assert "language model openai\\:Qwen/Qwen3-8B, which" in text
    assert "the encoder mini." in text
    assert not re.search(r"10\\\.|home|no language model", text)


def test_warnings_of_the_settings_are_in_the_card(saved):
    evidence = saved.config.evidence.model_copy(update={"policy": "leave_one_out"})
    text = str(model_card(changed(saved, training=TrainingConfig(select="test"), evidence=evidence)))
    assert "- Flag: the epochs were chosen on test rows" in text
    assert "- Flag: evidence policy `leave_one_out` leaks" in text
    assert "all known reviews but its own" in text
    past = evidence.model_copy(update={"policy": "past", "summaries": "all"})
    summary = saved.config.annotation.model_copy(update={"strategy": "summary"})
    warnings = changed(saved, evidence=past, annotation=summary).config.warnings()
    assert [re.search("`past`|summaries", warning)[0] for warning in warnings] == ["`past`", "summaries"]


class Hub:
    """Answers the client of the hub when files are uploaded to one repository, and gives them back."""

    def __init__(self):
        self.private, self.files = True, {}

    def __call__(self, request):
        path = request.url.path
        answer = None
        if path == "/api/repos/create":
            answer = {"url": f"https://huggingface.co/{NAME}"}
        elif path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(request.content)["files"]]
            answer = {
                "files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            }
        elif "/commit/" in path:
            for line in map(json.loads, request.content.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"https://huggingface.co/{NAME}/commit/{COMMIT}"
            answer = {"success": True, "commitOid": COMMIT, "commitUrl": url}
        elif "/tree/" in path:
            answer = []
            for name, content in self.files.items():
                answer.append({"type": "file", "path": name, "size": len(content), "oid": f"{COMMIT}{name}"})
        elif path.startswith("/api/models/"):
            answer = {"id": NAME, "sha": COMMIT, "private": self.private, "siblings": []}
        if answer is not None:
            return httpx2.Response(200, json=answer)
        name = path.rpartition("/")[2]
        if name not in self.files:
            return httpx2.Response(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = self.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"', "Content-Length": str(len(content))}
        return httpx2.Response(200, headers=headers, content=None if request.method == "HEAD" else content)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    simulated = Hub()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    transport = httpx2.MockTransport(simulated)
    set_client_factory(lambda: httpx2.Client(transport=transport, follow_redirects=True))
    yield simulated
    set_client_factory(default_client_factory)


def test_a_pushed_model_comes_back_without_paths_and_pickles(fitted, hub, tmp_path):
    url = fitted.push_to_hub(NAME, private=True, token="hf_none")
    assert url.endswith(COMMIT)
    assert hub.files["README.md"].decode() == str(model_card(fitted.saved))
    assert b"city" not in hub.files["model.json"]
    hub.files["evil.pkl"] = b"a pickle"
    again = Recommender.from_pretrained(NAME)
    user = fitted.state.online.ids["user"][0]
    assert again.recommend(user, 5).equals(fitted.recommend(user, 5))
    assert again.evaluation.threshold == fitted.evaluation.threshold
    assert again.config.store is None
    assert not sum(map(len, again.reviews.table["photos"]))
    assert not sum(map(len, again.reviews.items["photos"]))
    assert not list((tmp_path / "cache").rglob("evil.pkl"))
    assert str(model_card(again.saved)) == str(model_card(fitted.saved))
    again.add_review(user, "new", 4.0, "Good soup.", "live")
    with pytest.raises(DataError, match="fit again"):
        again.push_to_hub(NAME, private=True)


def test_reviews_are_published_only_on_purpose(fitted, hub):
    with pytest.raises(ConfigError, match=r"would be public.*public_reviews=True"):
        fitted.push_to_hub(NAME)
    hub.private = False
    with pytest.raises(ConfigError, match="public already"):
        fitted.push_to_hub(NAME, private=True)
    assert not hub.files
    assert fitted.push_to_hub(NAME, public_reviews=True)
    assert "reviews.parquet" in hub.files


def test_an_unreachable_hub_and_an_unknown_model_are_model_errors(fitted, unused_port, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=f"cannot push to {NAME}: .*; check the token and the network"):
        fitted.push_to_hub(NAME, private=True, token="hf_none")
    for name in (NAME, "no such model"):
        with pytest.raises(ModelError, match=f"cannot load the model {name}"):
            Recommender.from_pretrained(name, local_files_only=True)


def test_a_folder_is_loaded_as_it_was_saved(fitted, model):
    again = Recommender.from_pretrained(model)
    assert again.evaluation.metrics == fitted.evaluation.metrics
    assert again.saved.notes == fitted.saved.notes
    assert again.saved.notes
    assert again.config.store == fitted.config.store
