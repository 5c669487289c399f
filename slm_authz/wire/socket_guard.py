"""Unix sockets for the gRPC door: private, and never taken over from a process that lives.

Binding a Unix path replaces whatever socket is there, silently: a lock file beside it says whose it is.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from slm_authz.errors import DependencyError, PortTaken


class SocketGuard:
    """Holds the lock of one socket path from construction to `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(path.name + ".lock")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise DependencyError(f"{path.parent} cannot hold the service's socket: {error.strerror}.") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise PortTaken(f"Another process serves {path}.", "Stop it first, or change listen.grpc.") from None
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                self.release()
                raise DependencyError(f"{path} is a file, not a socket.", "Remove it, or change listen.grpc.")
            path.unlink()

    def protect(self) -> None:
        """Only this user may connect (0600)."""
        self.path.chmod(0o600)

    def release(self) -> None:
        """Remove the socket and let go of the lock."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
