"""Refusals: which are about a text and final, which end a run, and what the next run asks again."""

import json

import pytest
from PIL import Image

from chat_answers import TEXTS
from mmrec.cache.store import Store
from mmrec.config import Config, LanguageConfig
from mmrec.errors import ModelError
from mmrec.llm.annotator import Annotator
from mmrec.llm.factory import open_language_model
from mmrec.llm.openai_protocol import is_about_text, parse_batch_result
from serving import command


def error(message, code=None, param=None, **more):
    return {
        "error": {"message": message, "type": "invalid_request_error", "code": code, "param": param, **more}
    }


# As servers of many makes write them.
ABOUT_TEXT = [
    (400, error("The response was filtered due to the prompt triggering our content management policy.")),
    (400, error("Refused.", "content_filter", innererror={"code": "ResponsibleAIPolicyViolation"})),
    (400, error("Your request was rejected as a result of our safety system.")),
    (400, error("Content Exists Risk", "invalid_request_error")),
    (403, error("Your input was flagged by moderation", 403)),
    (400, {"error": "Input data may contain inappropriate content."}),
    (
        400,
        error("This model's maximum context length is 4097 tokens.", "context_length_exceeded", "messages"),
    ),
    (400, error("the request exceeds the available context size. try increasing it")),
    (
        400,
        {"object": "error", "message": "The prompt (length 9000) is longer than the model's context length"},
    ),
    (
        422,
        {"error": "Input validation error: `inputs` must have less than 1024 tokens.", "type": "validation"},
    ),
    (
        400,
        [{"error": {"code": 400, "message": "The input token count exceeds the number of tokens allowed"}}],
    ),
    (413, "<html><h1>413 Request Entity Too Large</h1></html>"),
    (400, error("prompt is too long: 210000 tokens > 200000 maximum")),
    (400, error("You uploaded an unsupported image.", "invalid_image_format")),
    (400, {"detail": "Failed to load image: cannot identify image file"}),
]
NOT_ABOUT_TEXT = [
    (400, error("Unknown parameter: 'messages_format'.", "unknown_parameter", "messages_format")),
    (400, error("max_tokens is too large: 3000. The model takes at most 200 tokens", None, "max_tokens")),
    (400, error("The model `m` is not loaded.", "model_not_loaded")),
    (400, error("invalid model ID")),
    (400, error("Unrecognized request argument supplied: seed")),
    (400, error("This model does not support image input.")),
    (400, error("Your account has been flagged for review.", "account_deactivated")),
    (400, error("Request exceeds the quota of your organization.")),
    (400, "upstream connect error"),
    (400, {}),
    (422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}),
    # What a server repeats of a request is not what it says of it.
    (422, {"detail": [{"loc": ["body", "seed"], "msg": "Field required", "input": "The text is too long"}]}),
    (401, error("Incorrect API key. This request exceeds its rights")),
    (403, error("Country, region, or territory not supported")),
    (404, error("No endpoints found that take messages longer than 4096")),
    (429, error("Request too large for the rate of tokens")),
    (500, error("prompt is too long")),
]


def visits(count):
    return [f"{TEXTS[number % 5]} Visit {number}." for number in range(count)]


def open_annotator(server, store, **settings):
    config = Config(language=LanguageConfig(llm=f"openai:test-model@{server.url}", **settings))
    annotator = Annotator(open_language_model(config, store), store, config)
    annotator.model.max_retries = 0
    return annotator


@pytest.fixture
def server(shared_server):
    shared_server.start_over()
    return shared_server


@pytest.mark.parametrize("is_text", [True, False])
def test_a_refusal_is_about_the_text_only_if_it_says_so(is_text):
    for status, body in ABOUT_TEXT if is_text else NOT_ABOUT_TEXT:
        inner = body.get("error", body) if isinstance(body, dict) else body  # as the openai package
        assert is_about_text(status, inner) == is_text, body
        if status in (400, 422) and isinstance(body, dict):
            row = {"custom_id": "a", "response": {"status_code": status, "body": body}}
            _, failure = parse_batch_result(json.dumps(row).encode())
            assert failure.final == is_text
            assert failure.reason.startswith("the server refused: ")


@pytest.mark.parametrize("refusal", [*ABOUT_TEXT, *NOT_ABOUT_TEXT[:12]], ids=str)
def test_the_next_run_asks_again_what_was_refused_but_for_its_text(server, store, refusal):
    is_final, texts = refusal in ABOUT_TEXT, visits(12)
    server.set(refusals=[(word, *refusal) for word in ("Visit 3.", "Visit 7.")])
    first = open_annotator(server, store)
    assert [bool(note.gist) for note in first.write_notes(texts)].count(False) == 2
    first.insist_on_answers()
    ((reason, count),) = first.failures.items()
    assert count == 2
    server.reset()
    server.set(refusals=())
    notes = open_annotator(server, store).write_notes(texts)
    assert server.requests == (0 if is_final else 2), reason
    assert all(note.gist for note in notes) == (not is_final)
    server.reset()
    retrying = Store(store.path, retry=True)
    assert all(note.gist for note in open_annotator(server, retrying).write_notes(texts))
    assert server.requests == (2 if is_final else 0)


@pytest.mark.parametrize("refusal", [ABOUT_TEXT[6], NOT_ABOUT_TEXT[2], (503, "no"), (404, "no"), (401, "no")])
def test_a_server_that_refuses_all_texts_makes_none_final_and_the_run_fails(server, store, refusal):
    texts = visits(60)
    server.set(refusals=[("Visit", *refusal)])
    annotator = open_annotator(server, store, in_flight=8)
    with pytest.raises(ModelError) as failed:  # noqa: PT012 (which of the two depends on the status)
        annotator.write_notes(texts)
        annotator.insist_on_answers()
    assert "run the same again" in str(failed.value) or refusal[0] in (401, 404)
    server.set(refusals=())
    server.reset()
    annotator = open_annotator(server, store)
    assert all(note.gist for note in annotator.write_notes(texts))
    annotator.insist_on_answers()
    assert server.status == {200: 60}


def test_words_of_a_refusal_are_shown_wherever_they_stand(server, store):
    bodies = [{"error": "no such adapter"}, {"detail": "no such adapter"}, "no such adapter"]
    bodies += [[{"error": {"message": "no such adapter"}}], {"detail": [{"msg": "no such adapter"}]}]
    for body in bodies:
        server.set(refusals=[("Visit", 400, body)])
        annotator = open_annotator(server, store)
        annotator.write_notes(visits(1))
        (reason,) = annotator.failures
        assert "no such adapter" in reason
    server.set(refusals=[("Visit", 400, {"error": {}})])
    for body in ({"error": "response_format is not known"}, {"detail": "json_schema: not supported"}):
        server.set(structured="none", refusals=())
        assert open_annotator(server, store).write_notes(visits(3))[2].gist, body


def write_reviews(path, **columns):
    """A hundred reviews, ten each of `group0` to `group9`."""
    rows = []
    for number in range(100):
        row = {"user": f"u{number % 12}", "item": f"i{number % 8}", "rating": 1 + 4 * (number % 3 > 0)}
        row["text"] = f"{TEXTS[number % 5]} Visit {number} of group{number % 10}."
        rows.append(row | {name: values[number % len(values)] for name, values in columns.items()})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.usefixtures("minilm")
@pytest.mark.parametrize("name", ["annotate", "fit"])
def test_a_run_in_which_most_asks_failed_says_what_to_do_and_keeps_the_answers(server, tmp_path, name):
    data = write_reviews(tmp_path / "reviews.jsonl")
    words = [name, data, "--llm", f"openai:test-model@{server.url}", "--store", tmp_path / "store.sqlite"]
    words += ["--out", tmp_path / "model", "--epochs", "1"] if name == "fit" else []
    refusal = 400, error("The server is not in the mood.")
    server.set(refusals=[(f"group{number}", *refusal) for number in range(6)])
    failed = command(*words, cwd=tmp_path)
    assert failed.returncode == 2, failed.stderr
    message = " ".join(failed.stderr.split())
    assert "60 of 100 prompts (note) have no usable answer" in message
    assert "not in the mood" in message
    assert "run the same again" in message
    assert not [*tmp_path.glob("**/*.safetensors")]
    server.set(refusals=[("group0", *refusal)])  # fewer are reported, and do not end it
    server.reset()
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert server.status == {200: 50, 400: 10}
    assert "not in the mood" in " ".join(done.stderr.split())


def test_captions_are_asked_for_again_unless_the_photo_was_refused(server, tmp_path):
    photos = []
    for number in range(8):
        Image.new("RGB", (40, 40), (30 * number, 90, 200)).save(tmp_path / f"{number}.png")
        photos.append(f"{number}.png")
    data = write_reviews(tmp_path / "reviews.jsonl", photos=[[photo] for photo in photos])
    words = ["annotate", data, "--captioner", f"openai:test-model@{server.url}"]
    words += ["--photos", tmp_path, "--store", tmp_path / "store.sqlite"]
    server.set(refusals=[("image_url", *NOT_ABOUT_TEXT[2])])
    failed = command(*words, cwd=tmp_path)
    assert failed.returncode == 2, failed.stderr
    assert "not loaded" in " ".join(failed.stderr.split())
    assert "8 of 8 photos have no caption" in " ".join(failed.stderr.split())
    server.set(refusals=())
    server.reset()
    done = command(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert server.status == {200: 8}
