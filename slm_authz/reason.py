"""The words for "no": `Reason` codes, stable and one per cause, and `Denial`, the value that a room answers instead of its own.

Nothing enters; nothing here knows about transports (gRPC codes stand in `wire/status.py`).
Source of the codes and statuses: the product contract, "Records".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Reason(StrEnum):
    """Reason codes as they appear in audit events, metrics and, except for bad keys, in refusal bodies."""

    OK = "ok"
    # 400
    MALFORMED_REQUEST = "malformed_request"
    AMBIGUOUS_REQUEST = "ambiguous_request"
    CAP_TOO_LARGE = "cap_too_large"
    # 401
    NO_CREDENTIAL = "no_credential"
    MANY_CREDENTIALS = "many_credentials"
    MALFORMED_KEY = "malformed_key"
    UNKNOWN_KEY = "unknown_key"
    KEY_DISABLED = "key_disabled"
    KEY_EXPIRED = "key_expired"
    KEY_REVOKED = "key_revoked"
    INVALID_TOKEN = "invalid_token"  # noqa: S105 - a reason code, not a secret
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a reason code, not a secret
    WRONG_ISSUER = "wrong_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    # 403
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    UNKNOWN_MODEL = "unknown_model"
    PATH_NOT_ALLOWED = "path_not_allowed"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    CLIENT_BLOCKED = "client_blocked"
    POLICY = "policy"
    # 413
    BODY_NOT_WHOLE = "body_not_whole"
    # 429
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    BUDGET_EXCEEDED = "budget_exceeded"
    TOO_MANY_CONCURRENT = "too_many_concurrent"
    MODEL_AT_CAPACITY = "model_at_capacity"
    EXCEEDS_LIMIT = "exceeds_limit"
    # 503
    STORE_UNAVAILABLE = "store_unavailable"
    IDP_UNAVAILABLE = "idp_unavailable"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    NOT_READY = "not_ready"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


_BY_STATUS: Final[dict[int, tuple[Reason, ...]]] = {
    200: (Reason.OK,),
    400: (Reason.MALFORMED_REQUEST, Reason.AMBIGUOUS_REQUEST, Reason.CAP_TOO_LARGE),
    401: (
        Reason.NO_CREDENTIAL,
        Reason.MANY_CREDENTIALS,
        Reason.MALFORMED_KEY,
        Reason.UNKNOWN_KEY,
        Reason.KEY_DISABLED,
        Reason.KEY_EXPIRED,
        Reason.KEY_REVOKED,
        Reason.INVALID_TOKEN,
        Reason.TOKEN_EXPIRED,
        Reason.WRONG_ISSUER,
        Reason.WRONG_AUDIENCE,
    ),
    403: (
        Reason.ADDRESS_NOT_ALLOWED,
        Reason.MODEL_NOT_ALLOWED,
        Reason.UNKNOWN_MODEL,
        Reason.PATH_NOT_ALLOWED,
        Reason.INSUFFICIENT_SCOPE,
        Reason.CLIENT_BLOCKED,
        Reason.POLICY,
    ),
    413: (Reason.BODY_NOT_WHOLE,),
    429: (
        Reason.RATE_LIMITED,
        Reason.QUOTA_EXCEEDED,
        Reason.BUDGET_EXCEEDED,
        Reason.TOO_MANY_CONCURRENT,
        Reason.MODEL_AT_CAPACITY,
        Reason.EXCEEDS_LIMIT,
    ),
    503: (
        Reason.STORE_UNAVAILABLE,
        Reason.IDP_UNAVAILABLE,
        Reason.AUDIT_UNAVAILABLE,
        Reason.NOT_READY,
        Reason.DEADLINE_EXCEEDED,
        Reason.CANCELLED,
        Reason.INTERNAL,
    ),
}

STATUS: Final[dict[Reason, int]] = {reason: status for status, reasons in _BY_STATUS.items() for reason in reasons}
"""HTTP status of each reason code."""

BAD_KEY: Final = frozenset(
    {
        Reason.MALFORMED_KEY,
        Reason.UNKNOWN_KEY,
        Reason.KEY_DISABLED,
        Reason.KEY_EXPIRED,
        Reason.KEY_REVOKED,
    }
)
"""Reasons that the caller must not be able to tell apart: one answer, code `invalid_api_key`."""


class Denial(msgspec.Struct, gc=False):
    """A refusal as a value. What the caller may read is `message` and the code; the rest is for headers and audit.

    message:      says what to do; never a claim value, an internal, or another client's data
    code:         a policy's own code; None: the reason code, or `invalid_api_key` for bad keys
    status:       a policy's own 4xx status; None: the status of the reason
    limit:        name of the deciding limit or policy, for the audit event
    retry_after:  whole seconds after which a retry can succeed; None: waiting does not help
    should_retry: False adds `x-should-retry: false`, which the SDKs obey
    param:        the request member at fault, where one is
    headers:      further response headers (rate limit headers on 429)
    about:        the principal whose credential this is, where it is genuine and not in force; for the audit event alone
    """

    reason: Reason
    message: str
    code: str | None = None
    status: int | None = None
    limit: str | None = None
    retry_after: int | None = None
    should_retry: bool = True
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    about: object = None

    @property
    def http_status(self) -> int:
        """The HTTP status that the caller sees."""
        return self.status if self.status is not None else STATUS[self.reason]

    @property
    def public_code(self) -> str:
        """The `code` member of the refusal body."""
        if self.code is not None:
            return self.code
        return "invalid_api_key" if self.reason in BAD_KEY else self.reason.value
