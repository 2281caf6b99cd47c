"""Random sequences of what people do: reviews, corrections, withdrawals, lists, explanations, restarts.

Whatever the sequence, results are those of the reviews that are left. A longer search for one that fails:
`MMREC_SEQUENCES=500 pytest tests/recommender/test_sequences.py`.
"""

import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from live_results import check_equal, check_like_fitted, results
from mmrec.recommender.live_reviews import LiveReview
from mmrec.recommender.recommender import Recommender
from serving import service_in_process

FEW = 4  # always the same ones
SEQUENCES = int(os.environ.get("MMREC_SEQUENCES", FEW))
TEXTS = [
    "",
    "The ramen was wonderful and cheap. Kind staff.",
    "Cold soup and rude staff. Overpriced.",
    "Quiet terrace. Nice noodles, fair price.",
    "🍜 zu laut!",
]


class Sequences(RuleBasedStateMachine):
    """What users do, and what must hold whatever they did; subclasses say with what it is done."""

    fitted: Recommender
    model: Path

    def __init__(self):
        super().__init__()
        table = self.fitted.saved.reviews.table
        self.names = {
            "user": [*table["user"].unique().sort()[:3], "ann", "bob"],
            "item": [*table["item"].unique().sort()[:4], "a new place"],
        }
        self.left = set(table.select("user", "item").unique().rows())
        self.changed = {}  # by pair: the last rating and text, or None
        self.folder = tempfile.TemporaryDirectory()
        self.stack = ExitStack()
        self.start()

    def pair(self, user, item):
        return self.names["user"][user], self.names["item"][item]

    @rule(
        user=st.integers(0, 4), item=st.integers(0, 4), rating=st.integers(1, 5), text=st.sampled_from(TEXTS)
    )
    def review(self, user, item, rating, text):
        pair = self.pair(user, item)
        self.send(*pair, float(rating), text)
        self.changed.pop(pair, None)
        self.changed[pair] = float(rating), text
        self.left.add(pair)

    @rule(user=st.integers(0, 4), item=st.integers(0, 4))
    def withdraw(self, user, item):
        pair = self.pair(user, item)
        assert self.take_back(*pair) == (pair in self.left)
        if pair in self.left:
            self.left.remove(pair)
            self.changed[pair] = None

    @rule(user=st.integers(0, 4))
    def recommend(self, user):
        user = self.names["user"][user]
        rows = self.list_of(user)
        items = [row["item"] for row in rows]
        assert len(items) == len(set(items)) > 0
        assert not {(user, item) for item in items} & self.left
        for row in rows:
            assert 0 < row["probability"] < 1
            why = row["why"]
            gain = pytest.approx(row["probability"] - why["base"], abs=1e-5)
            assert sum(why["contributions"].values()) == gain

    @precondition(lambda self: self.changed)
    @rule()
    def restart(self):
        self.stack.close()
        self.start()

    def fresh(self):
        """The saved model with all that was changed since, the last change first."""
        recommender = Recommender.load(self.model)
        for pair, change in reversed(self.changed.items()):
            if change is None:
                if recommender.has_reviewed(*pair):
                    recommender.withdraw_review(*pair)
            else:
                recommender.add_review(*pair, *change, str(pair))
        return recommender

    def teardown(self):
        try:
            self.check_at_end()
        finally:
            self.stack.close()
            self.folder.cleanup()


class LibrarySequences(Sequences):
    def start(self):
        self.live = Recommender.load(self.model)
        notes = self.live.models.annotator.write_notes(
            [change[1] for change in self.changed.values() if change]
        )
        outcome = {}
        for pair, change in self.changed.items():
            outcome[pair] = change and LiveReview(*pair, *change, str(pair), notes.pop(0))
        self.live.apply(self.live.read_changes(outcome))

    def send(self, user, item, rating, text):
        self.live.add_review(user, item, rating, text, str((user, item)))

    def take_back(self, user, item):
        is_there = self.live.has_reviewed(user, item)
        if is_there:
            self.live.withdraw_review(user, item)
        return is_there

    def list_of(self, user):
        rows = self.live.recommend(user, 5).to_dicts()
        whys = self.live.explain_list(user, [row["item"] for row in rows])
        return [row | {"why": vars(why)} for row, why in zip(rows, whys, strict=True)]

    def check_at_end(self):
        check_equal(results(self.live), results(self.fresh()))
        table = self.fitted.saved.reviews.table
        rows = [
            {"user": user, "item": item, "rating": change[0], "text": change[1]}
            for (user, item), change in self.changed.items()
            if change
        ]
        kept = table.filter(
            ~pl.struct("user", "item").is_in([{"user": user, "item": item} for user, item in self.changed])
        )
        added = pl.DataFrame(rows, {name: table.schema[name] for name in ("user", "item", "rating", "text")})
        reviews = replace(self.fitted.saved.reviews, table=pl.concat([kept, added], how="diagonal"))
        users, items = ({pair[place] for pair in self.changed} for place in (0, 1))
        check_like_fitted(self.live, self.fitted, reviews, users, items)


class ServiceSequences(Sequences):
    def start(self):
        database = f"sqlite:///{self.folder.name}/live.sqlite"
        self.service = self.stack.enter_context(
            service_in_process(self.model, database=database, per_minute=1_000_000)
        )

    def send(self, user, item, rating, text):
        body = {"user": user, "item": item, "rating": rating, "text": text}
        self.service.post("/v1/reviews", body, 201)

    def take_back(self, user, item):
        answer = self.service.client.post("/v1/withdrawals", json={"user": user, "item": item})
        assert answer.status_code in (204, 404), answer.text
        return answer.status_code == 204

    def list_of(self, user):
        return self.service.get(f"/v1/users/{user}/recommendations", params={"n": 5, "why": True})

    def check_at_end(self):
        fresh = self.fresh()
        pairs = [{"user": user, "item": item} for user in self.names["user"] for item in self.names["item"]]
        predicted = self.service.post("/v1/predictions", {"pairs": pairs})
        users, items = ([pair[kind] for pair in pairs] for kind in ("user", "item"))
        assert predicted == pytest.approx(fresh.predict(users, items).tolist(), abs=1e-3)
        for user in self.names["user"]:
            reviewed = {item for name, item in self.left if name == user}
            rows = self.list_of(user)
            assert [row["probability"] for row in rows] == pytest.approx(
                fresh.recommend(user, 5)["probability"].to_list(), abs=1e-3
            )
            assert {*self.service.get(f"/v1/users/{user}")["reviewed"]} == reviewed


@pytest.mark.parametrize("machine", [LibrarySequences, ServiceSequences])
def test_results_are_those_of_the_reviews_that_are_left(machine, model, fitted):
    if machine is ServiceSequences:
        pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
    kind = type(machine.__name__, (machine,), {"fitted": fitted, "model": model})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    phases = [phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
    chosen = settings(
        phases=phases,
        max_examples=SEQUENCES,
        stateful_step_count=15,
        deadline=None,
        derandomize=SEQUENCES == FEW,
        suppress_health_check=checks,
        database=None,
    )
    run_state_machine_as_test(kind, settings=chosen)
