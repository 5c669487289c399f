"""`make demo`: a real Envoy guards a model API, and every request is shown beside its outcome. Exits 1 where an outcome is not as expected."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import msgspec

from slm_authz.cli.output import paint, table
from slm_authz.errors import DependencyError, SlmAuthzError
from slm_authz.local.gateway import Gateway, Plan

HELLO: list[Any] = [{"role": "user", "content": "Tell me about keys, please."}]
BODY = b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}'


class Step(msgspec.Struct):
    """One request: what was asked, what was expected and what came."""

    title: str
    expected: int
    got: int
    said: str
    decision: str | None

    @property
    def good(self) -> bool:
        """Whether the outcome is the expected one."""
        return self.expected == self.got


class Demo:
    """Runs the steps against a gateway."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        from openai import OpenAI

        self.gateway = gateway
        self.client = OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)
        self.steps: list[Step] = []

    def record(self, title: str, expected: int, ask: Callable[[], tuple[int, str, str | None]]) -> None:
        """Do one step and print its line."""
        from openai import APIStatusError

        try:
            got, said, decision = ask()
        except APIStatusError as error:
            got, decision = error.status_code, error.response.headers.get("x-slm-decision-id")
            retry = error.response.headers.get("retry-after")
            said = f"{type(error).__name__}: {_message(error.body)}" + (f" [retry-after: {retry}]" if retry else "")
        except HTTPError as error:
            got, decision = error.code, error.headers.get("x-slm-decision-id")
            said = _message(msgspec.json.decode(error.read()).get("error"))
        step = Step(title, expected, got, said, decision)
        self.steps.append(step)
        mark = paint("✓", "green") if step.good else paint(f"✗ expected {expected}", "red")
        print(
            f"  {title:<44} {paint(str(got), 'green' if got == 200 else 'yellow')}  {mark}\n      {paint(step.said[:150], 'dim')}",
            flush=True,
        )

    # -- the requests

    def plain(self) -> tuple[int, str, str | None]:
        """Plain HTTP, without a key."""
        url = f"{self.gateway.url}/v1/chat/completions"
        request = urllib.request.Request(url, BODY, {"content-type": "application/json"})  # noqa: S310 - http on loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http on loopback
            return answer.status, "", answer.headers.get("x-slm-decision-id")

    def whole(self, model: str = "phi-4-mini", tokens: int = 24) -> tuple[int, str, str | None]:
        """A whole answer through the SDK."""
        raw = self.client.chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=tokens)
        answer = raw.parse()
        left = raw.headers.get("x-ratelimit-remaining-requests")
        usage = answer.usage
        text = (answer.choices[0].message.content or "").replace("\n", " ")
        spent = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage is not None else "no usage"
        return raw.status_code, f"“{text[:60]} …” {spent}, {left} requests left", raw.headers.get("x-slm-decision-id")

    def stream(self) -> tuple[int, str, str | None]:
        """A streamed answer through the SDK, metered."""
        with self.client.chat.completions.with_streaming_response.create(
            model="phi-4-mini", messages=HELLO, max_tokens=32, stream=True, stream_options={"include_usage": True}
        ) as raw:  # fmt: skip
            chunks, usage = 0, None
            for chunk in raw.parse():
                chunks += 1
                usage = chunk.usage or usage
            spent = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage is not None else "no usage"
            return raw.status_code, f"{chunks} chunks, {spent}", raw.headers.get("x-slm-decision-id")

    def until_refused(self) -> tuple[int, str, str | None]:
        """One call after another until the limit of requests is reached."""
        while True:
            self.whole(tokens=4)

    def run(self) -> None:
        """All steps in order."""
        self.record("a request without a key", 401, self.plain)
        self.record("with a key, a whole answer", 200, self.whole)
        self.record("with a key, a streamed answer", 200, self.stream)
        self.record("a model outside the tier", 403, lambda: self.whole("qwen3-1.7b"))
        self.record("one call after another, to the limit", 429, self.until_refused)

    def wait_for_events(self) -> dict[str, Any]:
        """Audit events by decision; a call's event is written when its access log entry has settled it."""
        wanted = {step.decision for step in self.steps}
        deadline = time.monotonic() + 5
        while True:
            events = {event["decision_id"]: event for event in self.gateway.cli("audit", "query")}
            if wanted <= events.keys() or time.monotonic() > deadline:
                return events
            time.sleep(0.1)


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _show(demo: Demo, events: dict[str, Any]) -> bool:
    print(f"\n{paint('The audit entry of each', 'bold')} (slm-authz audit query)")
    columns = ("outcome", "reason", "status", "client", "model", "input_tokens", "output_tokens", "usage_source", "cost", "latency_ms")
    found = [(step, events.get(step.decision or "")) for step in demo.steps]
    table(
        ("decision", *columns),
        [[(step.decision or "")[-8:], *(event[name] for name in columns)] for step, event in found if event is not None],
    )
    print(f"\n{paint('What is used, held and left', 'bold')} (slm-authz usage)")
    rows = demo.gateway.cli("usage", "--client", "demo")["data"]
    table(
        ("limit", "used", "held", "left", "size", "per"),
        [[row[n] for n in ("name", "used", "held", "left", "limit", "per")] for row in rows],
    )
    complete = all(event is not None for _, event in found)
    metered = all(event is None or event["outcome"] != "allow" or event["usage_source"] == "upstream" for _, event in found)
    return complete and metered and all(step.good for step in demo.steps)


def main() -> int:
    """0: every outcome is the expected one."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="slm-authz-demo-") as directory:
        gateway = Gateway(Plan(Path(directory), "127.0.0.1:0"), os.environ, lambda text: print(text, flush=True))
        try:
            gateway.start()
            print(f"{paint('slm-authz demo', 'bold')}: Envoy {gateway.envoy.version} guards a model API on {gateway.url}\n", flush=True)
            demo = Demo(gateway, gateway.cli("keys", "create", "--client", "demo", "--tier", "free")["key"])
            demo.run()
            good = _show(demo, demo.wait_for_events())
        except (SlmAuthzError, DependencyError) as error:
            print(f"slm-authz: {error}", file=sys.stderr)
            return 3
        finally:
            gateway.stop()
    print(
        f"\n{paint('All as expected', 'green') if good else paint('Not as expected', 'red')}, in {time.monotonic() - began:.1f} s. Next: slm-authz up"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
