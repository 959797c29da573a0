"""Scenarios: what the rules of the thread do to real processes on real mounts.

A scenario is a TOML file (``docs/scenarios.md``): processes that open, map, mark, fork and exit,
pressure, and what each of them sees then, under each preset of the rules.
"""
