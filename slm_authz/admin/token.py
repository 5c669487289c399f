"""Where the admin token stands: the environment, else the file that the service made beside its store. Reads; making it is the store's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slm_authz.errors import DependencyError

VARIABLE = "SLM_AUTHZ_ADMIN_TOKEN"  # the name of a variable, not a token
FILE_NAME = "admin.token"


def given(env: Mapping[str, str]) -> str | None:
    """The token of the environment: SLM_AUTHZ_ADMIN_TOKEN, or the content of the file SLM_AUTHZ_ADMIN_TOKEN_FILE; None: neither is set.

    DependencyError: the file cannot be read, or is empty.
    """
    if env.get(VARIABLE):
        return env[VARIABLE].strip()
    path = env.get(f"{VARIABLE}_FILE")
    return _content(Path(path), f"Correct {VARIABLE}_FILE.") if path else None


def find(env: Mapping[str, str], database: Path) -> str:
    """The token that the running service asks for. DependencyError: there is none yet, or it cannot be read."""
    token = given(env)
    if token is not None:
        return token
    return _content(database.with_name(FILE_NAME), "Start `slm-authz serve` once as this user: it makes the token.")


def _content(path: Path, fix: str) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DependencyError(f"The admin token {path} cannot be read: {reason}.", fix) from error
    if not token:
        raise DependencyError(f"The admin token {path} is empty.", fix)
    return token
