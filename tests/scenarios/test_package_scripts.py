"""The package's own scripts, run as root in a mount namespace where user relayd has laid traps.

What they may touch below /var and /run is a scratch tree there; what the traps lead to must stay
as it was. packaging/try runs the same scripts out of the built package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import unittest
from collections.abc import Sequence
from pathlib import Path

from tests.scenarios.harness import Scenario

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = CHECKOUT / "packaging" / "debian"
UID = GID = 64321
_NEEDED = ("unshare", "setpriv", "start-stop-daemon")
# a world of its own: /var and /run are scratch, and there is a user relayd
_WORLD = """\
set -e
mount --make-rprivate /
for each in passwd group; do mount --bind "$1/$each" /etc/$each; done
mount --bind "$1/var" /var
mount --bind "$1/run" /run
cd /
shift
exec "$@"
"""


def _missing() -> str:
    if os.geteuid() != 0:
        return "makes a mount namespace: needs root"
    absent = [each for each in _NEEDED if not shutil.which(each)]
    return f"not installed: {', '.join(absent)}" if absent else ""


@unittest.skipIf(_missing(), _missing())
class PackageScripts(Scenario):
    def setUp(self) -> None:
        super().setUp()
        self.world = self.room("world")
        for each in ("var/spool", "var/log", "var/lib", "run"):
            (self.world / each).mkdir(parents=True)
        for name, line in (
            ("passwd", f"relayd:x:{UID}:{GID}::/var/spool/relayd:/usr/sbin/nologin\n"),
            ("group", f"relayd:x:{GID}:\n"),
        ):
            text = Path("/etc", name).read_text()
            (self.world / name).write_text(text + line)
        self.spool = self.world / "var/spool/relayd"
        self.spool.mkdir(mode=0o711)
        os.chown(self.spool, UID, GID)
        # what a trap leads to
        self.treasure = self.world / "var/lib/treasure"
        self.treasure.mkdir(mode=0o700)
        (self.treasure / "secret").write_text("root's own\n")
        (self.treasure / "secret").chmod(0o600)
        self.before = self.state()

    def state(self) -> list[tuple[object, ...]]:
        """Owner, mode and content of what is root's."""
        return [
            (
                each.name,
                found.st_uid,
                found.st_gid,
                found.st_mode,
                each.is_file() and each.read_text(),
            )
            for each in (self.treasure, *sorted(self.treasure.iterdir()))
            for found in [each.stat()]
        ]

    def enter(
        self, command: Sequence[str], seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", _WORLD, "sh", str(self.world), *command],
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C"},
        )

    def script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.enter(["sh", str(SCRIPTS / name), *arguments])

    # the drop folder

    def test_the_drop_folder_is_made_as_it_is_to_be(self) -> None:
        for _ in ("installed", "upgraded"):
            done = self.script("relayd-mta.postinst", "configure", "1")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            found = (self.spool / "drop").stat()
            self.assertEqual((found.st_uid, found.st_gid), (UID, GID))
            self.assertEqual(found.st_mode & 0o7777, 0o3733)

    def test_a_link_in_place_of_the_drop_folder_leads_root_nowhere(self) -> None:
        (self.spool / "drop").symlink_to("/var/lib/treasure")
        done = self.script("relayd-mta.postinst", "configure", "1")
        self.assertEqual(self.state(), self.before)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("drop is no folder of user relayd", done.stderr)

    def test_a_link_to_nowhere_makes_nothing_there(self) -> None:
        (self.spool / "drop").symlink_to("/var/lib/treasure/new")
        self.script("relayd-mta.postinst", "configure", "1")
        self.assertEqual(self.state(), self.before)

    def test_a_spool_that_has_become_a_link_makes_nothing_of_roots(self) -> None:
        shutil.rmtree(self.spool)
        self.spool.symlink_to("/var/lib/treasure")
        self.script("relayd-mta.postinst", "configure", "1")
        self.assertEqual(self.state(), self.before)

    # the init script

    def init(self, words: str = "start; stop", mistake: str = "") -> str:
        """Run the init script with each word; in place of relayd something that tells who it is.

        `mistake`: from the second word on `relayctl check` says this. What the script said.
        """
        programs = self.room("programs")
        stand_in = programs / "twistd3"
        stand_in.write_text("#!/bin/sh\nid -u; umask; exec sleep 60\n")
        (programs / "relayctl").write_text(
            f'#!/bin/sh\n[ "$3" != check ] || [ ! -e {programs}/wrong ] || '
            f"{{ echo {mistake!r} >&2; exit 1; }}\n"
        )
        for each in programs.iterdir():
            each.chmod(0o755)
        config = programs / "relayd.conf"
        config.write_text("")
        text = (SCRIPTS / "relayd.init").read_text()
        for name in ("twistd3", "relayctl"):
            text = text.replace(f"/usr/bin/{name}", str(programs / name))
        text = text.replace("CONFIG=/etc/relayd/relayd.conf", f"CONFIG={config}")
        script = programs / "relayd"
        script.write_text(text)
        first, *others = (f"sh {script} {word}; echo status $?" for word in words.split("; "))
        spoil = f"touch {programs}/wrong" if mistake else ":"
        steps = "; ".join([first, "sleep 1", spoil, *others])
        runs = "start-stop-daemon --status --pidfile /run/relayd.pid && echo it runs"
        end = f"rm -f {programs}/wrong; sh {script} stop"
        done = self.enter(["sh", "-c", f"{steps}; sleep 1; {runs}; {end}"], 120)
        return done.stdout + done.stderr

    def test_a_restart_with_a_mistake_leaves_running_what_runs(self) -> None:
        for word in ("restart", "force-reload"):
            with self.subTest(word):
                shutil.rmtree(self.folder / "programs", ignore_errors=True)
                said = self.init(f"start; {word}", "relayd.conf:1:1: unknown verb")
                self.assertIn("status 0", said)
                self.assertIn("relayd.conf:1:1: unknown verb", said)
                self.assertIn("status 1", said)
                self.assertIn("it runs", said)

    def test_a_start_with_a_mistake_says_it(self) -> None:
        said = self.init("stop; start", "relayd.conf:1:1: unknown verb")
        self.assertIn("relayd.conf:1:1: unknown verb", said)
        self.assertIn("status 1", said)
        self.assertNotIn("it runs", said)

    def test_a_start_with_a_mistake_starts_what_was_good_before(self) -> None:
        """Also by `restart`, where nothing runs."""
        (self.spool / "last-good").touch()
        for word in ("start", "restart"):
            with self.subTest(word):
                shutil.rmtree(self.folder / "programs", ignore_errors=True)
                said = self.init(f"stop; {word}", "relayd.conf:1:1: unknown verb")
                self.assertIn("relayd.conf:1:1: unknown verb", said)
                self.assertNotIn("status 1", said)
                self.assertIn("it runs", said)

    def test_a_good_restart_restarts(self) -> None:
        said = self.init("start; restart")
        self.assertIn("it runs", said)
        self.assertNotIn("status 1", said)
        log = (self.world / "var/log/relayd/relayd.log").read_text()
        self.assertEqual(log.count(str(UID)), 2, said)

    def test_a_number_in_the_pid_file_that_is_a_strangers_by_now_is_left_alone(self) -> None:
        stranger = subprocess.Popen(["sleep", "300"])
        self.addCleanup(stranger.wait)
        self.addCleanup(stranger.kill)
        file = self.world / "run/relayd.pid"
        for words, status in (("status", "status 3"), ("stop", "status 0"), ("start", "it runs")):
            with self.subTest(words):
                shutil.rmtree(self.folder / "programs", ignore_errors=True)
                file.write_text(f"{stranger.pid}\n")
                self.assertIn(status, self.init(words))
                self.assertIsNone(stranger.poll(), "it was stopped")

    def test_the_log_of_the_init_script_is_for_its_group(self) -> None:
        said = self.init()
        folder, log = self.world / "var/log/relayd", self.world / "var/log/relayd/relayd.log"
        self.assertEqual(log.read_text(), f"{UID}\n0077\n", said)
        found = log.stat()
        self.assertEqual((found.st_uid, found.st_mode & 0o777), (UID, 0o640))
        self.assertEqual(found.st_gid, folder.stat().st_gid)

    def test_a_link_in_place_of_the_log_leads_root_nowhere(self) -> None:
        for target in ("secret", "new"):
            with self.subTest(target=target):
                folder = self.world / "var/log/relayd"
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(self.folder / "programs", ignore_errors=True)
                folder.mkdir(mode=0o750)
                os.chown(folder, UID, -1)
                (folder / "relayd.log").symlink_to(f"/var/lib/treasure/{target}")
                self.init()
                self.assertEqual(self.state(), self.before)

    def test_another_name_of_a_file_of_roots_in_place_of_the_log_is_not_written_to(self) -> None:
        folder = self.world / "var/log/relayd"
        folder.mkdir(mode=0o750)
        os.chown(folder, UID, -1)
        os.link(self.treasure / "secret", folder / "relayd.log")
        self.init()
        self.assertEqual(self.state(), self.before)

    # leaving

    def test_purging_does_not_wait_for_a_pipe_in_place_of_the_database(self) -> None:
        shard = self.spool / "shard-0"
        shard.mkdir()
        os.mkfifo(shard / "queue.db")
        lines = (SCRIPTS / "relayd.postrm").read_text()
        function = lines[lines.index("SPOOL=") : lines.index('if [ "$1" = purge ]')]
        done = self.enter(["sh", "-c", f"{function}\nholds_mail"], 20)
        self.assertEqual(done.returncode, 0, "what cannot be looked at is kept")
        (shard / "queue.db").unlink()
        (shard / "queue.db").symlink_to("/var/lib/treasure/secret")
        self.assertEqual(self.enter(["sh", "-c", f"{function}\nholds_mail"], 20).returncode, 0)
        (shard / "queue.db").unlink()
        self.assertEqual(self.enter(["sh", "-c", f"{function}\nholds_mail"], 20).returncode, 1)

    def test_no_script_of_the_package_changes_owners_below_a_folder_of_anothers(self) -> None:
        """What the traps above stand for, for every script there is."""
        for path in sorted(SCRIPTS.iterdir()):
            if path.suffix not in (".postinst", ".postrm", ".prerm", ".init", ".config"):
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                words = line.split("#")[0].split()
                where = f"{path.name}:{number}: {line}"
                if {"chown", "chgrp"} & set(words):
                    self.fail(f"changes an owner: {where}")
                if "install" in words and "spool/relayd/" in line:
                    self.fail(f"makes something in the spool as root: {where}")
