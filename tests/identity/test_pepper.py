"""The pepper: where it comes from, what is made of it, and that a wrong one is noticed before anybody is refused."""

from __future__ import annotations

import hashlib
import hmac
import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from slm_authz.errors import ConfigError, StoreError
from slm_authz.identity.lifecycle import Lifecycle, check_pepper
from slm_authz.identity.pepper import Pepper, load, of
from slm_authz.store.keys import SqliteKeyStore
from slm_authz.store.secret_file import load_or_make

SECRET = "0123456789abcdef0123456789abcdef"


def never() -> bytes:
    raise AssertionError


def test_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "pepper"
    file.write_text(f"{SECRET}\n")
    by_value = load({"SLM_AUTHZ_PEPPER": SECRET}, never)
    by_file = load({"SLM_AUTHZ_PEPPER_FILE": str(file)}, never)
    assert by_value == by_file == of(SECRET.encode())


def test_made_only_where_none_is_set() -> None:
    assert load({}, SECRET.encode) == of(SECRET.encode())
    with pytest.raises(ConfigError, match="shared store"):
        load({}, None)


@pytest.mark.parametrize("env", [{"SLM_AUTHZ_PEPPER": ""}, {"SLM_AUTHZ_PEPPER": "short"}, {"SLM_AUTHZ_PEPPER": "a" * 15}])
def test_a_short_one_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="too short") as refused:
        load(env, never)
    assert "aaaa" not in str(refused.value)


def test_two_sources_or_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep one"):
        load({"SLM_AUTHZ_PEPPER": SECRET, "SLM_AUTHZ_PEPPER_FILE": "/nowhere"}, never)
    with pytest.raises(StoreError, match="No such file"):
        load({"SLM_AUTHZ_PEPPER_FILE": str(tmp_path / "nowhere")}, never)


def test_what_is_stored_of_a_key() -> None:
    key = b"slm_test_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV3q5Muq"
    sha = hashlib.sha256(key).digest()
    assert of(SECRET.encode()).digest(sha) == hmac.new(SECRET.encode(), sha, hashlib.sha256).digest()


def test_derived_keys_differ_by_purpose_and_pepper() -> None:
    one, other = of(b"a" * 32), of(b"b" * 32)
    derived = {p.derive(purpose) for p in (one, other) for purpose in (b"hold", b"other")}
    assert len(derived) == 4
    assert {len(key) for key in derived} == {32}
    assert one.derive(b"hold") == of(b"a" * 32).derive(b"hold")


def test_the_secret_is_not_shown() -> None:
    pepper = of(SECRET.encode())
    assert SECRET not in f"{pepper!r} {pepper} {[pepper]}"
    assert SECRET not in pepper.name


def test_a_wrong_pepper_is_noticed_at_the_start(life: Lifecycle, open_store: Callable[[], SqliteKeyStore], pepper: Pepper) -> None:
    store = open_store()
    check_pepper(store, of(b"w" * 32))  # a store without keys belongs to any
    life.create(0, client="acme", tier="free")
    check_pepper(store, pepper)
    with pytest.raises(ConfigError, match=pepper.name) as wrong:
        check_pepper(store, of(b"w" * 32))
    assert of(b"w" * 32).name in str(wrong.value)
    assert wrong.value.exit_code == 1


def test_a_key_of_another_pepper_never_gets_in(life: Lifecycle, open_store: Callable[[], SqliteKeyStore]) -> None:
    """Two processes that found the store empty and have different peppers: the second one's keys could never be verified."""
    late = Lifecycle(open_store(), of(b"w" * 32), os.urandom)
    life.create(0, client="acme", tier="free")
    with pytest.raises(StoreError, match="pepper"):
        late.create(0, client="acme", tier="free")
    assert len(life.every()) == 1


def test_the_file_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "data" / "pepper"
    umask = os.umask(0)
    try:
        first = load_or_make(path, SECRET.encode)
    finally:
        os.umask(umask)
    assert first == SECRET.encode() == load_or_make(path, never)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["pepper"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "data" / "pepper"
    load_or_make(path, SECRET.encode)
    path.chmod(mode)
    with pytest.raises(StoreError, match="chmod 600"):
        load_or_make(path, never)


def test_an_empty_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "data" / "pepper"
    load_or_make(path, SECRET.encode)
    path.write_bytes(b"\n")
    with pytest.raises(StoreError, match="backup"):
        load_or_make(path, never)


def test_what_a_crash_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "data" / "pepper"
    path.parent.mkdir(mode=0o700)
    (path.parent / f".pepper.{os.getpid()}").touch()  # in a container every start has the same process id
    assert load_or_make(path, SECRET.encode) == SECRET.encode()


def _race(arguments: tuple[str, int]) -> bytes:
    path, number = arguments
    return load_or_make(Path(path), f"{number:032d}".encode)


def test_processes_that_race_end_with_the_same_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_race, [(str(tmp_path / "warm" / "p"), n) for n in range(4)])  # all of them are up
        for turn in range(10):
            path = tmp_path / f"data{turn}" / "pepper"
            assert len(set(pool.map(_race, [(str(path), n) for n in range(8)], chunksize=1))) == 1
            assert [file.name for file in path.parent.iterdir()] == ["pepper"]
