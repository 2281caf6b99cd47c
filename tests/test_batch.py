"""Batches against a real server: handed in once, collected once, whatever is killed, lost or refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chat_server import Behaviour, Server, serve
from mmrec.cache.store import Failure, Store
from mmrec.cli import main
from mmrec.config import AnnotationConfig, Config, LanguageConfig
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import ConfigError, ModelError
from mmrec.llm.annotator import Annotator
from mmrec.llm.cost import Budget, BudgetReached, CostTracker, Price
from mmrec.llm.factory import open_language_model
from mmrec.llm.openai_batch import AnswersPending, BatchClient
from mmrec.llm.openai_protocol import ChatRequest, Endpoint
from mmrec.llm.types import Answer, Note

pytest.importorskip("openai")

TEXTS = [
    "Great ramen and friendly staff. The queue was terrible.",
    "Cheap and delicious tacos, loved the salsa.",
    "Overpriced and slow. The soup was awful.",
    "A nice quiet cafe with\u2028excellent cake.",
    "Bad service, good pizza.",
]
MANY = [f"{text} Visit {number}." for number in range(4) for text in TEXTS]
NEVER = 10**6


@dataclass
class Run:
    """One run of a command: notes, or what was said instead."""

    notes: list[Note]
    pending: str
    reader: Annotator


@dataclass
class Desk(Server):
    """The server, and the batches that it had before the test."""

    before: int = 0


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serve() as one:
        yield one


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading them takes most of the time of a client, and nothing here is encrypted."""
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)


@pytest.fixture
def server(running: Server) -> Iterator[Desk]:
    desk = Desk(running.url)
    desk.before = len(batches(desk))
    desk.reset()
    yield desk
    desk.set(**asdict(Behaviour()))


def run(url: str, path: Path, texts: list[str] = TEXTS, *, batch: bool = True, **settings: object) -> Run:
    language = LanguageConfig(llm=f"openai:test-model@{url}", **settings)  # type: ignore[arg-type]
    with closing(Store(path, retry=language.retry_failed)) as store:
        model = open_language_model(Config(language=language), None, store, batch=batch)  # type: ignore[arg-type]
        reader = Annotator(model, store, language, AnnotationConfig())
        try:
            return Run(reader.write_notes(texts), "", reader)
        except AnswersPending as pending:
            return Run([], str(pending), reader)


def run_to_the_end(url: str, path: Path, texts: list[str] = TEXTS, **settings: object) -> Run:
    """Run again until nothing is pending."""
    for _ in range(20):
        if not (done := run(url, path, texts, **settings)).pending:
            return done
    raise AssertionError(f"still pending: {done.pending}")


def stored(path: Path) -> dict[bytes, Answer]:
    with closing(Store(path)) as store:
        rows = store.db.execute("SELECT key, value FROM results").fetchall()
    return {key: Answer.model_validate_json(value) for key, value in rows}


def left_over(path: Path) -> int:
    """Rows that the ledger still has."""
    with closing(Store(path)) as store:
        rows = store.db.execute("SELECT count(*) FROM batched UNION ALL SELECT count(*) FROM batches")
        return sum(count for (count,) in rows)


def get(server: Server, path: str) -> bytes:
    with closing(HTTPConnection(urlsplit(server.url).netloc, timeout=10)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def batches(server: Desk) -> list[dict]:
    """All that the test handed in, the first one first. Counts as a look at each."""
    found: list[dict] = []
    more = True
    while more:
        after = f"&after={found[-1]['id']}" if found else ""
        page = json.loads(get(server, f"/v1/batches?limit=100{after}"))
        found += page["data"]
        more = page["has_more"]
    return found[::-1][server.before :]


def handed_in(server: Desk) -> list[list[dict]]:
    """The lines of each batch."""
    files = (get(server, f"/v1/files/{batch['input_file_id']}/content") for batch in batches(server))
    return [[json.loads(line) for line in file.splitlines()] for file in files]


def times_handed_in(server: Desk) -> Counter[str]:
    return Counter(line["custom_id"] for batch in handed_in(server) for line in batch)


def test_asks_are_handed_in_once_and_collected_once(
    server: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(batch_polls=NEVER)
    path = tmp_path / "store"
    first = run(server.url, path)
    assert first.pending.startswith(
        "asks: 4 handed in now. Answers take up to 24 hours; run the same command"
    )
    again = run(server.url, path)
    assert again.pending.startswith("asks: 4 with the server already.")
    assert ": in_progress, 0 of 4 done" in " ".join(capsys.readouterr().err.split())
    more = run(server.url, path, [*TEXTS, "Another one, with good rice.", "And one more."])
    assert more.pending.startswith("asks: 1 handed in now, 4 with the server already.")
    server.set(batch_polls=1)
    done = run(server.url, path)
    assert [len(batch) for batch in handed_in(server)] == [4, 1]
    assert max(times_handed_in(server).values()) == 1
    assert "completed, 4 of 4 done" in " ".join(capsys.readouterr().err.split())
    online = run(server.url, tmp_path / "other", batch=False)
    assert done.notes == online.notes
    assert all(note.gist for note in done.notes)
    seen = server.stats()["requests"], len(batches(server))
    assert run(server.url, path).notes == done.notes
    assert (server.stats()["requests"], len(batches(server))) == seen


def test_what_is_stored_is_what_an_ordinary_call_stores(server: Desk, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run_to_the_end(server.url, one, MANY)
    run(server.url, other, MANY, batch=False)
    batched, online = stored(one), stored(other)
    assert batched.keys() == online.keys()
    for key, answer in batched.items():
        assert (answer.text, answer.finish) == (online[key].text, online[key].finish)
        assert (answer.usage.input, answer.usage.output) == (
            online[key].usage.input,
            online[key].usage.output,
        )
    assert left_over(one) == 0


@pytest.mark.parametrize("kind", ["error", "status", "missing"])
def test_lines_without_an_answer_are_handed_in_again(
    server: Desk, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(batch_failures=0.5, batch_failure_kinds=[kind])
    path = tmp_path / "store"
    assert "19 handed in now" in run(server.url, path, MANY).pending
    second = run(server.url, path, MANY)
    assert "handed in now." in second.pending
    first, lost = handed_in(server)
    assert 0 < len(lost) < 18
    assert f"{len(lost) + 1} have no answer and are asked again" in " ".join(capsys.readouterr().err.split())
    assert {line["custom_id"] for line in lost} < {line["custom_id"] for line in first}
    server.set(batch_failures=0.0)
    assert all(note.gist for note in run_to_the_end(server.url, path, MANY).notes)
    assert left_over(path) == 0


def test_a_line_that_is_refused_fails_for_good(server: Desk, tmp_path: Path) -> None:
    path = tmp_path / "store"
    server.set(context=400)
    texts = [*TEXTS, "The room was there. " * 200]
    done = run_to_the_end(server.url, path, texts)
    assert not done.notes[-1].gist
    assert all(note.gist for note in done.notes[:-1])
    assert "the server refused: This model's maximum context length is 400" in next(
        iter(done.reader.failures)
    )
    assert run(server.url, path, texts).notes == done.notes
    assert len(batches(server)) == 1
    server.set(context=0)
    assert run_to_the_end(server.url, path, texts, retry_failed=True).notes[-1].gist


def test_the_finished_part_of_an_expired_batch_is_kept(server: Desk, tmp_path: Path) -> None:
    path = tmp_path / "store"
    server.set(batch_expires=True, batch_done=0.5)
    run(server.url, path, MANY)
    assert "8 handed in now" in run(server.url, path, MANY).pending
    assert len(stored(path)) == 12
    server.set(batch_expires=False)
    assert all(note.gist for note in run_to_the_end(server.url, path, MANY).notes)
    assert sorted(Counter(times_handed_in(server).values()).items()) == [(1, 11), (2, 8)]


def test_a_batch_that_is_refused_as_a_whole_is_told_and_then_handed_in_again(
    server: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    server.set(batch_limit=3)
    run(server.url, path)
    with pytest.raises(ModelError, match=r"refused batch batch_\d+ of 4 asks: The file has 4 requests"):
        run(server.url, path)
    assert left_over(path) == 0
    server.set(batch_limit=50)
    assert "3 handed in now" in run(server.url, path).pending
    assert all(note.gist for note in run(server.url, path).notes)


def test_files_have_a_size_that_servers_take(
    server: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmrec.llm.openai_batch._MOST_REQUESTS", 8)
    run(server.url, tmp_path / "one", MANY)
    assert [len(batch) for batch in handed_in(server)] == [8, 8, 3]
    monkeypatch.setattr("mmrec.llm.openai_batch._MOST_BYTES", 10_000)
    texts = [text + " Again." for text in MANY]
    run(server.url, tmp_path / "one", texts)
    small = handed_in(server)[3:]
    assert len(small) > 3
    assert sum(map(len, small)) == 19
    assert max(sum(len(json.dumps(line)) for line in batch) for batch in small) <= 10_000
    assert max(times_handed_in(server).values()) == 1
    run_to_the_end(server.url, tmp_path / "one", [*MANY, *texts])
    assert len(stored(tmp_path / "one")) == 40


def test_repairs_are_a_batch_too(server: Desk, tmp_path: Path) -> None:
    path = tmp_path / "store"
    server.set(broken=0.5, broken_kinds=["json"])
    run(server.url, path, MANY)
    assert "handed in now" in run(server.url, path, MANY).pending
    server.set(broken=0.0)
    done = run_to_the_end(server.url, path, MANY)
    first, second = handed_in(server)
    assert 0 < len(second) < len(first)
    assert all(len(line["body"]["messages"]) == 4 for line in second)
    assert sum(not note.gist for note in done.notes) <= 1  # the one that went ahead
    assert not left_over(path)


def test_what_the_server_cannot_do_is_found_out_before_a_batch_is_made(server: Desk, tmp_path: Path) -> None:
    path = tmp_path / "store"
    server.set(structured="none", reject_parameters=["temperature", "max_tokens"])
    run(server.url, path)
    (batch,) = handed_in(server)
    assert all(set(line["body"]) == {"model", "messages"} for line in batch)
    done = run(server.url, path)
    assert all(note.gist for note in done.notes)
    assert len(batches(server)) == 1


def test_half_the_price(server: Desk, tmp_path: Path) -> None:
    run(server.url, tmp_path / "one", MANY, llm_price="10/20")
    half = run(server.url, tmp_path / "one", MANY, llm_price="10/20")
    ahead = run(server.url, tmp_path / "other", MANY[:1], llm_price="10/20", batch=False)
    full = run(server.url, tmp_path / "other", MANY[1:], llm_price="10/20", batch=False)
    assert ahead.notes
    assert spend(half).calls == spend(full).calls == 19
    assert 0 < spend(half).dollars < spend(full).dollars  # of which a part is cached
    usage = spend(half).usage
    assert spend(half).dollars == pytest.approx((usage.input * 5 + usage.output * 10) / 10**6)


def spend(one: Run) -> CostTracker:
    chat = one.reader.model.chat  # type: ignore[attr-defined]
    assert isinstance(chat.spend, CostTracker)
    return chat.spend


def test_the_budget_bounds_what_is_with_the_server(server: Desk, tmp_path: Path) -> None:
    path = tmp_path / "store"
    server.set(batch_polls=NEVER)
    settings = {"budget": 0.05, "llm_price": "10/10"}
    first = run(server.url, path, MANY, **settings)
    (batch,) = handed_in(server)
    assert 5 < len(batch) < 15
    assert f"asks: {len(batch)} handed in now for at most $0.05, {19 - len(batch)} left for later" in (
        first.pending
    )
    for _ in range(2):
        said = f"asks: {len(batch)} with the server already, {19 - len(batch)} left for later, since --budget"
        assert said in run(server.url, path, MANY, **settings).pending
    assert said in run(server.url, path, MANY, budget=0.01, llm_price="10/10").pending
    other = [text + " Elsewhere." for text in TEXTS]
    assert "asks: 5 left for later, since --budget holds" in run(server.url, path, other, **settings).pending
    assert len(batches(server)) == 1
    server.set(batch_polls=1)
    done = run_to_the_end(server.url, path, MANY, **settings)
    assert all(note.gist for note in done.notes)
    assert len(batches(server)) > 1
    assert max(times_handed_in(server).values()) == 1


def test_a_budget_that_holds_nothing_is_told(server: Desk, tmp_path: Path) -> None:
    with pytest.raises(BudgetReached, match=r"budget of \$1e-06 is reached"):
        run(server.url, tmp_path / "store", budget=1e-6, llm_price="10/10")
    assert server.stats()["requests"] == 0


def test_a_batch_that_the_server_does_not_know_is_told_and_can_be_handed_in_again(
    server: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    run(server.url, path)
    with closing(Store(path)) as store, store.db as db:
        db.execute("UPDATE batches SET id = 'batch_of_others'")
    with pytest.raises(ModelError, match=r"does not know batch_of_others: bring the key .* --retry-failed$"):
        run(server.url, path)
    assert "3 handed in now" in run(server.url, path, retry_failed=True).pending
    assert all(note.gist for note in run(server.url, path).notes)


def test_each_server_has_its_own_batches(server: Desk, tmp_path: Path) -> None:
    path = tmp_path / "store"
    run(server.url, path)
    with serve() as one:
        other = Desk(one.url)
        assert "4 handed in now" in run(other.url, path, [TEXTS[0], *(text + "!" for text in TEXTS)]).pending
        assert len(batches(other)) == 1
    assert all(note.gist for note in run(server.url, path).notes)
    assert len(batches(server)) == 1


@pytest.mark.parametrize("llm", ["builtin", "transformers:folder"])
def test_batches_need_a_server(llm: str) -> None:
    config = Config(language=LanguageConfig(llm=llm))
    with pytest.raises(ConfigError, match=f"--batch needs a server that takes batches, and --llm is {llm}"):
        open_language_model(config, None, Store(), batch=True)  # type: ignore[arg-type]


class _Between(BaseHTTPRequestHandler):
    """Passes requests on, but for the rule: `deny` answers 404, `lose` nothing, `half` half of the answer."""

    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        site = self.server
        assert isinstance(site, _Site)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fate = site.rule(f"{self.command} {self.path.partition('?')[0]}")
        if fate == "deny":
            status, answer = 404, b'{"error": {"message": "Not Found"}}'
        else:
            status, answer = site.forward(self.command, self.path, body, self.headers["content-type"])
        self.close_connection = fate in ("lose", "half")
        if fate != "lose":
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2] if fate == "half" else answer)

    do_GET = do_POST = do_DELETE = _pass

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Site(ThreadingHTTPServer):
    def __init__(self, target: str, rule: Callable[[str], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Between)
        self.target, self.rule = urlsplit(target).netloc, rule

    def forward(self, method: str, path: str, body: bytes, kind: str | None) -> tuple[int, bytes]:
        with closing(HTTPConnection(self.target, timeout=10)) as connection:
            connection.request(method, path, body, {"content-type": kind} if kind else {})
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextmanager
def between(server: Server, rule: Callable[[str], str]) -> Iterator[str]:
    """The URL of a proxy before the server."""
    with _Site(server.url, rule) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{site.server_port}/v1"
        finally:
            site.shutdown()


def test_a_lost_answer_to_the_creation_does_not_make_a_second_batch(server: Desk, tmp_path: Path) -> None:
    path, fates = tmp_path / "store", {"POST /v1/batches": "lose"}
    with between(server, lambda asked: fates.pop(asked, "")) as url:
        with pytest.raises(ModelError, match="what was handed in is remembered, run the same again"):
            run(url, path)
        assert len(batches(server)) == 1
        done = run_to_the_end(url, path)
    assert all(note.gist for note in done.notes)
    assert len(batches(server)) == 1


def test_lost_answers_to_uploads_and_looks_are_asked_for_again(server: Desk, tmp_path: Path) -> None:
    path, fates = tmp_path / "store", {"POST /v1/files": "lose", "GET /v1/batches/": "half"}
    with between(server, lambda asked: fates.pop(asked.partition("batch_")[0], "")) as url:
        done = run_to_the_end(url, path, MANY)
    assert not fates
    assert all(note.gist for note in done.notes)
    assert len(batches(server)) == 1


def test_a_download_that_breaks_off_loses_nothing(server: Desk, tmp_path: Path) -> None:
    path = tmp_path / "store"
    fates = {"content": "half"}
    with between(server, lambda asked: fates.pop(asked.rpartition("/")[2], "")) as url:
        run(url, path, MANY)
        with pytest.raises(ModelError, match="run the same again"):
            run(url, path, MANY)
        assert len(stored(path)) == 1
        assert all(note.gist for note in run(url, path, MANY).notes)
    assert len(batches(server)) == 1


def test_answers_that_the_server_has_thrown_away_are_told(server: Desk, tmp_path: Path) -> None:
    path = tmp_path / "store"
    with between(server, lambda asked: "deny" if asked.endswith("/content") else "") as url:
        run(url, path)
        with pytest.raises(ModelError, match=r"does not know the answers of batch_\d+.*--retry-failed$"):
            run(url, path)
        assert "3 handed in now" in run(url, path, retry_failed=True).pending


def test_a_server_that_takes_no_batches_is_told(server: Desk, tmp_path: Path) -> None:
    with (
        between(server, lambda asked: "deny" if "/files" in asked else "") as url,
        pytest.raises(ModelError, match="if it takes no batches, leave --batch away"),
    ):
        run(url, tmp_path / "store")


def test_nobody_there_is_told_soon(tmp_path: Path) -> None:
    path, start = tmp_path / "store", time.monotonic()
    with serve() as server:
        run(server.url, path)
    with pytest.raises(ModelError, match=r"cannot reach http://127.0.0.1:.*is it running\?"):
        run(server.url, path)
    assert time.monotonic() - start < 10


WORKER = """
import os, sys, time
from itertools import islice
from pathlib import Path
import openai.resources
import mmrec.llm.openai_batch as batch
from mmrec.cli import main
from mmrec.config import Config, LanguageConfig, ProfileConfig
from mmrec.llm.batch_store import Ledger
from mmrec.llm.factory import open_language
from mmrec.llm.annotator import Reader
from mmrec.cache.store import Store

batch._MOST_REQUESTS = 6

def die(*_, **__):
    os.kill(os.getpid(), 9)

def dies(owner, name, after=False):
    call = getattr(owner, name)
    def dying(*given, **named):
        if after:
            call(*given, **named)
        die()
    setattr(owner, name, dying)

def keep_some(ended):
    def dying(ledger, token, answers=()):
        def some():
            yield from islice(answers, 3)
            die()
        return ended(ledger, token, some())
    return dying

def work(url, path, moment, texts):
    files, batches = openai.resources.Files, openai.resources.Batches
    if moment == "before the upload": dies(files, "create")
    if moment == "after the upload": dies(files, "create", after=True)
    if moment == "before the creation": dies(batches, "create")
    if moment == "after the creation": dies(batches, "create", after=True)
    if moment == "while collecting": Ledger.ended = keep_some(Ledger.ended)
    if moment == "after collecting": dies(Ledger, "ended", after=True)
    if moment == "while handing over": dies(Ledger, "taken")
    store = Store(Path(path))
    language = LanguageConfig(llm="openai:test-model@" + url)
    model = open_language(Config(language=language), None, store, batch=True)
    try:
        Reader(model, store, language, ProfileConfig()).notes(texts)
    except batch.Pending:
        pass

for order in sys.stdin:
    orders = eval(order)
    children = []
    for delay, given in orders:
        child = os.fork()
        if not child:
            try:
                work(*given)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    for (delay, _), child in zip(orders, children):
        if delay is not None:
            time.sleep(delay)
            os.kill(child, 9)
    print([os.waitpid(child, 0)[1] for child in children], flush=True)
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[Callable[..., list[int]]]:
    """Processes that run at the same time: when to kill each (None: not), and what it is to do."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked here")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", WORKER], **pipes) as zygote:  # type: ignore[call-overload]

        def order(*orders: tuple[float | None, tuple[object, ...]]) -> list[int]:
            zygote.stdin.write(repr(orders) + "\n")
            zygote.stdin.flush()
            return list(json.loads(zygote.stdout.readline()))

        yield order
        zygote.stdin.close()


MOMENTS = [
    "before the upload",
    "after the upload",
    "before the creation",
    "after the creation",
    "while collecting",
    "after collecting",
    "while handing over",
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_is_carried_on(
    server: Desk, tmp_path: Path, workers: Callable[..., list[int]], moment: str
) -> None:
    path = str(tmp_path / "store")
    if moment in MOMENTS[4:]:
        assert workers((None, (server.url, path, "", MANY))) == [0]
    assert workers((None, (server.url, path, moment, MANY))) == [9]
    done = run_to_the_end(server.url, Path(path), MANY)
    assert all(note.gist for note in done.notes)
    assert max(times_handed_in(server).values()) == 1
    assert len(times_handed_in(server)) == (18 if moment in MOMENTS[:4] else 19)


def test_runs_killed_at_random_lose_nothing_and_hand_nothing_in_twice(
    server: Desk, tmp_path: Path, workers: Callable[..., list[int]]
) -> None:
    rng, path = random.Random(7), str(tmp_path / "store")
    server.set(batch_polls=3)
    start = time.monotonic()
    assert workers((None, (server.url, str(tmp_path / "trial"), "", ["Soup.", *MANY]))) == [0]
    usual = time.monotonic() - start
    before = times_handed_in(server)
    texts = [text + " Again." for text in MANY]
    killed = [workers((rng.uniform(0, usual), (server.url, path, "", texts))) for _ in range(12)]
    assert [9] in killed
    done = run_to_the_end(server.url, Path(path), texts)
    assert all(note.gist for note in done.notes)
    assert len(stored(Path(path))) == 20
    assert max((times_handed_in(server) - before).values()) == 1


def test_two_runs_at_once_hand_nothing_in_twice(
    server: Desk, tmp_path: Path, workers: Callable[..., list[int]]
) -> None:
    path = tmp_path / "store"
    work = (server.url, str(path), "", MANY)
    for _ in range(3):
        assert workers((None, work), (None, work)) == [0, 0]
    assert all(note.gist for note in run(server.url, path, MANY).notes)
    assert server.stats()["requests"] <= 2
    assert max(times_handed_in(server).values()) == 1
    assert left_over(path) == 0


def test_files_are_not_held_in_memory(store: Store) -> None:
    text = "soup" * 20_000

    def requests() -> Iterator[list[tuple[int, ChatRequest]]]:
        for at in range(100):
            yield [(at, ChatRequest([{"role": "user", "content": f"{text} {at}"}], None, 50))]

    with serve() as server:
        chat = BatchClient(
            Endpoint("server", "test-model", server.url), CostTracker(None, Budget(None)), store
        )
        list(chat.complete(iter([[(0, ChatRequest([{"role": "user", "content": "Soup."}], None, 50))]])))
        tracemalloc.start()
        try:
            with pytest.raises(AnswersPending, match="100 handed in now"):
                list(chat.complete(requests()))
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()
        assert len(get(server, "/v1/files/file-000001/content")) > 8_000_000


def test_plain_requests_come_back_with_their_numbers(server: Desk, store: Store) -> None:
    price = Price(10, 10, 10)

    def ask() -> dict[int, Answer | Failure]:
        chat = BatchClient(
            Endpoint("server", "test-model", server.url), CostTracker(price, Budget(None)), store
        )
        requests = [
            (at, ChatRequest([{"role": "user", "content": f"Soup {at}."}], None, 50)) for at in range(9)
        ]
        return dict(chat.complete(iter([requests])))

    with pytest.raises(AnswersPending):
        ask()
    answers = ask()
    assert sorted(answers) == list(range(9))
    assert all(isinstance(one, Answer) and f"Soup {at}." in one.text for at, one in answers.items())


def command(*words: str, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == status


def test_the_command_hands_in_all_summaries_in_one_run_and_says_what_to_do(
    server: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_sample_city(tmp_path / "city", users=20, items=8, reviews=100)
    words = ["profile", str(data), "--batch", "--store", str(tmp_path / "store"), "--strategy", "summary"]
    words += ["--llm", f"openai:test-model@{server.url}", "--llm-price", "1/2"]
    command(*words, "--dry-run", "--json")
    plan = json.loads(capsys.readouterr().out)["summary"]
    tokens = sum(row["tokens_in"] * 0.5 + row["tokens_out"] for row in plan["asks"].values())
    assert plan["dollars"] == pytest.approx(tokens / 10**6)
    command(*words)
    said = " ".join(capsys.readouterr().err.split())
    parts = handed_in(server)
    assert len(parts) == 4  # items and users, each in training and as a whole
    count = sum(map(len, parts))
    assert said.endswith("Answers take up to 24 hours; run the same command again to collect them")
    assert f"asks: {count} handed in now for at most $0." in said
    assert said.count("asks:") == 1
    command(*words, "--json")
    done = json.loads(capsys.readouterr().out)
    assert done["pending"] is None
    assert done["calls"] == count
    assert done["summaries of items"] > 8
    assert done["summaries of users"] > 20
    command("profile", str(data), "--batch", status=2)
    assert "--batch needs a server" in " ".join(capsys.readouterr().err.split())


def test_what_is_with_the_server_is_not_asked_at_full_price(server: Desk, tmp_path: Path) -> None:
    server.set(batch_polls=50)
    store = tmp_path / "store"
    assert run(server.url, store).pending
    before = server.stats()["requests"]
    with pytest.raises(ModelError, match="paid for twice"):
        run(server.url, store, batch=False)
    assert server.stats()["requests"] == before
    server.set(batch_polls=1)
    collected = run_to_the_end(server.url, store)
    assert run(server.url, store, batch=False).notes == collected.notes
