"""The parts of a fitted recommender."""

from collections.abc import Sequence

import numpy as np

from mmrec.errors import DataError
from mmrec.features.dataset import Dataset, Models
from mmrec.features.tables import Features
from mmrec.llm.types import Note, Wish
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.explain import Explainer
from mmrec.recommender.lists import ListScorer
from mmrec.recommender.live_reviews import LiveReviews
from mmrec.recommender.online import OnlineState, ReviewChanges
from mmrec.recommender.persistence import SavedRecommender
from mmrec.recommender.proposals import ListMaker, UserHistories
from mmrec.recommender.reasons import ReasonFinder
from mmrec.retrieval.histories import Histories
from mmrec.retrieval.wish_match import WishMatch


class RecommenderState:
    """The parts of a fitted recommender, which change together with a live review."""

    def __init__(self, saved: SavedRecommender, models: Models) -> None:
        self._models, self._like_rating = models, saved.config.like_rating
        # Each part reads those before it; none changes another.
        notes = saved.notes or None
        self.dataset = Dataset.from_reviews(saved.reviews, models, saved.config, notes)
        live = LiveReviews(self.dataset.data)
        self.online = OnlineState(saved, self.dataset, live, models)
        self.catalog = Catalog(saved, self.dataset, self.online, models.encoder)
        self.scorer = ListScorer(saved.model, saved.features)
        histories = UserHistories(saved.histories, live, saved.config.like_rating)
        caution = saved.config.operating.caution
        self.list_maker = ListMaker(saved.retrieval, self.scorer, histories, caution)
        self.reasons = ReasonFinder(saved.config, self.dataset, self.online, self.catalog)
        self.explainer = Explainer(self.catalog, self.scorer, models.encoder, self.reasons)

    def apply(self, changes: ReviewChanges) -> None:
        """Let reviews that have been read count everywhere."""
        users, items = self.online.apply(changes)
        self.catalog.add_reviews(changes)
        if not len(changes.sign):
            return
        dataset, sign = changes.dataset, changes.sign[:, None].astype(np.float32)
        user_codes, item_codes = self.online.codes["user"], self.online.codes["item"]
        topics = self.list_maker.retrieval.axes.topics(dataset.texts, dataset.text_vectors) * sign
        liked = dataset.data.rating >= self._like_rating
        visits = np.stack([np.ones(len(dataset)), liked], axis=1) * sign
        by_user = np.array([user_codes[user] for user in changes.users])
        by_item = np.array([item_codes[item] for item in changes.items])
        self.list_maker.histories.add_topics(by_user, topics)
        self.list_maker.add_texts(by_item, topics, visits)
        self.scorer.update_items(self.online.features, items)
        self.catalog.update_spaces(items, users)

    def add_item(
        self, item: str, name: str | None, description: str, captions: Sequence[str], note: Note
    ) -> None:
        """Add a description, or captions of photos, to a new or known item."""
        (vector,) = self._models.encoder.encode([description])
        code = self.online.add_item(item, description, note, captions)
        if name:
            self.catalog.add_name(code, name)
        self.catalog.source.add_captions(code, captions)
        self.catalog.add_description(code, description, note)
        codes, maker = np.array([code]), self.list_maker
        topics = maker.retrieval.axes.topics([description], vector[None])
        maker.add_texts(codes, topics, np.zeros((1, 2)))
        self.scorer.update_items(self.online.features, codes)
        self.catalog.update_spaces(codes, codes[:0])

    def warm_up(self) -> None:
        """Compute now what the first request would wait for."""
        self.catalog.rank_items("ready")
        for name in ("gist", "users"):
            self.catalog.space(name)
        _ = self.catalog.source.captions
        _ = self.reasons.usual_topics

    def find_user(
        self, user: str | None, wish: Wish | None, liked: Sequence[str]
    ) -> tuple[int, RankerInputs]:
        """The view of a user, words, or liked items, and the inputs that have it."""
        online, inputs = self.online, self.scorer.inputs
        if [user is not None, wish is not None, bool(liked)].count(True) != 1:
            choices = "name a user, say in words what is liked, or name liked items"
            raise DataError(f"{choices}: just one of these")
        if user is not None:
            return int(online.views("user", [user])[0]), inputs
        codes = [self.catalog.find_item(item) for item in liked]
        features = online.describe_user(wish) if wish else online.user_who_likes(codes)
        # One view of a user beside all items: the table has a single row.
        row = np.zeros(1, dtype=np.int64)
        return 0, RankerInputs(Features(features, online.features.item, row, row))

    def list_basis(
        self, view: int, wish: Wish | None, liked: Sequence[str]
    ) -> Histories | WishMatch:
        """What a list of such a user is made from: a history, or how well each item matches a wish."""
        catalog, retrieval = self.catalog, self.list_maker.retrieval
        histories, items = self.list_maker.histories, retrieval.proposers.items
        if wish and wish.description:
            lines = wish.description.splitlines()  # each is read as a review
            topics = retrieval.axes.topics(lines, self._models.encoder.encode(lines))
            return histories.of_texts(topics, items)
        if wish:
            return catalog.match(wish)
        if liked:
            codes = [catalog.find_item(item) for item in liked]
            return histories.of_items(codes, retrieval.proposers.topics)
        return histories.of_users(np.array([view]), items)
