"""Makes .venv with relayd and what it needs, and says plainly what is missing.

    python3 .ci/environment.py [EXTRA]      "test", or "dev" for lint and types too

Works without Python's ensurepip (Debian keeps it in a package of its own) as long as there is
a pip. Done once, it is quick: a stamp holds the hash of setup.cfg. The syntax is kept old, so
that an old Python can say that it is too old.
"""

import hashlib
import os
import subprocess
import sys

OLDEST = (3, 11)
CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(CHECKOUT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
EXTRAS = ("", "test", "dev")  # each has what the one before it has


def stop(reason, advice):
    """Say what is missing and what to do, and end."""
    sys.stderr.write("relayd: %s\n    %s\n" % (reason, advice))
    sys.exit(1)


def run(command, reason, advice):
    """Run to the end; its output is shown only if it fails."""
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = done.communicate()[0].decode("utf-8", "replace")
    if done.returncode != 0:
        sys.stderr.write(output)
        stop(reason, advice)


def works(command):
    """Whether a command ends well."""
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.Popen(command, **quiet)
    except OSError:
        return False
    done.communicate()
    return done.returncode == 0


def make_venv():
    """A virtual environment with a pip, or without one if only an outer pip is there."""
    try:
        import venv  # noqa: F401
    except ImportError:
        stop("this Python has no venv module", "Debian: apt-get install python3-venv")
    try:
        import ensurepip  # noqa: F401

        options = []
    except ImportError:
        options = ["--without-pip"]
        if not works([sys.executable, "-m", "pip", "--version"]):
            stop(
                "this Python has neither pip nor ensurepip",
                "Debian: apt-get install python3-venv (or python3-pip)",
            )
    run(
        [sys.executable, "-m", "venv"] + options + [VENV],
        "could not make .venv",
        "remove .venv and try again",
    )


def pip():
    """The command line of the pip that installs into .venv."""
    if works([PYTHON, "-m", "pip", "--version"]):
        return [PYTHON, "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", PYTHON]


def stamp(extra):
    """The file that says what .venv was made from."""
    return os.path.join(VENV, ".relayd-" + (extra or "run"))


def main():
    """Check, make, install, stamp."""
    if sys.version_info < OLDEST:
        stop(
            "Python %d.%d is too old" % sys.version_info[:2],
            "3.11 or later is needed; name one with: make PYTHON=/path/to/python3 ...",
        )
    extra = sys.argv[1] if len(sys.argv) > 1 else ""
    with open(os.path.join(CHECKOUT, "setup.cfg"), "rb") as file:
        digest = hashlib.sha256(file.read() + VENV.encode()).hexdigest()
    for enough in EXTRAS[EXTRAS.index(extra) :]:
        if os.path.exists(stamp(enough)) and os.path.exists(PYTHON):
            with open(stamp(enough)) as file:
                if file.read() == digest:
                    return
    print("setting up .venv with relayd and what it needs ...")
    sys.stdout.flush()
    if not works([PYTHON, "--version"]):
        make_venv()
    target = CHECKOUT + ("[%s]" % extra if extra else "")
    # "compat" puts the checkout on the path: twistd finds its plugin, and edits count at once
    options = ["--quiet", "--disable-pip-version-check", "--config-settings=editable_mode=compat"]
    run(
        pip() + ["install"] + options + ["--editable", target],
        "could not install what relayd needs into .venv",
        "pip needs to reach PyPI, or a mirror of it named by PIP_INDEX_URL",
    )
    with open(stamp(extra), "w") as file:
        file.write(digest)


if __name__ == "__main__":
    main()
