"""The README's own commands and Python lines, as they stand in the file."""

import json
import re
import shlex
from pathlib import Path

import pytest

import mmrec
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
    "mmrec cold-start": "trains for minutes; tests/experiments does it on less",
    "mmrec sweep": "trains for minutes; tests/experiments does it on less",
    "mmrec annotate reviews.jsonl --llm openai:gpt-4o-mini --budget": "calls a server",
    "mmrec fit reviews.jsonl --llm": "needs a server or a model",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


SHELL_LINES = [line.split("  #")[0].strip() for line in "".join(blocks("sh")).splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(minilm, one_thread, tmp_path_factory):
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


def test_the_shell_commands_run(folder):
    commands = set()
    for line in SHELL_LINES:
        if line.startswith(tuple(NOT_RUN)):
            continue
        program, *words = shlex.split(line)
        assert program == "mmrec"
        run = command(*words, cwd=folder)
        assert run.returncode == 0, f"{line}\n{run.stderr}"
        commands.add(words[0])
    assert commands == {"fit", "recommend", "evaluate", "annotate", "doctor"}
    assert (folder / "model/report.html").is_file()
    assert (folder / "lists.parquet").is_file()


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_every_command_that_is_not_run_is_there_and_parsed(beginning):
    lines = [line for line in SHELL_LINES if line.startswith(beginning)]
    assert lines
    for line in lines:
        program, *words = shlex.split(line)
        if program.endswith("mmrec"):
            app.parse_args(words, exit_on_error=False, print_error=False)


def test_the_python_lines_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    # The store of the commands before, which has the same annotations and vectors.
    monkeypatch.setenv("MMREC_CACHE", str(folder / "cache"))
    (block,) = blocks("python")
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert "recommender" in names


def test_every_folder_of_the_package_is_in_the_architecture_table():
    rows = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    subjects = set(re.findall(r"`([a-z]+)/?`", " ".join(rows)))
    package = Path(mmrec.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert folders | modules == subjects
