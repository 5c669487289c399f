"""OpenAI's dialect: /v1/chat/completions, /v1/completions, /v1/embeddings. Enters: body bytes. Leaves: `Ask` or a refusal.

The bytes of a prompt are those of its text: contents, names, suffixes; what stands around them is the template's (`template_tokens`).
Forbidden: the caller's text in a refusal; a prompt whose size is guessed instead of called opaque.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from slm_authz.llm.ask import Ask, Prompt
from slm_authz.llm.members import PLAIN, ask, bad, judge_others
from slm_authz.llm.strict import decode
from slm_authz.reason import Denial

MAX_PROMPTS: Final = 2048
"""Prompts or inputs in one call (OpenAI's own limit for embeddings)."""
TEMPLATED_MESSAGES: Final = 8
"""Messages whose framing `template_tokens` covers; each further one counts `FRAME_BYTES`, or many empty ones would be free."""
FRAME_BYTES: Final = 8

_CHAT: Final = PLAIN | {"messages"}
_COMPLETIONS: Final = PLAIN | {"prompt", "suffix"}
_EMBEDDINGS: Final = PLAIN | {"input"}

# A template writes the role into the prompt: what is not one of these is not ours to bound.
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_MESSAGE_MEMBERS: Final = frozenset({"role", "content", "name"})
_TEXT_PART: Final = frozenset({"type", "text"})
_IMAGE_PART: Final = frozenset({"type", "image_url"})
_MESSAGES: Final = "a list of messages, each an object whose content is a string or a list of parts"
_TEXTS: Final = "a string, a list of strings, a list of token ids or a list of such lists"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


class _Text(msgspec.Struct):
    """What has been counted of a chat so far. media: bytes of images, which are counted as images and not as text."""

    text: int = 0
    images: int = 0
    media: int = 0
    opaque: bool = False


def read_chat(body: bytes) -> Ask | Denial:
    """POST /v1/chat/completions: one prompt, all messages together."""
    document = decode(body)
    if isinstance(document, Denial):
        return document
    messages = document.get("messages")
    if type(messages) is not list or not messages:
        return bad("messages", _MESSAGES)
    seen = _Text()
    if not document.keys() <= _CHAT:
        judged = judge_others(document, _CHAT)
        if isinstance(judged, Denial):
            return judged
        seen.opaque = judged
    text = 0
    for message in messages:
        if type(message) is not dict:
            return bad("messages", _MESSAGES)
        content, role = message.get("content"), message.get("role")
        if type(content) is str and type(role) is str and role in _ROLES and len(message) == 2:
            text += len(content) if content.isascii() else len(content.encode())
        elif not _message(message, seen):
            return bad("messages", _MESSAGES)
    text += seen.text
    if len(messages) > TEMPLATED_MESSAGES:
        text += FRAME_BYTES * (len(messages) - TEMPLATED_MESSAGES)
    other = max(0, len(body) - text - seen.media) if seen.opaque else 0
    return ask("openai.chat", document, (Prompt(text, 0, seen.images, seen.opaque, other),))


def _message(message: dict[str, Any], seen: _Text) -> bool:
    """A message that is more than a role and a string; False where it is none. Empty members (`tool_calls: null`) hold nothing."""
    content, role, name = message.get("content"), message.get("role"), message.get("name")
    if type(role) is not str or role not in _ROLES:
        seen.opaque = True
    if any(value is not None and value != [] for member, value in message.items() if member not in _MESSAGE_MEMBERS):
        seen.opaque = True
    if type(name) is str:
        seen.text += _size(name)
    elif name is not None:
        seen.opaque = True
    if type(content) is str:
        seen.text += _size(content)
    elif type(content) is list:
        return _parts(content, seen)
    return content is None or type(content) is str


def _parts(parts: list[Any], seen: _Text) -> bool:
    """A content that is a list of parts: texts, which servers join by a line feed each, and images. False where it is none."""
    seen.text += max(len(parts) - 1, 0)
    for part in parts:
        if type(part) is not dict:
            return False
        kind = part.get("type")
        if kind == "text" and part.keys() <= _TEXT_PART:
            if type(part.get("text")) is not str:
                return False
            seen.text += _size(part["text"])
        elif kind == "image_url" and part.keys() <= _IMAGE_PART:
            seen.images += 1
            seen.media += _media(part["image_url"])
        else:
            seen.opaque = True
    return True


def _media(image: Any) -> int:
    url = image.get("url") if type(image) is dict else image
    return len(url) if type(url) is str else 0


def read_completions(body: bytes) -> Ask | Denial:
    """POST /v1/completions: a prompt, or a list of prompts, as text or as token ids. No prompt is one empty prompt."""
    document = decode(body)
    if isinstance(document, Denial):
        return document
    opaque = judge_others(document, _COMPLETIONS)
    if isinstance(opaque, Denial):
        return opaque
    suffix = document.get("suffix")
    if suffix is None:
        suffix = ""
    elif type(suffix) is not str:
        return bad("suffix", "a string")
    value = document.get("prompt")
    prompts = _prompts("" if value is None else value, opaque=opaque, body=len(body), extra=_size(suffix))
    return ask("openai.completions", document, prompts) if prompts is not None else bad("prompt", _TEXTS)


def read_embeddings(body: bytes) -> Ask | Denial:
    """POST /v1/embeddings: inputs as text or as token ids; nothing is generated, so neither cap nor stream mean anything."""
    document = decode(body)
    if isinstance(document, Denial):
        return document
    opaque = judge_others(document, _EMBEDDINGS)
    if isinstance(opaque, Denial):
        return opaque
    prompts = _prompts(document.get("input"), opaque=opaque, body=len(body))
    if prompts is None:
        return bad("input", _TEXTS)
    model = document.get("model")
    if type(model) is not str or not model:
        return bad("model", "the name of a model")
    return Ask("openai.embeddings", model, prompts=prompts, generates=False)


def _prompts(value: Any, *, opaque: bool, body: int, extra: int = 0) -> tuple[Prompt, ...] | None:
    """What `_TEXTS` says, at most `MAX_PROMPTS` of them, with `extra` bytes of text each; None where it is something else."""
    sizes = _sizes(value)
    if sizes is None:
        return None
    # What is opaque may stand before each of the prompts.
    other = max(0, body - sum(text for text, _ in sizes) - extra) if opaque else 0
    return tuple(Prompt(text + extra, tokens, 0, opaque, other) for text, tokens in sizes)


def _sizes(value: Any) -> list[tuple[int, int]] | None:
    """(bytes of text, token ids) of each prompt."""
    if type(value) is str:
        return [(_size(value), 0)]
    if type(value) is not list or not value:
        return None
    if _token_ids(value):
        return [(0, len(value))]
    if len(value) > MAX_PROMPTS:
        return None
    sizes: list[tuple[int, int]] = []
    for item in value:
        if type(item) is str:
            sizes.append((_size(item), 0))
        elif type(item) is list and item and _token_ids(item):
            sizes.append((0, len(item)))
        else:
            return None
    return sizes


def _token_ids(value: list[Any]) -> bool:
    return set(map(type, value)) == {int} and min(value) >= 0
