"""Unix sockets for the gRPC door: private from their first moment, and never taken over from a process that lives.

Binding a Unix path replaces whatever socket is there, silently, and with a mode that lets others in: a lock file beside it says whose it
is, and the socket is bound in a private directory, closed to others, and only then moved to its place.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from slm_authz.errors import DependencyError, PortTaken

_LONGEST: Final = 107
"""sockaddr_un.sun_path holds 108 bytes, a NUL included."""


class SocketGuard:
    """Holds the lock of one socket path from construction to `release`. Bind to `binding`, then `publish`. PortTaken, DependencyError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _lock(path)
        self._private: Path | None = None
        try:
            _require_free(path)
            self._private = Path(mkdtemp(prefix=".slm-", dir=path.parent))  # 0700
            self.binding = self._private / "s"
            if len(os.fsencode(max(path, self.binding, key=lambda p: len(os.fsencode(p))))) > _LONGEST:
                raise DependencyError(f"The path {path} is too long for a Unix socket.", "Choose a shorter one for listen.grpc.")
        except BaseException:
            self._let_go()
            raise

    def publish(self) -> None:
        """Give the bound socket its name: only this user may connect (0600). What a dead process left there is replaced."""
        self.binding.chmod(0o600)
        self.binding.replace(self.path)
        self._remove_private()

    def release(self) -> None:
        """Remove the socket and let go of the lock."""
        self.path.unlink(missing_ok=True)
        self._let_go()

    def _remove_private(self) -> None:
        if self._private is not None:
            self.binding.unlink(missing_ok=True)
            with suppress(OSError):
                self._private.rmdir()
            self._private = None

    def _let_go(self) -> None:
        if self._private is not None and hasattr(self, "binding"):
            self._remove_private()
        os.close(self._descriptor)


def _lock(path: Path) -> int:
    """The descriptor that holds the lock. The file stays when it is released: removing it would let two hold a lock of that name."""
    directory = path.parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_ours(directory)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DependencyError(f"{directory} cannot hold the service's socket: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise _taken(path) from None
    return descriptor


def _require_ours(directory: Path) -> None:
    """Whoever may rename in the directory could put a socket of his own there, and be sent every caller's key."""
    state = directory.stat()
    foreign = state.st_uid not in (0, os.geteuid())
    if foreign or (state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX):
        raise DependencyError(
            f"Other users could replace a socket in {directory}.",
            f"Use a directory of its own, such as unix:{directory / 'slm-authz' / 'grpc.sock'}: it is made if it is missing.",
        )


def _require_free(path: Path) -> None:
    """Nothing is there, or a socket that nobody answers on."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise DependencyError(f"{path} is not a socket.", "Remove it, or change listen.grpc.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # its process is dead
        except OSError as error:
            raise DependencyError(f"{path} cannot be examined: {error.strerror}.", "Remove it, or change listen.grpc.") from error
    raise _taken(path)


def _taken(path: Path) -> PortTaken:
    return PortTaken(f"Another process serves {path}.", "Stop it first, or change listen.grpc.")
