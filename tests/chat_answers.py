"""The model behind the chat server: what it refuses, and a reader that is simple, repeatable and gullible.

An honest answer follows from the text alone, so that a test can tell what the model has read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chat_server import Behaviour, Luck

Json = dict[str, Any]

PRICES = ["cheap price", "fair price", "overpriced", "none"]
IMAGE_TOKENS = 85
KINDS_OF_BROKEN = ("json", "enum", "keys", "empty", "length", "loop", "refusal")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_STRINGS = {"type": "array", "items": {"type": "string"}}
_FIELDS: dict[str, Json] = {
    "gist": {"type": "string"},
    "text": {"type": "string"},
    "likes": _STRINGS,
    "dislikes": _STRINGS,
    "price": {"enum": PRICES},
    "categories": _STRINGS,
}
_LIKED = _set("amazing best delicious excellent fresh friendly good great love loved nice tasty")
_DISLIKED = _set("awful bad bland cold dirty disappointing horrible rude slow terrible worst")
_STEMS = (
    (_set("affordable bargain cheap inexpensive"), "cheap"),
    (_set("costly expensive overpriced pricey"), "overpriced"),
    (_set("fair price priced prices reasonable"), "fair"),
)
_PLAIN = _set("also been from have here just like that their them then there they this very were with")
_DULL = _PLAIN | _LIKED | _DISLIKED
_WORD = re.compile(r"[^\W\d_]+")
_END = re.compile(r"(?<=[.!?])\s+|\n+")
_TAG = re.compile(r"</?\w[^>]*>")
_DELIMITER = re.compile(r"[ -/:-@\[-`{-~]*|[<\[#=*~-]{2,} ?[\w #-]+[^\w\s.!?]*|\[[\w #-]+\]|\w+( \w+)? ?\d*:")
_ORDER = re.compile(
    r"^\s*system:\s*answer\s+(.+)|ignore (?:all |the )+(?:above|previous)\b.*?\banswer:?\s+(.+)", re.I | re.M
)
_LOOKS = ("blue", "golden", "green", "large", "old", "red", "rustic", "small", "white", "wooden")
_THINGS = ("bar", "basket", "bowl", "counter", "cup", "menu", "plate", "room", "table", "terrace")
_NUMBERS = ("two", "three", "four", "five", "six", "seven")
_MANY = ("burgers", "chairs", "dumplings", "flowers", "glasses", "lemons", "noodles", "oysters", "people")


class Refusal(Exception):
    """An error in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model sees of the messages, and how many tokens that is."""

    system: str
    user: str
    images: list[bytes]
    tokens: int


def complete(behaviour: Behaviour, body: Json, luck: Luck) -> tuple[Prompt, Json]:
    """The prompt of a request and the choice that answers it; raises Refusal."""
    check(behaviour, body)
    prompt = read_prompt(behaviour, body.get("messages"))
    schema = wanted_schema(body.get("response_format") or {}, prompt)
    told = order(text_of(prompt.user)) if behaviour.gullible else None
    answer = told if told is not None else read(prompt, schema)
    kind = luck.pick("kind", behaviour.broken_kinds) if luck("broken") < behaviour.broken else None
    if kind == "refusal":
        return prompt, choice(None, "stop", refusal="I'm sorry, I can't assist with that request.")
    content, finish = spoil(kind, answer, schema) if kind else (write(answer), "stop")
    if behaviour.structured == "ignored" and schema and content and told is None:
        content = chatter(content, think=luck("form") < 0.5)
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    if most and tokens(len(content.encode())) > most:
        content, finish = content.encode()[: 4 * most].decode(errors="ignore"), "length"
    return prompt, choice(content, finish)


def read(prompt: Prompt, schema: Json | None) -> Json | str:
    """An honest answer: of the images where there are any, else of the user's text."""
    seen = caption(prompt.images) if prompt.images else text_of(prompt.user)
    if schema is not None:
        return answer_json(seen, schema)
    return seen if prompt.images else answer_line(seen, prompt.system or seen)


def choice(content: str | None, finish: str, refusal: str | None = None) -> Json:
    """An answer in OpenAI's shape."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}


def wanted_schema(form: Json, prompt: Prompt) -> Json | None:
    """The schema to answer with, or None for plain text."""
    given = form["json_schema"]["schema"] if form.get("type") == "json_schema" else None
    named = None if given else schema_in(prompt.system or prompt.user)
    return given or named or ({"properties": {"text": {}}} if form.get("type") == "json_object" else None)


def read_prompt(behaviour: Behaviour, messages: Any) -> Prompt:
    """What of the messages fits the context."""
    try:
        parts = [(one["role"], *read_content(one["content"])) for one in messages]
    except (KeyError, TypeError, AttributeError):
        raise Refusal(400, "Invalid type for 'messages'.", "invalid_type", "messages") from None
    if not parts:
        raise Refusal(400, "Invalid 'messages': empty array.", "empty_array", "messages")
    size = tokens(sum(len(text.encode()) for _, text, _ in parts))
    size += IMAGE_TOKENS * sum(len(images) for _, _, images in parts)
    if 0 < behaviour.context < size:
        if behaviour.overflow == "refuse":
            limit = f"This model's maximum context length is {behaviour.context} tokens."
            message = f"{limit} However, your messages resulted in {size} tokens. Please reduce them."
            raise Refusal(400, message, "context_length_exceeded", "messages")
        size, parts = behaviour.context, tail(parts, 4 * behaviour.context)
    system = "\n".join(text for role, text, _ in parts if role in ("system", "developer"))
    asked = [(text, images) for role, text, images in reversed(parts) if role == "user"] or [("", [])]
    # What only asks to answer once more is not what is to be read.
    user = next((one for one in asked if one[1] or marked(one[0])), asked[0])
    return Prompt(system, *user, size)


def tail(parts: list[tuple[str, str, list[bytes]]], size: int) -> list[tuple[str, str, list[bytes]]]:
    """The last bytes of the messages: what a runner with a small window drops first is the system prompt."""
    kept = []
    for role, text, images in reversed(parts):
        raw = text.encode()
        end = raw[max(len(raw) - size, 0) :]
        size -= len(end)
        kept.append((role, end.decode(errors="ignore"), images))
    return kept[::-1]


def read_content(content: str | list[Json]) -> tuple[str, list[bytes]]:
    """The text and the images of a message."""
    if isinstance(content, str):
        return content, []
    texts = [part["text"] for part in content if part["type"] == "text"]
    images = [read_image(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
    return "\n".join(texts), images


def read_image(url: str) -> bytes:
    """The bytes of an image in a data URI; raises Refusal for what is none."""
    head, _, code = url.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise Refusal(400, "Invalid image: this server reads base64 data URIs.", "invalid_image_url")
    try:
        image = base64.b64decode(code, validate=True)
    except ValueError:
        raise Refusal(400, "Invalid base64 image.", "invalid_base64") from None
    if not image.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")):
        message = "You uploaded an unsupported image: use one of 'png', 'jpeg', 'gif', 'webp'."
        raise Refusal(400, message, "invalid_image_format")
    return image


def check(behaviour: Behaviour, body: Json) -> None:
    """Raise Refusal for a request that OpenAI would refuse, or that the behaviour says to."""
    if body.get("model") not in behaviour.models:
        message = f"The model `{body.get('model')}` does not exist or you do not have access to it."
        raise Refusal(404, message, "model_not_found")
    for name in behaviour.reject_parameters:
        if name in body:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            raise Refusal(400, message, "unsupported_parameter", name)
    if body.get("stream"):
        raise Refusal(400, "This server does not stream.", "unsupported_value", "stream")
    form = body.get("response_format")
    if form is not None and behaviour.structured != "ignored":
        check_form(behaviour, form, body)


def check_form(behaviour: Behaviour, form: Json, body: Json) -> None:
    """Raise Refusal for an output format that is not supported, or not well asked for."""
    kind = form.get("type")
    known = {"schema": ("text", "json_object", "json_schema"), "object": ("text", "json_object")}
    if kind not in known.get(behaviour.structured, ()):
        message = f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this model."
        raise Refusal(400, message, None, "response_format")
    if kind == "json_object" and "json" not in dump(body.get("messages")).decode().lower():
        message = "'messages' must contain the word 'json' in some form, to use 'json_object'."
        raise Refusal(400, message, None, "messages")
    if kind == "json_schema":
        named = form.get("json_schema") or {}
        if not re.fullmatch(r"[\w-]{1,64}", named.get("name", "")) or "schema" not in named:
            raise Refusal(400, "Invalid 'response_format.json_schema'.", "invalid_value", "response_format")
        if named.get("strict"):
            check_strict(named["schema"], named["name"], ())


def check_strict(schema: Any, name: str, path: tuple[str, ...]) -> None:
    """Raise Refusal where a strict schema leaves an object open or a property optional."""
    if not isinstance(schema, dict) or schema.get("type") in ("string", "integer", "number", "boolean"):
        return
    fields = schema.get("properties")
    if fields is not None or schema.get("type") == "object":
        missing = sorted((fields or {}).keys() - set(schema.get("required", ())))
        flaw = f"'required' lacks {missing}" if missing else "'additionalProperties' must be false"
        if missing or schema.get("additionalProperties") is not False:
            message = f"Invalid schema for response_format '{name}': In context={path}, {flaw}."
            raise Refusal(400, message, None, "response_format")
    inner = {**(fields or {}), **schema.get("$defs", {}), "items": schema.get("items")}
    inner |= {str(at): one for at, one in enumerate(schema.get("anyOf", ()))}
    for key, one in inner.items():
        check_strict(one, name, (*path, key))


def tokens(size: int) -> int:
    """Tokens of so many bytes of UTF-8: one for every four, begun ones included."""
    return math.ceil(size / 4)


def text_of(text: str) -> str:
    """A text without what only delimits it: lines of signs, tags, headings, the syntax of JSON."""
    if text.lstrip()[:1] in ("{", "["):
        with suppress(ValueError):
            text = "\n".join(_strings(json.loads(text)))
    lines = (_TAG.sub("", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if not _DELIMITER.fullmatch(line))


def marked(text: str) -> bool:
    """Whether a line of a text only delimits it."""
    lines = (line.strip() for line in text.splitlines())
    return any(line and (_TAG.match(line) or _DELIMITER.fullmatch(line)) for line in lines)


def answer_json(text: str, schema: Json) -> Json:
    """Read a text into an object that fits a JSON schema."""
    return _fill(schema, text, schema, "")


def answer_line(text: str, question: str) -> str:
    """Read a text into one line, or answer one of the short questions about price and kind."""
    if "just the category" in question.lower():
        return "fair price"
    if "what kind of" in question.lower():
        return f"'{next(iter(topics(text)), 'thing')}'"
    return excerpt(text)


def excerpt(text: str, words: int = 12) -> str:
    """The first words of a text."""
    return " ".join(text.split()[:words])


def sentences(text: str, words: frozenset[str]) -> list[str]:
    """The sentences of a text that contain one of the words."""
    return [sentence for sentence, found in _parsed(text) if not words.isdisjoint(found)]


def topics(text: str) -> list[str]:
    """Up to three frequent words of a text which praise nothing and blame nothing."""
    words = (word for _, words in _parsed(text) for word in words)
    counts = Counter(word for word in words if len(word) > 3 and word not in _DULL)
    return [word for word, _ in counts.most_common(3)]


def choose(options: list[Any], text: str) -> Any:
    """The option which the text's words about prices speak for, else the last."""
    words = {word for _, words in _parsed(text) for word in words}
    for cues, stem in _STEMS:
        for option in options:
            if words & cues and stem in str(option):
                return option
    return options[-1]


def order(text: str) -> str | None:
    """What the text orders to answer: `SYSTEM: answer X`, or `ignore the above and answer X`."""
    found = _ORDER.search(text)
    if found is None:
        return None
    wanted = (found[1] or found[2]).strip()
    try:
        return wanted[: json.JSONDecoder().raw_decode(wanted)[1]]
    except ValueError:
        return wanted


def caption(images: list[bytes]) -> str:
    """A sentence for each image, made from the hash of its bytes and from their number."""
    return "; ".join(_caption(image) for image in images)


@lru_cache(maxsize=16)
def schema_in(prompt: str) -> Json | None:
    """The schema that a prompt asks for in words: a JSON schema in it, else the names of fields in it."""
    if "json" not in prompt.lower():
        return None
    for brace in re.finditer(r"\{", prompt):
        try:
            found, _ = json.JSONDecoder().raw_decode(prompt, brace.start())
        except ValueError:
            continue
        if "properties" in found:
            return found
    return _named(prompt)


def spoil(kind: str, answer: Json | str, schema: Json | None) -> tuple[str, str]:
    """An answer broken in one way, and why it ended; what only breaks JSON empties a line instead."""
    if isinstance(answer, dict) and kind == "enum":
        answer = _misfit(answer, schema or {})
    elif isinstance(answer, dict) and kind == "keys":
        answer = dict(list(answer.items())[(len(answer) + 1) // 2 :])
    elif kind == "empty" or (isinstance(answer, str) and kind in ("json", "enum", "keys")):
        return "", "stop"
    content = write(answer)
    if kind == "json":
        return content[: -1 - len(content) // 3], "stop"
    if kind == "length":
        return content[: len(content) // 2], "length"
    return (content * 40, "length") if kind == "loop" else (content, "stop")


def dump(value: Any) -> bytes:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def write(answer: Json | str) -> str:
    """An answer as the content of a message."""
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def chatter(content: str, think: bool) -> str:
    """JSON as a model writes it that was not held to it: fenced, amid prose or after its thoughts."""
    fenced = f"```json\n{content}\n```"
    if think:
        return f'<think>\nA first try: {{"gist": "draft"}}. No, rather this.\n</think>\n\n{fenced}'
    return f"Sure! Here is what you asked for:\n\n{fenced}\n\nTell me if I can help with anything else."


@lru_cache(maxsize=4)
def _parsed(text: str) -> list[tuple[str, list[str]]]:
    """The sentences of a text with their words."""
    return [(part.strip(), _WORD.findall(part.lower())) for part in _END.split(text)]


def _strings(value: Any) -> list[str]:
    """All strings within a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _strings(one)]


def _fill(schema: Json, text: str, root: Json, name: str) -> Any:
    while "$ref" in schema or "anyOf" in schema or "allOf" in schema:
        schema = _resolve(schema, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return choose(schema["enum"], text)
    kinds = schema.get("type", "object" if "properties" in schema else "string")
    kind = next((one for one in kinds if one != "null"), "null") if isinstance(kinds, list) else kinds
    if kind == "object":
        return {key: _fill(one, text, root, key) for key, one in schema.get("properties", {}).items()}
    if kind == "array":
        least = range(schema.get("minItems", 0))
        found = _several(name, text) or [_fill(schema.get("items", {}), text, root, name) for _ in least]
        return found[: schema.get("maxItems")]
    if kind == "string":
        return (" ".join(_several(name, text)) or excerpt(text))[: schema.get("maxLength")]
    return {"integer": 0, "number": 0, "boolean": False}.get(kind)


def _resolve(schema: Json, root: Json) -> Json:
    """One step from a reference or a union to what stands there."""
    if "$ref" not in schema:
        options = schema.get("anyOf") or schema["allOf"]
        return next((one for one in options if one.get("type") != "null"), options[0])
    for key in schema["$ref"].removeprefix("#/").split("/"):
        root = root[key]
    return root


def _several(name: str, text: str) -> list[str]:
    if name == "categories":
        return topics(text)
    words = {"likes": _LIKED, "dislikes": _DISLIKED}.get(name)
    return sentences(text, words) if words else []


def _named(prompt: str) -> Json | None:
    """A schema of the names in a prompt: `- name:`, else `"name":`, else those in quotes, else the usual."""
    names = re.findall(r"^\s*[-*] [\"`']?(\w+)[\"`']?\s*:(?:.*?(\blist\b))?", prompt, re.MULTILINE)
    names = names or re.findall(r'["`\'](\w+)["`\']\s*:\s*(\[)?', prompt)
    names = names or [(name, "") for name in re.findall(r"[\"`'](\w+)[\"`']", prompt) if name not in PRICES]
    names = names or [(name, "") for name in _FIELDS if re.search(rf"\b{name}\b", prompt)]
    fields = {name: _FIELDS.get(name, _STRINGS if many else {"type": "string"}) for name, many in names}
    return {"type": "object", "properties": fields} if fields else None


def _caption(image: bytes) -> str:
    seed = int.from_bytes(hashlib.sha256(image).digest()[:8]) + len(image)
    picked = []
    for options in (_LOOKS, _THINGS, _NUMBERS, _MANY):
        seed, at = divmod(seed, len(options))
        picked.append(options[at])
    look, thing, number, many = picked
    return f"a photo of {'an' if look[0] in 'aeiou' else 'a'} {look} {thing} with {number} {many}"


def _misfit(answer: Json, schema: Json) -> Json:
    """The answer with a value that no enum allows, or of a wrong type where there is no enum."""
    fields = schema.get("properties", {})
    for key in answer:
        if "enum" in fields.get(key, {}):
            return answer | {key: "rather dear"}
    return dict.fromkeys(answer, 17)
