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

_BLANK: Final = re.compile(r"\s+")
_COMMENT: Final = re.compile(r"//[^\n]*")
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
        text = " ".join(str(error).split())
        return f"the expression does not compile: {text}", f"Use CEL over: {', '.join(sorted(VARIABLES))}."
    kind = str(expression.return_type())
    if kind not in ("BOOL", "DYN"):
        return f"the expression yields {kind.lower()}, not a boolean", "Compare it with something, so that it is true or false."
    return CompiledPolicy(policy.name, policy.mode == "shadow", policy.deny, _program(expression), _used(policy.when))


def _program(expression: Any) -> Any:
    def run(variables: Mapping[str, Any]) -> object:
        value = expression.eval(data=variables)
        return value.value()

    return run


def _used(when: str) -> frozenset[str]:
    """Variables that the expression may name, however it is laid out. A superset is harmless: it only costs a binding."""
    spellings = (_BLANK.sub("", when), _BLANK.sub("", _COMMENT.sub("", when)))
    return frozenset(name for name in VARIABLES if any(name in spelling for spelling in spellings))
