"""ROOM 2: who? Enters: a request. Leaves: `Principal`, `Deferred` or a refusal.

A string in a configured place belongs to the method whose shape it has; a claimed credential that is bad ends the search. Plugins are
asked in configured order for what no built-in method claims. What nobody claims is never `anonymous`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from slm_authz.errors import UsageError
from slm_authz.identity.directory import MALFORMED, KeyDirectory
from slm_authz.identity.key_format import PREFIX
from slm_authz.identity.principal import Deferred, IdentityMethod, Principal
from slm_authz.identity.record import listed, visible
from slm_authz.reason import Denial, Reason
from slm_authz.request import RequestContext
from slm_authz.request.credential import MANY, Finder, Found

log = logging.getLogger(__name__)

NO_CREDENTIAL: Final = Denial(Reason.NO_CREDENTIAL, "No API key was sent. Send one as `Authorization: Bearer <key>`.")
_FAILED: Final = Denial(Reason.INTERNAL, "The caller could not be identified because of a fault here; retry.")


class Resolver:
    """The identity methods of one configuration."""

    def __init__(
        self,
        finder: Finder,
        keys: KeyDirectory | None,
        plugins: Sequence[tuple[str, IdentityMethod]] = (),
        anonymous: Principal | None = None,
    ) -> None:
        self._finder = finder
        self._keys = keys
        self._plugins = tuple(plugins)
        self._anonymous = anonymous

    def find(self, request: RequestContext, query: str) -> Found | Denial:
        """Credentials in the configured places; none of the places that are filled may reach the upstream."""
        return self._finder.find(request, query)

    def resolve(self, found: Found, request: RequestContext, now: int) -> Principal | Denial | Deferred:
        """Verify the caller by what was found. `now` is Unix milliseconds."""
        strings = found.strings
        if self._keys is not None:
            claimed = [string for string in strings if string.startswith(PREFIX)]
            if len(claimed) > 1:
                return MANY
            if claimed:
                return self._keys.authenticate(claimed[0], now)
        for name, plugin in self._plugins:
            answer = self._ask(name, plugin, request, now)
            if answer is not None:
                return answer
        if strings or found.headers or found.query:
            return MALFORMED
        return self._anonymous or NO_CREDENTIAL

    def _ask(self, name: str, plugin: IdentityMethod, request: RequestContext, now: int) -> Principal | Denial | Deferred | None:
        try:
            answer = plugin.identify(request, now)
        except Exception:  # a plugin's failure is ours: the call is refused, never passed
            log.exception("identity method %s failed", name)
            return _FAILED
        return checked(name, answer) if isinstance(answer, Principal) else answer


def checked(name: str, principal: Principal) -> Principal | Denial:
    """A plugin's principal, if all of it can travel in headers."""
    try:
        for value in (principal.client, principal.tier, principal.tenant, principal.key_id):
            if value is not None:
                visible("a plugin's value", value)
        listed("scopes", principal.scopes)
    except UsageError as error:
        log.error("identity method %s returned a principal that cannot travel: %s", name, error)
        return _FAILED
    return principal
