"""Runs the admin and the health application on one event loop in one background thread."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

import msgspec
import uvicorn
from starlette.types import ASGIApp

from slm_authz.errors import PortTaken


class Site(msgspec.Struct):
    """An application and where it listens: a host and port (0: any), or the path of a Unix socket."""

    name: str
    app: ASGIApp
    host: str
    port: int
    path: Path | None = None


class HttpServer:
    """Binds in the constructor (PortTaken), serves from `start` to `stop`. `ports` has the bound port by name."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.ports: dict[str, int] = {}
        self._servers: list[tuple[uvicorn.Server, socket.socket]] = []
        for site in sites:
            bound = _bind(site)
            self.ports[site.name] = bound.getsockname()[1] if site.path is None else 0
            config = uvicorn.Config(
                site.app, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=2
            )
            self._servers.append((uvicorn.Server(config), bound))
        self._started = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()), name="slm-authz-http", daemon=True)

    async def _serve(self) -> None:
        self._started.set()
        await asyncio.gather(*(server.serve(sockets=[bound]) for server, bound in self._servers))

    def start(self) -> None:
        """Serve in the background."""
        self._thread.start()
        self._started.wait(5)

    def stop(self) -> None:
        """Stop and close."""
        for server, _ in self._servers:
            server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(5)
        for _, bound in self._servers:
            bound.close()


def _bind(site: Site) -> socket.socket:
    try:
        if site.path is not None:
            site.path.unlink(missing_ok=True)
            bound = socket.socket(socket.AF_UNIX)
            bound.bind(str(site.path))
            site.path.chmod(0o600)
        else:
            host = site.host.strip("[]")
            bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, site.port))
        bound.listen(128)
    except OSError as error:
        where = site.path or f"{site.host}:{site.port}"
        raise PortTaken(f"Cannot listen on {where}: {error.strerror}.", f"Stop the other process, or change listen.{site.name}.") from error
    return bound
