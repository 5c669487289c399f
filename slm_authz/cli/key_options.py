"""What the flags of `slm-authz keys` mean. Enters: words of a command line. Leaves: values, or UsageError and NotFound that say what to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from slm_authz.errors import NotFound, UsageError

_LONGEST_MS: Final = 100 * 366 * 86_400_000
_LONGEST_KEY: Final = 4096


def items(text: str | None) -> tuple[str, ...] | None:
    """Parts of `a,b`; None stays None, "" is none at all."""
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip())


def flat(groups: Sequence[Sequence[str]] | None) -> tuple[str, ...] | None:
    """`--flag a b --flag c` as one tuple."""
    return tuple(item for group in groups for item in group) if groups is not None else None


def labels(groups: Sequence[Sequence[str]] | None) -> dict[str, str] | None:
    """`k=v` words as a mapping; the same key twice is wrong usage."""
    pairs = flat(groups)
    if pairs is None:
        return None
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UsageError(f"--label takes key=value, not {pair!r}.")
        if key in found:
            raise UsageError(f"--label names {key!r} twice.")
        found[key] = value
    return found


def duration(flag: str, text: str | None, least: int = 1) -> int | None:
    """Milliseconds of `90d`, or of a number of seconds; `least` is milliseconds, too."""
    from slm_authz.units import parse_duration

    if text is None:
        return None
    try:
        millis = parse_duration(int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}.") from None
    if not least <= millis <= _LONGEST_MS:
        raise UsageError(f"{flag} takes a duration of at most 100 years, like 90d.")
    return millis


def tier(settings: Any, given: str | None) -> str:
    """A configured tier: the given one, or the only one."""
    names = list(settings.tiers)
    if given is None:
        if len(names) == 1:
            return str(names[0])
        raise UsageError(f"Name a tier with --tier: {', '.join(names)}.")
    if given not in settings.tiers:
        raise NotFound(f"There is no tier {given!r}.", f"Configured tiers: {', '.join(names)}.")
    return given


def models(settings: Any, text: str | None) -> tuple[str, ...] | None:
    """Names or globs, each of which means a configured model."""
    from slm_authz.settings.patterns import matches

    given = items(text)
    for pattern in given or ():
        if not any(matches(pattern, name, spec.aliases) for name, spec in settings.models.items()):
            raise NotFound(f"No configured model is meant by {pattern!r}.", f"Configured models: {', '.join(settings.models)}.")
    return given


def warn_of_useless(settings: Any, tier_name: str, given: Sequence[str] | None) -> None:
    """Say so where a key's tier is gone, or its own list leaves it nothing of what its tier has."""
    import sys

    from slm_authz.settings.patterns import matches

    spec = settings.tiers.get(tier_name)  # a key may outlive its tier
    if spec is None:
        fix = "put it back, or give the key another with `keys update ID --tier T`"
        print(f"slm-authz: tier {tier_name} is not configured, so every call with this key is 403: {fix}", file=sys.stderr)
        return
    if not given:
        return

    def any_of(patterns: Sequence[str], name: str) -> bool:
        return any(matches(pattern, name, settings.models[name].aliases) for pattern in patterns)

    if not any(any_of(given, name) and any_of(spec.models, name) for name in settings.models):
        print(
            f"slm-authz: tier {tier_name} has none of these models: the key may use nothing until one of the two changes", file=sys.stderr
        )


def secret(word: str) -> str:
    """A key: from standard input, unseen where that is a terminal; or, against advice, from the command line. "": there is none."""
    import sys

    if word != "-":
        print("slm-authz: what stands on a command line can be read by others: better pass the key on standard input.", file=sys.stderr)
        return word
    if sys.stdin is None:  # closed
        return ""
    try:
        if sys.stdin.isatty():
            from getpass import getpass

            return getpass("key: ").strip()
        return sys.stdin.readline(_LONGEST_KEY).strip()
    except (UnicodeDecodeError, EOFError):
        return ""
