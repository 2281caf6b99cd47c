"""The Recommender: fit, predict, recommend, explain, save and load, here and on the hub."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from huggingface_hub import HfApi, ModelCard, ModelHubMixin, snapshot_download

from mmrec.card import model_card
from mmrec.config import Config
from mmrec.corpus import Corpus, Models
from mmrec.errors import ConfigError, DataError, MmrecError, ModelError
from mmrec.evidence import Side
from mmrec.experiment.compare import Comparison, compare, warnings
from mmrec.explain import Explanation, Quote, coalitions, nearest
from mmrec.features import Features, SideFeatures
from mmrec.language.base import PRICE_TAGS
from mmrec.learning import Model
from mmrec.metrics import Outcome, Scores, outcome
from mmrec.ranking.inputs import Inputs
from mmrec.reviews.table import Reviews
from mmrec.saving import Saved, load, save
from mmrec.search import nearness, wishes
from mmrec.weights import loading

__all__ = ["Recommender"]

_ITEMS_AT_ONCE = 8192
_QUOTED_REVIEWS = 100


class Recommender(ModelHubMixin):
    """Learns from reviews who will like what; any user and any item can be scored.

    Args:
        config: the pipeline; `Config()` is the recommended one.
        models: what reads; by default those that `config` names.

    Attributes:
        scores: what the model and those that it was compared with reach on test rows.
        threshold: the probability from which on to recommend, chosen on valid rows; inf where nothing is to
            be recommended, None before fitting.
        outcome: what that gave on test rows.
    """

    # The mixin's config.json; without one it would make one of the arguments, and copy what they hold.
    _hub_mixin_config = {"model_type": "mmrec"}  # noqa: RUF012

    def __init__(self, config: Config | None = None, models: Models | None = None) -> None:
        self.config = config or Config()
        self.models = models or Models.open(self.config)
        self.scores: dict[str, Scores] = {}
        self.outcome: Outcome | None = None
        self.threshold: float | None = None
        self._model: Model | None = None

    def fit(self, reviews: Reviews) -> Recommender:
        """Split, train the model of `config.ranker.features`, and know all of these reviews from then on.

        `scores` then holds what the model and the simple peers reach on test rows.

        Raises:
            DataError: too few reviews to learn from.
        """
        comparison = compare(reviews, self.config, self.models, [self.config.ranker.features])
        return self.adopt(comparison, self.config.ranker.features, reviews)

    def adopt(self, comparison: Comparison, name: str, reviews: Reviews) -> Recommender:
        """Take over a trained model of a comparison, and know all of `reviews`."""
        self.scores = dict(comparison.scores)
        learned, model = comparison.prepared.corpus, comparison.models[name]
        self.threshold, test = comparison.thresholds[name], comparison.prepared.split.test
        label, probability = comparison.prepared.label[test], comparison.probability[name][test]
        self.outcome = outcome(label, probability, self.threshold)
        # What the filter dropped is known to the recommender all the same; mostly it is in there already.
        everything = len(learned) == len(reviews)
        corpus = learned if everything else Corpus.of(reviews, self.models, self.config)
        assembler = model.assembler.knowing(corpus)
        self._set(replace(model, assembler=assembler), reviews, corpus)
        self._features = Features(
            assembler.user(Side.whole(corpus.data.user), corpus),
            assembler.item(Side.whole(corpus.data.item), corpus),
            corpus.data.user,
            corpus.data.item,
        )
        return self

    def _set(self, model: Model, reviews: Reviews, corpus: Corpus) -> None:
        self._model = model
        self.reviews = reviews
        self.corpus = corpus
        self._user_code = {user: code for code, user in enumerate(self.corpus.data.users)}
        self._item_code = {item: code for code, item in enumerate(self.corpus.data.items)}
        self.__dict__.pop("_inputs", None)

    @property
    def model(self) -> Model:
        """The trained model.

        Raises:
            DataError: nothing was fitted or loaded yet.
        """
        if self._model is None:
            raise DataError("this Recommender knows nothing yet: call fit(reviews) or load(folder) first")
        return self._model

    @property
    def features(self) -> Features:
        """Features of every user and item, from all reviews."""
        self.model  # noqa: B018  says that nothing was fitted, where that is so
        return self._features

    @cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self.features)

    def predict(self, users: list[str], items: list[str]) -> np.ndarray:
        """Probability that each user likes the item beside it.

        Args:
            users, items: (n) ids; those never seen are strangers of whom nothing is known.

        Returns:
            (n,) float64.
        """
        user, item = self._codes(users, items)
        return self._score(self._inputs, user, item)

    def recommend(
        self, user: str | None = None, n: int = 10, *, likes: str | None = None, seen: bool = False
    ) -> pl.DataFrame:
        """The items that a user will most likely like.

        Args:
            user: an id; one never seen is a stranger.
            n: number of items.
            likes: a stranger's own words, as in "ramen, quiet places, cheap"; items that are spoken of in
                words near to these are ranked, the others are not.
            seen: whether items that the user has reviewed may be recommended too.

        Returns:
            Up to n rows, best first: `item`, `name`, `probability`, `price`, `categories`.

        Raises:
            DataError: neither a user nor words, or both.
        """
        inputs, _, code = self._asking(user, likes)
        items = np.arange(len(self._item_code))
        if likes:
            items = self._near(likes, max(2 * n, len(items) // 20))
        elif not seen:
            items = np.setdiff1d(items, self.corpus.data.item[self.corpus.data.user == code])
        probability = self._score(inputs, np.full(len(items), code), items)
        best = np.argsort(-probability, kind="stable")[:n]
        return self._described(items[best], probability[best])

    def explain(self, user: str | None, item: str, *, likes: str | None = None) -> Explanation:
        """Why an item has its probability for someone: which knowledge spoke for it, and who said so.

        Args:
            user, likes: as for `recommend`.
            item: an id.

        Raises:
            DataError: the item was never reviewed; neither a user nor words, or both.
        """
        if item not in self._item_code:
            raise DataError(f"no review speaks of item {item!r}; check the id")
        inputs, people, code = self._asking(user, likes)
        at = self._item_code[item]
        values = coalitions(
            lambda *views: self._score(inputs, *views),
            (code, people.nothing),
            (at, self.features.item.nothing),
        )
        return Explanation.of(values, self._quotes(people, code, at))

    def save(self, folder: Path | str) -> Path:
        """Write the model and what it knows: safetensors, JSON and Parquet, no pickle; and a model card."""
        return self._save(self._saved, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> Recommender:
        """Read a saved model.

        Raises:
            ModelError: the folder is not one that `save` wrote, or is damaged.
        """
        return cls._of(load(Path(folder)))

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, public_reviews: bool = False, **how: Any
    ) -> str:
        """Put the model onto the Hugging Face hub, and with it the texts and user ids of all its reviews.

        Photos, their paths, and addresses of servers stay here; names of models go along, folders too.

        Args:
            repo_id: as in `owner/name`; made where there is none.
            private: whether to make it private; then one that is public already is refused.
            public_reviews: says that everybody may read the reviews.
            how: as for `ModelHubMixin.push_to_hub`: `token`, `commit_message`, `branch`, and so on.

        Raises:
            ConfigError: everybody could read the reviews, and nobody said that they may.
            ModelError: the hub cannot be reached, or refuses.
        """
        consent = "pass public_reviews=True if everybody may read the texts and user ids of the reviews"
        if not private and not public_reviews:
            raise ConfigError(f"{repo_id} would be public: pass private=True, or {consent}")
        try:
            api = HfApi(token=how.get("token"))
            full = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if not public_reviews and not api.model_info(full).private:
                raise ConfigError(f"{full} is public already: take another name, or {consent}")
            return super().push_to_hub(full, private=private, **how)
        except MmrecError:
            raise
        except Exception as error:  # the hub's client raises anything
            raise ModelError(f"cannot push to {repo_id}: {error}; check the token and the network") from error

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Path | str, **how: Any) -> Recommender:
        """Read a model of a folder, or of the hub (`owner/name`), which brings neither paths nor addresses.

        Raises:
            ModelError: no such model, or a damaged one.
        """
        if Path(pretrained_model_name_or_path).is_dir():
            return cls.load(pretrained_model_name_or_path)
        with loading(str(pretrained_model_name_or_path), "check the name, the token and the network"):
            return super().from_pretrained(pretrained_model_name_or_path, **how)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that `save` writes, in place of the mixin's."""
        return model_card(self._saved, warnings(self.config))

    def _save_pretrained(self, save_directory: Path) -> None:
        self._save(self._saved.portable(), save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: object = None, **how: Any) -> Recommender:
        folder = snapshot_download(model_id, allow_patterns=["*.json", "*.safetensors", "*.parquet"], **how)
        return cls._of(load(Path(folder)).portable())

    @property
    def _saved(self) -> Saved:
        notes = self.corpus.notes if self.config.profile.strategy == "notes" else []
        parts = self.config, self.model, self.reviews, notes, self.features, self.scores
        assert self.threshold is not None
        assert self.outcome is not None
        return Saved(*parts, self.threshold, self.outcome)

    def _save(self, saved: Saved, folder: Path) -> Path:
        card = save(saved, folder) / "README.md"
        # A folder may be one of a project, whose own README is not to be lost.
        if not card.exists() or "library_name: mmrec" in card.read_text(errors="replace"):
            self.generate_model_card().save(card)
        return folder

    @classmethod
    def _of(cls, saved: Saved) -> Recommender:
        recommender = cls(saved.config)
        recommender.scores = saved.scores
        recommender.threshold, recommender.outcome = saved.threshold, saved.outcome
        corpus = Corpus.of(saved.reviews, recommender.models, saved.config, saved.notes or None)
        recommender._set(saved.model, saved.reviews, corpus)
        recommender._features = saved.features
        return recommender

    def _codes(self, users: list[str], items: list[str]) -> tuple[np.ndarray, np.ndarray]:
        nobody, nothing = self.features.user.nothing, self.features.item.nothing
        user = np.array([self._user_code.get(user, nobody) for user in users], dtype=np.int64)
        item = np.array([self._item_code.get(item, nothing) for item in items], dtype=np.int64)
        return user, item

    def _asking(self, user: str | None, likes: str | None) -> tuple[Inputs, SideFeatures, int]:
        """Inputs, users' features, and the view of who asks: a user, or a stranger made of words."""
        if (user is None) == (not likes):
            raise DataError("name a user, or say in words what is liked, and not both")
        if not likes:
            return self._inputs, self.features.user, int(self._codes([str(user)], [])[0][0])
        stranger = self.model.assembler.stranger(Corpus.described(likes, self.models))
        only = np.zeros(1, dtype=np.int64)
        return Inputs(Features(stranger, self.features.item, only, only)), stranger, 0

    @torch.inference_mode()
    def _score(self, inputs: Inputs, *views: np.ndarray) -> np.ndarray:
        tensors = [torch.from_numpy(view) for view in views]
        logit = [
            self.model.ranker(inputs.batch(*(tensor[at : at + _ITEMS_AT_ONCE] for tensor in tensors)))
            for at in range(0, len(views[0]), _ITEMS_AT_ONCE)
        ]
        nobody = torch.zeros(self.model.ranker.shape.runs, 0)
        return self.model.probability(torch.cat([*logit, nobody], dim=1).numpy())

    def _near(self, likes: str, most: int) -> np.ndarray:
        """Codes of the items whose reviews' words are nearest to a stranger's."""
        codes = range(len(self._item_code))
        labels = [[*self._categories(code), *self._price(code)] for code in codes]
        near = nearness(wishes(likes), self.features.item, labels, self.models.encoder)
        return np.sort(np.argsort(-near, kind="stable")[:most])

    def _described(self, items: np.ndarray, probability: np.ndarray) -> pl.DataFrame:
        names = dict(zip(self.reviews.items["item"], self.reviews.items["name"], strict=True))
        ids = [self.corpus.data.items[code] for code in items]
        return pl.DataFrame(
            {
                "item": ids,
                "name": [names.get(item) for item in ids],
                "probability": probability,
                "price": ["".join(self._price(code)) or None for code in items],
                "categories": [self._categories(code) for code in items],
            },
            schema_overrides={"name": pl.String, "price": pl.String, "categories": pl.List(pl.String)},
        )

    def _price(self, item: int) -> list[str]:
        """The price tag with most votes; none where nobody spoke of the price."""
        item_features = self.features.item
        tags = [tag for tag in PRICE_TAGS if tag in item_features.names]
        shares = [item_features.dense[item, item_features.names.index(tag)] for tag in tags]
        return [tags[int(np.argmax(shares))]] if any(shares) else []

    def _categories(self, item: int) -> list[str]:
        vocabulary = self.model.assembler.vocabulary
        return [vocabulary[code] for code in self.features.item.categories[item] if code < len(vocabulary)]

    def _quotes(self, people: SideFeatures, user: int, item: int) -> list[Quote]:
        rows = np.flatnonzero(self.corpus.data.item == item)[-_QUOTED_REVIEWS:]
        ids = self.reviews.table["review_id"]
        said = [
            Quote(text, ids[int(row)], liked)
            for row, note in zip(rows, self.corpus.quotable(rows), strict=True)
            for texts, liked in ((note.likes, True), (note.dislikes, False))
            for text in texts
        ]
        if not said:
            return []
        vectors = self.models.encoder.encode([quote.text for quote in said]).astype(np.float32)
        return nearest(said, vectors, _own_words(people, user, vectors))


def _own_words(people: SideFeatures, user: int, vectors: np.ndarray) -> np.ndarray:
    """Direction of the user's own words; where there are none, of what is said of the item most of all."""
    for name in ("likes", "gist", "summary", "reviews"):
        if name in people.vectors and people.present[name][user]:
            return people.vectors[name][user].astype(np.float32)
    return vectors.mean(axis=0)
