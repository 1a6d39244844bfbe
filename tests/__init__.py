"""The tests. What is slow on a busy machine is no fault of the example that hypothesis made."""

import contextlib

with contextlib.suppress(ImportError):  # installed trees are tried without it
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("patient")
