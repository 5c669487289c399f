"""What the caller sees of limits: response headers, and the words of a 429. Enters: views and refusals. Leaves: text.

Headers: OpenAI's `x-ratelimit-*` and `RateLimit-Policy` / `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10.
Forbidden: another caller's use: a limit that a model's callers share is named without figures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from slm_authz.quota.bound import Bound
from slm_authz.quota.counters import Refusal, View
from slm_authz.quota.limit import CONCURRENT, COST, GCRA, KINDS, REQUESTS, TOKENS, Limit
from slm_authz.reason import Denial, Reason
from slm_authz.settings.schema import Price
from slm_authz.units import format_money

Headers = tuple[tuple[str, str], ...]
Jitter = Callable[[], float]
"""A random number in [0, 1)."""

_SHORT: Final = frozenset({"second", "minute", "hour", ""})
_GIVE_UP_S: Final = 60
_MOST: Final = 999_999_999_999_999
"""Integers of structured fields have at most 15 digits (RFC 9651, 3.3.1)."""


@lru_cache(maxsize=8192)
def openai_duration(seconds: int) -> str:
    """`63` as `1m3s`, in the form of OpenAI's `x-ratelimit-reset-*` headers."""
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours}h{m}m{s}s"
    return f"{m}m{s}s" if m else f"{s}s"


@lru_cache(maxsize=4096)
def _policy(limit: Limit) -> tuple[str, str, str]:
    """(size, `"name"`, its whole item of RateLimit-Policy): constant per limit."""
    quoted = '"' + limit.name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    item = f"{quoted};q={min(_MOST, limit.shown_size)}"
    if limit.kind == TOKENS:
        item += ';qu="tokens"'
    if limit.algorithm == GCRA:
        item += f";w={-(-limit.burst * limit.period_ms // (limit.size * 1000))}"
    elif limit.period_ms:
        item += f";w={limit.period_ms // 1000}"
    return str(limit.shown_size), quoted, item


@lru_cache(maxsize=4096)
def _policies(requests: Limit, tokens: Limit) -> str:
    return f"{_policy(requests)[2]}, {_policy(tokens)[2]}"


def _figures(name: str, view: View) -> tuple[str, str, str]:
    """(remaining, reset as OpenAI writes it, the item of `RateLimit`)."""
    remaining, millis = view.remaining, view.reset_ms
    seconds = -(-millis // 1000)
    left = str(remaining)
    reset = openai_duration(seconds) if millis >= 1000 else f"{millis}ms"
    return left, reset, f"{name};r={left if remaining <= _MOST else _MOST};t={seconds}"


def rate_limit_headers(requests: View | None, tokens: View | None) -> Headers:
    """The caller's tightest limits of requests and tokens, in both families of headers; none where there is no opinion."""
    if requests is None:
        if tokens is None:
            return ()
        size, name, policy = _policy(tokens.limit)
        remaining, reset, state = _figures(name, tokens)
        return (
            ("x-ratelimit-limit-tokens", size),
            ("x-ratelimit-remaining-tokens", remaining),
            ("x-ratelimit-reset-tokens", reset),
            ("ratelimit-policy", policy),
            ("ratelimit", state),
        )
    size, name, policy = _policy(requests.limit)
    remaining, reset, state = _figures(name, requests)
    first = (
        ("x-ratelimit-limit-requests", size),
        ("x-ratelimit-remaining-requests", remaining),
        ("x-ratelimit-reset-requests", reset),
    )
    if tokens is None:
        return (*first, ("ratelimit-policy", policy), ("ratelimit", state))
    size, name, _ = _policy(tokens.limit)
    remaining, reset, more = _figures(name, tokens)
    return (
        *first,
        ("x-ratelimit-limit-tokens", size),
        ("x-ratelimit-remaining-tokens", remaining),
        ("x-ratelimit-reset-tokens", reset),
        ("ratelimit-policy", _policies(requests.limit, tokens.limit)),
        ("ratelimit", f"{state}, {more}"),
    )


def reason_of(refusal: Refusal) -> Reason:
    """The reason code of a refusal by a limit."""
    limit = refusal.line.limit
    if refusal.wait_ms is None:
        return Reason.EXCEEDS_LIMIT
    if limit.shared:
        return Reason.MODEL_AT_CAPACITY
    if limit.kind == CONCURRENT:
        return Reason.TOO_MANY_CONCURRENT
    if limit.kind == COST:
        return Reason.BUDGET_EXCEEDED
    return Reason.RATE_LIMITED if limit.period in _SHORT else Reason.QUOTA_EXCEEDED


def _amount(limit: Limit, amount: int, currency: str) -> str:
    if limit.kind == COST:
        return f"{format_money(amount)} {currency}"
    plural = "calls" if limit.kind == CONCURRENT else KINDS[limit.kind]
    word = plural.removesuffix("s") if amount == 1 else plural
    return f"{amount} {word} at once" if limit.kind == CONCURRENT else f"{amount} {word}"


def _size(limit: Limit, currency: str) -> str:
    if limit.kind == CONCURRENT:
        return _amount(limit, limit.size, currency)
    size = f"{_amount(limit, limit.size, currency)} per {limit.period}"
    return f"{size}, at most {limit.burst} at once" if limit.algorithm == GCRA else size


def deny(refusal: Refusal, bound: Bound, price: Price | None, currency: str, jitter: Jitter) -> Denial:
    """The refusal in the caller's words: which limit, its size, what is used, when it resets, and what to do."""
    limit = refusal.line.limit
    reason = reason_of(refusal)
    headers = rate_limit_headers(refusal.requests, refusal.tokens)
    if refusal.wait_ms is None:
        return Denial(reason, _too_large(refusal, bound, price, currency), limit=limit.name, should_retry=False, headers=headers)
    seconds = max(1, -(-refusal.wait_ms // 1000))
    if refusal.settles or limit.shared:
        seconds += round(jitter())
    if limit.shared:
        message = f"The model is at capacity (limit {limit.name}). Retry in {seconds} s."
    elif limit.kind == CONCURRENT:
        message = (
            f"Limit {limit.name} of {_size(limit, currency)} is reached: {refusal.held} {'is' if refusal.held == 1 else 'are'} running. "
            f"Wait for one to end, then retry; {seconds} s is a good guess."
        )
    else:
        message = (
            f"Limit {limit.name} of {_size(limit, currency)} is reached: {_amount(limit, refusal.used, currency)} used, "
            f"{_amount(limit, refusal.held, currency)} held by calls in flight, {_amount(limit, refusal.amount, currency)} needed. "
            f"It resets in {openai_duration(-(-refusal.reset_ms // 1000))}. Retry in {seconds} s."
        )
    return Denial(reason, message, limit=limit.name, retry_after=seconds, should_retry=seconds <= _GIVE_UP_S, headers=headers)


def _too_large(refusal: Refusal, bound: Bound, price: Price | None, currency: str) -> str:
    limit = refusal.line.limit
    needs = _amount(limit, refusal.amount, currency)
    text = f"This request may need {needs}, more than limit {limit.name} of {_size(limit, currency)} ever allows."
    caps = [cap for cap in (_largest_cap(limit, bound, price) for limit in (limit, *refusal.never)) if cap is not None]
    if limit.kind in (REQUESTS, CONCURRENT):
        return text
    if not caps or min(caps) < 1:
        return f"{text} Shorten the prompt."
    return f"{text} Set max_tokens to {min(caps)} or less."


def _largest_cap(limit: Limit, bound: Bound, price: Price | None) -> int | None:
    """The largest cap that fits under a limit's size; None: a cap changes nothing there."""
    copies = bound.copies
    if not bound.cap or not copies:
        return None
    if limit.kind == TOKENS:
        return (limit.shown_size - bound.input_tokens) // copies
    if limit.kind == COST and price is not None and price.output:
        return (limit.shown_size * price.per - bound.input_tokens * price.input) // (price.output * copies)
    return None
