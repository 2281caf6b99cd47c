"""The five verbs on a small Sample City."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmrec.config import AnnotationConfig, Config
from mmrec.errors import DataError, ModelError, PhotoError
from mmrec.recommender.explain import KNOWLEDGE_GROUPS
from mmrec.recommender.recommender import Recommender


def changed(fitted, **settings):
    """The same settings with the same store, but for some."""
    return fitted.config.model_copy(update=settings)


def test_nothing_can_be_asked_before_fitting(tmp_path):
    with pytest.raises(DataError, match="call fit"):
        Recommender(Config(store=tmp_path / "store.sqlite")).recommend("ann")


def test_predict_takes_any_user_and_any_item(fitted):
    user, item = fitted.state.dataset.data.users[0], fitted.state.dataset.data.items[0]
    chance = fitted.predict([user, "stranger", user, "stranger"], [item, item, "unknown", "unknown"])
    assert chance.shape == (4,)
    assert ((chance > 0) & (chance < 1)).all()
    assert len(set(chance.round(9))) == 4


def test_recommendations_agree_with_predictions_and_leave_out_what_was_reviewed(fitted):
    user = fitted.state.dataset.data.users[0]
    found = fitted.recommend(user, 5)
    np.testing.assert_allclose(
        found["probability"].to_numpy(), fitted.predict([user] * 5, found["item"].to_list()), atol=1e-6
    )
    assert found["probability"].is_sorted(descending=True)
    reviewed = set(fitted.reviews.table.filter(user=user)["item"])
    assert reviewed
    assert not reviewed & set(fitted.recommend(user, 100)["item"])
    assert set(fitted.recommend(user, 100, seen=True)["item"]) == set(fitted.state.dataset.data.items)


def test_words_of_a_stranger_bring_what_was_asked_for(fitted):
    """The cuisine that was asked for is among what comes back at twice its share in town or more."""
    truth = {}
    for line in (Path(fitted.reviews.source).parent / "places.jsonl").read_text().splitlines():
        place = json.loads(line)
        truth[place["business_id"]] = place["cuisines"]
    cuisines = sorted({cuisine for some in truth.values() for cuisine in some})
    share = []
    for cuisine in cuisines:
        found = fitted.recommend(likes=f"{cuisine} food", n=3)["item"]
        hit = np.mean([cuisine in truth[item] for item in found])
        share.append((hit, np.mean([cuisine in some for some in truth.values()])))
    hits, chance = np.mean(share, axis=0)
    assert hits > 2 * chance


@pytest.mark.parametrize("arguments", [{}, {"user": "ann", "likes": "ramen"}, {"likes": ""}])
def test_recommend_wants_a_user_or_words(fitted, arguments):
    with pytest.raises(DataError, match="just one of these"):
        fitted.recommend(**arguments)


def test_contributions_add_up_and_quotes_are_real(fitted):
    user = fitted.state.dataset.data.users[0]
    item = fitted.recommend(user, 1)["item"][0]
    why = fitted.explain(user, item)
    assert why.probability == pytest.approx(float(fitted.predict([user], [item])[0]), abs=1e-6)
    assert why.base == pytest.approx(float(fitted.predict(["stranger"], ["unknown"])[0]), abs=1e-6)
    assert sum(why.contributions.values()) == pytest.approx(why.probability - why.base, abs=1e-6)
    assert list(why.contributions) == list(KNOWLEDGE_GROUPS)
    texts = dict(zip(fitted.reviews.table["review_id"], fitted.reviews.table["text"], strict=True))
    assert why.quotes
    assert all(quote.text in texts[quote.review_id] for quote in why.quotes)
    stranger = fitted.explain(None, item, likes="quiet places")
    assert stranger.contributions["your ratings"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="there is no review of item"):
        fitted.explain(user, "unknown")


def test_a_saved_model_answers_as_before(fitted, tmp_path):
    again = Recommender.load(fitted.save(tmp_path / "model"))
    user = fitted.state.dataset.data.users[0]
    assert again.recommend(user, 10).equals(fitted.recommend(user, 10))
    assert again.recommend(likes="ramen").equals(fitted.recommend(likes="ramen"))
    item = fitted.state.dataset.data.items[0]
    assert again.explain(user, item) == fitted.explain(user, item)
    assert again.evaluation.metrics == fitted.evaluation.metrics
    assert not [file for file in (tmp_path / "model").iterdir() if file.suffix in (".pkl", ".pt", ".bin")]


@pytest.mark.parametrize(
    "file", ["model.json", "model.safetensors", "features.safetensors", "reviews.parquet"]
)
def test_every_damaged_file_is_told(fitted, tmp_path, file):
    folder = fitted.save(tmp_path / "model")
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged"):
        Recommender.load(folder)


def test_the_store_of_another_machine_is_not_asked_for(fitted, tmp_path):
    folder = fitted.save(tmp_path / "model")
    assert Recommender.load(folder).config.store == fitted.config.store
    manifest = json.loads((folder / "model.json").read_text())
    manifest["config"]["store"] = str(tmp_path / "elsewhere" / "store.sqlite")
    (folder / "model.json").write_text(json.dumps(manifest))
    assert Recommender.load(folder).config.store is None


def test_a_model_of_another_format_is_refused(fitted, tmp_path):
    folder = fitted.save(tmp_path / "model")
    manifest = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ModelError, match="fit again"):
        Recommender.load(folder)


def test_the_same_seed_fits_the_same_model(fitted):
    again = Recommender(fitted.config).fit(fitted.reviews)
    assert again.evaluation.metrics == fitted.evaluation.metrics


def test_summaries_fit_and_serve_too(fitted):
    summarised = Recommender(changed(fitted, annotation=AnnotationConfig(strategy="summary"))).fit(
        fitted.reviews
    )
    assert set(summarised.state.online.features.user.vectors) == {"summary"}
    assert summarised.recommend(likes="ramen, quiet places", n=3).height == 3


def test_filters_and_the_operating_point_leave_out(fitted):
    user = fitted.state.dataset.data.users[0]
    everything = fitted.recommend(user, 100, seen=True)
    wanted = everything["categories"].explode().mode().sort()[0]
    some = fitted.recommend(user, 100, seen=True, categories=[wanted])
    assert 0 < len(some) < len(everything)
    assert all(wanted in own for own in some["categories"])
    priced = everything.filter(everything["price"].is_not_null())["price"][0]
    assert set(fitted.recommend(user, 100, seen=True, prices=[priced])["price"]) == {priced}
    assert len(fitted.recommend(user, 100, categories=["no such thing"])) == 0
    kept = [len(fitted.recommend(user, 100, seen=True, max_fpr=bound)) for bound in (0.0, 0.2, 1.0)]
    assert kept == sorted(kept)
    assert kept[-1] == len(everything)
    threshold, _ = fitted.evaluation.curve.for_max_fpr(0.2)
    assert (fitted.recommend(user, 100, seen=True, max_fpr=0.2)["probability"] >= threshold).all()


def test_diversity_brings_unlike_items_up(fitted):
    user = fitted.state.dataset.data.users[0]
    plain, mixed = (fitted.recommend(user, 5, diversity=share)["item"].to_list() for share in (0.0, 0.9))
    assert plain[0] == mixed[0]
    assert plain != mixed

    def alike(items: list[str]):
        return sum(dict(fitted.similar_items(one, 100)).get(other, 0) for one in items for other in items)

    assert alike(mixed) < alike(plain)


def test_a_stranger_may_name_what_they_like(fitted):
    item = fitted.state.dataset.data.items[0]
    found = fitted.recommend(liked=[item], n=100)
    assert item not in found["item"].to_list()
    assert len(found) == len(fitted.state.dataset.data.items) - 1
    other = fitted.recommend(liked=[found["item"][-1]], n=100)
    assert found["item"].head(5).to_list() != other["item"].head(5).to_list()
    with pytest.raises(DataError, match="check the id"):
        fitted.recommend(liked=["nowhere"])


def test_similar_items_and_users_are_never_themselves(fitted):
    item, user = fitted.state.dataset.data.items[0], fitted.state.dataset.data.users[0]
    near = fitted.similar_items(item, 5)
    assert len(near) == 5
    assert item not in dict(near)
    assert [value for _, value in near] == sorted((value for _, value in near), reverse=True)
    assert user not in dict(fitted.similar_users(user, 5))
    with pytest.raises(DataError, match="check the id"):
        fitted.similar_users("nobody")


def test_a_live_review_changes_lists_and_reasons_at_once(fitted, tmp_path):
    alive = Recommender.load(fitted.save(tmp_path))
    user, items = fitted.state.dataset.data.users[0], fitted.state.dataset.data.items
    before = alive.predict([user, "newcomer"], [items[2], items[2]])
    for at in range(4):
        alive.add_review(
            "newcomer", items[at], 1.0, "Awful and overpriced. The service was rude.", f"live-{at}"
        )
    after = alive.predict([user, "newcomer"], [items[2], items[2]])
    assert (after < before).all()
    listed = alive.recommend("newcomer", 100)
    assert not {*items[:4]} & {*listed["item"]}
    asked = alive.predict(["newcomer"] * len(listed), listed["item"].to_list())
    np.testing.assert_allclose(listed["probability"], asked, atol=1e-5)
    alive.add_review("newcomer", "a new place", 5.0, "The ramen was wonderful.", "live-9")
    assert "a new place" in alive.recommend(user, 100)["item"].to_list()
    assert alive.explain(user, "a new place").quotes[0].review_id == "live-9"
    with pytest.raises(DataError, match="fit again"):
        alive.save(tmp_path)


def test_all_users_at_once_get_what_each_gets_alone(fitted):
    users = fitted.state.dataset.data.users
    found = fitted.recommend_all(4, max_fpr=0.5)
    assert set(found["user"]) <= set(users)
    assert found.columns == ["user", "rank", "item", "probability"]
    for user in users[:5]:
        own, alone = found.filter(user=user), fitted.recommend(user, 4, max_fpr=0.5)
        assert own["item"].to_list() == alone["item"].to_list()
        assert own["rank"].to_list() == list(range(1, len(alone) + 1))
        assert own["probability"].to_list() == pytest.approx(alone["probability"].to_list())
    some = fitted.recommend_all(2, users=[users[3], "stranger"], seen=True)
    assert some["user"].to_list() == [users[3]] * 2 + ["stranger"] * 2
    assert fitted.recommend_all(2, users=[]).height == 0


def test_filters_go_before_nearness_in_words(fitted):
    everything = fitted.recommend("stranger", 100)
    for price in everything["price"].drop_nulls().unique():
        for words in ("ramen", "pizza", "tacos", "quiet places"):
            found = fitted.recommend(likes=words, n=1, prices=[price])
            assert found["price"].to_list() == [price]


@pytest.mark.parametrize("words", [",", " ;, ", "   "])
def test_words_that_say_nothing_are_words_too(fitted, words):
    assert fitted.recommend(likes=words, n=3).height == 3
    assert len(fitted.search(words, 3)) == 3


def test_a_search_brings_the_nearest_first(fitted):
    asked = "sushi and sashimi"
    found, more = fitted.search(asked, 3), fitted.search(asked, 10)
    assert more[:3] == found


def test_an_item_that_opened_today_is_found_by_its_description(fitted, tmp_path):
    alive = Recommender.load(fitted.save(tmp_path))
    words = "Sichuan hotpot with numbing pepper broth. Cheap lunch menu."
    before = alive.predict(["stranger"], ["hotpot"])
    alive.add_item("hotpot", name="The Hot Pot", description=words)
    assert alive.predict(["stranger"], ["hotpot"]) != pytest.approx(before, abs=1e-6)
    assert "hotpot" in alive.recommend(fitted.state.dataset.data.users[0], 100)["item"]
    assert alive.recommend(likes="sichuan hotpot with numbing broth", n=3)["item"][0] == "hotpot"
    assert alive.search("hot pot")[0] == "hotpot"
    assert (
        alive.state.catalog.describe(alive.state.online.views("item", ["hotpot"]))["name"][0] == "The Hot Pot"
    )
    assert alive.explain(fitted.state.dataset.data.users[0], "hotpot").probability > 0
    assert len(alive.similar_items("hotpot", 3)) == 3
    with pytest.raises(DataError, match="in words"):
        alive.add_item("nothing")


def test_an_item_that_opened_today_is_known_by_one_photo(fitted, tmp_path):
    alive = Recommender.load(fitted.save(tmp_path / "model"))
    photo = next(path for own in fitted.reviews.items["photos"] for path in own)
    caption = alive.caption(Path(photo))
    assert caption
    before = alive.predict(["stranger"], ["new"])
    alive.add_item("new", captions=[caption])
    assert alive.predict(["stranger"], ["new"]) != pytest.approx(before, abs=1e-9)
    code = alive.state.online.codes["item"]["new"]
    assert alive.state.online.features.item.present["photos"][code] == 1
    with pytest.raises(PhotoError):
        alive.caption(tmp_path / "places.jsonl")
