"""A checkerboard of reviews: the label follows from the texts of user and item together alone."""

from itertools import product

import numpy as np
import polars as pl

from mmrec.config import Config, EvidenceConfig, RankerConfig, TrainingConfig
from mmrec.data import read_reviews

USER_TEXTS = (
    ("I adore spicy noodles.", "Give me hot chilli soup any day.", "I live for fiery curries."),
    ("I adore sweet cakes.", "Give me chocolate tarts any day.", "I live for sugary pastries."),
)
ITEM_TEXTS = (
    ("This noodle bar cooks spicy food.", "The kitchen makes hot chilli ramen.", "A curry house."),
    ("This bakery makes sweet cakes.", "The counter is full of chocolate tarts.", "A pastry shop."),
)
SMALL = Config(
    seed=3,
    evidence=EvidenceConfig(folds=3),
    ranker=RankerConfig(features="proposed", embedding_size=8, hidden_size=16, dropout=0.1),
    training=TrainingConfig(learning_rate=0.01, batch_size=128, epochs=30, patience=30),
)


def checkerboard(folder, size=28):
    """Reviews of a random half of the pairs; even users like even items, odd ones odd ones.

    Not of all pairs: the ratings of a user's evidence would tell how many likes are left.
    """
    pairs = np.array([*product(range(size), range(size))])
    rows = []
    for user, item in np.random.default_rng(0).permutation(pairs)[: len(pairs) // 2].tolist():
        text = f"{USER_TEXTS[user % 2][(user + item) % 3]} {ITEM_TEXTS[item % 2][(user + 2 * item) % 3]}"
        rating = 5 if user % 2 == item % 2 else 2
        rows.append({"user": f"u{user}", "item": f"i{item}", "rating": rating, "text": text})
    pl.DataFrame(rows).write_ndjson(folder / "checkerboard.jsonl")
    return read_reviews(folder / "checkerboard.jsonl", Config().read)
