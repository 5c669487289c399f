"""`make demo`: a real Envoy guards a model API, and every request is shown beside its outcome. Exits 1 where an outcome is not as expected."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request

import msgspec

from slm_authz.errors import SlmAuthzError
from slm_authz.local.gateway import Gateway, Plan
from slm_authz.local.shown import grid, one_line, paint, width
from slm_authz.local.stack import DIRECT

MODEL: Final = "phi-4-mini"
QUESTION: Final[list[Any]] = [{"role": "user", "content": "What does a gateway do?"}]
_PATH: Final = "/v1/chat/completions"
_TITLE: Final = 46
_MAX_TRIES: Final = 14
"""The limit of six a minute is reached by then, also where a new minute begins on the way."""
_EVENTS_S: Final = 10.0
_SETTLED_S: Final = 0.15
"""Envoy reports the end of a call within 50 ms; then the refusal can say when the window ends, not only that calls are in flight."""


class Answer(msgspec.Struct, frozen=True):
    """What came back: the status, what is worth saying about it, and the decision's id."""

    status: int
    said: str
    decision: str | None


class Step(msgspec.Struct, frozen=True):
    """One request: what was expected of it, in the caller's status and in the audit trail's reason, and what came."""

    title: str
    status: int
    reason: str
    answer: Answer


class Demo:
    """Sends the requests to a running gateway, and collects what is not as expected."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        from openai import OpenAI

        self.gateway = gateway
        self.key = key
        self.client = OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=20)
        self.steps: list[Step] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        """All requests in order."""
        self._do("no key, plain HTTP", 401, "no_credential", self._plain)
        self._do("with a key of tier free", 200, "ok", self._whole)
        self._do("streamed", 200, "ok", self._stream)
        self._do("model qwen3-1.7b, which tier free has not", 403, "model_not_allowed", lambda: self._whole("qwen3-1.7b"))
        self._do("claiming x-slm-tier: pro for it", 403, "model_not_allowed", lambda: self._whole("qwen3-1.7b", {"x-slm-tier": "pro"}))
        self._until_refused()

    def _do(self, title: str, status: int, reason: str, ask: Callable[[], Answer]) -> None:
        self._record(Step(title, status, reason, _caught(ask)))

    def _until_refused(self) -> None:
        """Tier free may ask six times a minute: what comes before the refusal must be answered."""
        for _ in range(_MAX_TRIES):
            answer = _caught(self._whole)
            if answer.status != 200:
                break
            self._record(Step("again", 200, "ok", answer))
            time.sleep(_SETTLED_S)
        self._record(Step("once more: over six a minute", 429, "rate_limited", answer))

    def _record(self, step: Step) -> None:
        self.steps.append(step)
        good = step.answer.status == step.status
        if not good:
            self.wrong.append(f"request {len(self.steps)} ({step.title}) was answered {step.answer.status}, not {step.status}")
        number, title = f"{len(self.steps):>3}", f"{step.title:<{_TITLE}}"
        status = paint(str(step.answer.status), "red" if not good else "green" if step.status == 200 else "yellow")
        expected = "" if good else paint(f"expected {step.status}: ", "red")
        print(
            f"{number}  {title}{status}  {expected}{paint(one_line(step.answer.said, max(30, width() - _TITLE - 12)), 'dim')}", flush=True
        )

    # -- the requests

    def _plain(self) -> Answer:
        body = msgspec.json.encode({"model": MODEL, "messages": QUESTION, "max_tokens": 16})
        request = Request(f"{self.gateway.url}{_PATH}", body, {"content-type": "application/json"})  # noqa: S310 - http on loopback
        with DIRECT.open(request, timeout=20) as answer:
            return Answer(answer.status, "", answer.headers.get("x-slm-decision-id"))

    def _whole(self, model: str = MODEL, headers: dict[str, str] | None = None) -> Answer:
        raw = self.client.chat.completions.with_raw_response.create(
            model=model, messages=QUESTION, max_tokens=24, seed=len(self.steps), extra_headers=headers
        )
        answer = raw.parse()
        left = raw.headers.get("x-ratelimit-remaining-requests")
        said = f"{_spent(answer.usage)}, {left} {'request' if left == '1' else 'requests'} left: “{one_line(answer.choices[0].message.content or '', 48)}”"
        return Answer(raw.status_code, said, raw.headers.get("x-slm-decision-id"))

    def _stream(self) -> Answer:
        began = time.monotonic()
        with self.client.chat.completions.with_streaming_response.create(
            model=MODEL, messages=QUESTION, max_tokens=32, stream=True, stream_options={"include_usage": True}
        ) as raw:  # fmt: skip
            first, chunks, usage = 0.0, 0, None
            for chunk in raw.parse():
                first = first or time.monotonic() - began
                chunks += 1
                usage = chunk.usage or usage
            said = f"{_spent(usage)}, {chunks} events, the first after {first * 1000:.0f} ms"
            return Answer(raw.status_code, said, raw.headers.get("x-slm-decision-id"))

    # -- what was written down

    def events(self) -> dict[str, dict[str, Any]]:
        """Audit events by decision; an allowed call's is written when the access log has told its end."""
        wanted = {step.answer.decision for step in self.steps}
        deadline = time.monotonic() + _EVENTS_S
        while True:
            events = {event["decision_id"]: event for event in self.gateway.cli("audit", "query") if event["event"] == "decision"}
            if wanted <= events.keys() or time.monotonic() > deadline:
                return events
            time.sleep(0.1)

    def show_events(self) -> None:
        """One audit event for each request."""
        events = self.events()
        columns = (
            "outcome",
            "reason",
            "status",
            "client",
            "tier",
            "model",
            "input_tokens",
            "output_tokens",
            "usage_source",
            "cost",
            "latency_ms",
        )
        rows: list[list[object]] = []
        for number, step in enumerate(self.steps, 1):
            event = events.get(step.answer.decision or "")
            if event is None:
                self.wrong.append(f"request {number} ({step.title}) has no audit event")
                continue
            if event["reason"] != step.reason:
                self.wrong.append(f"the audit event of request {number} says {event['reason']}, not {step.reason}")
            if event["outcome"] == "allow" and event["usage_source"] != "upstream":
                self.wrong.append(f"request {number} was metered by {event['usage_source']}, not by what the model server counted")
            rows.append([number, *(event[name] for name in columns)])
        _heading("What was written down about each", "slm-authz audit query")
        grid(("#", *(name.replace("_", " ") for name in columns)), rows)

    def show_usage(self) -> None:
        """Limits as the service counts them."""
        rows = self.gateway.cli("usage", "--client", "demo")["data"]
        _heading("What is used, held and left", "slm-authz usage")
        grid(("limit", "size", "used", "held", "left"), [[row[n] for n in ("name", "limit", "used", "held", "left")] for row in rows])

    def show_upstream(self) -> None:
        """The model server's own log: what reached it, and what did not."""
        log = [msgspec.json.decode(line) for line in self.gateway.upstream_log.read_bytes().splitlines()]
        asked = [line for line in log if line["method"] == "POST"]
        allowed = sum(step.answer.status == 200 for step in self.steps)
        headers = [(name, value) for line in asked for name, value in line["headers"]]
        if len(asked) != allowed:
            self.wrong.append(f"the model server saw {len(asked)} requests, but {allowed} were allowed")
        if any(self.key in value or name == "authorization" for name, value in headers):
            self.wrong.append("a key reached the model server")
        if {value for name, value in headers if name == "x-slm-tier"} != {"free"}:
            self.wrong.append("the model server was told another tier than the key's")
        _heading("What the model server saw", "its own log")
        print(f"  {len(asked)} of {len(self.steps)} requests, no key, and `x-slm-client: demo`, `x-slm-tier: free` from the gateway")


def _caught(ask: Callable[[], Answer]) -> Answer:
    """A refusal as an answer, in the words in which the caller meets it."""
    from openai import APIConnectionError, APIStatusError

    try:
        return ask()
    except APIStatusError as error:
        retry = error.response.headers.get("retry-after")
        said = f"{type(error).__name__}{f', retry-after {retry} s' if retry else ''}: {_message(error.body)}"
        return Answer(error.status_code, said, error.response.headers.get("x-slm-decision-id"))
    except HTTPError as error:
        return Answer(error.code, _message(_json(error.read()).get("error")), error.headers.get("x-slm-decision-id"))
    except (APIConnectionError, OSError) as error:
        return Answer(0, f"no answer: {error}", None)


def _json(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {"error": body.decode(errors="replace")}


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _spent(usage: Any) -> str:
    return "no usage" if usage is None else f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"


def _heading(text: str, source: str) -> None:
    print(f"\n{paint(text, 'bold')} {paint(f'({source})', 'dim')}")


def own_command() -> str:
    """`slm-authz` as it can be typed here: by its name where that leads to us, else by its path; it need not be on the PATH."""
    given = Path(sys.argv[0])
    own = given if given.name == "slm-authz" else Path(sys.executable).with_name("slm-authz")
    found = shutil.which("slm-authz")
    if found is not None and Path(found).resolve() == own.resolve():
        return "slm-authz"
    if not own.is_file():
        return f"{shlex.quote(sys.executable)} -m slm_authz"
    own, here = own.absolute(), Path.cwd()
    below = own.is_relative_to(here) and own.parent != here  # a bare name would be looked up on the PATH
    return shlex.quote(str(own.relative_to(here) if below else own))


def _show(directory: Path, say: Callable[[str], None]) -> Sequence[str]:
    """Run it all; what was not as expected."""
    gateway = Gateway(Plan(directory, "127.0.0.1:0", temporary=True), os.environ, say)
    say("Starting Envoy, slm-authz and a sample model server ...")
    try:
        gateway.start()
        print(f"\n{paint(f'POST {_PATH}', 'bold')} through Envoy {gateway.envoy.version} on {gateway.url}\n", flush=True)
        demo = Demo(gateway, gateway.cli("keys", "create", "--client", "demo", "--tier", "free")["key"])
        demo.run()
        demo.show_events()
        demo.show_usage()
        demo.show_upstream()
        return demo.wrong
    finally:
        gateway.stop()


def main() -> int:
    """0: every outcome is the expected one; 1: one is not; 3: a part could not run."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # A proxy of the environment does not lead to this machine's loopback.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="slm-authz-demo-") as directory:
            wrong = _show(Path(directory), lambda text: print(text, flush=True))
    except SlmAuthzError as error:
        print(f"slm-authz: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    for line in wrong:
        print(f"\n{paint('Not as expected:', 'red')} {line}.", end="")
    if not wrong:
        print(f"\n{paint('All as expected', 'green')}, in {time.monotonic() - began:.1f} s. Next: {own_command()} up")
    else:
        print()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
