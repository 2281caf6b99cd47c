"""Saving, loading and publishing a recommender, with a model card, on the Hugging Face hub.

The card is in Hugging Face's format; it names files, never paths or servers.
"""

from __future__ import annotations

import platform
import re
from abc import abstractmethod
from importlib.metadata import version
from pathlib import Path, PureWindowsPath
from typing import Any, Self

from huggingface_hub import (
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    ModelHubMixin,
    snapshot_download,
)
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmrec.console import escape_text
from mmrec.encoder.weights import translate_loading_errors
from mmrec.errors import ConfigError, MmrecError, ModelError
from mmrec.recommender.persistence import (
    SavedRecommender,
    load_recommender,
    save_recommender,
    strip_server_address,
)

__all__ = ["HubMixin", "model_card"]


class HubMixin(ModelHubMixin):
    """Saves, loads and publishes what `to_saved` returns; paths and servers are not published."""

    # Without this, the mixin writes a config.json of the constructor's arguments.
    _hub_mixin_config = {"model_type": "mmrec"}  # noqa: RUF012

    @abstractmethod
    def to_saved(self) -> SavedRecommender:
        """What is saved."""

    @classmethod
    @abstractmethod
    def from_saved(cls, saved: SavedRecommender) -> Self:
        """A recommender as it was saved."""

    def save(self, folder: Path | str) -> Path:
        """Write the model and its reviews as safetensors, JSON and Parquet; and a model card."""
        return self._save(self.to_saved(), Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a folder that `save` wrote; a ModelError if there is no model, or a damaged one."""
        return cls.from_saved(load_recommender(Path(folder)))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        public_reviews: bool = False,
        **options: Any,
    ) -> str:
        """Publish the model, with the texts and user ids of all reviews, on the Hugging Face hub.

        Photos, their paths and addresses of servers are not published; names of models are.

        Args:
            repo_id: `owner/name`; created if need be.
            private: whether only the owner can read it.
            public_reviews: consents that everybody can read the reviews.
            options: of `ModelHubMixin.push_to_hub`: `token`, `commit_message`, `branch` and others.

        Raises:
            ConfigError: everybody could read the reviews, without consent.
            ModelError: the hub cannot be reached, or refuses.
        """
        readable = "everybody may read the texts and user ids of the reviews"
        consent = f"pass public_reviews=True if {readable}"
        if not private and not public_reviews:
            raise ConfigError(f"{repo_id} would be public: pass private=True, or {consent}")
        try:
            api = HfApi(token=options.get("token"))
            full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if not public_reviews and not api.model_info(full_id).private:
                raise ConfigError(f"{full_id} is public already: take another name, or {consent}")
            return super().push_to_hub(full_id, private=private, **options)
        except MmrecError:
            raise
        except Exception as error:  # the hub's client raises all kinds of errors
            message = f"cannot push to {repo_id}: {error}; check the token and the network"
            raise ModelError(message) from error

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Path | str, **options: Any) -> Self:
        """Read a model from a folder or from the hub (`owner/name`).

        Raises a ModelError if there is no such model, or a damaged one.
        """
        name = str(pretrained_model_name_or_path)
        if Path(name).is_dir():
            return cls.load(name)
        with translate_loading_errors(name, "check the name, the token and the network"):
            return super().from_pretrained(name, **options)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card that `save` writes, instead of the mixin's."""
        return model_card(self.to_saved())

    def _save_pretrained(self, save_directory: Path) -> None:
        self._save(self.to_saved().portable(), save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: object = None, **options: Any) -> Self:
        files = ["*.json", "*.safetensors", "*.parquet"]
        folder = snapshot_download(model_id, allow_patterns=files, **options)
        return cls.from_saved(load_recommender(Path(folder)).portable())

    def _save(self, saved: SavedRecommender, folder: Path) -> Path:
        card = save_recommender(saved, folder) / "README.md"
        # The folder may be that of a project with another README, which must not be replaced.
        if not card.exists() or "library_name: mmrec" in card.read_text(errors="replace"):
            self.generate_model_card().save(card)
        return folder


def model_card(saved: SavedRecommender) -> ModelCard:
    """The card of a recommender, with the warnings of its configuration."""
    # The builder's configuration names the model, also where several were compared.
    config = saved.model.builder.config
    name, operating = config.ranker.features, config.operating
    source = PureWindowsPath(saved.reviews.source).name or "unknown"  # splits at / and at \
    bound = f"at most {operating.max_fpr:.0%} of the dislikes"
    if operating.min_tpr is not None:
        bound = f"at least {operating.min_tpr:.0%} of the likes"
    figures = {
        "roc_auc": ("ROC-AUC", "auc"),
        "fpr_at_tpr_90": ("FPR at TPR .90", "fpr_at_90"),
        "average_precision": ("Average precision of dislikes", "ap_negative"),
    }
    packages = ("mmrec", "torch", "sentence-transformers")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    # Every value is escaped unless it is marked as safe.
    environment = Environment(
        loader=PackageLoader("mmrec", "recommender"),
        finalize=_escape,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["fmt"] = lambda value, spec: Markup(format(value, spec))
    environment.filters["model"] = _public_name
    body = environment.get_template("model_card.md.jinja").render(
        vars(saved) | vars(saved.evaluation),
        config=config,
        name=name,
        source=source,
        warnings=config.warnings(),
        likes=(saved.reviews.table["rating"] >= config.like_rating).to_numpy().mean(),
        figures=list(figures.values()),
        bound=bound,
        versions=f"{versions}, Python {platform.python_version()}",
    )
    results: list[EvalResult] = []
    for kind, (title, key) in figures.items():
        value = round(saved.evaluation.metrics[name][key], 4)
        dataset = ("recommendation", "unknown", escape_text(source))
        results.append(EvalResult(*dataset, kind, value, metric_name=title))
    tags = ["recommender-system", "dlrm", "reviews"]
    data = ModelCardData(library_name="mmrec", tags=tags, model_name=name, eval_results=results)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{body}\n")


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
    # All ASCII punctuation but + , - and /, which mean nothing inside a line.
    return re.sub(
        r"[!-*.:-@\[-`{-~]",
        lambda match: entities.get(match[0], f"\\{match[0]}"),
        escape_text(str(value)),
    )
