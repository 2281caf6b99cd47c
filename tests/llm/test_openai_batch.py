"""Batches against a real server: submitted once, collected once, whatever is killed, lost or refused."""

import json
import multiprocessing
import os
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from io import BytesIO
from itertools import chain, islice
from types import SimpleNamespace

import pytest

import chat_answers
from chat_server import serve
from mmrec.cache.store import Failure, Store
from mmrec.config import Config, LanguageConfig
from mmrec.data.synthetic.city import write_sample_city
from mmrec.errors import ConfigError, ModelError, StoreError
from mmrec.llm.annotator import Annotator
from mmrec.llm.cost import AnswersPending, Budget, BudgetReached, CostTracker
from mmrec.llm.factory import open_language_model
from mmrec.llm.openai_batch import BatchClient, BatchJobStore
from mmrec.llm.openai_protocol import ChatRequest, Endpoint, parse_batch_result
from mmrec.llm.types import Answer
from serving import command

# One has a separator of lines.
TEXTS = [text.replace("with excellent", "with\u2028excellent") for text in chat_answers.TEXTS]
VISITS = [f"{text} Visit {number}." for number in range(4) for text in TEXTS]
NEVER = 10**6


def run(url, folder, texts=TEXTS, *, batch=True, limits=None, **settings):
    """One run of a command: notes, or what is pending."""
    config = Config(language=LanguageConfig(llm=f"openai:test-model@{url}", **settings))
    with closing(Store(folder / "store", retry=config.language.retry_failed)) as store:
        model = open_language_model(config, store, batch=batch)
        vars(model).update(limits or {})
        annotator, notes, pending = Annotator(model, store, config), [], ""
        try:
            notes = annotator.write_notes(texts)
        except AnswersPending as error:
            pending = str(error)
        return SimpleNamespace(notes=notes, pending=pending, failures=annotator.failures, costs=model.costs)


def finish(url, folder, texts=TEXTS, **settings):
    """Run again until nothing is pending, and all texts have notes."""
    for _ in range(20):
        if not (finished := run(url, folder, texts, **settings)).pending:
            assert all(note.gist for note in finished.notes)
            return finished
    raise AssertionError(f"still pending: {finished.pending}")


def stored(folder):
    with closing(Store(folder / "store")) as store:
        rows = store.db.execute("SELECT key, value FROM results").fetchall()
    return {key: Answer.model_validate_json(value) for key, value in rows}


def count_unfinished(folder):
    with closing(Store(folder / "store")) as store:
        ((count,),) = store.db.execute("SELECT count(*) FROM batch_requests")
    return count


def submitted(server):
    return [[json.loads(line) for line in batch.lines] for batch in server.batches.values()]


def times_submitted(server):
    return Counter(line["custom_id"] for batch in submitted(server) for line in batch)


def once(fault, *ends):
    """A fault of the first request that ends in each of some ways."""
    left = dict.fromkeys(ends, fault)
    return lambda request: left.pop(next(filter(request.endswith, left), None), "")


def printed(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_requests_are_submitted_once_and_collected_once(server, tmp_path, capsys):
    server.set(batch_polls=NEVER)
    first = "requests: 4 submitted now. Answers take up to 24 hours; run the same command"
    assert run(server.url, tmp_path).pending.startswith(first)
    assert run(server.url, tmp_path).pending.startswith("requests: 4 with the server already.")
    assert ": in_progress, 0 of 4 done" in printed(capsys)
    more = run(server.url, tmp_path, [*TEXTS, "Another one, with good rice.", "And one more."])
    assert more.pending.startswith("requests: 1 submitted now, 4 with the server already.")
    server.set(batch_polls=1)
    notes = run(server.url, tmp_path).notes
    assert [len(batch) for batch in submitted(server)] == [4, 1]
    assert max(times_submitted(server).values()) == 1
    assert "completed, 4 of 4 done" in printed(capsys)
    assert notes == finish(server.url, tmp_path / "online", batch=False).notes
    requests = server.requests
    assert run(server.url, tmp_path).notes == notes
    assert (server.requests, len(server.batches)) == (requests, 2)


def test_stored_answers_equal_those_of_ordinary_calls_at_half_the_price(server, tmp_path):
    price = {"llm_price": "10/20"}
    half = finish(server.url, tmp_path / "batch", VISITS, **price).costs
    run(server.url, tmp_path / "online", VISITS[:1], batch=False)
    full = run(server.url, tmp_path / "online", VISITS, **price, batch=False).costs
    assert stored(tmp_path / "batch") == stored(tmp_path / "online")
    assert count_unfinished(tmp_path / "batch") == 0
    assert half.calls == full.calls == 19, "of the last run"
    assert half.dollars == pytest.approx(full.dollars / 2)
    assert full.dollars == pytest.approx((full.usage.input * 10 + full.usage.output * 20) / 10**6)


@pytest.mark.parametrize("kind", ["error", "output", "missing", "expired", "cancelled"])
def test_lines_without_an_answer_are_submitted_again_and_the_others_kept(server, tmp_path, kind, capsys):
    server.set(batch_failures=0.5, batch_failure=kind)
    assert "19 submitted now" in run(server.url, tmp_path, VISITS).pending
    assert "submitted now." in run(server.url, tmp_path, VISITS).pending
    first, second = ({line["custom_id"] for line in batch} for batch in submitted(server))
    assert second < first
    # One of them by an ordinary call.
    assert f"{len(second) + 1} have no answer and are submitted again" in printed(capsys)
    assert len(stored(tmp_path)) == 20 - len(second)
    server.set(batch_failures=0.0)
    finish(server.url, tmp_path, VISITS)
    assert Counter(times_submitted(server).values()) == {1: 19 - len(second), 2: len(second)}
    assert count_unfinished(tmp_path) == 0


def test_a_refused_line_fails_for_good_until_a_retry(server, tmp_path):
    texts = [*TEXTS, "The room was there. " * 200]
    server.set(context=400)
    assert run(server.url, tmp_path, texts).pending
    finished = run(server.url, tmp_path, texts)
    assert [bool(note.gist) for note in finished.notes] == [True] * 5 + [False]
    (reason,) = finished.failures
    assert "the server refused: This model's maximum context length is 400" in reason
    assert run(server.url, tmp_path, texts).notes == finished.notes
    assert len(server.batches) == 1
    server.set(context=0)
    finish(server.url, tmp_path, texts, retry_failed=True)


@pytest.mark.parametrize("status", [400, 422, 401, 403, 404, 408, 409, 429, 500])
def test_refusals_of_the_request_itself_are_not_collected_again(status):
    response = {"status_code": status, "body": {"error": {"message": "No."}}}
    result = parse_batch_result(json.dumps({"custom_id": "a", "response": response}).encode())
    refusal = Failure("the server refused: No.", final=False)
    assert result == (("a", refusal) if status in (400, 422) else None)
    assert parse_batch_result(b"half a li") is None


def test_a_batch_refused_as_a_whole_is_reported_and_then_submitted_again(server, tmp_path):
    server.set(batch_limit=3)
    run(server.url, tmp_path)
    with pytest.raises(ModelError, match=r"refused batch batch_\d+ of 4 requests: The file has 4 requests"):
        run(server.url, tmp_path)
    assert count_unfinished(tmp_path) == 0
    server.set(batch_limit=50)
    assert "3 submitted now" in run(server.url, tmp_path).pending
    finish(server.url, tmp_path)


def test_files_keep_to_the_limits_of_servers(server, tmp_path):
    run(server.url, tmp_path, VISITS, limits={"max_requests": 8})
    assert [len(batch) for batch in submitted(server)] == [8, 8, 3]
    texts = [text + " Again." for text in VISITS]
    run(server.url, tmp_path, texts, limits={"max_bytes": 10_000})
    small = list(server.batches.values())[3:]
    assert sum(len(batch.lines) for batch in small) == 19
    assert len(small) > 3
    assert max(len(b"\n".join(batch.lines)) for batch in small) <= 10_000
    assert max(times_submitted(server).values()) == 1
    finish(server.url, tmp_path, [*VISITS, *texts])
    assert len(stored(tmp_path)) == 40


def test_repairs_are_a_batch_too(server, tmp_path):
    server.set(broken=0.5, broken_kinds=("json",))
    run(server.url, tmp_path, VISITS)
    assert "submitted now" in run(server.url, tmp_path, VISITS).pending
    server.set(broken=0.0)
    while (finished := run(server.url, tmp_path, VISITS)).pending:
        assert len(server.batches) <= 2
    first, second = submitted(server)
    assert 0 < len(second) < len(first)
    assert all(len(line["body"]["messages"]) == 4 for line in second)
    assert sum(not note.gist for note in finished.notes) <= 1, "of the ordinary call"
    assert count_unfinished(tmp_path) == 0


def test_what_the_server_refuses_is_found_out_before_a_batch_is_made(server, tmp_path):
    server.set(structured="none", reject_parameters=("temperature", "max_tokens"))
    run(server.url, tmp_path)
    (batch,) = submitted(server)
    assert all(set(line["body"]) == {"model", "messages"} for line in batch)
    finish(server.url, tmp_path)
    assert len(server.batches) == 1


def test_the_budget_bounds_what_is_with_the_server(server, tmp_path):
    price = {"llm_price": "10/10"}
    server.set(batch_polls=NEVER)
    with pytest.raises(BudgetReached, match=r"budget of \$1e-06 is reached"):
        run(server.url, tmp_path, budget=1e-6, **price)
    assert server.requests == 0
    first = run(server.url, tmp_path, VISITS, budget=0.05, **price)
    (batch,) = submitted(server)
    count = len(batch)
    assert 5 < count < 15
    assert f"requests: {count} submitted now for at most $0.05, {19 - count} left for later" in first.pending
    for budget in (0.05, 0.01):
        waiting = run(server.url, tmp_path, VISITS, budget=budget, **price).pending
        assert f"{count} with the server already, {19 - count} left for later, since --budget" in waiting
    others = [text + " Elsewhere." for text in TEXTS]
    pending = run(server.url, tmp_path, others, budget=0.05, **price).pending
    assert "requests: 5 left for later, since --budget holds" in pending
    assert len(server.batches) == 1
    server.set(batch_polls=1)
    finish(server.url, tmp_path, VISITS, budget=0.05, **price)
    assert len(server.batches) > 1
    assert max(times_submitted(server).values()) == 1


LOST = {"/batch_000001": "batch_000001: bring the key", "/content": "the answers of batch_000001"}


@pytest.mark.parametrize("end", LOST)
def test_what_the_server_forgot_is_submitted_again_on_request(server, tmp_path, end):
    run(server.url, tmp_path)
    server.fault = lambda request: "deny" if request.endswith(end) else ""
    with pytest.raises(ModelError, match=f"does not know {LOST[end]}.*--retry-failed$"):
        run(server.url, tmp_path)
    assert "3 submitted now" in run(server.url, tmp_path, retry_failed=True).pending
    server.fault = lambda request: ""
    finish(server.url, tmp_path)


def test_each_server_has_its_own_batches(server, tmp_path):
    run(server.url, tmp_path)
    with serve() as other:
        texts = [TEXTS[0], *(text + "!" for text in TEXTS)]
        assert "4 submitted now" in run(other.url, tmp_path, texts).pending
        assert len(other.batches) == 1
    finish(server.url, tmp_path)
    assert len(server.batches) == 1


@pytest.mark.parametrize("llm", ["builtin", "transformers:folder"])
def test_batches_need_a_server(llm):
    config = Config(language=LanguageConfig(llm=llm))
    with pytest.raises(ConfigError, match=f"--batch needs a server that takes batches, and --llm is {llm}"):
        open_language_model(config, Store(), batch=True)


def test_a_file_without_a_batch_is_deleted_so_that_a_late_call_makes_none(server, tmp_path):
    for request in ("POST /v1/files", "POST /v1/batches"):
        server.fault = once("deny", request)
        with pytest.raises(ModelError, match="if it takes no batches, leave --batch away"):
            run(server.url, tmp_path)
    (file,) = server.files
    assert "2 submitted now" in run(server.url, tmp_path).pending
    assert file not in server.files


def test_lost_responses_and_a_download_that_breaks_off_lose_nothing(server, tmp_path):
    calls = "POST /v1/files", "POST /v1/batches", "GET /v1/batches"
    server.fault = once("break", *calls, "/batch_000001", "/content")
    for _ in ("creation", "download"):
        with pytest.raises(ModelError, match="What was submitted is remembered, run the same again"):
            run(server.url, tmp_path, VISITS)
        assert len(server.batches) == 1
        assert len(stored(tmp_path)) == 1
    assert len(server.files) == 3, "the file was uploaded twice, and has answers"
    finish(server.url, tmp_path, VISITS)
    assert len(server.batches) == 1


SUBMITTING = ["before the upload", "after the upload", "before the creation", "after the creation"]
COLLECTING = ["while collecting", "after collecting", "before forgetting", "after forgetting"]


def work(url, folder, moment):
    """One run in a process of its own, which is killed at a moment."""
    from openai.resources import Batches, Files

    die = partial(os.kill, os.getpid(), 9)
    calls = {
        "upload": (Files, "create"),
        "creation": (Batches, "create"),
        "collecting": (BatchJobStore, "finish"),
        "forgetting": (BatchJobStore, "forget_answer"),
    }

    def dying(*arguments, **named):
        if when == "before":
            die()
        if when == "while":  # three of its answers are written
            jobs, token, answers = arguments
            arguments = jobs, token, chain(islice(answers, 3), iter(die, None))
        call(*arguments, **named)
        die()

    if moment:
        when, *_, name = moment.split()
        owner, method = calls[name]
        call = getattr(owner, method)
        setattr(owner, method, dying)
    run(url, folder, VISITS, limits={"max_requests": 6})


@pytest.fixture(scope="module")
def start_worker():
    """Does `work` in a process, which may be killed; its exit code."""
    context = multiprocessing.get_context("forkserver")
    modules = ("pytest", "fastapi", "uvicorn", "openai.resources", "mmrec.data.synthetic.city")
    context.set_forkserver_preload([*modules, "mmrec.cli", "mmrec.llm.factory", "mmrec.llm.openai_batch"])

    def start(server, folder, moment=""):
        process = context.Process(target=work, args=(server.url, folder, moment))
        process.start()
        process.join()
        return process.exitcode

    return start


@pytest.mark.parametrize("moment", [*SUBMITTING, *COLLECTING])
def test_a_killed_run_is_carried_on(server, tmp_path, start_worker, moment):
    if moment in COLLECTING:
        assert start_worker(server, tmp_path) == 0
    assert start_worker(server, tmp_path, moment) == -9
    finish(server.url, tmp_path, VISITS)
    assert max(times_submitted(server).values()) == 1
    # Each text was paid for once, the first of a run without batches by an ordinary call.
    assert len(times_submitted(server)) == (18 if moment in SUBMITTING else 19)
    assert len(times_submitted(server)) + server.requests == len(VISITS)


def plain(texts):
    return enumerate(ChatRequest([{"role": "user", "content": text}], None, 50) for text in texts)


@pytest.fixture
def client(server, store):
    costs = CostTracker(None, Budget(None))
    return BatchClient(Endpoint("server", "test-model", server.url), costs, store, LanguageConfig())


def test_looking_at_batches_and_submitting_are_locked(client, store, monkeypatch):
    def look():
        with store.lock("batch requests", max_wait=0) as is_held:
            locked.append(not is_held)

    locked = []
    with ThreadPoolExecutor(1) as pool:
        for step in ("_catch_up", "_submit"):
            monkeypatch.setattr(BatchClient, step, lambda *_: pool.submit(look).result())
        with pytest.raises(AnswersPending):
            list(client.complete(plain(["Soup.", "Bread."])))
    assert locked == [True, True]


def test_files_are_not_held_in_memory(client, monkeypatch):
    sizes = []
    list(client.complete(plain(["Soup."])))
    monkeypatch.setattr(client, "_submit", lambda _, file, lines: sizes.append((file.tell(), len(lines))))
    tracemalloc.start()
    try:
        with pytest.raises(AnswersPending, match="100 submitted now"):
            list(client.complete(plain("soup" * 20_000 + str(number) for number in range(100))))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    ((size, count),) = sizes
    assert (size > 8_000_000, count) == (True, 100)


def test_a_full_disk_is_a_store_error(client, monkeypatch):
    class FullDisk(BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    list(client.complete(plain(["Soup."])))
    monkeypatch.setattr("mmrec.llm.openai_batch.TemporaryFile", FullDisk)
    with pytest.raises(StoreError, match="No space left"):
        list(client.complete(plain(["Soup 1."])))


def test_the_command_submits_all_summaries_in_one_run_and_reports_what_is_pending(server, tmp_path):
    data = write_sample_city(tmp_path / "city", users=20, items=8, reviews=100)
    words = ["annotate", str(data), "--batch", "--store", str(tmp_path / "store"), "--strategy", "summary"]
    words += ["--llm", f"openai:test-model@{server.url}", "--llm-price", "1/2"]
    plan = json.loads(command(*words, "--dry-run", "--json", cwd=tmp_path).stdout)["summary"]
    dollars = sum(row["tokens_in"] * 0.5 + row["tokens_out"] for row in plan["tasks"].values()) / 10**6
    assert plan["dollars"] == pytest.approx(dollars)
    pending = command(*words, cwd=tmp_path)
    assert pending.returncode == 0
    message = " ".join(pending.stderr.split())
    batches = submitted(server)
    assert len(batches) == 4, "items and users, each in training and as a whole"
    count = sum(map(len, batches))
    assert message.endswith("Answers take up to 24 hours; run the same command again to collect them")
    assert message.count("requests:") == 1
    assert f"requests: {count} submitted now for at most $0." in message
    result = json.loads(command(*words, "--json", cwd=tmp_path).stdout)
    assert (result["pending"], result["calls"]) == (None, count)
    assert result["summaries of items"] > 8
    assert result["summaries of users"] > 20


def test_requests_with_the_server_are_not_asked_at_full_price(server, tmp_path):
    server.set(batch_polls=50)
    assert run(server.url, tmp_path).pending
    requests = server.requests
    with pytest.raises(ModelError, match="paid for twice"):
        run(server.url, tmp_path, batch=False)
    assert server.requests == requests
    server.set(batch_polls=1)
    notes = finish(server.url, tmp_path).notes
    assert run(server.url, tmp_path, batch=False).notes == notes
