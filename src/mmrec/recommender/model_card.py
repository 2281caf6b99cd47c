"""The model card of a saved recommender, in Hugging Face's format; it names files, never paths or servers."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import PureWindowsPath

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from mmrec.console import escape_text
from mmrec.recommender.persistence import SavedRecommender, strip_server_address

__all__ = ["model_card"]

_FIGURES = {
    "roc_auc": ("ROC-AUC", "auc"),
    "fpr_at_tpr_90": ("FPR at TPR .90", "fpr_at_90"),
    "average_precision": ("Average precision of dislikes", "ap_negative"),
}
_TAGS = ["recommender-system", "dlrm", "reviews"]
_PACKAGES = ("mmrec", "torch", "sentence-transformers")


def model_card(saved: SavedRecommender, warnings: Sequence[str]) -> ModelCard:
    """The card of a recommender.

    Args:
        saved: the recommender.
        warnings: of its configuration, in Markdown.
    """
    # The builder's configuration names the model, also where several were compared.
    config = saved.model.builder.config
    name, operating = config.ranker.features, config.operating
    source = PureWindowsPath(saved.reviews.source).name or "unknown"  # splits at / and at \
    bound = f"at most {operating.max_fpr:.0%} of the dislikes"
    if operating.min_tpr is not None:
        bound = f"at least {operating.min_tpr:.0%} of the likes"
    versions = [f"{package} {version(package)}" for package in _PACKAGES]
    body = _template().render(
        vars(saved) | vars(saved.evaluation),
        config=config,
        name=name,
        source=source,
        warnings=warnings,
        likes=(saved.reviews.table["rating"] >= config.like_rating).to_numpy().mean(),
        figures=list(_FIGURES.values()),
        bound=bound,
        versions=f"{', '.join(versions)}, Python {platform.python_version()}",
    )
    results: list[EvalResult] = []
    for kind, (title, key) in _FIGURES.items():
        value = round(saved.evaluation.metrics[name][key], 4)
        dataset = ("recommendation", "unknown", escape_text(source))
        results.append(EvalResult(*dataset, kind, value, metric_name=title))
    data = ModelCardData(library_name="mmrec", tags=_TAGS, model_name=name, eval_results=results)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{body}\n")


def _template() -> Template:
    """The template; every value is escaped unless it is marked as safe."""
    environment = Environment(
        loader=PackageLoader("mmrec", "recommender"),
        finalize=_escape,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["fmt"] = lambda value, spec: Markup(format(value, spec))
    environment.filters["model"] = _public_name
    return environment.get_template("model_card.md.jinja")


def _public_name(model: str) -> str:
    """A model's name without the address of its server; of a folder only the last part."""
    kind, colon, name = strip_server_address(model).rpartition(":")
    if name.startswith(("/", "\\", "~", ".")):
        name = PureWindowsPath(name).name
    return kind + colon + name


def _escape(value: object) -> str:
    """The value as text without a meaning in Markdown or HTML, unless it is marked as safe."""
    if isinstance(value, Markup):
        return value
    entities = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}

    def escape(match: re.Match[str]) -> str:
        return entities.get(match[0], f"\\{match[0]}")

    # All ASCII punctuation but + , - and /, which mean nothing inside a line.
    return re.sub(r"[!-*.:-@\[-`{-~]", escape, escape_text(str(value)))
