"""Which API a path belongs to, and what settlement must know of it. The one table to extend for a new dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from slm_authz.llm import openai
from slm_authz.llm.ask import Ask
from slm_authz.reason import Denial

Dialect = Literal["openai", "anthropic", "ollama"]


class Route(msgspec.Struct, frozen=True):
    """An API path. `read` turns a body into an `Ask`; None where no model is asked."""

    api: str
    dialect: Dialect
    read: Callable[[bytes], Ask | Denial] | None = None


ROUTES: Final[dict[tuple[str, str], Route]] = {
    ("POST", "/v1/chat/completions"): Route("openai.chat", "openai", openai.read_chat),
    ("POST", "/v1/completions"): Route("openai.completions", "openai", openai.read_completions),
    ("POST", "/v1/embeddings"): Route("openai.embeddings", "openai", openai.read_embeddings),
    ("GET", "/v1/models"): Route("openai.models", "openai"),
}
"""The paths of this release, by method and exact path."""


def _loose(path: str) -> str:
    return path.rstrip("/. ").casefold()


_LOOSE: Final = frozenset((method, _loose(path)) for method, path in ROUTES)


def resembles(method: str, path: str) -> bool:
    """Whether a path is another spelling of one of ours: some servers would serve it, unmetered, so no rule of `paths` lets it pass."""
    return (method, _loose(path)) in _LOOSE


class SettlementFacts(msgspec.Struct, frozen=True):
    """What a dialect's answers say about tokens.

    reports_output: whether its usage has output tokens
    cumulative:     whether usage seen in a stream that ended early is the use up to there
    smallest_chunk: least upstream bytes per generated token in a stream: an honest divisor for streams that ended early
    """

    reports_output: bool
    cumulative: bool
    smallest_chunk: int


# What a server must send at least for one token in a stream. Real servers add an id, an object, a time and the model (170 bytes and
# more) and the framing of HTTP, so what is estimated from bytes is rather too much than too little; it is never above the hold.
_CHAT_CHUNK: Final = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
_TEXT_CHUNK: Final = b'data: {"choices":[{"text":"x"}]}\n\n'

# OpenAI's streams tell usage once, at their end, or running in every chunk (vLLM's `continuous_usage_stats`): both are the use so far.
_SETTLEMENT: Final[dict[str, SettlementFacts]] = {
    "openai.chat": SettlementFacts(reports_output=True, cumulative=True, smallest_chunk=len(_CHAT_CHUNK)),
    "openai.completions": SettlementFacts(reports_output=True, cumulative=True, smallest_chunk=len(_TEXT_CHUNK)),
    "openai.embeddings": SettlementFacts(reports_output=False, cumulative=True, smallest_chunk=1),
}
_UNKNOWN: Final = SettlementFacts(reports_output=True, cumulative=False, smallest_chunk=1)


def settlement_facts(api: str) -> SettlementFacts:
    """The facts of one API."""
    return _SETTLEMENT.get(api, _UNKNOWN)


def dialect_of(path: str) -> Dialect:
    """In whose words a refusal on this path is understood."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return "anthropic"
    return "ollama" if path.startswith("/api/") else "openai"
