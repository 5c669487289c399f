from __future__ import annotations

import os
from pathlib import Path

from slm_authz.settings.watch import Watch


def test_a_file_changes_when_its_content_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    watch = Watch(file)
    assert not watch.changed()
    os.utime(file, ns=(1, 1))
    assert watch.changed()
    assert not watch.changed()
    (tmp_path / "b").write_text("two")
    (tmp_path / "b").replace(file)
    assert watch.changed()
    file.unlink()
    assert watch.changed()
    assert not watch.changed()
    file.write_text("three")
    assert watch.changed()


def test_a_link_that_is_swapped_changes_what_lies_behind_it(tmp_path: Path) -> None:
    """As Kubernetes updates a ConfigMap: `..data` is a link to a directory, replaced by rename."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slm-authz.yaml").write_text("same")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "slm-authz.yaml").symlink_to("..data/slm-authz.yaml")
    watch = Watch([tmp_path / "slm-authz.yaml"])
    assert not watch.changed()
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert watch.changed()


def test_several_files_and_impossible_names(tmp_path: Path) -> None:
    watch = Watch((tmp_path / "a", tmp_path / "b", Path("nul\x00l")))
    assert not watch.changed()
    (tmp_path / "b").write_text("x")
    assert watch.changed()
