"""All settings: frozen pydantic models, whose titles and texts under fields are the `--help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReadConfig(_Settings, title="Reading"):
    """How a reviews file is read, and which rows are rejected."""

    format: Literal["auto", "plain", "kaggle", "yelp", "amazon"] = "auto"
    """Layout of the file; `auto` recognises it by the columns of its first row."""
    map: dict[str, str] = Field(default_factory=dict)
    """Names of columns that differ, as in `rating=stars`: our name, then the file's."""
    items: Path | None = None
    """File with one row per item: its id, `name` and `photos`; other columns are ignored."""
    photos: Path | None = None
    """Folder that photo paths are relative to; by default the folder of the reviews file."""
    captions_column: str | None = None
    """Column of either file with captions (a text or a list), used in place of the captioner."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """Share of rejected rows above which reading fails."""
    max_pixels: int = Field(40_000_000, gt=0)
    """Photos with more pixels than this are rejected (decompression bombs)."""
    max_text: int = Field(100_000, gt=0)
    """Length in characters that review texts are cut to."""


class SplitConfig(_Settings, title="Splitting"):
    """How reviews are filtered and split into train, valid and test."""

    split_by: Literal["random", "time"] = "random"
    """`random` as in the paper; `time` makes the latest reviews of all users the test set."""
    test_share: float = Field(0.25, gt=0, lt=1)
    """Share of reviews in test (the paper's 3:1)."""
    valid_share: float = Field(0.1, gt=0, lt=1)
    """Share of the remaining reviews that select the epoch and the threshold."""
    min_reviews: int = Field(2, ge=1)
    """Users and items with fewer reviews are dropped, until every one left has as many."""


class EvidenceConfig(_Settings, title="Evidence"):
    """Which reviews a row's features are made from (see `mmrec.evidence.policies`)."""

    policy: Literal["fold", "leave_one_out", "all", "past"] = "fold"
    """Reviews of other folds, all others (the paper's), all (leaks the label), or earlier ones."""
    folds: int = Field(10, ge=2)
    """Number of folds of train rows under `fold`."""
    summaries: Literal["policy", "all"] = "policy"
    """Summarise the reviews that the policy allows, or all evidence (the paper's; leaks)."""
    filtered_rows: bool = True
    """Whether reviews that the filter dropped are evidence for other rows (in the paper not)."""


class AnnotationConfig(_Settings, title="Annotation"):
    """How reviews are annotated by a language model (see `mmrec.features.dataset`)."""

    strategy: Literal["notes", "summary"] = "notes"
    """A note per review, added up; or the paper's summary per user or item, and fold."""
    item_kind: str = "restaurant"
    """What the items are, in one word; selects the vocabulary of categories of `builtin`."""
    summary_tokens: int = Field(96, ge=8)
    """Maximal number of tokens of an extractive summary."""
    max_categories: int = Field(11, ge=1, le=1000)
    """Maximal number of categories of an item (the paper's 11)."""


class LanguageConfig(_Settings, title="Language model"):
    """The language model that annotates reviews, and what it may cost (see `mmrec.llm`)."""

    llm: str = "builtin"
    """`builtin`, `openai:MODEL`, `ollama:MODEL`, `transformers:MODEL_OR_FOLDER`, or for any
    server with OpenAI's API its URL or `openai:MODEL@URL`."""
    llm_revision: str | None = None
    """Commit of a `transformers:` model on the hub."""
    prompts: Literal["default", "paper"] = "default"
    """For summaries: one structured call, or the paper's separate calls."""
    long_history: Literal["sample", "tree"] = "sample"
    """Where one call cannot take all reviews: `sample` some, or summarise summaries (`tree`)."""
    call_tokens: int = Field(3000, ge=64)
    """Maximal number of tokens of reviews in one call."""
    in_flight: int = Field(32, ge=1)
    """Number of concurrent calls."""
    budget: float | None = Field(None, gt=0)
    """US dollars that one run may spend; it stops before it would exceed them."""
    llm_price: str | None = None
    """Price as `INPUT/OUTPUT` in US dollars per million tokens, of a model that is not listed."""
    retry_failed: bool = False
    """Whether to repeat calls that have failed permanently."""


class VisionConfig(_Settings, title="Vision model"):
    """The models that photos are captioned and encoded by (see `mmrec.vision`)."""

    captioner: str = "builtin"
    """`builtin` (colours), `blip2[:MODEL_OR_FOLDER]`, `blip[:MODEL_OR_FOLDER]`, or a vision
    model with OpenAI's API: `openai:MODEL[@URL]`, `ollama:MODEL`, or a URL."""
    captioner_revision: str | None = None
    """Commit of a captioner on the hub."""
    image_model: str = "microsoft/resnet-50"
    """ResNet, by name or folder, whose last hidden layer is the baseline's image feature."""
    image_revision: str | None = None
    """Commit of the image model on the hub."""


class EncoderConfig(_Settings, title="Encoder"):
    """The sentence encoder that turns all texts into vectors."""

    encoder_model: str = "all-MiniLM-L6-v2"
    """Name or folder of a sentence-transformers model."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 on processors that multiply it natively, else fp32."""
    encoder_backend: Literal["auto", "torch", "openvino"] = "auto"
    """Backend of all-MiniLM-L6-v2 on a CPU; `auto` is OpenVINO where it is installed."""


class RankerConfig(_Settings, title="Ranker"):
    """Inputs and shape of the ranking model (paper, section 3)."""

    features: Literal["baseline", "proposed", "mmrec"] = "mmrec"
    """The paper's models on text vectors or on annotations; or ours, with a linear part as well."""
    fallback: bool = True
    """Whether the bias model is used where validation does not prove that `mmrec` beats it."""
    ensemble: int = Field(4, ge=1)
    """Number of `mmrec` models that are trained side by side and averaged (the paper's 1)."""
    reduction: Literal["staged", "joint"] = "joint"
    """The MLP of the vectors is trained first and then frozen (the paper's), or with the rest."""
    embedding_size: int = Field(32, ge=1)
    """Length of the vectors that interact (the paper's 32)."""
    hidden_size: int = Field(128, ge=1)
    """Width of the hidden layers."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout in all MLPs (the paper tries .1, .3 and .5)."""


class TrainingConfig(_Settings, title="Training"):
    """How a ranker is trained."""

    loss: Literal["plain", "basic", "sqrt"] = "basic"
    """Class weights of the cross entropy: none, the paper's 1 - n_c/n, or its square root."""
    learning_rate: float = Field(0.001, gt=0)
    """Adam's learning rate (the paper's is .01)."""
    weight_decay: float = Field(1.0, ge=0)
    """Decoupled weight decay (0 in the paper)."""
    batch_size: int = Field(512, ge=1)
    """Number of rows per step."""
    cold_start_dropout: float = Field(0.05, ge=0, lt=1)
    """Share of users and items that training treats as unknown, to rank these too (paper: 0)."""
    epochs: int = Field(100, ge=1)
    """Maximal number of epochs (the paper's 300)."""
    patience: int = Field(10, ge=1)
    """Number of epochs without improvement to stop after (the paper's 50)."""
    select: Literal["valid", "test"] = "valid"
    """Rows that select the best epoch; `test` is the paper's way, and every output says so."""


class OperatingConfig(_Settings, title="Operating point"):
    """How the threshold for recommending is chosen, on validation rows, and how lists are ordered."""

    max_fpr: float = Field(0.2, ge=0, le=1)
    """Maximal share of disliked items that are recommended."""
    min_tpr: float | None = Field(None, ge=0, le=1)
    """Minimal share of liked items that are recommended; replaces --max-fpr."""
    caution: float = Field(0.5, ge=0, allow_inf_nan=False)
    """Weight of the odds ratio of a dislike in lists; at 0 only what people choose counts."""


class ServeConfig(_Settings, title="Service"):
    """How a model is served (see `mmrec.service`)."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts connections from other machines."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on."""
    root_path: Annotated[str, AfterValidator(lambda path: path.rstrip("/"))] = Field(
        "", pattern=r"^(/[A-Za-z0-9._~-]+)*/?$"
    )
    """Path below which a proxy shows the service, as in `/mmrec`; it may take it away or pass it on."""
    allowed_hosts: str = ""
    """Names, as in `a.org,*.b.org`, that a service without keys has besides those of loopback and --host."""
    forwarded_allow_ips: str | None = None
    """Proxies whose `X-Forwarded-For` and `-Proto` are believed, as in `10.0.0.2,10.1.0.0/16`."""
    workers: int = Field(1, ge=1)
    """Number of worker processes; they share live reviews."""
    database: str | None = None
    """URL of the database of live reviews; by default `live.sqlite` in the model's folder."""
    keys: Path | None = None
    """File with one API key per line; `/v1` then requires one, as `Authorization: Bearer KEY`."""
    per_minute: int = Field(600, ge=1)
    """Requests per minute that one client may send to one worker."""
    max_connections: int = Field(1000, ge=8)
    """Connections of one worker; with one more, that which has waited longest is closed."""
    client_seconds: float = Field(10.0, gt=0)
    """Seconds that a client may take to send headers, and to read on; six times as many for a body."""
    max_body: int = Field(65_536, ge=1024)
    """Maximal size in bytes of a request."""
    max_photo: int = Field(10_000_000, ge=1024)
    """Maximal size in bytes of a request with a photo."""
    max_pixels: int = Field(25_000_000, gt=0, description="Most pixels of a new item's photo.")
    metrics: bool = True
    """Whether `/metrics` is there, for everybody who reaches the service."""
    openapi: bool = Field(True, description="Whether `/openapi.json` is there.")
    sentences: bool = False
    """Whether a language model writes a sentence for every reason, while visitors wait."""
    trust: bool = False
    """Use the store, servers, models and photos that the model's folder names."""


class EngineConfig(_Settings, title="Engine"):
    """Where models run (see `mmrec.distributed`); results do not depend on it."""

    engine: Literal["local", "ray"] = "local"
    """`local` is this process; `ray` has workers annotate, caption, encode and train."""
    address: str | None = None
    """Address of a Ray cluster, as in `10.0.0.1:6379`; by default one is started here."""
    workers: int | None = Field(None, ge=1)
    """Number of workers, one per GPU or CPU core; by default as many as the cluster has."""

    @model_validator(mode="after")
    def _needs_ray(self) -> EngineConfig:
        if self.engine != "ray" and (self.address is not None or self.workers is not None):
            raise ValueError("an address and workers are for --engine ray")
        return self


class Config(_Settings, title="General"):
    """All settings; `Config()` is the recommended pipeline."""

    seed: int = Field(0, ge=0)
    """Seed of everything that is random."""
    like_rating: float = Field(4.0, allow_inf_nan=False)
    """Ratings from this on are likes (the paper's 4)."""
    store: Path | None = None
    """Database of slow or paid results; by default `store.sqlite` in the user's cache folder."""
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
    # Neither saved nor compared: a model can be loaded where there is no cluster.
    engine: EngineConfig = Field(EngineConfig(), exclude=True)

    def changed(self, section: str, **values: Any) -> Self:
        """The same with other values in a section, as in `changed("ranker", dropout=0.1)`."""
        changed_section = getattr(self, section).model_copy(update=values)
        return self.model_copy(update={section: changed_section})

    def warnings(self) -> list[str]:
        """What must be known of these settings to read the figures of a model, in Markdown."""
        policy, texts = self.evidence.policy, []
        if self.training.select == "test":
            texts += ["the epochs were chosen on test rows, as in the paper: these figures flatter"]
        if policy in ("leave_one_out", "all"):
            texts.append(f"evidence policy `{policy}` leaks the label into training rows")
        if policy == "past":
            seen = "earlier validation rows, by which the epoch is chosen"
            texts.append(f"under `past`, train rows see {seen}")
        if self.evidence.summaries == "all" and self.annotation.strategy == "summary":
            text = "summaries are made of all known reviews, a row's own among them"
            texts += [f"{text}: they leak the label"]
        return texts


# A section whose defaults differ is a class of its own: flags take them from the class.
class _PaperEvidence(EvidenceConfig): ...


class _PaperAnnotation(AnnotationConfig):
    strategy: Literal["notes", "summary"] = Field("summary", description="Notes or summaries.")


class _PaperRanker(RankerConfig):
    reduction: Literal["staged", "joint"] = Field("staged", description="Staged or joint training.")


class _PaperTraining(TrainingConfig):
    learning_rate: float = Field(0.01, gt=0, description="Adam's learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    cold_start_dropout: float = Field(0.0, ge=0, lt=1, description="Share treated as unknown.")
    epochs: int = Field(300, ge=1, description="Maximal number of epochs.")
    patience: int = Field(50, ge=1, description="Epochs without improvement to stop after.")


class PaperConfig(Config):
    """All settings, with the paper's as defaults where it names them."""

    fixed_fields: ClassVar = (
        "policy", "summaries", "filtered_rows", "features", "ensemble", "dropout", "loss", "select",
    )  # fmt: skip
    """Settings that the experiment varies, so that the command line must not set them."""
    evidence: _PaperEvidence = _PaperEvidence()
    annotation: _PaperAnnotation = _PaperAnnotation()
    ranker: _PaperRanker = _PaperRanker()
    training: _PaperTraining = _PaperTraining()
