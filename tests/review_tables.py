"""Tables of reviews by code, for tests; conftest.py cannot be imported by name."""

import numpy as np
import polars as pl
from hypothesis import strategies as st

from mmrec.data.schema import NO_TIME, REVIEW_SCHEMA, Interactions, Reviews


def interactions(user, item, rating=None, time=None):
    """Reviews of users and items by code; everything rated 4 and without time where not said otherwise."""
    ratings = [4.0] * len(user) if rating is None else rating
    times = [None] * len(user) if time is None else time
    return Interactions(
        user=np.array(user, dtype=np.int64),
        item=np.array(item, dtype=np.int64),
        rating=np.array(ratings, dtype=np.float32),
        time=np.array([NO_TIME if moment is None else moment for moment in times], dtype=np.int64),
        users=[f"u{code:03}" for code in range(max(user, default=-1) + 1)],
        items=[f"i{code:03}" for code in range(max(item, default=-1) + 1)],
    )


def reviews_of(data, texts):
    """The same reviews as a table, with texts."""
    columns = {
        "review_id": [f"r{row:05}" for row in range(len(data))],
        "user": [data.users[code] for code in data.user],
        "item": [data.items[code] for code in data.item],
        "rating": data.rating.tolist(),
        "text": list(texts),
        "time": [None if moment == NO_TIME else moment for moment in data.time.tolist()],
    }
    no_photos = {"photos": [[] for _ in texts], "captions": [[] for _ in texts]}
    return Reviews(pl.DataFrame(columns | no_photos, schema_overrides=REVIEW_SCHEMA))


@st.composite
def tables(draw, most=60, gaps=True):
    """Any table of 1 to `most` reviews of a few users and items; with `gaps` some have no time."""
    size = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, items, moments = (draw(st.integers(1, 12)) for _ in range(3))
    time = rng.integers(moments, size=size)
    unknown = rng.random(size) < (0.2 if gaps else 0)
    return interactions(
        rng.integers(users, size=size).tolist(),
        rng.integers(items, size=size).tolist(),
        rng.integers(1, 6, size=size).tolist(),
        [None if gone else int(moment) for moment, gone in zip(time, unknown, strict=True)],
    )
