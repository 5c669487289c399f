"""Renders the Envoy configuration that belongs to a `slm-authz.yaml`: one Check decides, the access log settles. Leaves: plain data.

The edge is part of the product: timeouts, one address rule, no escaped slashes, no underscored headers, buffers sized from `max_body` and
`max_answer`, and our own headers removed before anything else sees them, on every route. Proven on Envoy 1.40.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from slm_authz.errors import UsageError
from slm_authz.settings.address import Address, parse_address
from slm_authz.settings.schema import Settings

_TYPE: Final = "type.googleapis.com/envoy.extensions"
_MANAGER: Final = "filters.network.http_connection_manager.v3.HttpConnectionManager"
_SYSTEM_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
Config = dict[str, Any]


class Wiring(msgspec.Struct, frozen=True):
    """What the file does not know. listen: where clients connect; upstream: the model server's URL; service: our gRPC address.

    upstream_key: bearer token that Envoy sends to the upstream in the client's place; admin: Envoy's own admin address, None: off
    roots: certificate authorities for https upstreams
    """

    listen: Address
    upstream: str
    service: Address
    upstream_key: str | None = None
    admin: Address | None = None
    roots: str = _SYSTEM_ROOTS


def _typed(kind: str, **members: Any) -> Config:
    return {"@type": f"{_TYPE}.{kind}", **members}


def _socket(address: Address) -> Config:
    if address.path is not None:
        return {"pipe": {"path": str(address.path)}}
    host = "127.0.0.1" if address.host == "localhost" else address.host.strip("[]")
    return {"socket_address": {"address": host, "port_value": address.port}}


def _seconds(millis: int) -> str:
    return f"{millis / 1000:g}s"


def render(settings: Settings, wiring: Wiring) -> Config:
    """The whole bootstrap."""
    config: Config = {
        "static_resources": {
            "listeners": [_listener(settings, wiring)],
            "clusters": [_service_cluster(wiring.service), _upstream_cluster(settings, wiring)],
        }
    }
    if wiring.admin is not None:
        config["admin"] = {"address": _socket(wiring.admin)}
    return config


def _listener(settings: Settings, wiring: Wiring) -> Config:
    return {
        "name": "gateway",
        "address": _socket(wiring.listen),
        # Whole JSON answers are buffered to read their usage; a larger one becomes a 500 after the model has done the work.
        "per_connection_buffer_limit_bytes": settings.listen.max_answer,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": _manager(settings, wiring)}]}
        ],
    }


def _manager(settings: Settings, wiring: Wiring) -> Config:
    address = settings.client_address
    hops = address.trusted_hops if address.source == "xff" else None
    return _typed(
        _MANAGER,
        stat_prefix="gateway",
        **{
            # One rule for the client's address; a client's own x-request-id and x-envoy-* are not believed.
            "use_remote_address": True,
            **({"xff_num_trusted_hops": hops} if hops else {}),
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST", "idle_timeout": "60s"},
            # A body that trickles in must not hold memory for ever.
            "request_headers_timeout": "5s",
            "request_timeout": "30s",
            "stream_idle_timeout": "120s",
            "early_header_mutation_extensions": [{"name": "strip", "typed_config": _strip()}],
            "access_log": [{"name": "settle", "typed_config": access_log()}],
            "route_config": {"virtual_hosts": [{"name": "models", "domains": ["*"], "routes": [_route(settings, wiring)]}]},
            "http_filters": http_filters(settings),
        },
    )


def _strip() -> Config:
    """Our headers from a client are gone before any filter or route sees them."""
    mutation = {"remove_on_match": {"key_matcher": {"prefix": "x-slm-", "ignore_case": True}}}
    return _typed("http.early_header_mutation.header_mutation.v3.HeaderMutation", mutations=[mutation])


def access_log() -> Config:
    """The log that settles: flushed every 50 ms; a smaller interval settles sooner and costs more."""
    common = {
        "log_name": "slm",
        "transport_api_version": "V3",
        "buffer_flush_interval": "0.05s",
        "grpc_service": {"envoy_grpc": {"cluster_name": "slm_authz"}},
    }
    return _typed("access_loggers.grpc.v3.HttpGrpcAccessLogConfig", common_config=common)


def _route(settings: Settings, wiring: Wiring) -> Config:
    # A stream must end before its lease does.
    longest = max(1000, settings.metering.lease - 60_000) if settings.metering.lease > 120_000 else settings.metering.lease // 2
    route: Config = {"cluster": "upstream", "timeout": "0s", "max_stream_duration": {"max_stream_duration": _seconds(longest)}}
    parts = urlsplit(wiring.upstream)
    if parts.scheme == "https":
        route["host_rewrite_literal"] = parts.netloc.rpartition("@")[2]
    if parts.path not in ("", "/"):
        route["regex_rewrite"] = {"pattern": {"regex": "^/v1/"}, "substitution": f"{parts.path.rstrip('/')}/"}
    rule: Config = {"match": {"prefix": "/"}, "route": route, "request_headers_to_remove": ["accept-encoding"]}
    if wiring.upstream_key is not None:
        header = {"key": "authorization", "value": f"Bearer {wiring.upstream_key}"}
        rule["request_headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return rule


def _usage_rules() -> list[Config]:
    figures = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    return [
        {
            "selectors": [{"key": "usage"}, {"key": theirs}],
            "on_present": {"metadata_namespace": "slm.usage", "key": ours, "type": "NUMBER"},
        }
        for theirs, ours in figures
    ]


def http_filters(settings: Settings) -> list[Config]:
    """In this order: on the way back they run from the last to the first, so the usage filters see the answer after the router."""
    parser = _typed("content_parsers.json.v3.JsonContentParser", rules=[{"rule": rule} for rule in _usage_rules()])
    whole = {"allow_content_types": ["application/json", "application/json; charset=utf-8"], "rules": _usage_rules()}
    streams = {"max_event_size": 1048576, "content_parser": {"name": "envoy.content_parsers.json", "typed_config": parser}}
    decide = _typed(
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": "slm_authz"}, "timeout": "1s"},
        # One byte more than we accept, so that a body of exactly max_body is known to be whole.
        with_request_body={"max_request_bytes": settings.listen.max_body, "allow_partial_message": True, "pack_as_bytes": True},
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
    )
    return [
        {"name": "usage_of_whole_answers", "typed_config": _typed("filters.http.json_to_metadata.v3.JsonToMetadata", response_rules=whole)},
        {"name": "usage_of_streams", "typed_config": _typed("filters.http.sse_to_metadata.v3.SseToMetadata", response_rules=streams)},
        {"name": "decide", "typed_config": decide},
        {"name": "router", "typed_config": _typed("filters.http.router.v3.Router")},
    ]


def _endpoints(name: str, address: Config) -> Config:
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _service_cluster(service: Address) -> Config:
    http2 = _typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    return {
        "name": "slm_authz",
        "type": "STATIC",
        "connect_timeout": "1s",
        "health_checks": [{"timeout": "1s", "interval": "2s", "unhealthy_threshold": 2, "healthy_threshold": 1, "grpc_health_check": {}}],
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": _endpoints("slm_authz", _socket(service)),
    }


def _upstream_cluster(settings: Settings, wiring: Wiring) -> Config:
    parts = urlsplit(wiring.upstream)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port < 0 or parts.username is not None:
        raise UsageError(
            f"{wiring.upstream!r} is not the URL of a model server.", "Write it like http://127.0.0.1:8000 or https://models.example.com."
        )
    host = parts.hostname
    cluster: Config = {
        "name": "upstream",
        "type": "STATIC" if host.replace(".", "").isdigit() or ":" in host else "STRICT_DNS",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": settings.listen.max_answer,
        "load_assignment": _endpoints("upstream", {"socket_address": {"address": host, "port_value": port}}),
    }
    if parts.scheme == "https":
        names = {"exact": host}
        trust = {"trusted_ca": {"filename": wiring.roots}, "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": names}]}
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": _typed(
                "transport_sockets.tls.v3.UpstreamTlsContext", sni=host, common_tls_context={"validation_context": trust}
            ),
        }
    return cluster


def service_address(settings: Settings) -> Address:
    """Where Envoy finds the service."""
    return parse_address(settings.listen.grpc)
