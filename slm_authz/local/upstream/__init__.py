"""A small OpenAI-compatible model server for trying things out: it really generates and really counts. Not for production."""
