"""ROOM 2: who? Enters: a request. Leaves: `Principal`, `Deferred` or a refusal.

A string in a configured place belongs to the method whose shape it has, and whoever claims it decides: a claimed credential that is bad
ends the search. The order is fixed: API keys by their shape; then plugins, as configured, for requests of which no built-in method claims a
string; then `anonymous`, only where no configured place is filled at all. Beside an API key, strings that have not its shape are nobody's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Generator, Sequence
from traceback import extract_tb
from typing import Any, Final

from slm_authz.identity.directory import MALFORMED, KeyDirectory
from slm_authz.identity.foreign import judged
from slm_authz.identity.key_format import PREFIX
from slm_authz.identity.principal import Deferred, IdentityMethod, Principal
from slm_authz.reason import Denial, Reason
from slm_authz.request import RequestContext
from slm_authz.request.credential import MANY, Finder, Found

log = logging.getLogger(__name__)

NO_CREDENTIAL: Final = Denial(Reason.NO_CREDENTIAL, "No API key was sent. Send one as `Authorization: Bearer <key>`.")
_UNJUDGED: Final = Found((), ("authorization", "x-api-key", "api-key"))
_FAILED: Final = Denial(Reason.INTERNAL, "The caller could not be identified because of a fault here; retry.")

Answer = Principal | Denial | Deferred


class Resolver:
    """The identity methods of one configuration. `tiers`: those that exist, where a plugin's word is to be checked.

    finder: None: no method looks at a credential, so none is judged; what stands where one usually does is removed all the same
    """

    def __init__(
        self,
        finder: Finder | None,
        keys: KeyDirectory | None,
        plugins: Sequence[tuple[str, IdentityMethod]] = (),
        anonymous: Principal | None = None,
        tiers: Container[str] | None = None,
    ) -> None:
        self._finder = finder
        self._keys = keys
        self._plugins = tuple(plugins)
        self._anonymous = anonymous
        self._tiers = tiers

    def find(self, request: RequestContext, query: str) -> Found | Denial:
        """Credentials in the configured places; none of the places that are filled may reach the upstream."""
        return self._finder.find(request, query) if self._finder is not None else _UNJUDGED

    def resolve(self, found: Found, request: RequestContext, now: int) -> Answer:
        """Verify the caller by what was found. `now` is Unix milliseconds."""
        strings = found.strings
        if self._keys is not None and strings:
            key = strings[0]
            if len(strings) > 1 or not key.startswith(PREFIX):
                claimed = [string for string in strings if string.startswith(PREFIX)]
                if len(claimed) > 1:
                    return MANY
                key = claimed[0] if claimed else ""
            if key:
                return self._keys.authenticate(key, now)
        for name, plugin in self._plugins:
            answer = self._ask(name, plugin, request, now)
            if answer is not None:
                return answer
        if self._finder is not None and (found.headers or found.query):
            return MALFORMED
        return self._anonymous or NO_CREDENTIAL

    def _ask(self, name: str, plugin: IdentityMethod, request: RequestContext, now: int) -> Answer | None:
        try:
            answer = plugin.identify(request, now)
        except BaseException as error:  # noqa: BLE001 - a plugin's failure is ours, its exit too: the call is refused, the thread decides on
            at = extract_tb(error.__traceback__)[-1]  # its message may quote the credential
            log.error("identity method %s failed: %s in %s, line %s", name, type(error).__name__, at.filename, at.lineno)
            return _FAILED
        if isinstance(answer, Deferred):
            return Deferred(_Judged(answer, lambda later: self._judge(name, later)))
        return self._judge(name, answer)

    def _judge(self, name: str, answer: object) -> Principal | Denial | None:
        fault, good = judged(answer, self._tiers)
        if fault is not None:
            log.error("identity method %s: %s", name, fault)
            return _FAILED
        return good


class _Judged:
    """A deferred answer, judged like an immediate one. Who has deferred has claimed the call: None is refused where it comes back."""

    def __init__(self, deferred: Deferred, judge: Callable[[object], Principal | Denial | None]) -> None:
        self._deferred = deferred
        self._judge = judge

    def __await__(self) -> Generator[Any, Any, Principal | Denial | None]:
        answer = yield from self._deferred.answer.__await__()
        return self._judge(answer)
