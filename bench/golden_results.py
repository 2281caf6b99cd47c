"""What `golden.py` writes down: results of the library, of the service and of the commands.

The keys of the results stay as they are, so that folders written before can be compared. Where the
package renames a field, a flag or a schema, `golden_compare.RENAMED` gets a line.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
from contextlib import closing, redirect_stdout
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from fastapi.testclient import TestClient

from golden_compare import as_stored
from mmrec.cli import main
from mmrec.config import (
    AnnotationConfig,
    Config,
    EncoderConfig,
    RankerConfig,
    ReadConfig,
    ServeConfig,
    TrainingConfig,
)
from mmrec.data import read_reviews
from mmrec.evidence.policies import EvidenceViews
from mmrec.features.dataset import Dataset
from mmrec.pipeline import open_models
from mmrec.recommender.recommender import Recommender
from mmrec.service.app import create_app
from serving import wait_until_ready

REVIEW_TEXT = "The ramen was wonderful and cheap. The waiter was slow and the room was loud."
ITEM_TEXT = "Sichuan hotpot with numbing pepper broth. Cheap lunch menu."
SETTINGS = "--precision fp32 --encoder-backend torch --store store.sqlite {items}"
# By name in the goldens; each is run with --json.
COMMANDS = {
    "fit": "fit {data} --out model --peers --epochs 2 {settings}",
    "evaluate": "evaluate model",
    "evaluate new": "evaluate model {new}",
    "recommend": "recommend model --user {user} --n 5 --max-fpr 0.9 --diversity 0.3",
    "recommend why": "recommend model --user {user} --n 3 --why",
    "recommend likes": "recommend model --likes ramen,quiet --why --n 3",
    "recommend liked": "recommend model --liked {item} --n 5 --why",
    "sweep": "sweep {data} --over K --values 2 3 --seeds 1 --epochs 2 {settings}",
    "sweep imbalance": "sweep {data} --over imbalance --values 5 --seeds 2 --epochs 2 {settings}",
    "ablate": "ablate {data} --seeds 1 --compare none --epochs 2 {settings}",
    "reproduce": "reproduce {data} --repeats 1 --strategy notes --epochs 2 {settings}",
    "annotate dry run": "annotate {data} --dry-run --llm openai:m@http://localhost:9 --llm-price 1/2 "
    "{settings}",
    "annotate check": "annotate {data} --check {truth} {settings}",
    "store stats": "store stats --store store.sqlite",
    "store export": "store export out.jsonl.gz --kind note --store store.sqlite",
    "store import": "store import out.jsonl.gz --store other.sqlite",
    "store prune": "store prune --kind note --store store.sqlite",
    "doctor": "doctor --store store.sqlite",
}
# Also run on Sample City; too slow for larger data.
CITY_COMMANDS = {
    "fit past": "fit {data} --out past --features proposed --policy past --epochs 2 {settings}",
    "fit summaries": "fit {data} --out summaries --strategy summary --summaries all --epochs 2 {settings}",
    "annotate summaries": "annotate {data} --check {truth} --strategy summary {settings}",
}
HELP = (
    "fit", "annotate", "evaluate", "reproduce", "ablate", "sweep", "recommend", "serve", "demo",
    "doctor", "photos", "store stats", "store export", "store import", "store prune",
)  # fmt: skip
PAGES = ("/", "/?user={user}&variety=50", "/places/{item}")
# By name in the goldens: path, and arguments of a POST request.
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "for a user": ("/v1/users/{user}/recommendations?n=4&why=true", {}),
    "for a newcomer": ("/v1/recommendations", {"json": {"likes": "ramen", "n": 3, "why": True}}),
    "chances": ("/v1/predictions", {"json": {"pairs": [{"user": "nobody", "item": "nowhere"}]}}),
    "like an item": ("/v1/similar-items/{item}?n=3", {}),
    "like a user": ("/v1/similar-users/{user}?n=3", {}),
    "an item": ("/v1/items/{item}", {}),
    "a user": ("/v1/users/{user}", {}),
    "search": ("/v1/search?q=noodles&n=3", {}),
    "no such item": ("/v1/items/nowhere", {}),
    "invalid": ("/v1/predictions", {"json": {"pairs": []}}),
    "a review": (
        "/v1/reviews",
        {"json": {"user": "new", "item": "{item}", "rating": 2.0, "text": REVIEW_TEXT, "review_id": "r1"}},
    ),
    "an opening": (
        "/v1/items",
        {"data": {"item": "new-item", "name": "Hotpot", "description": ITEM_TEXT}},
    ),
    "after": ("/v1/users/new/recommendations?n=4&why=true&seen=true", {}),
}  # fmt: skip


class InputFiles(NamedTuple):
    """Reviews to train on, new reviews, and items, all in one folder."""

    folder: Path
    data: Path
    new: Path
    items: Path | None

    def config(self, strategy: str = "notes") -> Config:
        """Settings that do not depend on what the machine can do."""
        return Config(
            store=self.folder / "store.sqlite",
            training=TrainingConfig(epochs=4),
            ranker=RankerConfig(fallback=False),  # the bias model hears no words
            encoder=EncoderConfig(encoder_backend="torch", precision="fp32"),
            annotation=AnnotationConfig.model_validate({"strategy": strategy}),
        )


def library_results(files: InputFiles, count: int, *, full: bool) -> dict[str, Any]:
    """Results of the library and the service for `count` users and items.

    The `full` ones include all notes, pages, and figures that differ between machines.
    """
    reviews = read_reviews(files.data, ReadConfig(items=files.items))
    recommender = Recommender(files.config()).fit(reviews)
    dataset = recommender.state.dataset
    notes = zip(dataset.review_ids, dataset.notes, strict=True)
    results = model_results(recommender, count) | descriptions(recommender, count)
    results["notes"] = dict(notes if full else islice(notes, 6 * count))
    results["summaries"] = summaries(recommender, files, count)
    if full:
        results |= training_results(recommender, files)
    model = recommender.save(files.folder / "saved")
    results["loaded"] = model_results(Recommender.load(model), count)
    first = results["predictions"][0]
    # Two live reviews, one of them by a new user of a new item.
    recommender.add_review(dataset.data.users[0], dataset.data.items[0], 2.0, REVIEW_TEXT, "live-1")
    recommender.add_item("new-item", name="Hotpot", description=ITEM_TEXT)
    recommender.add_review("new", "new-item", 5.0, REVIEW_TEXT, "live-2")
    results["live"] = model_results(recommender, count) | descriptions(recommender, count)
    results["contract"] = without_descriptions(create_app(model, ServeConfig()).openapi())
    shutil.copytree(model, files.folder / "served")
    results["service"] = responses(files.folder / "served", first["user"], first["of"], full)
    return as_stored(results)


def sample(recommender: Recommender, count: int) -> tuple[list[str], list[str]]:
    """Users and items, evenly drawn from their sorted names."""
    data = recommender.state.dataset.data
    users, items = sorted(data.users), sorted(data.items)
    return (
        users[:: max(1, len(users) // count)][:count],
        items[:: max(1, len(items) // count)][:count],
    )


def model_results(recommender: Recommender, count: int) -> dict[str, Any]:
    """Probabilities of known and unknown pairs, and lists of every kind."""
    users, items = sample(recommender, count)
    pairs = [*product((*users, "nobody", "new"), (*items, "nowhere", "new-item"))]
    probabilities = recommender.predict(*map(list, zip(*pairs, strict=True))).tolist()
    predictions = []
    for (user, item), probability in zip(pairs, probabilities, strict=True):
        predictions.append({"user": user, "of": item, "chance": probability})
    user, categories = users[0], recommender.state.catalog.common_categories(3)
    prices = ["cheap price", "fair price"]
    lists: dict[str, Any] = {}
    for name in (*users, "nobody", "new"):
        lists[f"for {name}"] = recommender.recommend(name, 6)
    for words in ("ramen, quiet places, cheap", "biryani, friendly staff"):
        lists[words] = recommender.recommend(n=6, likes=words)
    lists["liked"] = recommender.recommend(n=6, liked=items[:2])
    lists["seen"] = recommender.recommend(user, 6, seen=True)
    lists["max_fpr"] = recommender.recommend(user, 30, max_fpr=0.2)
    lists["diversity"] = recommender.recommend(user, 6, diversity=0.5)
    filtered = recommender.recommend(user, 6, categories=categories[:2], prices=prices)
    lists |= {"filtered": filtered, "kinds": categories}
    everyone = recommender.recommend_all(3, max_fpr=0.5)
    for name in (*users, "new"):
        rows = everyone.filter(pl.col("user") == name)
        ranks = rows["rank"].to_list()
        lists[f"everyone: {name}"] = {"rank": ranks, "rows": rows.drop("user", "rank")}
    return {"predictions": predictions, "lists": lists}


def descriptions(recommender: Recommender, count: int) -> dict[str, Any]:
    """Contributions and quotes; similar users and items, quotes and photos of items, a search."""
    users, items = sample(recommender, count)
    pairs = [*zip(users, items, strict=False), ("nobody", items[0])]
    reasons = [recommender.explain(user, item) for user, item in pairs]
    reasons.append(recommender.explain(None, items[0], likes="ramen, cheap"))
    reasons.append(recommender.explain(None, items[0], liked=items[1:2]))
    similar = {item: recommender.similar_items(item, 5) for item in items}
    similar |= {user: recommender.similar_users(user, 5) for user in users}
    known: dict[str, Any] = {}
    for name, neighbors in similar.items():
        known[name] = [{"item": neighbor, "cosine": cosine} for neighbor, cosine in neighbors]
    catalog, explainer = recommender.state.catalog, recommender.state.explainer
    for item in items:
        code = recommender.state.online.codes["item"][item]
        quotes = explainer.summary_quote(code), *explainer.typical_quotes(code)
        known[f"of {item}"] = [catalog.describe(np.array([code])), *quotes]
        known[f"photos of {item}"] = [caption for _, caption in catalog.source.photos(code)]
    known["search"] = recommender.search("noodles and soup", 5)
    return {"reasons": reasons, "known": known}


def summaries(recommender: Recommender, files: InputFiles, count: int) -> dict[str, Any]:
    """Summaries of the first users and items by the paper's strategy."""
    config = files.config("summary")
    models = open_models(config, store=recommender.models.store)
    dataset = Dataset.from_reviews(recommender.saved.reviews, models, config)
    data, results = dataset.data, {}
    kinds = ("item", data.items, data.item), ("user", data.users, data.user)
    for kind, names, codes in kinds:
        reviews = islice(EvidenceViews.all_reviews(codes).review_sets(), count)
        views = EvidenceViews.from_lists(np.arange(count), [*reviews])
        results[f"{kind}s"] = dict(zip(names, dataset.summaries(kind, views), strict=False))
    return results


def training_results(recommender: Recommender, files: InputFiles) -> dict[str, Any]:
    """Metrics, thresholds and feature names; keys of the store, which must not change."""
    evaluation, features = recommender.saved.evaluation, recommender.state.online.features
    learned = {
        "scores": evaluation.metrics,
        "threshold": evaluation.threshold,
        "curve": evaluation.curve,
        "features": {"user": features.user.names, "item": features.item.names},
        "outcome": evaluation.test_rates,
        "vocabulary": recommender.saved.model.builder.vocabulary,
    }
    with closing(sqlite3.connect(files.folder / "store.sqlite")) as db:
        keys = [key for (key,) in db.execute("SELECT key FROM results ORDER BY key")]
    digest = hashlib.sha256(b"".join(keys)).hexdigest()
    return {"learned": learned, "stored": {"count": len(keys), "keys": digest}}


def without_descriptions(node: Any) -> Any:
    """A node of the OpenAPI document without its descriptions, which may be reworded."""
    if isinstance(node, list):
        return [without_descriptions(value) for value in node]
    if not isinstance(node, dict):
        return node
    result = {}
    for key, value in node.items():
        if not (key == "description" and isinstance(value, str)):
            result[key] = without_descriptions(value)
    return result


def responses(model: Path, user: str, item: str, pages: bool) -> dict[str, Any]:
    """What the service answers."""
    results: dict[str, Any] = {}

    def fill(template: Any) -> Any:
        if isinstance(template, dict):
            return {name: fill(value) for name, value in template.items()}
        return template.format(user=user, item=item) if isinstance(template, str) else template

    with TestClient(create_app(model, ServeConfig()), base_url="http://localhost") as client:
        wait_until_ready(client)
        for page in PAGES if pages else ():
            results[f"page {page}"] = client.get(fill(page)).text.splitlines()
        for name, (path, body) in REQUESTS.items():
            response = client.request("POST" if body else "GET", fill(path), **fill(body))
            content = response.json()
            if isinstance(content, dict):
                content.pop("request_id", None)
            results[name] = [response.status_code, content]
    return results


def command_results(files: InputFiles, user: str, item: str, is_city: bool) -> dict[str, Any]:
    """What commands print, run in the folder of the files, so that paths are always the same."""
    os.chdir(files.folder)
    flags: dict[str, dict[str, bool]] = {}
    for name in HELP:
        text = run(f"{name.replace('photos', 'photos fetch')} --help")[1]
        flags[name] = dict.fromkeys(re.findall(r"--[a-z][a-z-]+", text), True)
    new, places = files.new.relative_to(files.folder), files.items and files.items.name
    words = {"data": files.data.name, "new": new, "user": user, "item": item}
    words["truth"] = f"--truth {places}" if places else ""
    words["settings"] = SETTINGS.format(items=f"--items {places}" if places else "")
    results: dict[str, Any] = {"flags": flags}
    for name, command in (COMMANDS | (CITY_COMMANDS if is_city else {})).items():
        status, text = run(f"{command.format(**words)} --json")
        output = json.loads(text) if text.startswith("{") else text
        # What a machine has differs; which checks there are does not.
        results[name] = {"status": status, "told": sorted(output) if name == "doctor" else output}
    return as_stored(results)


def run(words: str) -> tuple[int, str]:
    """Exit status and standard output of a command."""
    status, output = 0, io.StringIO()
    with redirect_stdout(output):
        try:
            main(words.split())
        except SystemExit as end:
            status = int(end.code or 0)
    return status, output.getvalue()
