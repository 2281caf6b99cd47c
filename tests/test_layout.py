"""The layout of the package: which module may import which, and how many files one command calls into."""

import ast
import json
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mmrec
from mmrec.data.synthetic.city import write_sample_city

PACKAGE = Path(mmrec.__file__).parent
# Data flows downward: a module imports from its own layer and from those that stand before it.
LAYERS = [
    "errors", "config", "console", "data", "cache", "encoder", "llm", "vision", "evidence", "features",
    "ranker", "evaluation", "retrieval", "distributed", "pipeline", "recommender", "experiments",
    "service", "cli",
]  # fmt: skip
# Work of `mmrec fit` that is not on the way from the opened file to the trained model: peers, verdict,
# report, card, saving and the audit. What they call is counted only where training calls it too.
BESIDE_TRAINING = [
    "evaluation/list_metrics.py", "evaluation/statistics.py", "evaluation/simple_baselines.py",
    "evaluation/verdict.py", "experiments/baselines.py",
    "experiments/list_peers.py", "experiments/report/", "recommender/", "features/audit.py",
    "retrieval/",  # proposes candidates, beside the ranker
]  # fmt: skip
# These call both, and are themselves no step of training.
COMMAND_LINE = ("cli/", "experiments/")

# Writes the files that a command calls into; for each whether training, too, calls it.
RECORD_CALLED_FILES = """
import json, pathlib, sys, threading
package, output, beside, *arguments = sys.argv[1:]
beside = tuple(package + path for path in json.loads(beside))
called, skipped = {}, {}

def record(frame, event, argument):
    # By identity, since the hash of a code object is slow; each is kept, or another could get its identity.
    # Nothing is returned: lines are not traced.
    code, file = frame.f_code, frame.f_code.co_filename
    if id(code) in skipped:
        return
    if called.get(file) or not (file.startswith(package) and file.endswith(".py")):
        skipped[id(code)] = code
        return
    in_training = True
    while frame is not None:
        caller = frame.f_code
        if caller.co_name == "<module>" and caller.co_filename.startswith(package):
            return  # what a module runs while it is imported is no step of the command
        in_training = in_training and not caller.co_filename.startswith(beside)
        frame = frame.f_back
    called[file] = called.get(file, False) or in_training

# Other packages are imported first, since their calls would be traced, too.
import matplotlib.figure, polars, scipy.stats, sklearn.metrics, torch, transformers.core_model_loading
from transformers import BertModel

from mmrec.cli import main
threading.settrace(record)
sys.settrace(record)
try:
    main(arguments)
finally:
    sys.settrace(None)
    files = {file.removeprefix(package): training for file, training in sorted(called.items())}
    pathlib.Path(output).write_text(json.dumps(files))
"""


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_modules_import_from_their_own_and_earlier_layers_and_in_no_circle():
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    del files["mmrec"]  # names the public API lazily
    assert len(files) > 50
    imports, upward = {name: set() for name in files}, set()
    for name, path in files.items():
        # At the top, in a function, or for types alone.
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imports[name] |= {alias.name for alias in node.names} & files.keys()
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: relative imports are not used here"
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    imports[name] |= {submodule if submodule in files else node.module} & files.keys()
        imports[name].discard(name)
        layer = LAYERS.index(name.split(".")[1])
        upward |= {(name, other) for other in imports[name] if LAYERS.index(other.split(".")[1]) > layer}
    assert sum(map(len, imports.values())) > 100
    assert upward == set()
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_the_top_of_the_package_is_small():
    assert len([*PACKAGE.glob("*.py")]) <= 12
    assert len(mmrec.__all__) <= 12
    assert all(getattr(mmrec, name) for name in mmrec.__all__)


def test_a_fit_calls_into_few_files_and_training_into_fewer(minilm, tmp_path):
    data = write_sample_city(tmp_path / "city", users=30, items=12, reviews=200)
    output = tmp_path / "called.json"
    script = [RECORD_CALLED_FILES, f"{PACKAGE}/", str(output), json.dumps(BESIDE_TRAINING)]
    flags = ["--items", str(tmp_path / "city/places.jsonl"), "--out", str(tmp_path / "model")]
    flags += ["--epochs", "1", "--encoder-backend", "torch"]  # which is opened faster
    command = [sys.executable, "-c", *script, "fit", str(data), *flags]
    environment = os.environ | {"MMREC_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    called = json.loads(output.read_text())
    training = [file for file, used in called.items() if used and not file.startswith(COMMAND_LINE)]
    assert len(called) <= 50, sorted(called)
    assert 10 < len(training) <= 25, training
