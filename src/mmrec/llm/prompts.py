"""What a language model is shown: sanitized reviews that fit its context window, between marks."""

import hashlib
import json
import re
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from itertools import count
from typing import Any

from mmrec.llm.types import Prompt, Review, Task, Texts, estimate_tokens

PROMPT_TEXTS: dict[str, Any] = tomllib.loads(
    resources.files("mmrec.llm").joinpath("prompts.toml").read_text("utf-8")
)
"""What language models are asked, by task, and the parts that tasks share."""
# Fillers, variation selectors, tags: none of which Unicode classes as format characters.
_BLANK = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufdd0-\ufdef\ufe00-\ufe0d"
    r"\uffa0\ufff0-\ufff8\ufffe\uffff\U000e0000-\U000e0fff]"
)


def sanitize(text: str) -> str:
    """Remove hidden characters, and make markup of chat templates harmless.

    Hidden characters can carry orders that a model reads and a person does not see. `<|im_end|>`,
    `</s>`, `[INST]`, `[|user|]` and this package's marks get a space. Runs of empty lines become
    one. The result does not change when it is sanitized again.
    """
    if text.isascii() and text.isprintable() and "<" not in text and "[" not in text:
        return text.strip()  # the usual case
    text = "\n".join(text.splitlines())
    hidden = []
    for character in set(text) - {"\n", "\t", "\u200c", "\u200d"}:
        # Unassigned code points (Cn) stay, since there are new emoji among them.
        is_invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")
        if is_invisible or _BLANK.match(character):
            hidden.append(ord(character))
    text = text.translate(dict.fromkeys(hidden))
    # One joiner or emoji style is kept where it joins or styles; runs could spell a message.
    joiners = r"[\u200c\u200d\ufe0e\ufe0f]"
    text = re.sub(rf"(?<![^\0-\x7f]){joiners}+(?![^\0-\x7f])", "", text)
    # A style and a joiner may follow each other: a heart on fire is heart, style, joiner, fire.
    text = re.sub(rf"(?={joiners}{{2}})(\ufe0f\u200d|.){joiners}*", r"\1", text)
    tag = r"<(?=[^\s<>]{1,40}>)"
    bracketed = r"\[(?=/?[a-z]?[A-Z_]{2,24}\]|\||(?i:review)\s+\S{1,9}\s[^\n\]]{1,40}\])"
    text = re.sub(f"{tag}|{bracketed}", r"\g<0> ", text)
    return re.sub(r"\n\s*\n\s*\n+", "\n\n", text).strip()


class ContextWindow:
    """Fits reviews, sanitized, into prompts of a size: most tokens, with the lines around texts."""

    def __init__(self, count_tokens: Callable[[Sequence[str]], list[int]], size: int) -> None:
        self._count = cache(lambda text: count_tokens([text])[0])
        self._fit = cache(lambda text, limit: truncate_text(sanitize(text), limit, self._count))
        self._size = size
        self._frame_tokens: int = self._count(frame_text("", 10, "0" * 12))

    def fit_text(self, text: str) -> Texts:
        """One text for a prompt of its own; () where it is blank."""
        fitted = self._fit(text, max(self._size - self._frame_tokens, 1))
        return (fitted,) if fitted else ()

    def sample_reviews(self, group: Sequence[Review]) -> Texts:
        """Texts for one prompt which cover the ratings and times of a group, in order of time."""
        reviews, tokens = self._fit_group(group)
        chosen = select_representative(reviews, tokens, self._size)
        return tuple(reviews[index].text for index in chosen)

    def split_reviews(self, group: Sequence[Review]) -> list[Texts]:
        """All texts of a group, in as many prompts as needed; a sample where each takes a prompt."""
        reviews, tokens = self._fit_group(group)
        parts = [list(range(len(reviews)))]
        if sum(tokens) > self._size:
            parts = split_by_tokens(reviews, tokens, self._size)
            if len(parts) == len(reviews):
                return [self.sample_reviews(group)]
        return [tuple(reviews[index].text for index in positions) for positions in parts]

    def _fit_group(self, group: Sequence[Review]) -> tuple[list[Review], list[int]]:
        """The reviews that are not blank, in order of time, and the tokens that each takes."""
        limit = self._size - self._frame_tokens
        if len(group) > 1:
            limit //= 8  # among several, so that none crowds out the others
        reviews, tokens = [], []
        for review in sorted(group, key=lambda review: (review.time, review.text)):
            if text := self._fit(review.text, max(limit, 1)):
                reviews.append(review._replace(text=text))
                tokens.append(self._count(text) + self._frame_tokens)
        return reviews, tokens


def truncate_text(
    text: str, max_tokens: int, count_tokens: Callable[[str], int] = estimate_tokens
) -> str:
    """The beginning of a text, with an ellipsis where it was cut; empty where not even that fits."""
    tokens = count_tokens(text)
    if tokens <= max_tokens:
        return text
    # Step by step: the beginning may have more tokens per character than the whole.
    while text and tokens > max_tokens:
        length = min(len(text) * max_tokens // tokens, len(text) - 3) if max_tokens > 1 else 0
        text = text[: max(length, 0)].rstrip()
        tokens = count_tokens(text + " …")
    return text and text + " …"


def select_representative(reviews: list[Review], costs: list[int], window: int) -> list[int]:
    """Ascending positions of reviews that fit a window, and cover all ratings and times.

    Reviews, in the order of time with the tokens of each, take turns: the k-th of n reviews with a
    rating has turn k / n, and of equal turns the rarest rating comes first.
    """
    by_rating: dict[float, list[int]] = defaultdict(list)
    for position, review in enumerate(reviews):
        by_rating[review.rating].append(position)
    turns = []  # (turn, reviews of the same rating, position)
    for positions in by_rating.values():
        size = len(positions)
        # Van der Corput's sequence, base 2: each prefix of the ranks is spread over the range.
        bits = max(size - 1, 1).bit_length()
        ranks = sorted(range(size), key=lambda rank: f"{rank:0{bits}b}"[::-1])
        turns += [(turn / size, size, positions[rank]) for turn, rank in enumerate(ranks)]
    selected = []
    for _, _, position in sorted(turns):
        if costs[position] <= window:  # a later, shorter review may still fit
            window -= costs[position]
            selected.append(position)
    return sorted(selected)


def split_by_tokens(reviews: list[Review], costs: list[int], window: int) -> list[list[int]]:
    """Positions of reviews in groups that fit a window each; arguments as above.

    A group is of one fold, so that it is the same in all views, and is summarised only once.
    """
    groups: list[list[int]] = []
    free, fold = 0, None
    for position in sorted(range(len(reviews)), key=lambda row: reviews[row].fold):
        if reviews[position].fold != fold or costs[position] > free:
            groups.append([])
            free, fold = window, reviews[position].fold
        groups[-1].append(position)
        free -= costs[position]
    return groups


def prompt_digest(task: Task) -> str:
    """Version of a prompt; it changes with each letter, frames and repair included."""
    sample = chat_messages(Prompt(task, ("", ""), '["", ""]'))
    return hashlib.sha256(json.dumps([sample, task.schema]).encode()).hexdigest()[:16]


def chat_messages(prompt: Prompt) -> list[dict[str, str]]:
    """Chat messages of a prompt: the instructions first and always the same, the texts last."""
    joined = "\0".join(prompt.texts)
    # A hash of the texts can stand in none of them, so that none ends itself.
    marks = (_mark(f"{attempt} {joined}") for attempt in count())
    mark = next(mark for mark in marks if mark not in joined)
    framed = [frame_text(text, number, mark) for number, text in enumerate(prompt.texts, 1)]
    turns = [("system", prompt.task.instructions), ("user", "\n".join(framed))]
    if prompt.rejected is not None:
        answer, reason = json.loads(prompt.rejected)
        form = "just what was asked for"
        if prompt.task.schema is not None:
            form = "one JSON object of just the fields asked for"
        repair = PROMPT_TEXTS["repair"].format(reason=reason, form=form)
        turns += [("assistant", sanitize(answer)), ("user", repair)]
    return [{"role": role, "content": content} for role, content in turns]


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def frame_text(text: str, number: int, mark: str) -> str:
    """A text between the lines which show where it begins and ends."""
    return f"[review {number} {mark} begins]\n{text}\n[review {number} {mark} ends]"
