"""Thousands of odd requests to every route, on models of every kind, with and without keys: none is a 5xx.

Values come from the OpenAPI document and a list of odd ones. `MMREC_FUZZ=5000 pytest FILE` sends more.
"""

import json
import os
import random
from urllib.parse import quote

import pytest

from chat_answers import Behaviour
from mmrec.config import Config, LanguageConfig, RankerConfig, ReadConfig, TrainingConfig
from mmrec.data import read_reviews
from mmrec.data.synthetic.city import write_sample_city
from mmrec.recommender.recommender import Recommender
from serving import service_in_process

COUNT = int(os.environ.get("MMREC_FUZZ", "250"))
KEY = "open-sesame"
ODD_TEXTS = [
    *[
        "",
        " ",
        "0",
        "-1",
        "1e999",
        "NaN",
        "null",
        "true",
        "a" * 300,
        "ß" * 999,
        "🍜" * 40,
        "é",
        "Ⅷ",
        "١٢",
        "a\nb",
    ],
    *[
        "%",
        "%00",
        "%s%n",
        "..",
        "../../etc/passwd",
        "/",
        "//",
        "?#&=",
        "a b",
        "\u202e",
        "\\",
        "\t",
        "(((",
        "[",
    ],
    *["'\"<script>", "{{7*7}}", "$(id)", "no no no", "not ramen, not not ramen"],
]
ODD_VALUES = [
    *[0, -1, 1, 5, 101, 1.5, 1e308, -1e308, 10**30, True, False, None, "\0", *ODD_TEXTS],
    *[[], {}, [[]], ["", None], {"a": {}}, [1] * 2000],
]
PAGES = [
    "/",
    *(f"/{name}{{item}}" for name in ("", "places/", "photos/", "static/")),
    "/docs",
    "/.env",
    "/v1",
]


class Requests:
    """Random requests, most of which are nearly right."""

    def __init__(self, document, users, items, seed):
        self.rng, self.schemas = random.Random(seed), document["components"]["schemas"]
        self.names = [*users[:5], *items[:5]]
        self.operations = [
            (method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]

    def text(self):
        return self.rng.choice(self.names if self.rng.random() < 0.5 else ODD_TEXTS)

    def value(self, schema):
        """A value of a schema, or, at times, of none."""
        rng = self.rng
        if rng.random() < 0.1:
            return rng.choice(ODD_VALUES)
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"].rpartition("/")[2]]
        if "anyOf" in schema:
            return self.value(rng.choice(schema["anyOf"]))
        if "enum" in schema:
            return rng.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object":
            required = schema.get("required", [])
            fields = schema.get("properties", {}).items()
            return {
                name: self.value(field) for name, field in fields if name in required or rng.random() < 0.4
            }
        if kind == "array":
            return [self.value(schema["items"]) for _ in range(rng.choice([0, 1, 1, 2, 5]))]
        if kind in ("number", "integer"):
            return rng.choice([0, 1, 2, 3, 5, 10, 100, 0.5, 4.0])
        if kind == "boolean":
            return rng.random() < 0.5
        return self.text()

    def one(self):
        """Method, path and options of a request."""
        rng = self.rng
        if rng.random() < 0.15:
            method, path, operation = rng.choice(["get", "post", "head"]), rng.choice(PAGES), {}
        else:
            method, path, operation = rng.choice(self.operations)
        if rng.random() < 0.05:
            method = rng.choice(["put", "delete", "head", "options", "patch", "post"])
        for name in ("item", "user"):
            path = path.replace(f"{{{name}}}", quote(self.text(), safe=rng.choice(["", "/"])))
        query = []
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "query" and rng.random() < 0.5:
                value = self.value(parameter["schema"])
                query += [
                    (parameter["name"], f"{part}") for part in (value if isinstance(value, list) else [value])
                ]
        if not operation:
            query = [
                (name, self.text()) for name in ("user", "likes", "max_fpr", "index") if rng.random() < 0.4
            ]
        options = {"params": query}
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            body = json.dumps(self.value(content["application/json"]["schema"]))
            if rng.random() < 0.05:
                body = rng.choice(
                    [body[: len(body) // 2], "[" * 5000, "\ufeff" + body, "NaN", '{"a":1,"a":2}']
                )
            options |= {"content": body.encode(), "headers": {"Content-Type": "application/json"}}
            if rng.random() < 0.05:
                options["headers"]["Content-Type"] = rng.choice(["text/plain", "multipart/form-data", "é"])
                options["headers"] = {name: f"{value}".encode() for name, value in options["headers"].items()}
        elif content or method == "post":
            fields = {name: self.text() for name in ("item", "name", "description", "user", "rating", "text")}
            options["data"] = {name: value for name, value in fields.items() if rng.random() < 0.7}
            if rng.random() < 0.3:
                options["files"] = {"photo": (self.text() or "a", rng.randbytes(40), "image/png")}
        return method, path, options


def small_model(folder, **settings):
    """A model of a small city, which is saved in `folder`."""
    data = write_sample_city(folder, seed=4, users=30, items=12, reviews=200)
    config = Config(store=folder / "store.sqlite", training=TrainingConfig(epochs=2), **settings)
    recommender = Recommender(config)
    recommender.fit(read_reviews(data, ReadConfig(items=folder / "places.jsonl")))
    return recommender.save(folder / "model")


@pytest.fixture(params=["corrected", "bias model", "baseline", "proposed", "language model"])
def served(request, tmp_path, minilm):
    if request.param == "corrected":
        return request.getfixturevalue("model")
    if request.param == "language model":
        server = request.getfixturevalue("server")
        server.start_over(Behaviour(errors=0.2))
        return small_model(tmp_path, language=LanguageConfig(llm=f"openai:test-model@{server.url}"))
    kind = "mmrec" if request.param == "bias model" else request.param
    return small_model(tmp_path, ranker=RankerConfig(features=kind))


def send_odd_requests(model, keys, database):
    """Statuses of the answers to many odd requests, most of them with a key if there are `keys`."""
    options, statuses = {"trust": True, "per_minute": 10**6, "database": database}, set()
    table = Recommender.load(model, trust=True).saved.reviews.table
    names = table["user"].unique().sort().to_list(), table["item"].unique().sort().to_list()
    with service_in_process(model, keys=keys, **options) as service:
        requests = Requests(service.get("/openapi.json"), *names, seed=COUNT)
        for _ in range(COUNT):
            method, path, sent = requests.one()
            if keys and requests.rng.random() < 0.9:
                sent["headers"] = {"Authorization": f"Bearer {KEY}"} | sent.get("headers", {})
            answer = service.client.request(method, path, **sent)
            statuses.add(answer.status_code)
            is_busy = answer.status_code == 503 and "retry-after" in answer.headers
            assert answer.status_code < 500 or is_busy, (method, path, sent, answer.text)
            if answer.headers.get("content-type") == "application/json" and answer.content:
                answer.json()
        service.get("/ready")
    return statuses


def test_no_request_breaks_the_service(served, tmp_path):
    open_to_all = send_odd_requests(served, None, f"sqlite:///{tmp_path / 'open.sqlite'}")
    assert {200, 201, 404, 422} <= open_to_all
    assert 401 not in open_to_all
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    closed = send_odd_requests(served, keys, f"sqlite:///{tmp_path / 'closed.sqlite'}")
    assert {200, 201, 401, 404, 422} <= closed
