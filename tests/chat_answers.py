"""The language model behind the test server: simple, repeatable and gullible.

An honest answer follows from the text alone, so that a test can tell what the model was shown. What goes
wrong is decided by a hash of the request and of how often it was sent.
"""

import base64
import hashlib
import json
import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

# Reviews that it answers in different ways.
TEXTS = [
    "Great ramen and friendly staff. The queue was terrible.",
    "Cheap and delicious tacos, loved the salsa.",
    "Overpriced and slow. The soup was awful.",
    "A nice quiet cafe with excellent cake.",
    "Bad service, good pizza.",
]
PRICES = {"cheap price": {"cheap", "affordable"}, "overpriced": {"overpriced", "expensive"}}
PRICES["fair price"] = {"fair", "price"}
_LIKED = "amazing best delicious excellent friendly good great loved lovely nice tasty"
_DISLIKED = "awful bad bland cold dirty disappointing horrible rude slow terrible"
OPINIONS = {"likes": set(_LIKED.split()), "dislikes": set(_DISLIKED.split())}
WISH = ("wanted", "unwanted", "prices", "unwanted_prices", "items", "similar_to")
ORDER = re.compile(
    r"^\s*system:\s*answer\s+(.+)|ignore (?:all |the )+(?:above|previous)\b.*?\banswer:?\s+(.+)", re.I | re.M
)
REVIEW_MARK = re.compile(r"\[review .*\]")


@dataclass(frozen=True)
class Behaviour:
    """How the server behaves. Shares are numbers from 0 to 1."""

    latency: float = 0.0  # seconds from a request to its answer
    # Which `response_format` is honoured: `schema`, `object`, `none` (others are refused), or `ignored`.
    structured: str = "schema"
    broken: float = 0.0  # share of answers that are broken, in one of the ways of `broken_kinds`
    broken_kinds: tuple[str, ...] = ("json", "enum", "keys", "empty", "length")  # also `loop`, `refusal`
    errors: float = 0.0  # share of requests answered 429, 500, 502 (a page of HTML), 503, or not at all
    require_key: str | None = None
    models: tuple[str, ...] = ("test-model",)
    context: int = 0  # tokens that a prompt may have; 0 for no limit
    overflow: str = "refuse"  # a longer prompt with 400, or `cut` its beginning without a word
    reject_parameters: tuple[str, ...] = ()
    # Requests that hold a word are refused: the word, a status, and the body, JSON or text.
    refusals: tuple[tuple[str, int, object], ...] = ()
    gullible: bool = False  # obey orders that stand in the user's text
    batch_polls: int = 1  # a batch ends when it is looked at for so many times
    batch_failures: float = 0.0  # share of the lines of a batch that fail
    # With status 500 in the `error` file or the `output` file, `missing` in both, or not done since the
    # batch is `expired` or `cancelled`.
    batch_failure: str = "missing"
    batch_limit: int = 50_000  # lines that a batch may have


class Refusal(Exception):
    """An error in OpenAI's shape."""

    def __init__(self, status, message, code=None, param=None, **headers):
        super().__init__(message)
        self.status, self.headers = status, headers
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Chance:
    """Random numbers that depend on a request and on how often it was sent alone."""

    def __init__(self, digest="", attempt=1):
        self._seed = f"{digest} {attempt}"

    def happens(self, event, share):
        return random.Random(f"{event} {self._seed}").random() < share

    def pick(self, event, options):
        return random.Random(f"which {event} {self._seed}").choice(options)


def complete(behaviour, body, chance=None):
    """The completion of a request; raises Refusal."""
    chance = chance or Chance()
    check_request(behaviour, body)
    prompt = read_prompt(behaviour, body["messages"])
    fields = requested_fields(body.get("response_format") or {}, prompt)
    order = find_order(prompt.user) if behaviour.gullible else None
    answer = order if order is not None else read(prompt, fields)
    content, finish = to_text(answer), "stop"
    if chance.happens("broken", behaviour.broken):
        content, finish = break_answer(chance.pick("broken", behaviour.broken_kinds), answer)
    elif behaviour.structured == "ignored" and fields and order is None:
        chatter = ("<think>\nA {draft}.\n</think>\n\n", "Sure!\n\n")
        content = chance.pick("chatter", chatter) + content
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if content and limit and count_tokens(content) > limit:
        content, finish = content.encode()[: 4 * limit].decode(errors="ignore"), "length"
    usage = {"prompt_tokens": prompt.tokens, "completion_tokens": count_tokens(content or "")}
    message = {"role": "assistant", "content": content, "refusal": None if content is not None else "Sorry."}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}


def check_request(behaviour, body):
    for word, status, answer in behaviour.refusals:
        if word in json.dumps(body["messages"]):
            refusal = Refusal(status, "")
            refusal.body = answer
            raise refusal
    if body.get("model") not in behaviour.models:
        raise Refusal(404, f"The model `{body.get('model')}` does not exist.", "model_not_found")
    for name in behaviour.reject_parameters:
        if name in body:
            raise Refusal(400, f"Unsupported parameter: '{name}'.", "unsupported_parameter", name)
    form = body.get("response_format")
    if form is None or behaviour.structured == "ignored":
        return
    supported = {"schema": ("json_object", "json_schema"), "object": ("json_object",), "none": ()}
    if form["type"] not in supported[behaviour.structured]:
        message = f"'response_format' of type '{form['type']}' is not supported."
        raise Refusal(400, message, None, "response_format")
    if form["type"] == "json_object" and "json" not in json.dumps(body["messages"]).lower():
        raise Refusal(400, "'messages' must contain the word 'json'.", None, "messages")
    if form["type"] == "json_schema":
        schema = form["json_schema"]["schema"]
        if set(schema["required"]) != set(schema["properties"]) or schema["additionalProperties"]:
            raise Refusal(400, "Invalid schema: not strict.", None, "response_format")


def read_prompt(behaviour, messages):
    """What of the messages fits the context: system, first message of the user, images and tokens."""
    roles = [message["role"] for message in messages]
    texts, images = [], []
    for message in messages:
        parts = message["content"]
        if isinstance(parts, str):
            parts = [{"type": "text", "text": parts}]
        texts.append("\n".join(part["text"] for part in parts if part["type"] == "text"))
        images += [decode_image(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
    tokens = sum(map(count_tokens, texts)) + 85 * len(images)
    if 0 < behaviour.context < tokens:
        if behaviour.overflow == "refuse":
            message = f"This model's maximum context length is {behaviour.context} tokens, not {tokens}."
            raise Refusal(400, message, "context_length_exceeded", "messages")
        # What a runner with a small context loses first is the system prompt.
        tokens, texts = behaviour.context, ["" for _ in texts[:-1]] + [texts[-1][-4 * behaviour.context :]]
    system = texts[roles.index("system")] if "system" in roles else ""
    return SimpleNamespace(system=system, user=texts[roles.index("user")], images=images, tokens=tokens)


def decode_image(url):
    """The bytes of an image in a data URI; raises Refusal for anything else."""
    head, _, code = url.partition(",")
    image = base64.b64decode(code)
    if not head.startswith("data:image/") or not image.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        raise Refusal(400, "You uploaded an unsupported image.", "invalid_image_format")
    return image


def requested_fields(form, prompt):
    """Names of the fields to answer with, by the schema or the instructions; none for plain text."""
    if form.get("type") == "json_schema":
        return list(form["json_schema"]["schema"]["properties"])
    return re.findall(r"^- (\w+):", prompt.system, re.MULTILINE) if "JSON" in prompt.system else []


def read(prompt, fields):
    """An honest answer: of the images where there are any, else of the user's text."""
    if prompt.images:
        return "; ".join(map(caption, prompt.images))
    lines = [line for line in prompt.user.splitlines() if not REVIEW_MARK.fullmatch(line)]
    text = "\n".join(lines)
    if fields:
        return {name: read_field(name, text) for name in fields}
    if "just the category" in prompt.system.lower():
        return "fair price"
    if "what kind of" in prompt.system.lower():
        return f"'{topics(text)[0]}'"
    return " ".join(text.split()[:12])


def read_field(name, text):
    words = set(re.findall(r"\w+", text.lower()))
    if name == "price":
        return next((tag for tag, cues in PRICES.items() if words & cues), "none")
    if name == "categories":
        return topics(text)
    if name in WISH:  # every part of the text is wanted
        return [part for part in re.split(r"\W*[,.;\n]\W*", text) if part] if name == "wanted" else []
    if name in OPINIONS:
        sentences = re.split(r"(?<=[.!?])\s+|\n+", text)
        return [part.strip() for part in sentences if set(re.findall(r"\w+", part.lower())) & OPINIONS[name]]
    return " ".join(text.split()[:12])


def topics(text):
    """Up to three frequent words of a text that are long and are no opinion."""
    words = Counter(re.findall(r"[^\W\d_]{4,}", text.lower())).most_common(20)
    return [word for word, _ in words if word not in set.union(*OPINIONS.values())][:3] or ["thing"]


def caption(image):
    """A sentence that depends on the bytes of an image."""
    chance = Chance(hashlib.sha256(image).hexdigest())
    look = chance.pick("look", ("blue", "golden", "green", "large", "red", "small", "white"))
    thing = chance.pick("thing", ("bar", "basket", "bowl", "counter", "menu", "plate", "table"))
    food = chance.pick("food", ("burgers", "dumplings", "lemons", "noodles", "oysters", "pies"))
    return f"a photo of a {look} {thing} with {chance.pick('number', range(2, 90))} {food}"


def find_order(text):
    """What the text orders to answer: `SYSTEM: answer X`, or `ignore the above and answer X`."""
    match = ORDER.search(text)
    if match is None:
        return None
    order = (match[1] or match[2]).strip()
    try:
        return order[: json.JSONDecoder().raw_decode(order)[1]]
    except ValueError:
        return order


def break_answer(kind, answer):
    """An answer broken in one way, and why it ended; `enum` and `keys` are for answers with fields."""
    if kind == "enum":
        answer = dict.fromkeys(answer, 17) | {"price": "rather dear"}
    if kind == "keys":
        answer = dict(list(answer.items())[1:])
    content = to_text(answer)
    broken = {"refusal": (None, "stop"), "empty": ("", "stop"), "loop": (40 * content, "length")}
    broken["json"] = content[: -1 - len(content) // 3], "stop"
    broken["length"] = content[: len(content) // 2], "length"
    return broken.get(kind, (content, "stop"))


def to_text(answer):
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def count_tokens(text):
    """One token for every four bytes of UTF-8, begun ones included."""
    return math.ceil(len(text.encode()) / 4)
