"""Settings and a wiring → the bootstrap of an Envoy that asks the service once per request and reports how each call ended.

Leaves plain trees, and YAML or JSON of them. No file is read, no secret is written. Order of the HTTP filters matters: answers walk
it from the last to the first, so the filters that read usage stand before the one that decides. Proven on Envoy 1.40.
"""

from __future__ import annotations

import json
from typing import Final

import yaml

from slm_authz.local import envoy_clusters as clusters
from slm_authz.local.envoy_clusters import SERVICE, UPSTREAM, Tree, typed
from slm_authz.local.wiring import Wiring
from slm_authz.settings.schema import Settings

USAGE: Final = "slm.usage"
"""Dynamic metadata in which the service expects the usage that Envoy parsed."""
MAX_EVENT: Final = 1 << 20
"""Largest event of a stream that is read for usage, in bytes; Envoy's default of 8 KiB misses events that carry logprobs."""
MAX_HEAP: Final = 2 << 30
"""Memory of Envoy at which it sheds load: five hundred bodies of 4 MiB that trickle in."""
_HTTP: Final = "envoy.extensions.filters.http"
_FIGURES: Final = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
_JSON_TYPES: Final = r"application/json\s*(;.*)?"
_FORGED_PREFIXES: Final = ("x-slm-", "x-ai-eg-")
_STEERING: Final = (
    # A client's words to Envoy's router: a retry or a hedge would spend its budget twice, a timeout would cut what it pays for.
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-decorator-operation",
    "x-envoy-original-path",
    "x-envoy-auth-partial-body",
)


def bootstrap(settings: Settings, wiring: Wiring) -> Tree:
    """envoy.config.bootstrap.v3.Bootstrap. UsageError, DependencyError: what is asked for cannot be rendered."""
    tree: Tree = {
        "static_resources": {
            "listeners": [_listener(settings, wiring)],
            "clusters": [clusters.service(settings), clusters.upstream(settings, wiring)],
        },
        "overload_manager": {
            # Bodies are buffered before anybody is known: beyond this much memory new requests are refused, and idle connections closed.
            "refresh_interval": "0.25s",
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.fixed_heap",
                    "typed_config": typed(
                        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", {"max_heap_size_bytes": MAX_HEAP}
                    ),
                },
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        {"max_active_downstream_connections": 10000},
                    ),
                },
            ],
            "actions": [
                {
                    "name": f"envoy.overload_actions.{action}",
                    "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": value}}],
                }
                for action, value in (("disable_http_keepalive", 0.85), ("stop_accepting_requests", 0.95))
            ],
        },
    }
    if wiring.admin is not None:
        tree["admin"] = {"address": clusters.socket_address(wiring.admin)}
    return tree


def to_yaml(tree: Tree, header: str = "") -> str:
    """YAML for people; `header` becomes a comment on top."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.safe_dump(tree, sort_keys=False, width=140)


def to_json(tree: Tree) -> str:
    """JSON, which Envoy reads as well."""
    return json.dumps(tree, indent=2) + "\n"


def _listener(settings: Settings, wiring: Wiring) -> Tree:
    return {
        "name": "gateway",
        "address": clusters.socket_address(wiring.listen),
        # A second process on the port is an error then, not a silent share of its traffic.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": settings.listen.max_answer,
        "filter_chains": [
            {
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": _connection_manager(settings, wiring)},
                ]
            }
        ],
    }


def _connection_manager(settings: Settings, wiring: Wiring) -> Tree:
    metered = settings.metering.usage_from == "access_log"
    tree: Tree = {
        "stat_prefix": "gateway",
        **_client_address(settings),
        # The path that is judged is the path that the model server sees.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # Bodies and headers that trickle in hold memory; an answer may be silent for long: its end is max_stream_duration.
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST", "idle_timeout": "60s"},
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
        },
        "request_headers_timeout": "5s",
        "request_timeout": "30s",
        "stream_idle_timeout": "0s",
        "early_header_mutation_extensions": [_strip()],
    }
    if metered:
        tree["access_log"] = [_access_log()]
        # A long answer shows that it lives: its lease is renewed, and a quiet gateway is not taken for one without an access log.
        tree["access_log_options"] = {"access_log_flush_interval": seconds(min(10_000, max(1000, settings.metering.lease // 3)))}
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        tree
        | {
            "route_config": {"virtual_hosts": [{"name": "models", "domains": ["*"], "routes": [_route(settings, wiring)]}]},
            "http_filters": [
                *([_usage_of_answers(), _usage_of_streams()] if metered else []),
                _decide(settings),
                {"name": "envoy.filters.http.router", "typed_config": typed(f"{_HTTP}.router.v3.Router", {"suppress_envoy_headers": True})},
            ],
        },
    )


def _client_address(settings: Settings) -> Tree:
    """One rule for the client's address. The service counts X-Forwarded-For from the right, without Envoy's own peer."""
    nobody = {"address_prefix": "0.0.0.0", "prefix_len": 32}  # noqa: S104 - not an address that we bind; empty would mean loopback and RFC 1918
    own: Tree = {"use_remote_address": True, "internal_address_config": {"cidr_ranges": [nobody]}}
    hops = settings.client_address.trusted_hops
    return own if hops is None else own | {"xff_num_trusted_hops": hops, "skip_xff_append": True}


def _strip() -> Tree:
    """Before any filter or route: a client's own identity headers, and its words to Envoy."""
    forged: list[Tree] = [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in _FORGED_PREFIXES]
    mutations = [*forged, *({"remove": name} for name in _STEERING)]
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": typed("envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation", {"mutations": mutations}),
    }


def _access_log() -> Tree:
    """How each call ended: what its hold is settled with. A longer interval is cheaper, a shorter one settles sooner."""
    common = {
        "log_name": "slm",
        "transport_api_version": "V3",
        "buffer_flush_interval": "0.05s",
        "grpc_service": {"envoy_grpc": {"cluster_name": SERVICE}},
    }
    return {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": typed("envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig", {"common_config": common}),
    }


def _rules() -> list[Tree]:
    return [
        {
            "selectors": [{"key": "usage"}, {"key": figure}],
            "on_present": {"metadata_namespace": USAGE, "key": name, "type": "NUMBER"},
        }
        for figure, name in _FIGURES
    ]


def _usage_of_answers() -> Tree:
    # The regular expression takes every spelling of the charset parameter.
    rules = {"allow_content_types_regex": {"regex": _JSON_TYPES}, "rules": _rules()}
    return {
        "name": "envoy.filters.http.json_to_metadata",
        "typed_config": typed(f"{_HTTP}.json_to_metadata.v3.JsonToMetadata", {"response_rules": rules}),
    }


def _usage_of_streams() -> Tree:
    parser = {
        "name": "envoy.content_parsers.json",
        "typed_config": typed(
            "envoy.extensions.content_parsers.json.v3.JsonContentParser",
            {"rules": [{"rule": rule} for rule in _rules()]},
        ),
    }
    return {
        "name": "envoy.filters.http.sse_to_metadata",
        "typed_config": typed(
            f"{_HTTP}.sse_to_metadata.v3.SseToMetadata",
            {"response_rules": {"max_event_size": MAX_EVENT, "content_parser": parser}},
        ),
    }


def _decide(settings: Settings) -> Tree:
    # A call may wait `settle_wait` for a slot; the rest of the time is for deciding. Envoy's own default is 200 ms.
    timeout = max(1000, settings.metering.settle_wait + 750)
    fields = {
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": SERVICE}, "timeout": seconds(timeout)},
        "failure_mode_allow": False,
        "status_on_error": {"code": "ServiceUnavailable"},
        # A cut body reaches the service, which refuses it in the caller's own dialect.
        "with_request_body": {"max_request_bytes": settings.listen.max_body, "allow_partial_message": True, "pack_as_bytes": True},
    }
    return {"name": "envoy.filters.http.ext_authz", "typed_config": typed(f"{_HTTP}.ext_authz.v3.ExtAuthz", fields)}


def _route(settings: Settings, wiring: Wiring) -> Tree:
    target = wiring.upstream
    action: Tree = {
        "cluster": UPSTREAM,
        "timeout": "0s",
        "idle_timeout": "0s",
        "max_stream_duration": {"max_stream_duration": seconds(stream_duration(settings.metering.lease))},
    }
    if target.prefix:
        action["prefix_rewrite"] = f"{target.prefix}/"
    if target.tls:
        action["host_rewrite_literal"] = target.authority
    route: Tree = {"match": {"prefix": "/"}, "route": action, "request_headers_to_remove": ["accept-encoding"]}
    if wiring.key_env is not None:
        # Envoy reads the variable itself: the key stands in no file and on no command line.
        header = {"key": "authorization", "value": f"Bearer %ENVIRONMENT({wiring.key_env})%"}
        route["request_headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return route


def stream_duration(lease: int) -> int:
    """How long a call may run, in milliseconds, so that its end is reported before its lease ends: a fifteenth (at most 2 s of a short one) earlier."""
    return lease - max(min(2000, lease // 2), lease // 15)


def seconds(millis: int) -> str:
    """A protobuf duration in JSON."""
    whole, part = divmod(millis, 1000)
    return f"{whole}.{part:03d}s" if part else f"{whole}s"
