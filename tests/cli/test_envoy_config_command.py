"""`slm-authz envoy-config`: what a person pipes into a file for Envoy: one tree in two spellings, the file's numbers, and no secret.

What the tree must hold whatever the numbers are is in tests/local/test_envoy_rendering.py; a real Envoy reads it in tests/e2e.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from slm_authz.cli.main import main

CONFIG: Final = """\
version: 1
identity: [{api_key: {}}]
models: {m: {}}
tiers: {free: {models: [m]}}
"""
KEY: Final = "sk-upstream-0123456789abcdef"
BEYOND: Final = (
    "0.0.0.0:9901",
    "[::]:9901",
    "192.0.2.1:9901",
    "10.0.0.1:9901",
    "[2001:db8::1]:9901",
)
NAMES: Final = ("example.com:10000", "envoy.example:9901", "127.0.0.1.example:1", "LOCALHOST:1")
NO_URLS: Final = (
    "", "127.0.0.1:8000", "localhost", "ftp://127.0.0.1", "file:///etc/passwd", "//127.0.0.1:8000", "http://", "http:///v1", "http://:8000",
    "http://127.0.0.1:0", "http://127.0.0.1:65536", "http://127.0.0.1:x", "http://host?model=m", "http://host#v1", "http://host/a b",
    "http://host/%2e%2e/admin", "http://host/a//b", "http://ho st", "http://host\r\nx-slm-tier: pro", "http://[::1", "http://-host",
    "http://ünicode.example", "http://host/{a}", "https://host/%ENVIRONMENT(HOME)%",
)  # fmt: skip
NO_ADDRESSES: Final = ("", "10000", ":10000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:010")
MORE_NO_ADDRESSES: Final = ("::1:10000", "[::1]", "1.2.3:80", "1.2.3.4.5:80", "unix:./envoy.sock", "http://127.0.0.1:10000", "127.0.0.1:1 ")


class Said(NamedTuple):
    """How the command ended and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "guard.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    roots = config.with_name("roots.pem")
    roots.write_text("trusted roots\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    for name in ("SLM_AUTHZ_CONFIG", "SLM_AUTHZ_ENVOY"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> Said:
        code = main(["envoy-config", "-c", str(config), *words])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def tree(run: Run) -> Callable[..., dict[str, Any]]:
    """The tree that both spellings mean."""

    def both(*words: str) -> dict[str, Any]:
        plain, structured = run(*words), run(*words, "--output", "json")
        assert (plain.code, plain.err, structured.code, structured.err) == (0, "", 0, "")
        found: dict[str, Any] = json.loads(structured.out)
        assert yaml.safe_load(plain.out) == found
        return found

    return both


def listener(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = tree["static_resources"]["listeners"][0]
    return found


def manager(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = listener(tree)["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def decide(tree: dict[str, Any]) -> dict[str, Any]:
    (found,) = (http["typed_config"] for http in manager(tree)["http_filters"] if http["name"] == "envoy.filters.http.ext_authz")
    return dict(found)


def route(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manager(tree)["route_config"]["virtual_hosts"][0]["routes"][0]
    return found


def cluster(tree: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one for one in tree["static_resources"]["clusters"] if one["name"] == name)
    return dict(found)


def endpoint(tree: dict[str, Any], name: str) -> dict[str, Any]:
    address: dict[str, Any] = cluster(tree, name)["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    return address


# -- two spellings


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--upstream", "https://models.example.com/openai/v1", "--upstream-key-env", "MODELS_KEY"],
        ["--listen", "[::]:443", "--admin", "[::1]:9901", "--upstream", "http://[::1]:8000"],
    ],
    ids=["plain", "https", "IPv6"],
)
def test_yaml_and_json_are_the_same_tree(tree: Callable[..., dict[str, Any]], words: list[str]) -> None:
    assert set(tree(*words)) >= {"static_resources", "overload_manager"}


def test_the_comment_on_top_names_the_file_and_how_to_run_it(run: Run, config: Path) -> None:
    said = run()
    comment = [line for line in said.out.splitlines() if line.startswith("#")]
    assert said.out.splitlines()[: len(comment)] == comment
    assert str(config) in comment[0]
    assert "slm-authz envoy-config" in comment[0]
    assert any("envoy -c" in line for line in comment)


def test_json_is_json_alone(run: Run) -> None:
    assert run("--output", "json").out.startswith("{")


@pytest.mark.parametrize(
    "name",
    [
        "two words.yaml",
        "a: b.yaml",
        "line\nstatic_resources: {}.yaml",
        "r\rn.yaml",
        "{config}.yaml",
        "#.yaml",
        "ü\u2028x.yaml",
        "%s.yaml",
        "\x1b[2J\a.yaml",
    ],
)
def test_no_name_of_a_file_can_leave_the_comment(config: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    main(["envoy-config", "-c", str(config)])
    expected = yaml.safe_load(capsys.readouterr().out)
    odd = config.with_name(name)
    odd.write_text(CONFIG)
    assert main(["envoy-config", "-c", str(odd)]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out) == expected
    assert all(letter == "\n" or letter.isprintable() for letter in out)


def test_nothing_is_made_or_opened_beside_the_file(run: Run, config: Path) -> None:
    before = sorted(path.name for path in config.parent.iterdir())
    assert run().code == 0
    assert sorted(path.name for path in config.parent.iterdir()) == before


# -- the file's numbers


@pytest.mark.parametrize(
    ("more", "where", "expected"),
    [
        ("", lambda tree: decide(tree)["with_request_body"]["max_request_bytes"], 4 << 20),
        ("listen: {max_body: 1MiB}", lambda tree: decide(tree)["with_request_body"]["max_request_bytes"], 1 << 20),
        ("", lambda tree: listener(tree)["per_connection_buffer_limit_bytes"], 32 << 20),
        ("listen: {max_answer: 8MiB}", lambda tree: listener(tree)["per_connection_buffer_limit_bytes"], 8 << 20),
        ("listen: {max_answer: 8MiB}", lambda tree: cluster(tree, "upstream")["per_connection_buffer_limit_bytes"], 8 << 20),
        ("", lambda tree: route(tree)["route"]["max_stream_duration"], {"max_stream_duration": "840s"}),
        ("metering: {lease: 5m}", lambda tree: route(tree)["route"]["max_stream_duration"], {"max_stream_duration": "280s"}),
        ("", lambda tree: decide(tree)["grpc_service"]["timeout"], "1s"),
        ("metering: {settle_wait: 2s}", lambda tree: decide(tree)["grpc_service"]["timeout"], "2.750s"),
        ("", lambda tree: (manager(tree)["use_remote_address"], manager(tree).get("xff_num_trusted_hops")), (True, None)),
        ("client_address: {from: peer}", lambda tree: manager(tree).get("skip_xff_append"), None),
        ("client_address: {from: xff, trusted_hops: 2}", lambda tree: manager(tree)["xff_num_trusted_hops"], 2),
        ("client_address: {from: xff, trusted_hops: 1}", lambda tree: manager(tree)["skip_xff_append"], True),
        ("", lambda tree: endpoint(tree, "slm_authz")["socket_address"], {"address": "127.0.0.1", "port_value": 9001}),
        (
            'listen: {grpc: "[::1]:9191"}',
            lambda tree: endpoint(tree, "slm_authz")["socket_address"],
            {"address": "::1", "port_value": 9191},
        ),
        ("listen: {grpc: unix:/run/s.sock}", lambda tree: endpoint(tree, "slm_authz"), {"pipe": {"path": "/run/s.sock"}}),
        ("", lambda tree: [log["name"] for log in manager(tree)["access_log"]], ["envoy.access_loggers.http_grpc"]),
        ("metering: {usage_from: none}", lambda tree: manager(tree).get("access_log"), None),
    ],
)
def test_numbers_of_the_file_are_carried_into_it(
    config: Path, tree: Callable[..., dict[str, Any]], more: str, where: Callable[[dict[str, Any]], Any], expected: Any
) -> None:
    config.write_text(f"{CONFIG}{more}\n")
    assert where(tree()) == expected


def test_a_relative_socket_is_where_the_service_puts_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the file, whoever asks from wherever. In a directory with a short name: a socket's path must be short."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        file = Path(directory) / "guard.yaml"
        file.write_text(f"{CONFIG}listen: {{grpc: unix:./run/slm.sock}}\n")
        monkeypatch.chdir("/")
        assert main(["envoy-config", "-c", str(file), "--output", "json"]) == 0
        path = Path(endpoint(json.loads(capsys.readouterr().out), "slm_authz")["pipe"]["path"])
        assert path.is_absolute()
        assert path.resolve() == file.parent.resolve() / "run" / "slm.sock"


def test_a_service_on_any_free_port_is_nowhere_to_ask(run: Run, config: Path) -> None:
    config.write_text(f'{CONFIG}listen: {{grpc: "127.0.0.1:0"}}\n')
    said = run()
    assert (said.code, said.out) == (2, "")
    assert "listen.grpc" in said.err


# -- the model server


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, None),
        ("http://127.0.0.1:8000/", "127.0.0.1", 8000, None),
        ("http://127.0.0.1:8000/v1", "127.0.0.1", 8000, None),
        ("http://127.0.0.1:8000/v1/", "127.0.0.1", 8000, None),
        ("http://models.example.com", "models.example.com", 80, None),
        ("http://models.example.com/openai/v1", "models.example.com", 80, "/openai/"),
        ("http://[2001:db8::1]:8000", "2001:db8::1", 8000, None),
        ("HTTP://Models.Example.com:8080/a/b", "models.example.com", 8080, "/a/b/"),
    ],
)
def test_a_plain_upstream_is_an_address_without_tls(
    tree: Callable[..., dict[str, Any]], url: str, host: str, port: int, prefix: str | None
) -> None:
    found = tree("--upstream", url)
    assert endpoint(found, "upstream")["socket_address"] == {"address": host, "port_value": port}
    assert "transport_socket" not in cluster(found, "upstream")
    assert route(found)["route"].get("prefix_rewrite") == prefix
    assert "host_rewrite_literal" not in route(found)["route"]


@pytest.mark.parametrize(
    ("url", "port", "host"),
    [
        ("https://models.example.com", 443, "models.example.com"),
        ("https://models.example.com:443/v1", 443, "models.example.com"),
        ("https://models.example.com:8443/openai", 8443, "models.example.com:8443"),
    ],
)
def test_an_https_upstream_gets_tls_sni_and_host_rewrite(
    tree: Callable[..., dict[str, Any]], config: Path, url: str, port: int, host: str
) -> None:
    found = tree("--upstream", url)
    context = cluster(found, "upstream")["transport_socket"]["typed_config"]
    validation = context["common_tls_context"]["validation_context"]
    assert endpoint(found, "upstream")["socket_address"] == {"address": "models.example.com", "port_value": port}
    assert cluster(found, "upstream")["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    assert context["sni"] == "models.example.com"
    assert validation["trusted_ca"]["filename"] == str(config.with_name("roots.pem"))
    assert validation["match_typed_subject_alt_names"][0]["matcher"] == {"exact": "models.example.com"}
    assert route(found)["route"]["host_rewrite_literal"] == host


def test_https_without_trusted_roots_is_a_dependency_with_a_fix(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from slm_authz.local import wiring

    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setattr(wiring, "_CA_FILES", ("/nowhere/roots.pem",))
    said = run("--upstream", "https://models.example.com")
    assert (said.code, said.out) == (3, "")
    assert "SSL_CERT_FILE" in said.err
    assert run("--upstream", "http://models.example.com").code == 0


@pytest.mark.parametrize("url", NO_URLS, ids=repr)
def test_what_is_no_url_of_a_model_server_is_wrong_usage_with_a_fix(run: Run, url: str) -> None:
    said = run(f"--upstream={url}")
    assert (said.code, said.out) == (2, "")
    assert "Write it like http://127.0.0.1:8000 or https://models.example.com." in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://u:hunter2@h",
        "u:hunter2@h",
        "https://hunter2@h:x",
        "https://h?api_key=hunter2",
        "https://h/v1#hunter2",
        "http://u:#hunter2@h",
    ],
)
def test_a_secret_in_the_url_is_not_repeated_and_told_where_it_goes(run: Run, url: str) -> None:
    said = run("--upstream", url)
    assert (said.code, said.out) == (2, "")
    assert "hunter2" not in said.err
    assert "--upstream-key-env" in said.err


@pytest.mark.parametrize("url", [url for url in NO_URLS if len(url) > 8 and ":8000" not in url], ids=repr)
def test_nothing_of_a_url_is_repeated(run: Run, url: str) -> None:
    assert url not in run(f"--upstream={url}").err


@pytest.mark.parametrize("output", ["table", "json"])
def test_the_upstreams_key_is_named_and_its_value_is_nowhere(run: Run, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.setenv("MODELS_KEY", KEY)
    said = run("--upstream", "https://models.example.com", "--upstream-key-env", "MODELS_KEY", "--output", output)
    assert said.code == 0
    assert "%ENVIRONMENT(MODELS_KEY)%" in said.out
    assert KEY not in said.out + said.err
    assert KEY[:12] not in said.out + said.err


def test_the_upstreams_key_replaces_what_a_client_sent(tree: Callable[..., dict[str, Any]]) -> None:
    """The variable is Envoy's: it need not be set here."""
    (added,) = route(tree("--upstream-key-env", "MODELS_KEY"))["request_headers_to_add"]
    assert added["header"] == {"key": "authorization", "value": "Bearer %ENVIRONMENT(MODELS_KEY)%"}
    assert added["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
    assert "request_headers_to_add" not in route(tree())


@pytest.mark.parametrize(
    "name", ["", "1KEY", "MY-KEY", "MY KEY", "A%B", "A)%", "A\nB", KEY, "K" * 129, "ÜBER"], ids=lambda name: repr(name[:32])
)
def test_a_key_in_place_of_its_variable_is_wrong_usage_and_not_repeated(run: Run, name: str) -> None:
    said = run(f"--upstream-key-env={name}")
    assert (said.code, said.out) == (2, "")
    assert "--upstream-key-env MODEL_KEY" in said.err
    assert name == "" or name not in said.err


# -- where Envoy listens


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("0.0.0.0:10000", "0.0.0.0", 10000),
        ("192.0.2.1:443", "192.0.2.1", 443),
        ("[::1]:10000", "::1", 10000),
        ("[::]:65535", "::", 65535),
        ("localhost:1", "127.0.0.1", 1),
    ],
)
def test_clients_connect_where_listen_says(tree: Callable[..., dict[str, Any]], address: str, host: str, port: int) -> None:
    assert listener(tree("--listen", address))["address"]["socket_address"] == {"address": host, "port_value": port}


def test_without_listen_only_this_machine_can_connect(tree: Callable[..., dict[str, Any]]) -> None:
    assert listener(tree())["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 10000}


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
@pytest.mark.parametrize("address", [*NO_ADDRESSES, *MORE_NO_ADDRESSES], ids=repr)
def test_what_is_no_host_and_port_is_wrong_usage_that_names_the_flag(run: Run, flag: str, address: str) -> None:
    said = run(f"{flag}={address}")
    assert (said.code, said.out) == (2, "")
    assert flag in said.err
    assert f"Write it like 127.0.0.1:{'10000' if flag == '--listen' else '9901'}" in said.err
    assert "like unix:" not in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
@pytest.mark.parametrize("address", NAMES)
def test_a_name_is_nothing_to_listen_on_because_envoy_looks_none_up(run: Run, flag: str, address: str) -> None:
    said = run(flag, address)
    assert (said.code, said.out) == (2, "")
    assert f"{flag}: Envoy listens on IP addresses and localhost" in said.err


@pytest.mark.parametrize("address", BEYOND)
def test_envoys_admin_interface_beyond_loopback_is_refused(run: Run, address: str) -> None:
    said = run("--admin", address)
    assert (said.code, said.out) == (2, "")
    assert "loopback" in said.err
    assert "127.0.0.1:9901" in said.err


@pytest.mark.parametrize(
    ("address", "host"),
    [("127.0.0.1:9901", "127.0.0.1"), ("127.1.2.3:9901", "127.1.2.3"), ("[::1]:9901", "::1"), ("localhost:9901", "127.0.0.1")],
)
def test_envoys_admin_interface_on_loopback_is_given(tree: Callable[..., dict[str, Any]], address: str, host: str) -> None:
    assert tree("--admin", address)["admin"] == {"address": {"socket_address": {"address": host, "port_value": 9901}}}


def test_there_is_no_admin_interface_unless_asked_for(tree: Callable[..., dict[str, Any]]) -> None:
    assert "admin" not in tree()


# -- secrets


@pytest.mark.parametrize("output", ["table", "json"])
def test_no_secret_of_the_configuration_or_the_environment_is_printed(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    hidden = {
        "SLM_AUTHZ_PEPPER": "the-pepper-0123456789abcdef",
        "SLM_AUTHZ_ADMIN_TOKEN": "the-admin-token-0123456789",
        "COLLECTOR": "http://collector-of-secrets.example:4317",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret-of-the-collector",
    }
    for name, value in hidden.items():
        monkeypatch.setenv(name, value)
    told = config.with_name("told.txt")
    told.write_text("words-of-a-policy-that-are-not-envoys\n")
    config.write_text(
        f"{CONFIG}telemetry: {{otlp_endpoint: {{env: COLLECTOR}}}}\n"
        "policies: [{name: p, when: request.stream, deny: {message: {file: told.txt}}}]\n"
    )
    said = run("--output", output, "--upstream-key-env", "SLM_AUTHZ_ADMIN_TOKEN")
    assert said.code == 0
    for value in (*hidden.values(), "secret-of-the-collector", told.read_text().strip()):
        assert value not in said.out + said.err


def test_what_a_wrong_value_from_elsewhere_was_is_not_told(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE", "not-a-lease-but-a-secret")
    config.write_text(f"{CONFIG}metering: {{lease: {{env: LEASE}}}}\n")
    said = run()
    assert (said.code, said.out) == (1, "")
    assert "`lease`" in said.err
    assert "not-a-lease" not in said.err


# -- what is in the way


def test_no_file_is_wrong_usage_and_an_invalid_one_a_no(run: Run, config: Path) -> None:
    config.write_text(f"{CONFIG}wrkers: 1\n")
    said = run()
    assert (said.code, said.out) == (1, "")
    assert "line 5" in said.err
    config.unlink()
    said = run()
    assert (said.code, said.out) == (2, "")
    assert "-c FILE" in said.err


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


VERSION_LINE: Final = 'if [ "$1" = --version ]; then echo "envoy  version: abc/1.40.0/Clean/RELEASE/BoringSSL"; exit 0; fi'


def test_an_envoy_that_refuses_it_is_a_no_in_its_own_words(run: Run, tmp_path: Path) -> None:
    envoy = program(tmp_path / "envoy", f'{VERSION_LINE}\necho "error initializing configuration: no" >&2\nexit 1')
    said = run("--validate", "--envoy", str(envoy))
    assert (said.code, said.out) == (1, "")
    assert "error initializing configuration: no" in said.err


def test_an_envoy_that_takes_it_has_seen_what_is_printed(run: Run, tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    envoy = program(tmp_path / "envoy", f'{VERSION_LINE}\ncp "$4" "{seen}"')
    said = run("--validate", "--envoy", str(envoy), "--output", "json")
    assert (said.code, said.err) == (0, "")
    assert json.loads(seen.read_text()) == json.loads(said.out) == json.loads(run("--output", "json").out)


def test_an_envoy_that_is_not_there_is_a_dependency_with_a_fix(run: Run, tmp_path: Path) -> None:
    said = run("--validate", "--envoy", str(tmp_path / "none"))
    assert (said.code, said.out) == (3, "")
    assert "--envoy" in said.err
    assert run("--envoy", str(tmp_path / "none")).code == 0
