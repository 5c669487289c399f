"""What the schema's example shows but this release does not build: refused by name, never ignored.

Enters: plain data. Leaves: findings, and the data without what they name, so that the rest can be judged in the same run.
"""

from __future__ import annotations

from typing import Any, Final

from slm_authz.settings.problems import Finding, error

PLACEHOLDER: Final = "\x00"
"""Stands for a list entry that was taken out, so that the others keep their index. No key of a file can hold it."""
ALL_MODELS: Final = f"models.{PLACEHOLDER}"
ALL_TIERS: Final = f"tiers.{PLACEHOLDER}"
"""What a conclusion needs that rests on the names of all models, or on the patterns of all tiers."""

_METHODS: Final = {
    "jwt": "Use api_key, or an installed plugin.",
    "introspection": "Use api_key, or an installed plugin.",
    "mtls": "Use api_key, or an installed plugin.",
}
_STORES: Final = frozenset({"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "valkey", "valkeys"})
_LATER: Final = "is not built in this release"
_MEMBERS: Final = (
    ("listen", "tls", "TLS on the gRPC listener", "Remove tls: the listener is on loopback or a Unix socket."),
    ("listen", "grpc_token", "a token on the gRPC listener", "Remove grpc_token: the listener is on loopback or a Unix socket."),
    ("store", "keys_url", "a separate key store", "Remove keys_url: keys live beside the counters."),
)
_CHOICES: Final = (
    ("metering", "usage_from", "ext_proc", "Use access_log."),
    ("metering", "bound", "tokenizer", "Use estimate or strict."),
)


def unbuilt(data: dict[str, Any]) -> tuple[list[Finding], dict[str, Any]]:
    """`data` itself is not changed; the second value is a copy as far as it had to be."""
    cleaned = dict(data)
    findings: list[Finding] = []
    if cleaned.pop("rate_limit_service", None) is not None:
        fix = "Remove it: limits under tiers and models are decided in the Check."
        findings.append(error("rate_limit_service", f"the rate limit service {_LATER}", fix))
    for section, name, what, fix in _MEMBERS:
        if _take(cleaned, section, name, lambda value: value is not None):
            findings.append(error(f"{section}.{name}", f"{what} {_LATER}", fix))
    for section, name, word, fix in _CHOICES:
        if _take(cleaned, section, name, lambda value, word=word: value == word):
            findings.append(error(f"{section}.{name}", f"{name}: {word} {_LATER}", fix))
    if _take(cleaned, "store", "url", _is_later_store):
        scheme = str(data["store"]["url"]).partition(":")[0].lower()
        findings.append(error("store.url", f"the store {scheme}:// {_LATER}", "Use sqlite:///./var/slm-authz.db."))
    findings.extend(_identity(cleaned))
    findings.extend(_models(cleaned))
    return findings, cleaned


def _is_later_store(value: Any) -> bool:
    return isinstance(value, str) and value.partition(":")[0].lower() in _STORES


def _take(data: dict[str, Any], section: str, name: str, wanted: Any) -> bool:
    """Whether that member is one that `wanted` is true of; then it is taken out of the copy."""
    values = data.get(section)
    if not isinstance(values, dict) or name not in values or not wanted(values[name]):
        return False
    data[section] = {key: value for key, value in values.items() if key != name}
    return True


def _identity(data: dict[str, Any]) -> list[Finding]:
    entries = data.get("identity")
    if not isinstance(entries, list):
        return []
    findings = []
    kept = list(entries)
    for index, entry in enumerate(entries):
        for name in entry if isinstance(entry, dict) else ():
            if name in _METHODS:
                findings.append(error(f"identity.{index}.{name}", f"the identity method {name} {_LATER}", _METHODS[name]))
                kept[index] = {PLACEHOLDER: {}}
    data["identity"] = kept
    return findings


def _models(data: dict[str, Any]) -> list[Finding]:
    models = data.get("models")
    if not isinstance(models, dict):
        return []
    findings = []
    cleaned = dict(models)
    for name, model in models.items():
        if isinstance(model, dict) and model.get("cap_absent") == "inject":
            fix = "Use default or refuse."
            findings.append(error(f"models.{name}.cap_absent", f"cap_absent: inject {_LATER}, because it changes the body", fix))
            cleaned[name] = {key: value for key, value in model.items() if key != "cap_absent"}
    data["models"] = cleaned
    return findings
