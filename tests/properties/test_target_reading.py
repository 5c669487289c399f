"""Whatever a path is spelled like, what we read of it is final: no second decoding, no way up, no empty segment."""

from __future__ import annotations

from urllib.parse import quote, unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.reason import Denial
from slm_authz.request.target import Target, judge

PIECES = st.sampled_from(
    [
        "/", "//", ".", "..", "%2e", "%2E%2e", "%2f", "%5c", "\\", "%25", "%252e", "%00", ";", "%3b", "?", "#", "v1", "chat", "%76", "é",
        "%C3%A9", "%c0%ae", "%", "%zz", "a:b", " ",
    ]
)  # fmt: skip
TARGETS = st.lists(PIECES, max_size=10).map(lambda pieces: "/" + "".join(pieces)) | st.text(max_size=20)


@settings(max_examples=500)
@given(TARGETS)
def test_what_is_read_is_final(target: str) -> None:
    judged = judge(target)
    if isinstance(judged, Denial):
        assert judged.http_status == 400
        return
    path = judged.path
    segments = path.split("/")
    assert path.startswith("/")
    assert ".." not in segments
    assert "." not in segments
    assert "" not in segments[1:-1]
    assert not set(path) & set("\\%;?#\x00")
    assert path.isprintable()
    assert unquote(path) == path
    assert judge(quote(path, safe="/!$&'()*+,:=@~")) == Target(path, "")


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["a", "b", ".", "..", ""]), min_size=1, max_size=8), st.data())
def test_encoding_a_plain_path_changes_nothing(segments: list[str], data: st.DataObject) -> None:
    plain = "/" + "/".join(segments)
    encoded = "".join(f"%{ord(char):02X}" if char != "/" and data.draw(st.booleans()) else char for char in plain)
    assert judge(encoded) == judge(plain)
