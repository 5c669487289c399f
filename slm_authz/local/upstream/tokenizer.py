"""A byte-level BPE tokenizer, trained at start on the shipped text. Every byte string round-trips; a token is at least one byte.

No normalizer: `tokens_per_byte: 1` is true for it. Deterministic: the same text gives the same merges.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final

MERGES: Final = 400
_PIECES: Final = re.compile(rb" ?[A-Za-z]+| ?[0-9]{1,3}| ?[^\sA-Za-z0-9]+|\s+")
Pair = tuple[int, int]


def corpus() -> str:
    """The text that tokenizer and model are made from."""
    return Path(__file__).with_name("corpus.txt").read_text("utf-8")


class Tokenizer:
    """Tokens 0 to 255 are the bytes; those above are merges in order of training."""

    def __init__(self, text: str, merges: int = MERGES) -> None:
        self._vocabulary: list[bytes] = [bytes((byte,)) for byte in range(256)]
        self._ranks: dict[Pair, int] = {}
        words = Counter(_PIECES.findall(text.encode()))
        pieces = [(list(word), count) for word, count in words.items()]
        for _ in range(merges):
            pairs: Counter[Pair] = Counter()
            for piece, count in pieces:
                for pair in pairwise(piece):
                    pairs[pair] += count
            if not pairs:
                break
            best = max(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]))
            self._ranks[best] = len(self._vocabulary)
            self._vocabulary.append(self._vocabulary[best[0]] + self._vocabulary[best[1]])
            pieces = [(_merge(piece, best, self._ranks[best]), count) for piece, count in pieces]
        self._piece = lru_cache(maxsize=65536)(self._encode_piece)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        data = text.encode("utf-8", "surrogatepass")
        return [token for piece in _PIECES.findall(data) for token in self._piece(piece)]

    def decode(self, tokens: list[int]) -> bytes:
        """The bytes of tokens."""
        return b"".join([self._vocabulary[token] for token in tokens])

    def _encode_piece(self, piece: bytes) -> tuple[int, ...]:
        # A very long run without a boundary is cut: merging it whole would take quadratic time.
        if len(piece) > 64:
            return tuple(token for at in range(0, len(piece), 64) for token in self._piece(piece[at : at + 64]))
        tokens = list(piece)
        while len(tokens) > 1:
            ranks = self._ranks
            best = min(pairwise(tokens), key=lambda pair: ranks.get(pair, 1 << 30))
            if best not in ranks:
                break
            tokens = _merge(tokens, best, ranks[best])
        return tuple(tokens)


def _merge(tokens: list[int], pair: Pair, merged: int) -> list[int]:
    out: list[int] = []
    at = 0
    while at < len(tokens):
        if at + 1 < len(tokens) and (tokens[at], tokens[at + 1]) == pair:
            out.append(merged)
            at += 2
        else:
            out.append(tokens[at])
            at += 1
    return out


@cache
def shipped() -> Tokenizer:
    """The tokenizer of the shipped text."""
    return Tokenizer(corpus())
