"""A small OpenAI-compatible model server for trying things out: it really generates, and really counts.

Enters: HTTP on loopback. Leaves: text of a tiny n-gram model, whole or streamed, and the usage that it counted itself.
It knows nothing of keys, tiers and limits: what it is asked, it answers and, if told to, writes down (`--log`).
"""
