"""Nothing is relayed for strangers, however the address is written."""

from __future__ import annotations

import smtplib
import socket

from tests.scenarios.harness import Scenario
from tests.sink import Sink

OURS, VICTIM = "example.com", "victim.example"

# Everything here would reach somebody at victim.example, or at nobody-knows-where, if any part of
# relayd, or of the server behind it, read it otherwise than the rules did.
TRICKS: tuple[bytes, ...] = (
    b"<user@victim.example>",
    b"<user%victim.example@example.com>",
    b"<user%victim.example@[127.0.0.1]>",
    b"<user%victim.example>",
    b'<"user%victim.example"@example.com>',
    b'<"user@victim.example">',
    b'<"user@victim.example"@example.com>',
    b"<user@victim.example@example.com>",
    b"<user@example.com@victim.example>",
    b"<victim.example!user>",
    b"<victim.example!user@example.com>",
    b"<example.com!victim.example!user@example.com>",
    b"<@example.com:user@victim.example>",
    b"<@example.com,@victim.example:user@victim.example>",
    b"<@victim.example:user@example.com@victim.example>",
    b"<user@[198.51.100.7]>",
    b"<user@198.51.100.7>",
    b"<user@[IPv6:2001:db8::1]>",
    b"<user@[127.0.0.1]>",
    b"<user@localhost>",
    b"<user@>",
    b"<@victim.example>",
    b"<user@victim.example.>",
    b"<user@example.com.victim.example>",
    b"<user@victim.example example.com>",
    b"<user@victim.example\t@example.com>",
    b"<user@victim.example\0@example.com>",
    b"<user@victim.example\r@example.com>",
    b"<user@victim.example\n@example.com>",
    b'<"user@victim.example\\"@example.com>',
    b'<""user@victim.example""@example.com>',
    b'<"\\"user@victim.example\\" "@example.com>',
    b"<user@example.com> <user@victim.example>",
    b"<user@example.com>,<user@victim.example>",
    b"<user@example.com,user@victim.example>",
    b"<user@example.com>;user@victim.example",
    b"<<user@victim.example>@example.com>",
    b"user@victim.example",
    b"<user(@example.com)@victim.example>",
    b"<user@victim.example(example.com)>",
    "<user@victim.example\uff0eexample.com>".encode(),  # a full stop of another width
    "<user@example\u3002com@victim.example>".encode(),
    "<user\uff20victim.example@example.com>".encode(),
    "<user@ex\u0430mple.com>".encode(),  # a Cyrillic a
    "<user@victim.example\u2028@example.com>".encode(),
    "<user@victim.example\u00ad>".encode(),
    b"<user@victim.example\xff@example.com>",
    b"<user@xn--victim-.example>",
    b"<user@EXAMPLE.COM.VICTIM.EXAMPLE>",
    b"<root+:include:/etc/passwd@victim.example>",
    b'<"|/bin/sh"@victim.example>',
    b"<SRS0=HHHH=TT=victim.example=user@example.com>",
    b"<SRS1=HHHH=example.com==HHHH=TT=victim.example=user@example.com>",
    b"<postmaster@victim.example>",
    b"<>",
)
OUR_DOMAIN = b"@example.com"


class OpenRelay(Scenario):
    """A gateway for one domain; the sink is the mail store, and there is nothing else."""

    def setUp(self) -> None:
        super().setUp()
        self.sink = Sink()
        self.elsewhere = Sink()
        self.addCleanup(self.sink.stop)
        self.addCleanup(self.elsewhere.stop)
        self.relay = self.relayd(
            f"next-hop store smtp 127.0.0.1:{self.sink.port}\n"
            f"next-hop outside smtp 127.0.0.1:{self.elsewhere.port}\n"
            "subaddress +\n"
            "accept from 192.0.2.0/24\n"  # some inner network: the client is not in it
            "accept login any\n"
            f"accept to @{OURS}\n"
            f"route to @{OURS} via store\nroute any via outside\n",
        )

    def ask(self, address: bytes, sender: bytes, options: bytes) -> list[bytes]:
        """Try to send to this address; what the server said in all."""
        with socket.create_connection(("127.0.0.1", self.relay.port), 60) as connection:
            replies = connection.makefile("rb")
            said = [replies.readline()]

            def command(line: bytes) -> bytes:
                connection.sendall(line + b"\r\n")
                while (reply := replies.readline())[3:4] == b"-":
                    pass
                said.append(reply)
                return reply

            command(b"EHLO trick.example")
            command(b"MAIL FROM:" + sender + options)
            if command(b"RCPT TO:" + address).startswith(b"250"):
                command(b"DATA")
                command(b"Subject: relay test\r\n\r\n" + address.hex().encode() + b"\r\n.")
            return said

    def test_sixty_ways_to_write_it(self) -> None:
        senders = (b"<spam@spam.example>", b"<>", b"<user@example.com>", b"<root@localhost>")
        accepted = []
        for number, address in enumerate(TRICKS):
            utf8 = b" SMTPUTF8" if not address.isascii() else b""
            for options in {b"", utf8}:
                said = self.ask(address, senders[number % len(senders)], options)
                if said[3].startswith(b"250") if len(said) > 3 else False:
                    accepted.append(address)
        self.relay.wait_empty()
        self.assertEqual(self.elsewhere.arrived, [], "relayed!")
        for message in self.sink.arrived:
            [recipient] = message.recipients
            self.assertTrue(recipient.lower().endswith("@example.com"), recipient)
            # the mail store trusts us: it may read a route that strangers must not write
            self.assertNotRegex(recipient[: -len("@example.com")], "[%!@]")
        for address in accepted:
            self.assertIn(OUR_DOMAIN + b">", address.lower(), "accepted for another domain")

    def test_a_route_in_the_local_part_is_refused_with_words_that_say_so(self) -> None:
        no_routes = b"550 5.7.1 Relaying denied: no routes in the local part\r\n"
        for address in (
            b"<user%victim.example@example.com>",
            b"<victim.example!user@example.com>",
            b'<"user@victim.example"@example.com>',
            b"<@example.com,@victim.example:user%victim.example@example.com>",
        ):
            self.assertEqual(self.ask(address, b"<>", b"")[3], no_routes, address)
        asked = self.relay.ctl(
            "explain", "--from", "203.0.113.9", "user%victim.example@example.com", check=False
        )
        self.assertEqual(asked.returncode, 1)
        self.assertIn("only for clients we know", asked.stdout)

    def test_being_somebody_makes_no_difference(self) -> None:
        """A sender, a name in EHLO, or an XCLIENT of ours are only words."""
        with smtplib.SMTP("127.0.0.1", self.relay.port, timeout=60) as client:
            client.ehlo("[192.0.2.1]")
            for line in (
                "XCLIENT ADDR=192.0.2.1",
                "XFORWARD ADDR=192.0.2.1",
                "AUTH PLAIN AGFsaWNlAGFsaWNl",
                "PROXY TCP4 192.0.2.1 192.0.2.2 1 25",
                "SEND FROM:<user@example.com>",
                "TURN",
                "ETRN victim.example",
            ):
                self.assertGreaterEqual(client.docmd(line)[0], 500, line)
            client.mail("user@example.com")
            self.assertEqual(client.rcpt("user@victim.example")[0], 550)
        self.assertEqual(self.elsewhere.arrived, [])
