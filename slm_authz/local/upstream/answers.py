"""`Job` → pieces of text with their counts, and OpenAI's shapes for them, whole or as events of a stream.

Deterministic: the id of an answer is derived from its prompt and seed; `created` is handed in (Unix seconds).
"""

from __future__ import annotations

import codecs
import struct
from base64 import b64encode
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from slm_authz.local.upstream.asked import Job
from slm_authz.local.upstream.served import Library

Tree = dict[str, Any]


class Usage(msgspec.Struct):
    """What was counted so far: it grows while an answer is generated."""

    input_tokens: int = 0
    output_tokens: int = 0

    def shape(self, *, output: bool = True) -> Tree:
        """OpenAI's `usage`."""
        total = self.input_tokens + self.output_tokens
        figures = {"prompt_tokens": self.input_tokens, "completion_tokens": self.output_tokens, "total_tokens": total}
        return figures if output else {"prompt_tokens": self.input_tokens, "total_tokens": total}


class Piece(msgspec.Struct, frozen=True):
    """Some text of one choice; finish: `stop` or `length` with its last piece."""

    index: int
    text: str
    finish: str | None = None


def pieces(job: Job, library: Library, usage: Usage) -> Iterator[Piece]:
    """The choices one after another, token by token; `usage` is counted as they come."""
    for at, prompt in enumerate(job.prompts):
        for candidate in range(job.candidates):
            # best_of: what is not returned was generated all the same, and is counted.
            returned = candidate < job.choices
            for text, finish in _choice(job, library, usage, prompt, f"{job.seed}/{candidate}"):
                if returned:
                    yield Piece(at * job.choices + candidate, text, finish)


def _choice(job: Job, library: Library, usage: Usage, prompt: list[int], seed: str) -> Iterator[tuple[str, str | None]]:
    tokenizer, decoder = library.tokenizer, codecs.getincrementaldecoder("utf-8")("replace")
    written = b""
    tokens = library.gram(job.model).generate(prompt, seed, job.temperature)
    for count, token in enumerate(tokens, 1):
        usage.output_tokens += 1
        ended = token == tokenizer.end and not job.ignore_eos
        new = b"" if ended else (b"\n\n" if token == tokenizer.end else tokenizer.decode([token]))
        cut = min((at for stop in job.stop if (at := (written + new).find(stop)) >= 0), default=None)
        if cut is not None:
            # What has already been sent of the stop word stays sent, as with any server that streams.
            new, ended = (written + new)[len(written) : max(cut, len(written))], True
        written += new
        finish = "stop" if ended else "length" if count == job.cap else None
        yield decoder.decode(new, finish is not None), finish
        if finish is not None:
            return


def _identity(job: Job) -> str:
    digest = blake2b(repr((job.kind, job.model.name, job.seed, job.prompts)).encode(), digest_size=12).hexdigest()
    return f"{'chatcmpl' if job.kind == 'chat' else 'cmpl'}-{digest}"


def whole(job: Job, library: Library, usage: Usage, created: int) -> Tree:
    """The answer to a request that is not a stream."""
    texts: dict[int, list[str]] = {}
    finishes: dict[int, str | None] = {}
    for piece in pieces(job, library, usage):
        texts.setdefault(piece.index, []).append(piece.text)
        finishes[piece.index] = piece.finish
    choices: list[Tree] = []
    for index, parts in texts.items():
        text = "".join(parts)
        said: Tree = {"message": {"role": "assistant", "content": text, "refusal": None}} if job.kind == "chat" else {"text": text}
        choices.append({"index": index, **said, "logprobs": None, "finish_reason": finishes[index]})
    kind = "chat.completion" if job.kind == "chat" else "text_completion"
    return {
        "id": _identity(job),
        "object": kind,
        "created": created,
        "model": job.model.name,
        "choices": choices,
        "usage": usage.shape(),
    }


def events(job: Job, library: Library, usage: Usage, created: int) -> Iterator[Tree]:
    """The chunks of a stream, without the closing `[DONE]`."""
    base: Tree = {
        "id": _identity(job),
        "object": "chat.completion.chunk" if job.kind == "chat" else "text_completion",
        "created": created,
        "model": job.model.name,
    }
    begun: set[int] = set()
    for piece in pieces(job, library, usage):
        if job.kind == "chat":
            role = {} if piece.index in begun else {"role": "assistant"}
            begun.add(piece.index)
            said: Tree = {"delta": {**role, "content": piece.text}}
        else:
            said = {"text": piece.text}
        chunk = {**base, "choices": [{"index": piece.index, **said, "logprobs": None, "finish_reason": piece.finish}]}
        if job.include_usage:
            chunk["usage"] = usage.shape() if job.continuous_usage else None
        yield chunk
    if job.include_usage:
        yield {**base, "choices": [], "usage": usage.shape()}


def embeddings(job: Job, usage: Usage) -> Tree:
    """Vectors of hashed tokens, of length one: equal texts are equal, similar ones similar, and no more is promised."""
    vectors = [_vector(prompt, job.dimensions) for prompt in job.prompts]
    # base64 is what OpenAI's SDK asks for: 32-bit floats, little-endian.
    shaped = [b64encode(struct.pack(f"<{len(v)}f", *v)).decode() if job.base64 else v for v in vectors]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(shaped)]
    return {"object": "list", "data": data, "model": job.model.name, "usage": usage.shape(output=False)}


def _vector(prompt: list[int], dimensions: int) -> list[float]:
    vector = [0.0] * dimensions
    for token in prompt:
        # Fibonacci hashing: neighbouring ids land far from each other.
        place = (token + 1) * 2654435769 & 0xFFFFFFFF
        vector[place % dimensions] += 1.0 if place & 0x10000 else -1.0
    norm = sum(x * x for x in vector) ** 0.5
    return [x / norm for x in vector] if norm else vector
