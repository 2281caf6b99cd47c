"""Saving and loading a recommender, in a folder or on the Hugging Face hub."""

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

__all__ = ["HubMixin"]


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
        """Read a folder that `save` wrote.

        Raises:
            ModelError: there is no saved model, or it is damaged.
        """
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

        Raises:
            ModelError: there is no such model, or it is damaged.
        """
        name = str(pretrained_model_name_or_path)
        if Path(name).is_dir():
            return cls.load(name)
        with translate_loading_errors(name, "check the name, the token and the network"):
            return super().from_pretrained(name, **options)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card that `save` writes, instead of the mixin's."""
        saved = self.to_saved()
        return model_card(saved, config_warnings(saved.config))

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
