"""A worked example of an identity method of your own, from the installed package to the decision.

A package offers a method under a name in its own `pyproject.toml`:

    [project.entry-points."slm_authz.identity"]
    team_token = "team_tokens:TeamTokens"

and the configuration asks for it by that name; the mapping is the plugin's own:

    identity:
      - team_token: {secret: {env: TEAM_SECRET}, tier: free}
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import sys
import textwrap
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from slm_authz import Denial, Principal, Reason, RequestContext
from slm_authz.compose import build_rules, load_all
from slm_authz.engine.plan import Plan, plan
from slm_authz.engine.rules import Rules
from slm_authz.errors import ConfigError
from slm_authz.identity.directory import KeyDirectory
from slm_authz.request import Arrival

NOON = 1_700_049_600_000
SECRET = "a secret of at least some length"
MODULE = '''
"""What a plugin's author writes. Tokens look like `team_<name>_<HMAC of the name>`; those of the team `far` are asked for elsewhere."""

import hashlib
import hmac

from slm_authz import Deferred, Denial, Principal, Reason


class TeamTokens:
    def __init__(self, options):
        self._secret, self._tier = options["secret"].encode(), options["tier"]
        self._known = {}

    def identify(self, request, now):
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.startswith("team_"):
            return None  # not mine: the next method is asked
        name, _, mac = token.removeprefix("team_").rpartition("_")
        wanted = hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()[:32]
        if not hmac.compare_digest(mac.encode(), wanted.encode()):
            return Denial(Reason.INVALID_TOKEN, "The team token was not accepted.")
        if name == "far":
            return Deferred(self._ask(name))
        principal = self._known.get(name)  # one object per caller: what other rooms derive from it is kept on it
        if principal is None:
            principal = self._known[name] = self._principal(name)
        return principal

    async def _ask(self, name):
        return self._principal(name)

    def _principal(self, name):
        return Principal("team_token", client=name, tier=self._tier, labels={"origin": "team"})


class Broken:
    def __init__(self, options):
        pass

    def identify(self, request, now):
        raise RuntimeError("with a secret in it")


class Unsafe(Broken):
    def identify(self, request, now):
        return Principal("unsafe", client="a\\r\\nx-slm-tier: pro", tier="free")
'''
CONFIG = """
version: 1
identity: [{METHOD}]
models: {phi-4-mini: {}}
tiers: {free: {models: ["*"]}}
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package on the path with an entry point in its metadata: all that an installation is."""
    site = tmp_path / "site"
    metadata = site / "team_tokens-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "team_tokens.py").write_text(textwrap.dedent(MODULE))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: team-tokens\nVersion: 1.0\n")
    names = {"team_token": "TeamTokens", "broken": "Broken", "unsafe": "Unsafe"}
    lines = "\n".join(f"{name} = team_tokens:{target}" for name, target in names.items())
    (metadata / "entry_points.txt").write_text(f"[slm_authz.identity]\n{lines}\n")
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("team_tokens", None)


def rules_of(directory: Path, method: str) -> Rules:
    path = directory / "slm-authz.yaml"
    path.write_text(CONFIG.replace("{METHOD}", method))
    return build_rules(load_all(path, {"TEAM_SECRET": SECRET}), cast("KeyDirectory", None))  # no api_key: no directory


@pytest.fixture
def rules(installed: None, tmp_path: Path) -> Rules:
    return rules_of(tmp_path, "{team_token: {secret: {env: TEAM_SECRET}, tier: free}}")


def token(name: str) -> str:
    return f"team_{name}_{hmac.new(SECRET.encode(), name.encode(), hashlib.sha256).hexdigest()[:32]}"


def arrival(**headers: str) -> Arrival:
    return Arrival(1, RequestContext("GET", "/v1/models", "h", headers))


def walk(rules: Rules, call: Arrival) -> Plan:
    return plan(call, "0" * 32, rules, set(), NOON, 0)


def test_a_plugin_names_the_caller(rules: Rules) -> None:
    planned = walk(rules, arrival(authorization=f"Bearer {token('red')}"))
    assert planned.denial is None
    assert isinstance(planned.principal, Principal)
    assert (planned.principal.client, planned.principal.tier, planned.principal.method) == ("red", "free", "team_token")
    assert planned.reply is not None
    assert b"phi-4-mini" in planned.reply


def test_its_credential_never_reaches_the_upstream(rules: Rules) -> None:
    assert walk(rules, arrival(authorization=f"Bearer {token('red')}")).strip_headers == ("authorization",)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, Reason.NO_CREDENTIAL),
        ({"authorization": "Bearer team_red_0000"}, Reason.INVALID_TOKEN),
        ({"authorization": f"Bearer {token('red')}x"}, Reason.INVALID_TOKEN),
        ({"authorization": "Bearer something-else"}, Reason.MALFORMED_KEY),
        ({"authorization": f"Bearer {token('red')}, Bearer {token('blue')}"}, Reason.MANY_CREDENTIALS),
    ],
)
def test_what_it_does_not_accept_is_refused(rules: Rules, headers: dict[str, str], reason: Reason) -> None:
    planned = walk(rules, arrival(**headers))
    assert isinstance(planned.denial, Denial)
    assert (planned.denial.reason, planned.denial.http_status) == (reason, 401)


def test_an_answer_that_must_be_waited_for_leaves_the_batch_and_comes_back(rules: Rules) -> None:
    call = arrival(authorization=f"Bearer {token('far')}")
    planned = walk(rules, call)
    assert planned.denial is None
    assert planned.deferred is not None
    call.identity = asyncio.run(_awaited(planned.deferred.answer))  # what `engine.deferral` does, in its bounded place
    back = walk(rules, call)
    assert back.deferred is None
    assert back.principal is not None
    assert back.principal.client == "far"


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


@pytest.mark.parametrize("name", ["broken", "unsafe"])
@pytest.mark.usefixtures("installed")
def test_a_plugin_that_fails_lets_nobody_in(tmp_path: Path, name: str) -> None:
    planned = walk(rules_of(tmp_path, f"{{{name}: {{}}}}"), arrival(authorization="Bearer x"))
    assert planned.principal is None
    assert planned.denial is not None
    assert planned.denial.reason is Reason.INTERNAL
    assert "secret" not in planned.denial.message


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("method", ["{absent: {}}", "{team_token: {tier: free}}"])
def test_a_method_that_is_not_installed_or_cannot_start_is_a_configuration_error(tmp_path: Path, method: str) -> None:
    with pytest.raises(ConfigError):
        rules_of(tmp_path, method)
