"""`mmrec demo`: the whole pipeline on a generated city."""

from __future__ import annotations

from pathlib import Path

from mmrec.cli.fit import train_and_save
from mmrec.cli.options import AsJson, print_json
from mmrec.cli.recommend import print_recommendations
from mmrec.config import Config, ReadConfig
from mmrec.console import console

__all__ = ["demo"]


def demo(*, out: Path = Path("demo"), seed: int = 0, json: AsJson = False) -> None:
    """Generate a city, train on its reviews, and recommend ten places to one of its users.

    Args:
        out: folder for the city, the model and report.html.
        seed: of the city and of everything after it.
        json: print one JSON object instead of tables.
    """
    from mmrec.data.synthetic.city import write_sample_city
    from mmrec.recommender.recommender import Recommender

    city = out / "sample-city"
    console.print("generating Sample City")
    data = write_sample_city(city, seed=seed)
    config = Config(seed=seed, read=ReadConfig(items=city / "places.jsonl"))
    result = train_and_save(data, out, config, quiet=json)
    recommender = Recommender.load(out)
    user = recommender.reviews.table["user"].mode().sort()[0]
    rows = recommender.recommend(user, 10)
    if json:
        print_json({**result, "user": user, "recommendations": rows.to_dicts()})
        return
    print_recommendations(rows, f"Ten places for {user}, who wrote the most reviews")
    console.print(f"next, see the city in a browser: mmrec serve {out}", markup=False)
