"""What milters and policy services are told is what Postfix tells them of the same session."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable

from tests.scenarios.filterpeers import Heard, Milter, Packet, Policy
from tests.scenarios.harness import Scenario
from tests.scenarios.peers import Postfix
from tests.sink import Sink

RULES = "accept to @example.com\nroute any via out\nnext-hop out smtp 127.0.0.1:{}\n"
LETTER = (
    b"Subject:  two blanks\r\nTo: a,\r\n\tb\r\nX-None:none\r\nX-Empty:\r\n\r\nbody\r\n..dot\r\n"
)
Talk = Callable[[smtplib.SMTP], None]


def one_message(client: smtplib.SMTP) -> None:
    client.ehlo("client.example")
    client.mail("ann@example.org", ["SIZE=1000", "BODY=8BITMIME"])
    client.rcpt("bob@example.com")
    client.rcpt('"odd local"@example.com')
    client.data(LETTER)
    client.quit()


def several(client: smtplib.SMTP) -> None:
    client.helo("old.example")
    client.mail("")
    client.rcpt("bob@example.com")
    client.rset()
    client.mail("ann@example.org")
    client.rcpt("bob@example.com")
    client.data(LETTER)
    client.mail("eve@example.org")
    client.rcpt("nobody@elsewhere.example")
    client.rcpt("bob@example.com")
    client.data(LETTER)
    client.quit()


class FilterWords(Scenario):
    maxDiff = None
    needs = ("postfix",)

    def both(
        self, talk: Talk, steps: int = 0
    ) -> tuple[tuple[Heard, list[str]], tuple[Heard, list[str]]]:
        """What a milter and a policy service hear of it from relayd, and from Postfix."""
        heard = []
        with Sink() as sink:
            for relay in ("relayd", "postfix"):
                milter, policy = Milter(self, steps=steps), Policy(self, lambda asked: "DUNNO")
                if relay == "relayd":
                    rules = RULES.format(sink.port)
                    rules += f"milter m {milter.where}\npolicy p {policy.where}\nask p\nask m\n"
                    port = self.relayd(rules, name=f"relayd-{talk.__name__}").port
                else:
                    port = Postfix(
                        self,
                        f"postfix-{talk.__name__.replace('_', '-')}",
                        relayhost=f"[127.0.0.1]:{sink.port}",
                        extra="local_header_rewrite_clients =\n"
                        f"smtpd_milters = inet:{milter.where}\n"
                        "smtpd_relay_restrictions = permit_auth_destination, reject\n"
                        "relay_domains = example.com\nsmtpd_recipient_restrictions = "
                        f"reject_unauth_destination, check_policy_service inet:{policy.where}\n",
                    ).port
                probes = len(milter.heard)
                client = smtplib.SMTP("127.0.0.1", port, timeout=60)
                talk(client)
                client.close()
                heard.append((milter.heard[probes], policy.requests))
        return heard[0], heard[1]

    def test_a_milter_is_told_the_same(self) -> None:
        for talk in (one_message, several):
            (ours, _), (theirs, _) = self.both(talk)
            with self.subTest(talk.__name__):
                self.assertEqual(ours.offered, theirs.offered)
                self.assertEqual(_plain(ours), _plain(theirs))
                here, there = _macros(ours), _macros(theirs)
                self.assertEqual({**there, **here}.keys(), here.keys())
                for name, values in there.items():
                    self.assertEqual(here[name], values, name)

    def test_who_wants_to_hear_of_refused_recipients_does(self) -> None:
        (ours, _), (theirs, _) = self.both(several, 0x800)
        self.assertEqual(_plain(ours), _plain(theirs))
        self.assertIn((b"R", b"<nobody@elsewhere.example>\0"), ours.events)
        for heard in (ours, theirs):
            errors = [each for _, each in heard.macros if each.get("{rcpt_mailer}") == "error"]
            self.assertEqual([each["{rcpt_host}"] for each in errors], ["5.7.1"])

    def test_a_policy_service_is_asked_the_same(self) -> None:
        for talk in (one_message, several):
            (_, ours), (_, theirs) = self.both(talk)
            with self.subTest(talk.__name__):
                self.assertEqual([*map(_neutral, ours)], [*map(_neutral, theirs)])
                marks = [re.findall("^instance=(.*)$", each, re.MULTILINE)[0] for each in ours]
                theirs_too = [re.findall("^instance=(.*)$", each, re.M)[0] for each in theirs]
                same = lambda marks: [one == marks[0] for one in marks]  # noqa: E731
                self.assertEqual(same(marks), same(theirs_too))


def _plain(heard: Heard) -> list[Packet]:
    """Without ports, and with one abort for several: they say the same."""
    plain: list[Packet] = []
    for letter, data in heard.events:
        if letter == b"C":
            data = re.sub(rb"(\x004)..", rb"\1", data, flags=re.DOTALL)
        if letter != b"A" or plain[-1][0] != b"A":
            plain.append((letter, data))
    while plain and plain[-1][0] in b"AQ":
        plain.pop()
    return plain


_THEIR_OWN = ("i", "j", "v", "{daemon_name}", "{mail_host}", "{rcpt_host}", "{rcpt_mailer}")


def _macros(heard: Heard) -> dict[str, list[str]]:
    """By event and name, those that tell of the client."""
    found: dict[str, list[str]] = {}
    for letter, macros in heard.macros:
        for name, value in macros.items():
            if letter not in b"LB" and not (letter == b"R" and name == "i"):
                shown = "" if name in _THEIR_OWN else value
                found.setdefault(f"{letter.decode()} {name}", []).append(shown)
    return found


def _neutral(request: str) -> str:
    """Without what no two servers share, and what Postfix says of itself from 3.8 on."""
    kept = [line for line in request.split("\n") if not line.startswith(_LATER)]
    return re.sub(
        "^(client_port|server_port|queue_id|instance)=.*$",
        r"\1=",
        "\n".join(kept),
        flags=re.MULTILINE,
    )


_LATER = ("compatibility_level=", "mail_version=")
