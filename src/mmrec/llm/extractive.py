"""The builtin language model: it works offline and extracts sentences, it generates nothing."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain

import numpy as np

from mmrec.encoder.text_encoder import Encoder
from mmrec.llm.lexicon import Lexicon, Words, ZeroShotScorer, split_sentences, split_words
from mmrec.llm.prompts import truncate_text
from mmrec.llm.types import (
    Answer,
    AnswerStream,
    LanguageModel,
    Note,
    PriceTag,
    PromptBlocks,
    Summary,
    Task,
    estimate_tokens,
)

# Polarity, from blame -1 to praise 1, beyond which a sentence is an opinion.
_CLEAR_OPINION = 0.3


# A review's note; its n sentences, vectors (n, d) float16 and polarity (n,).
_AnnotatedReview = tuple[Note, list[str], np.ndarray, np.ndarray]


class ExtractiveModel(LanguageModel):
    """Annotates reviews by extraction: every gist, like and dislike is a sentence of its review.

    A lexicon and the closeness of sentence vectors to model sentences decide what a sentence says.
    A note depends on its review alone, of which only the first 128 sentences are read. A summary's
    text has at most `summary_tokens`.
    """

    chunk_size = 2048
    window: int | None = None

    def __init__(self, encoder: Encoder, item_kind: str, summary_tokens: int = 96) -> None:
        self._encoder, self._lexicon = encoder, Lexicon(item_kind)
        self._item_kind, self._summary_tokens = item_kind, summary_tokens

    def provenance(self, task: Task) -> dict[str, object]:
        """What determines an answer besides the texts."""
        settings: dict[str, object] = {"item_kind": self._item_kind}
        if task.name != "note":
            settings["summary_tokens"] = self._summary_tokens
        revision, encoder = f"3-{self._lexicon.revision}", self._encoder.provenance
        model = {"model": "builtin", "revision": revision, "encoder": encoder}
        return {"kind": task.name, **model, **settings}

    def generate(self, prompts: PromptBlocks) -> AnswerStream:
        """Answer prompts block by block: central and diverse sentences, and votes of the notes."""
        for block in prompts:
            texts = dict.fromkeys(chain.from_iterable(prompt.texts for _, prompt in block))
            annotated = dict(zip(texts, self._annotate([*texts]), strict=True))
            for number, prompt in block:
                reviews = [annotated[text] for text in prompt.texts]
                is_note = prompt.task.name == "note"
                answer = reviews[0][0] if is_note else self._summarize(reviews)
                yield number, Answer(text=answer.model_dump_json())

    def polarity(self, sentences: Sequence[str]) -> np.ndarray:
        """How much sentences praise or blame, from -1 to 1: (n,)."""
        vectors = self._encoder.encode(sentences, "reading sentences")
        return self._polarity(list(map(split_words, sentences)), vectors)

    @cached_property
    def _scorer(self) -> ZeroShotScorer:
        return ZeroShotScorer(self._encoder, self._lexicon)

    def _annotate(self, texts: Sequence[str], chunk: int = 1024) -> Iterator[_AnnotatedReview]:
        for first in range(0, len(texts), chunk):
            reviews = []
            for text in texts[first : first + chunk]:
                reviews.append(list(dict.fromkeys(split_sentences(text)))[:128])
            flat = list(chain.from_iterable(reviews))
            vectors = self._encoder.encode(flat, "reading reviews")
            words = list(map(split_words, flat))
            polarity = self._polarity(words, vectors)
            price_votes = self._scorer.prices(vectors)
            # Rounded, since the order of sums must not decide between equals.
            category_scores = np.round(self._scorer.categories(vectors), 3)
            ends = np.cumsum(list(map(len, reviews)))
            for review, end in zip(reviews, ends, strict=True):
                rows = slice(end - len(review), end)
                note = Note(
                    gist=_select_gist(review, vectors[rows], polarity[rows]),
                    likes=_strongest(review, polarity[rows]),
                    dislikes=_strongest(review, -polarity[rows]),
                    price=self._price_tag(review, words[rows], price_votes[rows]),
                    categories=self._select_categories(words[rows], category_scores[rows]),
                )
                yield note, review, vectors[rows], polarity[rows]

    def _polarity(self, words: Sequence[Words], vectors: np.ndarray) -> np.ndarray:
        """Polarity (n,) of sentences from lexicon and vectors (n, d) together."""
        by_words = np.array(list(map(self._lexicon.opinion_score, words)))
        by_meaning = self._scorer.opinions(vectors)
        return np.asarray(np.round(np.tanh((0.6 * by_words + 1.5 * by_meaning) / 2), 3))

    def _price_tag(
        self, review: Sequence[str], words: Sequence[Words], price_votes: np.ndarray
    ) -> PriceTag:
        """The tag by a review's phrases, else by the meaning of its sentences about prices."""
        tags = list(chain.from_iterable(map(self._lexicon.price_tags, words)))
        if not tags:
            for sentence, sentence_words, vote in zip(review, words, price_votes, strict=True):
                if vote and self._lexicon.mentions_price(sentence, sentence_words):
                    tags.append("overpriced" if vote > 0 else "cheap price")
        return _majority_price(tags)

    def _select_categories(self, words: Sequence[Words], scores: np.ndarray) -> list[str]:
        """The five best labels by keywords and by scores (n, labels) above the margin."""
        labels = self._lexicon.labels
        by_keywords = np.zeros(len(labels))
        for sentence in words:
            for _, keyword, indices in self._lexicon.keywords.find(sentence):
                for index in indices:
                    by_keywords[index] += 1.5 if keyword == labels[index] else 1.0
        above = scores.max(0, initial=-np.inf) - self._lexicon.vocabulary["margin"]
        by_meaning = np.where(above > 0, 0.4 + 0.3 * above, 0)
        # Many keywords of one label may not outweigh all that is said of others.
        totals = np.minimum(by_keywords, 3.0) + by_meaning
        best = np.argsort(-totals, kind="stable")[:5]
        return [labels[index] for index in best if totals[index] > 0]

    def _summarize(self, reviews: Sequence[_AnnotatedReview]) -> Summary:
        if not any(sentences for _, sentences, _, _ in reviews):
            return Summary()
        notes, sentences_by_review, vectors_by_review, polarity_by_review = zip(
            *reviews, strict=True
        )
        sentences = list(chain.from_iterable(sentences_by_review))
        vectors, polarity = map(np.concatenate, (vectors_by_review, polarity_by_review))
        categories = Counter(chain.from_iterable(note.categories for note in notes))
        strengths = dict(zip(sentences, polarity.tolist(), strict=True))
        return Summary(
            text=_excerpt(sentences, vectors, polarity, self._summary_tokens),
            likes=_most_frequent([note.likes for note in notes], strengths),
            dislikes=_most_frequent([note.dislikes for note in notes], strengths),
            price=_majority_price([note.price for note in notes if note.price != "none"]),
            categories=[label for label, _ in categories.most_common(11)],
        )


def _centrality(vectors: np.ndarray) -> np.ndarray:
    """Cosine (n,) of unit vectors (n, d) to their mean."""
    mean = vectors.mean(0)
    return np.asarray(vectors @ mean / (np.linalg.norm(mean) or 1.0))


def _select_gist(review: Sequence[str], vectors: np.ndarray, polarity: np.ndarray) -> str:
    """The most central sentence that shares the review's opinion and is long enough to say why."""
    if not review:
        return ""
    agreement = np.sign(polarity.sum()) * polarity
    length = np.minimum(np.char.count(review, " ") / 7, 1.0)
    scores = _centrality(vectors.astype(np.float32)) + 0.4 * agreement + 0.2 * length
    return review[int(np.argmax(np.round(scores, 3)))]


def _strongest(review: Sequence[str], strength: np.ndarray) -> list[str]:
    """The three sentences of a review with the strongest clear opinion."""
    best = np.argsort(-strength, kind="stable")[:3]
    return [review[index] for index in best if strength[index] > _CLEAR_OPINION]


def _most_frequent(points: Sequence[Sequence[str]], strengths: dict[str, float]) -> list[str]:
    """The five points that most notes make; among equals those of the clearest opinion first."""
    counts = Counter(chain.from_iterable(points))
    return sorted(counts, key=lambda point: (-counts[point], -abs(strengths[point])))[:5]


def _majority_price(tags: Sequence[PriceTag]) -> PriceTag:
    """The more frequent side; `fair price` where both balance or all votes are for it."""
    if not tags:
        return "none"
    balance = tags.count("overpriced") - tags.count("cheap price")
    return "overpriced" if balance > 0 else "cheap price" if balance < 0 else "fair price"


def _excerpt(
    sentences: Sequence[str], vectors: np.ndarray, polarity: np.ndarray, max_tokens: int
) -> str:
    """Join central and diverse sentences within a budget of tokens: praise first where it prevails.

    Sentences, with unit vectors (n, d) and polarity (n,), are taken one at a time by maximal
    marginal relevance (Carbonell & Goldstein 1998): centrality and opinion, less the similarity to
    those taken already. Blame gets the share of the budget that it has of all clear opinions. Of
    equal sentences only the most relevant counts; where none fits, that one is truncated.
    """
    vectors = vectors.astype(np.float32)
    is_terse = np.array([sentence.count(" ") < 2 for sentence in sentences])
    relevance = _centrality(vectors) + 0.2 * np.abs(polarity) - 0.3 * is_terse
    relevance = np.round(relevance, 3)
    first_rows: dict[str, int] = {}
    for row in np.argsort(-relevance, kind="stable").tolist():
        first_rows.setdefault(sentences[row], row)
    distinct = np.array(list(first_rows.values()))
    is_blame = polarity < -_CLEAR_OPINION
    # Selection takes O(n^2): only the 60 most relevant sentences of each kind.
    blaming, remaining = distinct[is_blame[distinct]], distinct[~is_blame[distinct]]
    rows = np.concatenate([blaming[:60], remaining[:60]])
    texts = []
    for row in rows:
        # A sentence that ends in a word or comma gets a full stop.
        closed = sentences[row].rstrip(",;:-–— ")
        texts.append(f"{closed}." if closed[-1:].isalnum() else sentences[row])
    tokens = np.array([estimate_tokens(text + " ") for text in texts])
    if tokens.min() > max_tokens:
        return truncate_text(sentences[distinct[0]], max_tokens)
    opinions = max(int(np.sum(np.abs(polarity) > _CLEAR_OPINION)), 1)
    budget = int(max_tokens * np.sum(is_blame) / opinions)
    similarity = vectors[rows] @ vectors[rows].T  # (n, n) cosines
    chosen: list[int] = []
    for is_free in (is_blame[rows], ~is_blame[rows]):
        chosen += _select_diverse(similarity, relevance[rows], tokens, budget, is_free)
        budget = max_tokens - int(tokens[chosen].sum())
    prevailing = 1 if polarity.sum() >= 0 else -1
    chosen.sort(key=lambda index: prevailing * polarity[rows[index]] < 0)
    return " ".join(texts[index] for index in chosen)


def _select_diverse(
    similarity: np.ndarray, relevance: np.ndarray, tokens: np.ndarray, budget: int, free: np.ndarray
) -> list[int]:
    """Positions of free (n,) sentences of maximal marginal relevance within a budget."""
    redundancy = np.zeros(len(relevance), np.float32)
    chosen: list[int] = []
    while (free := free & (tokens <= budget)).any():
        scores = np.where(free, np.round(relevance - 0.6 * redundancy, 3), -np.inf)
        best = int(np.argmax(scores))
        chosen.append(best)
        free[best] = False
        budget -= int(tokens[best])
        redundancy = np.maximum(redundancy, similarity[best])
    return chosen
