"""`slm-authz keys …`: the life of API keys. A change is in force for every call that arrives after the command has returned."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from slm_authz.cli.main import add_common, config_path

HELP = "Create, list, show, change, verify, disable, enable and revoke API keys. The running service obeys at once."
EXAMPLES = """\
  slm-authz keys create --client acme --tier free --expires 90d
  slm-authz keys list --client acme
  slm-authz keys revoke --client acme --dry-run
"""

_ACTIONS: dict[str, tuple[str, str]] = {
    "create": ("make a key; it is printed this once", "--client acme --tier free --expires 90d --allow-ip 10.0.0.0/8"),
    "list": ("list keys", "--state active"),
    "show": ("show one key", "0123456789AB"),
    "update": ("change tier, models, name, labels, scopes, addresses or expiry", "0123456789AB --tier pro --expires 30d"),
    "verify": ("tell whether a key is valid, and whose it is", "- < key.txt"),
    "disable": ("refuse a key until it is enabled", "0123456789AB"),
    "enable": ("accept a disabled key again", "0123456789AB"),
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
    for name in ("show", "update", "disable", "enable"):
        subs[name].add_argument("id", metavar="ID", help="the key's id")
    subs["verify"].add_argument("key", metavar="KEY", nargs="?", default="-", help="the key; - (default) reads it from standard input")
    subs["list"].add_argument("--client", metavar="C")
    subs["list"].add_argument("--tenant", metavar="T")
    subs["list"].add_argument("--tier", metavar="T")
    subs["list"].add_argument("--state", choices=("active", "disabled", "expired", "revoked"))
    subs["revoke"].add_argument("ids", metavar="ID", nargs="*")
    subs["revoke"].add_argument("--client", metavar="C", help="all keys of a client")
    subs["revoke"].add_argument("--dry-run", action="store_true", help="only show what would be revoked")


def _describe(parser: argparse.ArgumentParser, *, creating: bool) -> None:
    if creating:
        parser.add_argument("--client", metavar="C", required=True, help="who pays")
        parser.add_argument("--tenant", metavar="T", help="whom the client belongs to")
        parser.add_argument("--env", choices=("live", "test"), default="live")
    parser.add_argument("--tier", metavar="T", help="may be left out where there is only one" if creating else None)
    parser.add_argument("--name", metavar="N", help="for people")
    parser.add_argument("--expires", metavar="90d", help="how long the key is valid, from now")
    parser.add_argument("--models", metavar="a,b", help="narrow the tier's models to these names or globs")
    parser.add_argument("--scopes", metavar="a,b")
    parser.add_argument("--allow-ip", metavar="CIDR", action="append", nargs="+", help="addresses the key may be used from")
    parser.add_argument("--label", metavar="k=v", action="append", nargs="+", help="for policies and people")


def run(args: argparse.Namespace) -> int:
    """0: done; 1: no such key, tier or model; 2: wrong usage; 3: the store is down."""
    import os
    import time

    from slm_authz.compose import load_all, open_keys
    from slm_authz.identity.lifecycle import Lifecycle

    settings = load_all(config_path(args), os.environ).settings
    store, pepper = open_keys(settings, os.environ)
    try:
        life = Lifecycle(store, pepper, os.urandom)
        return int(globals()[f"_{args.action}"](args, life, settings, time.time_ns() // 1_000_000))
    finally:
        store.close()


def _items(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _flat(groups: Sequence[Sequence[str]] | None) -> tuple[str, ...] | None:
    return tuple(item for group in groups for item in group) if groups is not None else None


def _labels(groups: Sequence[Sequence[str]] | None) -> dict[str, str] | None:
    from slm_authz.errors import UsageError

    pairs = _flat(groups)
    if pairs is None:
        return None
    labels = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UsageError(f"--label takes key=value, not {pair!r}.")
        labels[key] = value
    return labels


def _duration(text: str | None) -> int | None:
    from slm_authz.errors import UsageError
    from slm_authz.units import parse_duration

    if text is None:
        return None
    try:
        millis = parse_duration(int(text) if text.isdigit() else text)
    except ValueError as error:
        raise UsageError(f"--expires: {error}.") from None
    if not 0 < millis <= 100 * 366 * 86_400_000:
        raise UsageError("--expires takes a duration from 1s to 100 years, like 90d.")
    return millis


def _tier(settings: Any, given: str | None) -> str:
    from slm_authz.errors import NotFound, UsageError

    tiers = list(settings.tiers)
    if given is None:
        if len(tiers) == 1:
            return str(tiers[0])
        raise UsageError(f"Name a tier with --tier: {', '.join(tiers)}.")
    if given not in settings.tiers:
        raise NotFound(f"There is no tier {given!r}.", f"Configured tiers: {', '.join(tiers)}.")
    return given


def _models(settings: Any, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
    from slm_authz.errors import NotFound
    from slm_authz.settings.patterns import matches

    for pattern in given or ():
        if not any(matches(pattern, name, spec.aliases) for name, spec in settings.models.items()):
            raise NotFound(f"No configured model is meant by {pattern!r}.", f"Configured models: {', '.join(settings.models)}.")
    return given


def _create(args: argparse.Namespace, life: Any, settings: Any, now: int) -> int:
    from slm_authz.cli.output import json_line, paint

    record, key = life.create(
        now,
        client=args.client,
        tier=_tier(settings, args.tier),
        tenant=args.tenant,
        name=args.name,
        env=args.env,
        models=_models(settings, _items(args.models)),
        scopes=_items(args.scopes) or (),
        allow_ip=_flat(args.allow_ip) or (),
        labels=_labels(args.label) or {},
        expires_in=_duration(args.expires),
    )
    if args.output == "json":
        json_line({**record.public(now), "key": key})
        return 0
    print(paint(key, "bold"))
    print(f"\nThis is the only time that the key is shown. Id {record.id}, client {record.client}, tier {record.tier}.")
    return 0


def _shown(args: argparse.Namespace, records: Sequence[Any], now: int, *, many: bool) -> int:
    from slm_authz.cli.output import json_line, table

    public = [record.public(now) for record in records]
    if args.output == "json":
        json_line({"data": public, "next_cursor": None} if many else public[0])
        return 0
    if not many:
        table(("member", "value"), [(name, value) for name, value in public[0].items()])
        return 0
    columns = ("id", "client", "tenant", "tier", "name", "env", "state", "created_at", "expires_at", "last_used_at")
    table(columns, [[item[column] for column in columns] for item in public])
    return 0


def _list(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    records = life.every(client=args.client, tenant=args.tenant, tier=args.tier)
    return _shown(args, [record for record in records if args.state in (None, record.state(now))], now, many=True)


def _show(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    return _shown(args, [life.show(args.id)], now, many=False)


def _update(args: argparse.Namespace, life: Any, settings: Any, now: int) -> int:
    from slm_authz.errors import UsageError

    expires = _duration(args.expires)
    wanted = {
        "tier": _tier(settings, args.tier) if args.tier is not None else None,
        "models": _models(settings, _items(args.models)),
        "name": args.name,
        "labels": _labels(args.label),
        "allow_ip": _flat(args.allow_ip),
        "scopes": _items(args.scopes),
        "expires_at": now + expires if expires is not None else None,
    }
    changes = {member: value for member, value in wanted.items() if value is not None}
    if not changes:
        raise UsageError("Name what to change: --tier, --models, --name, --label, --allow-ip, --scopes or --expires.")
    return _shown(args, [life.update(args.id, changes)], now, many=False)


def _verify(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    import sys

    from slm_authz.cli.output import json_line

    key = sys.stdin.readline().strip() if args.key == "-" else args.key
    record = life.verify(key)
    valid = record is not None and record.state(now) == "active"
    if args.output == "json":
        json_line({"valid": valid, **(record.public(now) if record is not None else {})})
    elif record is None:
        print("not valid: this is no key of this store")
    else:
        print(f"{'valid' if valid else 'not valid'}: {record.state(now)}, id {record.id}, client {record.client}, tier {record.tier}")
    return 0 if valid else 1


def _disable(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    return _shown(args, [life.disable(args.id)], now, many=False)


def _enable(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    return _shown(args, [life.enable(args.id)], now, many=False)


def _revoke(args: argparse.Namespace, life: Any, _: Any, now: int) -> int:
    from slm_authz.errors import UsageError

    if bool(args.ids) == bool(args.client):
        raise UsageError("Name key ids, or --client C.")
    by_client, by_id = life.revoke_client, life.revoke
    records = by_client(args.client, now, dry_run=args.dry_run) if args.client else by_id(tuple(args.ids), now, dry_run=args.dry_run)
    if args.output == "table":
        print(f"{len(records)} {'key' if len(records) == 1 else 'keys'} {'would be ' if args.dry_run else ''}revoked")
    return _shown(args, records, now, many=True) if records or args.output == "json" else 0
