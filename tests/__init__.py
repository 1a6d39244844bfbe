"""The tests. What is slow on a busy machine is no fault of the example that hypothesis made.

The suite looks at the same examples in every run, so that it says of a change what the change has
done. What nobody has thought of yet is looked for by `python -m tests.fuzz` (RELAYD_RANDOM=1).
"""

import contextlib
import os

with contextlib.suppress(ImportError):  # installed trees are tried without it
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "relayd",
        deadline=None,
        derandomize=not os.environ.get("RELAYD_RANDOM"),
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("relayd")
