"""The client of chat servers against a real server that misbehaves: what is kept, repaired, given up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chat_server import Behaviour, Server, serve
from mmrec.cache.store import Failure, Store
from mmrec.config import AnnotationConfig, Config, LanguageConfig
from mmrec.errors import ConfigError, ModelError
from mmrec.llm.annotator import Annotator, CallPlan
from mmrec.llm.cost import Budget, BudgetReached, CostTracker, Price
from mmrec.llm.factory import ChatModel, open_language_model
from mmrec.llm.openai_client import ChatClient
from mmrec.llm.openai_protocol import ChatRequest, Endpoint
from mmrec.llm.types import Answer, Note, Review, Usage

TEXTS = [
    "Great ramen and friendly staff. The queue was terrible.",
    "Cheap and delicious tacos, loved the salsa.",
    "Overpriced and slow. The soup was awful.",
    "A nice quiet cafe with excellent cake.",
    "Bad service, good pizza.",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("openai")
    with serve(journal=tmp_path_factory.mktemp("chat") / "journal") as running:
        yield running


@pytest.fixture
def behave(server: Server) -> Iterator[Callable[..., None]]:
    """Change the server's behaviour for one test."""
    server.reset()

    def change(**changes: object) -> None:
        server.set(**changes)

    plain = Behaviour()
    yield change
    server.set(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})


def reader(server: Server, store: Store, plan: CallPlan | None = None, **settings: object) -> Annotator:
    language = LanguageConfig(llm=f"openai:test-model@{server.url}", **settings)  # type: ignore[arg-type]
    config = Config(language=language)
    model = open_language_model(config, None, store)  # type: ignore[arg-type]
    return Annotator(model, store, language, AnnotationConfig(), plan)


def calls(server: Server) -> int:
    return int(server.stats()["status"].get("200", 0))


@pytest.mark.parametrize(
    ("spelled", "endpoint"),
    [
        ("openai:gpt-4o-mini", Endpoint("openai", "gpt-4o-mini", None)),
        (
            "openai:Qwen/Qwen3-8B@http://gpu:8000/v1",
            Endpoint("server", "Qwen/Qwen3-8B", "http://gpu:8000/v1"),
        ),
        ("ollama:llama3.2:3b", Endpoint("ollama", "llama3.2:3b", "http://localhost:11434/v1")),
        ("ollama:phi@http://box:11434/v1", Endpoint("ollama", "phi", "http://box:11434/v1")),
        ("https://box/v1", Endpoint("server", "", "https://box/v1")),
        ("transformers:folder", None),
    ],
)
def test_spellings(monkeypatch: pytest.MonkeyPatch, spelled: str, endpoint: Endpoint | None) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert Endpoint.parse(spelled) == endpoint


def test_a_spelling_without_a_model_or_of_nothing_is_told() -> None:
    with pytest.raises(ConfigError, match="name a model"):
        Endpoint.parse("openai:")
    with pytest.raises(ConfigError, match="not known; write builtin"):
        open_language_model(Config(language=LanguageConfig(llm="gpt")), None, Store())  # type: ignore[arg-type]


def test_keys_go_only_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("MMREC_API_KEY", "own")
    assert Endpoint("openai", "m", None).api_key == "sk-secret"
    assert Endpoint("server", "m", "http://elsewhere/v1").api_key == "own"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ModelError, match="OPENAI_API_KEY"):
        _ = Endpoint("openai", "m", None).api_key


def test_notes_are_read_once_ever(server: Server, behave: Callable[..., None], store: Store) -> None:
    behave(latency=0.01)
    first = reader(server, store)
    notes = first.write_notes([*TEXTS, "", TEXTS[0], " \n"])
    assert notes[0].likes == ["Great ramen and friendly staff."]
    assert notes[2].price == "overpriced"
    assert notes[5] == notes[7] == Note()
    assert notes[6] == notes[0]
    assert calls(server) == len(TEXTS)
    assert first.model.status().startswith(f"{sum(_usage(store)):,}"[:1])
    again = reader(server, Store(store.path))
    assert again.write_notes(TEXTS) == notes[: len(TEXTS)]
    assert calls(server) == len(TEXTS)


def test_a_notebook_has_a_loop_of_its_own(server: Server, behave: Callable[..., None]) -> None:
    behave(latency=0.01)

    async def cell() -> list[Note]:
        return reader(server, Store()).write_notes(TEXTS)

    assert all(note.gist for note in asyncio.run(cell()))


def _usage(store: Store) -> list[int]:
    rows = store.db.execute("SELECT value FROM results").fetchall()
    return [Answer.model_validate_json(value).usage.input for (value,) in rows]


def test_the_raw_answer_and_its_usage_are_stored_whatever_it_says(
    server: Server, behave: Callable[..., None], store: Store
) -> None:
    behave(broken=1.0, broken_kinds=["json"])
    broken = reader(server, store)
    assert broken.write_notes(TEXTS[:2]) == [Note(), Note()]
    assert sum(broken.failures.values()) == 2
    assert "no usable answer" in next(iter(broken.failures))
    assert len(_usage(store)) == calls(server) == 4  # two asks, and one repair of each
    assert min(_usage(store)) > 100
    behave(broken=0.0)
    assert reader(server, store).write_notes(TEXTS[:2]) == [Note(), Note()]
    assert calls(server) == 4  # what was paid for is not asked again


@pytest.mark.parametrize("structured", ["schema", "object", "none", "ignored"])
def test_what_the_server_cannot_do_is_found_out(
    server: Server, behave: Callable[..., None], structured: str
) -> None:
    behave(structured=structured)
    one = reader(server, Store())
    notes = one.write_notes(TEXTS)
    assert all(note.gist for note in notes)
    assert notes[2].price == "overpriced"
    assert not one.failures


def test_parameters_that_are_refused_are_left_away(server: Server, behave: Callable[..., None]) -> None:
    behave(reject_parameters=["temperature", "max_tokens"])
    one = reader(server, Store())
    assert all(note.gist for note in one.write_notes(TEXTS))
    openai = ChatClient(Endpoint("openai", "test-model", server.url), 4, CostTracker(None, Budget(None)))
    behave(reject_parameters=["max_completion_tokens"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "key")
        answers = ChatModel(openai, 1000)
        assert (
            Annotator(answers, Store(), LanguageConfig(), AnnotationConfig()).write_notes(TEXTS[:1])[0].gist
        )


@pytest.mark.parametrize("kind", ["json", "enum", "keys", "empty", "length"])
def test_a_broken_answer_is_repaired_by_asking_once_more(
    server: Server, behave: Callable[..., None], kind: str
) -> None:
    texts = [f"{text} Number {number}." for number in range(8) for text in TEXTS]
    behave(broken=0.3, broken_kinds=[kind])
    one = reader(server, Store())
    notes = one.write_notes(texts)
    repaired = calls(server) - len(texts)
    assert repaired > 0
    assert sum(not note.gist for note in notes) == sum(one.failures.values()) < repaired


def test_outages_limits_and_lost_connections_are_waited_for(
    server: Server, behave: Callable[..., None]
) -> None:
    behave(errors=0.2, drop=0.1, rate_limit=10, latency=0.01)
    texts = [f"{text} Number {number}." for number in range(6) for text in TEXTS]
    one = reader(server, Store(), in_flight=8)
    assert all(note.gist for note in one.write_notes(texts))
    assert not one.failures
    assert calls(server) == len(texts)
    assert server.stats()["status"].get("429", 0) > 0


def test_a_wrong_key_and_a_missing_model_end_the_run(server: Server, behave: Callable[..., None]) -> None:
    behave(require_key="right")
    with pytest.raises(ModelError) as error:
        reader(server, Store()).write_notes(TEXTS)
    assert "401" in str(error.value) or "key" in str(error.value)
    behave(require_key=None, models=["other"])
    with pytest.raises(ModelError, match="test-model"):
        reader(server, Store()).write_notes(TEXTS)


def test_a_key_that_expires_writes_nothing_off(
    server: Server, behave: Callable[..., None], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{text} Number {number}." for number in range(4) for text in TEXTS]
    behave(require_key="right")
    monkeypatch.setenv("MMREC_API_KEY", " right\n")
    assert all(note.gist for note in reader(server, store).write_notes(texts[:5]))
    monkeypatch.setenv("MMREC_API_KEY", "sk-expired-secret")
    with pytest.raises(ModelError) as error:
        reader(server, store).write_notes(texts)
    assert "sk-expired-secret" not in str(error.value)
    monkeypatch.setenv("MMREC_API_KEY", "right")
    again = reader(server, store)
    assert all(note.gist for note in again.write_notes(texts))
    assert not again.failures


def test_a_password_in_a_url_is_refused() -> None:
    for spelled in ("http://me:secret@box/v1", "openai:m@https://me:secret@box/v1"):
        with pytest.raises(ConfigError, match="MMREC_API_KEY"):
            Endpoint.parse(spelled)


def test_nobody_there_is_told_at_once(unused_port: int) -> None:
    language = LanguageConfig(llm=f"openai:m@http://127.0.0.1:{unused_port}/v1")
    store = Store()
    model = open_language_model(Config(language=language), None, store)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"cannot reach http://127\.0\.0\.1"):
        Annotator(model, store, language, AnnotationConfig()).write_notes(TEXTS)


def test_the_only_model_of_a_server_need_not_be_named(server: Server, behave: Callable[..., None]) -> None:
    chat = ChatClient(Endpoint("server", "", server.url), 4, CostTracker(None, Budget(None)))
    assert chat.model == "test-model"
    behave(models=["one", "two"])
    with pytest.raises(ModelError, match=r"one, two; name one: openai:MODEL@"):
        _ = ChatClient(Endpoint("server", "", server.url), 4, CostTracker(None, Budget(None))).model


def test_the_budget_is_never_exceeded_and_what_was_paid_is_kept(
    server: Server, behave: Callable[..., None], store: Store
) -> None:
    texts = [f"{text} Number {number}." for number in range(20) for text in TEXTS]
    behave(latency=0.01)
    some = reader(server, store, budget=0.05, llm_price="10/10", in_flight=8)
    with pytest.raises(BudgetReached, match=r"budget of \$0.05 is reached"):
        some.write_notes(texts)
    spent = some.model.chat.spend  # type: ignore[attr-defined]
    assert 0.03 < spent.money <= 0.05
    assert calls(server) == spent.calls == store.counts()["note"]
    reader(server, store).write_notes(texts)
    assert calls(server) == len(texts)


def test_a_budget_needs_a_price() -> None:
    with pytest.raises(ConfigError, match="--llm-price"):
        CostTracker(None, Budget(1.0))
    with pytest.raises(ConfigError, match="INPUT/OUTPUT"):
        Price.for_model("server", "m", "cheap")
    assert Price.for_model("ollama", "m", None) == Price(0, 0, 0)


def test_the_price_list_knows_the_papers_model() -> None:
    pytest.importorskip("genai_prices")
    price = Price.for_model("openai", "gpt-3.5-turbo-1106", None)
    assert price is not None
    assert price.cost(Usage(input=1_000_000)) == pytest.approx(1.0)
    assert price.cost(Usage(output=1_000_000)) == pytest.approx(2.0)
    assert Price.for_model("openai", "no-such-model", None) is None


def test_a_plan_counts_what_would_be_asked_and_asks_nothing(
    server: Server, behave: Callable[..., None], store: Store
) -> None:
    behave()
    reader(server, store).write_notes(TEXTS[:2])
    before = calls(server)
    plan = CallPlan()
    reader(server, store, plan).write_notes([*TEXTS, TEXTS[4], ""])
    assert plan.calls == {"note": 3}
    assert calls(server) == before
    asked = reader(server, store)
    asked.write_notes(TEXTS)
    told = asked.model.chat.spend.usage.input  # type: ignore[attr-defined]
    assert told <= plan.input_tokens["note"] <= 1.5 * told


def test_a_prompt_that_the_server_cut_is_noticed(
    server: Server, behave: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    behave(context=200, overflow="cut")
    reader(server, Store()).write_notes(["The food was great. " * 200])
    assert "it cuts long prompts" in " ".join(capsys.readouterr().err.split())


def test_a_prompt_that_the_server_refuses_fails_for_good(
    server: Server, behave: Callable[..., None], store: Store
) -> None:
    behave(context=400, overflow="refuse")
    one = reader(server, store)
    notes = one.write_notes(["The food was great. " * 200, TEXTS[0]])
    assert not notes[0].gist
    assert notes[1].gist
    assert "the server refused" in next(iter(one.failures))
    seen = server.stats()["requests"]
    assert reader(server, store).failures == {}
    again = reader(server, store)
    again.write_notes(["The food was great. " * 200])
    assert sum(again.failures.values()) == 1
    assert server.stats()["requests"] == seen
    retried = reader(server, Store(store.path, retry=True))
    retried.write_notes(["The food was great. " * 200])
    assert server.stats()["requests"] > seen


def test_an_outage_without_end_stops_the_run(
    server: Server, behave: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmrec.llm.openai_client._RETRIES", 0)
    behave(errors=1.0)
    texts = [f"{text} Number {number}." for number in range(20) for text in TEXTS]
    with pytest.raises(ModelError, match="times in a row"):
        reader(server, Store(), in_flight=4).write_notes(texts)


def test_the_papers_prompts_ask_apart_and_word_for_word(server: Server, behave: Callable[..., None]) -> None:
    behave()
    one = reader(server, Store(), prompts="paper")
    group = [Review(text, 5.0, at, 0) for at, text in enumerate(TEXTS)]
    (item,) = one.write_summaries("item", [group])
    assert calls(server) == 3
    assert item.text
    assert item.price == "fair price"
    assert item.categories
    (user,) = one.write_summaries("user", [group])
    assert calls(server) == 4
    assert user.text
    assert user.categories == []


def test_answers_survive_in_a_request_of_plain_text(server: Server, behave: Callable[..., None]) -> None:
    behave()
    chat = ChatClient(Endpoint("server", "test-model", server.url), 2, CostTracker(None, Budget(None)))
    request = ChatRequest([{"role": "user", "content": "Summarize: good soup."}], None, 50)
    ((at, answer),) = chat.complete(iter([[(7, request)]]))
    assert at == 7
    assert not isinstance(answer, Failure)
    assert answer.text


def test_two_levels_read_each_part_once(server: Server, behave: Callable[..., None], store: Store) -> None:
    behave()
    reviews = [Review(f"{TEXTS[at % 5]} Visit number {at}.", 4.0, at, at % 3) for at in range(60)]
    one = reader(server, store, long_history="tree", call_tokens=1000)
    everything = one.write_summaries("item", [reviews])[0]
    assert everything.text
    first = calls(server)
    assert first > 3
    without = [review for review in reviews if review.fold != 1]
    assert one.write_summaries("item", [without])[0].text
    assert calls(server) - first == 1  # only the upper level is new


def test_many_levels_come_to_an_end(server: Server, behave: Callable[..., None]) -> None:
    behave()
    reviews = [Review(f"{TEXTS[at % 5]} Visit number {at}.", 4.0, at, at % 3) for at in range(100)]
    for tokens in (64, 128, 300):
        assert (
            reader(server, Store(), long_history="tree", call_tokens=tokens)
            .write_summaries("item", [reviews])[0]
            .text
        )


def test_long_histories_are_sampled_within_the_budget_of_tokens(
    server: Server, behave: Callable[..., None]
) -> None:
    behave()
    reviews = [Review(f"{TEXTS[at % 5]} Visit number {at}.", float(1 + at % 5), at, 0) for at in range(400)]
    store = Store()
    one = reader(server, store, call_tokens=500)
    assert one.write_summaries("item", [reviews])[0].text
    assert calls(server) == 1
    assert _usage(store)[0] < 500 + 400 + 20 * 30


def test_the_folder_of_keys_is_not_in_the_store(server: Server, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_API_KEY", "sk-very-secret")
        reader(server, Store(tmp_path / "s.sqlite")).write_notes(TEXTS[:1])
    assert not any(
        b"sk-very-secret" in file.read_bytes() for file in tmp_path.glob("s.sqlite*") if file.is_file()
    )


@pytest.mark.skipif(
    "MMREC_TEST_OPENAI" not in os.environ,
    reason="asks OpenAI, for money: name a model in MMREC_TEST_OPENAI, with a key in OPENAI_API_KEY",
)
def test_a_real_model_reads(store: Store) -> None:
    language = LanguageConfig(llm=f"openai:{os.environ['MMREC_TEST_OPENAI']}", budget=0.1)
    model = open_language_model(Config(language=language), None, store)  # type: ignore[arg-type]
    one = Annotator(model, store, language, AnnotationConfig())
    notes = one.write_notes(TEXTS)
    assert not one.failures
    assert all(note.gist for note in notes)
    assert notes[1].price == "cheap price"
    assert notes[2].price == "overpriced"
    assert notes[0].likes
    assert notes[0].dislikes
