"""Having all reviews and photos of a data set read, without training on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mmrec.config import Config, VisionConfig
from mmrec.data.schema import Reviews
from mmrec.evidence.policies import Side
from mmrec.experiments.compare import prepare
from mmrec.features.dataset import Corpus, Models
from mmrec.llm.openai_batch import Pending
from mmrec.llm.prompts import Of
from mmrec.llm.types import Note, Summary
from mmrec.vision.openai_captioner import ChatCaptioner

__all__ = ["CAPTION", "Profiles", "Summarised", "read_profiles"]

CAPTION = "caption"
"""Asks of a plan that are the captioner's."""
_PHOTO_TOKENS, _CAPTION_TOKENS = 1000, 35


@dataclass(frozen=True)
class Profiles:
    """What was read.

    Attributes:
        corpus: all reviews.
        notes: (n) what each review says, under the strategy `notes`.
        summaries: under `summary`, every view that training or the saved model hears, with what was written
            of it.
        failed: reasons why something is missing, and how often.
        pending: what is still with the server, of each part that is not here.
    """

    corpus: Corpus
    notes: list[Note] = field(default_factory=list)
    summaries: list[Summarised] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    pending: list[Pending] = field(default_factory=list)


@dataclass(frozen=True)
class Summarised:
    """Views of users or items, of the reviews of a corpus, and a summary of each."""

    of: Of
    corpus: Corpus
    side: Side
    summaries: list[Summary]


def read_profiles(reviews: Reviews, config: Config, models: Models) -> Profiles:
    """Ask all that `fit` with the same settings would ask of the language model; its answers are stored.

    Raises:
        DataError: too few reviews.
        MmrecError: the language model cannot be used, or the budget is reached.
    """
    corpus = Corpus.of(reviews, models, config)
    profiles = Profiles(corpus, failed=models.reader.failed)
    if config.vision.captioner != VisionConfig().captioner:
        _look(corpus, models, profiles)
    if config.profile.strategy == "notes":
        with _collected_later(profiles):
            profiles.notes.extend(corpus.notes)
        return profiles
    prepared = prepare(reviews, config, models)
    if len(prepared.corpus) == len(corpus):
        corpus = prepared.corpus
    evidence, data = prepared.evidence, corpus.data
    views: list[tuple[Of, Corpus, Side]] = [
        ("item", prepared.corpus, evidence.item),
        ("item", corpus, Side.whole(data.item)),
        ("user", prepared.corpus, evidence.user),
        ("user", corpus, Side.whole(data.user)),
    ]
    for of, own, side in views:
        with _collected_later(profiles):
            profiles.summaries.append(Summarised(of, own, side, own.summaries(of, side)))
    return profiles


def _look(corpus: Corpus, models: Models, profiles: Profiles) -> None:
    """Have photos described; where there is only a plan, count those that a server would be asked about."""
    if (plan := models.reader.plan) is None:
        profiles.failed.update(corpus.captions.failed)
    elif isinstance(models.captioner, ChatCaptioner) and (number := corpus.captions_missing):
        plan.calls[CAPTION] += number
        plan.input[CAPTION] += number * _PHOTO_TOKENS
        plan.output[CAPTION] += number * _CAPTION_TOKENS


@contextmanager
def _collected_later(profiles: Profiles) -> Iterator[None]:
    """Answers that are still with the server do not keep the rest from being handed in."""
    try:
        yield
    except Pending as pending:
        profiles.pending.append(pending)
