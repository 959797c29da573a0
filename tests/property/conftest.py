"""How hard the property tests try: ``HYPOTHESIS_PROFILE=ci`` or ``long`` for more than usual."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "default", max_examples=250, stateful_step_count=50, deadline=None,
    suppress_health_check=_SLOW_IS_FINE,
)  # fmt: skip
settings.register_profile("ci", settings.get_profile("default"), max_examples=1000)
settings.register_profile(
    "long", settings.get_profile("default"), max_examples=20_000, stateful_step_count=80
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
