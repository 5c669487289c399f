"""`python -m slm_authz.local.upstream`: run the sample model server on loopback."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import uvicorn

from slm_authz.local.upstream.app import create_app


def main() -> None:
    """Bind, tell the URL, serve."""
    parser = argparse.ArgumentParser(
        prog="python -m slm_authz.local.upstream", description="A small OpenAI-compatible model server on loopback."
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free port")
    parser.add_argument("--models", default="phi-4-mini,qwen3-1.7b", help="names it serves, joined by commas")
    parser.add_argument("--log", type=Path, help="write every request as a JSON line to this file")
    args = parser.parse_args()
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", args.port))
    print(f"http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    app = create_app(tuple(args.models.split(",")), args.log)
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")).run(sockets=[bound])


if __name__ == "__main__":
    main()
