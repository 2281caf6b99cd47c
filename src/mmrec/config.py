"""Every setting of mmrec: one tree of frozen pydantic models; the text under a field documents it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "AnnotationConfig",
    "CatalogueConfig",
    "Config",
    "EncoderConfig",
    "EngineConfig",
    "EvidenceConfig",
    "LanguageConfig",
    "OperatingConfig",
    "PaperConfig",
    "RankerConfig",
    "ReadConfig",
    "ServeConfig",
    "SplitConfig",
    "TrainingConfig",
    "VisionConfig",
]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReadConfig(_Settings):
    """How a reviews file is read and what is refused at the door."""

    format: Literal["auto", "plain", "kaggle", "yelp", "amazon"] = "auto"
    """Layout of the file; `auto` recognises it from the first row's columns."""
    map: dict[str, str] = Field(default_factory=dict)
    """Column mapping, canonical name to the file's name, as in `rating=stars`."""
    items: Path | None = None
    """Optional file with one row an item: its id, `name` and `photos`; every other column is ignored."""
    photos: Path | None = None
    """Folder that photo paths are relative to; the folder of the data file by default."""
    captions_column: str | None = None
    """Column of either file with captions of photos: a text, or a list of texts (in text as a JSON list).
    Where a row has captions, these stand for its photos, which no captioner looks at."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """Share of refused rows above which reading stops with an error."""
    max_pixels: int = Field(40_000_000, gt=0)
    """Photos with more pixels than this are refused (decompression bombs)."""
    max_text: int = Field(100_000, gt=0)
    """Characters of a review's text that are kept."""


class SplitConfig(_Settings):
    """How reviews are filtered and dealt into train, valid and test."""

    split_by: Literal["random", "time"] = "random"
    """`random` as in the paper; `time` puts the latest reviews into test, over all users at once."""
    test_share: float = Field(0.25, gt=0, lt=1)
    """Share of the reviews in test (the paper's 3:1)."""
    valid_share: float = Field(0.1, gt=0, lt=1)
    """Share of the remaining reviews that is cut off for choosing the epoch and the threshold."""
    min_reviews: int = Field(2, ge=1)
    """Users and items with fewer reviews are dropped, repeatedly until none is left."""


class EvidenceConfig(_Settings):
    """Which reviews may speak for a row (see `mmrec.evidence.policies`)."""

    policy: Literal["fold", "leave_one_out", "all", "past"] = "fold"
    """Out of `fold`; `leave_one_out` (the paper's); `all` (leaks, for comparison); only the `past`."""
    folds: int = Field(10, ge=2)
    """Number of folds that train rows are dealt into under `fold`."""
    summaries: Literal["policy", "all"] = "policy"
    """Whose reviews make a summary: those that the policy allows, or all known (the paper; leaks)."""
    filtered_rows: bool = True
    """Whether reviews of users and items that the filter drops speak for others all the same (paper: no)."""


class AnnotationConfig(_Settings):
    """What is known in words of users and items (see `mmrec.features.annotations`)."""

    strategy: Literal["notes", "summary"] = "notes"
    """`notes` reads each review once and aggregates; `summary` is the paper's text per entity and fold."""
    item_kind: str = "restaurant"
    """What an item is, in one word; chooses the builtin category vocabulary."""
    summary_tokens: int = Field(96, ge=8)
    """Token budget of an extractive summary."""
    max_categories: int = Field(11, ge=1)
    """Categories that an item may have (the paper's 11)."""


class LanguageConfig(_Settings):
    """Who reads the reviews, and what that may cost (see `mmrec.llm`)."""

    llm: str = "builtin"
    """`builtin`, `openai:MODEL`, `ollama:MODEL`, `openai:MODEL@URL` (or just the URL) of any server that
    speaks OpenAI's API, or `transformers:MODEL_OR_FOLDER`."""
    llm_revision: str | None = None
    """Commit of a `transformers:` model on the hub."""
    prompts: Literal["default", "paper"] = "default"
    """Of the strategy `summary`: one structured call, or the paper's sentences in separate calls."""
    long_history: Literal["sample", "tree"] = "sample"
    """What to do with more reviews than one call takes: choose some, or summarise in two levels."""
    call_tokens: int = Field(3000, ge=64)
    """Most tokens of reviews in one call."""
    in_flight: int = Field(32, ge=1)
    """Calls under way at the same time."""
    budget: float | None = Field(None, gt=0)
    """US dollars that one run may spend; it stops cleanly before it would spend more."""
    llm_price: str | None = None
    """Price as `INPUT/OUTPUT` in US dollars a million tokens, where the price list lacks the model."""
    retry_failed: bool = False
    """Whether reviews that failed for good are asked about again."""


class VisionConfig(_Settings):
    """Who looks at the photos (see `mmrec.vision`)."""

    captioner: str = "builtin"
    """`builtin` (colours and layout), `blip2[:MODEL_OR_FOLDER]`, `blip[:MODEL_OR_FOLDER]`, or a vision model
    behind OpenAI's API: `openai:MODEL[@URL]`, `ollama:MODEL`, or a URL."""
    captioner_revision: str | None = None
    """Commit of a captioner on the hub."""
    image_model: str = "microsoft/resnet-50"
    """ResNet whose second-to-last layer is the baseline's image feature (paper); name or folder."""
    image_revision: str | None = None
    """Commit of the image model on the hub."""


class EncoderConfig(_Settings):
    """The sentence encoder that puts all words into one space."""

    encoder_model: str = "all-MiniLM-L6-v2"
    """A sentence-transformers model name or folder."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` takes bf16 where the processor multiplies it natively, else fp32."""
    encoder_backend: Literal["auto", "torch", "openvino"] = "auto"
    """What runs all-MiniLM-L6-v2 on a processor; `auto` takes OpenVINO where it is installed."""


class RankerConfig(_Settings):
    """Inputs and shape of the ranking model (paper, section 3)."""

    features: Literal["baseline", "proposed", "mmrec"] = "mmrec"
    """The paper's two models: averaged embeddings, or what was read out of the words; or ours (see
    `mmrec.features.mixed_effects` and `mmrec.ranker.linear`)."""
    ensemble: int = Field(4, ge=1)
    """Trainings of `mmrec` that are averaged; they run as one. The paper's models are trained once."""
    reduction: Literal["staged", "joint"] = "joint"
    """Upstream MLP trained first and then frozen (`staged`, the paper), or jointly with DLRM."""
    embedding_size: int = Field(32, ge=1)
    """Size of every vector that enters the interaction (the paper's 32)."""
    hidden_size: int = Field(128, ge=1)
    """Width of hidden layers."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout in every MLP (the paper tries .1, .3 and .5)."""


class TrainingConfig(_Settings):
    """How a ranker is trained."""

    loss: Literal["plain", "basic", "sqrt"] = "basic"
    """Class weights of the cross entropy: none, the paper's 1 - n_c/n, or its square root."""
    learning_rate: float = Field(0.001, gt=0)
    """Adam's learning rate (the paper's is .01)."""
    weight_decay: float = Field(1.0, ge=0)
    """Decoupled weight decay (0 in the paper)."""
    batch_size: int = Field(512, ge=1)
    """Rows a step."""
    cold_start_dropout: float = Field(0.05, ge=0, lt=1)
    """Share of views that training hides, so that strangers can be scored (0 in the paper)."""
    epochs: int = Field(100, ge=1)
    """Most epochs (the paper's 300)."""
    patience: int = Field(10, ge=1)
    """Epochs without improvement after which training stops (the paper's 50)."""
    select: Literal["valid", "test"] = "valid"
    """Rows that choose the best epoch; `test` is the paper's way and is flagged in every output."""


class OperatingConfig(_Settings):
    """From which probability on something is recommended; chosen on validation rows."""

    max_fpr: float = Field(0.2, ge=0, le=1)
    """Share of disliked items that may be recommended at most."""
    min_tpr: float | None = Field(None, ge=0, le=1)
    """Share of liked items that must be recommended at least; takes the place of --max-fpr."""


class CatalogueConfig(_Settings):
    """How one user is scored against all items (see `mmrec.recommender.list_scoring`)."""

    exact_items: int = Field(20_000, ge=1)
    """Up to so many items, all are scored by the whole ranker; of more, the best by its linear part."""
    candidates: int = Field(700, ge=1)
    """How many those best are."""
    index_items: int = Field(500_000, ge=1)
    """From so many items on they are found by an index of nearest neighbours (the extra `index`)."""
    memory: float = Field(1.0, ge=0)
    """GiB for what can be computed of items beforehand; what takes more is computed when it is needed."""


class ServeConfig(_Settings):
    """How a model is served (see `mmrec.service`)."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets others in."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen at."""
    workers: int = Field(1, ge=1)
    """Processes that answer; they see each other's reviews."""
    database: str | None = None
    """URL of the database of live reviews, as in `postgresql://user@host/name`; by default `live.sqlite` in
    the model's folder."""
    keys: Path | None = None
    """File with one API key a line; whoever calls `/v1` must bring one, as `Authorization: Bearer KEY`."""
    per_minute: int = Field(600, ge=1)
    """Requests a minute that one client may make of one worker."""
    max_body: int = Field(65_536, ge=1024)
    """Bytes that the body of a request may have."""
    max_photo: int = Field(10_000_000, ge=1024)
    """Bytes that the body of a request with a photo may have."""
    sentences: bool = False
    """Whether the language model of the fit writes a sentence for every reason, while people wait."""


class EngineConfig(_Settings):
    """Where models run (see `mmrec.distributed`); what they say does not depend on it."""

    engine: Literal["local", "ray"] = "local"
    """`local` is this process; `ray` deals reading, captioning, encoding and training out to workers."""
    address: str | None = None
    """Of a running Ray cluster, as in `10.0.0.1:6379`; by default Ray is started on this machine."""
    workers: int | None = Field(None, ge=1)
    """Workers, each on a GPU or on a core of its own; by default as many as the cluster has."""

    @model_validator(mode="after")
    def _needs_ray(self) -> EngineConfig:
        if self.engine != "ray" and (self.address is not None or self.workers is not None):
            raise ValueError("an address and workers are for --engine ray")
        return self


class Config(_Settings):
    """The whole tree; `Config()` is the recommended pipeline."""

    seed: int = Field(0, ge=0)
    """The one source of randomness."""
    like_rating: float = 4.0
    """A rating at or above this is a like (the paper's 4)."""
    store: Path | None = None
    """Database of slow results; by default `store.sqlite` in the user's cache folder."""
    read: ReadConfig = ReadConfig()
    split: SplitConfig = SplitConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    language: LanguageConfig = LanguageConfig()
    vision: VisionConfig = VisionConfig()
    encoder: EncoderConfig = EncoderConfig()
    ranker: RankerConfig = RankerConfig()
    training: TrainingConfig = TrainingConfig()
    operating: OperatingConfig = OperatingConfig()
    # Left out of what is saved and compared: a model may be loaded where there is no cluster.
    engine: EngineConfig = Field(EngineConfig(), exclude=True)


class _PaperEvidence(EvidenceConfig): ...


class _PaperProfile(AnnotationConfig):
    strategy: Literal["notes", "summary"] = Field(
        "summary", description="`summary` is the paper's."
    )


class _PaperRanker(RankerConfig):
    reduction: Literal["staged", "joint"] = Field("staged", description="`staged` is the paper's.")


class _PaperTraining(TrainingConfig):
    learning_rate: float = Field(0.01, gt=0, description="Adam's learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    cold_start_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of views that training hides."
    )
    epochs: int = Field(300, ge=1, description="Most epochs.")
    patience: int = Field(50, ge=1, description="Epochs without improvement until training stops.")


class PaperConfig(Config):
    """The tree of `mmrec.experiments.reproduce`: the paper's settings, where it names them."""

    fixed_fields: ClassVar = (
        "policy",
        "summaries",
        "filtered_rows",
        "features",
        "ensemble",
        "dropout",
        "loss",
        "select",
    )
    """Settings that nobody is to give, since the experiment does."""
    evidence: _PaperEvidence = _PaperEvidence()
    annotation: _PaperProfile = _PaperProfile()
    ranker: _PaperRanker = _PaperRanker()
    training: _PaperTraining = _PaperTraining()
