"""`mmrec demo`: the whole pipeline on a town that it makes up."""

from __future__ import annotations

from pathlib import Path

from mmrec.cli.fit import train_and_save
from mmrec.cli.options import AsJson, print_json
from mmrec.cli.recommend import print_recommendations
from mmrec.config import Config, ReadConfig
from mmrec.console import console

__all__ = ["demo"]


def demo(*, out: Path = Path("demo"), seed: int = 0, json: AsJson = False) -> None:
    """Generate Sample City, learn from it, and recommend ten places to one of its people.

    Args:
        out: folder for the town, the model and report.html.
        seed: of the town and of everything after.
        json: print one JSON object instead of tables.
    """
    from mmrec.data.synthetic.city import write_sample_city
    from mmrec.recommender.recommender import Recommender

    city = out / "sample-city"
    console.print("drawing Sample City, a town that does not exist")
    data = write_sample_city(city, seed=seed)
    config = Config(seed=seed, read=ReadConfig(items=city / "places.jsonl"))
    result = train_and_save(data, out, config, quiet=json)
    recommender = Recommender.load(out)
    user = recommender.reviews.table["user"].mode().sort()[0]
    found = recommender.recommend(user, 10)
    if json:
        print_json({**result, "user": user, "recommendations": found.to_dicts()})
        return
    print_recommendations(found, f"Ten places for {user}, who wrote the most reviews")
    console.print(f"see the town in a browser: mmrec serve {out}", markup=False)
