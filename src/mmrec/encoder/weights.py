"""Models of transformers, in folders or of the hub: found, pinned, brought, loaded; never code or pickles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mmrec.errors import ModelError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Placement",
    "Weights",
    "file_digest",
    "folder_digest",
    "has_fast_bf16",
    "translate_loading_errors",
]

_WORDS: Final = ["*.json", "*.jinja", "*.txt", "*.model"]
_FILES: Final = [*_WORDS, "*.safetensors"]
_SINGLE: Final = "model.safetensors"
_DOUBLES: Final = ["*/*", "consolidated*"]


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 natively (AVX-512 BF16 or AMX), as Linux reports it."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@dataclass(frozen=True)
class Placement:
    """Where a model runs, and how exact.

    Attributes:
        device: `cuda` or `cpu`.
        precision: `bf16` where it is multiplied natively, else `fp16` on a GPU and `fp32` on a processor.
    """

    device: str
    precision: str

    @classmethod
    def choose(cls) -> Placement:
        """The fastest of this machine."""
        import torch

        if torch.cuda.is_available():
            return cls("cuda", "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16")
        return cls("cpu", "bf16" if has_fast_bf16() else "fp32")

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a type of tensors."""
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[
            self.precision
        ]


@dataclass(frozen=True)
class Weights:
    """A model's files, on this machine; whatever is wrong with them is a ModelError that says the mend.

    Attributes:
        name: as the user names it: a folder, or a model of the hub.
        folder: where its files are.
        commit: of a model of the hub.
    """

    name: str
    folder: Path
    commit: str | None = None

    @classmethod
    def find(
        cls, name: str, revision: str | None = None, *, tensors: bool = True
    ) -> Weights | None:
        """A model that is here: whole, or what an instruct model needs to count tokens. Nothing is loaded."""
        folder, commit = Path(name), None
        if not folder.is_dir():
            from huggingface_hub import try_to_load_from_cache

            try:
                cached = try_to_load_from_cache(name, "config.json", revision=revision)
            except (OSError, ValueError):  # a cache that is not readable, or no possible name
                return None
            folder = Path(cached).parent if isinstance(cached, str) else folder
            commit = folder.name  # the cache calls its folders by commits
        needed = {"config.json", *(_tensors(folder) if tensors else ["tokenizer_config.json"])}
        return (
            cls(name, folder, commit) if all((folder / file).is_file() for file in needed) else None
        )

    @classmethod
    def find_or_download(
        cls, name: str, revision: str | None = None, *, tensors: bool = True
    ) -> Weights:
        """A model that is here, or is downloaded now; without tensors, that is a matter of seconds.

        Raises:
            ModelError: it is not here and cannot be downloaded; says how to bring it.
        """
        here = cls.find(name, revision) or cls.find(name, revision, tensors=tensors)
        if here is None and not Path(name).is_dir() and not name.startswith((".", "/", "~")):
            with translate_loading_errors(
                name, f"bring it once with `hf download {name}`, or name a folder that holds it"
            ):
                from huggingface_hub import HfApi, snapshot_download

                # A download alone waits without end for a hub that does not answer; this one 10 seconds.
                HfApi().model_info(name, revision=revision, timeout=10)
                kinds = _FILES if tensors else _WORDS
                snapshot_download(
                    name, revision=revision, allow_patterns=kinds, ignore_patterns=_DOUBLES
                )
            here = cls.find(name, revision, tensors=tensors)
        if here is None:
            raise ModelError(
                f"no model in {name}: it needs config.json and model.safetensors (never pickles), and for "
                "texts a tokenizer; name another one, or bring one with `hf download MODEL`"
            )
        return here

    @property
    def title(self) -> str:
        """The model's name, or the folder's, which may move without anything being made again."""
        return self.name if self.commit is not None else self.folder.resolve().name

    @cached_property
    def revision(self) -> str:
        """What pins the model: the commit, or the digest of a folder."""
        return self.commit or folder_digest(self.folder)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What config.json says."""
        return _read(self.folder / "config.json")

    @property
    def model_type(self) -> str:
        """The type of model that it says it is."""
        return str(self.settings.get("model_type", "unknown"))

    def require_type(self, kinds: Container[str], described: str) -> None:
        """Refuse models of other kinds."""
        if self.model_type not in kinds:
            raise ModelError(
                f"{self.name} is a model of type {self.model_type}; {described} is needed here"
            )

    def load_part(self, auto: str, **how: Any) -> Any:
        """What one of transformers' Auto classes makes of the files, in silence."""
        with translate_loading_errors(self.name), ExitStack() as after:
            import transformers
            from transformers.utils import logging

            after.callback(logging.set_verbosity, logging.get_verbosity())
            if logging.is_progress_bar_enabled():
                after.callback(logging.enable_progress_bar)
            logging.set_verbosity_error()  # type: ignore[no-untyped-call]
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            read = getattr(transformers, auto).from_pretrained
            return read(self.folder, local_files_only=True, trust_remote_code=False, **how)

    def load(self, auto: str, placement: Placement) -> Any:
        """The model itself; none of its weights may be missing."""
        model, report = self.load_part(
            auto, dtype=placement.dtype, use_safetensors=True, output_loading_info=True
        )
        with translate_loading_errors(self.name):
            # transformers fills what is missing with random numbers.
            if report["missing_keys"]:
                raise ValueError(
                    f"the weights lack {', '.join(sorted(report['missing_keys'])[:3])}"
                )
            return model.to(placement.device).eval()


@contextmanager
def translate_loading_errors(
    name: str, remedy: str = "bring its files again, as `hf download` does"
) -> Iterator[None]:
    """Turn whatever goes wrong in loading into an error that names the model and the mend."""
    try:
        yield
    except (
        Exception
    ) as error:  # hub, transformers and safetensors raise anything on files that are not right
        what = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        if "torchvision" in what:
            remedy = (
                "the installed torchvision does not fit torch; mmrec needs none, so uninstall it"
            )
        raise ModelError(f"cannot load the model {name}: {what}; {remedy}") from error


def folder_digest(folder: Path) -> str:
    """What pins a folder: names and digests of all files of a model in it, at any depth."""
    names = (
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if f"*{path.suffix}" in _FILES
    )
    lines = [
        f"{name} {file_digest(folder / name)}" for name in sorted(names) if not name.startswith(".")
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensors(folder: Path) -> set[str]:
    """Names of the files that must hold the weights."""
    index = {} if (folder / _SINGLE).is_file() else _read(folder / f"{_SINGLE}.index.json")
    return set(index.get("weight_map", {}).values()) or {_SINGLE}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
