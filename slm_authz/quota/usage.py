"""How all limits stand: the rows of `usage`. Enters: limits, callers, counters. Leaves: one row per limit and subject.

Callers that are known from their keys have a row for every limit of their tier, used or not; subjects that only the counters know
(addresses, callers of plugins) follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from slm_authz.identity.principal import Principal
from slm_authz.quota import gcra, rules
from slm_authz.quota.account import QuotaTable, subject_of
from slm_authz.quota.limit import COST, FIXED, GCRA, KINDS, SEPARATOR, Limit
from slm_authz.quota.window import Calendar
from slm_authz.settings.patterns import matches
from slm_authz.units import format_money

Figure = int | str
States = Callable[[Sequence[str]], list[rules.State | None]]


class UsageRow(msgspec.Struct, frozen=True):
    """One limit of one subject. Money is a decimal string; `used` without `held`; `reset_at` RFC 3339, None for concurrency."""

    name: str
    kind: str
    by: str
    subject: str
    model: str | None
    per: str | None
    limit: Figure
    used: Figure
    held: Figure
    left: Figure
    reset_at: str | None


class UsageQuery(msgspec.Struct, frozen=True):
    """What to show; None: everything."""

    client: str | None = None
    tenant: str | None = None
    key: str | None = None
    model: str | None = None


def rows(
    table: QuotaTable,
    callers: Iterable[Principal],
    live: Callable[[], list[str]],
    states: States,
    calendar: Calendar,
    query: UsageQuery,
    now: int,
) -> Iterator[UsageRow]:
    """All rows that the query wants, callers first. A counter that several limits share has a row for each of them."""
    seen: set[tuple[str, str]] = set()
    wanted = _Wanted(table, query.model)
    for principal in callers:
        for limit, key, shown in _of_caller(table, principal):
            if (key, limit.name) not in seen and wanted(limit):
                seen.add((key, limit.name))
                yield _row(limit, shown, states([key])[0], calendar, now)
    if query.client is not None or query.tenant is not None or query.key is not None:
        return
    for model, limits in table.model_limits.items():
        for limit in limits:
            key = f"{limit.stem}{SEPARATOR}{model}"
            if limit.shared and (key, limit.name) not in seen and wanted(limit):
                seen.add((key, limit.name))
                yield _row(limit, model, states([key])[0], calendar, now)
    shown_keys = {key for key, _ in seen}
    for key in live():
        parts = key.split(SEPARATOR)
        stem, subject = SEPARATOR.join(parts[:5]), parts[5:]
        limit_or_none = next(iter(table.by_stem.get(stem, ())), None)
        if key not in shown_keys and limit_or_none is not None and wanted(limit_or_none):
            yield _row(limit_or_none, _people(subject), states([key])[0], calendar, now)


def _people(subject: Sequence[str]) -> str:
    """A subject as people read it: `tenant/client`, or the one of the two where they are the same. A slash within a name is escaped."""
    return "/".join(dict.fromkeys(part.replace("%", "%25").replace("/", "%2F") for part in subject))


def _of_caller(table: QuotaTable, principal: Principal) -> Iterator[tuple[Limit, str, str]]:
    """(limit, counter, subject as people read it) of a caller's own limits, for the models that its tier admits."""
    groups = (table.tier_limits.get(principal.tier, ()), *(table.model_limits[model] for model in table.admitted.get(principal.tier, ())))
    for limits in groups:
        for limit in limits:
            if limit.by in ("model", "address"):
                continue
            subject = subject_of(limit.by, principal, "", "")
            yield limit, f"{limit.stem}{SEPARATOR}{subject}", _people(subject.split(SEPARATOR))


class _Wanted:
    """Whether a limit counts calls for a model, by whichever of its names it is asked for; None: for any."""

    def __init__(self, table: QuotaTable, model: str | None) -> None:
        self._any = model is None
        self._name, self._aliases = table.spelled(model) if model is not None else ("", ())

    def __call__(self, limit: Limit) -> bool:
        if self._any or limit.models is None:
            return True
        return any(matches(pattern, self._name, self._aliases) for pattern in limit.models)


def _row(limit: Limit, subject: str, state: rules.State | None, calendar: Calendar, now: int) -> UsageRow:
    start, end = calendar.window(limit.period, now) if limit.algorithm == FIXED else (0, 0)
    used, held = rules.standing(state, limit, start, now)
    reset: int | None = end if limit.algorithm == FIXED else None
    if limit.algorithm == GCRA:
        debt = gcra.drained(state[1], now - state[0], limit.size) if state is not None else 0
        reset = now + gcra.reset_ms(debt, limit.size)
    size = limit.shown_size
    figures = [size, used, held, max(0, size - used - held)]
    shown = [format_money(figure) for figure in figures] if limit.kind == COST else figures
    return UsageRow(
        name=limit.name,
        kind=KINDS[limit.kind],
        by=limit.by,
        subject=subject,
        model=limit.models[0] if limit.models is not None and len(limit.models) == 1 else None,
        per=limit.period or None,
        limit=shown[0],
        used=shown[1],
        held=shown[2],
        left=shown[3],
        reset_at=_time(reset),
    )


def _time(millis: int | None) -> str | None:
    if millis is None:
        return None
    return datetime.fromtimestamp(-(-millis // 1000), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
