"""One file per question. Each has `run(context) -> Section`; `ALL` names them in the order of the page."""

ALL = ("check", "settle", "audit", "memory", "keys", "envoy")
