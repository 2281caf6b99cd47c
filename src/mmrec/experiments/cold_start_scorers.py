"""Reviews of which some entities are held out, and models that score what they are shown of these."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from mmrec.config import Config
from mmrec.console import track
from mmrec.data.schema import (
    EntityKind,
    Interactions,
    Reviews,
    Split,
    filter_reviews,
    split_reviews,
)
from mmrec.evaluation.list_metrics import LIST_LENGTH
from mmrec.evaluation.simple_baselines import choose_bias_model
from mmrec.evidence.policies import Evidence, EvidenceViews
from mmrec.experiments.baselines import FeatureTask, fit_lightgbm
from mmrec.features.builder import build_features
from mmrec.features.dataset import Dataset, Models
from mmrec.features.tables import Features
from mmrec.recommender.recommender import Recommender

PairScorer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Evidence rows, (m,) codes of users and (m,) of items -> (m,) scores."""
Scores = tuple[np.ndarray, dict[int, set[int]]]
"""Scores of the judged rows; and of each user, by code, the codes of the items in the list."""


@dataclass(frozen=True)
class ColdStartTask:
    """n reviews of which those of some entities are held out."""

    kind: EntityKind  # of the entities that are held out
    reviews: Reviews
    data: Interactions
    label: np.ndarray  # (n,) bool, whether the review is a like
    known: np.ndarray  # rows that models are fitted on
    # (n,) place of a held-out row among those of its entity that are revealed; n for all others.
    place: np.ndarray
    judged: np.ndarray  # rows
    list_users: np.ndarray  # codes of the users whose lists are made
    counts: Sequence[int]  # numbers k of reviews that each entity reveals, ascending

    @property
    def entity(self) -> np.ndarray:
        """(n,) codes of the side that is held out."""
        return self.data.user if self.kind == "user" else self.data.item

    def revealed(self, last: int, first: int = 0) -> np.ndarray:
        """Rows that are revealed from the `first` to before the `last` of each entity."""
        return np.flatnonzero((self.place >= first) & (self.place < last))


def live_scores(task: ColdStartTask, config: Config, models: Models) -> Iterator[Scores]:
    """Scores for every k by a recommender that is fitted on the known reviews; others are live."""
    data, table, shown = task.data, task.reviews.table, 0
    dataset = Dataset.from_reviews(task.reviews, models, config)
    # What the model itself learns from live reviews, whether or not it is proven on known entities.
    recommender = Recommender(config.changed("ranker", fallback=False), models)
    recommender.fit(replace(task.reviews, table=table[task.known]))
    if task.kind == "item" and recommender.saved.model.builder.image:
        _add_captions(recommender, dataset, np.unique(task.entity[task.judged]))
    users = [data.users[code] for code in data.user[task.judged]]
    items = [data.items[code] for code in data.item[task.judged]]
    item_codes = {name: code for code, name in enumerate(data.items)}
    user_codes = {data.users[code]: code for code in task.list_users.tolist()}
    with track(f"adding reviews of {task.kind}s", len(task.revealed(task.counts[-1]))) as advance:
        for k in task.counts:
            for row in task.revealed(k, shown).tolist():
                review = table.row(row, named=True)
                names = ("user", "item", "rating", "text", "review_id")
                values = {name: review[name] for name in names}
                recommender.add_review(**values, note=dataset.notes[row])
                advance(1)
            shown = k
            lists: dict[int, set[int]] = {code: set() for code in user_codes.values()}
            recommended = recommender.recommend_all(LIST_LENGTH, users=[*user_codes])
            for user, item in recommended.select("user", "item").iter_rows():
                lists[user_codes[user]].add(item_codes[item])
            yield recommender.predict(users, items), lists


def _add_captions(recommender: Recommender, dataset: Dataset, items: np.ndarray) -> None:
    """Add what the data say of held-out items themselves: captions of their photos."""
    for code in items.tolist():
        texts, photos = dataset.captions.texts, dataset.item_photos[code]
        captions = dataset.item_captions[code] or [*map(texts.get, photos)]
        if captions := [*filter(None, captions)]:
            recommender.add_item(dataset.data.items[code], captions=captions)


def peer_scores(task: ColdStartTask, config: Config, models: Models) -> dict[str, Iterator[Scores]]:
    """Scores for every k by peers; LightGBM, on the features of the paper's model as in `mmrec fit
    --peers`, is left out where it is not installed."""
    data, config = task.data, config.changed("ranker", features="proposed")
    dataset = Dataset.from_reviews(task.reviews, models, config)
    split, rng = _split_known(task, config), np.random.default_rng(config.seed)
    policy, folds = config.evidence.policy, config.evidence.folds
    evidence = Evidence.derive(data, split, policy, folds, rng)
    dataset.part = evidence.fold
    builder, features = build_features(dataset, evidence, config)
    peer_task = FeatureTask(data, split, evidence.fold, task.label, features, config.seed)
    bias_model = choose_bias_model(peer_task)

    def bias_scores(rows: np.ndarray, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        # The pairs follow the reviews, as rows whose rating is not known.
        codes, missing = (np.append(data.user, user), np.append(data.item, item)), [0] * len(user)
        columns = np.append(data.rating, missing), np.append(data.time, missing)
        return bias_model(Interactions(*codes, *columns, data.users, data.items), rows)[len(data) :]

    scorers: dict[str, PairScorer] = {"bias model": bias_scores}
    if find_spec("lightgbm"):
        trees = fit_lightgbm(peer_task, import_module("lightgbm"))

        def lightgbm_scores(rows: np.ndarray, user: np.ndarray, item: np.ndarray) -> np.ndarray:
            # There is one view an entity, in the order of codes, so codes serve as views.
            users = builder.build("user", EvidenceViews.all_reviews(data.user, rows), dataset)
            items = builder.build("item", EvidenceViews.all_reviews(data.item, rows), dataset)
            columns = peer_task.scaled_columns(Features(users, items, user, item))
            return np.asarray(trees.predict(columns))

        scorers["LightGBM"] = lightgbm_scores
    return {name: _score_all(task, scorer) for name, scorer in scorers.items()}


def _split_known(task: ColdStartTask, config: Config) -> Split:
    """The split that `Recommender.fit` makes of the known reviews, as rows of all reviews."""
    table = task.reviews.table.with_row_index("row")[task.known]
    rows = filter_reviews(table, config.split.min_reviews)["row"]
    passed = np.isin(np.arange(len(task.data)), rows)
    split = split_reviews(task.data, config.split, np.random.default_rng(config.seed), passed)
    filtered = np.intersect1d(split.filtered_rows, task.known)
    return replace(split, filtered_rows=filtered if config.evidence.filtered_rows else filtered[:0])


def _score_all(task: ColdStartTask, scorer: PairScorer) -> Iterator[Scores]:
    """Scores for every k; lists are of items with evidence that the user has not reviewed."""
    data, users = task.data, task.list_users
    items = np.arange(len(data.items))
    user = np.append(data.user[task.judged], np.repeat(users, len(items)))
    item = np.append(data.item[task.judged], np.tile(items, len(users)))
    for k in task.counts:
        rows = np.union1d(task.known, task.revealed(k))
        p, scores = np.split(scorer(rows, user, item), [len(task.judged)])
        lists: dict[int, set[int]] = {}
        for code, row in zip(users.tolist(), scores.reshape(-1, len(items)), strict=True):
            candidates = np.setdiff1d(data.item[rows], data.item[rows[data.user[rows] == code]])
            best = np.argsort(-row[candidates], kind="stable")[:LIST_LENGTH]
            lists[code] = {*candidates[best].tolist()}
        yield p, lists
