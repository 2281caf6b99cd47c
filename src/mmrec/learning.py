"""From a corpus and a split to a trained model: constants, features, ranker."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from mmrec.config import Config
from mmrec.corpus import Corpus
from mmrec.evidence import Evidence, Side
from mmrec.features import Constants, Features, SideFeatures, side_features
from mmrec.language.prompts import Of
from mmrec.metrics import class_weights
from mmrec.profiles import Words, summary_words
from mmrec.ranking.dlrm import Ranker, Shape
from mmrec.ranking.inputs import Inputs
from mmrec.ranking.training import History, Task, logits, train
from mmrec.reviews.split import Split

__all__ = ["Assembler", "Model", "learn"]


class Assembler(BaseModel):
    """Makes the features of any views, in training and in service alike; saved with the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    config: Config
    constants: Constants
    vocabulary: list[str]
    """Categories by code, most frequent first; from known reviews only."""
    image: bool
    """Whether items have an image block: some photo was there to learn from, and what looks at it."""

    @classmethod
    def of(cls, corpus: Corpus, evidence: Evidence, config: Config) -> Assembler:
        """Learn constants and vocabulary from the known reviews."""
        known = evidence.known
        vocabulary: list[str] = []
        if config.ranker.features == "proposed":
            vocabulary = _vocabulary(corpus, evidence, config)
        baseline = config.ranker.features == "baseline"
        image = corpus.pictured(known, captions=not baseline)
        return cls(
            config=config,
            constants=Constants.of(corpus.data, known),
            vocabulary=vocabulary,
            image=image and (not baseline or corpus.models.image.available()),
        )

    def user(self, side: Side, corpus: Corpus) -> SideFeatures:
        """Features of the views of users."""
        constants = self.constants
        vectors, present, _ = self._blocks("user", side, corpus)
        return side_features(
            side,
            corpus.data.rating,
            constants.mean,
            constants.user_prior,
            vectors=vectors,
            present=present,
        )

    def item(self, side: Side, corpus: Corpus) -> SideFeatures:
        """Features of the views of items: also their number of reviews, price, categories, photos."""
        constants = self.constants
        vectors, present, words = self._blocks("item", side, corpus)
        if self.image:
            baseline = self.config.ranker.features == "baseline"
            photos = corpus.image_vectors if baseline else corpus.caption_vectors
            vectors["photos"], present["photos"] = photos.mean(side)
        return side_features(
            side,
            corpus.data.rating,
            constants.mean,
            constants.item_prior,
            vectors=vectors,
            present=present,
            words=words,
            counted=True,
            max_categories=self.config.profile.max_categories,
        )

    def _blocks(
        self, of: Of, side: Side, corpus: Corpus
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Words | None]:
        if self.config.ranker.features == "baseline":
            count = side.sum(np.ones((len(corpus), 1), dtype=np.float32))
            mean = side.sum(corpus.text_vectors.astype(np.float32)) / np.maximum(count, 1)
            return {"reviews": mean}, {"reviews": count[:, 0] > 0}, None
        if self.config.profile.strategy == "summary":
            words = summary_words(corpus.summaries(of, side), corpus.models.encoder, self.vocabulary)
        else:
            words = corpus.note_arrays(self.vocabulary).words(side)
        return dict(words.vectors), dict(words.spoken), words

    def shape(self, inputs: Inputs) -> Shape:
        """The ranker that fits these features.

        One reducer over text and one over captions; the baseline's has text and photos in one (paper,
        section 3).
        """
        apart = {"item photos"} if self.config.ranker.features == "proposed" else set()
        image = {name: size for name, size in inputs.blocks.items() if name in apart}
        text = {name: size for name, size in inputs.blocks.items() if name not in image}
        ranker = self.config.ranker
        return Shape(
            dense=inputs.user.dense.shape[1] + inputs.item.dense.shape[1],
            groups={"text": text, **({"image": image} if image else {})},
            categories=len(self.vocabulary),
            embedding_size=ranker.embedding_size,
            hidden_size=ranker.hidden_size,
            dropout=ranker.dropout,
        )


def _vocabulary(corpus: Corpus, evidence: Evidence, config: Config) -> list[str]:
    if config.profile.strategy == "notes":
        said = (corpus.notes[row].categories for row in evidence.known)
    else:
        written = corpus.summaries("item", evidence.item)
        said = (summary.categories for summary in written)
    counts = Counter(category for categories in said for category in categories)
    return [category for category, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


@dataclass(frozen=True)
class Model:
    """A trained ranker with all that its features are made with.

    Attributes:
        assembler: makes features.
        ranker: gives logits, with the loss's class weights in them.
        weights: those of (dislike, like).
        course: what happened in training, by step.
    """

    assembler: Assembler
    ranker: Ranker
    weights: tuple[float, float]
    course: dict[str, History]

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """Probability of a like, the class weights taken out: odds times w0 / w1."""
        shift = np.log(self.weights[0] / self.weights[1])
        return np.asarray(1 / (1 + np.exp(-(logit.astype(np.float64) + shift))))


def learn(
    corpus: Corpus, evidence: Evidence, split: Split, config: Config
) -> tuple[Model, Features, np.ndarray]:
    """Train one model.

    Returns:
        The model; the features of all rows; (n,) probability of a like of every row.
    """
    assembler = Assembler.of(corpus, evidence, config)
    features = Features.of(
        evidence, assembler.user(evidence.user, corpus), assembler.item(evidence.item, corpus)
    )
    inputs = Inputs(features)
    label = corpus.data.rating >= config.like_rating
    weights = class_weights(label[split.train], config.training.loss)
    on_test = config.training.select == "test"
    task = Task(inputs, label, weights, split.train, split.test if on_test else split.valid, by_fpr=on_test)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        ranker = Ranker(assembler.shape(inputs))
        course = train(ranker, task, config.ranker, config.training, generator)
    model = Model(assembler, ranker, weights, course)
    return model, features, model.probability(logits(ranker, inputs, np.arange(len(label))))
