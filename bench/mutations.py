"""Breaks single lines in a copy of the package, one after the other; a test must notice each.

Usage: python bench/mutations.py [WORD ...]

With words, only the mutations whose description has one of them run. Each line says which mistake
was made where, and the first test that failed; the status is 1 where the tests passed all the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """A mistake: what it is, in which file, the text there and what replaces it, and the tests."""

    mistake: str
    file: str
    text: str
    replacement: str
    tests: str


MUTATIONS = (
    Mutation(
        "folds start at the validation fold",
        "evidence/policies.py",
        "fold[order] = VALIDATION_FOLD + 1 + (start + rank) % folds",
        "fold[order] = VALIDATION_FOLD + (start + rank) % folds",
        "tests/evidence/test_policies.py",
    ),
    Mutation(
        "a row sees its own review",
        "evidence/policies.py",
        "excluded_from = np.where(seen_by_all, NO_GROUP, view[order])",
        "excluded_from = np.full(len(order), NO_GROUP)",
        "tests/evidence/test_policies.py",
    ),
    Mutation(
        "the linear model has no penalty",
        "ranker/linear.py",
        "gram[np.diag_indices(size)] += penalty",
        "gram[np.diag_indices(size)] += 1e-6",
        "tests/ranker/test_training_and_linear.py",
    ),
    Mutation(
        "the threshold lets one more dislike through",
        "evaluation/metrics.py",
        'np.searchsorted(fprs, value + 1e-12, "right") - 1',
        'np.searchsorted(fprs, value + 1e-12, "right")',
        "tests/evaluation/test_metrics_and_statistics.py",
    ),
    Mutation(
        "the bootstrap draws rows of two users apart from each other",
        "evaluation/statistics.py",
        "times_drawn[:, user_of_row]",
        "times_drawn[:, user_of_row[::-1]]",
        "tests/evaluation/test_metrics_and_statistics.py",
    ),
    Mutation(
        "p-values of differences are not corrected for the number of models",
        "experiments/compare.py",
        "gap._replace(p_value=p_value)",
        "gap",
        "tests/experiments/test_fit_report.py",
    ),
    Mutation(
        "no lock is taken before paid work",
        "cache/store.py",
        "lock.acquire(timeout=2.0 if max_wait is None else max_wait)",
        "is_held = False",
        "tests/cache/test_locks.py",
    ),
    Mutation(
        "the lock is free while calls are under way",
        "cache/store.py",
        "with closing(self._compute(provenance, keys, todo, compute, chunk)) as computed:",
        "for computed in [self._compute(provenance, keys, todo, compute, chunk)]:",
        "tests/cache/test_store.py",
    ),
    Mutation(
        "answers that arrived before an error are lost",
        "cache/store.py",
        """            if unwritten:
                self.put(provenance, unwritten.items())
        yield""",
        "            pass\n        yield",
        "tests/cache/test_store.py",
    ),
    Mutation(
        "the budget ignores calls in flight",
        "llm/cost.py",
        "self._budget.committed + cost > limit",
        "cost > limit",
        "tests/llm/test_openai_client.py",
    ),
    Mutation(
        "a review may close its own mark in a prompt",
        "llm/prompts.py",
        r'text = re.sub(f"{tag}|{bracketed}", r"\g<0> ", text)',
        "text = text.strip()",
        "tests/llm/test_prompts.py",
    ),
    Mutation(
        "reports do not escape what reviews say",
        "experiments/report/html.py",
        "autoescape=True",
        "autoescape=False",
        "tests/experiments/test_fit_report.py",
    ),
    Mutation(
        "photos are downloaded from the machine's own network",
        "data/http_download.py",
        "return routed and not any(",
        "return routed or not any(",
        "tests/data/test_image_download.py",
    ),
    Mutation(
        "any API key opens the service",
        "service/security.py",
        'if scheme.lower() != "bearer" or not matches:',
        'if scheme.lower() != "bearer":',
        "tests/service/test_security.py",
    ),
    Mutation(
        "a new item is in no list",
        "recommender/proposals.py",
        "self.retrieval = replace(self.retrieval, proposers=proposers)",
        "proposers.items",
        "tests/recommender/test_recommender_and_online.py",
    ),
    Mutation(
        "lists have items below the wanted probability",
        "recommender/proposals.py",
        "probability >= rules.min_probability",
        "probability >= 0",
        "tests/recommender/test_recommender_and_online.py",
    ),
)


def first_failure(mutation: Mutation, folder: Path) -> str:
    """The first test that fails with a mutation, or "" where all pass.

    Raises:
        ValueError: the text does not stand in the file exactly once, or no test ran.
    """
    shutil.copytree(ROOT / "src/mmrec", folder / "mmrec")
    path = folder / "mmrec" / mutation.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutation.text) != 1:
        raise ValueError(
            f"{mutation.file} has {source.count(mutation.text)} times: {mutation.text}"
        )
    path.write_text(source.replace(mutation.text, mutation.replacement), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, mutation.tests], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if run.returncode not in (0, 1):
        raise ValueError(f"{mutation.tests} could not run: {run.stdout[-500:]}{run.stderr[-500:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    return failed[1].split("::", 1)[-1] if failed else ""


def main() -> None:
    """Run the mutations and print a table."""
    words, missed = sys.argv[1:], 0
    chosen = [m for m in MUTATIONS if not words or any(word in m.mistake for word in words)]
    for mutation in chosen:
        with tempfile.TemporaryDirectory() as folder:
            test = first_failure(mutation, Path(folder))
        missed += not test
        print(f"{mutation.mistake} ({mutation.file}): {test or 'NOT NOTICED'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} mutations were noticed")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
