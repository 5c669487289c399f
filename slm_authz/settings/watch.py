"""Whether a file, or one that it refers to, has changed since last asked. No thread, no clock: somebody asks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_Stamp = tuple[int, int, int, int] | None


def _stamp(path: Path) -> _Stamp:
    """Identity of the content behind a path; follows links, because a Kubernetes ConfigMap is swapped by one."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in a name that the file refers to
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class Watch:
    """Watches one path, or several, by their stamps. A file that appears or goes away has changed."""

    def __init__(self, paths: Path | Iterable[Path]) -> None:
        self._stamps = {path: _stamp(path) for path in ([paths] if isinstance(paths, Path) else paths)}

    def changed(self) -> bool:
        """Whether any stamp differs from the last time."""
        now = {path: _stamp(path) for path in self._stamps}
        changed = now != self._stamps
        self._stamps = now
        return changed
