"""The builtin reader: it works offline and picks sentences out of reviews; it is no language model.

What a sentence says is told by a lexicon (`vocabulary.json`) and by its vector's nearness to model sentences.
A note depends on its review alone, so that no other review can change it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmrec.cache.store import Failure
from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.anchors import Anchors
from mmrec.llm.excerpt import excerpt, tokens_of
from mmrec.llm.lexicon import Words, load_lexicon, split_words
from mmrec.llm.sentences import split_sentences
from mmrec.llm.types import Answer, Note, PriceTag, Prompt, Summary, Task

__all__ = ["ExtractiveModel"]

_VERSION = 2
_CHUNK = 1024
_MOST_SENTENCES = 128
_MOST_POINTS = 3
_MOST_CATEGORIES = 5
_SUMMARY_POINTS = 5
_SUMMARY_CATEGORIES = 11
_CLEAR = 0.3
_LEXICON_WEIGHT = 0.6
_VECTOR_WEIGHT = 1.5
_KEYWORD_CAP = 3.0
_NAMED = 1.5
_NEAR = 0.4
_PRICES: dict[PriceTag, int] = {"cheap price": -1, "fair price": 0, "overpriced": 1}


@dataclass(frozen=True)
class _Reading:
    """A review as read: its note, and its sentences with vectors (n, d) float16 and polarity (n,)."""

    note: Note
    sentences: list[str]
    vectors: np.ndarray
    polarity: np.ndarray


class ExtractiveModel:
    """Reads reviews by extraction: every gist, like and dislike is a sentence of its review.

    Sentences are those of `mmrec.llm.sentences`, the first 128 of a review; they are encoded through
    the encoder's store, so that nothing of an answer has to be encoded again.

    Args:
        encoder: turns sentences into vectors.
        item_kind: `restaurant` and `film` have vocabularies of their own, other kinds share a generic one.
        summary_tokens: most tokens of a summary's text, at about 1.3 a word.
    """

    chunk_size = 2048
    window: int | None = None

    def __init__(self, encoder: Encoder, item_kind: str, summary_tokens: int = 96) -> None:
        self._encoder = encoder
        self._lexicon = load_lexicon(item_kind)
        self._item_kind = item_kind
        self._summary_tokens = summary_tokens

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts."""
        length = {} if task.name == "note" else {"summary_tokens": self._summary_tokens}
        return {
            "kind": task.name,
            "model": "builtin",
            "revision": f"{_VERSION}-{self._lexicon.revision}",
            "encoder": self._encoder.provenance,
            "item_kind": self._item_kind,
            **length,
        }

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """About how many tokens each text has."""
        return [tokens_of(text) for text in texts]

    def status(self) -> str:
        """Nothing is used up."""
        return ""

    def generate(
        self, prompts: Iterator[list[tuple[int, Prompt]]]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        """Answer asks block by block."""
        for block in prompts:
            texts = [ask.texts for _, ask in block]
            alone = block[0][1].task.name == "note"
            found = (
                self.write_notes([one for (one,) in texts])
                if alone
                else self.write_summaries(texts)
            )
            for (at, _), answer in zip(block, found, strict=True):
                yield at, Answer(text=answer.model_dump_json())

    def write_notes(self, texts: Sequence[str]) -> list[Note]:
        """Read every text alone; a blank text gives an empty note."""
        return [reading.note for reading in self._read(texts)]

    def write_summaries(self, groups: Sequence[Sequence[str]]) -> list[Summary]:
        """Pick each group's central and diverse sentences; the rest is decided by votes of its notes.

        A text is read once, however many groups it is in; its vectors are kept until all are done (about 2 KB
        a review).
        """
        texts = list(dict.fromkeys(text for group in groups for text in group))
        readings = dict(zip(texts, self._read(texts), strict=True))
        return [self._summary([readings[text] for text in group]) for group in groups]

    def polarity(self, texts: Sequence[str]) -> np.ndarray:
        """How much sentences praise or blame, from -1 to 1: (n,)."""
        words = [split_words(text) for text in texts]
        return self._polarity(words, self._encoder.encode(texts, "reading sentences"))

    @cached_property
    def _anchors(self) -> Anchors:
        return Anchors(self._encoder, self._lexicon)

    def _read(self, texts: Sequence[str]) -> Iterator[_Reading]:
        for at in range(0, len(texts), _CHUNK):
            chunk = texts[at : at + _CHUNK]
            reviews = [
                list(dict.fromkeys(split_sentences(text)))[:_MOST_SENTENCES] for text in chunk
            ]
            flat = [sentence for review in reviews for sentence in review]
            if not flat:
                yield from (_Reading(Note(), [], np.zeros((0, 0)), np.zeros(0)) for _ in reviews)
                continue
            vectors = self._encoder.encode(flat, "reading reviews")
            words = [split_words(sentence) for sentence in flat]
            polarity = self._polarity(words, vectors)
            dearness = self._anchors.prices(vectors)
            # Rounded, so that how a matrix product was blocked cannot decide between equals.
            nearness = np.round(self._anchors.categories(vectors), 3)
            end = 0
            for review in reviews:
                start, end = end, end + len(review)
                part = slice(start, end)
                likes, dislikes = _points(review, polarity[part])
                note = Note(
                    gist=_gist(review, vectors[part], polarity[part]),
                    likes=likes,
                    dislikes=dislikes,
                    price=self._price(review, words[part], dearness[part]),
                    categories=self._categories(words[part], nearness[part]),
                )
                yield _Reading(note, review, vectors[part], polarity[part])

    def _polarity(self, words: Sequence[Words], vectors: np.ndarray) -> np.ndarray:
        """From blame -1 to praise 1, of lexicon and vectors together: (n,)."""
        counted = np.array([self._lexicon.opinion_score(one) for one in words])
        felt = self._anchors.opinions(vectors)
        polarity: np.ndarray = np.round(
            np.tanh((_LEXICON_WEIGHT * counted + _VECTOR_WEIGHT * felt) / 2), 3
        )
        return polarity

    def _price(
        self, review: Sequence[str], words: Sequence[Words], dearness: np.ndarray
    ) -> PriceTag:
        """What a review's phrases say of price; where they are silent, its sentences that speak of price."""
        votes = [_PRICES[tag] for one in words for tag in self._lexicon.price_tags(one)]
        if not votes:
            spoken = zip(review, words, dearness, strict=True)
            votes = [
                int(dear)
                for text, one, dear in spoken
                if dear and self._lexicon.mentions_price(text, one)
            ]
        return _verdict(votes)

    def _categories(self, words: Sequence[Words], nearness: np.ndarray) -> list[str]:
        """Labels by keywords and by nearness (n, labels) above the margin, best first."""
        if not len(nearness):
            return []
        known = self._lexicon.categories
        scores = np.zeros(len(known))
        for one in words:
            for _, keyword, places in self._lexicon.keywords.find(one):
                for place in places:
                    scores[place] += _NAMED if keyword == known[place].label else 1.0
        above = nearness.max(0) - self._lexicon.margin
        scores = np.minimum(scores, _KEYWORD_CAP) + (above > 0) * (_NEAR + 0.3 * above)
        best = np.argsort(-scores, kind="stable")[:_MOST_CATEGORIES]
        return [known[place].label for place in best if scores[place] > 0]

    def _summary(self, readings: Sequence[_Reading]) -> Summary:
        texts = [sentence for reading in readings for sentence in reading.sentences]
        if not texts:
            return Summary()
        vectors = np.concatenate([reading.vectors for reading in readings if reading.sentences])
        polarity = np.concatenate([reading.polarity for reading in readings])
        notes = [reading.note for reading in readings]
        categories = Counter(label for note in notes for label in note.categories)
        return Summary(
            text=excerpt(texts, vectors, polarity, self._summary_tokens),
            likes=_most_said(texts, polarity, [note.likes for note in notes]),
            dislikes=_most_said(texts, -polarity, [note.dislikes for note in notes]),
            price=_verdict([_PRICES[note.price] for note in notes if note.price != "none"]),
            categories=[label for label, _ in categories.most_common(_SUMMARY_CATEGORIES)],
        )


def _gist(review: Sequence[str], vectors: np.ndarray, polarity: np.ndarray) -> str:
    """The sentence nearest to the whole review that also takes its side and has words enough to say why."""
    if len(review) < 2:
        return "".join(review)
    wide = vectors.astype(np.float32)
    mean = wide.mean(0)
    central = wide @ mean / (np.linalg.norm(mean) or 1.0)
    side = np.sign(polarity.sum())
    telling = np.array([min(1.0, sentence.count(" ") / 7) for sentence in review])
    return review[int(np.argmax(np.round(central + 0.4 * side * polarity + 0.2 * telling, 3)))]


def _points(review: Sequence[str], polarity: np.ndarray) -> tuple[list[str], list[str]]:
    """The strongest likes and dislikes of a review."""
    order = np.argsort(-polarity, kind="stable")
    likes = [review[at] for at in order[:_MOST_POINTS] if polarity[at] > _CLEAR]
    order = np.argsort(polarity, kind="stable")
    return likes, [review[at] for at in order[:_MOST_POINTS] if polarity[at] < -_CLEAR]


def _most_said(
    texts: Sequence[str], strength: np.ndarray, points: Sequence[Sequence[str]]
) -> list[str]:
    """The points that most notes make, the stronger first among equals."""
    strengths = dict(zip(texts, strength.tolist(), strict=True))
    counts = Counter(point for note in points for point in note)
    return sorted(counts, key=lambda point: (-counts[point], -strengths[point]))[:_SUMMARY_POINTS]


def _verdict(votes: Sequence[int]) -> PriceTag:
    """More dear than cheap votes are overpriced, fewer cheap; a balance, or only fair ones, fair."""
    if not votes:
        return "none"
    total = sum(votes)
    return "overpriced" if total > 0 else "cheap price" if total < 0 else "fair price"
