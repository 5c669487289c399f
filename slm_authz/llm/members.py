"""What the requests of OpenAI's APIs have in common. Enters: the decoded body. Leaves: its caps and flags, or a refusal.

Members that we know to leave the prompt alone are listed; any other makes the prompt opaque, because a server may put what it holds
into the prompt. Members that change the prompt, the model or the cap behind our back are refused. No value is ever echoed.
"""

from __future__ import annotations

from typing import Any, Final

from slm_authz.llm.ask import Ask, Prompt
from slm_authz.reason import Denial, Reason

MAX_CHOICES: Final = 128

PLAIN: Final = frozenset(
    {
        "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of",
        "temperature", "top_p", "top_k", "min_p", "typical_p", "stop", "seed", "user", "metadata", "store", "logprobs", "top_logprobs",
        "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty", "service_tier",
        "parallel_tool_calls", "modalities", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "encoding_format",
        "dimensions", "echo", "ignore_eos", "min_tokens", "stop_token_ids", "skip_special_tokens", "spaces_between_special_tokens",
        "include_stop_str_in_output", "include_reasoning", "use_beam_search", "priority", "request_id", "cache_salt", "cache_prompt",
        "return_token_ids", "return_tokens_as_token_ids", "prompt_logprobs", "truncate_prompt_tokens", "add_generation_prompt",
        "continue_final_message", "add_special_tokens", "allowed_token_ids",
    }
)  # fmt: skip
"""Members that leave the prompt alone whatever they hold; those that matter are judged by `ask`."""

_REFUSED: Final = {
    "chat_template": "left out: it changes the prompt",
    # llama.cpp, Ollama, TGI and the Responses API: a server that knows them would obey them instead of the cap that is held.
    "n_predict": "left out: name the output cap `max_tokens`",
    "num_predict": "left out: name the output cap `max_tokens`",
    "max_new_tokens": "left out: name the output cap `max_tokens`",
    "max_output_tokens": "left out: name the output cap `max_tokens`",
    "n_cmpl": "left out: name the number of answers `n`",
    "num_return_sequences": "left out: name the number of answers `n`",
    # Routers (OpenRouter, LiteLLM) would take another model than the one that was judged.
    "models": "left out: `model` alone names the model",
    "fallbacks": "left out: `model` alone names the model",
    "lora": "left out: `model` alone names the model",
    "adapter_id": "left out: `model` alone names the model",
}
_MATTERS: Final = (
    "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of", "messages", "prompt", "suffix", "input",
    "background", "chat_template_kwargs", "tools", "functions", "documents", "response_format", *_REFUSED,
)  # fmt: skip
_SHORT: Final = 16
"""Longest word that `reasoning_effort` and `verbosity` take: some templates write it into the prompt."""


def _squash(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")


# Go's encoding/json matches names without regard to case (Unicode's folding: `ſ` is an s), other servers take camelCase too: for them a
# look-alike is the same member twice.
_SPELLINGS: Final = {_squash(name): name for name in _MATTERS}


def bad(member: str, must: str) -> Denial:
    """The refusal of a member that is not what it must be; nothing of its value is shown."""
    return Denial(Reason.MALFORMED_REQUEST, f"`{member}` must be {must}.", param=member)


def judge_others(document: dict[str, Any], known: frozenset[str]) -> bool | Denial:
    """Whether any member outside `known` makes the prompt opaque; or the refusal of one that may not be there. Null is absent."""
    opaque = False
    for name, value in document.items():
        if name in known or value is None:
            continue
        verdict = _judge(name, value)
        if isinstance(verdict, Denial):
            return verdict
        opaque = opaque or verdict
    return opaque


def _judge(name: str, value: Any) -> bool | Denial:
    if name in _REFUSED:
        return bad(name, _REFUSED[name])
    if name == "background":
        return False if value is False else bad(name, "false: an answer that is fetched later cannot be metered here")
    if name == "chat_template_kwargs":
        return _template_arguments(value)
    if name == "response_format":
        return value not in ({"type": "text"}, {"type": "json_object"})
    if name in ("reasoning_effort", "verbosity"):
        return type(value) is not str or len(value) > _SHORT
    proper = _SPELLINGS.get(_squash(name), name)
    if proper != name:
        return Denial(
            Reason.AMBIGUOUS_REQUEST, f"Spell `{proper}` exactly so: servers differ over names that only resemble it.", param=proper
        )
    return value not in ([], {})  # such as `tools: []`: nothing is in it


def _template_arguments(value: Any) -> bool | Denial:
    """Flags such as `enable_thinking` switch a template's branches; anything larger may be written into the prompt."""
    if not isinstance(value, dict):
        return bad("chat_template_kwargs", "an object")
    if any(_squash(name) == "chattemplate" for name in value):
        return bad("chat_template_kwargs", "free of `chat_template`: it changes the prompt")
    return not all(item is None or type(item) is bool for item in value.values())


def ask(api: str, document: dict[str, Any], prompts: tuple[Prompt, ...]) -> Ask | Denial:
    """Model, stream, caps and choices of a request that generates."""
    get = document.get
    model = get("model")
    if type(model) is not str or not model:
        return bad("model", "the name of a model")
    stream = get("stream")
    if stream is not None and type(stream) is not bool:
        return bad("stream", "true or false")
    if "stream_options" in document:
        options = document["stream_options"]
        if options is not None and (type(options) is not dict or type(options.get("include_usage", False)) is not bool):
            return bad("stream_options", "an object such as {include_usage: true}")
    cap: int | None = None
    open_cap = False
    for name in ("max_tokens", "max_completion_tokens"):
        value = get(name)
        if value is None:
            continue
        if type(value) is not int:
            return bad(name, "an integer")
        # Several servers read a cap of zero or less as "without end": for us it is as if absent. Of two caps a server obeys either.
        if value <= 0:
            open_cap = True
        elif cap is None or value > cap:
            cap = value
    choices = 1
    if "n" in document or "best_of" in document:
        for name in ("n", "best_of"):
            value = get(name)
            if value is None:
                continue
            if type(value) is not int or not 1 <= value <= MAX_CHOICES:
                return bad(name, f"an integer from 1 to {MAX_CHOICES}")
            choices = max(choices, value)
    return Ask(api, model, stream is True, cap, choices, prompts, open_cap=open_cap)
