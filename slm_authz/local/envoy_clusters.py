"""The clusters of the rendered Envoy: the service that decides, and the model server that it guards."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Final

from slm_authz.errors import DependencyError, UsageError
from slm_authz.local.wiring import Upstream, Wiring
from slm_authz.settings.address import Address, parse_address
from slm_authz.settings.schema import Settings

Tree = dict[str, Any]
SERVICE: Final = "slm_authz"
UPSTREAM: Final = "upstream"
_MAX_SOCKET_PATH: Final = 103  # sun_path of the narrowest system (macOS), its NUL taken off
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def typed(message: str, fields: Tree | None = None) -> Tree:
    """A `google.protobuf.Any` as Envoy's YAML spells it."""
    return {"@type": f"type.googleapis.com/{message}", **(fields or {})}


def socket_address(address: Address) -> Tree:
    """envoy.config.core.v3.Address."""
    if address.path is not None:
        if len(str(address.path)) > _MAX_SOCKET_PATH:
            raise UsageError(f"The socket path {address.path} is too long for a Unix socket.", "Use a shorter one, or 127.0.0.1:9001.")
        return {"pipe": {"path": str(address.path)}}
    host = "127.0.0.1" if address.host == "localhost" else address.host.strip("[]")
    return {"socket_address": {"address": host, "port_value": address.port}}


def _assignment(name: str, address: Tree) -> Tree:
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _breakers() -> Tree:
    # The default of 1024 calls at once would refuse before any limit of ours does. A retry could spend twice: none.
    return {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 0}]}


def service(settings: Settings) -> Tree:
    """GRPC is HTTP/2 without TLS here: a Unix socket or loopback."""
    address = parse_address(settings.listen.grpc)
    if address.path is None and not address.port:
        raise UsageError("listen.grpc has port 0: any free one.", "Give it a port, so that Envoy knows where to ask.")
    return {
        "name": SERVICE,
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "circuit_breakers": _breakers(),
        # no_traffic_interval: without it a gateway that nobody has used yet looks only once a minute.
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "2s",
                "no_traffic_interval": "2s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(_HTTP_OPTIONS, {"explicit_http_config": {"http2_protocol_options": {}}}),
        },
        "load_assignment": _assignment(SERVICE, socket_address(address)),
    }


def upstream(settings: Settings, wiring: Wiring) -> Tree:
    """The model server: an address, or a name that is resolved again and again."""
    target = wiring.upstream
    numeric = _is_ip(target.host)
    cluster: Tree = {"name": UPSTREAM, "type": "STATIC" if numeric else "STRICT_DNS"}
    if not numeric:
        cluster["dns_lookup_family"] = "V4_PREFERRED"
    cluster |= {
        "connect_timeout": "5s",
        # Whole answers are buffered to read their usage; this and the listener's limit bound them.
        "per_connection_buffer_limit_bytes": settings.listen.max_answer,
        "circuit_breakers": _breakers(),
        # Model servers on uvicorn close idle connections after 5 s; a request sent into the closing one would be a 503.
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(
                _HTTP_OPTIONS,
                {"common_http_protocol_options": {"idle_timeout": "4s"}, "explicit_http_config": {"http_protocol_options": {}}},
            ),
        },
    }
    if target.tls:
        cluster["transport_socket"] = _tls(target, wiring)
    return cluster | {"load_assignment": _assignment(UPSTREAM, socket_address(Address(target.host, target.port)))}


def _tls(target: Upstream, wiring: Wiring) -> Tree:
    """TLS that names the host and believes only a certificate for it; Envoy's default would believe anyone."""
    if wiring.ca_file is None:
        raise DependencyError(
            "No trusted root certificates were found for an https upstream.", "Name them with SSL_CERT_FILE=/path/to/ca.pem."
        )
    name: Tree = {"san_type": "IP_ADDRESS" if _is_ip(target.host) else "DNS", "matcher": {"exact": target.host}}
    context: Tree = {
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "validation_context": {"trusted_ca": {"filename": str(wiring.ca_file)}, "match_typed_subject_alt_names": [name]},
        }
    }
    if not _is_ip(target.host):
        context["sni"] = target.host
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", context),
    }


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
