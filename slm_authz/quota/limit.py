"""ROOM 4: how much? A limit as the counters see it, and what the counters are called. Enters: settings. Leaves: `Limit`.

Counter identity = (kind, algorithm, period, subject kind, subject, models): not tier, size, burst or name, so that changing a size
forgets nothing and a client that changes its tier goes on counting where the limits are of the same nature.
"""

from __future__ import annotations

from typing import Final

import msgspec

from slm_authz.quota.window import PERIOD_MS
from slm_authz.settings.names import limit_name
from slm_authz.settings.schema import LimitSpec

REQUESTS, TOKENS, COST, CONCURRENT = range(4)
KINDS: Final = ("requests", "tokens", "cost", "concurrent")
FIXED, GCRA, SLOTS = range(3)
ALGORITHMS: Final = ("fixed", "gcra", "slots")

SEPARATOR: Final = "\t"
"""Parts of a counter's name; never part of a subject, which is visible ASCII."""


class Limit(msgspec.Struct, frozen=True, eq=False):
    """One limit, compiled.

    kind, algorithm: indexes into KINDS and ALGORITHMS (`concurrent` counts slots and has no period)
    size:   the limit in its own unit (requests, tokens, nanos, calls at once); for GCRA the rate per period
    burst:  GCRA only: the total at once
    period: `second` … `month`, or "" for concurrency; period_ms: its nominal length, 0 for months and concurrency
    by:     subject kind; models: canonical names or patterns it is narrowed to, None: all
    order:  position in the file
    stem:   the counter identity without its subject
    """

    name: str
    kind: int
    algorithm: int
    size: int
    burst: int
    period: str
    period_ms: int
    by: str
    models: tuple[str, ...] | None
    order: int
    on_outage: str
    stem: str

    @property
    def shown_size(self) -> int:
        """The size that people see: for GCRA what fits at once."""
        return self.burst if self.algorithm == GCRA else self.size

    @property
    def shared(self) -> bool:
        """Whether all clients share it: then its use is never shown to a caller."""
        return self.by == "model"


def compile_limit(spec: LimitSpec, scope: str, order: int, *, model: str | None, on_outage: str) -> Limit:
    """A limit of a tier (`model` None) or of the model of that name; `scope` is the tier's or the model's name."""
    by = spec.by or ("model" if model is not None else "client")
    models = (model,) if model is not None else (tuple(sorted(spec.models)) if spec.models is not None else None)
    kind = KINDS.index(spec.kind)
    algorithm = SLOTS if kind == CONCURRENT else ALGORITHMS.index(spec.algorithm)
    period = spec.per or ""
    return Limit(
        name=spec.name or limit_name(scope, spec, by),
        kind=kind,
        algorithm=algorithm,
        size=spec.size,
        burst=(spec.burst or max(1, spec.size // 10)) if algorithm == GCRA else 0,
        period=period,
        period_ms=PERIOD_MS.get(period, 0),
        by=by,
        models=models,
        order=order,
        on_outage=spec.on_outage or on_outage,
        stem=SEPARATOR.join((KINDS[kind], ALGORITHMS[algorithm], period, by, ",".join(models or ()))),
    )
