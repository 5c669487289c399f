"""`slm-authz keys …`: the life of API keys. A change is in force for every call that arrives after the command has returned."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from slm_authz.cli import key_output
from slm_authz.cli.main import add_common, config_path

HELP = "Create, list, show, change, verify, disable, enable, rotate and revoke API keys. The running service obeys at once."
EXAMPLES = """\
  slm-authz keys create --client acme --tier free --expires 90d
  slm-authz keys list --client acme
  slm-authz keys rotate 0123456789AB --grace 24h
  slm-authz keys revoke --client acme --dry-run
"""

_GRACE_MS = 86_400_000
"""How long earlier secrets serve where nothing is said."""

_ACTIONS: dict[str, tuple[str, str]] = {
    "create": ("make a key; it is printed this once", "--client acme --tier free --expires 90d --allow-ip 10.0.0.0/8"),
    "list": ("list keys", "--state active"),
    "show": ("show one key", "0123456789AB"),
    "update": ("change tier, models, name, labels, scopes, addresses or expiry", "0123456789AB --tier pro --expires 30d"),
    "verify": ("tell whether a key is valid, and whose it is", "- < key.txt"),
    "disable": ("refuse a key until it is enabled", "0123456789AB"),
    "enable": ("accept a disabled key again", "0123456789AB"),
    "rotate": ("give a key a new secret; it is printed this once", "0123456789AB --grace 24h"),
    "revoke": ("refuse keys for good", "--client acme --dry-run"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-parser per action, each with an example."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(_ACTIONS))
    subs = {}
    for name, (line, example) in _ACTIONS.items():
        subs[name] = actions.add_parser(
            name, help=line, description=line.capitalize() + ".", epilog=f"example:\n  slm-authz keys {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        add_common(subs[name])
    for name in ("create", "update"):
        _describe(subs[name], creating=name == "create")
    for name in ("show", "update", "disable", "enable", "rotate"):
        subs[name].add_argument("id", metavar="ID", help="the key's id")
    subs["verify"].add_argument(
        "key", metavar="KEY", nargs="?", default="-", help="better left out or -: then it is read from standard input"
    )
    for name in ("client", "tenant", "tier"):
        subs["list"].add_argument(f"--{name}", metavar=name[0].upper(), help=f"only keys of this {name}")
    subs["list"].add_argument("--state", choices=("active", "disabled", "expired", "revoked"), help="only keys that are so now")
    subs["rotate"].add_argument(
        "--grace",
        metavar="24h",
        help="how long the secrets before it serve on (default: 24h; of a disabled key 0s); 0s refuses them at once, a plain number is seconds",
    )
    subs["revoke"].add_argument("ids", metavar="ID", nargs="*", help="the keys' ids; all are revoked or none")
    subs["revoke"].add_argument("--client", metavar="C", help="all keys of a client")
    subs["revoke"].add_argument("--tenant", metavar="T", help="only of the client of that name in this tenant")
    subs["revoke"].add_argument("--dry-run", action="store_true", help="only show what would be revoked")


def _describe(parser: argparse.ArgumentParser, *, creating: bool) -> None:
    if creating:
        parser.add_argument("--client", metavar="C", required=True, help="who pays")
        parser.add_argument("--tenant", metavar="T", help="whom the client belongs to")
        parser.add_argument("--env", choices=("live", "test"), default="live", help="stands in the key, for people (default: live)")

    def told(text: str, reset: str) -> str:
        return text if creating else f"{text}; {reset}"

    parser.add_argument("--tier", metavar="T", help="may be left out where there is only one" if creating else "another tier")
    parser.add_argument("--name", metavar="N", help=told("for people", '"" removes it'))
    parser.add_argument("--expires", metavar="90d", help=told("how long the key is valid, from now", "`never` removes it"))
    parser.add_argument(
        "--models", metavar="a,b", help=told("narrow the tier's models to these names or globs", "'*' means all of the tier's")
    )
    parser.add_argument("--scopes", metavar="a,b", help=told("for policies and the model server", '"" removes them'))
    parser.add_argument(
        "--allow-ip", metavar="CIDR", action="append", nargs="+", help=told("addresses the key may be used from", "`any` removes the list")
    )
    parser.add_argument(
        "--label",
        metavar="k=v",
        action="append",
        nargs="+",
        help=told("for policies and people", 'all that it has are replaced; "" removes them'),
    )


def run(args: argparse.Namespace) -> int:
    """0: done; 1: no such key, tier or model; 2: wrong usage; 3: the store is down."""
    import os
    import time
    from contextlib import closing

    from slm_authz.compose import load_all, open_keys, reading_keys
    from slm_authz.identity.lifecycle import Lifecycle
    from slm_authz.settings.load import database

    settings = load_all(config_path(args), os.environ).settings
    now = time.time_ns() // 1_000_000
    if args.action == "create":
        store, pepper = open_keys(database(settings), os.environ)
        with closing(store):
            return _create(args, Lifecycle(store, pepper, os.urandom), settings, now)
    with reading_keys(settings, os.environ) as (store, pepper):
        return _RUN[args.action](args, Lifecycle(store, pepper, os.urandom), settings, now)


def _create(args: argparse.Namespace, life: Any, settings: Any, now: int) -> int:
    from slm_authz.cli import key_options as options

    key_output.require_reader()
    wanted: dict[str, Any] = {
        "expires_in": options.duration("--expires", args.expires),
        "tier": options.tier(settings, args.tier),
        "models": options.models(settings, args.models),
        "client": args.client,
        "tenant": args.tenant,
        "name": args.name,
        "env": args.env,
        "scopes": options.items(args.scopes) or (),
        "allow_ip": options.flat(args.allow_ip) or (),
        "labels": options.labels(args.label) or {},
    }
    with key_output.undisturbed():
        record, key = life.create(now, **wanted)
        fix = f"Revoke it with `slm-authz keys revoke {record.id}`, and create another."
        key_output.tell(args, record, key, now, f"The key {record.id} was made and nobody has seen it", fix)
    options.warn_of_useless(settings, record.tier, record.models)
    return 0


def _rotate(args: argparse.Namespace, life: Any, settings: Any, now: int) -> int:
    import sys

    from slm_authz.cli import key_options as options

    key_output.require_reader()
    grace = options.duration("--grace", args.grace, least=0)
    if grace is None:  # who has stopped a key first has a leak: its secrets must not come back with `enable`
        grace = 0 if life.show(args.id).disabled else _GRACE_MS
    with key_output.undisturbed():
        record, key = life.rotate(args.id, now, grace=grace)
        fix = "Rotate it again, with `--grace 0s` if somebody else may have."
        key_output.tell(args, record, key, now, f"The key {record.id} has a new secret and nobody has seen it", fix)
    if record.disabled:
        print(f"slm-authz: the key is disabled: `slm-authz keys enable {record.id}` lets it in", file=sys.stderr)
    options.warn_of_useless(settings, record.tier, record.models)
    return 0


def _list(args: argparse.Namespace, life: Any, settings: Any, now: int) -> int:
    from slm_authz.cli import key_options as options

    records = life.every(client=args.client, tenant=args.tenant, tier=args.tier)
    if args.tier is not None and not records:  # keys may name a tier that the file has no more
        options.tier(settings, args.tier)
    return key_output.shown(args, [record for record in records if args.state in (None, record.state(now))], now, many=True)


def _show(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    return key_output.shown(args, [life.show(args.id)], now, many=False)


def _update(args: argparse.Namespace, life: Any, settings: Any, now: int) -> int:
    from slm_authz.cli import key_options as options
    from slm_authz.errors import UsageError

    changes: dict[str, Any] = {}
    if args.tier is not None:
        changes["tier"] = options.tier(settings, args.tier)
    if args.models is not None:
        changes["models"] = options.models(settings, args.models)
    if args.name is not None:
        changes["name"] = args.name or None
    if args.label is not None:
        changes["labels"] = options.labels(args.label if options.flat(args.label) != ("",) else [])
    if args.allow_ip is not None:
        changes["allow_ip"] = () if options.flat(args.allow_ip) == ("any",) else options.flat(args.allow_ip)
    if args.scopes is not None:
        changes["scopes"] = options.items(args.scopes)
    if args.expires == "never":
        changes["expires_at"] = None
    elif args.expires is not None:
        changes["expires_at"] = now + (options.duration("--expires", args.expires) or 0)
    if not changes:
        raise UsageError("Name what to change: --tier, --models, --name, --label, --allow-ip, --scopes or --expires.")
    record = life.update(args.id, changes)
    options.warn_of_useless(settings, record.tier, record.models if changes.keys() & {"tier", "models"} else None)
    return key_output.shown(args, [record], now, many=False)


def _verify(args: argparse.Namespace, life: Any, settings: Any, now: int) -> int:
    from slm_authz.cli import key_options as options
    from slm_authz.cli.output import json_line
    from slm_authz.identity.record import NOBODY

    record = life.verify(options.secret(args.key))
    valid = record is not None and record.state(now) == "active"
    if args.output == "json":
        json_line({"valid": valid, **(record.public(now) if record is not None else NOBODY)})
    elif record is None:
        print("not valid: this is no key of this store")
    else:
        print(key_output.judged(record, now))
        if valid:
            options.warn_of_useless(settings, record.tier, None)
    return 0 if valid else 1


def _disable(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    return key_output.shown(args, [life.disable(args.id)], now, many=False)


def _enable(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    return key_output.shown(args, [life.enable(args.id)], now, many=False)


def _revoke(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    from slm_authz.errors import UsageError

    if bool(args.ids) == bool(args.client) or (args.tenant and not args.client):
        raise UsageError("Name key ids, or --client C, which --tenant T narrows.")
    named = args.ids or [record.id for record in life.of_client(args.client, args.tenant)]
    records = life.revoke(named, now, dry_run=args.dry_run)
    if args.output == "table":
        print(f"{len(records)} {'key' if len(records) == 1 else 'keys'} {'would be ' if args.dry_run else ''}revoked")
    return key_output.shown(args, records, now, many=True) if records or args.output == "json" else 0


_RUN: dict[str, Callable[[argparse.Namespace, Any, Any, int], int]] = {
    "list": _list,
    "show": _show,
    "update": _update,
    "verify": _verify,
    "disable": _disable,
    "enable": _enable,
    "rotate": _rotate,
    "revoke": _revoke,
}
