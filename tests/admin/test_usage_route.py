"""GET /v1/usage: the contract's JSON, filters, pages, problems; and the description of it."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from slm_authz.admin.api import create_app
from slm_authz.admin.listing import PAGE
from slm_authz.errors import StoreError
from slm_authz.quota.usage import UsageQuery, UsageRow

TOKEN = "secret-token"
HEADERS = [("host", "localhost"), ("authorization", f"Bearer {TOKEN}")]
ROW = UsageRow("team-budget", "cost", "tenant", "acme", None, "month", "1", "0.25", "0.05", "0.7", "2023-12-01T00:00:00Z")


def app_of(usage: Any, warnings: Any = list) -> Any:
    return create_app(TOKEN, ["localhost"], usage, warnings, "1.2.3")


def test_the_document_is_the_contracts(ask: Any) -> None:
    answer = ask(app_of(lambda query: [ROW], lambda: ["not wired"]), headers=HEADERS)
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert list(body) == ["data", "next_cursor", "warnings"]
    assert list(body["data"][0]) == ["name", "kind", "by", "subject", "model", "per", "limit", "used", "held", "left", "reset_at"]
    assert body["data"][0]["left"] == "0.7"
    assert body["data"][0]["model"] is None
    assert body["next_cursor"] is None
    assert body["warnings"] == ["not wired"]


def test_filters_arrive_as_a_query(ask: Any) -> None:
    seen: list[UsageQuery] = []

    def usage(query: UsageQuery) -> list[UsageRow]:
        seen.append(query)
        return []

    assert ask(app_of(usage), "/v1/usage?client=a%20b&tenant=t&key=k&model=m", HEADERS).status == 200
    assert seen == [UsageQuery("a b", "t", "k", "m")]


@pytest.mark.parametrize(
    "query", ["clients=a", "client=a&client=b", "cursor=x", "cursor=-1", "cursor=1234567890", "cursor=%D9%A1", "cursor="]
)
def test_what_is_not_understood_is_a_problem_with_a_fix(ask: Any, query: str) -> None:
    answer = ask(app_of(lambda _: []), f"/v1/usage?{query}", HEADERS)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "fix"} <= set(answer.json())


def test_pages_follow_each_other_without_gap_or_overlap(ask: Any) -> None:
    rows = [msgspec.structs.replace(ROW, subject=f"c{number}") for number in range(2 * PAGE + 1)]
    app = app_of(lambda query: rows)
    found: list[str] = []
    cursor: str | None = "0"
    while cursor is not None:
        body = ask(app, f"/v1/usage?cursor={cursor}", HEADERS).json()
        found += [row["subject"] for row in body["data"]]
        cursor = body["next_cursor"]
    assert found == [row.subject for row in rows]


@pytest.mark.parametrize("error", [StoreError("disk gone"), RuntimeError("secret internals")])
def test_a_failure_behind_the_desk_is_503_and_tells_nothing(ask: Any, error: Exception) -> None:
    def usage(query: UsageQuery) -> list[UsageRow]:
        raise error

    answer = ask(app_of(usage), headers=HEADERS)
    assert answer.status == 503
    assert str(error).encode() not in answer.body
    assert answer.json()["fix"]


def test_rows_are_made_beside_the_event_loop(ask: Any) -> None:
    threads: list[str] = []

    def usage(query: UsageQuery) -> list[UsageRow]:
        threads.append(threading.current_thread().name)
        return []

    ask(app_of(usage), headers=HEADERS)
    assert threads[0].startswith("slm-authz-usage")


def test_unknown_paths_and_methods_are_problems(ask: Any) -> None:
    app = app_of(lambda _: [])
    assert ask(app, "/v1/api-keys", HEADERS).status == 404
    answer = ask(app, "/v1/usage", HEADERS, "DELETE")
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]
    assert answer.json()["fix"]
    assert ask(app, "/v1/usage", HEADERS, "HEAD").status == 200


def test_the_description_names_what_is_there_and_nothing_else(ask: Any) -> None:
    body = ask(app_of(lambda _: []), "/openapi.json", HEADERS).json()
    assert list(body["paths"]) == ["/v1/usage"]
    assert body["info"]["version"] == "1.2.3"
    (schema,) = body["components"]["schemas"].values()
    assert list(schema["properties"]) == list(UsageRow.__struct_fields__)
