"""What Postfix looks up of names, and its import beside it, with the same DNS."""

from __future__ import annotations

import smtplib
import sys
from pathlib import Path

from relayd.migrate.convert import convert
from relayd.migrate.write import settle
from tests.scenarios import peers
from tests.scenarios.harness import Scenario, greets, wait_until
from tests.scenarios.network import Network
from tests.scenarios.postfixgolden import MACHINE, RULES

MX = "192.0.2.1"
GOOD, FORGED, NAMELESS, BAD, FRIEND, TROUBLE = (f"192.0.2.{n}" for n in range(7, 13))
ZONE = """\
7.2.0.192.in-addr.arpa. PTR good.test.
good.test. A 192.0.2.7
8.2.0.192.in-addr.arpa. PTR forged.test.
forged.test. A 203.0.113.1
10.2.0.192.in-addr.arpa. PTR bad.test.
bad.test. A 192.0.2.10
11.2.0.192.in-addr.arpa. PTR friend.test.
friend.test. A 192.0.2.11
forged.test.clients.test. A 127.0.0.2
forged.test.unconfirmed.test. A 127.0.0.2
bad.test.clients.test. A 127.0.0.2
friend.test.clients.test. A 127.0.0.2
friend.test.friends.test. A 127.0.0.2
spam.test.senders.test. A 127.0.1.2
soso.test.senders.test. A 127.0.1.200
helo.test.helos.test. A 127.0.0.2
listed.test.recipients.test. A 127.0.0.2
spam.test. A 192.0.2.99
soso.test. A 192.0.2.99
slow.test. A 192.0.2.99
sender.test. MX 10 good.test.
corp.test. MX 10 good.test.
listed.test. MX 10 good.test.
"""
FAULTS = (
    *("servfail", "slow.test.senders.test", "*"),
    *("servfail", "12.2.0.192.in-addr.arpa", "*"),
    *("servfail", "trouble.test", "*"),
)
MAIN = """\
compatibility_level = 3.6
myhostname = mx.example.com
mydestination =
alias_maps =
mynetworks = 127.0.0.0/8
relay_domains = corp.test, listed.test, gone.test, trouble.test
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_client_restrictions = reject_unknown_reverse_client_hostname
smtpd_helo_restrictions = reject_rhsbl_helo helos.test
smtpd_sender_restrictions = reject_unknown_sender_domain
 reject_rhsbl_sender senders.test=127.0.1.[2..99]
smtpd_recipient_restrictions = reject_unknown_recipient_domain
 reject_rhsbl_recipient recipients.test, permit_rhswl_client friends.test
 reject_rhsbl_client clients.test, reject_rhsbl_reverse_client unconfirmed.test
unknown_address_reject_code = 550
"""
ASKED = (
    # client, HELO, sender, recipient, the reply
    (GOOD, "good.test", "ann@sender.test", "bob@corp.test", 250),
    (GOOD, "helo.test", "ann@sender.test", "bob@corp.test", 554),
    (GOOD, "[192.0.2.7]", "ann@sender.test", "bob@corp.test", 250),
    (GOOD, "good.test", "ann@SPAM.test", "bob@corp.test", 554),
    (GOOD, "good.test", "ann@soso.test", "bob@corp.test", 250),
    (GOOD, "good.test", "ann@slow.test", "bob@corp.test", 250),  # the list does not say
    (GOOD, "good.test", "ann@gone.test", "bob@corp.test", 550),
    (GOOD, "good.test", "", "bob@corp.test", 250),
    (GOOD, "good.test", "ann@sender.test", "bob@listed.test", 554),
    (GOOD, "good.test", "ann@sender.test", "bob@gone.test", 550),
    (FORGED, "good.test", "ann@sender.test", "bob@corp.test", 554),  # by its name unconfirmed
    (NAMELESS, "good.test", "ann@sender.test", "bob@corp.test", 450),
    (BAD, "good.test", "ann@sender.test", "bob@corp.test", 554),
    (FRIEND, "good.test", "ann@sender.test", "bob@corp.test", 250),
)
UNSAID = (  # by the DNS: 451 with relayd, as all that nobody can say
    (GOOD, "good.test", "ann@trouble.test", "bob@corp.test", 450),
    (GOOD, "good.test", "ann@sender.test", "bob@trouble.test", 450),
    (TROUBLE, "good.test", "ann@sender.test", "bob@corp.test", 450),
)


class NamesBeside(Scenario):
    needs = ("netns", "postfix")

    def test_the_import_refuses_what_postfix_refuses_by_the_names_in_the_dns(self) -> None:
        net = Network()
        self.addCleanup(net.close)
        host = net.host("mx", f"{MX}/24")
        strangers = (GOOD, FORGED, NAMELESS, BAD, FRIEND, TROUBLE)
        client = net.host("client", *(f"{each}/24" for each in strangers))
        folder = self.room("dns")
        (folder / "zone").write_text(ZONE)
        (folder / "resolv.conf").write_text(f"nameserver {MX}\n")
        words = [sys.executable, "-m", "tests.dnsserver", MX, "53", str(folder / "zone"), *FAULTS]
        served = self.launch([*host.enter, *words], "dns")
        wait_until(lambda: "listening" in served.log(), "the name server listens")
        own = f'mount --bind {folder}/resolv.conf /etc/resolv.conf && exec "$@"'
        peers.Postfix(
            self, address=MX, port=25, extra=MAIN,
            enter=[*host.enter, "unshare", "-m", "sh", "-c", own, "sh"],
        )  # fmt: skip
        made = self.imported()
        relay = self.relayd(
            "\n".join(made.pop(RULES)), host=host, address=MX, port=2525,
            settings=f"resolver {MX}:53\n", start=False,
        )  # fmt: skip
        (relay.config.parent / "tables").mkdir()
        for path, lines in made.items():
            if path.parent.name == "tables":
                (relay.config.parent / path).write_text("\n".join(lines) + "\n")
        relay.start()
        wait_until(lambda: client.call(lambda: greets((MX, 25))), "Postfix greets")
        for question in (*ASKED, *UNSAID):
            with self.subTest(question):
                theirs = client.call(lambda question=question: heard(25, *question))  # type: ignore[misc]
                ours = client.call(lambda question=question: heard(2525, *question))  # type: ignore[misc]
                self.assertEqual(theirs, question[-1])
                self.assertEqual(ours, 451 if question in UNSAID else theirs)
        wait_until(lambda: "list in the DNS" in relay.log(), "the list's trouble is told")

    def imported(self) -> dict[Path, list[str]]:
        """The files that the import makes of it."""
        folder = self.room("imported")
        (folder / "main.cf").write_text(MAIN)
        (folder / "master.cf").write_text("smtp inet n - y - - smtpd\n")
        return dict(settle(convert(folder, MACHINE)).files)


def heard(port: int, address: str, helo: str, sender: str, recipient: str, _: int) -> int:
    """The reply to RCPT."""
    with smtplib.SMTP(MX, port, timeout=60, source_address=(address, 0)) as session:
        session.ehlo(helo)
        session.mail(sender)
        return session.rcpt(recipient)[0]
