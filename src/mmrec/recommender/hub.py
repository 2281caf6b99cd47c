"""A fitted model with its model card, in a folder or on the Hugging Face hub."""

import os
import platform
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any, Self

import polars as pl
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, snapshot_download
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmrec.config import Config, ReadConfig
from mmrec.console import escape_text
from mmrec.encoder.weights import translate_loading_errors
from mmrec.errors import ConfigError, DataError, MmrecError, ModelError
from mmrec.features.dataset import Models
from mmrec.pipeline import open_models
from mmrec.recommender.loading import load_recommender
from mmrec.recommender.persistence import SavedRecommender, replace_file, save_recommender


class PersistentModel:
    """A fitted model and the reviews it knows: saved, loaded and published."""

    def __init__(self, config: Config | None = None, models: Models | None = None) -> None:
        self.config = config or Config()
        self.models = models or open_models(self.config)
        self._saved: SavedRecommender | None = None
        self._has_live_reviews = False

    @property
    def saved(self) -> SavedRecommender:
        """The model as it was fitted or loaded; a DataError if it has not been."""
        if self._saved is None:
            mend = "call fit(reviews) or load(folder) first"
            raise DataError(f"this Recommender knows nothing yet: {mend}")
        return self._saved

    @classmethod
    def from_saved(cls, saved: SavedRecommender) -> Self:
        """The model as it was saved."""
        model = cls(saved.config)
        model._saved = saved
        return model

    def save(self, folder: Path | str) -> Path:
        """Write model, reviews and card; a DataError if there are live reviews."""
        return self._save(Path(folder), self.saved)

    def _save(self, folder: Path, saved: SavedRecommender) -> Path:
        if self._has_live_reviews:
            problem = "live reviews or items are not part of the model"
            raise DataError(f"{problem}: fit again to save them")
        if not saved.notes and saved.config.annotation.strategy == "notes":
            # The baseline is fitted without notes, but explanations will quote them.
            texts = saved.reviews.table["text"].to_list()
            saved = replace(saved, notes=self.models.annotator.write_notes(texts))
        card = save_recommender(saved, folder) / "README.md"
        # The folder may be that of a project with another README, which must not be replaced.
        is_own = card.is_file() and "library_name: mmrec" in card.read_text(errors="replace")
        if is_own or not os.path.lexists(card):
            replace_file(card, str(model_card(saved)))
        return folder

    @classmethod
    def load(cls, folder: Path | str, *, trust: bool = False) -> Self:
        """Read what `save` wrote; a ModelError names the file that is missing or damaged.

        Without `trust` in whoever made the folder, its store and photos outside of it are not used,
        and a ModelError is raised for models on servers or in folders that it names.
        """
        return cls.from_saved(load_recommender(Path(folder), trust=trust))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        public_reviews: bool = False,
        token: str | None = None,
        **options: Any,
    ) -> str:
        """Publish the model, with the texts and user ids of all reviews, on the Hugging Face hub.

        Photos, their paths and addresses of servers are not published; names of models are. If need
        be, `repo_id` (`owner/name`) is created. A ConfigError is raised if it is not `private` and
        `public_reviews` does not consent to that. `options` are those of `HfApi.upload_folder`.
        Returns the URL of the commit; a ModelError if the hub cannot be reached, or refuses.
        """
        readable = "everybody may read the texts and user ids of the reviews"
        consent = f"pass public_reviews=True if {readable}"
        if not private and not public_reviews:
            raise ConfigError(f"{repo_id} would be public: pass private=True, or {consent}")
        try:
            api = HfApi(token=token)
            full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if not public_reviews and not api.model_info(full_id).private:
                raise ConfigError(f"{full_id} is public already: take another name, or {consent}")
            with TemporaryDirectory() as folder:
                self._save(Path(folder), _without_private_names(self.saved))
                files: dict[str, Any] = {"repo_id": full_id, "folder_path": folder}
                # Files of an earlier model are removed.
                files |= {"delete_patterns": "model-*/*", "ignore_patterns": ".model.lock"}
                return str(api.upload_folder(**files | options))
        except MmrecError:
            raise
        except Exception as error:  # the hub's client raises all kinds of errors
            message = f"cannot push to {repo_id}: {error}; check the token and the network"
            raise ModelError(message) from error

    @classmethod
    def from_pretrained(cls, name: Path | str, *, trust: bool = False, **options: Any) -> Self:
        """Read a folder, or a model on the hub (`owner/name`), as `load` does; a ModelError if it fails.

        `options` are those of `huggingface_hub.snapshot_download`, as `revision` and `token`.
        """
        if Path(name).is_dir():
            return cls.load(name, trust=trust)
        with translate_loading_errors(str(name), "check the name, the token and the network"):
            files = ["*.json", "*.safetensors"]  # no code, and no pickles
            folder = snapshot_download(str(name), allow_patterns=files, **options)
        # The cache of the hub is made of links.
        saved = load_recommender(Path(folder), trust=trust, allow_links=True)
        return cls.from_saved(_without_private_names(saved))


def _without_private_names(saved: SavedRecommender) -> SavedRecommender:
    """The same without paths of files and addresses of servers."""
    config = saved.config
    llm, captioner = config.language.llm, config.vision.captioner
    changes = {
        "store": None,
        "read": ReadConfig(),
        "language": config.language.model_copy(update={"llm": _strip_address(llm)}),
        "vision": config.vision.model_copy(update={"captioner": _strip_address(captioner)}),
    }
    update = {"config": config.model_copy(update=changes)}
    model = replace(saved.model, builder=saved.model.builder.model_copy(update=update))
    no_photos = pl.lit([], dtype=pl.List(pl.String)).alias("photos")
    reviews = saved.reviews
    table, items = (part.with_columns(no_photos) for part in (reviews.table, reviews.items))
    return replace(saved, model=model, reviews=replace(reviews, table=table, items=items))


def _strip_address(model: str) -> str:
    """The name of a model in the settings, without the URL of its server."""
    return re.sub("(?is)@?https?://.*", "", model) or "openai:unnamed"


def model_card(saved: SavedRecommender) -> ModelCard:
    """The card in Hugging Face's format; it names files, never paths or servers."""
    config, name = saved.config, saved.name
    # PureWindowsPath splits at / and at \.
    source = PureWindowsPath(saved.reviews.source).name or "unknown"
    bound = f"at most {config.operating.max_fpr:.0%} of the dislikes"
    if config.operating.min_tpr is not None:
        bound = f"at least {config.operating.min_tpr:.0%} of the likes"
    figures = {
        "roc_auc": ("ROC-AUC", "auc"),
        "fpr_at_tpr_90": ("FPR at TPR .90", "fpr_at_90"),
        "average_precision": ("Average precision of dislikes", "ap_negative"),
    }
    packages = ("mmrec", "torch", "sentence-transformers")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    # Every value is escaped unless it is marked as safe.
    loader = PackageLoader("mmrec", "recommender")
    environment = Environment(
        loader=loader, finalize=_escape, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["fmt"] = lambda value, spec: Markup(format(value, spec))
    environment.filters["model"] = _public_name
    body = environment.get_template("model_card.md.jinja").render(
        vars(saved) | vars(saved.evaluation),
        config=config,
        name=name,
        features=config.ranker.features,
        source=source,
        warnings=config.warnings(),
        likes=(saved.reviews.table["rating"] >= config.like_rating).to_numpy().mean(),
        figures=list(figures.values()),
        bound=bound,
        versions=f"{versions}, Python {platform.python_version()}",
    )
    results: list[EvalResult] = []
    dataset = ("recommendation", "unknown", escape_text(source))
    for kind, (title, key) in figures.items():
        value = round(saved.evaluation.metrics[name][key], 4)
        results.append(EvalResult(*dataset, kind, value, metric_name=title))
    tags = ["recommender-system", "dlrm", "reviews"]
    data = ModelCardData(library_name="mmrec", tags=tags, model_name=name, eval_results=results)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{body}\n")


def _public_name(model: str) -> str:
    """A model's name without the address of its server or the path of its folder."""
    kind, colon, name = _strip_address(model).rpartition(":")
    is_folder = name.startswith(("/", "\\", "~", "."))
    return kind + colon + (PureWindowsPath(name).name if is_folder else name)


def _escape(value: object) -> str:
    """The value, inert in Markdown and HTML unless it is marked as safe."""
    if isinstance(value, Markup):
        return value
    entities = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    # All ASCII punctuation but + , - and /, which mean nothing inside a line.
    special, text = r"[!-*.:-@\[-`{-~]", escape_text(str(value))
    return re.sub(special, lambda sign: entities.get(sign[0], f"\\{sign[0]}"), text)
