"""A Unix socket is private from its first moment and is never taken over from a process that lives."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from slm_authz.errors import DependencyError, PortTaken
from slm_authz.wire.server import _sweep
from slm_authz.wire.socket_guard import SocketGuard


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        yield made


def test_it_is_published_with_nobody_else_admitted(directory: Path, listener: socket.socket) -> None:
    path = directory / "new" / "grpc.sock"
    guard = SocketGuard(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(guard.binding.parent.stat().st_mode) == 0o700
    listener.bind(str(guard.binding))
    guard.publish()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["grpc.sock", "grpc.sock.lock"]
    guard.release()
    assert sorted(p.name for p in path.parent.iterdir()) == ["grpc.sock.lock"]


def test_a_second_process_is_turned_away_and_changes_nothing(directory: Path, listener: socket.socket) -> None:
    path = directory / "grpc.sock"
    guard = SocketGuard(path)
    listener.bind(str(guard.binding))
    guard.publish()
    before = path.stat().st_ino
    with pytest.raises(PortTaken):
        SocketGuard(path)
    assert path.stat().st_ino == before
    guard.release()
    SocketGuard(path).release()


def test_a_dead_processs_socket_is_replaced(directory: Path, listener: socket.socket) -> None:
    path = directory / "grpc.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    guard = SocketGuard(path)
    listener.bind(str(guard.binding))
    guard.publish()
    guard.release()
    assert not path.exists()


def test_a_living_process_without_our_lock_is_left_alone(directory: Path, listener: socket.socket) -> None:
    path = directory / "grpc.sock"
    listener.bind(str(path))
    listener.listen()
    with pytest.raises(PortTaken):
        SocketGuard(path)
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(directory: Path, kind: str) -> None:
    path = directory / "grpc.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/nowhere")
    with pytest.raises(DependencyError, match="is not a socket"):
        SocketGuard(path)
    assert os.path.lexists(path)
    path.rmdir() if kind == "directory" else path.unlink()
    SocketGuard(path).release()


def test_a_directory_where_others_may_rename_is_refused(directory: Path) -> None:
    directory.chmod(0o777)
    with pytest.raises(DependencyError, match="Other users"):
        SocketGuard(directory / "grpc.sock")
    directory.chmod(0o1777)
    SocketGuard(directory / "grpc.sock").release()


def test_a_lock_that_is_a_link_is_not_followed(directory: Path) -> None:
    victim = directory / "victim"
    victim.write_text("precious")
    (directory / "grpc.sock.lock").symlink_to(victim)
    with pytest.raises(DependencyError):
        SocketGuard(directory / "grpc.sock")
    assert victim.read_text() == "precious"


def test_a_path_too_long_for_the_system_is_said_plainly(directory: Path) -> None:
    path = directory / ("n" * 100)
    with pytest.raises(DependencyError, match="too long"):
        SocketGuard(path)
    assert [p.name for p in directory.iterdir()] == [path.name + ".lock"]


def test_what_killed_services_have_left_goes_and_what_lives_stays(tmp_path: Path) -> None:
    dead, living, foreign = (tmp_path / name for name in ("slm-authz-grpc-a", "slm-authz-grpc-b", "slm-authz-grpc-c"))
    for directory in (dead, living, foreign):
        directory.mkdir()
    (foreign / "streams.sock").touch()
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(str(dead / "streams.sock"))
        other.bind(str(living / "streams.sock"))
        other.listen()
        one.close()
        _sweep(tmp_path)
        assert not dead.exists()
        assert living.exists()
