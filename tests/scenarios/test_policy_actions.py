"""A policy service's actions, each for a recipient of its own."""

from __future__ import annotations

import smtplib

from tests.scenarios.filterpeers import Policy
from tests.scenarios.harness import Scenario
from tests.sink import Sink

ACTIONS = {  # by local part: what it says, what the client hears, whether mail arrives
    "ok": ("OK", "250 2.1.5", True),
    "dunno": ("dunno whatever", "250 2.1.5", True),
    "reject": ("REJECT go away", "554 5.7.1 go away", False),
    "code": ("554 5.1.1 No such mailbox", "554 5.1.1 No such mailbox", False),
    "defer": ("DEFER later", "450 4.7.1 later", False),
    "permit": ("DEFER_IF_PERMIT 4.2.0 Greylisted", "450 4.2.0 Greylisted", False),
    "unlessrejected": ("DEFER_IF_REJECT later", "250 2.1.5", True),
    "warn": ("WARN look here", "250 2.1.5", True),
    "prepend": ("PREPEND X-Policy: one", "250 2.1.5", True),
    "badprepend": ("PREPEND no field at all", "451 4.7.1", False),
    "bcc": ("BCC copy@example.com", "250 2.1.5", True),
    "redirect": ("REDIRECT other@example.com", "250 2.1.5", False),
    "hold": ("HOLD suspicious", "250 2.1.5", False),
    "discard": ("DISCARD silently", "250 2.1.5", False),
    "filter": ("FILTER smtp:[127.0.0.1]:10025", "451 4.7.1", False),
    "unknown": ("FROBNICATE", "451 4.7.1", False),
}


class PolicyActions(Scenario):
    def test_each_does_what_it_says_to_its_recipient_alone(self) -> None:
        service = Policy(self, lambda asked: ACTIONS[asked["recipient"].partition("@")[0]][0])
        with Sink() as sink:
            relay = self.relayd(
                f"policy p {service.where}\nask p\naccept to @example.com\nroute any via out\n"
                f"next-hop out smtp 127.0.0.1:{sink.port}\n"
            )
            heard: dict[str, str] = {}
            arriving = 0
            with smtplib.SMTP(*relay.address, timeout=60) as client:
                client.ehlo("client.example")
                for name, (_, _, arrives) in ACTIONS.items():
                    client.mail("ann@example.org")
                    code, reply = client.rcpt(f"{name}@example.com")
                    heard[name] = f"{code} {reply.decode()}"
                    if code == 250:
                        self.assertEqual(client.data(b"Subject: x\r\n\r\nhi\r\n")[0], 250)
                        arriving += arrives
                    else:
                        client.rset()
            for name, (_, reply_begins, _) in ACTIONS.items():
                self.assertTrue(heard[name].startswith(reply_begins), (name, heard[name]))
            arrived = sink.wait(arriving + 1)
            got = {to.partition("@")[0]: each for each in arrived for to in each.recipients}
            wanted = {name for name, (_, _, arrives) in ACTIONS.items() if arrives}
            self.assertEqual(set(got), wanted | {"copy", "other"})
            self.assertIn(b"\r\nX-Policy: one\r\nSubject: x\r\n", got["prepend"].content)
            self.assertNotIn(b"X-Policy", got["ok"].content)
            self.assertIn("hold by p: suspicious", relay.ctl("queue").stdout)
            relay.logged('policy=p says="look here"')
