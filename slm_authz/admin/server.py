"""Runs the admin and the health application on one event loop in one background thread. No signal handlers, no access log."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from slm_authz.errors import DependencyError, PortTaken

_BACKLOG: Final = 128
_AT_ONCE: Final = 8
"""Connections that asyncio takes in one turn; it also complains as often per turn where descriptors run out."""
_CONNECTIONS: Final = 512
"""Open connections per listener; what is beyond gets 503 at once."""
_IDLE_S: Final = 10.0


class _Bounded(H11Protocol):
    """A connection on which no request is being answered is closed soon, also before its first one: it takes somebody's place."""

    def connection_made(self, transport: Any) -> None:
        """Asyncio's protocol."""
        super().connection_made(transport)
        self._reaper = self.loop.call_later(_IDLE_S, self._reap)

    def _reap(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self._reaper = self.loop.call_later(_IDLE_S, self._reap)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's protocol."""
        self._reaper.cancel()
        super().connection_lost(exc)


class Site(msgspec.Struct):
    """An application and where it listens: a host and port (0: any), or the path of a Unix socket."""

    name: str
    app: ASGIApp
    host: str
    port: int
    path: Path | None = None


class HttpServer:
    """Binds in the constructor, serves from `start` to `stop`. `ports` has the bound port by name; 0 for a Unix socket.

    PortTaken: another process listens there. DependencyError: the address cannot be used for another reason.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.ports: dict[str, int] = {}
        self._paths: list[Path] = []
        self._servers: list[tuple[uvicorn.Server, socket.socket]] = []
        try:
            for site in sites:
                self._add(site)
        except BaseException:
            self._close()
            raise
        self._started = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()), name="slm-authz-http", daemon=True)

    def _add(self, site: Site) -> None:
        bound = _bind(site)
        self.ports[site.name] = bound.getsockname()[1] if site.path is None else 0
        if site.path is not None:
            self._paths.append(site.path)
        config = uvicorn.Config(
            site.app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http=_Bounded,
            backlog=_AT_ONCE,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        self._servers.append((uvicorn.Server(config), bound))

    async def _serve(self) -> None:
        self._started.set()
        await asyncio.gather(*(server.serve(sockets=[bound]) for server, bound in self._servers))

    def start(self) -> None:
        """Serve in the background. Connections that come before the loop turns wait in the backlog."""
        self._thread.start()
        self._started.wait(5)

    def stop(self) -> None:
        """Answer what is in flight, for at most two seconds, and close."""
        for server, _ in self._servers:
            server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(5)
        self._close()

    def _close(self) -> None:
        for _, bound in self._servers:
            bound.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()


def _bind(site: Site) -> socket.socket:
    where = str(site.path) if site.path is not None else f"{site.host}:{site.port}"
    try:
        return _bound_path(site.path) if site.path is not None else _bound_port(site.host.strip("[]"), site.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fix = f"Stop it first, or change listen.{site.name}."
            raise PortTaken(f"Another process listens on {where}.", fix) from error
        raise DependencyError(f"Cannot listen on {where}: {error.strerror}.", f"Change listen.{site.name}.") from error


def _bound_port(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


def _bound_path(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        _remove_dead(path)
    bound = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)  # private from the first moment: between bind and chmod anybody could connect
    try:
        bound.bind(str(path))
        bound.listen(_BACKLOG)
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(mask)
    return bound


def _remove_dead(path: Path) -> None:
    """Remove the socket of a process that is gone; never a file, never the socket of one that lives."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(errno.EEXIST, "it is a file, not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")
