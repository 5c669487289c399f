"""CEL policies: document → typed program. The only place that imports the CEL library (which loads protobuf).

Every variable is declared with its type, so that a wrong name or type is an error of the file, with its column, not a surprise at a call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from slm_authz.policy.evaluate import VARIABLES, CompiledPolicy
from slm_authz.settings.schema import Policy

MAX_EXPRESSION: Final = 16_384
Finding = tuple[int, str, str]
"""(index of the policy, message, fix)"""

_FOUND: Final = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ([^\n]*)")
_MESSAGE: Final = 300
_TYPES: Final = {
    "request.stream": "BOOL",
    "request.max_output_tokens": "INT",
    "request.input_tokens": "INT",
    "request.body_bytes": "INT",
    "now": "TIMESTAMP",
}


def _environment() -> Any:
    from cel_expr_python import cel

    types: dict[str, Any] = {name: getattr(cel.Type, _TYPES.get(name, "STRING")) for name in VARIABLES}
    types["principal.scopes"] = cel.Type.List(cel.Type.STRING)
    types["principal.labels"] = cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
    return cel.NewEnv(variables=types)


def problems(policies: Sequence[Policy]) -> list[Finding]:
    """Everything that keeps these policies from compiling."""
    return _compile(policies)[1]


def compile_policies(policies: Sequence[Policy]) -> tuple[CompiledPolicy, ...]:
    """Programs in file order. ValueError where `problems` finds any: check first."""
    compiled, found = _compile(policies)
    if found:
        raise ValueError(found[0][1])
    return tuple(compiled)


def _compile(policies: Sequence[Policy]) -> tuple[list[CompiledPolicy], list[Finding]]:
    if not policies:
        return [], []
    try:
        environment = _environment()
    except ImportError:
        message = "policies need the package cel-expr-python, which is not installed on this platform"
        return [], [(0, message, "Install cel-expr-python (Linux with glibc), or remove the policies.")]
    compiled: list[CompiledPolicy] = []
    found: list[Finding] = []
    for index, policy in enumerate(policies):
        result = _one(environment, policy)
        if isinstance(result, CompiledPolicy):
            compiled.append(result)
        else:
            found.append((index, *result))
    return compiled, found


def _one(environment: Any, policy: Policy) -> CompiledPolicy | tuple[str, str]:
    if len(policy.when) > MAX_EXPRESSION:
        return f"the expression is longer than {MAX_EXPRESSION} characters", "Split it into several policies."
    try:
        expression = environment.compile(policy.when)
    except Exception as error:  # noqa: BLE001 - the library documents no error type; its message has line and column
        return f"the expression does not compile: {_words(str(error))}", f"Use CEL over: {', '.join(sorted(VARIABLES))}."
    kind = str(expression.return_type())
    if kind not in ("BOOL", "DYN"):
        return f"the expression yields {kind.lower()}, not a boolean", "Compare it with something, so that it is true or false."
    return CompiledPolicy(policy.name, policy.mode == "shadow", policy.deny, _program(expression), _used(policy.when))


def _program(expression: Any) -> Any:
    def run(variables: Mapping[str, Any]) -> object:
        value = expression.eval(data=variables)
        return value.value()

    return run


def _words(text: str) -> str:
    """The library's findings without its drawing: `1:15: found no matching overload …`, line and column of the expression."""
    found = [message if int(line) < 0 else f"{line}:{column}: {message}" for line, column, message in _FOUND.findall(text)]
    words = "; ".join(dict.fromkeys(found)) or " ".join(text.split())
    words = words.removesuffix(" [INVALID_ARGUMENT]")
    return words if len(words) <= _MESSAGE else f"{words[:_MESSAGE]} …"


def _used(when: str) -> frozenset[str]:
    """Variables that the expression may name, however it is laid out: those whose last word stands in it.

    A superset is harmless: it only costs a binding. White space and comments can stand around the dot, never inside the word.
    """
    return frozenset(name for name in VARIABLES if re.search(rf"\b{name.rpartition('.')[2]}\b", when, re.ASCII))
