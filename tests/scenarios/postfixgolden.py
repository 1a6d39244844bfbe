"""Small configurations of Postfix in tests/golden/postfix, and what each question about them hears.

A folder has main.cf, master.cf, the maps, and `asked`: a question a line, such as

    at submission login ann from 192.0.2.7 helo h.example sender a@b.example to c@d.example

`import` says what the import makes of it: the rules, and relayd's answer to each question.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd.mail.address import Mailbox, path_text
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Verdict
from relayd.migrate.convert import Machine, convert
from relayd.migrate.work import Work
from relayd.migrate.write import WrittenFiles, settle
from relayd.rules.evaluate import Facts, evaluate
from relayd.verification import verify
from tests.certs import Authority

GOLDEN = Path(__file__).resolve().parents[1] / "golden/postfix"
MACHINE = Machine(lambda: "mx.example.com", lambda: ["127.0.0.1", "192.0.2.25", "::1"])
RULES = Path("rules.d/50-postfix.rules")


@dataclass(frozen=True)
class Asked:
    """One question."""

    text: str
    to: str
    sender: str = verify.STRANGER
    client: str = verify.OUTSIDE
    helo: str = "client.invalid"
    login: str = ""
    name: str = ""  # the client's, confirmed
    at: str = "smtp"  # as master.cf names the service


@dataclass(frozen=True)
class Answer:
    """What one side says; `goals`: each final recipient and where it goes."""

    refused: int = 0  # 4 or 5
    relaying: bool = False
    kept: str = ""  # hold, discard
    goals: frozenset[tuple[str, str]] = frozenset()
    senders: frozenset[str] = frozenset()
    text: str = ""

    def __str__(self) -> str:
        if self.refused:
            return f"refused, {self.text}"
        goals = ", ".join(f"{goal} {how}" for goal, how in sorted(self.goals))
        return (
            f"{self.kept or 'taken'}: {goals or 'nobody'} sender {', '.join(sorted(self.senders))}"
        )


def names() -> list[str]:
    """All of them."""
    return sorted(each.name for each in GOLDEN.iterdir() if each.is_dir())


def copied(name: str, room: Path) -> Path:
    """One of them in a folder of its own, with a certificate where it names one."""
    folder = room / name
    shutil.copytree(GOLDEN / name, folder)
    main = folder / "main.cf"
    text = main.read_text("utf-8")
    if "cert.pem" in text:
        chain, key = Authority().issue("mx.example.com").write(folder, "mx")
        text = text.replace("/etc/postfix/cert.pem", str(chain))
        main.write_text(text.replace("/etc/postfix/key.pem", str(key)))
    return folder


def questions(folder: Path) -> Iterator[Asked]:
    """Those of one configuration."""
    for line in (folder / "asked").read_text("utf-8").splitlines():
        words = iter(line.split())
        said = dict(zip(words, words, strict=True))
        said["client"] = said.pop("from", verify.OUTSIDE)
        if said.get("sender") == "null":
            said["sender"] = ""
        yield Asked(line, **said)


@dataclass
class Imported:
    """A configuration and what it has become."""

    work: Work
    written: WrittenFiles

    @classmethod
    def of(cls, folder: Path) -> Imported:
        """Import it."""
        work = convert(folder, MACHINE)
        return cls(work, settle(work))

    def answer(self, asked: Asked) -> Answer:
        """What relayd says, and does."""
        listener = self._listener(asked.at)
        if not listener:
            return Answer(4, text="nobody listens")
        facts = Facts(
            Client(
                asked.client,
                listener=listener,
                helo=asked.helo,
                rdns=asked.name,
                login=asked.login,
                tls="TLSv1.3" if asked.login else "",
            ),
            Mailbox.parse(asked.sender) if asked.sender else None,
            Mailbox.parse(asked.to),
            gathered=self.written.settings.ruleset.usual,
        )
        ruleset = self.written.settings.ruleset
        mine = ruleset.send_as.refusal(facts.client, facts.sender)
        if mine is not None:
            return Answer(mine.code // 100, text=f"{mine.code} {mine.status}")
        return self._answer(evaluate(ruleset, facts))

    def _answer(self, plan: Plan) -> Answer:
        if plan.verdict is Verdict.REFUSE:
            denied = not plan.matched or "Relay access denied" in str(plan.reply)
            text = f"{plan.reply.code} {plan.reply.status}"
            return Answer(plan.reply.code // 100, relaying=denied, text=text)
        goals = frozenset(
            (
                str(each.mailbox).lower(),
                verify._how(self.written.settings, each.mailbox, each.next_hop),
            )
            for each in (*plan.destinations, *plan.bcc)
        )
        senders = frozenset(
            path_text(each.reverse_path).lower() or "<>" for each in (*plan.destinations, *plan.bcc)
        )
        kept = "" if plan.verdict is Verdict.ACCEPT else plan.verdict.value
        return Answer(kept=kept, goals=goals, senders=senders)

    def _listener(self, at: str) -> str:
        return next(
            (str(where[0]) for service, where in self.work.listeners if service.name == at), ""
        )

    def told(self, folder: Path) -> str:
        """The text of the golden file."""
        lines = ["# NOT translated", ""]
        for each in self.work.report.findings.values():
            lost = [part.text for part in each.parts if part.fate.value == "NOT translated"]
            lines += [f"{each.setting}: {text}" for text in lost]
        lines += ["", "# Rules", "", *self.written.files[RULES]]
        lines += ["", "# Answers", ""]
        lines += [f"{asked.text}\n    {self.answer(asked)}" for asked in questions(folder)]
        return "\n".join(lines).replace(f"{folder}/", "") + "\n"


def write(room: Path) -> None:
    """Write all golden files anew: `python -m tests.scenarios.postfixgolden`."""
    for name in names():
        folder = copied(name, room)
        (GOLDEN / name / "import").write_text(Imported.of(folder).told(folder), "utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        write(Path(made))
