"""A request body → `Job`: token ids, caps and wishes; or `ApiError`, in the words and shape of OpenAI's API."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import msgspec

from slm_authz.local.upstream.served import Library, Served

Kind = Literal["chat", "completions", "embeddings"]
_COMPLETIONS_DEFAULT: Final = 16


class ApiError(Exception):
    """An answer that is an error: status, and OpenAI's four members."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


class Job(msgspec.Struct, frozen=True):
    """What is to be done. prompts: token ids; cap: tokens per choice; choices: returned; candidates: generated, at least as many."""

    kind: Kind
    model: Served
    prompts: tuple[list[int], ...]
    cap: int = 0
    choices: int = 1
    candidates: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    seed: str = "0"
    temperature: float = 1.0
    stop: tuple[bytes, ...] = ()
    ignore_eos: bool = False
    dimensions: int = 64
    base64: bool = False

    @property
    def input_tokens(self) -> int:
        """Each prompt is read once, however many choices it has."""
        return sum(map(len, self.prompts))


def read_job(kind: Kind, body: bytes, library: Library) -> Job:
    """ApiError: the body is not a request that this server can answer."""
    try:
        document = json.loads(body)
    except ValueError:  # malformed UTF-8 too
        raise ApiError(400, "The body is not JSON.", "invalid_json") from None
    if not isinstance(document, dict):
        raise ApiError(400, "The body is not a JSON object.", "invalid_json")
    model = library.served.get(document.get("model") if isinstance(document.get("model"), str) else "")  # type: ignore[arg-type]
    if model is None:
        raise ApiError(404, f"This model does not exist here. There are: {', '.join(library.served)}.", "model_not_found", "model")
    prompts = _chat(document, library) if kind == "chat" else _texts(document, "prompt" if kind == "completions" else "input", library)
    longest = max(map(len, prompts))
    if longest >= model.context:
        message = f"This model's context is {model.context} tokens; the prompt has {longest}."
        raise ApiError(400, message, "context_length_exceeded", "messages" if kind == "chat" else None)
    if kind == "embeddings":
        dimensions = _integer(document, "dimensions", 64, 1, 4096)
        return Job(kind, model, prompts, dimensions=dimensions, base64=document.get("encoding_format") == "base64")
    return _generation(kind, document, model, prompts, model.context - longest)


def _generation(kind: Kind, document: dict[str, Any], model: Served, prompts: tuple[list[int], ...], room: int) -> Job:
    choices = _integer(document, "n", 1, 1, 128)
    options = document.get("stream_options")
    options = options if isinstance(options, dict) else {}
    temperature = document.get("temperature", 1.0)
    if type(temperature) not in (int, float) or not 0 <= temperature <= 2:
        raise ApiError(400, "`temperature` must be a number from 0 to 2.", "invalid_value", "temperature")
    seed = document.get("seed")
    return Job(
        kind,
        model,
        prompts,
        cap=min(_cap(kind, document, model), room),
        choices=choices,
        candidates=max(choices, _integer(document, "best_of", choices, 1, 128)),
        stream=document.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        continuous_usage=options.get("continuous_usage_stats") is True,
        seed="0" if seed is None else repr(seed),
        temperature=float(temperature),
        stop=_stop(document.get("stop")),
        ignore_eos=document.get("ignore_eos") is True,
    )


def _cap(kind: Kind, document: dict[str, Any], model: Served) -> int:
    """The newer name goes first; zero or less is as if absent, as several servers read it."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = document.get(name)
        if value is None:
            continue
        if type(value) is not int:
            raise ApiError(400, f"`{name}` must be an integer.", "invalid_type", name)
        if value > 0:
            return value
    return min(_COMPLETIONS_DEFAULT, model.default_output) if kind == "completions" else model.default_output


def _integer(document: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = document.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise ApiError(400, f"`{name}` must be an integer from {low} to {high}.", "invalid_value", name)
    return value


def _stop(value: Any) -> tuple[bytes, ...]:
    words = [value] if isinstance(value, str) else value or []
    if not isinstance(words, list) or len(words) > 4 or not all(isinstance(word, str) and word for word in words):
        raise ApiError(400, "`stop` must be a string, or a list of at most four.", "invalid_value", "stop")
    return tuple(word.encode(errors="replace") for word in words)


def _chat(document: dict[str, Any], library: Library) -> tuple[list[int], ...]:
    """The template: one mark, all texts in a row, one mark. So a conversation is never more than its bytes and two tokens."""
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ApiError(400, "`messages` must be a list of messages.", "invalid_value", "messages")
    text = "".join(_text(message.get("content")) for message in messages)
    mark = library.tokenizer.chat
    return ([mark, *library.tokenizer.encode(text.encode(errors="replace")), mark],)


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        if len(texts) == len(content):
            return "".join(texts)
    raise ApiError(400, "This model reads text only.", "invalid_value", "messages")


def _texts(document: dict[str, Any], member: str, library: Library) -> tuple[list[int], ...]:
    value = document.get(member)
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(item) is int for item in value)):
        value = [value]
    if not isinstance(value, list) or not 0 < len(value) <= 2048:
        raise ApiError(400, f"`{member}` must be a string, a list of strings, or token ids.", "invalid_value", member)
    return tuple(_ids(item, member, library) for item in value)


def _ids(item: Any, member: str, library: Library) -> list[int]:
    if isinstance(item, str):
        return library.tokenizer.encode(item.encode(errors="replace"))
    if isinstance(item, list) and item and all(type(token) is int and 0 <= token < library.tokenizer.size for token in item):
        return item
    raise ApiError(
        400, f"`{member}` must be a string, a list of strings, or token ids below {library.tokenizer.size}.", "invalid_value", member
    )
