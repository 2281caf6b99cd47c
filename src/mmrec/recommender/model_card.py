"""The model card of a saved recommender, in Hugging Face's format; it names files, never paths or servers."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import PureWindowsPath

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmrec.recommender.persistence import SavedRecommender, strip_server_address
from mmrec.text import escape_text

__all__ = ["model_card"]

_FIGURES = {
    "roc_auc": ("ROC-AUC", "auc"),
    "fpr_at_tpr_90": ("FPR at TPR .90", "fpr_at_90"),
    "average_precision": ("Average precision of dislikes", "ap_negative"),
}
_TAGS = ("recommender-system", "dlrm", "reviews")


def model_card(saved: SavedRecommender, remarks: Sequence[str]) -> ModelCard:
    """The card of a recommender.

    Args:
        saved: what the card is about.
        remarks: what must be known of the configuration to read the figures, in Markdown.
    """
    # The assembler's configuration names the model that was taken, also where several were compared.
    config = saved.model.builder.config
    name, operating = config.ranker.features, config.operating
    source = PureWindowsPath(saved.reviews.source).name or "unknown"  # splits at / and at \
    bound = f"at most {operating.max_fpr:.0%} of the dislikes"
    if operating.min_tpr is not None:
        bound = f"at least {operating.min_tpr:.0%} of the likes"
    packages = (
        f"{package} {version(package)}" for package in ("mmrec", "torch", "sentence-transformers")
    )
    loader = PackageLoader("mmrec", "recommender")
    environment = Environment(
        loader=loader, finalize=_shown, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"fmt": lambda value, how: Markup(format(value, how)), "model": _model}
    body = environment.get_template("model_card.md.jinja").render(
        vars(saved)
        | vars(saved.evaluation)
        | {"config": config, "name": name, "source": source, "remarks": remarks},
        likes=(saved.reviews.table["rating"] >= config.like_rating).to_numpy().mean(),
        figures=list(_FIGURES.values()),
        bound=bound,
        versions=f"{', '.join(packages)}, Python {platform.python_version()}",
    )
    results = [
        EvalResult(
            "recommendation",
            "unknown",
            escape_text(source),
            kind,
            round(value, 4),
            metric_name=title,
        )
        for kind, (title, key) in _FIGURES.items()
        for value in [saved.evaluation.metrics[name][key]]
    ]
    data = ModelCardData(library_name="mmrec", tags=[*_TAGS], model_name=name, eval_results=results)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{body}\n")


def _model(spelled: str) -> str:
    """A model's name without the address of a server, and of a folder the last part."""
    kind, colon, name = strip_server_address(spelled).rpartition(":")
    return (
        kind
        + colon
        + (PureWindowsPath(name).name if name.startswith(("/", "\\", "~", ".")) else name)
    )


def _shown(value: object) -> str:
    """What means nothing but itself in Markdown and HTML, for all that is not marked as safe."""
    if isinstance(value, Markup):
        return value
    marks = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return re.sub(
        r"[!-*.:-@\[-`{-~]", lambda at: marks.get(at[0], f"\\{at[0]}"), escape_text(str(value))
    )
