"""The sample upstream's tokenizer and model: nothing is lost, nothing is counted twice, everything is the same again."""

from __future__ import annotations

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.local.upstream.ngram import NGram
from slm_authz.local.upstream.tokenizer import MERGES, Tokenizer, corpus, shipped, train

TOKENIZER = shipped()
SMALL = NGram(TOKENIZER, corpus(), 2)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode(errors="replace"))))
def test_any_bytes_come_back_and_tokens_never_outnumber_them(text: bytes) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert len(ids) <= len(text) <= len(ids) * TOKENIZER.longest
    assert all(0 <= token < TOKENIZER.chat for token in ids)


@given(st.text(max_size=60), st.text(max_size=60))
def test_tokens_of_two_texts_decode_to_both(one: str, other: str) -> None:
    first, second = one.encode(errors="replace"), other.encode(errors="replace")
    assert TOKENIZER.decode(TOKENIZER.encode(first) + TOKENIZER.encode(second)) == first + second


def test_the_shipped_table_is_the_trained_one() -> None:
    assert Tokenizer(train(corpus(), MERGES)).encode(corpus()) == TOKENIZER.encode(corpus())
    assert TOKENIZER.size == 256 + MERGES + 2


def test_it_compresses_what_it_has_read() -> None:
    assert len(TOKENIZER.encode(corpus())) < len(corpus()) / 3


def test_a_long_word_takes_linear_time() -> None:
    assert len(TOKENIZER.encode(b"a" * 1_000_000)) <= 1_000_000


@settings(max_examples=30)
@given(st.binary(max_size=40), st.text(max_size=5), st.floats(0, 2))
def test_the_same_prompt_and_seed_give_the_same_answer(prompt: bytes, seed: str, temperature: float) -> None:
    ids = TOKENIZER.encode(prompt)
    first, second = (list(islice(SMALL.generate(ids, seed, temperature), 12)) for _ in range(2))
    assert first == second
    assert all(0 <= token < TOKENIZER.size and token != TOKENIZER.chat for token in first)


def test_another_seed_gives_another_answer() -> None:
    answers = {tuple(islice(SMALL.generate([TOKENIZER.chat], str(seed)), 12)) for seed in range(8)}
    assert len(answers) > 4
