"""From a corpus and a split to a trained model: features, then the ranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from safetensors.torch import load, save

from mmrec.cache.store import Store, default_store_path
from mmrec.config import Config
from mmrec.data.split import Split
from mmrec.encoder.text_encoder import Encoder
from mmrec.evaluation import class_weights
from mmrec.evidence.policies import Evidence
from mmrec.features.builder import FeatureBuilder, build_features
from mmrec.features.dataset import Dataset, Models
from mmrec.features.groups import dense_columns
from mmrec.features.tables import Features
from mmrec.llm.annotator import Annotator, CallPlan
from mmrec.llm.cost import Budget
from mmrec.llm.factory import open_language_model
from mmrec.ranker.dlrm import Ranker, RankerShape, TrainingRun
from mmrec.ranker.inputs import RankerInputs
from mmrec.ranker.linear import fit_linear
from mmrec.ranker.shard import Shard
from mmrec.ranker.training import TrainingHistory, TrainingTask, predict_logits, train_ranker
from mmrec.vision.factory import open_captioner
from mmrec.vision.openai_captioner import open_openai_captioner
from mmrec.vision.resnet import ImageEncoder

__all__ = ["TrainedModel", "open_models", "train_model", "train_runs"]


def open_models(
    config: Config, plan: CallPlan | None = None, *, batch: bool = False, store: Store | None = None
) -> Models:
    """Name the configured models; weights are loaded, and servers called, when first needed.

    Args:
        config: which models.
        plan: when given, no language model is called; the calls are counted in it instead.
        batch: whether calls are submitted as batch jobs, whose results are collected later.
        store: in place of the one that `config` names.

    Raises:
        ConfigError: a model's name cannot be understood.
    """
    store = store or Store(config.store or default_store_path(), retry=config.language.retry_failed)
    language, annotation = config.language, config.annotation
    # Quotes come from the extractive model, whatever model writes the notes.
    extractive = Config(annotation=annotation, encoder=config.encoder, engine=config.engine)
    budget = Budget(language.budget)
    encoder = Encoder(config.encoder, store)
    model = open_language_model(config, encoder, store, budget, batch=batch)
    quote_model = open_language_model(extractive, encoder, store)
    open_remote = partial(open_openai_captioner, language=language, budget=budget)
    captioner = open_captioner(config.vision, open_remote)
    image_encoder = ImageEncoder(config.vision)
    if config.engine.engine == "ray":
        from mmrec.distributed import factory  # slow to import, and an optional extra

        encoder = factory.remote_encoder(config, store)
        model = factory.remote_language_model(model, config, encoder, store)
        quote_model = factory.remote_language_model(quote_model, extractive, encoder, store)
        captioner = factory.remote_captioner(captioner, config)
        image_encoder = factory.remote_image_encoder(config)
    annotator = quote_annotator = Annotator(model, store, language, annotation, plan)
    if language.llm != "builtin" or annotation.strategy != "notes":
        quote_annotator = Annotator(quote_model, store, language, annotation)
    return Models(store, encoder, annotator, quote_annotator, captioner, image_encoder)


@dataclass(frozen=True)
class TrainedModel:
    """A trained ranker with all that its features are made with.

    Attributes:
        builder: makes features.
        ranker: gives logits, with the loss's class weights in them.
        class_weights: those of (dislike, like).
        history: what happened in training, by step and run.
    """

    builder: FeatureBuilder
    ranker: Ranker
    class_weights: tuple[float, float]
    history: dict[str, list[TrainingHistory]]

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """(B,) probability of a like from (R, B) logits: runs averaged, class weights taken out (w0 / w1)."""
        shift = np.log(self.class_weights[0] / self.class_weights[1])
        return np.asarray(1 / (1 + np.exp(-(logit.astype(np.float64).mean(0) + shift))))


def train_runs(
    builder: FeatureBuilder,
    features: Features,
    label: np.ndarray,
    split: Split,
    runs: Sequence[TrainingRun],
) -> tuple[Ranker, dict[str, list[TrainingHistory]]]:
    """Train runs of one model side by side.

    Args:
        builder, features: the model's inputs; the assembler's `config` says how to train.
        label: (n,) bool, likes.
        split: rows to learn from, and rows that choose the epoch.
        runs: what sets them apart.
    """
    config = builder.config
    if config.engine.engine == "ray":
        from mmrec.distributed.training import train_on_workers  # heavy, and an extra

        lean = builder.model_copy(update={"mixed_effects": {}})
        work = partial(_trained, lean, features, label, split, runs)
        weights, course = train_on_workers(config.engine, config.training.batch_size, work)
        ranker = _ranker(builder, features, RankerInputs(features), runs)
        ranker.load_state_dict(load(weights))
        return ranker.eval(), course
    return _train_runs(builder, features, label, split, runs, Shard())


def _trained(*given: Any) -> tuple[bytes, dict[str, list[TrainingHistory]]]:
    """What `_train_runs` has trained, fit to be sent."""
    ranker, course = _train_runs(*given)
    return save(ranker.state_dict()), course


def _ranker_shape(builder: FeatureBuilder, inputs: RankerInputs, runs: int) -> RankerShape:
    """The shape of a ranker that fits some features.

    Captions have a reducer of their own; the baseline's photos share that of texts (paper, section 3).
    """
    text_blocks = dict(inputs.block_sizes)
    groups = {"text": text_blocks}
    if builder.uses_captions:
        groups["image"] = {"item photos": text_blocks.pop("item photos")}
    config = builder.config.ranker
    return RankerShape(
        dense=inputs.dense_size,
        groups=groups,
        categories=len(builder.vocabulary),
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        runs=runs,
        linear=config.features == "mmrec",
    )


def _ranker(
    assembler: FeatureBuilder, features: Features, inputs: RankerInputs, runs: Sequence[TrainingRun]
) -> Ranker:
    """A stack of runs, before training."""
    ranker = Ranker(_ranker_shape(assembler, inputs, len(runs)), runs)
    if any(run.masked_groups for run in runs):
        ranker.mask_inputs(dense_columns(features), [run.masked_groups for run in runs])
    return ranker


def _train_runs(
    assembler: FeatureBuilder,
    features: Features,
    label: np.ndarray,
    split: Split,
    runs: Sequence[TrainingRun],
    share: Shard,
) -> tuple[Ranker, dict[str, list[TrainingHistory]]]:
    """What `train_runs` does, by this process for its share."""
    config = assembler.config
    inputs = RankerInputs(features)
    on_test = config.training.select == "test"
    task = TrainingTask(
        inputs, label, split.train, split.test if on_test else split.valid, by_fpr=on_test
    )
    ranker = _ranker(assembler, features, inputs, runs)
    ranker.standardise(inputs, split.train)
    if ranker.linear is not None:
        free = np.isin(dense_columns(features), ["user rating effect", "item rating effect"])
        fit_linear(ranker, runs, inputs, label, split.train, split.valid, free)
    return ranker, train_ranker(
        ranker, runs, task, config.ranker, config.training, config.seed, share
    )


def train_model(
    corpus: Dataset, evidence: Evidence, split: Split, config: Config
) -> tuple[TrainedModel, Features, np.ndarray]:
    """Train one model.

    Returns:
        The model; the features of all rows; (n,) probability of a like of every row.
    """
    assembler, features = build_features(corpus, evidence, config)
    label = corpus.data.rating >= config.like_rating
    weights = class_weights(label[split.train], config.training.loss)
    repeats = config.ranker.ensemble if config.ranker.features == "mmrec" else 1
    seeds = np.random.SeedSequence(config.seed).generate_state(repeats)
    runs = [TrainingRun(int(seed), config.ranker.dropout, weights) for seed in seeds]
    ranker, course = train_runs(assembler, features, label, split, runs)
    model = TrainedModel(assembler, ranker, weights, course)
    return (
        model,
        features,
        model.probability(predict_logits(ranker, RankerInputs(features), np.arange(len(label)))),
    )
