"""The paper's models and ours beside baselines, on one split, with the same evidence."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmrec.config import Config
from mmrec.console import track
from mmrec.data.schema import Reviews
from mmrec.evaluation import statistics
from mmrec.evaluation.list_metrics import (
    JudgedCandidates,
    ListComparison,
    ListResults,
    ListTask,
    compare_lists,
)
from mmrec.evaluation.metrics import (
    Metrics,
    evaluate,
    rates_at_threshold,
    slice_metrics,
    threshold_curve,
)
from mmrec.evaluation.simple_baselines import ALWAYS_LIKE, BIAS_MODEL, simple_baseline_probabilities
from mmrec.evaluation.statistics import Difference
from mmrec.evidence.policies import EvidenceViews
from mmrec.experiments import baselines
from mmrec.experiments.list_peers import make_peer_lists
from mmrec.features.audit import Audit, audit
from mmrec.features.dataset import Models
from mmrec.features.tables import Features
from mmrec.llm.types import PRICE_TAGS
from mmrec.pipeline import (
    PreparedData,
    TrainingResult,
    choose_model,
    fit_retrieval,
    list_visits,
    prepare_data,
    train_model,
)
from mmrec.ranker.training import class_weights
from mmrec.recommender.lists import ListScorer
from mmrec.recommender.proposals import CANDIDATES, ListMaker, ListRules, UserHistories
from mmrec.retrieval.histories import Histories

_CAUTIONS, _MAX_FPRS = (0, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2), (0.8, 0.6, 0.4)
"""Settings of the judge at which the trade of recall against dislikes is shown."""
Intervals = dict[str, dict[str, tuple[float, float, float]]]
"""Model -> metric -> value and ends of its 95% interval."""
_BOOTSTRAPPED_METRICS = {
    "auc": statistics.weighted_auc,
    "fpr_at_90": statistics.weighted_fpr_at_tpr,
}


@dataclass(frozen=True)
class Comparison:
    """The results of one run, by name of the model; baselines come first."""

    prepared: PreparedData
    metrics: dict[str, Metrics]  # on the test rows
    probability: dict[str, np.ndarray]  # (n,) of a like, of every row
    trained: dict[str, TrainingResult]  # without baselines
    chosen: TrainingResult  # what is saved: one of these, or the bias model in its place
    lists: ListResults
    seconds: dict[str, float]  # to build features and train
    remarks: list[str]  # what readers must know


def compare(
    reviews: Reviews,
    config: Config,
    models: Models,
    model_names: Sequence[str] = ("baseline", "proposed", "mmrec"),
    *,
    trained_baselines: bool = False,
) -> Comparison:
    """Train baselines and the named models on one split, and evaluate them on its test rows."""
    prepared = prepare_data(reviews, config, models)
    data, split, label = prepared.dataset.data, prepared.split, prepared.label
    probability = simple_baseline_probabilities(prepared.baseline_task)
    if set(model_names) - {"baseline"} and config.annotation.strategy == "notes":
        _ = prepared.dataset.notes  # Annotate first, to fail early.
    trained, seconds = dict[str, TrainingResult](), dict[str, float]()
    metrics, remarks = dict[str, Metrics](), config.warnings()
    for name in model_names:
        start = time.perf_counter()
        model_config = config.changed("ranker", features=name)
        result = train_model(replace(prepared, config=model_config))
        seconds[name] = time.perf_counter() - start
        trained[name], probability[name] = result, result.probability
        remarks.extend(_photo_remarks(name, result))
    if trained_baselines:
        start = time.perf_counter()
        # Features of the paper's model; ours hold fitted effects, which are part of the ranker.
        source = trained.get("proposed") or next(iter(trained.values()))
        feature_task = baselines.FeatureTask(
            data, split, prepared.evidence.fold, label, source.features, config.seed
        )
        added, more = baselines.trained_baseline_probabilities(feature_task)
        seconds["trained baselines"] = time.perf_counter() - start
        probability.update(added)
        remarks.extend(more)
    if failures := models.annotator.failure_summary:
        remarks.append(f"{models.annotator.note_provenance['model']}: {failures}")
    weights = class_weights(label[split.train], config.training.loss)
    # False sorts before True: baselines first.
    for name in sorted(probability, key=lambda name: name in trained):
        on_test = probability[name][split.test]
        metrics[name] = evaluate(label[split.test], on_test, weights)
    start = time.perf_counter()
    *_, last = trained.values()
    # The model that is saved; the others are there for their probabilities.
    chosen = choose_model(trained.get(config.ranker.features, last), probability[BIAS_MODEL])
    lists = make_lists(chosen, slow_peers=trained_baselines)
    seconds["lists"] = time.perf_counter() - start
    remarks.extend(lists.remarks)
    return Comparison(prepared, metrics, probability, trained, chosen, lists, seconds, remarks)


def make_lists(training: TrainingResult, *, slow_peers: bool) -> ListResults:
    """Lists for users of test rows by peers, also the slow ones if wanted, and by a trained model."""
    prepared = training.prepared
    rows, split = (prepared.dataset.data, prepared.label), prepared.split
    valid = ListTask.from_rows(*rows, split.rows_before_validation, split.valid)
    test = ListTask.from_rows(*rows, split.evidence_rows, split.test)
    result = make_peer_lists(valid, test, prepared.config.seed, slow=slow_peers)
    candidates = judge_candidates(training, test)
    on_valid = prepared.label[split.valid], training.probability[split.valid]
    curve = threshold_curve(*on_valid)
    lowest: dict[float | None, float] = {None: 0.0}
    lowest |= {max_fpr: curve.for_max_fpr(max_fpr)[0] for max_fpr in _MAX_FPRS}
    # Not by the name of the judge, which may be that of a peer.
    result.top["mmrec"] = candidates.lists(prepared.config.operating.caution)
    trade = candidates.trade(_CAUTIONS, lowest, test)
    return replace(result, trade=trade, judge=training.name)


def judge_candidates(training: TrainingResult, task: ListTask) -> JudgedCandidates:
    """The candidates of the users of `task`, by what evidence rows tell of users and items."""
    prepared, retrieval = training.prepared, training.prepared.retrieval
    dataset, evidence = prepared.dataset, prepared.split.evidence_rows
    build, all_reviews = training.model.builder.build, EvidenceViews.all_reviews
    user = build("user", all_reviews(dataset.data.user, evidence), dataset)
    item = build("item", all_reviews(dataset.data.item, evidence), dataset)
    # There is one view an entity, in the order of codes, so codes serve as views.
    no_rows = np.zeros(0, dtype=np.int64)
    scorer = ListScorer(training.model, Features(user, item, no_rows, no_rows))
    visits = list_visits(dataset, retrieval.axes, prepared.config.like_rating)
    histories = UserHistories(Histories.from_visits(visits.rows(evidence)))
    size = len(task.users), CANDIDATES
    like_rate = retrieval.proposers.like_rate
    result = JudgedCandidates(np.full(size, -1), np.zeros(size), np.zeros(size), like_rate)
    with track("lists", len(task.users)) as advance:
        maker = ListMaker(retrieval, scorer, histories, caution=0)  # scores are choices
        lists = maker.lists(task.users, CANDIDATES, ListRules())
        for row, listed in enumerate(lists):
            places = slice(len(listed.items))
            result.items[row, places] = listed.items
            result.choice[row, places] = listed.score
            result.probability[row, places] = listed.probability
            advance(1)
    return result


def _photo_remarks(name: str, trained: TrainingResult) -> list[str]:
    dataset, evidence = trained.prepared.dataset, trained.prepared.evidence
    if trained.model.builder.image:
        failures = "" if name == "baseline" else str(dataset.captions)
        return [f"{name}: {failures}"] if failures else []
    if not dataset.has_photos(evidence.evidence_rows, captions=name != "baseline"):
        return [f"{name}: no image block, since no item has a photo"]
    model = trained.prepared.config.vision.image_model
    mend = f"name their folder with --image-model, or bring them with `hf download {model}`"
    return [f"{name}: no image block, since the weights of {model} are not here; {mend}"]


@dataclass(frozen=True)
class Assessment:
    """Values on test rows by model; intervals are 95% by a bootstrap over users."""

    reference: str  # the model that others are compared with
    intervals: Intervals
    differences: dict[str, dict[str, Difference]]  # metric -> to the reference, p by Holm
    operating_points: dict[str, dict[str, float]]  # by a threshold of valid
    slices: dict[str, dict[str, Metrics]]  # slice -> metrics
    lists: ListComparison


def assess(comparison: Comparison, reference: str = BIAS_MODEL, rounds: int = 500) -> Assessment:
    """Assess every model on the test rows, by `rounds` of the bootstrap; one must be trained."""
    prepared, trained = comparison.prepared, comparison.trained
    test, seed = prepared.split.test, prepared.config.seed
    rows = prepared.dataset.data.user[test], prepared.label[test]
    on_test = {name: p[test] for name, p in comparison.probability.items()}
    del on_test[ALWAYS_LIKE]
    intervals, differences = bootstrap_models(*rows, on_test, reference, rounds, seed)
    lists = compare_lists(comparison.lists, rounds, seed)
    result = Assessment(reference, intervals, differences, {}, {}, lists)
    # The last model: the paper's baseline, which comes first, has no price.
    last = list(trained.values())[-1]
    masks, weights = slice_masks(prepared, last.features), last.model.class_weights
    for name in (reference, *trained):
        result.slices[name] = slice_metrics(rows[1], on_test[name], weights, masks)
        threshold = prepared.threshold(comparison.probability[name])
        rates = rates_at_threshold(rows[1], on_test[name], threshold)
        result.operating_points[name] = {"threshold": threshold, **rates._asdict()}
    return result


def bootstrap_models(
    user: np.ndarray,
    label: np.ndarray,
    probability: dict[str, np.ndarray],
    reference: str,
    rounds: int,
    seed: int,
) -> tuple[Intervals, dict[str, dict[str, Difference]]]:
    """Intervals of every model's metrics on n rows, and the differences of all others from the
    reference; p is corrected for their number (Holm)."""
    intervals: Intervals = {name: {} for name in probability}
    compared = [*probability]
    compared.remove(reference)
    differences: dict[str, dict[str, Difference]] = {name: {} for name in compared}
    with track("assessing", len(probability)) as advance:
        for name, p in probability.items():
            for key, metric in _BOOTSTRAPPED_METRICS.items():
                value = statistics.bootstrap(user, label, p, metric, None, rounds, seed)
                intervals[name][key] = value[:3]
                if name != reference:
                    pair = p, metric, probability[reference]
                    differences[name][key] = statistics.bootstrap(user, label, *pair, rounds, seed)
            advance(1)
    for key in _BOOTSTRAPPED_METRICS:
        gaps = [differences[name][key] for name in compared]
        p_values = statistics.holm_correction([gap.p_value for gap in gaps]).tolist()
        for name, gap, p_value in zip(compared, gaps, p_values, strict=True):
            differences[name][key] = gap._replace(p_value=p_value)
    return intervals, differences


def slice_masks(prepared: PreparedData, features: Features) -> dict[str, np.ndarray]:
    """Masks of the test rows by name, from what the evidence rows tell of their user and item."""
    dataset, test, items = prepared.dataset, prepared.split.test, features.item
    data, evidence = dataset.data, prepared.split.evidence_rows
    user, item = data.user[test], data.item[test]
    user_count = np.bincount(data.user[evidence], minlength=len(data.users))[user]
    item_count = np.bincount(data.item[evidence], minlength=len(data.items))[item]
    # (items,): photos or captions of the item itself, or of an evidence review
    item_photos = zip(dataset.item_photos, dataset.item_captions, strict=True)
    has_photo = np.array(list(map(any, item_photos)))
    for row in evidence:
        has_photo[data.item[row]] |= bool(dataset.photos[row] or dataset.review_captions[row])
    photo = has_photo[item]
    tags = [tag for tag in PRICE_TAGS if tag in items.names]
    columns = list(map(items.names.index, tags))
    shares = items.dense[features.item_view[test]][:, columns]  # (m, tags)
    has_price = shares.any(axis=1)
    masks = {"cold users": user_count < 3, "warm users": user_count >= 3}
    masks |= {"few reviews": item_count < 5, "many reviews": item_count >= 5}
    masks |= {"with photo": photo, "without photo": ~photo}
    masks |= {"with price": has_price, "without price": ~has_price}
    for number, tag in enumerate(tags):
        mask = has_price & (shares.argmax(axis=1) == number)
        if mask.any():
            masks[f"price: {tag}"] = mask
    return masks


def audit_features(comparison: Comparison, row_count: int = 200) -> dict[str, Audit]:
    """Audit each model's features on randomly drawn rows, since every one is built anew; and `lists`,
    the retrieval of the chosen model, whole: it may have learned from all rows but test."""
    data, audits = comparison.prepared, {}
    rows = np.concatenate([data.split.train, data.split.valid, data.split.test])
    sample = np.random.default_rng(data.config.seed).permutation(rows)[:row_count]
    for name, trained in comparison.trained.items():
        built = trained.model.builder, trained.features
        audits[name] = audit(data.dataset, data.split, data.evidence, *built, sample)
    audits["lists"] = audit_retrieval(comparison.chosen.prepared)
    return audits


def audit_retrieval(data: PreparedData) -> Audit:
    """Audit the retrieval: each of its arrays must be as if learned from all rows but test alone."""
    visible = np.setdiff1d(np.arange(len(data.dataset)), data.split.test)
    expected = fit_retrieval(data.dataset, visible, data.config).arrays()
    violations = list[str]()
    for name, values in data.retrieval.arrays().items():
        pair = values, expected[name]
        # Not `any(gap > ...)`, which is False for NaN.
        if len({*map(np.shape, pair)}) > 1 or not np.allclose(*pair, rtol=1e-3, atol=1e-5):
            violations.append(f"{name}: not made from the evidence rows alone")
    return Audit("all but test", len(data.split.test), len(visible), violations)
