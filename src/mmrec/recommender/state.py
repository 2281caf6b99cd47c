"""The parts of a fitted recommender."""

from collections.abc import Sequence

import numpy as np

from mmrec.errors import DataError
from mmrec.features.dataset import Dataset, Models
from mmrec.features.tables import Features
from mmrec.llm.types import Wish
from mmrec.ranker.inputs import RankerInputs
from mmrec.recommender.catalog import Catalog
from mmrec.recommender.explain import Explainer
from mmrec.recommender.lists import ListScorer
from mmrec.recommender.online import OnlineState
from mmrec.recommender.persistence import SavedRecommender
from mmrec.recommender.proposals import ListMaker, UserHistories
from mmrec.recommender.reasons import ReasonFinder


class RecommenderState:
    """The parts of a fitted recommender, which change together with a live review."""

    def __init__(self, saved: SavedRecommender, models: Models) -> None:
        # Each part reads those before it; none changes another.
        notes = saved.notes or None
        self.dataset = Dataset.from_reviews(saved.reviews, models, saved.config, notes)
        self.online = OnlineState(saved, self.dataset.data, models)
        self.catalog = Catalog(saved, self.dataset, self.online, models.encoder)
        self.scorer = ListScorer(saved.model, saved.features)
        histories = UserHistories(saved.histories)
        caution = saved.config.operating.caution
        self.list_maker = ListMaker(saved.retrieval, self.scorer, histories, caution)
        self.reasons = ReasonFinder(saved.config, self.dataset, self.online, self.catalog)
        self.explainer = Explainer(self.catalog, self.scorer, models.encoder, self.reasons)

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
