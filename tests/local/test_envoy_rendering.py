"""What the rendered Envoy configuration must hold, whatever the file's numbers are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.errors import DependencyError, UsageError
from slm_authz.local.envoy_config import bootstrap, seconds, stream_duration, to_json, to_yaml
from slm_authz.local.wiring import Wiring, parse_listen, parse_upstream
from slm_authz.settings.schema import Settings

MINIMAL: dict[str, Any] = {"version": 1, "identity": [{"api_key": {}}], "models": {"m": {}}, "tiers": {"free": {"models": ["m"]}}}


def rendered(upstream: str = "http://127.0.0.1:8000", *, changes: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return bootstrap(
        Settings.model_validate(MINIMAL | (changes or {})), Wiring(parse_listen("127.0.0.1:10000"), parse_upstream(upstream), **more)
    )


def listener(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = tree["static_resources"]["listeners"][0]
    return found


def manager(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = listener(tree)["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def route(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manager(tree)["route_config"]["virtual_hosts"][0]["routes"][0]
    return found


def clusters(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    service, upstream = tree["static_resources"]["clusters"]
    return service, upstream


def test_usage_is_read_before_the_decision_in_the_order_of_filters() -> None:
    names = [http["name"].rpartition(".")[2] for http in manager(rendered())["http_filters"]]
    assert names == ["json_to_metadata", "sse_to_metadata", "ext_authz", "router"]


def test_a_service_that_is_away_refuses() -> None:
    decide = manager(rendered())["http_filters"][2]["typed_config"]
    assert decide["failure_mode_allow"] is False
    assert decide["status_on_error"] == {"code": "ServiceUnavailable"}
    assert decide["grpc_service"]["timeout"] == "1s"


def test_sizes_come_from_the_file() -> None:
    tree = rendered(changes={"listen": {"max_body": "1MiB", "max_answer": "8MiB"}})
    assert manager(tree)["http_filters"][2]["typed_config"]["with_request_body"]["max_request_bytes"] == 1 << 20
    assert listener(tree)["per_connection_buffer_limit_bytes"] == clusters(tree)[1]["per_connection_buffer_limit_bytes"] == 8 << 20


def test_a_long_settle_wait_has_time() -> None:
    tree = rendered(changes={"metering": {"settle_wait": "2s"}})
    assert manager(tree)["http_filters"][2]["typed_config"]["grpc_service"]["timeout"] == "2.750s"


def test_without_usage_nothing_reads_it() -> None:
    tree = manager(rendered(changes={"metering": {"usage_from": "none"}}))
    assert "access_log" not in tree
    assert [http["name"].rpartition(".")[2] for http in tree["http_filters"]] == ["ext_authz", "router"]


@given(st.integers(1000, 10**9))
def test_a_call_ends_before_its_lease(lease: int) -> None:
    assert 0 < stream_duration(lease) < lease
    assert lease < 4000 or lease - stream_duration(lease) >= 2000


def test_durations_are_protobufs() -> None:
    assert [seconds(840_000), seconds(1500), seconds(7)] == ["840s", "1.500s", "0.007s"]


def test_forged_headers_go_before_any_filter() -> None:
    (extension,) = manager(rendered())["early_header_mutation_extensions"]
    mutations = extension["typed_config"]["mutations"]
    assert {"remove_on_match": {"key_matcher": {"prefix": "x-slm-"}}} in mutations
    assert {"remove": "x-envoy-retry-on"} in mutations


def test_nothing_is_retried() -> None:
    tree = rendered()
    assert "retry_policy" not in json.dumps(tree)
    assert all(cluster["circuit_breakers"]["thresholds"][0]["max_retries"] == 0 for cluster in clusters(tree))


def test_trusted_hops_are_counted_as_the_service_counts_them() -> None:
    assert "xff_num_trusted_hops" not in manager(rendered())
    tree = manager(rendered(changes={"client_address": {"from": "xff", "trusted_hops": 2}}))
    assert (tree["use_remote_address"], tree["xff_num_trusted_hops"], tree["skip_xff_append"]) == (True, 2, True)


def test_there_is_no_admin_interface_unless_asked_for() -> None:
    assert "admin" not in rendered()
    assert rendered(admin=parse_listen("127.0.0.1:9901"))["admin"]["address"]["socket_address"]["port_value"] == 9901


def test_https_names_the_host_and_believes_only_its_certificate() -> None:
    tree = rendered("https://models.example.com/openai/v1", ca_file=Path("/ca.pem"))
    upstream = clusters(tree)[1]
    context = upstream["transport_socket"]["typed_config"]
    validation = context["common_tls_context"]["validation_context"]
    assert upstream["type"] == "STRICT_DNS"
    assert context["sni"] == "models.example.com"
    assert validation["trusted_ca"] == {"filename": "/ca.pem"}
    assert validation["match_typed_subject_alt_names"] == [{"san_type": "DNS", "matcher": {"exact": "models.example.com"}}]
    assert route(tree)["route"]["host_rewrite_literal"] == "models.example.com"
    assert route(tree)["route"]["prefix_rewrite"] == "/openai/"


def test_https_to_an_address_has_no_sni_and_checks_the_address() -> None:
    context = clusters(rendered("https://192.0.2.7:8443", ca_file=Path("/ca.pem")))[1]["transport_socket"]["typed_config"]
    assert "sni" not in context
    assert context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"][0]["san_type"] == "IP_ADDRESS"


def test_https_without_trusted_roots_is_refused_instead_of_believed() -> None:
    with pytest.raises(DependencyError, match="SSL_CERT_FILE"):
        rendered("https://models.example.com")


def test_the_upstreams_key_is_named_and_never_written() -> None:
    (added,) = route(rendered(key_env="MODELS_KEY"))["request_headers_to_add"]
    assert added["header"] == {"key": "authorization", "value": "Bearer %ENVIRONMENT(MODELS_KEY)%"}
    assert added["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"


def test_a_unix_socket_and_what_cannot_be_one() -> None:
    service = clusters(rendered(changes={"listen": {"grpc": "unix:/run/slm.sock"}}))[0]
    endpoint = service["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"] == {"pipe": {"path": "/run/slm.sock"}}
    for grpc in (f"unix:/{'x' * 120}", "127.0.0.1:0"):
        with pytest.raises(UsageError):
            rendered(changes={"listen": {"grpc": grpc}})


def test_yaml_and_json_say_the_same() -> None:
    tree = rendered()
    text = to_yaml(tree, "one\n\ntwo")
    assert text.startswith("# one\n#\n# two\n")
    assert yaml.safe_load(text) == json.loads(to_json(tree)) == tree
