"""Where the numbers were measured: they are ratios inside one run, never figures to compare across machines."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("slm-authz", "grpcio", "protobuf", "pygrpc-native", "msgspec", "xds-protos")


def _first(path: str, prefix: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(prefix)), "unknown")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "slm_authz"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with uncommitted changes" if changed else head


def describe() -> list[tuple[str, str]]:
    """(what, value), in the order in which a reader asks."""
    memory = _first("/proc/meminfo", "MemTotal").split()
    return [
        ("processor", f"{_first('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores"),
        ("memory", f"{int(memory[0]) / (1 << 20):.1f} GiB" if memory[0].isdigit() else "unknown"),
        ("system", f"{platform.system()} {platform.release()}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)),
        ("commit", _commit()),
        ("load before the run", " ".join(f"{load:.2f}" for load in os.getloadavg())),
    ]


def cores() -> tuple[int, int]:
    """(core of what is measured, core of everything else). One core serves for both where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]
