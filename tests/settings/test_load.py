"""What a good file becomes, and what never leaves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slm_authz.errors import ConfigError
from slm_authz.settings.load import EXAMPLE, Loaded, Plugins, database, installed_plugins, load
from slm_authz.settings.names import limit_name
from slm_authz.settings.schema import FileSink, LimitSpec, Settings
from slm_authz.settings.show import as_yaml, public

MINIMAL: dict[str, Any] = {
    "version": 1,
    "identity": [{"api_key": {}}],
    "models": {"m": {"context": 8192, "price": {"input": "1", "output": "2"}}},
    "tiers": {"free": {"models": ["m"]}},
}


def written(directory: Path, document: Any) -> Path:
    file = directory / "slm-authz.yaml"
    file.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return file


def loaded(directory: Path, env: dict[str, str] | None = None, **sections: Any) -> Loaded:
    return load(written(directory, MINIMAL | sections), env or {}, Plugins(frozenset({"ldap"}), frozenset({"kafka"})))


def refused(directory: Path, env: dict[str, str] | None = None, **sections: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(directory, env, **sections)
    return caught.value


def test_the_example_loads_without_a_word() -> None:
    example = load(EXAMPLE, {}, Plugins())
    assert example.warnings == ()
    assert list(example.settings.tiers) == ["free", "pro"]
    assert example.settings.models["phi-4-mini"].aliases == ("phi4",)
    assert [limit_name("pro", limit, limit.by or "client") for limit in example.settings.tiers["pro"].limits[:2]] == [
        "pro.requests.minute.client.gcra",
        "pro.tokens.month.client",
    ]
    assert example.line_of("tiers.pro.limits.2.cost") == example.line_of("tiers.pro.limits.1.cost") + 1  # type: ignore[operator]


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    result = loaded(tmp_path, listen={"grpc": "unix:./run/g.sock"}, audit={"sinks": [{"file": "./var/audit"}, {"file": "/abs"}]})
    assert database(result.settings) == tmp_path / "var/slm-authz.db"
    assert result.settings.listen.grpc == f"unix:{tmp_path}/run/g.sock"
    assert [sink.file for sink in result.settings.audit.sinks if isinstance(sink, FileSink)] == [tmp_path / "var/audit", Path("/abs")]
    assert database(loaded(tmp_path, store={"url": "sqlite:////data/x.db"}).settings) == Path("/data/x.db")


def test_a_relative_configuration_file_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert database(load("slm-authz.yaml", {}, Plugins()).settings) == tmp_path / "var/slm-authz.db"


def test_any_scalar_may_come_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("25\n")
    document = MINIMAL | {
        "version": {"env": "V"},
        "listen": {"max_body": {"env": "BODY"}, "drain": {"env": "DRAIN"}},
        "client_address": {"from": {"env": "FROM"}, "trusted_hops": {"env": "V"}},
        "telemetry": {"sample_ratio": {"env": "RATIO"}},
        "tiers": {"free": {"models": [{"env": "MODEL"}], "limits": [{"requests": {"file": "limit"}, "per": {"env": "PER"}}]}},
    }
    env = {"V": "1", "BODY": "2MiB", "DRAIN": "3s", "FROM": "xff", "RATIO": "0.5", "MODEL": "m", "PER": "day"}
    result = load(written(tmp_path, document), env, Plugins())
    tree = result.settings
    assert (tree.listen.max_body, tree.listen.drain, tree.client_address.trusted_hops, tree.telemetry.sample_ratio) == (
        2 << 20,
        3000,
        1,
        0.5,
    )
    assert (tree.tiers["free"].limits[0].requests, tree.tiers["free"].limits[0].per) == (25, "day")
    assert result.files == (tmp_path / "limit",)


SECRET = "hunter2'\"\n`x"


@pytest.mark.parametrize(
    "sections",
    [
        {"workers": {"env": "S"}},
        {"listen": {"grpc": {"env": "S"}}},
        {"listen": {"grpc_token": {"env": "S"}}},
        {"listen": {"drain": {"env": "S"}}},
        {"listen": {"max_body": {"file": "s"}}},
        {"listen": {"env": "S"}},
        {"store": {"url": {"env": "S"}}},
        {"store": {"on_outage": {"env": "S"}}},
        {"time_zone": {"env": "S"}},
        {"currency": {"file": "s"}},
        {"identity": {"env": "S"}},
        {"identity": [{"anonymous": {"tier": {"env": "S"}}}]},
        {"identity": [{"api_key": {"in": [{"header": {"env": "S"}}]}}]},
        {"models": {"m": {"aliases": [{"env": "S"}], "price": {"input": {"env": "S"}, "output": "1"}}}},
        {"models": {"m": {"price": {"env": "S"}}}},
        {"tiers": {"free": {"models": [{"env": "S"}]}}},
        {"tiers": {"free": {"models": ["m"], "limits": [{"requests": 1, "per": {"env": "S"}}]}}},
        {"tiers": {"free": {"models": ["m"], "limits": [{"concurrent": 9, "name": {"env": "S"}}, {"tokens": 9999, "per": "day", "name": {"env": "S"}}]}}},
        {"policies": [{"name": {"env": "S"}, "when": "false"}]},
        {"policies": [{"name": "a", "when": "false", "deny": {"code": {"env": "S"}, "status": {"env": "S"}}}]},
        {"paths": [{"prefix": {"env": "S"}, "model": "none"}]},
        {"telemetry": {"otlp_endpoint": {"env": "S"}, "sample_ratio": {"env": "S"}}},
        {"audit": {"sinks": [{"file": "./a", "keep": {"env": "S"}, "max": {"env": "S"}}]}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("secret", [SECRET, "k9", "sesame.open", "unix:/hunter2\x00", "redis://:hunter2@h", "127.0.0.1:hunter2"])
def test_a_secret_is_never_repeated(tmp_path: Path, sections: dict[str, Any], secret: str) -> None:
    (tmp_path / "s").write_text(secret)
    try:
        result = loaded(tmp_path, {"S": secret}, **sections)
    except ConfigError as wrong:
        told = str(wrong) + repr(wrong.problems)
    else:
        told = repr(result.warnings) + as_yaml(public(result.settings, result.origins)) + result.digest
    for part in (secret, "hunter2", "sesame", "k9"):
        assert part not in secret or part not in told


def test_an_expression_from_elsewhere_is_not_quoted(tmp_path: Path) -> None:
    def check(tree: Settings) -> list[tuple[str, str, str]]:
        return [("policies.0.when", f"the expression does not compile: 1:1: undeclared {tree.policies[0].when[:7]}", "Use CEL.")]

    for when, told in (("hunter2 == 3", True), ({"env": "S"}, False)):
        file = written(tmp_path, MINIMAL | {"policies": [{"name": "a", "when": when}]})
        with pytest.raises(ConfigError) as caught:
            load(file, {"S": "hunter2 == 3"}, Plugins(), [check])
        (problem,) = caught.value.problems
        assert problem.message.startswith("the expression does not compile")
        assert ("hunter2" in problem.message) is told
        assert problem.line is not None


def test_control_characters_of_the_file_are_escaped(tmp_path: Path) -> None:
    wrong = refused(tmp_path, tiers={"free": {"models": ["\x1b[31mred\n"]}})
    assert "`\\x1b[31mred\\n`" in wrong.problems[0].message
    red: dict[str, Any] = {"\x1b[31mred": 1}
    wrong = refused(tmp_path, None, **red)
    assert "cannot be shown" in wrong.problems[0].message


def test_the_digest_is_of_what_the_file_says(tmp_path: Path) -> None:
    plain = loaded(tmp_path).digest
    assert len(plain) == 16
    assert load(written(tmp_path, "# a comment\n" + yaml.safe_dump(MINIMAL)), {}, Plugins()).digest == plain
    assert loaded(tmp_path, workers=1, listen={"drain": "10000ms"}).digest == plain
    assert loaded(tmp_path, listen={"drain": "11s"}).digest != plain
    (tmp_path / "elsewhere").mkdir()
    assert loaded(tmp_path / "elsewhere").digest == plain

    def with_env(key: str, value: str, **sections: Any) -> str:
        return loaded(tmp_path, {key: value}, **sections).digest

    drain = {"listen": {"drain": {"env": "X"}}}
    assert with_env("X", "1s", **drain) != with_env("X", "2s", **drain)
    text = {"telemetry": {"otlp_endpoint": {"env": "X"}}}
    assert with_env("X", "http://a", **text) == with_env("X", "http://b", **text)


def test_what_is_shown_loads_again(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = load(EXAMPLE, {}, Plugins())
    second = load(written(tmp_path / "again", as_yaml(public(first.settings, first.origins))), {}, Plugins())
    assert second.settings.model_dump() == first.settings.model_dump()


def test_what_is_shown_has_units_and_no_secrets(tmp_path: Path) -> None:
    result = loaded(
        tmp_path,
        {"E": "http://collector:4317", "D": "90s"},
        telemetry={"otlp_endpoint": {"env": "E"}},
        metering={"lease": {"env": "D"}},
        audit={"sinks": [{"kafka": {"password": "hunter2", "nested": {"keep": 5, "token": ["hunter2"]}}}]},
        identity=[{"ldap": {"password": "hunter2"}}, {"anonymous": {"tier": "free"}}],
        tiers={"free": {"models": ["m"], "limits": [{"cost": "1.50", "per": "day"}]}},
    )
    shown = public(result.settings, result.origins)
    assert shown["telemetry"]["otlp_endpoint"] == {"env": "E"}
    assert shown["metering"]["lease"] == "1m30s"
    assert shown["listen"]["max_body"] == "4MiB"
    assert shown["tiers"]["free"]["limits"][0]["cost"] == "1.5"
    assert shown["models"]["m"]["price"] == {"input": "1", "output": "2", "per": 1_000_000}
    assert shown["audit"]["sinks"] == [{"kafka": {"password": "***", "nested": {"keep": 5, "token": ["***"]}}}]
    assert shown["identity"][0] == {"ldap": {"password": "***"}}
    assert "hunter2" not in as_yaml(shown)


def test_plugins_are_known_by_their_entry_points() -> None:
    plugins = installed_plugins()
    assert isinstance(plugins.identity, frozenset)
    assert isinstance(plugins.audit_sink, frozenset)


@pytest.mark.parametrize(
    ("spec", "by", "name"),
    [
        ({"tokens": 1, "per": "day"}, "client", "free.tokens.day.client"),
        ({"concurrent": 1}, "model", "free.concurrent.model"),
        ({"requests": 1, "per": "day", "models": ["b", "a"]}, "key", "free.requests.day.key.a+b"),
        ({"requests": 1, "per": "day", "algorithm": "gcra"}, "key", "free.requests.day.key.gcra"),
    ],
)
def test_names_of_limits(spec: dict[str, Any], by: str, name: str) -> None:
    assert limit_name("free", LimitSpec.model_validate(spec), by) == name


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from(["m", "free", "*", "day", "30d", "4MiB", "0.05", "gcra", "none", "deny", "xff", "strict", "redis://h", "unix:x", "false", ""]),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(
        [
            "api_key",
            "anonymous",
            "jwt",
            "in",
            "file",
            "env",
            "otlp",
            "models",
            "limits",
            "price",
            "requests",
            "per",
            "tier",
            "name",
            "\x00",
            "<file>",
        ]
    ),
    st.text(max_size=6),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
ROOT = yaml.safe_load(EXAMPLE.read_text())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def mutated(value: Any, path: tuple[Any, ...], replacement: Any) -> Any:
    if not path:
        return replacement
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = mutated(copy[path[0]], path[1:], replacement)
    return copy


@given(
    st.sampled_from([place for place in places(ROOT) if place]),
    VALUES,
    st.sampled_from([place for place in places(ROOT) if len(place) > 1]),
    VALUES,
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_the_file_is_served_or_refused_with_reasons(tmp_path: Path, first: Any, one: Any, second: Any, two: Any) -> None:
    document = mutated(ROOT, first, one)
    if second[: len(first)] != first:
        document = mutated(document, second, two)
    try:
        result = load(written(tmp_path, document), {}, Plugins())
    except ConfigError as wrong:
        found = wrong.problems
    else:
        assert as_yaml(public(result.settings, result.origins))
        return
    assert any(problem.severity == "error" for problem in found)
    assert all(problem.line and problem.message and problem.fix for problem in found)
    assert [problem.line for problem in found] == sorted(problem.line or 0 for problem in found)
    assert len(set(found)) == len(found)


@given(VALUES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_anything_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(ConfigError):
        load(written(tmp_path, yaml.safe_dump(document, allow_unicode=True)), {}, Plugins())
