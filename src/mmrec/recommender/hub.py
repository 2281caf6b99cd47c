"""A recommender on the Hugging Face hub, by its mixin; without what holds on this machine alone."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, ModelCard, ModelHubMixin, snapshot_download

from mmrec.encoder.weights import translate_loading_errors
from mmrec.errors import ConfigError, MmrecError, ModelError
from mmrec.pipeline import config_warnings
from mmrec.recommender.model_card import model_card
from mmrec.recommender.persistence import SavedRecommender, load_recommender, save_recommender

__all__ = ["Published"]


class Published(ModelHubMixin):
    """What can be saved, loaded, pushed to the hub and brought from there."""

    # The mixin's config.json; without one it would make one of the arguments, and copy what they hold.
    _hub_mixin_config = {"model_type": "mmrec"}  # noqa: RUF012

    @property
    @abstractmethod
    def _saved(self) -> SavedRecommender: ...

    @classmethod
    @abstractmethod
    def _of(cls, saved: SavedRecommender) -> Self: ...

    def save(self, folder: Path | str) -> Path:
        """Write the model and what it knows: safetensors, JSON and Parquet, no pickle; and a model card."""
        return self._save(self._saved, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a saved model.

        Args:
            folder: that `save` wrote.

        Raises:
            ModelError: the folder is not one that `save` wrote, or is damaged.
        """
        return cls._of(load_recommender(Path(folder)))

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, public_reviews: bool = False, **how: Any
    ) -> str:
        """Put the model onto the Hugging Face hub, and with it the texts and user ids of all its reviews.

        Photos, their paths, and addresses of servers stay here; names of models go along, folders too.

        Args:
            repo_id: as in `owner/name`; made where there is none.
            private: whether to make it private; then one that is public already is refused.
            public_reviews: says that everybody may read the reviews.
            how: as for `ModelHubMixin.push_to_hub`: `token`, `commit_message`, `branch`, and so on.

        Raises:
            ConfigError: everybody could read the reviews, and nobody said that they may.
            ModelError: the hub cannot be reached, or refuses.
        """
        consent = (
            "pass public_reviews=True if everybody may read the texts and user ids of the reviews"
        )
        if not private and not public_reviews:
            raise ConfigError(f"{repo_id} would be public: pass private=True, or {consent}")
        try:
            api = HfApi(token=how.get("token"))
            full = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if not public_reviews and not api.model_info(full).private:
                raise ConfigError(f"{full} is public already: take another name, or {consent}")
            return super().push_to_hub(full, private=private, **how)
        except MmrecError:
            raise
        except Exception as error:  # the hub's client raises anything
            raise ModelError(
                f"cannot push to {repo_id}: {error}; check the token and the network"
            ) from error

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Path | str, **how: Any) -> Self:
        """Read a model of a folder, or of the hub (`owner/name`), which brings neither paths nor addresses.

        Raises:
            ModelError: no such model, or a damaged one.
        """
        if Path(pretrained_model_name_or_path).is_dir():
            return cls.load(pretrained_model_name_or_path)
        with translate_loading_errors(
            str(pretrained_model_name_or_path), "check the name, the token and the network"
        ):
            return super().from_pretrained(pretrained_model_name_or_path, **how)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that `save` writes, in place of the mixin's."""
        saved = self._saved
        return model_card(saved, config_warnings(saved.config))

    def _save_pretrained(self, save_directory: Path) -> None:
        self._save(self._saved.portable(), save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: object = None, **how: Any) -> Self:
        folder = snapshot_download(
            model_id, allow_patterns=["*.json", "*.safetensors", "*.parquet"], **how
        )
        return cls._of(load_recommender(Path(folder)).portable())

    def _save(self, saved: SavedRecommender, folder: Path) -> Path:
        card = save_recommender(saved, folder) / "README.md"
        # A folder may be one of a project, whose own README is not to be lost.
        if not card.exists() or "library_name: mmrec" in card.read_text(errors="replace"):
            self.generate_model_card().save(card)
        return folder
