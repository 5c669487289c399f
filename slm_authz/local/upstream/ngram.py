"""The language model: which token follows which, learned from the shipped text in a few milliseconds at start.

Enters: token ids, a seed. Leaves: token ids. The same prompt and seed give the same answer; no clock, no global randomness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate
from random import Random
from typing import Final

from slm_authz.local.upstream.tokenizer import Tokenizer

_BACK_OFF: Final = 0.1
"""Weight of each shorter context beside the next longer one."""


class NGram:
    """Interpolated n-gram over tokens. order: how many tokens it looks back, at least 1."""

    def __init__(self, tokenizer: Tokenizer, text: bytes, order: int) -> None:
        self._order = order
        self._chat, self._end = tokenizer.chat, tokenizer.end
        self._follow: dict[tuple[int, ...], Counter[int]] = {}
        for paragraph in text.strip().split(b"\n\n"):
            # The end of one paragraph is the beginning of the next: after it, the model knows how to begin.
            ids = [self._end, *tokenizer.encode(paragraph.strip()), self._end]
            for at in range(1, len(ids)):
                for back in range(min(order, at) + 1):
                    self._follow.setdefault(tuple(ids[at - back : at]), Counter())[ids[at]] += 1

    def generate(self, prompt: Sequence[int], seed: str, temperature: float = 1.0) -> Iterator[int]:
        """Tokens without end; `Tokenizer.end` stands where the model would stop, and a new paragraph follows it."""
        digest = blake2b(seed.encode() + b"\0" + b",".join(b"%d" % i for i in prompt), digest_size=16).digest()
        random = Random(digest)  # noqa: S311 - a dice, not a secret
        context = tuple(self._end if token == self._chat else token for token in prompt[-self._order :])
        while True:
            token = self._next(context, random, temperature)
            yield token
            context = (*context, token)[-self._order :]

    def _next(self, context: tuple[int, ...], random: Random, temperature: float) -> int:
        weights: dict[int, float] = {}
        factor = 1.0
        for start in range(len(context) + 1):
            seen = self._follow.get(context[start:])
            # The shortest context knows every token: it is asked only where nothing longer is known.
            if seen is None or (start == len(context) and weights):
                continue
            total = seen.total()
            for token, count in seen.items():
                weights[token] = weights.get(token, 0.0) + factor * count / total
            factor *= _BACK_OFF
        if temperature <= 0.01:
            return max(weights, key=lambda token: (weights[token], -token))
        tokens = list(weights)
        sums = list(accumulate(weights[token] ** (1 / temperature) for token in tokens))
        return random.choices(tokens, cum_weights=sums)[0]
