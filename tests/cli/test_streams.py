"""The guarded streams: failures of writing by a name of their own, no key on standard error, and nobody fails because nobody listens."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.cli.streams import Unwritten, guarded, masked
from slm_authz.identity import key_format


class Failing(io.StringIO):
    """A stream that cannot be written, for one reason or another."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, _: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@given(st.binary(min_size=400, max_size=400), st.sampled_from(["live", "test"]), st.text(max_size=9), st.text(max_size=9))
def test_no_key_passes_whatever_stands_around_it(random: bytes, env: key_format.Env, before: str, after: str) -> None:
    source = io.BytesIO(bytes(byte % 248 for byte in random))
    key = key_format.mint(env, key_format.random_text(12, source.read), key_format.random_text(32, source.read))
    assert key[22:] not in masked(f"{before}{key}{after}")


@given(st.text())
def test_nothing_else_is_masked(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "text", ["slm_live_", "slm_live_0123456789AB", "slm_live_0123456789AB_", "slm_prod_0123456789AB_x", "0123456789AB"]
)
def test_what_holds_no_secret_stays_readable(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(("number", "gone"), [(errno.EPIPE, True), (errno.ENOSPC, False), (errno.EIO, False)])
def test_a_failure_of_standard_output_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch, number: int, gone: bool) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(number))
    with guarded(), pytest.raises(Unwritten) as caught:
        print("hello")
    assert caught.value.reader_gone is gone
    assert os.strerror(number).lower() in str(caught.value)


def test_a_failure_of_a_file_is_none_of_standard_output() -> None:
    with guarded(), pytest.raises(FileNotFoundError):
        open("/nowhere/file")  # noqa: PTH123, SIM115 - it fails


def test_standard_error_never_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for stream in (Failing(errno.EPIPE), Failing(errno.ENOSPC), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with guarded():
            print("hello", file=sys.stderr, flush=True)
            assert not sys.stderr.isatty()
    assert capsys.readouterr().out == ""


def test_the_streams_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    before = sys.stderr
    with guarded():
        assert sys.stdout is None
        assert sys.stderr is not before
        assert sys.stderr.encoding == before.encoding
    assert sys.stderr is before
