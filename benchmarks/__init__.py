"""Speed and memory, measured: `python -m benchmarks.<name>` from the root of the repository."""
