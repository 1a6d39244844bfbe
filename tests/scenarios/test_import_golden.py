"""Small configurations of Postfix: what the import makes of them, beside a running Postfix."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from relayd.verification import verify
from relayd.verification.samples import samples
from tests.scenarios import postfixgolden as golden
from tests.scenarios.harness import Scenario
from tests.scenarios.postfixfarm import Logins, Maps, Small

AT_ONCE = 10
DEAD = ("postfix-2-says-nothing",)  # Postfix 3 takes no mail at all with it, Postfix 2 did
# newer ones do not know check_relay_domains any more, and put everything off that it would decide
GONE = ("postfix-2-virtual-maps-and-check-relay-domains",)
_NO_MAIL = {"error", "retry"}  # where Postfix takes mail, and then it does not arrive


class Golden(Scenario):
    needs = ("postfix",)

    def setUp(self) -> None:
        super().setUp()
        there = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.farm = Path(tempfile.mkdtemp(prefix="relayd-farm-", dir=there))
        self.farm.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.farm, ignore_errors=True)
        self.logins: list[Logins] = []

    def each(self, work: Callable[[str], None]) -> None:
        """Do it for all of them, some at a time; the first failure is raised."""
        names = iter(golden.names())
        lock = threading.Lock()
        failures: list[BaseException] = []

        def worker() -> None:
            while True:
                with lock:
                    name = next(names, "")
                if not name or failures:
                    return
                try:
                    work(name)
                except BaseException as error:  # told below
                    failures.append(error)

        threads = [threading.Thread(target=worker) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def test_nothing_is_taken_that_postfix_refuses_and_nothing_goes_to_somebody_else(self) -> None:
        heard: dict[str, dict[str, golden.Answer]] = {}
        room = self.room("golden")
        maps = Maps()
        self.addCleanup(maps.close)
        folders = {name: golden.copied(name, room) for name in golden.names()}

        def ask(name: str) -> None:
            questions = list(golden.questions(folders[name]))
            small = Small.made(folders[name], self.farm / name, maps.port)
            if (self.farm / name / "etc/main.cf").read_text().count("smtpd_sasl_path"):
                self.logins.append(Logins(self.farm / name / "queue/private/auth"))
            try:
                small.start()
                if name in DEAD:
                    self.assertIn("fatal: in parameter smtpd_relay_restrictions", small.last_word())
                    return
                small.ask(questions)
                theirs = small.answers(questions)
                if name in GONE and all(each.refused for each in theirs.values()):
                    return
                heard[name] = theirs
            finally:
                small.stop()

        try:
            self.each(ask)
        finally:
            for each in self.logins:
                each.close()
        wrong = []
        taken = 0
        for name in golden.names():
            imported = golden.Imported.of(folders[name])
            for asked in golden.questions(folders[name]) if name in heard else ():
                theirs, ours = heard[name][asked.text], imported.answer(asked)
                taken += not ours.refused
                trouble = compared(theirs, ours)
                if trouble:
                    wrong.append(f"{name}: {asked.text}: {trouble}\n  {theirs}\n  {ours}")
        if wrong:
            self.fail("\n".join(wrong))
        self.assertGreater(taken, 100)

    def test_verify_raises_no_false_alarm(self) -> None:
        alarms: list[str] = []
        room = self.room("golden")

        def check(name: str) -> None:
            imported = golden.Imported.of(golden.copied(name, room))
            outcome = verify.verify(imported.work, imported.written, samples(imported.work))
            alarms.extend(
                f"{name}: {each.question}\n  {each.postfix}\n  {each.relayd}"
                for each in outcome.unnamed
            )

        self.each(check)
        if alarms:
            self.fail("\n".join(alarms))


def compared(theirs: golden.Answer, ours: golden.Answer) -> str:
    """What is wrong with our answer beside Postfix's; empty: nothing."""
    if theirs.refused:
        if not ours.refused:
            return "taken, and Postfix refuses"
        denied = ours.relaying or theirs.relaying
        if theirs.refused == 4 and ours.refused == 5 and not denied:
            return "refused for good, and Postfix does not"
        return ""
    hows = {how for _, how in theirs.goals}
    if ours.refused:
        if ours.refused == 4 or theirs.kept == "hold" or (hows and hows <= _NO_MAIL):
            return ""
        if hows & _NO_MAIL:
            return ""
        return "refused for good, and Postfix takes it"
    if not theirs.goals or hows == {"discard"}:
        return "" if not ours.goals or ours.kept else "goes on, and Postfix throws it away"
    if theirs.kept or ours.kept:
        return "" if theirs.kept == ours.kept else "kept otherwise"
    if theirs.goals != ours.goals:
        return "goes somewhere else"
    return "" if theirs.senders == ours.senders else "has another sender"
