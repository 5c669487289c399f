"""What only several rooms together can tell of a configuration, with its line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_authz.compose import load_all
from slm_authz.errors import ConfigError

CONFIG = """
version: 1
identity: [{api_key: {}}]
models: {m: {}}
tiers: {free: {models: [m]}}
paths:
  - {prefix: /health, methods: [GET], model: none}
  - %s
policies:
  - {name: p, when: "%s"}
"""


def problems(tmp_path: Path, path: str, when: str) -> list[tuple[str, int | None]]:
    file = tmp_path / "slm-authz.yaml"
    file.write_text(CONFIG % (path, when))
    try:
        load_all(file, {})
    except ConfigError as error:
        return [(problem.path, problem.line) for problem in error.problems if problem.fix]
    return []


@pytest.mark.parametrize(
    "path",
    [
        "{prefix: /v1/models, methods: [GET], model: none, identity: none}",
        "{prefix: /v1/chat/completions, methods: [OPTIONS, POST], model: none}",
    ],
)
def test_a_rule_for_one_of_the_apis_own_paths_would_be_dead(tmp_path: Path, path: str) -> None:
    assert problems(tmp_path, path, "false") == [("paths.1", 8)]


@pytest.mark.parametrize(
    "path",
    [
        "{prefix: /v1/chat/completions, methods: [OPTIONS], model: none, identity: none}",
        "{prefix: /v1/models/, methods: [GET], model: none}",
    ],
)
def test_what_lies_beside_and_below_them_is_free(tmp_path: Path, path: str) -> None:
    assert problems(tmp_path, path, "false") == []


def test_all_of_it_is_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = "{prefix: /v1/models, methods: [GET], model: none}"
    assert problems(tmp_path, path, "request.nothing == 1") == [("paths.1", 8), ("policies.0.when", 10)]
