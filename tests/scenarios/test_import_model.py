"""What the import takes Postfix to do, held against a running Postfix.

`relayctl import postfix --verify` knows Postfix by its tables, and by the order in which its
programs ask them. Here its programs are asked themselves: smtpd what it answers to RCPT, cleanup
what it made of the envelope.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import smtplib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from relayd.migrate.convert import convert
from relayd.verification.gate import Inquiry
from relayd.verification.postmap import Answers, Missing
from relayd.verification.samples import samples
from relayd.verification.verify import OUTSIDE, STRANGER
from relayd.verification.walk import Walk
from tests.scenarios import postfixmaps
from tests.scenarios.harness import Scenario, program, run
from tests.scenarios.peers import Postfix

T = TypeVar("T")
# what the private Postfix sets itself, and what asks for a name server
_SET_APART = re.compile(
    r"^(?:inet_interfaces|always_bcc|header_checks|message_size_limit|mynetworks"
    r"|smtpd_client_restrictions|canonical_maps) .*\n(?:[ \t].*\n)*",
    re.MULTILINE,
)
_QUICK = """
canonical_maps = texthash:{folder}/canonical
local_recipient_maps = proxy:unix:passwd.byname $alias_maps
alias_database =
mynetworks = {trusted}
smtpd_recipient_restrictions =
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_recipient_limit = 100000
smtpd_hard_error_limit = 100000
smtpd_soft_error_limit = 100000
smtpd_error_sleep_time = 0
smtpd_peername_lookup = no
"""


class Model(Scenario):
    needs = ("postfix",)

    def begin(self, trusted: str, extra: str = "") -> tuple[Postfix, Walk, Answers, list[str]]:
        folder = self.room("tables")
        postfixmaps.make(folder)
        text = _SET_APART.sub("", postfixmaps._MAIN).replace(
            "    reject_unknown_sender_domain\n", ""
        )
        text = text.replace("/etc/postfix/", f"{folder}/").replace(
            "$config_directory/", f"{folder}/"
        )
        text = re.sub(r"\b(?:hash|btree):", "texthash:", text)
        text = text.replace(f"texthash:{folder}/aliases", f"hash:{folder}/aliases")
        run([program("postalias"), "-c", str(folder), f"hash:{folder / 'aliases'}"])
        text += _QUICK.format(folder=folder, trusted=trusted) + extra.format(folder=folder)
        postfix = Postfix(self, "gateway", extra=text)
        work = convert(Path(postfix.etc))
        answers = Answers(work.main.folder, work.shelf, self.room("compiled"))
        return postfix, Walk(work, answers), answers, samples(work)

    def answered(
        self, walk: Walk, answers: Answers, questions: Sequence[Callable[[], T]]
    ) -> list[T]:
        """All answers; tables are asked in rounds."""
        found: dict[int, T] = {}
        while len(found) < len(questions):
            for number, question in enumerate(questions):
                if number not in found:
                    walk._look.touched = set()
                    with contextlib.suppress(Missing):
                        found[number] = question()
            answers.fetch()
        return [found[number] for number in range(len(questions))]

    def test_smtpd_answers_as_we_say(self) -> None:
        postfix, walk, answers, addresses = self.begin("10.0.0.0/8")
        asked = addresses[::5]
        fates = self.answered(
            walk,
            answers,
            [
                functools.partial(walk.fate, Inquiry(each, STRANGER, each, OUTSIDE))
                for each in asked
            ],
        )
        wrong = []
        with smtplib.SMTP(postfix.address, postfix.port, timeout=120) as client:
            client.ehlo("client.example")
            client.mail(STRANGER)
            for address, fate in zip(asked, fates, strict=True):
                reply = client.rcpt(address)[0]
                if reply // 100 != (fate.answer.refused or 2):
                    wrong.append((address, reply, fate))
        self.assertEqual(wrong, [])

    def test_cleanup_rewrites_as_we_say(self) -> None:
        (self.folder / "hold").write_text("/./ HOLD\n")
        hold = f"header_checks = regexp:{self.folder}/hold\n"
        postfix, walk, answers, addresses = self.begin("127.0.0.0/8", hold)
        sent: dict[str, tuple[str, str]] = {}
        with smtplib.SMTP(postfix.address, postfix.port, timeout=120) as client:
            client.ehlo("client.example")
            for number, address in enumerate(addresses[::30]):
                sender = address if number % 2 else STRANGER
                client.mail(sender)
                if client.rcpt(address)[0] != 250:
                    client.rset()
                    continue
                code, reply = client.data(b"Subject: held\r\n\r\ntext\r\n")
                self.assertEqual(code, 250, reply)
                sent[reply.split()[-1].decode()] = (sender, address)
        held = run([program("postqueue"), "-c", postfix.etc, "-j"]).stdout.decode()
        messages = {each["queue_id"]: each for each in map(json.loads, held.splitlines())}
        gone = {sent.pop(ident)[0].partition("@")[2] for ident in sent.keys() - messages.keys()}
        self.assertLessEqual(gone, {"drop.example"})  # DISCARD in the access map
        envelopes = self.answered(
            walk, answers, [functools.partial(_mapped, walk, *each) for each in sent.values()]
        )
        wrong = []
        for (ident, asked), envelope in zip(sent.items(), envelopes, strict=True):
            message = messages[ident]
            recipients = {one["address"].lower() for one in message["recipients"]}
            if (message["sender"].lower(), recipients) != envelope:
                wrong.append((asked, message, envelope))
        self.assertEqual(wrong, [])


def _mapped(walk: Walk, sender: str, address: str) -> tuple[str, set[str]]:
    """The envelope after cleanup(8)."""
    finals = walk._virtual(walk._canonical(address, "recipient"))
    return walk._canonical(sender, "sender").lower(), {each.lower() for each in finals}
