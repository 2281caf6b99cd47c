"""The layout of the package: which module may import which, and how much of it one command walks through."""

from __future__ import annotations

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
    "errors",
    "config",
    "console",
    "data",
    "cache",
    "encoder",
    "llm",
    "vision",
    "evidence",
    "features",
    "ranker",
    "evaluation",
    "retrieval",
    "distributed",
    "pipeline",
    "recommender",
    "experiments",
    "service",
    "cli",
]
# Work of `mmrec fit` that is not on the way from the opened file to the trained model: peers, report, card,
# saving and the audit. What they call is counted only where training calls it too.
BESIDE_TRAINING = (
    "experiments/baselines.py",
    "experiments/trained_baselines.py",
    "experiments/significance.py",
    "experiments/report/",
    "recommender/",
    "evidence/audit.py",
)
# These call both, and are themselves no step of training.
COMMAND_LINE = ("cli/", "experiments/")

# Writes the files that a command calls into; for each whether training, too, calls it.
RECORD_CALLED_FILES = """
import json, pathlib, sys, threading
package, output, beside, *arguments = sys.argv[1:]
beside = tuple(package + path for path in json.loads(beside))
called = {}

def record(frame, event, argument):
    file = frame.f_code.co_filename
    if event != "call" or called.get(file) or not (file.startswith(package) and file.endswith(".py")):
        return
    in_training = True
    while frame is not None:
        caller = frame.f_code
        if caller.co_name == "<module>" and caller.co_filename.startswith(package):
            return  # what a module runs while it is imported is no step of the command
        in_training = in_training and not caller.co_filename.startswith(beside)
        frame = frame.f_back
    called[file] = called.get(file, False) or in_training

from mmrec.cli import main
threading.setprofile(record)
sys.setprofile(record)
try:
    main(arguments)
finally:
    sys.setprofile(None)
    files = {file.removeprefix(package): training for file, training in sorted(called.items())}
    pathlib.Path(output).write_text(json.dumps(files))
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports, at its top, in a function, or for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports are not used here"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in modules else node.module)
    return found & modules


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Every module with those that it imports; without `mmrec` itself, which names the public API lazily."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    del files["mmrec"]
    assert len(files) > 50
    return {name: imported_modules(path, {*files}) - {name} for name, path in files.items()}


def test_no_modules_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_no_module_imports_from_a_higher_layer(imports: dict[str, set[str]]) -> None:
    upward = {
        (importer, imported)
        for importer, targets in imports.items()
        for imported in targets
        if LAYERS.index(imported.split(".")[1]) > LAYERS.index(importer.split(".")[1])
    }
    assert upward == set()


def test_every_layer_is_a_folder_or_a_module_of_the_package() -> None:
    found = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found == {*LAYERS, "__init__"}


def test_the_top_of_the_package_is_small() -> None:
    assert len(mmrec.__all__) <= 12
    assert len([*PACKAGE.glob("*.py")]) <= 12
    assert all(getattr(mmrec, name) for name in mmrec.__all__)


def test_importing_the_recommender_loads_no_experiment() -> None:
    script = "import json, sys, mmrec.recommender.recommender; print(json.dumps([*sys.modules]))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout)
    assert "mmrec.recommender.recommender" in loaded
    assert [name for name in loaded if name.startswith("mmrec.experiments")] == []


@pytest.fixture(scope="module")
def called_files(minilm: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Files that `mmrec fit` calls into on a small Sample City, and whether training calls them."""
    folder = tmp_path_factory.mktemp("layout")
    data, output = (
        write_sample_city(folder / "city", users=30, items=12, reviews=200),
        folder / "called.json",
    )
    script = [RECORD_CALLED_FILES, f"{PACKAGE}/", str(output), json.dumps(BESIDE_TRAINING)]
    flags = ["--items", str(folder / "city/places.jsonl"), "--out", str(folder / "model"), "--epochs", "2"]
    command = [sys.executable, "-c", *script, "fit", str(data), *flags]
    environment = os.environ | {"MMREC_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    files: dict[str, bool] = json.loads(output.read_text())
    return files


def test_a_fit_calls_into_few_files(called_files: dict[str, bool]) -> None:
    assert len(called_files) <= 74, sorted(called_files)  # the goal is 45


def test_few_files_lie_between_the_reviews_and_the_trained_model(called_files: dict[str, bool]) -> None:
    training = [file for file, used in called_files.items() if used and not file.startswith(COMMAND_LINE)]
    assert 10 < len(training) <= 46, training  # the goal is 25
