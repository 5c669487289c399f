"""`slm-authz up` and the demo as a newcomer meets them: they work, they say what is wrong, and they leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from slm_authz.local.demo import Answer, Demo, Step
from slm_authz.local.stack import Stack, answers, free_port
from tests.patience import eventually

pytestmark = pytest.mark.envoy

CONFIG = """
version: 1
listen: {{grpc: "unix:./run/s.sock", admin: "127.0.0.1:{admin}", health: "127.0.0.1:{health}", drain: 0s}}
store: {{url: "sqlite:///./var/slm-authz.db"}}
identity: [{{api_key: {{}}}}]
models: {{mine: {{context: 512, default_output_tokens: 8, max_output_tokens: 64}}}}
tiers: {{only: {{models: ["*"], limits: [{{requests: 100, per: minute}}]}}}}
"""


NO_POLICY = "policies: [{name: p, when: request.nothing, deny: {}}]"


def up(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """In a directory without ./slm-authz.yaml, which would be taken."""
    environment = {name: value for name, value in os.environ.items() if name != "SLM_AUTHZ_CONFIG"} | (env or {})
    words = [sys.executable, "-m", "slm_authz", "up", "--output", "json", *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parent)


@contextmanager
def running(*arguments: str, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    with up("--listen", f"127.0.0.1:{free_port()}", *arguments, env=env) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                pytest.fail(process.communicate()[1])
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate()


def refused(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    process = up("--listen", f"127.0.0.1:{free_port()}", *arguments, env=env)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def ask(stack: dict[str, Any], **more: Any) -> httpx2.Response:
    body = {"model": stack["model"], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    headers = {"authorization": f"Bearer {stack['key']}"} | more
    return httpx2.post(f"{stack['url']}/v1/chat/completions", json=body, headers=headers, trust_env=False, timeout=20)


def processes_of(marker: str) -> list[str]:
    listed = subprocess.run(["ps", "-ww", "-eo", "stat=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if marker in line and not line.startswith("Z")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_runs_until_it_is_told_to_stop_and_leaves_nothing(number: signal.Signals) -> None:
    with running() as (process, stack):
        directory = Path(stack["config"]).parent
        answer = ask(stack)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-slm-decision-id"]
        assert ask(stack, authorization="Bearer nothing").status_code == 401
        assert len(processes_of(str(directory))) >= 3
        process.send_signal(number)
        assert process.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert eventually(lambda: not directory.exists())
    assert eventually(lambda: not processes_of(str(directory)))


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    stack, port, log = Stack(tmp_path, dict(os.environ)), free_port(), tmp_path / "upstream.jsonl"
    try:
        words = [sys.executable, "-m", "slm_authz.local.upstream", "--port", str(port), "--log", str(log), "--model", "mine=512,8"]
        stack.wait(stack.start("their model server", words), lambda: answers(f"http://127.0.0.1:{port}/health"))
        yield f"http://127.0.0.1:{port}/v1", log
    finally:
        stack.stop()


def test_a_model_server_of_ones_own_is_asked_what_it_serves(upstream: tuple[str, Path]) -> None:
    url, log = upstream
    with running("--upstream", url, "--upstream-key-env", "MODELS_KEY", env={"MODELS_KEY": "sk-theirs"}) as (_, stack):
        assert stack["model"] == "mine"
        assert ask(stack).status_code == 200
        directory = Path(stack["config"]).parent
        assert "sk-theirs" not in "".join(path.read_text() for path in directory.glob("*.*") if path.is_file())
        assert not processes_of("sk-theirs")
    listed, asked = (dict(json.loads(line)["headers"]) for line in log.read_text().splitlines() if "/v1/" in line)
    assert listed["authorization"] == asked["authorization"] == "Bearer sk-theirs"
    assert (asked["x-slm-client"], asked["x-slm-model"]) == ("me", "mine")


def test_a_file_of_ones_own_keeps_its_store_and_the_fresh_key_ends_with_us(upstream: tuple[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "slm-authz.yaml"
    config.write_text(CONFIG.format(admin=free_port(), health=free_port()))
    with running("-c", str(config), "--upstream", upstream[0]) as (_, stack):
        assert stack["tier"] == "only"
        assert ask(stack).status_code == 200
    words = [sys.executable, "-m", "slm_authz", "keys", "list", "-c", str(config), "--output", "json"]
    (record,) = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)["data"]
    assert (record["client"], record["state"], record["id"]) == ("me", "revoked", stack["key_id"])


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, said = refused("--listen", f"127.0.0.1:{port}")
    assert code == 3
    assert f"The gateway cannot listen on 127.0.0.1:{port}: address already in use" in said
    assert "--listen" in said


def test_a_taken_port_of_the_service_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = tmp_path / "slm-authz.yaml"
        config.write_text(CONFIG.format(admin=other.getsockname()[1], health=free_port()))
        code, said = refused("-c", str(config))
    assert code == 3
    assert "The service (listen.admin) cannot listen on" in said


def test_a_policy_that_does_not_compile_is_a_problem_of_the_file(tmp_path: Path) -> None:
    config = tmp_path / "slm-authz.yaml"
    config.write_text(CONFIG.format(admin=free_port(), health=free_port()) + NO_POLICY)
    code, said = refused("-c", str(config))
    assert code == 1
    assert re.search(r"line 8: ", said)


def test_interrupted_before_it_was_ready_it_was_not_a_success() -> None:
    """Envoy, which is looked for first, is one that stops us before it says anything."""
    with tempfile.TemporaryDirectory() as directory:
        envoy = Path(directory) / "envoy"
        envoy.write_text("#!/bin/sh\nkill -INT $PPID\nsleep 20\n")
        envoy.chmod(0o755)
        code, said = refused("--envoy", str(envoy))
    assert (code, "Stopping" in said, "Traceback" in said) == (130, True, False), said


def test_on_every_address_the_url_is_one_that_a_client_can_use() -> None:
    port = free_port()
    with running("--listen", f"0.0.0.0:{port}") as (process, stack):
        assert stack["url"] == f"http://127.0.0.1:{port}"
        assert ask(stack).status_code == 200
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert "can be reached from outside this machine" in said


def test_problems_of_the_file_are_shown_with_their_lines(tmp_path: Path) -> None:
    config = tmp_path / "slm-authz.yaml"
    config.write_text("version: 1\nidentity: [{api_key: {}}]\nmodels: {m: {}}\ntiers: {free: {modles: [m]}}\n")
    code, said = refused("-c", str(config))
    assert code == 1
    assert re.search(r"line 4: .*modles", said)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--envoy", "/nowhere/envoy"], 3, "There is no program /nowhere/envoy"),
        (["--envoy", "/bin/sh"], 3, "--envoy PATH"),
        (["--upstream", "http://127.0.0.1:1"], 3, "cannot be reached"),
        (["--upstream", "not a url"], 2, "not the URL of a model server"),
        (["--upstream", "https://u:hunter2@h"], 2, "a user name, a password or a query"),
        (["--listen", "models.example.com:1"], 2, "not on the name"),
        (["--upstream-key-env", "NOT_SET_ANYWHERE"], 2, "NOT_SET_ANYWHERE holds no key"),
        (["--upstream-key-env", "no-name"], 2, "name of an environment variable"),
        (["-c", "/nowhere/slm-authz.yaml"], 2, "/nowhere/slm-authz.yaml"),
        (["--tier", "golden"], 1, "no tier 'golden'"),
    ],
)
def test_what_is_wrong_is_told_in_plain_words(arguments: list[str], code: int, word: str) -> None:
    found, said = refused(*arguments)
    assert (found, word in said, "Traceback" in said, "hunter2" in said) == (code, True, False, False), said


def test_a_part_that_ends_by_itself_ends_all_of_it() -> None:
    with running() as (process, stack):
        directory = str(Path(stack["config"]).parent)
        (envoy,) = [line for line in processes_of(directory) if "envoy.json" in line and "--mode" not in line]
        listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
        pid = next(int(line.split()[0]) for line in listed if line.endswith(envoy.split(None, 1)[1]))
        os.kill(pid, signal.SIGKILL)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 3
    assert "envoy was ended by SIGKILL" in said


def test_the_demo() -> None:
    words = [sys.executable, "-m", "slm_authz.local.demo"]
    shown = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "All as expected" in shown.stdout
    assert shown.stderr == ""
    for word in ("401", "403", "429", "streamed", "no_credential", "model_not_allowed", "rate_limited", "free.requests.minute.client"):
        assert word in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "slm_live_" not in shown.stdout
    assert shlex.split(shown.stdout.rpartition("Next: ")[2])[-1] == "up"
    assert "slm-authz" in shown.stdout.rpartition("Next: ")[2]


def test_the_demo_says_what_was_not_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    class Pretend:
        url = "http://127.0.0.1:1"

        def cli(self, *_: str) -> Any:
            return [{"event": "decision", "decision_id": "d", "reason": "ok", "outcome": "allow", "usage_source": "bound"} | dict.fromkeys(
                ("status", "client", "tier", "model", "input_tokens", "output_tokens", "cost", "latency_ms"))]  # fmt: skip

    demo = Demo(Pretend(), "key")  # type: ignore[arg-type]
    demo._record(Step("a request", 401, "no_credential", Answer(200, "text", "d")))
    demo.show_events()
    assert demo.wrong == [
        "request 1 (a request) was answered 200, not 401",
        "the audit event of request 1 says ok, not no_credential",
        "request 1 was metered by bound, not by what the model server counted",
    ]
    assert "expected 401" in capsys.readouterr().out
    demo.client.close()
