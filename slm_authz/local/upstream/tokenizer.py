"""Byte-level BPE: any bytes → token ids, and back without loss. A token is at least one byte, so tokens never outnumber bytes.

The merge table is trained once from `corpus.txt` (`python -m slm_authz.local.upstream.tokenizer` prints it) and shipped beside it.
Ids 0 to 255 are the bytes; id 256 + i is the i-th merge; the two special ids after them mark a conversation and an end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import Final

MERGES: Final = 768
_HERE: Final = "slm_authz.local.upstream"
_WORDS: Final = re.compile(rb" ?[A-Za-z]{1,47}| ?[0-9]{1,3}| ?[\x80-\xff]{1,47}|\s{1,48}| ?[^\sA-Za-z0-9\x80-\xff]{1,47}|.", re.DOTALL)
"""Merges never cross these borders; pieces are short, so encoding stays linear."""

Pair = tuple[int, int]


class Tokenizer:
    """One merge table."""

    def __init__(self, merges: Sequence[Pair]) -> None:
        self._ranks = {pair: 256 + i for i, pair in enumerate(merges)}
        self._bytes = [bytes([i]) for i in range(256)]
        for left, right in merges:
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self.chat = len(self._bytes)
        self.end = self.chat + 1
        self.size = self.end + 1
        self.longest = max(map(len, self._bytes))
        self._word = lru_cache(maxsize=16384)(self._encode_word)

    def encode(self, text: bytes) -> list[int]:
        """Token ids of any bytes; never a special one."""
        ids: list[int] = []
        for word in _WORDS.findall(text):
            ids.extend(self._word(word))
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; special ones have none. IndexError: no such id."""
        return b"".join(self._bytes[i] for i in ids if i not in (self.chat, self.end))

    def _encode_word(self, word: bytes) -> tuple[int, ...]:
        ids = list(word)
        while len(ids) > 1:
            rank, at = min((self._ranks.get(pair, self.size), i) for i, pair in enumerate(pairwise(ids)))
            if rank == self.size:
                break
            ids[at : at + 2] = [rank]
        return tuple(ids)


def train(text: bytes, count: int) -> list[Pair]:
    """The `count` most frequent merges, one after another; ties go to the smaller pair, so the table is the same everywhere."""
    words = {word: list(word) for word in _WORDS.findall(text)}
    frequency = Counter(_WORDS.findall(text))
    merges: list[Pair] = []
    for _ in range(count):
        pairs: Counter[Pair] = Counter()
        for word, ids in words.items():
            for pair in pairwise(ids):
                pairs[pair] += frequency[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for ids in words.values():
            _merge(ids, best, 256 + len(merges))
        merges.append(best)
    return merges


def _merge(ids: list[int], pair: Pair, token: int) -> None:
    at = 0
    while at < len(ids) - 1:
        if (ids[at], ids[at + 1]) == pair:
            ids[at : at + 2] = [token]
        at += 1


def corpus() -> bytes:
    """The text that the tokenizer and the model were made from."""
    return (files(_HERE) / "corpus.txt").read_bytes()


@lru_cache(maxsize=1)
def shipped() -> Tokenizer:
    """The tokenizer with the shipped table."""
    lines = (files(_HERE) / "merges.txt").read_text("ascii").split("\n")
    return Tokenizer([(int(left), int(right)) for left, right in (line.split() for line in lines if line)])


if __name__ == "__main__":
    for one, other in train(corpus(), MERGES):
        print(one, other)
