"""The README's own commands and Python lines, as they stand in the file."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from mmrec.cli import app
from mmrec.data.synthetic.city import write_sample_city
from serving import command

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# Commands that are only parsed, or that are not mmrec's, by how they begin; with the reason.
NOT_RUN = {
    "make ": "needs a package registry",
    ". .venv/": "the tests run in their own environment",
    "export ": "sets a key",
    "ollama ": "another program",
    "vllm ": "another program",
    ".venv/bin/mmrec serve": "runs until it is stopped; tests/service does it",
    "mmrec serve": "runs until it is stopped; tests/service does it",
    "mmrec reproduce": "trains for minutes; tests/experiments does it on less",
    "mmrec ablate": "trains for minutes; tests/experiments does it on less",
    "mmrec sweep": "trains for minutes; tests/experiments does it on less",
    "mmrec annotate reviews.jsonl --llm openai:gpt-4o-mini --budget": "calls a server",
    "mmrec fit reviews.jsonl --llm": "needs a server or a model",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_lines() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def is_run(line: str) -> bool:
    return not line.startswith(tuple(NOT_RUN))


@pytest.fixture(scope="module")
def folder(minilm: None, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reviews.jsonl and new-reviews.jsonl, in which ann, bob and the noodle-bar exist."""
    folder = tmp_path_factory.mktemp("readme")
    data = write_sample_city(folder / "city", users=40, items=16, reviews=260)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    users, items = ([*dict.fromkeys(row[key] for row in rows)] for key in ("user_id", "business_id"))
    names = {users[0]: "ann", users[1]: "bob", items[0]: "noodle-bar"}
    lines, new_lines = [], []
    for row in rows:
        user, item = (names.get(row[key], row[key]) for key in ("user_id", "business_id"))
        review = {"user": user, "item": item, "rating": row["rating"], "text": row["review_text"]}
        lines.append(json.dumps(review))
        new_lines.append(json.dumps(review | {"user": f"new {user}"}))
    (folder / "reviews.jsonl").write_text("\n".join(lines))
    (folder / "new-reviews.jsonl").write_text("\n".join(new_lines))
    return folder


def test_the_shell_commands_run(folder: Path) -> None:
    lines = [line for line in shell_lines() if is_run(line)]
    assert {line.split()[1] for line in lines} == {"fit", "recommend", "evaluate", "annotate", "doctor"}
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "mmrec"
        run = command(*words, cwd=folder)
        assert run.returncode == 0, f"{line}\n{run.stderr}"
    assert (folder / "model/report.html").is_file()
    assert (folder / "lists.parquet").is_file()


@pytest.mark.parametrize("line", [line for line in shell_lines() if not is_run(line)])
def test_every_command_that_is_not_run_is_parsed(line: str) -> None:
    program, *words = shlex.split(line)
    if program.endswith("mmrec"):
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_no_reason_is_left_over() -> None:
    for beginning in NOT_RUN:
        assert any(line.startswith(beginning) for line in shell_lines()), beginning


def test_the_python_lines_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MMREC_CACHE", str(folder / "cache"))
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert "recommender" in names


def test_every_folder_of_the_package_is_in_the_architecture_table() -> None:
    import mmrec

    rows = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    subjects = set(re.findall(r"`([a-z]+)/?`", " ".join(rows)))
    package = Path(mmrec.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert folders | modules == subjects
