"""What the schema's example shows but this release does not build: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

Finding = tuple[str, str, str]
"""(path, message, fix)"""

_METHODS: Final = ("jwt", "introspection", "mtls")
_STORES: Final = ("redis", "rediss", "redis+sentinel", "redis+cluster")
_LATER: Final = "is not built in this release"


def unbuilt(data: Any) -> tuple[list[Finding], Any]:
    """Findings, and the data without what they name, so that the rest can be judged in the same run."""
    if not isinstance(data, dict):
        return [], data
    findings = list(_top(data))
    cleaned = dict(data)
    cleaned.pop("rate_limit_service", None)
    findings.extend(
        _section(cleaned, "listen", {"tls": "gRPC beyond loopback and Unix sockets", "grpc_token": "gRPC beyond loopback and Unix sockets"})
    )
    findings.extend(_section(cleaned, "store", {"keys_url": "a separate key store"}))
    findings.extend(_word(cleaned, "metering", "usage_from", "ext_proc", "Use access_log."))
    findings.extend(_word(cleaned, "metering", "bound", "tokenizer", "Use estimate or strict."))
    findings.extend(_identity(cleaned))
    findings.extend(_models(cleaned))
    store = cleaned.get("store")
    if isinstance(store, dict) and isinstance(store.get("url"), str) and store["url"].partition(":")[0] in _STORES:
        scheme = store["url"].partition(":")[0]
        findings.append(("store.url", f"the store {scheme}:// {_LATER}", "Use sqlite:///./var/slm-authz.db."))
        cleaned["store"] = {key: value for key, value in store.items() if key != "url"}
    return findings, cleaned


def _top(data: dict[str, Any]) -> Iterator[Finding]:
    if "rate_limit_service" in data:
        yield "rate_limit_service", f"the rate limit service {_LATER}", "Remove it: limits under tiers and models are decided in the Check."


def _section(data: dict[str, Any], section: str, names: dict[str, str]) -> Iterator[Finding]:
    values = data.get(section)
    if isinstance(values, dict):
        for name, what in names.items():
            if values.get(name) is not None:
                yield f"{section}.{name}", f"{what} {_LATER}", f"Remove {name}."
        data[section] = {key: value for key, value in values.items() if key not in names}


def _word(data: dict[str, Any], section: str, name: str, word: str, fix: str) -> Iterator[Finding]:
    values = data.get(section)
    if isinstance(values, dict) and values.get(name) == word:
        yield f"{section}.{name}", f"{name}: {word} {_LATER}", fix
        data[section] = {key: value for key, value in values.items() if key != name}


def _identity(data: dict[str, Any]) -> Iterator[Finding]:
    entries = data.get("identity")
    if not isinstance(entries, list):
        return
    kept = []
    for index, entry in enumerate(entries):
        named = [name for name in _METHODS if isinstance(entry, dict) and name in entry]
        for name in named:
            yield f"identity.{index}.{name}", f"the identity method {name} {_LATER}", "Use api_key or anonymous."
        if not named:
            kept.append(entry)
        else:
            kept.append({"api_key": {}})
    data["identity"] = kept


def _models(data: dict[str, Any]) -> Iterator[Finding]:
    models = data.get("models")
    if not isinstance(models, dict):
        return
    cleaned = {}
    for name, model in models.items():
        cleaned[name] = model
        if isinstance(model, dict) and model.get("cap_absent") == "inject":
            yield f"models.{name}.cap_absent", f"cap_absent: inject {_LATER}: it changes the body", "Use default or refuse."
            cleaned[name] = {key: value for key, value in model.items() if key != "cap_absent"}
    data["models"] = cleaned
