"""Lists of newcomers by their words: early reviews of a user, without their items, then later visits.

    python bench/newcomers.py ../shared/data/gmaps-wa/reviews.jsonl.gz

Some users with many reviews are left out of the model whole. The text of the earlier half of their
reviews is their wish; recall@20 counts the liked items among the later half. Beside it: the most
reviewed items, and the list of an unknown user. Half of all users, by a hash of their ids, are for
choices (--validation), the others for the test.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl

from mmrec import Config, Recommender, read_reviews
from mmrec.config import AnnotationConfig
from mmrec.data.schema import Reviews


def split_users(
    reviews: Reviews, count: int, seed: int, others: int | None, *, validation: bool
) -> tuple[Reviews, list[pl.DataFrame]]:
    """The reviews of `others`, and those of `count` users, each in order of time."""
    sizes = reviews.table["user"].value_counts().filter(pl.col("count") >= 8)
    half = [name for name in sizes["user"].sort() if crc32(name.encode()) % 2 == validation]
    chosen = pl.Series("user", half).sample(min(count, len(half)), seed=seed)
    is_held_out = pl.col("user").is_in(chosen.implode())
    held_out = reviews.table.filter(is_held_out).sample(fraction=1, shuffle=True, seed=seed)
    users = held_out.sort("time", nulls_last=True, maintain_order=True).partition_by("user")
    rest = reviews.table.filter(~is_held_out)
    if others is not None:
        kept = rest["user"].unique().sort().sample(others, seed=seed)
        rest = rest.filter(pl.col("user").is_in(kept.implode()))
    return replace(reviews, table=rest), users


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--item-kind", default="restaurant")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--others", type=int, help="number of users whose reviews the model has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", action="store_true", help="users for choices")
    options = parser.parse_args()
    config = Config(seed=options.seed, annotation=AnnotationConfig(item_kind=options.item_kind))
    reviews = read_reviews(options.data)
    training, users = split_users(
        reviews, options.users, options.seed, options.others, validation=options.validation
    )
    recommender = Recommender(config).fit(training)
    counts = training.table["item"].value_counts(sort=True)
    popular, unknown = (
        counts["item"][:20].to_list(),
        recommender.recommend("", 20)["item"].to_list(),
    )
    recalls: dict[str, list[float]] = {"popularity": [], "unknown user": [], "words": []}
    for own in users:
        early, late = own.head(len(own) // 2), own.tail(-(len(own) // 2))
        liked = {*late.filter(pl.col("rating") >= config.like_rating)["item"]}
        words = "\n".join(early["text"])
        if not liked or not words.strip():
            continue
        by_words = recommender.recommend(n=20, likes=words)["item"].to_list()
        for name, listed in zip(recalls, (popular, unknown, by_words), strict=True):
            recalls[name].append(len(liked.intersection(listed)) / len(liked))
    rng = np.random.default_rng(options.seed)
    gain = np.array(recalls["words"]) - np.array(recalls["popularity"])
    samples = rng.choice(gain, (10_000, len(gain))).mean(1)
    for name, values in recalls.items():
        print(f"recall@20 of {name}: {np.mean(values):.4f}")
    low, high = np.quantile(samples, (0.025, 0.975))
    print(
        f"words minus popularity: {gain.mean():+.4f} ({low:+.4f} to {high:+.4f}), {len(gain)} users"
    )


if __name__ == "__main__":
    main()
