"""The models that the sample upstream serves. A name is only a name: behind each stands the same tiny n-gram model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from slm_authz.errors import UsageError
from slm_authz.local.upstream.ngram import NGram
from slm_authz.local.upstream.tokenizer import Tokenizer, corpus

_SPEC: Final = re.compile(r"([\x21-\x2b\x2d-\x3c\x3e-\x7e]{1,256})(?:=(\d{1,7})(?:,(\d{1,7}))?)?")


class Served(msgspec.Struct, frozen=True):
    """context: tokens in all; default_output: generated at most when a request names no cap; order: tokens the model looks back."""

    name: str
    context: int
    default_output: int
    order: int


DEFAULT: Final = (Served("phi-4-mini", 16384, 64, 3), Served("phi4", 16384, 64, 3), Served("qwen3-1.7b", 16384, 64, 4))
"""Names and an alias that the example configuration uses; `owned_by` tells that nobody's weights stand behind them."""


def parse_served(text: str) -> Served:
    """`NAME[=CONTEXT[,DEFAULT_OUTPUT]]`. UsageError."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UsageError(f"--model {text!r} cannot be read.", "Write it like phi-4-mini=16384,1024.")
    context = int(match[2] or 16384)
    return Served(match[1], context, min(int(match[3] or 64), context), 3)


class Library:
    """The served models with their statistics; models of the same order share them."""

    def __init__(self, served: Iterable[Served], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.served = {model.name: model for model in served}
        text = corpus()
        self._grams = {order: NGram(tokenizer, text, order) for order in {model.order for model in self.served.values()}}

    def gram(self, model: Served) -> NGram:
        """What generates for a model."""
        return self._grams[model.order]
