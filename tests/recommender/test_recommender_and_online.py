"""A recommender on a small Sample City: predictions, lists, reasons, live reviews, saving and loading."""

import copy
import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch

from mmrec.config import AnnotationConfig, Config
from mmrec.errors import DataError
from mmrec.evidence.policies import EvidenceViews
from mmrec.features.dataset import Dataset
from mmrec.llm.types import Wish
from mmrec.recommender.explain import KNOWLEDGE_GROUPS
from mmrec.recommender.live_reviews import LiveReview, LiveReviews
from mmrec.recommender.online import OnlineState
from mmrec.recommender.recommender import Recommender
from mmrec.vision.image_features import PhotoAnnotator
from model_files import files_of

TEXT = "The ramen was wonderful and cheap. The waiter was slow."
DESCRIPTION = "Sichuan hotpot with numbing pepper broth. Cheap lunch menu."


@pytest.fixture(scope="module")
def users(fitted):
    return [*fitted.state.online.ids["user"]]


@pytest.fixture(scope="module")
def items(fitted):
    return [*fitted.state.online.ids["item"]]


@pytest.fixture
def live(model):
    """The same recommender, to which reviews and items may be added."""
    return Recommender.load(model)


def test_any_pair_has_a_prediction_and_lists_agree_with_them(fitted, users, items):
    user = users[0]
    probability = fitted.predict([user, "stranger"] * 2, [items[0], items[0], "unknown", "unknown"])
    assert ((probability > 0) & (probability < 1)).all()
    assert len(set(probability.round(9))) == 4
    rows = fitted.recommend(user, 5)
    expected = fitted.predict([user] * 5, rows["item"].to_list())
    assert rows["probability"].to_list() == pytest.approx(expected, abs=1e-6)
    assert fitted.recommend(user, 5, caution=1e6)["probability"].is_sorted(descending=True)
    reviewed = set(fitted.saved.reviews.table.filter(user=user)["item"])
    assert reviewed
    assert set(fitted.recommend(user, 100)["item"]) == {*items} - reviewed
    assert set(fitted.recommend(user, 100, seen=True)["item"]) == {*items}


def test_words_of_a_new_user_find_the_cuisine_twice_as_often_as_chance(fitted):
    places = (Path(fitted.saved.reviews.source).parent / "places.jsonl").read_text().splitlines()
    cuisines = {place["business_id"]: place["cuisines"] for place in map(json.loads, places)}
    hits, chances = [], []
    for cuisine in sorted({*chain(*cuisines.values())}):
        rows = fitted.recommend(likes=f"{cuisine} food", n=3)
        hits.append(np.mean([cuisine in cuisines[item] for item in rows["item"]]))
        chances.append(np.mean([cuisine in served for served in cuisines.values()]))
    assert np.mean(hits) > 2 * np.mean(chances)
    for words in (",", " ;, ", "   "):
        assert fitted.recommend(likes=words, n=3).height == len(fitted.search(words, 3)) == 3
    assert fitted.search("sushi and sashimi", 10)[:3] == fitted.search("sushi and sashimi", 3)


def test_a_list_is_for_a_user_or_words_or_liked_items_of_a_fitted_model(fitted, tmp_path):
    for arguments in ({}, {"user": "ann", "likes": "ramen"}, {"likes": ""}):
        with pytest.raises(DataError, match="just one of these"):
            fitted.recommend(**arguments)
    with pytest.raises(DataError, match="check the id or the name"):
        fitted.recommend(liked=["&%!"])
    with pytest.raises(DataError, match="call fit"):
        Recommender(Config(store=tmp_path / "store.sqlite")).recommend("ann")


def test_contributions_add_up_and_quotes_are_sentences_of_reviews(fitted, users):
    user = users[0]
    item = fitted.recommend(user, 1)["item"][0]
    why = fitted.explain(user, item)
    assert why.probability == pytest.approx(float(fitted.predict([user], [item])[0]), abs=1e-6)
    assert why.base == pytest.approx(float(fitted.predict(["stranger"], ["unknown"])[0]), abs=1e-6)
    assert sum(why.contributions.values()) == pytest.approx(why.probability - why.base, abs=1e-6)
    assert list(why.contributions) == list(KNOWLEDGE_GROUPS)
    texts = dict(fitted.saved.reviews.table.select("review_id", "text").rows())
    assert why.quotes
    assert all(quote.text in texts[quote.review_id] for quote in why.quotes)
    assert len({quote.review_id for quote in why.quotes}) == len(why.quotes)
    # The nearest quote is the user's own sentence, whichever it is.
    quotes = fitted.state.catalog.quotes(fitted.state.online.codes["item"][item])
    for quote in (quotes[0], quotes[-1]):
        new_user = fitted.explain(None, item, likes=quote.text)
        assert new_user.quotes[0].text == quote.text
        assert new_user.contributions["your ratings"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="no review of item"):
        fitted.explain(user, "unknown")


def test_a_saved_model_answers_as_before(fitted, model, users, items):
    again = Recommender.from_pretrained(model, trust=True)
    assert again.recommend(users[0], 10).equals(fitted.recommend(users[0], 10))
    assert again.recommend(likes="ramen").equals(fitted.recommend(likes="ramen"))
    assert again.explain(users[0], items[0]) == fitted.explain(users[0], items[0])
    assert again.saved.evaluation.metrics == fitted.saved.evaluation.metrics
    assert again.config.store == fitted.config.store
    assert again.saved.notes == fitted.saved.notes != []
    assert {file.suffix for file in files_of(model).iterdir()} == {".json", ".safetensors"}


def test_one_seed_fits_one_model_and_summaries_serve_too(fitted):
    reviews = fitted.saved.reviews
    again = Recommender(fitted.config).fit(reviews)
    assert again.saved.evaluation.metrics == fitted.saved.evaluation.metrics
    config = fitted.config.model_copy(update={"annotation": AnnotationConfig(strategy="summary")})
    summarised = Recommender(config).fit(replace(reviews, table=reviews.table.head(300)))
    assert set(summarised.state.online.features.user.vectors) == {"summary"}
    assert summarised.recommend(likes="ramen, quiet places", n=3).height == 3


def test_the_bias_model_in_place_of_an_unproven_one_takes_live_reviews_and_explains_itself(
    fitted, users, items, tmp_path
):
    ranker = fitted.config.ranker.model_copy(update={"fallback": True})
    config = fitted.config.model_copy(update={"ranker": ranker})
    simple = Recommender.load(Recommender(config).fit(fitted.saved.reviews).save(tmp_path / "model"))
    assert simple.saved.name == "bias model"
    assert simple.saved.evaluation.verdict.sentence in (tmp_path / "model/README.md").read_text()
    # The order is that of the effects of users and items.
    features = simple.state.online.features
    column = features.item.names.index("rating effect")
    probability = simple.predict([users[0]] * len(items), items)
    order = np.argsort(features.item.dense[: len(items), column], kind="stable")
    assert (np.diff(probability[order]) >= 0).all()
    reasons = simple.explain(users[0], items[0]).contributions
    words = [reasons[name] for name in KNOWLEDGE_GROUPS if "words" in name]
    assert words == pytest.approx([0, 0], abs=1e-9)
    before = simple.predict([users[0], users[1]], [items[0], items[0]])
    simple.add_review(users[0], items[0], 1.0, TEXT, "live-1")
    assert (simple.predict([users[0], users[1]], [items[0], items[0]]) < before).all()


def test_filters_and_the_operating_point_leave_out_items(fitted, users):
    every_item = fitted.recommend(users[0], 100, seen=True)
    category = every_item["categories"].explode().mode().sort()[0]
    rows = fitted.recommend(users[0], 100, seen=True, categories=[category])
    assert 0 < len(rows) < len(every_item)
    assert all(category in categories for categories in rows["categories"])
    prices = every_item["price"].drop_nulls().unique().to_list()
    assert prices
    for price in prices:
        assert {*fitted.recommend(users[0], 100, seen=True, prices=[price])["price"]} == {price}
        # Filters go before nearness in words.
        for words in ("ramen", "pizza", "tacos", "quiet places"):
            assert fitted.recommend(likes=words, n=1, prices=[price])["price"].to_list() == [price]
    assert len(fitted.recommend(users[0], 100, categories=["no such thing"])) == 0
    counts = [len(fitted.recommend(users[0], 100, seen=True, max_fpr=bound)) for bound in (0, 0.2, 1)]
    assert counts == sorted(counts)
    assert counts[-1] == len(every_item)
    # Some items are less probable than any validation review.
    lowest, _ = fitted.saved.evaluation.curve.for_max_fpr(1)
    assert min(fitted.recommend_all(100, seen=True)["probability"]) < lowest
    assert fitted.recommend_all(100, max_fpr=1, seen=True).equals(fitted.recommend_all(100, seen=True))
    threshold, _ = fitted.saved.evaluation.curve.for_max_fpr(0.2)
    assert (fitted.recommend(users[0], 100, seen=True, max_fpr=0.2)["probability"] >= threshold).all()


def test_a_diverse_list_has_unlike_items(fitted, users):
    plain, mixed = (fitted.recommend(users[0], 5, diversity=share)["item"].to_list() for share in (0, 0.9))
    assert plain[0] == mixed[0]
    likeness = []
    for listed in (plain, mixed):
        cosines = [dict(fitted.similar_items(item, 100)) for item in listed]
        likeness.append(sum(near.get(item, 0) for near in cosines for item in listed))
    assert likeness[1] < likeness[0]


def test_a_diverse_list_has_unrated_items_last_too(live, users):
    new = [f"new {number}" for number in range(5)]
    for number, item in enumerate(new):
        live.add_item(item, description=live.state.dataset.texts[7 * number])
    for user in (users[0], "stranger"):
        size = live.recommend(user, 100)["item"].len()
        for share in (0, 0.5, 1):
            assert {*live.recommend(user, 100, diversity=share)["item"][-5:]} == {*new}
            listed = live.recommend(user, size - 6, diversity=share)["item"]
            assert listed.len() == size - 6
            assert {*listed}.isdisjoint(new)
    explored = live.recommend(users[0], 5, diversity=1, explore=True)["item"]
    assert not {*explored}.isdisjoint(new)


def test_a_new_user_may_name_liked_items(fitted, items):
    rows = fitted.recommend(liked=[items[0]], n=100)
    assert {*rows["item"]} == {*items[1:]}
    other = fitted.recommend(liked=[rows["item"][-1]], n=100)
    assert rows["item"].head(5).to_list() != other["item"].head(5).to_list()


def test_a_liked_item_may_be_named_by_its_name(fitted, live):
    names = dict(fitted.saved.reviews.items.select("item", "name").rows())
    item, name = next(iter(names.items()))
    by_name = fitted.recommend(liked=[name.upper()], n=5)
    assert by_name.equals(fitted.recommend(liked=[item], n=5))
    with pytest.raises(DataError, match=f"did you mean {name}"):
        fitted.recommend(liked=[name[:-1]])
    live.add_item("second", name=name, description=DESCRIPTION)
    with pytest.raises(DataError, match=f"2 items have the name .* as in {item}, second"):
        live.recommend(liked=[name])


def test_a_wish_may_be_given_with_names_that_no_item_has(live):
    item, name = live.saved.reviews.items.select("item", "name").row(0)
    for wish in (Wish(items=["No Such Place"]), Wish(similar_to=["No Such Place"])):
        assert live.recommend(likes=wish, n=3).height == 3
        assert live.explain(None, item, likes=wish).probability > 0
    assert live.recommend(likes=Wish(items=[f"{name}s"]), n=1)["item"].to_list() == [item]


def test_only_the_named_item_counts_as_liked_in_a_wish(live):
    item, name = live.saved.reviews.items.select("item", "name").row(0)
    live.add_item("longer", name=f"{name} Express Cafe", description="Cheap burgers and fries.")
    tastes = live.state.reasons.tastes(None, live.parse_wish(f"a place like {name}"), [])
    assert tastes.liked.tolist() == [live.state.online.codes["item"][item]]


@pytest.mark.parametrize("rules", [{"caution": -1}, {"caution": np.inf}, {"max_fpr": 1.5}])
def test_rules_out_of_range_are_refused(fitted, rules):
    for recommend in (fitted.recommend, fitted.recommend_all):
        with pytest.raises(DataError, match=f"{next(iter(rules))} .*: give a"):
            recommend("anybody" if recommend == fitted.recommend else 3, **rules)


def test_a_longer_list_of_a_wish_begins_like_a_shorter_one(fitted):
    for words in ("cheap ramen, no seafood", "quiet places", "a place like nothing else", "not expensive"):
        rows = fitted.recommend(likes=words, n=10)
        assert rows["item"].head(5).to_list() == fitted.recommend(likes=words, n=5)["item"].to_list()
    item, name = fitted.saved.reviews.items.select("item", "name").row(0)
    assert fitted.recommend(likes=f"take me to {name}", n=3, max_fpr=0.0)["item"].to_list() == [item]
    bold, usual, cautious = (
        fitted.recommend(likes="quiet places", n=3, caution=caution)["probability"].mean()
        for caution in (0, None, 100)
    )
    assert bold <= usual <= cautious
    assert bold < cautious
    wish = fitted.parse_wish(f"a place like {name}, not expensive")
    assert str(wish) == f"not expensive; like {name}"
    assert item not in fitted.recommend(likes=wish, n=100)["item"]
    assert fitted.search(name, 1) == [item]


def test_quotes_speak_for_the_wish_or_reasons_say_that_none_does(live, items):
    item, other = live.saved.reviews.items.select("item", "name").rows()[:2]
    praise = f"The zabaglione was superb. The zabaglione of {other[1]} is superb."
    live.add_review("ann", item[0], 5.0, praise, "live-1")
    why = live.explain(None, item[0], likes="zabaglione, karaoke")
    assert why.quotes[0].text == "The zabaglione was superb."
    against = [reason.text for reason in why.reasons if reason.kind == "wish"]
    assert against == ["None of its quoted reviews praises it for “karaoke”"]
    named = [quote.text for quote in live.state.catalog.quotes(live.state.online.codes["item"][item[0]])]
    assert not any(other[1] in text for text in named)


def test_a_long_text_describes_a_taste(fitted):
    ramen, tacos = (f"The {dish} was rich and wonderful, I loved it. " * 8 for dish in ("ramen", "taco"))
    understood = "a description of tastes, not a wish, since it has more than 60 words (72)"
    assert str(fitted.parse_wish(ramen)) == understood
    lists = [fitted.recommend(likes=text, n=25) for text in (ramen, tacos)]
    assert lists[0].height == lists[1].height == 25
    assert lists[0]["item"].to_list() != lists[1]["item"].to_list()
    assert lists[0]["item"].head(5).to_list() == fitted.recommend(likes=ramen, n=5)["item"].to_list()
    assert len({*fitted.search(ramen, 7)}) == 7


def test_each_line_of_a_long_text_is_read_as_a_review_of_an_unknown_item(fitted):
    lines, maker = ["The ramen was rich. " * 20, "Kind staff, fair prices. " * 20], fitted.state.list_maker
    listed = fitted.recommend(likes="\n\n".join(lines), n=8, caution=0)["item"]
    topics = maker.retrieval.axes.topics(lines, fitted.models.encoder.encode(lines))
    history = maker.histories.of_texts(topics, maker.retrieval.proposers.items)
    assert history.visits.nnz == 0
    ((found, _),) = maker.retrieval.candidates(history, 100)
    assert listed.to_list() == [fitted.state.online.ids["item"][code] for code in found[:8]]


def test_similar_items_and_users_are_never_themselves(fitted, users, items):
    near = dict(fitted.similar_items(items[0], 5))
    assert len(near) == 5
    assert items[0] not in near
    assert [*near.values()] == sorted(near.values(), reverse=True)
    assert users[0] not in dict(fitted.similar_users(users[0], 5))
    with pytest.raises(DataError, match="check the id"):
        fitted.similar_users("nobody")


def test_a_live_review_changes_lists_and_reasons_at_once(live, users, items, tmp_path):
    pair = [users[0], "newcomer"], [items[2]] * 2
    before = live.predict(*pair)
    text = "Awful and overpriced. The service was rude."
    for number, item in enumerate(items[:4]):
        live.add_review("newcomer", item, 1.0, text, f"live-{number}")
    assert (live.predict(*pair) < before).all()
    rows = live.recommend("newcomer", 100)
    assert {*rows["item"]} == {*items[4:]}
    probability = live.predict(["newcomer"] * len(rows), rows["item"].to_list())
    assert rows["probability"].to_list() == pytest.approx(probability, abs=1e-5)
    live.add_review("newcomer", "a new place", 5.0, "The ramen was wonderful.", "live-9")
    assert "a new place" in live.recommend(users[0], 100)["item"].to_list()
    assert live.explain(users[0], "a new place").quotes[0].review_id == "live-9"
    with pytest.raises(DataError, match="fit again"):
        live.save(tmp_path)


def test_all_users_at_once_get_what_each_gets_alone(fitted, users):
    rows = fitted.recommend_all(4, max_fpr=0.5)
    assert set(rows["user"]) <= {*users}
    assert rows.columns == ["user", "rank", "item", "probability"]
    for user in users[:5]:
        listed, alone = rows.filter(user=user), fitted.recommend(user, 4, max_fpr=0.5)
        assert listed["item"].to_list() == alone["item"].to_list()
        assert listed["rank"].to_list() == list(range(1, len(alone) + 1))
        assert listed["probability"].to_list() == pytest.approx(alone["probability"].to_list())
    rows = fitted.recommend_all(2, users=[users[3], "stranger"], seen=True)
    assert rows["user"].to_list() == [users[3]] * 2 + ["stranger"] * 2
    assert fitted.recommend_all(2, users=[]).height == 0


def test_a_new_item_is_found_by_its_description(live, users):
    before = live.predict(["stranger"], ["hotpot"])
    live.add_item("hotpot", name="The Hot Pot", description=DESCRIPTION)
    assert live.predict(["stranger"], ["hotpot"]) != pytest.approx(before, abs=1e-6)
    assert "hotpot" in live.recommend(users[0], 100)["item"]
    assert live.recommend(likes="sichuan hotpot with numbing broth", n=3)["item"][0] == "hotpot"
    assert live.search("hot pot")[0] == "hotpot"
    described = live.state.catalog.describe(live.state.online.views("item", ["hotpot"]))
    assert described["name"][0] == "The Hot Pot"
    assert live.explain(users[0], "hotpot").probability > 0
    assert len(live.similar_items("hotpot", 3)) == 3
    with pytest.raises(DataError, match="in words"):
        live.add_item("nothing")


def test_a_new_item_is_known_by_one_photo(live, fitted):
    photo = Path(fitted.saved.reviews.items["photos"].explode().drop_nulls()[0])
    caption = PhotoAnnotator(live.models.store, 10**6).caption_photo(photo, live.models.captioner)
    assert caption
    before = live.predict(["stranger"], ["new"])
    live.add_item("new", captions=[caption])
    assert live.predict(["stranger"], ["new"]) != pytest.approx(before, abs=1e-9)
    code = live.state.online.codes["item"]["new"]
    assert not live.state.list_maker.retrieval.proposers.topics[code].any()
    assert live.state.online.features.item.present["photos"][code] == 1


@pytest.fixture
def corrected(model, tmp_path):
    """A saved model with random weights in the last layer of its DLRM, as if validation had proven it."""
    recommender = Recommender.load(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in recommender.saved.model.ranker.top[-1].parameters():
            parameter.normal_(std=0.3, generator=generator)
    return recommender.save(tmp_path / "model")


def check_lists_of_everyone(recommender):
    """Everyone gets a list of all items, and its probabilities are those of single pairs."""
    users, items = recommender.state.online.ids["user"], recommender.state.online.ids["item"]
    lists = recommender.recommend_all(len(items), seen=True)
    assert set(lists["user"]) == {*users}
    assert lists.height == len(items) * len(users)
    some = lists.filter(pl.col("user").is_in(["ann", *users[:3]]))
    pairs = recommender.predict(some["user"].to_list(), some["item"].to_list())
    assert some["probability"].to_numpy() == pytest.approx(pairs, abs=1e-5)
    for taste in ({"likes": "ramen, quiet"}, {"liked": items[:2]}):  # users of no view of the model
        rows = recommender.recommend(n=4, **taste)
        explained = [recommender.explain(None, item, **taste).probability for item in rows["item"]]
        assert len(explained) == 4
        assert rows["probability"].to_list() == pytest.approx(explained, abs=1e-5)


def test_everyone_gets_a_list_after_a_new_item(corrected, model):
    recommender = Recommender.load(corrected)
    users, items = ["ann"] * 5, recommender.state.online.ids["item"][:5]
    uncorrected = Recommender.load(model).predict(users, items)
    assert np.abs(uncorrected - recommender.predict(users, items)).max() > 1e-3
    before = recommender.predict(["ann"], ["hotpot"])
    check_lists_of_everyone(recommender)
    recommender.add_item("hotpot", name="The Hot Pot", description=DESCRIPTION)
    recommender.add_review("ann", "hotpot", 5.0, "Wonderful broth!", "review-1")
    recommender.add_review("ann", "another new place", 2.0, "Dull and dear.", "review-2")
    check_lists_of_everyone(recommender)
    assert abs(recommender.predict(["ann"], ["hotpot"]) - before)[0] > 1e-3
    assert "hotpot" in recommender.recommend("u0001", 1000, seen=True)["item"]


def test_everyone_gets_a_list_after_a_restart_of_the_service(corrected, tmp_path):
    pytest.importorskip("sqlalchemy", reason="mmrec[serve] is not installed")
    from mmrec.service.live_store import LiveStore
    from mmrec.service.recommendations import RecommendationService

    url = f"sqlite:///{tmp_path / 'live.sqlite'}"
    running = RecommendationService(Recommender.load(corrected), LiveStore(url))
    running.add_item("hotpot", "The Hot Pot", DESCRIPTION, None)
    running.add_review("ann", "hotpot", 5.0, "Wonderful broth!")
    restarted = RecommendationService(Recommender.load(corrected), LiveStore(url))
    with running.recommender() as before, restarted.recommender() as after:
        check_lists_of_everyone(before)
        check_lists_of_everyone(after)
        users, items = after.state.online.ids["user"][:4], ["hotpot"] * 4
        assert after.predict(users, items) == pytest.approx(before.predict(users, items))


@pytest.fixture
def online(fitted):
    """A new state, whose features may be changed."""
    saved = replace(fitted.saved, features=copy.deepcopy(fitted.saved.features))
    dataset = fitted.state.dataset
    return OnlineState(saved, dataset, LiveReviews(dataset.data), fitted.models)


def add_review(online, user, item, rating, text, note):
    """Add a live review; codes of its user and its item."""
    outcome = {(user, item): LiveReview(user, item, rating, text, "live", note)}
    users, items = online.apply(online.read(outcome, online._models))
    return int(users[0]), int(items[0])


@pytest.mark.parametrize("is_new", [False, True])
def test_a_live_review_changes_features_as_a_fit_does(fitted, online, is_new):
    names = {"user": "somebody new", "item": "somewhere new"}
    if not is_new:
        names = {"user": online.ids["user"][3], "item": online.ids["item"][4]}
    (note,) = fitted.models.annotator.write_notes([TEXT])
    codes = add_review(online, names["user"], names["item"], 2.0, TEXT, note)
    # The same reviews and one more, from the start.
    row = names | {"rating": 2.0, "text": TEXT, "photos": [], "review_id": "live", "time": None}
    table = fitted.saved.reviews.table
    table = pl.concat([table, pl.DataFrame([row | {"captions": []}], schema=table.schema)])
    dataset = Dataset.from_reviews(replace(fitted.saved.reviews, table=table), fitted.models, fitted.config)
    builder, data = fitted.saved.model.builder.refit(dataset), dataset.data
    user = (online.features.user, codes[0], "user", data.user, data.users)
    item = (online.features.item, codes[1], "item", data.item, data.items)
    for live, code, kind, entity, ids in (user, item):
        fresh = builder.build(kind, EvidenceViews.all_reviews(entity), dataset)
        view = ids.index(names[kind])
        assert online.ids[kind][code] == names[kind]
        assert live.names == fresh.names
        assert live.vectors
        for name, block in live.vectors.items():
            difference = block[code].astype(float) - fresh.vectors[name][view].astype(float)
            assert np.abs(difference).max() < 2e-3
            assert live.present[name][code] == pytest.approx(fresh.present[name][view], abs=1e-5)
        assert live.categories[code].tolist() == fresh.categories[view].tolist()
        for name, value, expected in zip(live.names, live.dense[code], fresh.dense[view], strict=True):
            if name == "log count" and is_new:
                assert value == live.dense[live.unknown_index, live.names.index(name)]
            elif name != "spread":  # of residuals, which a fit changes for all reviews
                within = 0.1 if name in ("rating effect", "text rating effect") else 2e-2
                assert value == pytest.approx(expected, abs=within)


def test_a_review_that_cannot_be_encoded_changes_nothing(fitted, online, monkeypatch):
    before = copy.deepcopy((online.codes, online.ids))
    (note,) = fitted.models.annotator.write_notes([TEXT])
    monkeypatch.setattr(type(fitted.models.encoder), "encode", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        add_review(online, "somebody new", "somewhere new", 5.0, TEXT, note)
    assert (online.codes, online.ids) == before


def test_a_user_who_likes_items_gets_the_effects_of_five_stars(fitted, online):
    """As live reviews with five stars give them, one after the other, but for the items' changes."""
    items = [2, 5, 7]
    liked = online.user_who_likes(items)
    regression, penalty = fitted.saved.text_regression, fitted.saved.model.builder.penalties[0]
    effect = online.features.item.dense[items, online.features.item.names.index("rating effect")]
    above = 5.0 - regression.mean_rating - effect.astype(float)
    columns = dict(zip(liked.names, liked.dense[0].tolist(), strict=True))
    assert columns["rating effect"] == pytest.approx(above.sum() / (3 + penalty), abs=1e-5)
    unknown = dict(zip(liked.names, liked.dense[-1].tolist(), strict=True))
    spread = unknown["spread"] * 5 + ((above - columns["rating effect"]) ** 2).sum()
    assert columns["spread"] == pytest.approx(spread / 8, abs=1e-5)
    assert columns["text rating effect"] == unknown["text rating effect"]
    assert columns["log length"] == unknown["log length"]
    likes = online.features.item.vectors["likes"][items].astype(np.float32).mean(0)
    assert liked.vectors["likes"][0] == pytest.approx(likes, abs=1e-3)
    assert not liked.vectors["dislikes"][0].any()


def test_prices_that_no_item_can_have_are_an_error(fitted):
    with pytest.raises(DataError, match="price 'cheap': choose from cheap price, fair price, overpriced"):
        fitted.recommend(fitted.state.online.ids["user"][0], prices=["cheap price", "cheap"])
