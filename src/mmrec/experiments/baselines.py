"""Trained baselines; simple ones are in `mmrec.evaluation.simple_baselines`.

They get what our rankers get: the same features of the train rows, and settings chosen by log loss on
valid. DeepFM is torch-rechub's, without its trainer, which writes files; of
other libraries, deepctr-torch calls home when it is imported, and FuxiCTR brings Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from mmrec.data.schema import Interactions
from mmrec.evaluation.simple_baselines import BaselineScorer, BaselineTask, choose_bias_model
from mmrec.features.tables import EntityFeatures, Features


@dataclass(frozen=True)
class FeatureTask(BaselineTask):
    """The same with features of the n reviews, for baselines that take them."""

    features: Features
    seed: int

    @cached_property
    def _flattener(self) -> FeatureFlattener:
        return FeatureFlattener(self.features, self.split.train)

    @cached_property
    def _scaler(self) -> StandardScaler:
        return StandardScaler().fit(self._flattener.columns(self.features)[self.split.train])

    @cached_property
    def columns(self) -> np.ndarray:
        """(n, columns) flat features of the reviews."""
        return self.scaled_columns(self.features)

    def scaled_columns(self, features: Features) -> np.ndarray:
        """(m, columns) flat features of m rows, in standard deviations from their means over train."""
        columns = self._flattener.columns(features)
        # A column that few rows have, such as a rare category, would be far away.
        return np.clip(self._scaler.transform(columns), -5, 5)

    def loss(self, probability: np.ndarray) -> float:
        """Log loss on valid, by which settings are chosen."""
        valid = self.split.valid
        return float(log_loss(self.label[valid], probability[valid], labels=[False, True]))


class FeatureFlattener:
    """Dense columns, categories as 0 or 1, and principal components of vectors.

    The `components` of a block are found from views of the training `rows`, and are 0 where it is
    missing.
    """

    def __init__(self, features: Features, rows: np.ndarray, components: int = 16) -> None:
        self._principal: dict[str, PCA] = {}
        for kind, entity, view in _sides(features):
            train_views = np.unique(view[rows])
            for name, block in entity.vectors.items():
                present = entity.present[name][train_views] > 0
                train_vectors = block[train_views[present]].astype(np.float32)
                count = min(components, len(train_vectors) - 1, block.shape[1])
                if count > 0:
                    pca = PCA(count, svd_solver="covariance_eigh").fit(train_vectors)
                    self._principal[f"{kind} {name}"] = pca
        codes = features.item.categories
        # Codes are in order of frequency, so a category beyond the 256th is rare.
        self._categories = min(256, int(codes[-1].max(initial=0)))

    def columns(self, features: Features) -> np.ndarray:
        """(n, columns) float32 of the rows of features: of users, then of items."""
        sides: list[np.ndarray] = []
        for kind, entity, view in _sides(features):
            columns = [*entity.dense.T]  # (views + 1,) each
            for code in range(self._categories if kind == "item" else 0):
                columns.append((entity.categories == code).any(axis=1))
            for name, block in entity.vectors.items():
                present = entity.present[name] > 0
                columns.append(present)
                if (pca := self._principal.get(f"{kind} {name}")) is not None:
                    # Missing vectors are zeros, which must stay zeros.
                    reduced = pca.transform(block.astype(np.float32)) * present[:, None]
                    columns += [*reduced.T]
            sides += [column[view] for column in columns]
        return np.stack(sides, axis=1, dtype=np.float32)


def _sides(features: Features) -> Iterator[tuple[str, EntityFeatures, np.ndarray]]:
    yield "user", features.user, features.user_view
    yield "item", features.item, features.item_view


def _logistic_regression(task: FeatureTask) -> np.ndarray:
    train, candidates = task.split.train, []
    for inverse_penalty in (1e-4, 1e-3, 1e-2, 0.1, 1):
        model = LogisticRegression(C=inverse_penalty, max_iter=300)
        model.fit(task.columns[train], task.label[train])
        candidates.append(model.predict_proba(task.columns)[:, 1].astype(np.float64))
    return min(candidates, key=task.loss)


def fit_lightgbm(task: FeatureTask, lightgbm: Any) -> Any:
    """Gradient boosted trees (a `lightgbm.Booster`) of the depth with the least loss on valid."""
    train = lightgbm.Dataset(task.columns[task.split.train], task.label[task.split.train])
    valid = train.create_valid(task.columns[task.split.valid], task.label[task.split.valid])
    parameters = {"objective": "binary", "learning_rate": 0.05, "feature_fraction": 0.5}
    parameters |= {"seed": task.seed, "deterministic": True, "force_row_wise": True}
    stop, candidates = lightgbm.early_stopping(50, verbose=False), []
    for max_depth in (3, 5, 8):
        settings = {**parameters, "max_depth": max_depth, "verbosity": -1}
        candidates.append(lightgbm.train(settings, train, 2000, [valid], callbacks=[stop]))
    return min(candidates, key=lambda trees: task.loss(np.asarray(trees.predict(task.columns))))


def _lightgbm(task: FeatureTask, lightgbm: Any) -> np.ndarray:
    return np.asarray(fit_lightgbm(task, lightgbm).predict(task.columns))


def _deepfm(task: FeatureTask, inputs: Any, models: Any) -> np.ndarray:
    """DeepFM (Guo et al., arXiv 1703.04247); only its deep part sees the dense columns."""
    data, categories = task.data, task.features.item.categories
    fields = [inputs.SparseFeature("user", len(data.users), 8)]
    fields.append(inputs.SparseFeature("item", len(data.items), 8))
    columns = {"user": data.user, "item": data.item, "columns": task.columns}
    if categories.shape[1]:
        padding = int(categories[-1, 0])
        options = {"pooling": "sum", "padding_idx": padding}
        fields.append(inputs.SequenceFeature("categories", padding + 1, 8, **options))
        columns["categories"] = categories[task.features.item_view]
    deep = [*fields, inputs.DenseFeature("columns", task.columns.shape[1])]
    tensors = {name: torch.from_numpy(values) for name, values in columns.items()}
    label = torch.from_numpy(task.label.astype(np.float32))
    rows = torch.from_numpy(task.split.train)
    # Small batches for small data, but at least 32 rows for batch normalisation.
    batch_count = max(1, min(len(rows) // 32, len(rows) // 512 + 16))
    candidates = []
    with torch.random.fork_rng(devices=[]):
        for dropout in (0.2, 0.5):
            torch.manual_seed(task.seed)
            model = models.DeepFM(deep, fields, {"dims": [64, 32], "dropout": dropout})
            optimiser = torch.optim.Adam(model.parameters(), weight_decay=1e-5)
            for _ in range(12):
                for batch in torch.tensor_split(rows[torch.randperm(len(rows))], batch_count):
                    optimiser.zero_grad()
                    output = model.train()({name: x[batch] for name, x in tensors.items()})
                    loss = torch.nn.functional.binary_cross_entropy(output, label[batch])
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                with torch.inference_mode():
                    candidates.append(model.eval()(tensors).double().numpy())
    return min(candidates, key=task.loss)


def _matrix_factorisation(task: FeatureTask) -> np.ndarray:
    factor_scores = partial(_factor_scores, choose_bias_model(task), task.seed)
    scorers = []
    for size, penalty in product((8, 16), (3, 6, 12, 24)):
        scorers.append(partial(factor_scores, size, penalty))
    return task.calibrate(task.choose(scorers))


def _factor_scores(
    bias_model: BaselineScorer,
    seed: int,
    size: int,
    penalty: float,
    data: Interactions,
    rows: np.ndarray,
) -> np.ndarray:
    """Bias model, plus products of factors of its residuals (Koren et al., 2009)."""
    base = data.rating[rows].mean() + bias_model(data, rows)
    residual, user, item = (data.rating - base)[rows], data.user[rows], data.item[rows]
    # A penalty is in reviews whose residuals have unit deviation; a high one leaves only the biases.
    penalty *= float(residual.std())
    users, items, rng = len(data.users), len(data.items), np.random.default_rng(seed)
    item_factors = rng.normal(0, size**-0.5, (items, size))
    for _ in range(8):
        user_factors = _ridges(user, users, item_factors[item], residual, penalty)
        item_factors = _ridges(item, items, user_factors[user], residual, penalty)
    products = user_factors[data.user] * item_factors[data.item]
    return np.asarray(base + products.sum(axis=1))


def _ridges(
    entity: np.ndarray, count: int, inputs: np.ndarray, target: np.ndarray, penalty: float
) -> np.ndarray:
    """(count, k) coefficients of each entity: ridge regressions of its rows of the (m,) `target` on
    those of the (m, k) `inputs`."""
    m, k = inputs.shape
    # (count, m): its product with (m, k) rows sums them by entity.
    sum_by_entity = csr_matrix((np.ones(m), (entity, np.arange(m))), shape=(count, m))
    grams = np.empty((count, k, k))
    for column in range(k):  # one at a time, since (m, k, k) products need much memory
        grams[:, column] = sum_by_entity @ (inputs * inputs[:, [column]])
    moments = sum_by_entity @ (inputs * target[:, None])
    return np.linalg.solve(grams + penalty * np.eye(k), moments[:, :, None])[:, :, 0]


TRAINED_BASELINES: dict[str, tuple[Callable[..., np.ndarray], *tuple[str, ...]]] = {
    "logistic regression": (_logistic_regression,),
    "LightGBM": (_lightgbm, "lightgbm"),
    "matrix factorisation": (_matrix_factorisation,),
    "DeepFM": (_deepfm, "torch_rechub.basic.features", "torch_rechub.models.ranking"),
}
"""Name -> the function that trains it and gives (n,) probabilities, and its libraries."""


def trained_baseline_probabilities(
    task: FeatureTask, names: Sequence[str] = tuple(TRAINED_BASELINES)
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Name -> (n,) probability of a like; and remarks on those whose library cannot be imported."""
    probability, remarks = {}, []
    for name in names:
        train, *modules = TRAINED_BASELINES[name]
        try:
            libraries = list(map(import_module, modules))
        except (ImportError, OSError) as error:  # OSError: no libgomp
            hint = "`pip install 'mmrec[peers]'` brings its library"
            remarks.append(f"{name}: left out ({error}); {hint}")
        else:
            probability[name] = train(task, *libraries)
    return probability, remarks
