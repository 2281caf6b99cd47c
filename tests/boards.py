"""A checkerboard of tastes as reviews: who likes what hangs on words alone, of user and item together."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from mmrec.config import Config, EvidenceConfig, RankerConfig, TrainingConfig
from mmrec.data import Reviews, read_reviews

LOVES = (
    ("I adore spicy noodles.", "Give me hot chilli soup any day.", "I live for fiery curries."),
    ("I adore sweet cakes.", "Give me chocolate tarts any day.", "I live for sugary pastries."),
)
SERVES = (
    ("This noodle bar cooks spicy food.", "The kitchen makes hot chilli ramen.", "A curry house."),
    ("This bakery makes sweet cakes.", "The counter is full of chocolate tarts.", "A pastry shop."),
)
SMALL = Config(
    seed=3,
    evidence=EvidenceConfig(folds=3),
    ranker=RankerConfig(features="proposed", embedding_size=8, hidden_size=16, dropout=0.1),
    training=TrainingConfig(learning_rate=0.01, batch_size=128, epochs=30, patience=30),
)


def board(folder: Path, side: int = 28) -> Reviews:
    """Reviews of a random half of the pairs; even users like even items, odd ones odd ones.

    Not of all pairs: of a user with so many likes, those that are known would tell how many are not.
    """
    pairs = [*product(range(side), range(side))]
    half = np.random.default_rng(0).permutation(len(pairs))[: len(pairs) // 2]
    rows = [
        {
            "user": f"u{user}",
            "item": f"i{item}",
            "rating": 5 if user % 2 == item % 2 else 2,
            "text": f"{LOVES[user % 2][(user + item) % 3]} {SERVES[item % 2][(user + 2 * item) % 3]}",
        }
        for user, item in (pairs[at] for at in half)
    ]
    pl.DataFrame(rows).write_ndjson(folder / "board.jsonl")
    return read_reviews(folder / "board.jsonl", Config().read)
