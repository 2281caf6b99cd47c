"""The names that mmrec goes by at present, for `golden.py`: what is asked of it, and in which words.

After a rename change a line here: a method's name in a function, a command in `COMMANDS`; for a field, a
flag, or a schema of the service say in `RENAMED` how the goldens call it. Keys of results stay as they are.
"""

from __future__ import annotations

import io
import re
import sqlite3
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from fastapi.testclient import TestClient

from mmrec.cli import main as command_line
from mmrec.config import (
    AnnotationConfig,
    Config,
    EncoderConfig,
    ReadConfig,
    ServeConfig,
    TrainingConfig,
)
from mmrec.data import read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.evidence.views import EvidenceViews
from mmrec.features.dataset import Dataset
from mmrec.pipeline import open_models
from mmrec.recommender.recommender import Recommender
from mmrec.service.app import create_app

RENAMED: dict[str, str] = {
    "operating_points": "operating",
    "extras": "asked",
    "coalitions": "values",
    "test_ratio": "ratio",
    "sample_counts": "looked",
    "sampled": "looked_at",
    "by_chance": "luck",
    "severity": "bad",
    "compared_text": "beside",
    "trained baselines": "peers",
    "UserRecommendationRequest": "UserWish",
    "NewUserRequest": "Newcomer",
    "Neighbor": "Near",
    "ReviewRequest": "Review",
    "tasks": "asks",
    "submitted": "handed_in",
    "deferred": "left",
    "rejected": "refused",
    "assessment": "judgement",
}
"""Fields, columns, flags, schemas that have another name now: as it is now -> as it is in the goldens."""
DROPPED = {
    "seconds",
    "milliseconds",
    "exact_milliseconds",
    "gigabytes",
    "bytes",
    "oldest",
    "version",
}
"""Fields that are others in every run."""
SAID = "The ramen was wonderful and cheap. The waiter was slow and the room was loud."
OPENED = "Sichuan hotpot with numbing pepper broth. Cheap lunch menu."
SETTINGS = "--precision fp32 --encoder-backend torch --store {store} {items}"
COMMANDS = {
    "fit": "fit {data} --out model --peers --epochs 2 {how}",
    "evaluate": "evaluate model",
    "evaluate new": "evaluate model {new}",
    "recommend": "recommend model --user {user} --n 5 --max-fpr 0.9 --diversity 0.3",
    "recommend why": "recommend model --user {user} --n 3 --why",
    "recommend likes": "recommend model --likes ramen,quiet --why --n 3",
    "recommend liked": "recommend model --liked {item} --n 5 --why",
    "sweep": "sweep {data} --over K --values 2 3 --seeds 1 --epochs 2 {how}",
    "sweep imbalance": "sweep {data} --over imbalance --values 5 --seeds 2 --epochs 2 {how}",
    "ablate": "ablate {data} --seeds 1 --compare none --epochs 2 {how}",
    "reproduce": "reproduce {data} --repeats 1 --strategy notes --epochs 2 {how}",
    "annotate dry run": "annotate {data} --dry-run --llm openai:m@http://localhost:9 --llm-price 1/2 {how}",
    "annotate check": "annotate {data} --check {truth} {how}",
    "store stats": "store stats --store {store}",
    "store export": "store export out.jsonl.gz --kind note --store {store}",
    "store import": "store import out.jsonl.gz --store other.sqlite",
    "store prune": "store prune --kind note --store {store}",
    "doctor": "doctor --store {store}",
}
SMALL_COMMANDS = {  # as well, of Sample City alone, since they take their time
    "fit past": "fit {data} --out past --features proposed --policy past --epochs 2 {how}",
    "fit summaries": "fit {data} --out summaries --strategy summary --summaries all --epochs 2 {how}",
    "annotate summaries": "annotate {data} --check {truth} --strategy summary {how}",
}
HELPED = {  # name in the goldens -> as it is typed
    "fit": "fit",
    "annotate": "annotate",
    "evaluate": "evaluate",
    "reproduce": "reproduce",
    "ablate": "ablate",
    "sweep": "sweep",
    "recommend": "recommend",
    "serve": "serve",
    "demo": "demo",
    "doctor": "doctor",
    "photos": "photos fetch",
    "store stats": "store stats",
    "store export": "store export",
    "store import": "store import",
    "store prune": "store prune",
}
PAGES = ("/", "/?user={user}&variety=50", "/places/{item}")
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
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
        {"json": {"user": "new", "item": "{item}", "rating": 2.0, "text": SAID, "review_id": "r1"}},
    ),
    "an opening": (
        "/v1/items",
        {"data": {"item": "new-item", "name": "Hotpot", "description": OPENED}},
    ),
    "after": ("/v1/users/new/recommendations?n=4&why=true&seen=true", {}),
}


@dataclass(frozen=True)
class Town:
    """Files to learn from; all of them in a folder of their own."""

    folder: Path
    data: Path
    new: Path
    items: Path | None

    @property
    def store(self) -> Path:
        return self.folder / "store.sqlite"


def config_of(town: Town, strategy: str = "notes", epochs: int = 4) -> Config:
    """Settings that do not depend on what the machine can do."""
    return Config(
        store=town.store,
        training=TrainingConfig(epochs=epochs),
        encoder=EncoderConfig(encoder_backend="torch", precision="fp32"),
        annotation=AnnotationConfig.model_validate({"strategy": strategy}),
    )


def fit(town: Town) -> Recommender:
    """A recommender that has learned from the town."""
    return Recommender(config_of(town)).fit(read_reviews(town.data, ReadConfig(items=town.items)))


def chosen(names: list[str], some: int) -> list[str]:
    """Some of the names, evenly."""
    return sorted(names)[:: max(1, len(names) // some)][:some]


def learned(one: Recommender) -> dict[str, Any]:
    """What the fit came to, and what it made features of."""
    names = {
        "user": one.state.online.features.user.names,
        "item": one.state.online.features.item.names,
    }
    figures = one.evaluation.metrics
    found = {
        "scores": figures,
        "threshold": one.evaluation.threshold,
        "curve": one.evaluation.curve,
        "features": names,
    }
    return found | {
        "outcome": one.evaluation.test_rates,
        "vocabulary": one.saved.model.builder.vocabulary,
    }


def predictions(one: Recommender, some: int) -> list[dict[str, Any]]:
    """Chances of fixed pairs, strangers and unknown items among them."""
    users, items = (
        chosen(one.state.dataset.data.users, some),
        chosen(one.state.dataset.data.items, some),
    )
    pairs = [
        (user, item)
        for user in (*users, "nobody", "new")
        for item in (*items, "nowhere", "new-item")
    ]
    chances = one.predict(*map(list, zip(*pairs, strict=True))).tolist()
    return [
        {"user": user, "of": item, "chance": p}
        for (user, item), p in zip(pairs, chances, strict=True)
    ]


def lists(one: Recommender, some: int) -> dict[str, Any]:
    """Recommendations of every kind."""
    users, items = (
        chosen(one.state.dataset.data.users, some),
        chosen(one.state.dataset.data.items, some),
    )
    user, kinds = users[0], one.state.catalog.common_categories(3)
    found: dict[str, Any] = {
        f"for {name}": one.recommend(name, 6) for name in (*users, "nobody", "new")
    }
    for words in ("ramen, quiet places, cheap", "biryani, friendly staff"):
        found[words] = one.recommend(n=6, likes=words)
    found["liked"] = one.recommend(n=6, liked=items[:2])
    found["seen"] = one.recommend(user, 6, seen=True)
    found["max_fpr"] = one.recommend(user, 30, max_fpr=0.2)
    found["diversity"] = one.recommend(user, 6, diversity=0.5)
    found["filtered"] = one.recommend(
        user, 6, categories=kinds[:2], prices=["cheap price", "fair price"]
    )
    found["kinds"] = kinds
    everyone = one.recommend_all(3, max_fpr=0.5)
    for name in [*users, "new"]:
        own = everyone.filter(pl.col("user") == name)
        found[f"everyone: {name}"] = {
            "rank": own["rank"].to_list(),
            "rows": own.drop("user", "rank"),
        }
    return found


def reasons(one: Recommender, some: int) -> list[Any]:
    """Contributions and quotes."""
    users, items = (
        chosen(one.state.dataset.data.users, some),
        chosen(one.state.dataset.data.items, some),
    )
    pairs = [*zip(users, items, strict=False), ("nobody", items[0])]
    told = [one.explain(user, item) for user, item in pairs]
    words, liked = (
        one.explain(None, items[0], likes="ramen, cheap"),
        one.explain(None, items[0], liked=items[1:2]),
    )
    return [*told, words, liked]


def known(one: Recommender, some: int) -> dict[str, Any]:
    """What can be said of users and items."""
    users, items = (
        chosen(one.state.dataset.data.users, some),
        chosen(one.state.dataset.data.items, some),
    )
    near = {name: one.similar_items(name, 5) for name in items} | {
        u: one.similar_users(u, 5) for u in users
    }
    found: dict[str, Any] = {
        name: [{"item": i, "cosine": x} for i, x in own] for name, own in near.items()
    }
    for item in items:
        code = one.state.online.codes["item"][item]
        found[f"of {item}"] = [
            one.state.catalog.describe(np.array([code])),
            one.state.explainer.summary_quote(code),
            *one.state.explainer.typical_quotes(code),
        ]
        found[f"photos of {item}"] = [caption for _, caption in one.state.catalog.photos(code)]
    return found | {"search": one.search("noodles and soup", 5)}


def summaries(one: Recommender, town: Town, some: int) -> dict[str, Any]:
    """What is written of the first items and users under the strategy of the paper."""
    config = config_of(town, "summary")
    corpus = Dataset.from_reviews(one.reviews, open_models(config, store=one.models.store), config)
    data, which = corpus.data, np.arange(some)
    items, users = (
        EvidenceViews.from_lists(
            which, [*islice(EvidenceViews.all_reviews(entity).review_sets(), some)]
        )
        for entity in (data.item, data.user)
    )
    of_items = dict(zip(data.items, corpus.summaries("item", items), strict=False))
    return {
        "items": of_items,
        "users": dict(zip(data.users, corpus.summaries("user", users), strict=False)),
    }


def hear(one: Recommender) -> None:
    """Two live reviews, one of them by a newcomer, and an item that opened today."""
    user, item = one.state.dataset.data.users[0], one.state.dataset.data.items[0]
    one.add_review(user, item, 2.0, SAID, "live-1")
    one.add_item("new-item", name="Hotpot", description=OPENED)
    one.add_review("new", "new-item", 5.0, SAID, "live-2")


def saved(one: Recommender, folder: Path) -> Path:
    """The folder that a recommender was saved in."""
    return one.save(folder)


def loaded(folder: Path) -> Recommender:
    """A saved recommender."""
    return Recommender.load(folder)


def notes(one: Recommender, some: int | None) -> dict[str, Any]:
    """What was read out of each review, by its id."""
    return dict(zip(one.state.dataset.review_ids[:some], one.state.dataset.notes, strict=False))


def stored(town: Town) -> list[bytes]:
    """Keys of all that the store has; were they others, everybody's stores would be worth nothing."""
    with closing(sqlite3.connect(town.store)) as db:
        return [key for (key,) in db.execute("SELECT key FROM results ORDER BY key")]


def city(folder: Path, seed: int, users: int, items: int, reviews: int) -> tuple[Path, Path]:
    """A Sample City's reviews and places."""
    data = write_sample_city(folder, seed=seed, users=users, items=items, reviews=reviews)
    return data, folder / "places.jsonl"


def typed(words: str) -> tuple[int, str]:
    """Exit status and standard output of a command line."""
    status, told = 0, io.StringIO()
    with redirect_stdout(told):
        try:
            command_line(words.split())
        except SystemExit as done:
            status = int(done.code or 0)
    return status, told.getvalue()


def helped() -> dict[str, dict[str, bool]]:
    """Flags that the help of each command names."""
    told = {name: typed(f"{words} --help")[1] for name, words in HELPED.items()}
    return {
        name: dict.fromkeys(re.findall(r"--[a-z][a-z-]+", said), True)
        for name, said in told.items()
    }


def contract(model: Path) -> Any:
    """The OpenAPI document of the service, without its descriptions, which may be reworded."""
    return _without_descriptions(create_app(model, ServeConfig()).openapi())


def _without_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _without_descriptions(value)
            for key, value in node.items()
            if not (key == "description" and isinstance(value, str))
        }
    return [_without_descriptions(value) for value in node] if isinstance(node, list) else node


def served(model: Path, user: str, item: str, pages: bool) -> dict[str, Any]:
    """What the service answers, and its pages where wanted."""
    found: dict[str, Any] = {}

    def put(words: Any) -> Any:
        if isinstance(words, dict):
            return {name: put(word) for name, word in words.items()}
        return words.format(user=user, item=item) if isinstance(words, str) else words

    with TestClient(create_app(model, ServeConfig())) as client:
        for page in PAGES if pages else ():
            found[f"page {page}"] = client.get(put(page)).text.splitlines()
        for name, (path, body) in ASKS.items():
            answer = client.request("POST" if body else "GET", put(path), **put(body))
            told = answer.json()
            found[name] = [answer.status_code, told]
            if isinstance(told, dict):
                told.pop("request_id", None)
    return found
