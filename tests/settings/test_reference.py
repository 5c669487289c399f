"""What is written about the schema is what the schema is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from slm_authz.settings.load import EXAMPLE
from slm_authz.settings.reference import descriptions, json_schema, page
from slm_authz.settings.schema import Node, Settings

PAGE = Path(__file__).parents[2] / "docs/configuration.md"


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m slm_authz.settings.reference > docs/configuration.md"


def test_everything_is_described() -> None:
    texts = descriptions()
    for node in Node.__subclasses__():
        for name in node.model_fields:
            assert texts[node.__name__].get(name), f"{node.__name__}.{name} has no text below it"


def test_every_key_of_the_example_is_on_the_page() -> None:
    text = page()
    for key in Settings.model_fields:
        assert f"| `{key}` |" in text


def valid(schema: Any, value: Any, root: Any) -> bool:
    """As much of JSON Schema as ours uses."""
    if "$ref" in schema:
        return valid(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    if "anyOf" in schema and not any(valid(choice, value, root) for choice in schema["anyOf"]):
        return False
    if ("oneOf" in schema and sum(valid(choice, value, root) for choice in schema["oneOf"]) != 1) or (
        "not" in schema and valid(schema["not"], value, root)
    ):
        return False
    if ("const" in schema and value != schema["const"]) or value not in schema.get("enum", [value]):
        return False
    kinds = schema.get("type", [])
    types = {"string": str, "integer": int, "number": (int, float), "object": dict, "array": list, "null": type(None)}
    if kinds and not any(isinstance(value, types[kind]) for kind in ([kinds] if isinstance(kinds, str) else kinds)):  # type: ignore[arg-type]
        return False
    if isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(valid(schema.get("items", {}), item, root) for item in value)
    if isinstance(value, dict):
        members = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        if any(name not in value for name in schema.get("required", [])) or not schema.get("minProperties", 0) <= len(value) <= schema.get(
            "maxProperties", 99
        ):
            return False
        return all(
            valid(members[k], v, root) if k in members else others if isinstance(others, bool) else valid(others, v, root)
            for k, v in value.items()
        )
    return True


def test_the_example_is_valid_by_the_json_schema() -> None:
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert valid(schema, yaml.safe_load(EXAMPLE.read_text()), schema)


@pytest.mark.parametrize(
    ("section", "good"),
    [
        ({"listen": {"grpc": {"env": "G"}, "max_body": {"file": "x"}}}, True),
        ({"tiers": {"free": {"models": [{"env": "M"}], "limits": [{"requests": {"env": "R"}, "per": {"env": "P"}}]}}}, True),
        ({"audit": {"sinks": [{"file": "./a", "rotate": "1MiB"}, {"otlp": {}}, {"kafka": {"x": 1}}]}}, True),
        ({"audit": {"sinks": [{"file": "./a", "rotat": "1MiB"}]}}, False),
        ({"listen": {"grcp": "x"}}, False),
        ({"listen": {"grpc": {"env": "G", "x": "y"}}}, False),
        ({"models": {"m": {"price": "free"}}}, True),
        ({"models": {"m": {"price": "gratis"}}}, False),
        ({"identity": [{"ldap": {}}]}, True),
        ({"identity": [{}]}, False),
        ({"workers": "two"}, False),
    ],
)
def test_the_json_schema_knows_references_and_mistakes(section: dict[str, Any], good: bool) -> None:
    schema = json_schema()
    document = {"version": 1, "identity": [{"api_key": {}}], "models": {"m": {}}, "tiers": {"t": {"models": ["m"]}}} | section
    assert valid(schema, document, schema) is good
