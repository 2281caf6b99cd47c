"""The model card, and a recommender that is sent to the hub and comes back."""

import json
import re
import shutil
from dataclasses import replace
from math import inf
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download
from huggingface_hub.utils import filter_repo_objects

from mmrec.config import EncoderConfig, LanguageConfig, OperatingConfig, TrainingConfig
from mmrec.errors import ConfigError, DataError, ModelError
from mmrec.evaluation.metrics import ThresholdRates
from mmrec.recommender.hub import model_card
from mmrec.recommender.loading import load_recommender
from mmrec.recommender.persistence import save_recommender
from mmrec.recommender.recommender import Recommender

NAME = "ann/town"
URL = "https://huggingface.co/ann/town/commit/0123456"
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
    return yaml.safe_load(text.split("---\n")[1])


def test_a_saved_model_has_a_card_whose_figures_are_its_metrics(fitted, model, saved):
    path, metrics = model / "README.md", fitted.saved.evaluation.metrics["mmrec"]
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
    assert f"{len(fitted.saved.reviews):,} reviews by {len(fitted.state.online.codes['user'])} users" in text
    assert "no language model" in text
    assert not [word for word in ("Flag", str(fitted.saved.reviews.source), str(model)) if word in text]


def test_the_readme_of_a_project_is_not_replaced(fitted, tmp_path):
    old_card, path = "---\nlibrary_name: mmrec\n---\nold", tmp_path / "README.md"
    for before, after in (("# My project",) * 2, (old_card, str(model_card(fitted.saved)))):
        path.write_text(before)
        fitted.save(tmp_path)
        assert path.read_text() == after


def test_the_operating_point_is_saved_and_in_the_card(fitted, saved, tmp_path):
    fit, rates = fitted.saved.evaluation, fitted.saved.evaluation.test_rates
    assert 0 < fit.threshold < 1
    assert saved.evaluation == fit
    text = str(model_card(saved))
    assert f"a probability of {fit.threshold:.4f} on, chosen on valid to recommend at most 20% of" in text
    assert f"{rates.tpr:.1%} of the likes and {rates.fpr:.1%} of the dislikes" in text
    at_least = changed(saved, operating=OperatingConfig(min_tpr=0.7))
    assert "at least 70% of the likes" in str(model_card(at_least))
    # A threshold that recommends nothing survives JSON, which has no infinity.
    rates = ThresholdRates(0.0, 0.0, 0.0, float("nan"))
    evaluation = replace(saved.evaluation, threshold=inf, test_rates=rates)
    again = load_recommender(save_recommender(replace(saved, evaluation=evaluation), tmp_path))
    json.loads((tmp_path / "model.json").read_text(), parse_constant=pytest.fail)
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
    encoder = EncoderConfig(encoder_model="/home/ann/mini")
    text = str(model_card(changed(saved, language=server, encoder=encoder)))
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


def names_in(folder):
    """Names of all files, as a repository has them."""
    paths = filter(Path.is_file, Path(folder).rglob("*"))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


@pytest.fixture
def api(tmp_path, monkeypatch):
    """The client of a hub with one private repository, whose files are in the folder `hub`."""
    folder, cache = tmp_path / "hub", tmp_path / "cache"
    api = create_autospec(HfApi, instance=True)
    api.create_repo.return_value.repo_id = NAME
    api.model_info.return_value.private = True

    def upload(*, repo_id, folder_path, delete_patterns, ignore_patterns):
        assert repo_id == NAME
        old = [*filter_repo_objects(names_in(folder), allow_patterns=delete_patterns)]
        for name in old:
            (folder / name).unlink()
        for name in filter_repo_objects(names_in(folder_path), ignore_patterns=ignore_patterns):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, folder / name)
        return URL

    def download(repo_id, *, allow_patterns):
        # Links to files, as in the real cache.
        assert repo_id == NAME
        shutil.rmtree(cache, ignore_errors=True)
        for name in filter_repo_objects(names_in(folder), allow_patterns=allow_patterns):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).symlink_to(folder / name)
        return str(cache)

    api.upload_folder.side_effect = upload
    monkeypatch.setattr("mmrec.recommender.hub.HfApi", lambda token: api)
    download = create_autospec(snapshot_download, side_effect=download)
    monkeypatch.setattr("mmrec.recommender.hub.snapshot_download", download)
    return api


def test_a_pushed_model_comes_back_without_paths_and_pickles(fitted, api, tmp_path):
    hub = tmp_path / "hub"
    assert fitted.push_to_hub(NAME, private=True, token="hf_none") == URL
    assert (hub / "README.md").read_text() == str(model_card(fitted.saved))
    assert "city" not in (hub / "model.json").read_text()
    (hub / "evil.pkl").touch()
    again = Recommender.from_pretrained(NAME)
    user = fitted.state.online.ids["user"][0]
    assert again.recommend(user, 5).equals(fitted.recommend(user, 5))
    assert again.saved.evaluation.threshold == fitted.saved.evaluation.threshold
    assert again.config.store is None
    assert not sum(map(len, again.saved.reviews.table["photos"]))
    assert not sum(map(len, again.saved.reviews.items["photos"]))
    assert not (tmp_path / "cache/evil.pkl").exists()
    # The next one replaces it.
    files = names_in(hub)
    assert fitted.push_to_hub(NAME, private=True) == URL
    assert len(names_in(hub)) == len(files)
    assert {*names_in(hub)} & {*files} == {"README.md", "evil.pkl", "model.json"}
    again = Recommender.from_pretrained(NAME)
    assert str(model_card(again.saved)) == str(model_card(fitted.saved))
    again.add_review(user, "new", 4.0, "Good soup.", "live")
    with pytest.raises(DataError, match="fit again"):
        again.push_to_hub(NAME, private=True)


def test_reviews_are_published_only_on_purpose(fitted, api, tmp_path):
    with pytest.raises(ConfigError, match=r"would be public.*public_reviews=True"):
        fitted.push_to_hub(NAME)
    api.create_repo.assert_not_called()
    api.model_info.return_value.private = False
    with pytest.raises(ConfigError, match="public already"):
        fitted.push_to_hub(NAME, private=True)
    api.upload_folder.assert_not_called()
    assert fitted.push_to_hub(NAME, public_reviews=True)
    assert (tmp_path / "hub/model.json").exists()


def test_an_unreachable_hub_and_an_unknown_model_are_model_errors(fitted, unused_port, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=f"cannot push to {NAME}: .*; check the token and the network"):
        fitted.push_to_hub(NAME, private=True, token="hf_none")
    for name in (NAME, "no such model"):
        with pytest.raises(ModelError, match=f"cannot load the model {name}"):
            Recommender.from_pretrained(name, local_files_only=True)
