"""OpenAI's dialect: /v1/chat/completions, /v1/completions, /v1/embeddings. Enters: body bytes. Leaves: `Ask` or a refusal.

Members that we know to leave the prompt alone are listed; any other makes the prompt opaque, because a server may put what it holds
into the prompt. Members that change the prompt behind our back are refused. A caller's text never appears in a refusal.
"""

from __future__ import annotations

from typing import Any, Final

from slm_authz.llm.ask import Ask, Prompt
from slm_authz.llm.strict import decode
from slm_authz.reason import Denial, Reason

MAX_CHOICES: Final = 128
MAX_PROMPTS: Final = 2048

_HARMLESS: Final = frozenset(
    {
        "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of",
        "temperature", "top_p", "top_k", "min_p", "stop", "seed", "user", "metadata", "store", "logprobs", "top_logprobs", "logit_bias",
        "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty", "service_tier", "parallel_tool_calls",
        "encoding_format", "dimensions", "echo", "ignore_eos", "min_tokens", "stop_token_ids", "skip_special_tokens", "use_beam_search",
        "safety_identifier", "prompt_cache_key", "reasoning_effort", "verbosity", "priority", "request_id", "background",
        "spaces_between_special_tokens", "include_stop_str_in_output", "modalities", "chat_template_kwargs", "include_reasoning",
        "cache_salt", "return_token_ids", "return_tokens_as_token_ids", "prompt_logprobs", "truncate_prompt_tokens",
    }
)  # fmt: skip
_CHAT: Final = _HARMLESS | {"messages"}
_COMPLETIONS: Final = _HARMLESS | {"prompt", "suffix"}
_EMBEDDINGS: Final = _HARMLESS | {"input"}

_MATTERS: Final = frozenset(
    {
        "model", "stream", "stream_options", "include_usage", "max_tokens", "max_completion_tokens", "n", "best_of",
        "messages", "prompt", "suffix", "input", "tools", "functions", "chat_template", "chat_template_kwargs", "background",
        "documents", "response_format",
    }
)  # fmt: skip
"""Members whose duplicates would be two readings of one request."""

_MESSAGE_MEMBERS: Final = frozenset({"role", "content", "name"})


def _bad(member: str, must: str) -> Denial:
    return Denial(Reason.MALFORMED_REQUEST, f"`{member}` must be {must}.", param=member)


def read_chat(body: bytes) -> Ask | Denial:
    """POST /v1/chat/completions: one prompt, all messages together."""
    document = decode(body, _MATTERS)
    if isinstance(document, Denial):
        return document
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        return _bad("messages", "a list of at least one message")
    text, images, opaque = 0, 0, not document.keys() <= _CHAT
    for message in messages:
        if not isinstance(message, dict):
            return _bad("messages", "a list of objects")
        if not message.keys() <= _MESSAGE_MEMBERS:
            opaque = True
        content = message.get("content")
        if type(content) is str:
            text += len(content) if content.isascii() else len(content.encode())
        elif content is not None:
            parts = _parts(content)
            if isinstance(parts, Denial):
                return parts
            text, images, opaque = text + parts.text_bytes, images + parts.images, opaque or parts.opaque
    return _ask("openai.chat", document, (Prompt(text, 0, images, opaque),))


def _parts(content: Any) -> Prompt | Denial:
    """The content of a message that is a list of parts."""
    if not isinstance(content, list):
        return _bad("messages", "a list of messages whose content is a string or a list of parts")
    text, images, opaque = 0, 0, False
    for part in content:
        if not isinstance(part, dict):
            return _bad("messages", "a list of messages whose content is a string or a list of parts")
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            text += len(part["text"].encode())
        elif kind == "image_url":
            images += 1
        else:
            opaque = True
    return Prompt(text, 0, images, opaque)


def read_completions(body: bytes) -> Ask | Denial:
    """POST /v1/completions: a prompt, or a list of prompts, as text or as token ids."""
    document = decode(body, _MATTERS)
    if isinstance(document, Denial):
        return document
    prompts = _prompts(document.get("prompt", ""), "prompt", opaque=not document.keys() <= _COMPLETIONS)
    if isinstance(prompts, Denial):
        return prompts
    suffix = document.get("suffix")
    if suffix is not None:
        if not isinstance(suffix, str):
            return _bad("suffix", "a string")
        extra = len(suffix.encode())
        prompts = tuple(Prompt(prompt.text_bytes + extra, prompt.tokens, 0, prompt.opaque) for prompt in prompts)
    return _ask("openai.completions", document, prompts)


def read_embeddings(body: bytes) -> Ask | Denial:
    """POST /v1/embeddings: inputs as text or as token ids; nothing is generated."""
    document = decode(body, _MATTERS)
    if isinstance(document, Denial):
        return document
    prompts = _prompts(document.get("input"), "input", opaque=not document.keys() <= _EMBEDDINGS)
    if isinstance(prompts, Denial):
        return prompts
    return _ask("openai.embeddings", document, prompts, generates=False)


def _prompts(value: Any, member: str, *, opaque: bool) -> tuple[Prompt, ...] | Denial:
    """A string, a list of strings, a list of token ids, or a list of lists of token ids."""
    wanted = "a string, a list of strings, a list of token ids or a list of such lists"
    if isinstance(value, str):
        return (Prompt(len(value.encode()), opaque=opaque),)
    if not isinstance(value, list) or not value:
        return _bad(member, wanted)
    if _token_ids(value):
        return (Prompt(0, len(value), opaque=opaque),)
    if len(value) > MAX_PROMPTS:
        return _bad(member, f"a list of at most {MAX_PROMPTS} items")
    prompts = []
    for item in value:
        if isinstance(item, str):
            prompts.append(Prompt(len(item.encode()), opaque=opaque))
        elif isinstance(item, list) and item and _token_ids(item):
            prompts.append(Prompt(0, len(item), opaque=opaque))
        else:
            return _bad(member, wanted)
    return tuple(prompts)


def _token_ids(value: list[Any]) -> bool:
    return all(type(item) is int and item >= 0 for item in value)


def _ask(api: str, document: dict[str, Any], prompts: tuple[Prompt, ...], *, generates: bool = True) -> Ask | Denial:
    """What all of OpenAI's requests have in common."""
    model = document.get("model")
    if type(model) is not str or not model:
        return _bad("model", "the name of a model")
    stream = document.get("stream")
    if stream is not None and type(stream) is not bool:
        return _bad("stream", "true or false")
    if "chat_template" in document or "background" in document or "chat_template_kwargs" in document:
        refused = _behind_our_back(document)
        if refused is not None:
            return refused
    cap: int | None = None
    for name in ("max_tokens", "max_completion_tokens"):
        value = document.get(name)
        if value is None:
            continue
        if type(value) is not int:
            return _bad(name, "an integer")
        # Several servers read a cap of zero or less as "without end": for us it is as if absent.
        if value > 0 and (cap is None or value > cap):
            cap = value
    choices = 1
    for name in ("n", "best_of"):
        value = document.get(name)
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= MAX_CHOICES:
            return _bad(name, f"an integer from 1 to {MAX_CHOICES}")
        choices = max(choices, value)
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        return _bad("stream_options", "an object")
    return Ask(api, model, bool(stream), cap, choices, prompts, generates)


def _behind_our_back(document: dict[str, Any]) -> Denial | None:
    if document.get("background"):
        return _bad("background", "false: an answer that is fetched later cannot be metered here")
    if document.get("chat_template") is not None:
        return _bad("chat_template", "left out: it changes the prompt")
    options = document.get("chat_template_kwargs")
    if isinstance(options, dict) and "chat_template" in options:
        return _bad("chat_template_kwargs", "free of `chat_template`: it changes the prompt")
    return None
