"""Runs trial over suites one after another and closes with `N passed, N failed, N skipped`.

    python -m tests.runner [--jobs N] [--no-skips] [--quiet] [--again] [--without MODULE,...]
        [SUITE ...]

Errors count as failed. The exit status is not zero if anything failed, if nothing ran, or,
with --no-skips, if anything was skipped. With --quiet only what went wrong is shown, and which
modules took longest. What --without names, modules or a folder of tests that another run has, is
not begun, and said.

With --again a test that failed beside others is run once more, alone: real servers, disks and
clocks fail now and then for nothing but a machine with more to do than cores. It counts by what it
does then, and is named in any case. Nothing is tried again where more than a few failed, and none
of those that take examples at random: a second time they would not meet the same.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
TESTS = CHECKOUT / "tests"

# trial's last words: "PASSED (skips=1, successes=7)", "FAILED (failures=1, errors=2, ...)"
_LAST = re.compile(r"^(PASSED|FAILED)(?: \((.*)\))?\s*$", re.MULTILINE)
_FAILED = ("failures", "errors", "unexpectedSuccesses")
_PASSED = ("successes", "expectedFailures")
_RULER = re.compile(r"^(?:={79}|-{79})$", re.MULTILINE)  # above each failure, and below the last
_BY_CLOCKS = re.compile(
    r"^(tests\.(?:scenarios|faults|contract|unit(?:\.\w+)?)\.\w+\.\w+\.test_\w+)$", re.MULTILINE
)
SHOWN = 8  # of the slowest modules
AGAIN = 6  # tests at most: where more fail, it is not the machine

# begun first, or the others end long before one of their tests: up to a minute and a half for one.
# A job takes one test after the other; those that only wait have some that compute beside them
LONGEST = (
    *("test_settling", "test_settings", "test_import", "test_scan", "test_pace"),
    *("test_directories", "test_import_golden", "test_cluster", "test_browser"),
    *("test_browser_costs", "test_workers"),
)


def suites(without: Collection[str] = ()) -> list[list[str]]:
    """What to run by default: the quick tests together, then the scenarios, but for some of them.

    Raises ValueError if there is no such module: whoever renames one is to hear of it.
    """
    # tests/bench and tests/faults take long and are commands of their own
    folders = sorted(path.parent.name for path in TESTS.glob("*/__init__.py"))
    others = ("scenarios", "bench", "faults", *without)
    quick = [f"tests.{name}" for name in folders if name not in others]
    loose = {path.stem for path in TESTS.glob("test_*.py")}
    quick += [f"tests.{name}" for name in sorted(loose - {*without})]
    there = {path.stem for path in TESTS.glob("scenarios/test_*.py")}
    if unknown := sorted({*without} - there - loose - {*folders}):
        raise ValueError(f"no module, and no folder of tests: {', '.join(unknown)}")
    modules = sorted(there - {*without}, key=_begun)
    return [quick, [f"tests.scenarios.{name}" for name in modules]]


def _begun(module: str) -> tuple[int, str]:
    return LONGEST.index(module) if module in LONGEST else len(LONGEST), module


def environment(bytecode: str) -> dict[str, str]:
    """What trial runs in: every process of the suite finds there what one of them has compiled.

    Hundreds of relayds are started; a container whose Python is to write no bytecode would have
    each of them compile all of it anew, which is half of what a start costs.
    """
    given = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**given, "PYTHONPATH": str(CHECKOUT), "PYTHONPYCACHEPREFIX": bytecode}


def run(
    targets: list[str], jobs: int, quiet: bool, temp: str, environment: dict[str, str]
) -> tuple[int, int, int, list[str]]:
    """One trial over these targets: passed, failed, skipped; and what may be tried again."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "error::RuntimeWarning"),
            # Python since 3.12 says it of Twisted 24.11's own result
            *("-W", "ignore:TestResult has no addDuration method:RuntimeWarning"),
            *("-m", "twisted.trial"),
            *("--reporter=text", f"--temp-directory={temp}/t"),
            *([f"--jobs={jobs}"] if jobs > 1 else []),
            *targets,
        ],
        cwd=CHECKOUT,
        env={**environment, "RELAYD_DURATIONS": f"{temp}/durations"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    output = []
    while piece := process.stdout.read(1):  # dots are to appear one by one
        output.append(piece)
        if not quiet:
            print(piece, end="", flush=True)
    status = process.wait()
    text = "".join(output)
    passed, failed, skipped = counted(text)
    again = failed_by_clocks(text) if failed else []
    if passed + failed + skipped == 0 or (status != 0 and failed == 0):
        failed += 1  # trial itself did not come to its end
    if quiet and (failed or skipped):
        print(text[max(text.find("=" * 79), 0) :], flush=True)
    return passed, failed, skipped, again


def failed_by_clocks(text: str) -> list[str]:
    """What trial says has failed, if all of it knows a clock, and it is not too much."""
    blocks = [each for each in _RULER.split(text) if each.startswith(("\n[FAIL]", "\n[ERROR]"))]
    found = [_BY_CLOCKS.findall(block) for block in blocks]
    names = list(dict.fromkeys(name for block in found for name in block))
    return names if all(found) and len(names) <= AGAIN else []


def add_durations(path: Path, took: dict[str, float]) -> None:
    """Seconds of each module, from the lines `SECONDS MODULE.CLASS.METHOD` of its tests."""
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        seconds, _, name = line.partition(" ")
        took[name.rsplit(".", 2)[0]] += float(seconds)


def counted(text: str) -> tuple[int, int, int]:
    """Passed, failed and skipped out of trial's last words."""
    found = _LAST.findall(text)
    if not found:
        return 0, 0, 0
    numbers = dict.fromkeys((*_PASSED, *_FAILED, "skips"), 0)
    for pair in (found[-1][1] or "").split(", "):
        name, _, value = pair.partition("=")
        if name in numbers:
            numbers[name] = int(value)
    return (
        sum(numbers[name] for name in _PASSED),
        sum(numbers[name] for name in _FAILED),
        numbers["skips"],
    )


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main() -> int:
    """Run, sum up, say so in one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.runner")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-skips", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--without", type=_names, default=[], metavar="MODULE,...")
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args()
    if options.targets and options.without:
        parser.error("--without leaves modules out where all would run; name none then")
    try:
        wanted = [options.targets] if options.targets else suites(options.without)
    except ValueError as error:
        parser.error(str(error))
    if options.without:
        print("left to another run:", ", ".join(options.without), flush=True)
    passed = failed = skipped = 0
    took: dict[str, float] = defaultdict(float)
    tried: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bytecode-") as bytecode:
        inherited = environment(bytecode)
        for targets in wanted:
            with tempfile.TemporaryDirectory(prefix="trial-") as temp:
                *one, again = run(targets, options.jobs, options.quiet, temp, inherited)
                add_durations(Path(temp, "durations"), took)
            passed, failed, skipped = passed + one[0], failed + one[1], skipped + one[2]
            if options.again and again:
                failed -= one[1]  # one test fails in several ways: each counts once from here on
            for name in again if options.again else ():
                with tempfile.TemporaryDirectory(prefix="trial-") as temp:
                    *one, _ = run([name], 1, options.quiet, temp, inherited)
                passed, failed, skipped = passed + one[0], failed + bool(one[1]), skipped + one[2]
                tried.append(f"{name} {'failed' if one[1] else 'passed'}")
    slowest = sorted(took, key=lambda name: -took[name])[:SHOWN]
    for each in tried:
        print("tried again, alone:", each)
    print("slowest:", ", ".join(f"{name} {took[name]:.0f} s" for name in slowest))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return int(failed > 0 or passed == 0 or (options.no_skips and skipped > 0))


if __name__ == "__main__":
    sys.exit(main())
