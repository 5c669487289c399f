"""Joins rooms for whoever needs a part of the house: the service, and commands that work on its files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from slm_authz.engine.rules import Rules
from slm_authz.errors import ConfigError, StoreError
from slm_authz.identity import pepper
from slm_authz.identity.directory import KeyDirectory
from slm_authz.identity.lifecycle import RESTORE, check_pepper
from slm_authz.identity.principal import IdentityMethod, Principal
from slm_authz.identity.resolver import Resolver
from slm_authz.llm.dialects import ROUTES
from slm_authz.plugins import make
from slm_authz.policy.compiler import compile_policies, problems
from slm_authz.policy.paths import PathTable
from slm_authz.policy.table import Table
from slm_authz.quota.account import QuotaTable
from slm_authz.request.credential import Finder, Place
from slm_authz.settings.load import IDENTITY_GROUP, Loaded, database, load
from slm_authz.settings.schema import DEFAULT_PLACES, Settings
from slm_authz.store.keys import SqliteKeyStore
from slm_authz.store.secret_file import load_or_make


def load_all(path: Path | str, env: Mapping[str, str]) -> Loaded:
    """`load`, and what only a compiler can tell of the policies. ConfigError carries all of it, in file order."""
    return load(path, env, checks=(_paths, _policies))


def _paths(settings: Settings) -> Iterator[tuple[str, str, str]]:
    for index, rule in enumerate(settings.paths):
        if any((method, rule.prefix) in ROUTES for method in rule.methods):
            message = f"{rule.prefix} is one of the API's own paths: it always asks for an identity and is metered, whatever stands here"
            yield f"paths.{index}", message, f"Remove the rule; what lies below that path is {rule.prefix}/."


def _policies(settings: Settings) -> Iterator[tuple[str, str, str]]:
    for index, message, fix in problems(settings.policies):
        yield f"policies.{index}.when", message, fix


def counter_files(base: Path) -> tuple[Path, Path]:
    """Where a store's counters live, beside its keys: what the names of the journal's files begin with, and the snapshots."""
    return base.with_suffix(".journal"), base.with_suffix(".counters.db")


@contextmanager
def reading_keys(settings: Settings, env: Mapping[str, str]) -> Iterator[tuple[SqliteKeyStore, pepper.Pepper]]:
    """The same for who makes no key: where there is no store, an empty one elsewhere, so that nothing comes to stand where one is missing."""
    with ExitStack() as stack:
        base = database(settings)
        if _missing(base) and _left_of(base) is None:
            base = Path(stack.enter_context(TemporaryDirectory(prefix="slm-authz-"))) / base.name
        store, secret = open_keys(base, env)
        stack.callback(store.close)
        yield store, secret


def open_keys(base: Path, env: Mapping[str, str]) -> tuple[SqliteKeyStore, pepper.Pepper]:
    """The embedded key store and its pepper, made where they are missing; a pepper that does not fit, or is lost, is an error.

    StoreError too where the store is missing and there has been one: whoever opens SQLite's files under a name that has lost its database
    believes to be alone, and removes the log that a service still writes.
    """
    file = base.with_name("pepper")
    left = _left_of(base) if _missing(base) else None
    if left is not None and _missing(base):  # there now: another process has begun this store meanwhile
        fix = "Put it back. To begin without any key: stop the service, and move all files of that name away."
        raise StoreError(f"The key store {base} is missing, and {left.name} beside it belongs to it.", fix)
    store = SqliteKeyStore(base)

    def first() -> bytes:
        named = store.peppers()
        if named and not file.exists():  # there now: another process has begun this store meanwhile
            raise ConfigError(
                f"{file} is missing, and the keys of this store can be verified with no other (pepper {min(named)}). {RESTORE}"
            )
        return os.urandom(32).hex().encode()

    try:
        secret = pepper.load(env, lambda: load_or_make(file, first))
        check_pepper(store, secret)
    except BaseException:
        store.close()
        raise
    return store, secret


def _missing(base: Path) -> bool:
    try:
        base.stat()
    except FileNotFoundError:
        return True
    except OSError:  # told by whoever opens it
        return False
    return False


def _left_of(base: Path) -> Path | None:
    """A file that tells that there has been a store."""
    journal, snapshots = counter_files(base)
    beside = (Path(f"{base}-wal"), Path(f"{base}-shm"), snapshots, *sorted(base.parent.glob(f"{escape(journal.name)}.*")))
    return next((path for path in beside if path.exists()), None)


def caller_of(settings: Settings) -> Principal | None:
    """The principal of callers without a credential, where the file says so."""
    for entry in settings.identity:
        if entry.anonymous is not None:
            return Principal("anonymous", "anonymous", entry.anonymous.tier)
    return None


def build_rules(loaded: Loaded, directory: KeyDirectory) -> Rules:
    """One configuration, compiled."""
    settings = loaded.settings
    places: list[Place] = []
    keys = None
    plugins: list[tuple[str, IdentityMethod]] = []
    for entry in settings.identity:
        if entry.api_key is not None:
            keys = directory
            places.extend(Place(p.header.lower() if p.header else None, p.scheme, p.query, p.cookie) for p in entry.api_key.places)
        elif entry.anonymous is None:
            options = (entry.model_extra or {}).get(entry.kind) or {}
            plugins.append((entry.kind, make(IDENTITY_GROUP, entry.kind, options, IdentityMethod)))
    asked = bool(places or plugins)
    if not places:  # plugins look where API keys would stand, and what stands there never reaches the upstream
        places.extend(Place(p.header, p.scheme) for p in DEFAULT_PLACES)
    finder = Finder(places) if asked else None  # else all are anonymous: SDKs send some key all the same, and nobody looks at it
    address = settings.client_address
    return Rules(
        digest=loaded.digest,
        resolver=Resolver(finder, keys, plugins, caller_of(settings), frozenset(settings.tiers)),
        table=Table.build(settings),
        paths=PathTable(settings.paths),
        policies=compile_policies(settings.policies),
        quota=QuotaTable(settings),
        trusted_hops=address.trusted_hops if address.source == "xff" else None,
        max_body=settings.listen.max_body,
        currency=settings.currency,
        strict=settings.metering.bound == "strict",
        usage=settings.metering.usage_from != "none",
        settle_wait_ms=settings.metering.settle_wait,
        deny_without_audit=settings.audit.on_failure == "deny",
    )
