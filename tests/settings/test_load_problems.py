"""Every mistake: where it is said to be, in which words, and that there is a remedy."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from slm_authz.errors import ConfigError, UsageError
from slm_authz.settings.load import Loaded, Plugins, load
from slm_authz.settings.problems import Problem

GOOD = """\
version: 1
identity: [{api_key: {}}]
models:
  m: {context: 8192, price: {input: "1", output: "2"}}
  n: {context: 8192, aliases: [nn]}
tiers:
  free: {models: [m]}
  pro: {models: ["*"]}
"""
PLUGINS = Plugins(frozenset({"ldap"}), frozenset({"kafka"}))


def read(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> Loaded:
    file = tmp_path / "slm-authz.yaml"
    file.write_text(textwrap.dedent(text))
    return load(file, env or {}, PLUGINS)


def problems(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> tuple[Problem, ...]:
    try:
        return read(tmp_path, text, env).warnings
    except ConfigError as wrong:
        return wrong.problems


def replaced(**sections: str) -> str:
    """GOOD with top-level sections replaced; each stands on one line of its own, the last ones of the file."""
    kept: list[str] = []
    skip = False
    for line in GOOD.splitlines():
        if not line.startswith(" "):
            skip = line.partition(":")[0] in sections
        if not skip:
            kept.append(line)
    return "\n".join([*kept, *(f"{name}: {text}" for name, text in sections.items())]) + "\n"


def limits(text: str, **sections: str) -> str:
    return replaced(tiers=f'{{free: {{models: [m], limits: {text}}}, pro: {{models: ["*"]}}}}', **sections)


def model_limits(text: str) -> str:
    return replaced(models=f"{{m: {{price: free, limits: {text}}}, n: {{aliases: [nn]}}}}")


def test_the_good_file_is_good(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).warnings == ()


ONE = [
    # shapes
    (replaced(version="2"), "version", "must be 1"),
    (replaced(version="true"), "version", "whole number"),
    (replaced(version='"1"'), "version", "whole number"),
    (replaced(identity="[]"), "identity", "must not be empty"),
    (replaced(identity="api_key"), "identity", "must be a list"),
    (replaced(identity="[api_key]"), "identity.0", "must be a mapping"),
    (replaced(identity="[{}]"), "identity.0", "exactly one identity method"),
    (replaced(identity="[{api_key: {}, anonymous: {tier: free}}]"), "identity.0", "exactly one identity method"),
    (replaced(identity="[{anonymous: }]"), "identity.0.anonymous", "has no value"),
    (replaced(identity="[{anonymous: {}}]"), "identity.0.anonymous.tier", "`tier` is missing"),
    (replaced(identity="[{anonymous: {tier: gold}}, {api_key: {}}]"), "identity.0.anonymous.tier", "no tier `gold`"),
    (replaced(identity="[{api_key: {}}, {api_key: {}}]"), "identity.1", "stands here twice"),
    (replaced(identity="[{apikey: {}}]"), "identity.0.apikey", "no identity method `apikey`"),
    (replaced(identity="[{saml: {}}]"), "identity.0.saml", "no identity method `saml`"),
    (replaced(models="{}"), "models", "must not be empty"),
    (replaced(models="[m]"), "models", "must be a mapping"),
    (replaced(models="{m: 5, n: {}}"), "models.m", "must be a mapping"),
    (replaced(tiers="{}"), "tiers", "must not be empty"),
    (replaced(tiers="{free: {}, pro: {models: ['*']}}"), "tiers.free.models", "`models` is missing"),
    (replaced(tiers="{free: {models: m}, pro: {models: ['*']}}"), "tiers.free.models", "must be a list"),
    (replaced(tiers="{free: {models: []}, pro: {models: ['*']}}"), "tiers.free.models", "must not be empty"),
    (GOOD + "listn: {}", "listn", "not a key"),
    (GOOD + "listen: {grcp: 127.0.0.1:1}", "listen.grcp", "not a key"),
    (GOOD + "listen:", "listen", "has no value"),
    (GOOD + "policies:", "policies", "has no value"),
    (GOOD + "listen: 5", "listen", "must be a mapping"),
    (GOOD + "workers: two", "workers", "whole number"),
    (GOOD + "workers: 0", "workers", "at least 1"),
    (GOOD + "workers: 1.0", "workers", "whole number"),
    (GOOD + "workers: yes", "workers", "whole number"),
    (GOOD + "workers: true", "workers", "whole number"),
    (GOOD + "workers: 010", "workers", "whole number"),
    (GOOD + "workers: 0x1", "workers", "whole number"),
    (GOOD + "workers: 1_0", "workers", "whole number"),
    (GOOD + "workers: 1:30", "workers", "whole number"),
    (GOOD + "workers: 9007199254740992", "workers", "at most 9007199254740991"),
    (GOOD + "currency: usd", "currency", "three capital letters"),
    (GOOD + "currency: 5", "currency", "must be text"),
    (GOOD + "time_zone: Europe", "time_zone", "not known"),
    (GOOD + "time_zone: ../../etc/passwd", "time_zone", "not known"),
    (GOOD + "time_zone: Mars/Base", "time_zone", "not known"),
    (GOOD + "telemetry: {sample_ratio: 1.5}", "telemetry.sample_ratio", "at most 1"),
    (GOOD + "telemetry: {sample_ratio: no}", "telemetry.sample_ratio", "must be a number"),
    (GOOD + "telemetry: {otlp_endpoint: collector}", "telemetry.otlp_endpoint", "not an http"),
    (GOOD + "telemetry: {otlp_endpoint: 'http://u:p@collector'}", "telemetry.otlp_endpoint", "not an http"),
    # listeners, sizes, times
    (GOOD + "listen: {grpc: 9001}", "listen.grpc", "must be text"),
    (GOOD + "listen: {grpc: nowhere}", "listen.grpc", "is not an address"),
    (GOOD + "listen: {health: '0.0.0.0:99999'}", "listen.health", "is not an address"),
    (GOOD + "listen: {grpc: '127.0.0.1:9002'}", "listen.admin", "same address"),
    (GOOD + "listen: {admin_hosts: []}", "listen.admin_hosts", "must not be empty"),
    (GOOD + "listen: {admin_hosts: ['http://x/']}", "listen.admin_hosts.0", "without scheme"),
    (GOOD + "listen: {grpc: 'unix:./" + "a" * 104 + "'}", "listen.grpc", "longer than the 103 bytes"),
    (GOOD + "listen: {max_body: 4 MiB}", "listen.max_body", "is not a size"),
    (GOOD + "listen: {max_body: 1KiB, max_answer: 12}", "listen.max_answer", "from 1KiB"),
    (GOOD + "listen: {max_body: 2GiB}", "listen.max_body", "to 1GiB"),
    (GOOD + "listen: {drain: soon}", "listen.drain", "is not a duration"),
    (GOOD + "listen: {drain: 2h}", "listen.drain", "at most 1h"),
    (GOOD + "listen: {drain: [1]}", "listen.drain", "single value"),
    (GOOD + "metering: {lease: 10ms}", "metering.lease", "from 1s"),
    (GOOD + "metering: {lease: 999999999999w}", "metering.lease", "at most"),
    (GOOD + "metering: {lease: 2s, settle_wait: 3s}", "metering.settle_wait", "shorter than the lease"),
    (GOOD + "client_address: {from: xff}", "client_address", "needs trusted_hops"),
    (GOOD + "client_address: {trusted_hops: 1}", "client_address.trusted_hops", "belongs to from: xff"),
    (GOOD + "client_address: {from: proxy}", "client_address.from", "must be peer or xff"),
    (GOOD + "workers: 2", "workers", "shared store"),
    (GOOD + "store: {url: 'postgres://u:p@h/db'}", "store.url", "not one that this release knows"),
    (GOOD + "store: {url: 'sqlite:///'}", "store.url", "not one that this release knows"),
    (GOOD + "store: {url: 'sqlite:///:memory:'}", "store.url", "needs a file"),
    (GOOD + "store: {on_outage: ignore}", "store.on_outage", "must be deny, local or allow"),
    # what is not built
    (replaced(identity="[{jwt: {issuer: x}}]"), "identity.0.jwt", "jwt is not built in this release"),
    (replaced(identity="[{introspection: {}}, {api_key: {}}]"), "identity.0.introspection", "not built in this release"),
    (replaced(identity="[{mtls: {from: xfcc}}]"), "identity.0.mtls", "not built in this release"),
    (GOOD + "store: {url: 'redis://:secret@h:6379/0'}", "store.url", "redis:// is not built in this release"),
    (GOOD + "store: {url: 'REDISS://h'}", "store.url", "rediss:// is not built in this release"),
    (GOOD + "store: {url: 'redis+sentinel://h'}", "store.url", "not built in this release"),
    (GOOD + "store: {url: 'redis+cluster://h'}", "store.url", "not built in this release"),
    (GOOD + "store: {keys_url: 'sqlite:///x'}", "store.keys_url", "not built in this release"),
    (GOOD + "rate_limit_service: {config_dir: ./x}", "rate_limit_service", "not built in this release"),
    (GOOD + "metering: {usage_from: ext_proc}", "metering.usage_from", "not built in this release"),
    (GOOD + "metering: {bound: tokenizer}", "metering.bound", "not built in this release"),
    (replaced(models="{m: {cap_absent: inject}, n: {}}"), "models.m.cap_absent", "not built in this release"),
    (GOOD + "listen: {grpc: '0.0.0.0:9001'}", "listen.grpc", "not built in this release"),
    (GOOD + "listen: {admin: 'console.example:9002'}", "listen.admin", "not built in this release"),
    (GOOD + "listen: {tls: {cert: a, key: b}}", "listen.tls", "not built in this release"),
    (GOOD + "listen: {grpc_token: abc}", "listen.grpc_token", "not built in this release"),
    # places
    (replaced(identity="[{api_key: {in: []}}]"), "identity.0.api_key.in", "must not be empty"),
    (replaced(identity="[{api_key: {in: [{header: a, query: b}]}}]"), "identity.0.api_key.in.0", "exactly one of header"),
    (replaced(identity="[{api_key: {in: [{query: b, scheme: Bearer}]}}]"), "identity.0.api_key.in.0", "scheme belongs"),
    (replaced(identity="[{api_key: {in: [{header: 'a b'}]}}]"), "identity.0.api_key.in.0.header", "no name"),
    (replaced(identity="[{api_key: {in: [{header: X-SLM-Client}]}}]"), "identity.0.api_key.in.0.header", "meaning of its own"),
    (replaced(identity="[{api_key: {in: [{header: x_slm_tier}]}}]"), "identity.0.api_key.in.0.header", "meaning of its own"),
    (replaced(identity="[{api_key: {in: [{header: Host}]}}]"), "identity.0.api_key.in.0.header", "meaning of its own"),
    (replaced(identity="[{api_key: {in: [{header: ':path'}]}}]"), "identity.0.api_key.in.0.header", "no name"),
    (replaced(identity="[{api_key: {in: [{header: a}, {header: A}]}}]"), "identity.0.api_key.in.1", "twice"),
    (replaced(identity="[{api_key: {in: [{header: a, scheme: 'Bearer '}]}}]"), "identity.0.api_key.in.0.scheme", "one word"),
    (replaced(identity="[{api_key: {in: [{cookie: 'a=b'}]}}]"), "identity.0.api_key.in.0.cookie", "no name"),
    # models and tiers
    (replaced(models="{m: {aliases: [n]}, n: {}}"), "models.n", "alias of `m`"),
    (replaced(models="{m: {}, n: {aliases: [m]}}"), "models.n.aliases.0", "names the model `m` already"),
    (replaced(models="{m: {aliases: [x, x]}, n: {}}"), "models.m.aliases.1", "already"),
    (replaced(models="{m: {aliases: [3.10]}, n: {}}"), "models.m.aliases.0", "put it in quotes"),
    (replaced(models="{m: {}, n: {}, 'a b': {}}"), "models.a b", "visible ASCII"),
    (replaced(models="{m: {}, n: {}, 'phi-*': {}}"), "models.phi-*", "visible ASCII"),
    (replaced(models="{m: {}, n: {}, 'ü': {}}"), "models.ü", "visible ASCII"),
    (replaced(models="{m: {default_output_tokens: 5000}, n: {}}"), "models.m.default_output_tokens", "above max_output_tokens (4096)"),
    (replaced(models="{m: {context: 2048}, n: {}}"), "models.m.max_output_tokens", "above the context (2048)"),
    (replaced(models="{m: {tokens_per_byte: 2}, n: {}}"), "models.m.tokens_per_byte", "must be 1, 3 or 11"),
    (replaced(models="{m: {price: 0.05}, n: {}}"), "models.m.price", "must be a mapping"),
    (replaced(models="{m: {price: gratis}, n: {}}"), "models.m.price", "must be free"),
    (replaced(models="{m: {price: {input: 0.05, output: '1'}}, n: {}}"), "models.m.price.input", "decimal string"),
    (replaced(models="{m: {price: {input: '1'}}, n: {}}"), "models.m.price.output", "`output` is missing"),
    (replaced(models="{m: {price: {input: '-1', output: '1'}}, n: {}}"), "models.m.price.input", "not an amount of money"),
    (replaced(models="{m: {price: {input: '0.0000000001', output: '1'}}, n: {}}"), "models.m.price.input", "nine decimals"),
    (replaced(models="{m: {price: {input: '1', output: '9007199', per: 1}}, n: {}}"), "models.m.price", "cannot be counted exactly"),
    (replaced(models="{m: {max_output_tokens: 90071992547409}, n: {}}"), "models.m.max_output_tokens", "counted exactly"),
    (replaced(models="{m: {}, n: {}}", metering="{bound: strict}") .replace("m: {}", "m: {context: 4096}"), "models.n.context", "mandatory with bound: strict"),
    (replaced(tiers="{free: {models: [mm]}, pro: {models: ['*']}}"), "tiers.free.models.0", "no configured model is meant by `mm`"),
    (replaced(tiers="{free: {models: [x-*]}, pro: {models: ['*']}}"), "tiers.free.models.0", "no configured model"),
    (replaced(tiers="{'a,b': {models: [m]}, pro: {models: ['*']}}"), "tiers.a,b", "visible ASCII"),
    # limits
    (limits("[{per: day}]"), "tiers.free.limits.0", "exactly one of requests"),
    (limits("[{requests: 1, tokens: 1, per: day}]"), "tiers.free.limits.0", "exactly one of requests"),
    (limits("[{requests: 1}]"), "tiers.free.limits.0", "add per"),
    (limits("[{requests: 1, per: year}]"), "tiers.free.limits.0.per", "must be second, minute"),
    (limits("[{requests: '20', per: day}]"), "tiers.free.limits.0.requests", "without quotes"),
    (limits("[{requests: -1, per: day}]"), "tiers.free.limits.0.requests", "at least 1"),
    (limits("[{concurrent: 1, per: day}]"), "tiers.free.limits.0", "has no per"),
    (limits("[{requests: 1, per: day, burst: 2}]"), "tiers.free.limits.0", "burst belongs to"),
    (limits("[{requests: 1, per: month, algorithm: gcra}]"), "tiers.free.limits.0", "a month has none"),
    (limits("[{tokens: 9007199254740991, per: week, algorithm: gcra, burst: 90071992547}]"), "tiers.free.limits.0.burst", "too large"),
    (limits("[{tokens: 9007199254740991, per: week, algorithm: gcra}]"), "tiers.free.limits.0", "too large"),
    (limits("[{cost: 1.00, per: month}]"), "tiers.free.limits.0.cost", "decimal string"),
    (limits("[{cost: '0', per: month}]"), "tiers.free.limits.0.cost", "at least 0.000000001"),
    (limits("[{cost: '10000000', per: month}]"), "tiers.free.limits.0.cost", "at most 9007199.254740991"),
    (limits("[{requests: 1, per: day, by: model}]"), "tiers.free.limits.0.by", "belongs under models"),
    (limits("[{requests: 1, per: day, by: user}]"), "tiers.free.limits.0.by", "must be key, client"),
    (limits("[{requests: 1, per: day, models: [zz]}]"), "tiers.free.limits.0.models.0", "no configured model"),
    (limits("[{requests: 1, per: day, models: [n]}]"), "tiers.free.limits.0", "no request can reach this limit"),
    (limits("[{requests: 1, per: day, models: []}]"), "tiers.free.limits.0", "no request can reach this limit"),
    (limits("[{requests: 1, per: day}, {requests: 2, per: day, by: client}]"), "tiers.free.limits.1", "counts the same as `free.requests.day.client`"),
    (limits("[{requests: 1, per: day, name: a}, {requests: 2, per: day, name: b}]"), "tiers.free.limits.1", "counts the same as `a`"),
    (limits("[{requests: 9, per: day, name: a}, {tokens: 9999, per: day, name: a}]"), "tiers.free.limits.1.name", "two limits are named `a`"),
    (limits("[{requests: 9, per: day, name: 'a b'}]"), "tiers.free.limits.0.name", "visible ASCII"),
    (limits("[{cost: '1', per: day}]", models="{m: {}, n: {}}"), "tiers.free.limits.0", "needs the price of `m`"),
    (replaced(tiers="{free: {models: [m], weight: 3}, pro: {models: ['*']}}"), "tiers.free.weight", "not built in this release"),
    (
        replaced(
            models="{m: {limits: [{requests: 6, per: minute, algorithm: gcra, burst: 3, by: client}]}, n: {}}",
            tiers="{free: {models: ['*'], limits: [{requests: 600, per: minute, algorithm: gcra, burst: 2, models: [m]}]}}",
        ),
        "tiers.free.limits.0",
        "shares its counter with `m.requests.minute.client.gcra`",
    ),
    (limits("[{tokens: 9999, per: day}]", metering="{usage_from: none}"), "tiers.free.limits.0", "usage_from: none"),
    (limits("[{concurrent: 1}]", metering="{usage_from: none}"), "tiers.free.limits.0", "usage_from: none"),
    (limits("[{tokens: 9999, per: day, on_outage: local}]", metering="{bound: strict}"), "tiers.free.limits.0.on_outage", "on_outage: local"),
    (limits("[{tokens: 9999, per: day}]", metering="{bound: strict}", store="{on_outage: allow}"), "tiers.free.limits.0", "on_outage: allow"),
    (limits("[{requests: 1, per: day}]", identity="[{anonymous: {tier: pro}}]"), "tiers.free.limits.0", "all callers are anonymous"),
    (model_limits("[{requests: 1, per: day, models: [m]}]"), "models.m.limits.0.models", "cannot be narrowed"),
    (model_limits("[{concurrent: 1}, {concurrent: 2, by: model}]"), "models.m.limits.1", "counts the same as `m.concurrent.model`"),
    (model_limits("[{concurrent: 1}]").replace("[m]", "[n]").replace('["*"]', "[n]"), "models.m.limits.0", "no tier admits the model"),
    # paths and policies
    (GOOD + "paths: [{prefix: health, model: none}]", "paths.0.prefix", "begins with a slash"),
    (GOOD + "paths: [{prefix: /a/../b, model: none}]", "paths.0.prefix", "plain path"),
    (GOOD + "paths: [{prefix: /a%2fb, model: none}]", "paths.0.prefix", "plain path"),
    (GOOD + "paths: [{prefix: //a, model: none}]", "paths.0.prefix", "plain path"),
    (GOOD + "paths: [{prefix: /a?b, model: none}]", "paths.0.prefix", "plain path"),
    (GOOD + "paths: [{prefix: /a}]", "paths.0.model", "`model` is missing"),
    (GOOD + "paths: [{prefix: /a, model: m}]", "paths.0.model", "must be none"),
    (GOOD + "paths: [{prefix: /a, model: none, methods: [get]}]", "paths.0.methods.0", "upper-case"),
    (GOOD + "paths: [{prefix: /a, model: none, methods: [CONNECT]}]", "paths.0.methods.0", "without CONNECT"),
    (GOOD + "paths: [{prefix: /a, model: none}, {prefix: /a, model: none}]", "paths.1", "listed with this method already"),
    (GOOD + "policies: [{when: 'false'}]", "policies.0.name", "`name` is missing"),
    (GOOD + "policies: [{name: a, when: 'false'}, {name: a, when: 'false'}]", "policies.1.name", "two policies"),
    (GOOD + "policies: [{name: a, when: true}]", "policies.0.when", "put it in quotes"),
    (GOOD + "policies: [{name: a, when: 'false', deny: {status: 200}}]", "policies.0.deny.status", "at least 400"),
    (GOOD + "policies: [{name: a, when: 'false', deny: {status: 503}}]", "policies.0.deny.status", "at most 499"),
    (GOOD + "policies: [{name: a, when: 'false', deny: {code: 'Too Long'}}]", "policies.0.deny.code", "lower-case"),
    (GOOD + "policies: [{name: a, when: 'false', mode: off}]", "policies.0.mode", "must be enforce or shadow"),
    # audit
    (GOOD + "audit: {sinks: [{file: ./a, rotat: 1MiB}]}", "audit.sinks.0.rotat", "not a key"),
    (GOOD + "audit: {sinks: [{file: }]}", "audit.sinks.0.file", "has no value"),
    (GOOD + "audit: {sinks: [{otlp: {endpoint: x}}]}", "audit.sinks.0.otlp.endpoint", "not a key"),
    (GOOD + "audit: {sinks: [{filee: ./a}]}", "audit.sinks.0", "no audit sink `filee`"),
    (GOOD + "audit: {sinks: [{}]}", "audit.sinks.0", "exactly one sink"),
    (GOOD + "audit: {sinks: [{kafka: {}, x: 1}]}", "audit.sinks.0", "exactly one sink"),
    (GOOD + "audit: {sinks: [{file: ./a}, {file: ./a}]}", "audit.sinks.1", "twice"),
    (GOOD + "audit: {sinks: [{file: ./a, rotate: 1MiB, max: 1KiB}]}", "audit.sinks.0.max", "smaller than rotate"),
    (GOOD + "audit: {sinks: [{file: ./a, keep: 1s}]}", "audit.sinks.0.keep", "at least 1m"),
    (GOOD + "audit: {sinks: []}", "audit.sinks", "needs an audit sink"),
    (GOOD + "audit: {on_failure: allow}", "audit.on_failure", "must be drop or deny"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "words"), ONE, ids=[f"{index}-{path}" for index, (_, path, _) in enumerate(ONE)])
def test_one_mistake_is_one_problem(tmp_path: Path, text: str, path: str, words: str) -> None:
    found = problems(tmp_path, text)
    assert [(problem.path, problem.severity) for problem in found] == [(path, "error")], found
    assert words in found[0].message
    assert found[0].fix
    assert found[0].line == _line_of_last_mention(text, path)


def _line_of_last_mention(text: str, path: str) -> int:
    """The line of the section; inside of one-line sections there is no other."""
    section = path.partition(".")[0]
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.startswith(f"{section}:")]
    return lines[-1] if lines else 1


WARNINGS = [
    (limits("[{requests: 10, per: minute}, {requests: 10, per: day}]"), "tiers.free.limits.0", "never reached: 10 requests per day"),
    (limits("[{requests: 10, per: hour, models: [m]}, {requests: 9, per: hour}]"), "tiers.free.limits.0", "never reached"),
    (limits("[{requests: 10, per: hour, by: key}, {requests: 9, per: hour}]"), "tiers.free.limits.0", "never reached"),
    (limits("[{concurrent: 4, by: key}, {concurrent: 2}]"), "tiers.free.limits.0", "never reached: 2 concurrent"),
    (limits("[{tokens: 1000, per: day}]"), "tiers.free.limits.0", "holds at least 1088 tokens"),
    (limits("[{tokens: 90000, per: day, algorithm: gcra, burst: 1000}]"), "tiers.free.limits.0", "never allows more than 1000"),
    (limits("[{tokens: 9000, per: day}]", metering="{bound: strict}"), "tiers.free.limits.0", "holds at least 9216 tokens"),
    (limits("[{cost: '0.000000001', per: day}]"), "tiers.free.limits.0", "names no output cap"),
    (limits("[{cost: '1', per: day}]", models="{m: {price: free}, n: {}}"), "tiers.free.limits.0", "is free"),
    (replaced(tiers="{free: {models: [m]}}"), "models.n", "no tier admits the model `n`"),
    (GOOD + "store: {key_max_age: 5s}", "store.key_max_age", "no effect"),
    (GOOD + "audit: {sinks: [], on_failure: drop}", "audit.sinks", "nothing is recorded"),
    (GOOD + "metering: {settle_wait: 1m}", "metering.settle_wait", "waits"),
    (GOOD + "paths: [{prefix: /, methods: [GET], model: none}]", "paths.0", "every path"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "words"), WARNINGS)
def test_what_is_probably_not_meant_is_a_warning(tmp_path: Path, text: str, path: str, words: str) -> None:
    (found,) = read(tmp_path, text).warnings
    assert (found.severity, found.path) == ("warning", path)
    assert words in found.message
    assert found.fix


FINE = [
    limits("[{requests: 10, per: week}, {requests: 10, per: month}]"),  # a week may lie in two months
    limits("[{requests: 10, per: minute, by: tenant}, {requests: 10, per: day, by: tenant}]"),
    limits("[{requests: 10, per: minute}, {requests: 10, per: day, by: key}]"),
    limits("[{requests: 10, per: minute}, {requests: 11, per: day}]"),
    limits("[{requests: 10, per: day, algorithm: gcra}, {requests: 10, per: day}]"),
    replaced(tiers="{free: {models: [m, n], limits: [{requests: 10, per: minute, models: [m]}, {requests: 20, per: minute}]}}"),
    limits("[{tokens: 9999, per: day, on_outage: allow}]"),
    limits("[{requests: 10, per: day, on_outage: allow}]", metering="{bound: strict}"),
    limits("[{requests: 10, per: day}]", metering="{usage_from: none}"),
    limits("[{cost: '1', per: month}, {cost: 2, per: month, by: tenant}]"),
    replaced(tiers="{free: {models: [nn, m]}}"),
    replaced(identity="\n  - api_key:\n  - anonymous: {tier: free}\n  - ldap: {url: ldaps://x, password: null}"),
    replaced(
        identity="[{api_key: {in: [{header: authorization, scheme: Bearer}, {header: authorization, scheme: Token}, {query: key}, {cookie: k}]}}]"
    ),
    replaced(models="{m: {price: {input: '0.05', output: 1}}, n: {price: free}, no: {}, on: {}, '010': {}}"),
    GOOD + "listen: {grpc: 'unix:./g.sock', admin: 'unix:./a.sock', health: '0.0.0.0:9003'}",
    GOOD + "listen: {grpc: '127.0.0.1:0', admin: '127.0.0.1:0', health: '[::1]:0'}",
    GOOD + "paths: [{prefix: /.well-known/x, model: none}, {prefix: /v1/, methods: [OPTIONS], model: none, identity: none}]",
    GOOD + "audit: {sinks: [{file: ./a}, {otlp: {}}, {kafka: {topic: a}}]}",
    GOOD + "audit: {sinks: [{otlp: }]}",
    GOOD + "client_address: {from: xff, trusted_hops: 2}",
    GOOD + "time_zone: Europe/Berlin",
]


@pytest.mark.parametrize("text", FINE)
def test_what_is_meant_passes_without_a_word(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).warnings == ()


def test_every_mistake_is_named_in_one_run_in_file_order(tmp_path: Path) -> None:
    text = """\
        version: 1
        listn: {}
        listen: {grpc: 0.0.0.0:9001, max_body: 4.5, colour: red}
        store: {url: redis://h/1}
        identity:
          - jwt: {issuer: x}
          - anonymous: {tier: gold}
        models:
          m:
            default_output_tokens: "12"
            limits: [{concurrent: 3, per: day}]
          n: {aliases: [k, k]}
        tiers:
          free:
            models: [mm, n]
            limits:
              - {requests: 20, per: minute}
              - {requests: 30, per: minute}
              - {tokens: 10, per: dya}
              - {requests: 4, per: day, models: [m]}
        policies:
          - {name: a, when: "true", deny: {status: 200}}
        audit:
          sinks: [{file: ./x, rotat: 3MiB}, {nats: {}}]
        """
    found = problems(tmp_path, text)
    assert [(problem.line, problem.path) for problem in found if problem.severity == "error"] == [
        (2, "listn"),
        (3, "listen.max_body"),
        (3, "listen.colour"),
        (3, "listen.grpc"),
        (4, "store.url"),
        (6, "identity.0.jwt"),
        (7, "identity.1.anonymous.tier"),
        (10, "models.m.default_output_tokens"),
        (11, "models.m.limits.0"),
        (12, "models.n.aliases.1"),
        (15, "tiers.free.models.0"),
        (18, "tiers.free.limits.1"),
        (19, "tiers.free.limits.2.per"),
        (20, "tiers.free.limits.3"),
        (22, "policies.0.deny.status"),
        (24, "audit.sinks.0.rotat"),
        (24, "audit.sinks.1"),
    ]
    assert all(problem.fix for problem in found)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        # what follows from a mistake is no mistake of its own
        (GOOD.replace("models:\n", "modles:\n", 1), ["modles"]),
        (GOOD.replace("  free: {models", "  free: {modells"), ["tiers.free.modells"]),
        (limits("[{cost: '1', per: day}]", models="{m: {prise: {input: '1', output: '1'}}, n: {}}"), ["models.m.prise"]),
        (limits("[{cost: '1', per: day}]", models="{m: {price: {input: 1.5, output: '1'}}, n: {}}"), ["models.m.price.input"]),
        (limits("[{requests: 1, per: day, models: m}]"), ["tiers.free.limits.0.models"]),
        (replaced(tiers="{free: 5, pro: {models: ['*']}}", identity="[{anonymous: {tier: free}}]"), ["tiers.free"]),
        (replaced(models="{m: {default_output_tokens: 9000, max_output_tokens: x}, n: {}}"), ["models.m.max_output_tokens"]),
        (replaced(tiers="{free: {models: [mm], limits: [{requests: 1, per: day}]}, pro: {models: ['*']}}"), ["tiers.free.models.0"]),
    ],
)
def test_consequences_are_not_reported(tmp_path: Path, text: str, paths: list[str]) -> None:
    found = problems(tmp_path, text)
    assert [problem.path for problem in found] == paths, found


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        (GOOD + "listn: {}", "Did you mean `listen`?"),
        (replaced(tiers="{free: {models: [m], limit: []}, pro: {models: ['*']}}"), "Did you mean `limits`?"),
        (replaced(models="{price: {contxt: 9}, m: {}, n: {}}"), "Did you mean `context`?"),
        (limits("[{requests: 1, per: day, burts: 3}]"), "Did you mean `burst`?"),
        (GOOD.replace("nn", "phi-4-mini").replace("[m]", "[phi4-mini]"), "Did you mean `phi-4-mini`?"),
        (replaced(identity="[{api-key: {}}]"), "Did you mean `api_key`?"),
        (GOOD + "audit: {sinks: [{oltp: {}}]}", "Did you mean `otlp`?"),
        (GOOD + "audit: {sinks: [{otlp: {}, x: 1}]}", "Known here: otlp."),
    ],
)
def test_what_was_probably_meant_is_offered(tmp_path: Path, text: str, fix: str) -> None:
    assert fix in [problem.fix for problem in problems(tmp_path, text)]


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    for name in ("nothing.yaml", ".", "a\x00b"):
        with pytest.raises(UsageError, match="-c FILE"):
            load(tmp_path / name, {})


def test_the_error_itself_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 9: `x` is not a key.*and 1 more.*config check -c"):
        read(tmp_path, GOOD + "x: 1\ny: 2")
