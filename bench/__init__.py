"""Runnable benchmarks: `python -m bench [--quick] [--only NAME …]`. Each result stands beside its method and its environment."""
