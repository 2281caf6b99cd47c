"""From reviews to a trained model: filter, split, derive evidence, build features, train."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from safetensors.torch import load, save

from mmrec.cache.store import Store, default_store_path
from mmrec.config import Config
from mmrec.data.schema import Reviews, Split, filter_reviews, split_reviews
from mmrec.encoder.text_encoder import Encoder
from mmrec.errors import DataError
from mmrec.evaluation import metrics
from mmrec.evaluation.metrics import FitEvaluation, Metrics, Verdict
from mmrec.evaluation.simple_baselines import BIAS_MODEL, BaselineTask, choose_bias_model
from mmrec.evaluation.verdict import RivalModels, reach_verdict
from mmrec.evidence.policies import Evidence
from mmrec.features.builder import FeatureBuilder, build_features
from mmrec.features.dataset import Dataset, Models
from mmrec.features.tables import Features, dense_columns
from mmrec.llm.annotator import Annotator, CallPlan
from mmrec.llm.cost import Budget
from mmrec.llm.extractive import ExtractiveModel
from mmrec.llm.factory import open_language_model
from mmrec.llm.types import LanguageModel
from mmrec.ranker import training
from mmrec.ranker.dlrm import Ranker, RankerShape
from mmrec.ranker.inputs import RankerInputs, Shard, TrainingRun, TrainingTask
from mmrec.ranker.linear import bias_ranker, fit_linear, logistic_curve
from mmrec.ranker.training import TrainingHistory
from mmrec.retrieval.histories import TopicAxes, Visits
from mmrec.retrieval.retrieval import Retrieval
from mmrec.vision.captioner import open_captioner
from mmrec.vision.image_features import ImageEncoder


@dataclass(frozen=True)
class PreparedData:
    """n reviews that are split; under `filtered_rows` also those that are evidence alone."""

    reviews: Reviews
    dataset: Dataset
    split: Split
    evidence: Evidence  # which reviews the features of every row may be made of
    label: np.ndarray  # (n,) bool, whether the review is a like
    config: Config  # `ranker.features` names the model that is trained on the data

    @property
    def baseline_task(self) -> BaselineTask:
        """What baselines are made from, on the same split."""
        return BaselineTask(self.dataset.data, self.split, self.evidence.fold, self.label)

    def threshold(self, probability: np.ndarray) -> float:
        """From which on of (n,) probabilities to recommend, chosen on validation rows."""
        operating, valid = self.config.operating, self.split.valid
        rows = self.label[valid], probability[valid]
        if operating.min_tpr is not None:
            return metrics.choose_threshold(*rows, "min_tpr", operating.min_tpr)
        return metrics.choose_threshold(*rows, "max_fpr", operating.max_fpr)

    @cached_property
    def retrieval(self) -> Retrieval:
        """Proposers of candidates, learned from evidence rows alone."""
        return fit_retrieval(self.dataset, self.split.evidence_rows, self.config)


@dataclass(frozen=True)
class TrainedModel:
    """A trained ranker with the builder of its features."""

    builder: FeatureBuilder
    ranker: Ranker  # computes logits, which are shifted by the class weights of the loss
    class_weights: tuple[float, float]  # of dislike and like
    history: dict[str, list[TrainingHistory]]  # of each step of training, by run

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """(B,) probability of a like from (R, B) logits, averaged over runs."""
        return training.remove_class_weights(logit.astype(np.float64).mean(0), self.class_weights)


@dataclass(frozen=True)
class TrainingResult:
    """A trained model with its data, and the (n,) probabilities of a like of all rows."""

    prepared: PreparedData
    model: TrainedModel
    features: Features
    probability: np.ndarray
    verdict: Verdict | None = None  # from `choose_model`

    @property
    def name(self) -> str:
        """Of the model, in tables."""
        return self.verdict.model if self.verdict else self.prepared.config.ranker.features

    @property
    def threshold(self) -> float:
        """The probability from which on to recommend, chosen on validation rows."""
        return self.prepared.threshold(self.probability)

    def evaluate(self, other_metrics: dict[str, Metrics] | None = None) -> FitEvaluation:
        """Evaluate on test rows; the metrics of other models on these rows are put beside."""
        label, split = self.prepared.label, self.prepared.split
        test = label[split.test], self.probability[split.test]
        other = other_metrics or {}
        scores = metrics.evaluate(*test, self.model.class_weights)
        return FitEvaluation(
            metrics={**other, self.name: other.get(self.name, scores)},
            threshold=self.threshold,
            test_rates=metrics.rates_at_threshold(*test, self.threshold),
            verdict=self.verdict,
            curve=metrics.threshold_curve(label[split.valid], self.probability[split.valid]),
        )


def list_visits(dataset: Dataset, axes: TopicAxes, like_rating: float) -> Visits:
    """All reviews of a dataset as visits of users to items."""
    data, topics = dataset.data, axes.topics(dataset.texts, dataset.text_vectors)
    liked = data.rating >= like_rating
    return Visits(data.user, data.item, liked, topics, len(data.users), len(data.items))


def fit_retrieval(dataset: Dataset, rows: np.ndarray, config: Config) -> Retrieval:
    """Learn to propose items, from some reviews of a dataset alone."""
    axes = TopicAxes.fit(dataset.texts, dataset.text_vectors, rows)
    visits = list_visits(dataset, axes, config.like_rating).rows(rows)
    return Retrieval.fit(visits, axes, config.seed)


def open_models(
    config: Config, plan: CallPlan | None = None, *, batch: bool = False, store: Store | None = None
) -> Models:
    """Name the configured models; weights are loaded, and servers called, when first needed.

    With a `plan` no language model is called: the calls are counted in it. With `batch` they are
    submitted as batch jobs, whose results are collected later. A ConfigError is raised for a
    model's name that cannot be understood.
    """
    language, annotation = config.language, config.annotation
    store = store or Store(config.store or default_store_path(), retry=language.retry_failed)
    budget = Budget(language.budget)
    encoder = Encoder(config.encoder, store)
    # Quotes come from the extractive model, whatever model writes the notes.
    quote_model: LanguageModel = ExtractiveModel(
        encoder, annotation.item_kind, annotation.summary_tokens
    )
    model = quote_model
    if language.llm != "builtin" or batch:
        model = open_language_model(config, store, budget, batch=batch)
    captioner = open_captioner(config, budget)
    image_encoder = ImageEncoder(config.vision.image_model, config.vision.image_revision)
    if config.engine.engine == "ray":
        # Imported here, since it is slow to import, and an optional extra.
        from mmrec.distributed import remote_models as remote

        encoder = remote.RemoteEncoder(config, store)
        model = remote.remote_language_model(model, config, encoder, store)
        quote_model = remote.remote_language_model(quote_model, config, encoder, store)
        captioner = remote.remote_captioner(captioner, config)
        image_encoder = remote.remote_image_encoder(config)
    annotator = quote_annotator = Annotator(model, store, config, plan)
    if language.llm != "builtin" or annotation.strategy != "notes":
        quote_annotator = Annotator(quote_model, store, config)
    return Models(store, encoder, annotator, quote_annotator, captioner, image_encoder)


def prepare_data(reviews: Reviews, config: Config, models: Models) -> PreparedData:
    """Filter and split reviews, derive the evidence; a DataError if a part is empty or of one kind."""
    table = reviews.table.with_row_index("row")
    rows = filter_reviews(table, config.split.min_reviews)["row"].to_numpy()
    if config.evidence.filtered_rows:
        labelled = np.isin(np.arange(table.height), rows)
    else:
        labelled = np.ones(len(rows), dtype=bool)
        reviews = replace(reviews, table=reviews.table[rows])
    dataset = Dataset.from_reviews(reviews, models, config)
    rng = np.random.default_rng(config.seed)
    split = split_reviews(dataset.data, config.split, rng, labelled)
    policy, folds = config.evidence.policy, config.evidence.folds
    evidence = Evidence.derive(dataset.data, split, policy, folds, rng)
    dataset.part = evidence.fold
    label = dataset.data.rating >= config.like_rating
    parts = ("training", split.train), ("validation", split.valid), ("test", split.test)
    for name, rows in parts:
        if label[rows].all() or not label[rows].any():
            kind = "likes (rating >=" if label[rows].any() else "dislikes (rating <"
            raise DataError(
                f"{reviews.source}: of {len(label)} reviews, the {len(rows)} that were drawn "
                f"for {name} are all {kind} {config.like_rating:g}); there is nothing to tell "
                "apart. Bring more reviews, or check the ratings and --like-rating"
            )
    return PreparedData(reviews, dataset, split, evidence, label, config)


def train_model(prepared: PreparedData) -> TrainingResult:
    """Build the features of the model that `prepared.config` names, and train it."""
    config, label = prepared.config, prepared.label
    builder, features = build_features(prepared.dataset, prepared.evidence, config)
    weights = training.class_weights(label[prepared.split.train], config.training.loss)
    repeats = config.ranker.ensemble if config.ranker.features == "mmrec" else 1
    seeds = np.random.SeedSequence(config.seed).generate_state(repeats)
    runs = [TrainingRun(int(seed), config.ranker.dropout, weights) for seed in seeds]
    ranker, history = train_runs(prepared, builder, features, runs)
    model = TrainedModel(builder, ranker, weights, history)
    rows = np.arange(len(label))
    logits = training.predict_logits(ranker, RankerInputs(features), rows)
    return TrainingResult(prepared, model, features, model.probability(logits))


def choose_model(result: TrainingResult, bias: np.ndarray | None = None) -> TrainingResult:
    """The model to use, with a verdict: the trained one if validation rows prove that it beats the bias
    model, whose (n,) probabilities may be known; else the bias model as a ranker on the same features."""
    prepared, task = result.prepared, result.prepared.baseline_task
    config, split, features = prepared.config, prepared.split, result.features
    if bias is None:
        bias = task.calibrate(choose_bias_model(task))
    # Other models have no effects among their features.
    fallback = config.ranker.fallback and config.ranker.features == "mmrec"
    columns = task.data.user, task.label, result.probability, bias

    def rivals(kind: str, rows: np.ndarray) -> RivalModels:
        return RivalModels(config.ranker.features, kind, *(values[rows] for values in columns))

    valid = rivals("validation reviews", split.valid)
    test = rivals("test reviews", split.test)
    verdict = reach_verdict(valid, test, len(task.label), fallback=fallback)
    result = replace(result, verdict=verdict)
    if verdict.model != BIAS_MODEL:
        return result
    effects, inputs = _effect_columns(features), RankerInputs(features)
    score = np.zeros(len(task.label))
    for entity, view in ((features.user, features.user_view), (features.item, features.item_view)):
        score += entity.dense[view, entity.names.index("rating effect")]
    fitted = np.concatenate([split.train, split.valid])
    curve = logistic_curve(score[fitted], task.label[fitted])
    ranker = bias_ranker(result.model.ranker, effects, curve, result.model.class_weights)
    model = replace(result.model, ranker=ranker, history={})
    logits = training.predict_logits(ranker, inputs, np.arange(len(score)))
    return replace(result, model=model, probability=model.probability(logits))


def _effect_columns(features: Features) -> np.ndarray:
    """(p,) bool: the dense columns that are effects on the rating."""
    return np.isin(dense_columns(features), ["user rating effect", "item rating effect"])


def train_runs(
    prepared: PreparedData, builder: FeatureBuilder, features: Features, runs: Sequence[TrainingRun]
) -> tuple[Ranker, dict[str, list[TrainingHistory]]]:
    """Train runs of one model, as a stack, from the builder's features; its history by step and run."""
    config, shape = builder.config, ranker_shape(builder, features, len(runs))
    label, split = prepared.label, prepared.split

    def untrained_ranker() -> Ranker:
        ranker = Ranker(shape, runs)
        if any(run.masked_groups for run in runs):
            ranker.mask_inputs(dense_columns(features), [run.masked_groups for run in runs])
        return ranker

    # Workers are sent this function, so it must not need the large `builder` and `prepared`.
    def train(shard: Shard) -> tuple[bytes, dict[str, list[TrainingHistory]]]:
        ranker, inputs = untrained_ranker(), RankerInputs(features)
        test_rows = split.test if config.training.select == "test" else None
        task = TrainingTask(inputs, label, split.train, split.valid, test_rows)
        ranker.standardiser.fit(inputs, split.train)
        if ranker.linear is not None:
            fit_linear(ranker, runs, task, _effect_columns(features))
        trainer = training.StackTrainer(ranker, runs, task, config.training, config.seed, shard)
        history = trainer.train(config.ranker.reduction)
        return save(ranker.state_dict()), history

    if config.engine.engine == "ray":
        from mmrec.distributed.training import train_on_workers  # an extra

        weights, history = train_on_workers(config.engine, config.training.batch_size, train)
    else:
        weights, history = train(Shard())
    ranker = untrained_ranker()
    ranker.load_state_dict(load(weights))
    return ranker.eval(), history


def ranker_shape(builder: FeatureBuilder, features: Features, runs: int) -> RankerShape:
    """A reducer for text and one for captions; the baseline has one."""
    config, inputs = builder.config.ranker, RankerInputs(features)
    groups: dict[str, dict[str, int]] = {"text": inputs.block_sizes}
    if config.features != "baseline" and "item photos" in inputs.block_sizes:
        groups["image"] = {"item photos": groups["text"].pop("item photos")}
    return RankerShape(
        dense=inputs.dense_size,
        groups=groups,
        categories=len(builder.vocabulary),
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        runs=runs,
        linear=config.features == "mmrec",
    )
