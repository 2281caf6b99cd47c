"""Sample City is reproducible and well formed, and its texts tell more than its averages do."""

import hashlib
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from mmrec.data.synthetic.city import TRAITS, build_city, write_sample_city
from mmrec.data.synthetic.pictures import SCENES, draw_photo
from mmrec.data.synthetic.review_text import PHRASES
from mmrec.errors import ConfigError

SMALL = {"users": 30, "items": 15, "reviews": 160}


@pytest.fixture(scope="module")
def city():
    return build_city()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sample_city(tmp_path_factory.mktemp("city"), **SMALL).parent


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("seed", [0, 1])
def test_tastes_explain_clearly_more_than_averages(seed, city):
    city = build_city(seed) if seed else city
    like, users, items = city.rating >= 4, len(city.users.ids), len(city.items.ids)
    train = np.random.default_rng(seed).random(len(like)) < 0.75
    # Mean plus user and item biases, of least squares with a ridge of 3.
    design = np.hstack([np.eye(users)[city.user], np.eye(items)[city.item]])
    seen, mean = design[train], city.rating[train].mean()
    gram = seen.T @ seen + 3 * np.eye(users + items)
    scores = design @ np.linalg.solve(gram, seen.T @ (city.rating[train] - mean))
    bias = roc_auc_score(like[~train], scores[~train])
    oracle = roc_auc_score(like[~train], city.score[~train])
    assert 0.68 < bias < 0.80 < 0.86 < oracle < 0.94
    assert oracle - bias > 0.10


def test_the_city_is_the_same_on_every_machine(city):
    content = [city.user.tolist(), city.item.tolist(), city.rating.tolist(), city.text]
    content += [city.date.astype(str).tolist(), city.users.ids, city.items.ids, city.items.names]
    content += [city.items.cuisines, city.items.price_level.tolist(), city.items.traits.tolist()]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    assert digest[:16] == "875766eb0029ddf7"


def test_texts_tell_the_truth_about_items_and_users(city):
    quiet = TRAITS.index("quiet")
    loud = re.compile("earplugs|ears are still|too loud|so loud", re.IGNORECASE)
    complains = np.array([bool(loud.search(text)) for text in city.text])
    assert complains.sum() > 20
    assert set(city.items.traits[city.item[complains], quiet].tolist()) == {-1}
    assert (city.users.cares[city.user[complains], quiet] > 0).all()
    overpriced = np.array(["overpriced" in text.lower() for text in city.text])
    assert city.items.price_level[city.item[overpriced]].min() >= 3
    expensive = city.items.price_level[city.item] >= 3
    thrift = city.users.thrift[city.user]  # of the writer of each review
    assert thrift[overpriced].mean() > 2 * thrift[expensive].mean()


def test_people_go_where_they_expect_to_like_the_cuisine(city):
    main = np.array([list(PHRASES["cuisines"]).index(names[0]) for names in city.items.cuisines])
    chosen = city.users.tastes[city.user, main[city.item]].mean()
    assert chosen > city.users.tastes[:, main].mean() + 0.1


def test_the_phrase_bank_is_rich_and_whole():
    for templates in PHRASES["opinions"].values():
        choices = [re.findall(r"\[([^\]]*)\]", template) for template in templates]
        assert sum(math.prod(text.count("|") + 1 for text in texts) for texts in choices) >= 36
        assert {*re.findall(r"\{(\w+)\}", str(templates))} <= {*PHRASES["slots"], "dish", "food"}
    for cuisine in PHRASES["cuisines"].values():
        assert len(cuisine["dishes"]) >= 8
        assert {*cuisine["interiors"], *cuisine["plates"]} <= {*SCENES}
        assert set() < {*cuisine["pairs_with"]} <= {*PHRASES["cuisines"]}
    assert len(PHRASES["opinions"]) > 20 > len(PHRASES["cuisines"]) > 5


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    again = write_sample_city(tmp_path / "again", **SMALL).parent
    for path in (folder / "reviews.jsonl", folder / "places.jsonl", *(folder / "photos").iterdir()):
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()


def test_files_are_complete_and_photos_are_small(folder):
    reviews, places = rows(folder / "reviews.jsonl"), rows(folder / "places.jsonl")
    assert len(reviews) == 160
    assert ",".join(reviews[0]) == "user_id,business_id,rating,review_text,timestamp,photos"
    assert {row["business_id"] for row in reviews} == {row["business_id"] for row in places}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", str(row["timestamp"])) for row in reviews)
    assert all(row["price_level"] in (1, 2, 3, 4) for row in places)
    assert all(1 <= len(row["cuisines"]) <= 3 and 1 <= len(row["photos"]) <= 3 for row in places)
    assert 0 < sum(bool(row["photos"]) for row in reviews) < 50
    named = {path for row in reviews + places for path in row["photos"]}
    assert named == {f"photos/{path.name}" for path in (folder / "photos").iterdir()}
    for path in named:
        assert (folder / path).stat().st_size < 15_000
        with Image.open(folder / path) as photo:
            assert (photo.format, photo.size, photo.mode) == ("JPEG", (256, 192), "RGB")


def pixels(scene, price_level=2, ambience=0, seed=0):
    rng = np.random.default_rng(seed)
    return np.asarray(draw_photo(scene, price_level, ambience, rng)).astype(float)


def test_photos_have_detail_and_differ_and_light_follows_the_scene():
    for scene in SCENES:
        assert pixels(scene).std() > 15
        assert abs(pixels(scene) - pixels(scene, seed=1)).mean() > 5
    assert pixels("bar").mean() < 90 < 170 < pixels("cafe").mean()
    assert pixels("cafe", ambience=-1).mean() < pixels("cafe").mean()
    assert pixels("salad", price_level=3).mean() < pixels("salad", price_level=4).mean() - 30


@pytest.mark.parametrize(("reviews", "reason"), [(40, "at least"), (451, "at most")])
def test_too_few_or_too_many_reviews_are_refused(reviews, reason):
    with pytest.raises(ConfigError, match=reason):
        build_city(users=30, items=15, reviews=reviews)
