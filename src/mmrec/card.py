"""The model card of a saved recommender, in Hugging Face's format; it names files, never paths or addresses."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from math import inf
from pathlib import PureWindowsPath

from huggingface_hub import EvalResult, ModelCard, ModelCardData

import mmrec
from mmrec.config import Config
from mmrec.metrics import Scores
from mmrec.reviews.formats import escaped
from mmrec.saving import Saved, without_address

__all__ = ["model_card"]

_FIGURES = {
    "roc_auc": ("ROC-AUC", "auc"),
    "fpr_at_tpr_90": ("FPR at TPR .90", "fpr_at_90"),
    "average_precision": ("Average precision of dislikes", "ap_negative"),
}
_MODELS = {
    "baseline": "the paper's baseline, over averaged embeddings of reviews",
    "proposed": "the paper's proposed model, over what was read out of reviews and photos",
    "mmrec": "mmrec's own model, over what was read out of reviews and photos and over fitted effects",
}
_POLICIES = {
    "fold": "training rows are dealt into {folds} folds, and a row's features come from the other folds alone",
    "leave_one_out": "a row's features come from all known reviews but its own",
    "all": "a row's features come from all known reviews, its own among them",
    "past": "a row's features come from strictly earlier reviews",
}
_USAGE = """\
```python
from mmrec import Recommender

recommender = Recommender.from_pretrained("OWNER/NAME")  # or a folder
recommender.predict(["a user"], ["an item"])  # probabilities of liking
recommender.recommend("a user", 10)
recommender.recommend(likes="words of someone who never wrote a review")
```"""
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def model_card(saved: Saved, remarks: Sequence[str]) -> ModelCard:
    """The card of a recommender.

    Args:
        saved: what the card is about.
        remarks: what must be known of the configuration to read the figures.
    """
    # The assembler's configuration names the model that was taken, also where several were compared.
    config = saved.model.assembler.config
    sections = {
        "What it is": f"It gives the probability that a user likes a {_plain(config.profile.item_kind)}: "
        f"a DLRM ranker, {_MODELS[config.ranker.features]} (after "
        "[MMREC](https://arxiv.org/abs/2408.04211)). It is kept as safetensors, JSON and Parquet, without "
        "pickles, and holds the texts and user ids of the reviews that it knows.",
        "How to use it": _USAGE,
        "Trained on": _trained_on(saved, config),
        "Figures on test reviews": _figures(saved.scores, config.ranker.features),
        "Operating point": _operating(saved, config),
        "Limits": _list([*_limits(saved, config), *(f"Flag: {remark}." for remark in remarks)]),
        "Made with": f"mmrec {mmrec.__version__}, Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in ("torch", "sentence-transformers"))
        + f"; seed {config.seed}.",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    data = _data(saved.scores, config.ranker.features, _file_name(saved.reviews.source))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# A recommender made of reviews\n\n{body}\n")


def _data(scores: dict[str, Scores], name: str, source: str) -> ModelCardData:
    results = [
        EvalResult(
            task_type="recommendation",
            task_name="Telling likes from dislikes",
            dataset_type="unknown",
            dataset_name=source,
            dataset_split="test",
            metric_type=kind,
            metric_name=title,
            metric_value=round(getattr(scores[name], key), 4),
        )
        for kind, (title, key) in _FIGURES.items()
    ]
    tags = ["recommender-system", "dlrm", "reviews"]
    return ModelCardData(
        library_name="mmrec",
        tags=tags,
        model_name=f"mmrec {name}".removesuffix(" mmrec"),
        eval_results=results,
    )


def _trained_on(saved: Saved, config: Config) -> str:
    table, split, evidence = saved.reviews.table, config.split, config.evidence
    likes = (table["rating"] >= config.like_rating).mean()
    dealt = "at random" if split.split_by == "random" else "by time, the latest into test"
    spare = ", but speak for others" if evidence.spare else ""
    return _list(
        [
            f"Data: {_plain(_file_name(saved.reviews.source))}, {table.height:,} reviews by "
            f"{table['user'].n_unique():,} users of {table['item'].n_unique():,} items; {likes:.1%} are likes "
            f"(rated {config.like_rating:g} or better).",
            f"Split: {dealt}; {split.test_share:.0%} of the reviews are test, {split.valid_share:.0%} of the "
            "others valid, and the rest train. Users and items with fewer than "
            f"{split.min_reviews} reviews are in none of them{spare}.",
            f"Evidence policy `{evidence.policy}`: {_POLICIES[evidence.policy].format(folds=evidence.folds)}.",
            "Since then the model knows all of these reviews, those of test too.",
        ]
    )


def _figures(scores: dict[str, Scores], name: str) -> str:
    rows = [("Model", *(title for title, _ in _FIGURES.values())), ("---", *["---:"] * len(_FIGURES))]
    for each, row in scores.items():
        shown = f"**{_plain(each)}**" if each == name else _plain(each)
        rows.append((shown, *(f"{getattr(row, key):.4f}" for _, key in _FIGURES.values())))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    own = scores[name]
    return "\n".join(
        [*lines, "", f"{own.rows:,} test reviews, {own.likes:,} of them likes. In bold: this model."]
    )


def _operating(saved: Saved, config: Config) -> str:
    if saved.threshold is None or saved.outcome is None:
        return "Not known: an earlier mmrec saved this model."
    bound = f"at most {config.operating.max_fpr:.0%} of the dislikes"
    if config.operating.min_tpr is not None:
        bound = f"at least {config.operating.min_tpr:.0%} of the likes"
    if saved.threshold == inf:
        return f"None: no threshold recommends {bound} on valid, so nothing is to be recommended."
    given = saved.outcome
    return (
        f"Recommending from a probability of {saved.threshold:.4f} on, chosen on valid to recommend {bound}, "
        f"gave on test {given.tpr:.1%} of the likes and {given.fpr:.1%} of the dislikes; "
        f"{given.precision:.1%} of what was recommended was liked."
    )


def _limits(saved: Saved, config: Config) -> list[str]:
    baseline, llm = config.ranker.features == "baseline", config.language.llm
    words = [f"Words were put into vectors by the encoder {_named(config.encoder.encoder_model)}."]
    if not baseline and llm == "builtin":
        words.append(
            "Reviews were read by the builtin reader, which is no language model: it picks sentences out of "
            "reviews by a lexicon and by nearness."
        )
    elif not baseline:
        words.append(f"Reviews were read by the language model {_named(llm)}, which may err.")
    looked = config.vision.image_model if baseline else config.vision.captioner
    if not saved.model.assembler.image:
        words.append("No photos went into it.")
    elif looked == "builtin":
        words.append("Photos without captions were described by colours and layout, not by a vision model.")
    else:
        words.append(f"Photos were looked at by {_named(looked)}, which may err.")
    if config.split.split_by == "random":
        words.append(
            "The split is random, so some of what it learned from is later than what it was tested on."
        )
    if config.profile.strategy == "summary" and config.evidence.summaries == "all":
        words.append("Summaries were made of all known reviews, so training rows hear themselves.")
    return [
        *words,
        "The figures are of one seed and one split of this data, and promise nothing on other data.",
    ]


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _file_name(path: str) -> str:
    """The last part, whether parts are split by / or \\."""
    return escaped(PureWindowsPath(path).name) or "unknown"


def _named(spelled: str) -> str:
    """A model for Markdown: without the address of a server, and of a folder the last part."""
    kind, colon, name = without_address(spelled).rpartition(":")
    return _plain(kind + colon + (_file_name(name) if name.startswith(("/", "\\", "~", ".")) else name))


def _plain(text: str) -> str:
    """Text that means nothing but itself in Markdown and HTML."""
    return re.sub(r"[!-+.:-@\[-`{-~]", lambda mark: _HTML.get(mark[0], f"\\{mark[0]}"), escaped(text))
