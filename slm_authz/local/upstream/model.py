"""A very small language model: token counts of the shipped text, interpolated over contexts of three, two, one and no tokens.

It continues a prompt token by token, seeded by the prompt: the same request gives the same answer.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import accumulate

from slm_authz.local.upstream.tokenizer import Tokenizer, corpus, shipped

ORDER = 3


class Model:
    """Generates tokens; never ends by itself, so that a cap is always what ends it."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self.tokenizer = tokenizer
        tokens = tokenizer.encode(text)
        counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for at in range(len(tokens)):
            for order in range(ORDER + 1):
                if at >= order:
                    counts[tuple(tokens[at - order : at])][tokens[at]] += 1
        self._table = {context: (list(found), list(accumulate(found.values()))) for context, found in counts.items()}

    def generate(self, prompt: list[int], cap: int, seed: int = 0) -> Iterator[int]:
        """At most `cap` tokens that continue the prompt."""
        digest = hashlib.sha256(repr((prompt[-64:], len(prompt), seed)).encode()).digest()
        chance = random.Random(digest)  # noqa: S311 - a model's sampling is no secret
        context = list(prompt[-ORDER:])
        for _ in range(cap):
            token = self._next(context, chance)
            context = [*context, token][-ORDER:]
            yield token

    def _next(self, context: list[int], chance: random.Random) -> int:
        for order in range(min(ORDER, len(context)), -1, -1):
            entry = self._table.get(tuple(context[len(context) - order :]))
            # The longest context that is known, most of the time; a shorter one now and then, so that it does not only quote.
            if entry is not None and (order == 0 or chance.random() < 0.9):
                tokens, sums = entry
                return tokens[bisect(sums, chance.random() * sums[-1] * 0.999999)]
        raise AssertionError("the empty context is always known")

    def embed(self, tokens: list[int], dimensions: int = 64) -> list[float]:
        """A bag-of-tokens vector of length one."""
        vector = [0.0] * dimensions
        for token in tokens:
            vector[token * 2654435761 % dimensions] += 1.0
        length = sum(value * value for value in vector) ** 0.5 or 1.0
        return [value / length for value in vector]


@cache
def shipped_model() -> Model:
    """The model of the shipped text."""
    return Model(shipped(), corpus())
