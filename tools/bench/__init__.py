"""The benchmark: ``python -m tools.bench [--quick] [--json FILE]`` (``make bench``)."""
