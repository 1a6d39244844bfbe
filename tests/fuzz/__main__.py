"""Fuzzes with atheris, guided by what code the input reaches: `make fuzz FUZZ=server TIME=600`.

    python -m tests.fuzz [--time SECONDS] [TARGET]

Without a target each has its turn. What breaks one is kept in tests/fuzz/corpus/TARGET, where
the tests of every run find it.

A target `tests.unit...`, a module, class or test, is run again and again, and where the suite has
the same examples each time hypothesis makes others (and ever the ones that once failed). What
breaks it belongs in an `@example`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS, seeds
from tests.fuzz.test_targets import WORDS


def install() -> None:
    """Make atheris available, or say plainly that it is not."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "atheris"])
        if done.returncode != 0:
            sys.exit(
                "make fuzz needs atheris, and pip could not install it for this Python.\n"
                "The tests in tests/fuzz check the same targets with hypothesis: make test"
            )


def fuzz(name: str, seconds: int) -> int:
    """One target, in a process of its own: libFuzzer ends the one it runs in."""
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        words, found = Path(folder) / "words", Path(folder) / "found"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS[name]))
        found.mkdir()
        for number, seed in enumerate(seeds(name)):
            (found / str(number)).write_bytes(seed)
        return subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz", "--inside", name, "--"),
                *(f"-max_total_time={seconds}", f"-artifact_prefix={CORPUS / name}/"),
                *("-max_len=4096", "-timeout=10", f"-dict={words}"),
                *(str(found), str(CORPUS / name)),
            ]
        ).returncode


def repeat(name: str, seconds: int) -> int:
    """Tests with properties, with ever new examples, until one fails or time is over."""
    end = time.monotonic() + seconds
    command = [sys.executable, "-m", "tests.runner", "--quiet", name]
    status = 0
    while status == 0 and time.monotonic() < end:
        status = subprocess.run(command, env={**os.environ, "RELAYD_RANDOM": "1"}).returncode
    return status


def target(text: str) -> str:
    """One of TARGETS, or tests by their dotted name."""
    if text not in TARGETS and not text.startswith("tests."):
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(TARGETS)}, or tests.unit...")
    return text


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in word[:64])


def inside(name: str, options: list[str]) -> None:
    """libFuzzer's loop; does not return."""
    import atheris

    with atheris.instrument_imports(include=["relayd"]):
        # once more, so that it tells atheris where it goes
        for module in [each for each in sys.modules if each.startswith(("relayd", "tests."))]:
            del sys.modules[module]
        targets = importlib.import_module("tests.fuzz.targets")
    atheris.Setup([sys.argv[0], *options], targets.TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Fuzz one target or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--time", type=int, default=60, help="seconds for each target")
    parser.add_argument("target", nargs="?", type=target)
    options = parser.parse_args()
    if options.target and options.target not in TARGETS:
        return repeat(options.target, options.time)
    install()
    names = [options.target] if options.target else list(TARGETS)
    return max(fuzz(name, options.time) for name in names)


if __name__ == "__main__":
    if "--inside" in sys.argv:
        at = sys.argv.index("--inside")
        inside(sys.argv[at + 1], sys.argv[at + 3 :])
    sys.exit(main())
