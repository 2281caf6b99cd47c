"""What a recommender says after live reviews, to compare it with another one."""

import numpy as np
import pytest

from mmrec.evidence.policies import EvidenceViews
from mmrec.features.dataset import Dataset


def results(recommender):
    """Features of all users and items, lists, searches and quotes, by name."""
    online = recommender.state.online
    found = {}
    for kind, features in (("user", online.features.user), ("item", online.features.item)):
        for name, code in online.codes[kind].items():
            for block, values in features.by_name(np.array([code])).items():
                found[kind, name, block] = values.astype(float)
    users = [*online.ids["user"][:6], "ann", "bob"]
    probability = recommender.predict(np.repeat(users, 8).tolist(), online.ids["item"][:8] * 8)
    lists = [recommender.recommend(user, 10)["item"].to_list() for user in users]
    found_items = [recommender.search(words, 8) for words in ("ramen", "cold soup", "quiet place")]
    quotes = [{*recommender.state.catalog.quotes(code)} for code in range(8)]
    histories = recommender.state.list_maker.histories
    rows = histories.of_users(online.views("user", users), len(online.ids["item"]))
    return found, probability, lists, found_items, quotes, rows


def check_equal(one, other):
    features, probability, lists, found_items, quotes, rows = one
    # Whoever has no review is unknown again.
    for key in features.keys() & other[0].keys():
        assert features[key] == pytest.approx(other[0][key], abs=2e-3), key
    assert probability == pytest.approx(other[1], abs=1e-5)
    assert lists == other[2]
    assert found_items == other[3]
    assert quotes == other[4]
    assert (rows.visits != other[5].visits).nnz == 0
    assert (rows.likes != other[5].likes).nnz == 0
    assert rows.topics == pytest.approx(other[5].topics, abs=1e-3)


def check_like_fitted(live, fitted, reviews, users, items):
    """Compare features of users and items with those of the same model, built from reviews."""
    dataset = Dataset.from_reviews(reviews, fitted.models, fitted.config)
    builder, data = fitted.saved.model.builder.refit(dataset), dataset.data
    for kind, names, entity, ids in (
        ("user", users, data.user, data.users),
        ("item", items, data.item, data.items),
    ):
        fresh = builder.build(kind, EvidenceViews.all_reviews(entity), dataset)
        features = getattr(live.state.online.features, kind)
        for name in set(names) & set(ids):
            code, view = live.state.online.codes[kind][name], ids.index(name)
            for block in features.vectors.keys() - {"photos"}:  # which the item keeps
                expected = pytest.approx(fresh.vectors[block][view], abs=3e-3)
                assert features.vectors[block][code] == expected, (name, block)
            is_known = code < len(fitted.state.online.ids[kind])
            # How popular a new user or item will be is not known.
            columns = ["mean rating", "log length", *["log count"] * is_known]
            for column in columns:  # drawn to the mean of all reviews, which a fit takes anew
                place = features.names.index(column)
                expected = pytest.approx(fresh.dense[view, place], abs=0.06)
                assert features.dense[code, place] == expected, (name, column)
