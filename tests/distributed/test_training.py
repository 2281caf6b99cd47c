"""Training on several workers: the model of one process, also when a worker dies."""

import os
import signal
import sys
from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from ray_pool import ENGINE, open_addresses

from mmrec.config import Config, EngineConfig, TrainingConfig
from mmrec.data.schema import Split
from mmrec.distributed.training import train_on_workers
from mmrec.ranker.inputs import Shard, TrainingRun
from mmrec.ranker.training import StackTrainer
from toys import ranker_of, toy


def train_toy(shard, died=None):
    """Weights and losses of two runs in double precision; one worker dies at its ninth batch, once."""
    torch.set_default_dtype(torch.float64)
    local_rows, batches = shard.local_rows, count(1)

    def local_rows_or_death(rows):
        if died is not None and next(batches) == 9 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return local_rows(rows)

    shard.local_rows = local_rows_or_death
    try:
        task, runs = toy(dtype=np.float64), [TrainingRun(5, 0.3, (0.4, 0.6)), TrainingRun(6, 0.0, (0.5, 0.5))]
        ranker = ranker_of(task, runs, linear=True)
        training = TrainingConfig(learning_rate=0.02, batch_size=33, epochs=6, cold_start_dropout=0.1)
        course = StackTrainer(ranker, runs, task, training, 3, shard).train("staged")
    finally:
        torch.set_default_dtype(torch.float32)
    losses = [loss for histories in course.values() for history in histories for loss in history.loss]
    return {name: value.numpy() for name, value in ranker.state_dict().items()}, losses


def test_workers_train_the_model_of_one_process_although_one_is_killed(pool, tmp_path):
    weights, losses = train_toy(Shard())
    remote_weights, remote_losses = train_on_workers(ENGINE, 256, partial(train_toy, died=tmp_path / "died"))
    assert (tmp_path / "died").exists()
    assert len(losses) > 4
    np.testing.assert_allclose(remote_losses, losses, rtol=1e-9)
    assert remote_weights.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(remote_weights[name], value, rtol=0, atol=1e-9)


def _sum_and_look(shard):
    ones = torch.ones(2)
    shard.all_reduce([ones])
    return ones.tolist(), open_addresses([os.getpid()])


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are listed in /proc")
def test_workers_that_train_listen_on_loopback_alone(pool):
    ones, (exposed, sockets) = train_on_workers(ENGINE, 256, _sum_and_look)
    assert (ones, exposed) == ([2.0, 2.0], [])
    assert sockets >= 1


def test_a_model_survives_being_sent_and_brought_back(fitted, monkeypatch):
    from mmrec.pipeline import train_runs

    cloudpickle = pytest.importorskip("ray.cloudpickle")

    def send(config, size, train):
        return cloudpickle.loads(cloudpickle.dumps(train))(Shard())

    monkeypatch.setattr("mmrec.distributed.training.train_on_workers", send)
    features, builder = fitted.saved.features, fitted.saved.model.builder
    label = fitted.state.dataset.data.rating >= 4
    split = Split(*np.split(np.arange(len(label)), [300, 400]))
    prepared = SimpleNamespace(label=label, split=split)
    runs = [TrainingRun(1, 0.3, (0.4, 0.6)), TrainingRun(2, 0.3, (0.4, 0.6))]
    rankers = []
    for engine in (ENGINE, EngineConfig()):
        config = builder.config.model_copy(update={"engine": engine})
        builder = builder.model_copy(update={"config": config})
        rankers.append(train_runs(prepared, builder, features, runs)[0])
    remote, local = (ranker.state_dict() for ranker in rankers)
    assert local
    assert all(torch.equal(remote[name], local[name]) for name in local)
    assert not rankers[0].training


def test_small_batches_are_trained_in_this_process(monkeypatch):
    monkeypatch.setattr("mmrec.distributed.training.connect", None)
    assert train_on_workers(ENGINE, 255, lambda shard: type(shard)) is Shard


def test_where_models_run_is_not_saved_and_an_address_is_for_ray():
    assert Config(engine=ENGINE).model_dump_json() == Config().model_dump_json()
    with pytest.raises(ValidationError, match=r"are for --engine ray"):
        EngineConfig(address="10.0.0.1:6379")
