"""How soon each screen of the console is painted in Debian's Chromium, beside an empty page.

python -m tests.bench.paint_bench [TIMES]

Over loopback with TLS, of a relayd with mail in it. Milliseconds: to the first paint by the
browser's clock, the fastest and the median, to be compared with those of the empty page where
others compute as well; and CPU of the page's own thread, the least, for all of the page.
"""

from __future__ import annotations

import statistics
import sys
import unittest

from tests.scenarios.browser import Page
from tests.scenarios.test_browser import InChromium

TIMES = 10


class Painted(InChromium):
    """Not a test, but set up as one."""

    times = TIMES

    def measure(self) -> None:
        """Look at each screen so many times; print a line for each."""
        page = self.chromium.page()
        page.looks(1600)
        self.log_in(page)
        page.call("Performance.enable", timeDomain="threadTicks")
        screens = [("(empty)", "data:text/html,x")]
        screens += [(name, self.url + path) for name, path in self.paths()]
        for name, url in screens:
            taken, used = [], []
            for _ in range(self.times):
                page.open("about:blank")
                before = self.processor_time(page)
                taken.append(page.painted(url))
                used.append(self.processor_time(page) - before)
            fastest, median = min(taken), statistics.median(taken)
            print(
                f"{name:10}  {fastest:7.1f} ms  {median:7.1f} ms  {min(used) * 1e3:7.1f} ms of CPU"
            )

    def processor_time(self, page: Page) -> float:
        """Of the page's thread, in seconds."""
        found = page.call("Performance.getMetrics")["metrics"]
        return next(float(each["value"]) for each in found if each["name"] == "TaskDuration")


def main() -> int:
    """Measure."""
    Painted.times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    found = unittest.TestResult()
    Painted("measure").run(found)
    for _, trouble in found.errors + found.failures + found.skipped:
        print(trouble, file=sys.stderr)
    return not found.wasSuccessful()


if __name__ == "__main__":
    sys.exit(main())
