"""How well items match a wish: what their reviews mention, their categories, their prices."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import methodcaller

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.lexicon import Lexicon
from mmrec.llm.types import PRICE_TAGS, PriceTag, Wish
from mmrec.retrieval.review_texts import (
    GrowingTexts,
    ReviewTexts,
    content_words,
    phrase_patterns,
    plain_words,
)

_CLEAR_MATCH = 4.0  # log-odds; between better matches the probability of a like decides
_SOFT_FLOOR = 0.1  # what is left of a probability where a quality or the price is missing
_TAG_SHARE = 0.05  # of an item's reviews, from which on a category is one of its tags
_TAG_FACTOR = 0.01  # of the probability of an item that has an unwanted tag
_SIMILAR_FACTOR = 1e-3  # of items that are like a wanted one, which stand far behind it
_LIKENESS_SLOPE = 12.0  # log-odds by cosine: few items are clearly alike

# Log-odds that an item has what a phrase names. By how far each kind of evidence may move them, so
# that none decides alone; and its weight beside words that stand in reviews, which mislead least.
_PRIOR_LOG_ODDS = -2.0  # of an item of which nothing is known: one in eight
_MENTION_LIMITS, _LABEL_LIMITS, _MEANING_LIMITS = (-3, 6), (-4, 6), (-2, 4)
_LABEL_WEIGHT, _MEANING_WEIGHT, _FEEDBACK_WEIGHT = 0.7, 0.5, 4.0
_NAME_MENTIONS = 3  # a name that has the phrase counts like so many reviews
_ENOUGH_MENTIONS = 2  # with more, shorter parts of the phrase are not looked for
_THING_LIMIT, _QUALITY_LIMIT = 8.0, 3.0  # of all evidence; quality: "quiet"


@dataclass(frozen=True)
class WishMatch:
    """How m items match a wish: the probability of each, and which are out of the question."""

    probability: np.ndarray  # (m,) that the item is what is wished for
    excluded: np.ndarray  # (m,) bool: has what is not wanted, or others are to be like it
    named: np.ndarray  # (m,) bool, is itself asked for
    unmatched: list[str]  # wanted phrases that fit no item

    @property
    def log_odds(self) -> np.ndarray:
        """(m,) what is to be added to the log-odds of a like, to order by the wish first."""
        odds = self.probability / (1 - self.probability).clip(1e-9)
        log_odds = np.log(odds.clip(1e-12)).clip(max=_CLEAR_MATCH)
        return np.where(self.excluded, -np.inf, log_odds)


@dataclass(frozen=True)
class WishItems:
    """What is known of m items besides their reviews."""

    names: pl.Series  # (m,) of every item, as plain words
    by_name: Mapping[str, Sequence[int]]  # codes of the items that a wish names
    price_votes: np.ndarray  # (m, 4) by `PRICE_TAGS`; used where notes have none
    gist_similarity: Callable[[Sequence[int]], np.ndarray]  # (m,) of all items to some


class WishMatcher:
    """Matches items, by code, to wishes, by what reviews say and by names and prices of items."""

    def __init__(self, texts: GrowingTexts, lexicon: Lexicon, encoder: Encoder) -> None:
        self._growing, self._lexicon, self._encoder = texts, lexicon, encoder

    @property
    def _texts(self) -> list[ReviewTexts]:
        return self._growing.parts

    def is_phrase(self, phrase: str) -> bool:
        """Whether at least two reviews use some words as they stand."""
        return int(self._texts[0].mentions(rf"\b{re.escape(plain_words(phrase))}\b").sum()) > 1

    def speaks_of(self, phrase: str, texts: Sequence[str]) -> np.ndarray:
        """(n,) whether texts mention a phrase or, if none does, mean it."""
        return self._texts[0].speaks_of(phrase, texts)

    def match(self, wish: Wish, items: WishItems) -> WishMatch:
        """Match all items: the product of the probabilities of all that is wanted, and not.

        Phrases, prices and likeness are taken as independent, given the reviews of an item.
        """
        size = len(items.names)
        excluded, named = np.zeros((2, size), dtype=bool)
        probability, wanted_votes, unmatched = np.ones(size), np.zeros(size), list[str]()
        for phrase in wish.wanted:
            has_it = _sigmoid(self._log_odds(phrase, items.names, wanted=True))
            if not (has_it > 0.5).any():
                unmatched.append(phrase)
                has_it = 0.5 + has_it / 2  # little tells items apart
            is_quality = not self._find_labels(content_words(phrase))
            probability *= _soften(has_it) if is_quality and len(wish.wanted) > 1 else has_it
            wanted_votes += self._label_votes(phrase, size)
        for phrase in wish.unwanted:
            if phrase in items.by_name:
                excluded[items.by_name[phrase]] = True
                continue
            has_it = _sigmoid(self._log_odds(phrase, items.names, wanted=False))
            excluded |= has_it > 0.5
            probability *= (1 - has_it) * self._tag_factor(phrase, wanted_votes)
        if wish.prices:
            probability *= _soften(self._price_probability(wish.prices, items))
        if wish.unwanted_prices:
            is_priced_so = self._price_probability(wish.unwanted_prices, items)
            probability *= 1 - is_priced_so
            excluded |= is_priced_so > 0.5
        for name in wish.similar_to:
            probability *= self._likeness(items.by_name[name], items)
            excluded[items.by_name[name]] = True
        for name in wish.items:
            named[items.by_name[name]] = True
        if named.any():
            for name in wish.items:
                probability *= self._likeness(items.by_name[name], items)
            probability = np.where(named, 1.0, _SIMILAR_FACTOR * probability)
        return WishMatch(probability, excluded & ~named, named, unmatched)

    def _log_odds(self, phrase: str, names: pl.Series, *, wanted: bool) -> np.ndarray:
        """(m,) log-odds that items have what a phrase names.

        Three kinds of evidence: reviews and names that mention it, categories that have it among
        their keywords, and likes that mean it. What is disliked about an item shows that the item
        has it, unless the phrase names a quality ("quiet") and no thing ("ramen").
        """
        size, words = len(names), content_words(phrase)
        reviews = self._review_count(size)
        labels = self._find_labels(words)
        is_thing = bool(labels) or not wanted
        mentions = np.zeros(size)
        for pattern in phrase_patterns(words):
            mentioned = self._count(size, methodcaller("mentions", pattern, blamed=is_thing))
            in_name = names.str.contains(pattern).to_numpy()
            mentions += mentioned + _NAME_MENTIONS * in_name
            if mentions.sum() > _ENOUGH_MENTIONS:
                break
        total = np.clip(_mixture_log_odds(mentions, reviews), *_MENTION_LIMITS)
        if mentions.sum() > _ENOUGH_MENTIONS:
            # Relevance feedback (Rocchio, 1971): others of the same categories may have it, too.
            places = np.flatnonzero(mentions)
            has_it = _sigmoid(total[places] + _PRIOR_LOG_ODDS)
            cosine = self._category_cosine(size, places, has_it)
            total += _FEEDBACK_WEIGHT * (cosine / max(float(cosine.max()), 1e-9) - 0.5)
        by_label = np.zeros(size)
        for label in labels:
            votes = self._count(size, methodcaller("has_label", label))
            by_label += np.clip(_mixture_log_odds(votes, reviews), *_LABEL_LIMITS) / len(labels)
        total += _LABEL_WEIGHT * by_label
        (vector,) = self._encoder.encode([phrase]).astype(np.float32)
        # A dislike contradicts a quality; it does not show that a thing is wanted.
        blame = float(not wanted) if is_thing else -1.0
        meant = self._count(size, methodcaller("meaning", vector, blame)).clip(0)
        total += _MEANING_WEIGHT * np.clip(_mixture_log_odds(meant, reviews), *_MEANING_LIMITS)
        limit = _THING_LIMIT if is_thing else _QUALITY_LIMIT
        return np.asarray(np.clip(total + _PRIOR_LOG_ODDS, -limit, limit))

    def _price_probability(self, tags: Sequence[PriceTag], items: WishItems) -> np.ndarray:
        """(m,) probability that items have one of some price tags, by the votes of notes.

        The share of votes, shrunk to the mean share of items by one vote, as if each vote counted
        twice. One voice alone makes no clear match.
        """
        # "none", the last tag, is no price.
        priced, votes = PRICE_TAGS[:-1], np.zeros((len(items.names), len(PRICE_TAGS) - 1))
        for texts in self._texts:
            has_price = (texts.price < len(priced)) & (texts.weight > 0)
            np.add.at(votes, (texts.item[has_price], texts.price[has_price]), 1)
        if not votes.any():
            votes = items.price_votes[:, : len(priced)]
        shares = votes / votes.sum(1, keepdims=True).clip(1e-9)
        votes = votes + shares.sum(0) / max(float(shares.sum()), 1e-9)
        share = votes[:, np.isin(priced, tags)].sum(1) / votes.sum(1).clip(1e-9)
        return np.asarray(share**2 / (share**2 + (1 - share) ** 2).clip(1e-9))

    def _count(self, size: int, values: Callable[[ReviewTexts], np.ndarray]) -> np.ndarray:
        """(m,) sums, by item, of (n,) values of the reviews of each part."""
        total = np.zeros(size)
        for texts in self._texts:
            weights = values(texts) * texts.weight
            total += np.bincount(texts.item, weights=weights, minlength=size)
        return total

    def _review_count(self, size: int) -> np.ndarray:
        """(m,) reviews of each item."""
        return self._count(size, lambda texts: np.ones(len(texts.item)))

    def _tag_factor(self, phrase: str, wanted_votes: np.ndarray) -> np.ndarray:
        """(m,) what an unwanted category leaves of the probability of items that have it as a tag.

        One dish among many does not exclude an item, but who has no such tag comes first; the tag
        weighs less, the more reviews, (m,), have a wanted one.
        """
        votes = self._label_votes(phrase, len(wanted_votes))
        is_tag = votes >= _TAG_SHARE * self._review_count(len(votes))
        weight = votes / np.maximum(votes, wanted_votes).clip(1)
        return _TAG_FACTOR ** (weight * is_tag)

    def _label_votes(self, phrase: str, size: int) -> np.ndarray:
        """(m,) reviews of the category among those that a phrase names that most reviews have."""
        votes = np.zeros(size)
        for label in self._find_labels(content_words(phrase)):
            votes = np.maximum(votes, self._count(size, methodcaller("has_label", label)))
        return votes

    def _find_labels(self, words: Sequence[str]) -> list[str]:
        """Categories of reviews that are named by the words, or have them as keywords."""
        named = {" ".join(words)}
        for _, _, indices in self._lexicon.keywords.find([*words]):
            named |= {plain_words(self._lexicon.labels[index]) for index in indices}
        return sorted(named.intersection(chain(*(texts.labels for texts in self._texts))))

    def _likeness(self, codes: Sequence[int], items: WishItems) -> np.ndarray:
        """(m,) probability that items count as like some: half for those in the middle between the
        nearest item and the nearest tenth.

        Nearness is the cosine of the votes for categories, rare ones weighing more, plus that of
        the gists of reviews.
        """
        similarity = items.gist_similarity(codes) + self._category_cosine(len(items.names), codes)
        # Without others, as where all items have that name, any number will do.
        nearest = np.delete(similarity, codes).max(initial=similarity.min())
        middle = (np.quantile(similarity, 0.9) + nearest) / 2
        return _sigmoid(_LIKENESS_SLOPE * (similarity - middle))

    def _category_cosine(
        self, size: int, codes: Sequence[int] | np.ndarray, weights: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """(m,) cosine of the categories of all items to those of some, which have weights."""
        labels, rows, columns = dict[str, int](), [], []
        for texts in self._texts:
            for label, labelled in texts.labels.items():
                reviews = np.array(labelled)[texts.weight[labelled] > 0]
                rows.append(texts.item[reviews])
                code = labels.setdefault(label, len(labels))
                columns.append(np.full(len(reviews), code))
        if not labels:
            return np.zeros(size)
        cells = np.concatenate(rows), np.concatenate(columns)
        votes = csr_matrix((np.ones(len(cells[0])), cells), shape=(size, len(labels)))
        # Inverse document frequency.
        rarity = np.log(size / (1 + votes.getnnz(axis=0))).clip(0.1)
        profiles = normalize(votes.multiply(rarity).tocsr())  # (m, l)
        mean = profiles[codes].T @ (np.ones(len(codes)) * weights)
        return np.asarray(profiles @ (mean / max(float(np.linalg.norm(mean)), 1e-9)))


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))


def _soften(probability: np.ndarray) -> np.ndarray:
    """Probabilities of what matters less than a dish, where no item has both."""
    return np.asarray(_SOFT_FLOOR + (1 - _SOFT_FLOOR) * probability)


def _mixture_log_odds(count: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """(m,) log of the likelihood ratio that items have what `count` of their reviews mention.

    A mixture of two Poisson rates, of items that have it and of others, fitted by expectation
    maximisation (Dempster, Laird & Rubin, 1977). Rates differ between items, so that many reviews
    without a mention say less than independent ones would.
    """
    if not count.any():
        return np.zeros(len(count))
    max_trials, min_rate, min_ratio = 50.0, 1e-3, 4.0  # of independent reviews; of the rates
    trials = trials / (1 + trials / max_trials)
    rate = count / np.maximum(trials, 1)
    # At first a tenth of the items have it: those of the highest rates.
    low = max(0.2 * float(count.sum() / trials.sum()), min_rate)
    high = max(float(np.quantile(rate, 0.95)), float(rate.max()) / 2, min_ratio * low)
    share = 0.1
    evidence = np.zeros(len(count))
    for _ in range(25):
        evidence = count * np.log(high / low) - trials * (high - low)
        member = _sigmoid(evidence + np.log(share / (1 - share)))
        share = float(np.clip(member.mean(), 0.01, 0.5))
        low = max(float(count @ (1 - member) / (trials @ (1 - member))), min_rate)
        high = max(float(count @ member / max(trials @ member, 1e-6)), min_ratio * low)
    return evidence
