"""What every scenario works with: cores, a directory, servers that are stopped in the end, and the service with its keys."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import yaml

from bench.process import Server
from bench.requests import MODEL
from slm_authz.compose import load_all, open_keys
from slm_authz.identity import key_format
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.local.stack import free_port
from slm_authz.settings.load import database

HERE = Path(__file__).parent
NOW = 1_700_049_600_000
LIMITS: list[dict[str, Any]] = [{"requests": 10**9, "per": "minute"}, {"tokens": 10**13, "per": "day"}, {"concurrent": 10**7}]
"""Three limits that are counted in every call and never reached."""


class Section(msgspec.Struct, frozen=True):
    """One scenario's part of the page. columns: of the table; notes: sentences below it; goals: (what, reached, measured)."""

    title: str
    method: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    goals: Sequence[tuple[str, bool, str]] = ()


class Context:
    """server_core: of what is measured; other_core: of the load and everything else."""

    def __init__(self, directory: Path, *, quick: bool, server_core: int, other_core: int, say: Callable[[str], None]) -> None:
        self.directory = directory
        self.quick = quick
        self.server_core = server_core
        self.other_core = other_core
        self.say = say

    @property
    def seconds(self) -> float:
        return 0.7 if self.quick else 4.0

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 5

    @contextmanager
    def servers(self) -> Iterator[ExitStack]:
        """Everything that is entered is stopped, in reverse order."""
        with ExitStack() as stack:
            yield stack

    def python(self, stack: ExitStack, name: str, script: str, *arguments: str, core: int | None = None) -> Server:
        """A program of bench/servers that prints `ready PORT`."""
        command = (sys.executable, "-m", f"bench.servers.{script}", *arguments)
        server = Server(name, command, self.server_core if core is None else core, self.directory / f"{name}.log")
        stack.callback(server.stop)
        return server

    def service(self, stack: ExitStack, name: str, *, keys: int = 10, audit: bool = True, core: int | None = None) -> Service:
        """The whole service with that many keys in its store."""
        service = Service(self, name, keys=keys, audit=audit, core=self.server_core if core is None else core)
        stack.callback(service.server.stop)
        return service


class Service:
    """The service under measurement; `keys` holds some of the keys that it knows."""

    def __init__(self, context: Context, name: str, *, keys: int, audit: bool, core: int) -> None:
        base = context.directory / name
        base.mkdir()
        self.config = base / "slm-authz.yaml"
        self.grpc, self._health = free_port(), free_port()
        self.config.write_text(yaml.safe_dump(self._document()))
        self.keys = make_keys(self.config, keys)
        command = [sys.executable, "-m", "bench.servers.full", str(self.config), *([] if audit else ["--no-audit"])]
        self.server = Server(name, command, core, base / "log", ready=self.ready)

    def _document(self) -> dict[str, Any]:
        return {
            "version": 1,
            "listen": {
                "grpc": f"127.0.0.1:{self.grpc}",
                "admin": f"127.0.0.1:{free_port()}",
                "health": f"127.0.0.1:{self._health}",
                "drain": "0s",
            },
            "store": {"url": "sqlite:///./var/slm-authz.db"},
            "identity": [{"api_key": {}}],
            "models": {MODEL: {"context": 16384, "price": {"input": "0.05", "output": "0.20"}}},
            "tiers": {"bench": {"models": [MODEL], "limits": LIMITS}},
            "audit": {"sinks": [{"file": "./var/audit", "rotate": "256MiB", "max": "10GiB"}]},
        }

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/metrics", timeout=10) as answer:
            found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        return sum(map(float, found))

    def settlement(self) -> Callable[[int], bool]:
        """Answers whether as many more calls as are named have been settled, counted from now."""
        before = self.metric("slm_settlements_total")
        return lambda sent: self.metric("slm_settlements_total") >= before + sent


def make_keys(config: Path, count: int, known: int = 1000) -> list[str]:
    """Fill the store; returns at most `known` of the keys, spread over all of them. The rows are copies of one that the product wrote."""
    settings = load_all(config, os.environ).settings
    store, pepper = open_keys(database(settings), os.environ)
    _, first = Lifecycle(store, pepper, os.urandom).create(NOW, client="client-0", tier="bench")
    store.close()
    keys, every = [first], max(1, count // known)
    connection = sqlite3.connect(config.parent / "var" / "slm-authz.db")
    with connection:
        tier, details, version, seq = connection.execute("SELECT tier, details, version, change_seq FROM keys").fetchone()
        (secret,) = connection.execute("SELECT pepper FROM key_versions").fetchone()

        def rows() -> Iterator[tuple[str, str, bytes, int]]:
            for number in range(1, count):
                key_id = key_format.random_text(key_format.ID_LENGTH, os.urandom)
                key = key_format.mint("live", key_id, key_format.random_text(key_format.SECRET_LENGTH, os.urandom))
                if number % every == 0 and len(keys) < known:
                    keys.append(key)
                yield key_id, f"client-{number}", pepper.digest(hashlib.sha256(key.encode()).digest()), seq + number

        batch: list[tuple[str, str, bytes, int]] = []
        for row in rows():
            batch.append(row)
            if len(batch) >= 10_000:
                _insert(connection, batch, tier, details, version, secret)
                batch.clear()
        _insert(connection, batch, tier, details, version, secret)
        connection.execute("UPDATE change SET seq = ?", (seq + count,))
    connection.close()
    return keys


def _insert(
    connection: sqlite3.Connection, batch: list[tuple[str, str, bytes, int]], tier: str, details: bytes, version: int, pepper: str
) -> None:
    connection.executemany(
        "INSERT INTO keys VALUES (?, ?, NULL, ?, ?, ?, ?)",
        [(key_id, client, tier, details, version, seq) for key_id, client, _, seq in batch],
    )
    connection.executemany(
        "INSERT INTO key_versions VALUES (?, ?, ?, ?)", [(digest, key_id, version, pepper) for key_id, _, digest, _ in batch]
    )
