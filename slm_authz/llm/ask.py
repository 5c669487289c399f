"""ROOM 1b: what is asked of which model, independent of the API dialect it was asked in."""

from __future__ import annotations

import msgspec


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """One prompt of a call.

    text_bytes: UTF-8 bytes of its text
    tokens:     its tokens where the caller sent token ids instead of text; else 0
    images:     number of images
    opaque:     it holds something whose size in tokens its bytes do not bound (tools, schemas, documents, files, members
                that we do not know): `strict` then takes the model's whole context
    other_bytes: where it is opaque: all bytes of the body that are not in a text; an estimate counts them as if they were
    """

    text_bytes: int
    tokens: int = 0
    images: int = 0
    opaque: bool = False
    other_bytes: int = 0


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What one call asks for.

    api:     `openai.chat`, `openai.completions`, `openai.embeddings`, `openai.models`, or `other` (a configured path)
    model:   the name as the caller wrote it; "" where the path needs no model
    stream:  asked as a stream
    cap:     the largest positive output cap that was named; None: none
    open_cap: a cap of zero or less was named, which servers read as if none were: beside another one it may be the one that counts
    choices: max(n, best_of), 1 to 128: multiplies the cap
    prompts: every prompt of the call; empty where the path needs no model
    generates: False for embeddings: no output tokens
    """

    api: str
    model: str = ""
    stream: bool = False
    cap: int | None = None
    choices: int = 1
    prompts: tuple[Prompt, ...] = ()
    generates: bool = True
    open_cap: bool = False
