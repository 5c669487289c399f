"""`python -m slm_authz.local.upstream`: run the sample upstream on loopback and print its URL."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from time import time

import uvicorn
from starlette.types import ASGIApp

from slm_authz.errors import PortTaken, SlmAuthzError
from slm_authz.local.upstream.hooks import __doc__ as misbehaviour
from slm_authz.local.upstream.journal import Journal
from slm_authz.local.upstream.served import DEFAULT, Library, Served, parse_served
from slm_authz.local.upstream.server import application
from slm_authz.local.upstream.tokenizer import shipped


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. 0: an orderly end; 2: wrong usage; 3: the port is taken."""
    parser = argparse.ArgumentParser(
        prog="python -m slm_authz.local.upstream",
        description="A small OpenAI-compatible model server for trying things out; it listens on 127.0.0.1 only.",
        epilog=misbehaviour,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append every request, with all its headers, as a JSON line")
    parser.add_argument("--model", action="append", metavar="NAME[=CONTEXT[,DEFAULT_OUTPUT]]", help="serve these names instead")
    args = parser.parse_args(argv)
    try:
        return _serve(args.port, args.log, tuple(map(parse_served, args.model)) if args.model else DEFAULT)
    except SlmAuthzError as error:
        print(f"upstream: {error}", file=sys.stderr)
        return error.exit_code


def _serve(port: int, log: Path | None, served: Sequence[Served]) -> int:
    def clock() -> int:
        return int(time() * 1000)

    app: ASGIApp = application(Library(served, shipped()), clock)
    if log is not None:
        app = Journal(app, log, clock)
    # asyncio turns Nagle off only where the protocol is named; with it on, every second write waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        raise PortTaken(f"Cannot listen on 127.0.0.1:{port}: {error}.", "Stop the other process, or use --port 0.") from error
    # A dropped connection is this server's trade (see hooks): no stack trace for it.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "Exception in ASGI application" not in record.getMessage())
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=1, timeout_keep_alive=75
    )
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
