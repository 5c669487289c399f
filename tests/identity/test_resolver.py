"""Which method a string belongs to, who is asked in which order, and what is never anonymous."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest

from slm_authz.identity.directory import KeyDirectory
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.identity.pepper import Pepper
from slm_authz.identity.principal import Deferred, Principal
from slm_authz.identity.resolver import Resolver
from slm_authz.reason import Denial, Reason
from slm_authz.request import RequestContext
from slm_authz.request.credential import Finder, Found, Place

ANYONE = Principal("anonymous", "anonymous", "free")
FINDER = Finder([Place("authorization", "Bearer"), Place("x-api-key"), Place(query="key")])
GOOD = Principal("ldap", "mallory", "free", tenant="t", key_id="k", scopes=("a",), models=("m",), allow_ip=(ip_network("::/0"),))


class Plugin:
    """Answers what it was told to, and remembers whether it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    def identify(self, request: RequestContext, now: int) -> Any:
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Desk:
    """A resolver over real keys."""

    def __init__(self, life: Lifecycle, watched: Any, pepper: Pepper) -> None:
        self.keys = KeyDirectory(watched, pepper)
        self.good, self.other = (life.create(0, client=client, tier="free")[1] for client in ("acme", "other"))
        revoked, self.revoked = life.create(0, client="gone", tier="free")
        life.revoke([revoked.id], 1)
        self.keys.refresh()

    def ask(self, headers: dict[str, str], query: str = "", *, keys: bool = True, anonymous: bool = False, **more: Any) -> Any:
        resolver = Resolver(FINDER, self.keys if keys else None, anonymous=ANYONE if anonymous else None, **more)
        request = RequestContext("POST", "/v1/chat/completions", "h", headers)
        found = resolver.find(request, query)
        answer: Any = resolver.resolve(found, request, 1000) if isinstance(found, Found) else found
        if isinstance(answer, Deferred):

            async def wait() -> Any:
                return await answer.answer

            answer = asyncio.run(wait())
        return answer.reason.value if isinstance(answer, Denial) else answer and answer.client


@pytest.fixture
def desk(life: Lifecycle, watched: Any, pepper: Pepper) -> Desk:
    return Desk(life, watched, pepper)


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


@pytest.mark.parametrize("anonymous", [False, True])
def test_keys(desk: Desk, anonymous: bool) -> None:
    table: list[tuple[dict[str, str], str, str]] = [
        (bearer(desk.good), "", "acme"),
        ({"x-api-key": desk.good}, "", "acme"),
        ({}, f"key={desk.good}", "acme"),
        ({**bearer(desk.good), "x-api-key": desk.good}, f"key={desk.good}", "acme"),
        ({**bearer("sk-of-another-shape"), "x-api-key": desk.good}, "", "acme"),
        ({**bearer(desk.good), "x-api-key": "sk-of-another-shape"}, "", "acme"),
        ({**bearer(""), "x-api-key": desk.good}, "", "acme"),
        ({**bearer(desk.good), "x-api-key": desk.other}, "", "many_credentials"),
        ({**bearer(desk.good), "x-api-key": "slm_"}, "", "many_credentials"),
        ({**bearer(desk.revoked), "x-api-key": desk.good}, "", "many_credentials"),
        (bearer(desk.good), f"key={desk.other}", "many_credentials"),
        (bearer(f"{desk.good}, Bearer {desk.good}"), "", "many_credentials"),
        (bearer(desk.revoked), "", "key_revoked"),
        (bearer("slm_nonsense"), "", "malformed_key"),
        (bearer("sk-of-another-shape"), "", "malformed_key"),
        (bearer("SLM_" + desk.good[4:]), "", "malformed_key"),
        (bearer(""), "", "malformed_key"),
        ({"authorization": ""}, "", "malformed_key"),
        ({"authorization": desk.good}, "", "malformed_key"),
        ({"authorization": f"Basic {desk.good}"}, "", "malformed_key"),
        ({"x-api-key": f"Bearer {desk.good}"}, "", "malformed_key"),
        ({}, "key=", "malformed_key"),
        ({}, f"%6bey={desk.good}", "ambiguous_request"),
        ({}, "", "anonymous" if anonymous else "no_credential"),
        ({"x-other": desk.good}, f"other={desk.good}", "anonymous" if anonymous else "no_credential"),
    ]
    for headers, query, verdict in table:
        assert desk.ask(headers, query, anonymous=anonymous) == verdict, (headers, query)


@pytest.mark.parametrize("answer", [GOOD, None, Denial(Reason.INVALID_TOKEN, "no"), RuntimeError("boom"), "root"])
def test_a_claimed_key_ends_the_search(desk: Desk, answer: Any) -> None:
    plugin = Plugin(answer)
    assert desk.ask(bearer(desk.good), plugins=[("ldap", plugin)]) == "acme"
    assert desk.ask(bearer(desk.revoked), plugins=[("ldap", plugin)]) == "key_revoked"
    assert desk.ask(bearer("slm_nonsense"), plugins=[("ldap", plugin)], anonymous=True) == "malformed_key"
    assert plugin.asked == 0


async def later(answer: Any) -> Any:
    return answer


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer jwt"}])
def test_a_plugin_is_asked_for_what_nobody_claims(desk: Desk, headers: dict[str, str]) -> None:
    expired = Denial(Reason.TOKEN_EXPIRED, "no")
    table: list[tuple[Any, str]] = [
        (GOOD, "mallory"),
        (expired, "token_expired"),
        (RuntimeError("boom"), "internal"),
        (Deferred(later(GOOD)), "mallory"),
        (Deferred(later(expired)), "token_expired"),
    ]
    for answer, verdict in table:
        assert desk.ask(headers, plugins=[("ldap", Plugin(answer))], anonymous=True) == verdict


def test_plugins_are_asked_in_order_until_one_answers(desk: Desk) -> None:
    first, second, third = Plugin(None), Plugin(GOOD), Plugin(Denial(Reason.INVALID_TOKEN, "no"))
    assert desk.ask(bearer("jwt"), plugins=[("a", first), ("b", second), ("c", third)]) == "mallory"
    assert (first.asked, second.asked, third.asked) == (1, 1, 0)


def test_what_no_plugin_claims_is_never_anonymous(desk: Desk) -> None:
    plugins = [("a", Plugin(None)), ("b", Plugin(None))]
    for keys in (True, False):
        assert desk.ask(bearer("jwt"), plugins=plugins, anonymous=True, keys=keys) == "malformed_key"
        assert desk.ask({}, "key=", plugins=plugins, anonymous=True, keys=keys) == "malformed_key"
        assert desk.ask({}, plugins=plugins, anonymous=True, keys=keys) == "anonymous"
        assert desk.ask({}, plugins=plugins, keys=keys) == "no_credential"
    assert desk.ask(bearer(desk.good), anonymous=True, keys=False) == "malformed_key"


def _bad() -> list[Any]:
    def principal(**changes: Any) -> Principal:
        return msgspec.structs.replace(GOOD, **changes)

    return [
        *(principal(client=value) for value in ("", "a b", "a\r\nx-slm-tier: pro", "ü", "a" * 257, None, 7, b"acme")),
        *(principal(tier=value) for value in ("", "a b", None, 7, "gold")),
        *(principal(tenant=value) for value in ("", "a\n", 7)),
        *(principal(key_id=value) for value in ("", "a,\n", 7)),
        principal(method="a b"),
        *(principal(scopes=value) for value in (("a,b",), ("",), ("a" * 128, "b" * 129), ["a"], "ab", (7,), None)),
        *(principal(models=value) for value in ("m", ["m"], (7,))),
        *(principal(allow_ip=value) for value in (("10.0.0.0/8",), "::/0", [ip_network("::/0")], None)),
        *(principal(labels=value) for value in (None, [("a", "b")], {"a": 7}, {7: "a"}, {"a b": "c"}, {"a": "\n"})),
        Denial(Reason.OK, "served to the client as an answer"),
        Denial(Reason.POLICY, "the same", status=200),
        Denial(Reason.POLICY, "a redirect", status=302),
        "root", True, 0, object(), Principal, {}, [],
    ]  # fmt: skip


@pytest.mark.parametrize("deferred", [False, True])
def test_what_a_plugin_may_not_say_is_a_503_and_never_a_pass(desk: Desk, deferred: bool, caplog: pytest.LogCaptureFixture) -> None:
    for answer in _bad():
        caplog.clear()
        plugin = Plugin(Deferred(later(answer)) if deferred else answer)
        assert desk.ask(bearer("jwt"), plugins=[("ldap", plugin)], anonymous=True, tiers={"free"}) == "internal", answer
        assert "ldap" in caplog.text
        assert "mallory" not in caplog.text


def test_what_a_plugin_may_say(desk: Desk) -> None:
    for tiers in (None, {"free", "pro"}):
        assert desk.ask({}, plugins=[("ldap", Plugin(GOOD))], tiers=tiers) == "mallory"
        assert desk.ask({}, plugins=[("ldap", Plugin(Principal("ldap", "bob", "free")))], tiers=tiers) == "bob"


def test_who_has_deferred_has_claimed_the_call(desk: Desk) -> None:
    other = Plugin(GOOD)
    assert desk.ask({}, plugins=[("a", Plugin(Deferred(later(None)))), ("b", other)], anonymous=True) is None  # refused where it comes back
    assert other.asked == 0


def test_a_plugins_failure_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    resolver = Resolver(FINDER, None, [("ldap", Plugin(RuntimeError("password is hunter2")))])
    request = RequestContext("POST", "/", "h", {})
    answer = resolver.resolve(Found((), ()), request, 0)
    assert isinstance(answer, Denial)
    assert "hunter2" not in answer.message + caplog.text
    assert "identity method ldap failed: RuntimeError" in caplog.text


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), SystemExit(3), GeneratorExit()])
def test_a_plugins_way_out_is_not_ours(failure: BaseException) -> None:
    resolver = Resolver(FINDER, None, [("ldap", Plugin(failure))])
    answer = resolver.resolve(Found((), ()), RequestContext("POST", "/", "h", {}), 0)
    assert isinstance(answer, Denial)
    assert answer.reason is Reason.INTERNAL


@pytest.mark.parametrize(
    "odd",
    [
        Denial("no_such_reason", "no"),  # type: ignore[arg-type]
        Denial(Reason.INVALID_TOKEN, 5),  # type: ignore[arg-type]
        Denial(Reason.INVALID_TOKEN, "no", code=b"x"),  # type: ignore[arg-type]
        Denial(Reason.INVALID_TOKEN, "no", status=200),
        Denial(Reason.INVALID_TOKEN, "no", status="401"),  # type: ignore[arg-type]
        Denial(Reason.INVALID_TOKEN, "no", retry_after=1.5),  # type: ignore[arg-type]
        Denial(Reason.INVALID_TOKEN, "no", limit=3),  # type: ignore[arg-type]
        Denial(Reason.INVALID_TOKEN, "no", headers=(("set-cookie", "a\r\nb"),)),
    ],
)
def test_a_refusal_that_is_none_is_a_fault(odd: Denial) -> None:
    answer = Resolver(FINDER, None, [("ldap", Plugin(odd))]).resolve(Found((), ()), RequestContext("POST", "/", "h", {}), 0)
    assert isinstance(answer, Denial)
    assert answer.reason is Reason.INTERNAL


def test_nothing_else_of_the_key_is_touched(desk: Desk) -> None:
    """The strings are found once; the resolver looks at no header of its own."""
    request = RequestContext("POST", "/", "h", bearer(desk.other))
    answer = Resolver(FINDER, desk.keys).resolve(Found((desk.good,), ("authorization",)), request, 1000)
    assert isinstance(answer, Principal)
    assert answer.client == "acme"
