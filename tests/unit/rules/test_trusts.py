"""Who is no stranger: who has logged in, or whom a rule that accepts names."""

from __future__ import annotations

import unittest

from relayd.mail.client import Client
from tests.unit.rules.sample import rules

CLIENT = Client("192.0.2.7", listener="192.0.2.1:2525", certificate="aa:bb")


class TrustsTests(unittest.TestCase):
    def check(self, text: str, expected: bool, client: Client = CLIENT) -> None:
        self.assertIs(rules(text).trusts(client), expected, text)

    def test_by_address(self) -> None:
        self.check("accept from 192.0.2.0/24", True)
        self.check("accept from 192.0.2.7 to @example.com", True)
        self.check("accept from 192.0.2.8", False)
        self.check("table inside { 192.0.2.7 }\naccept from <inside>", True)
        self.check("table inside { 192.0.2.8 }\naccept from <inside>", False)
        self.check("accept from 2001:db8::/32", True, Client("2001:db8::7"))

    def test_not_by_what_everybody_is(self) -> None:
        for text in (
            "accept to @example.com",
            "accept from any to @example.com",
            "accept from 0.0.0.0/0, ::/0 to @example.com",
            "accept to @example.com when not from 192.0.2.66",
            "accept listener 127.0.0.1:2525 to @example.com",
            "hold from 192.0.2.7",
            "reject from 192.0.2.7",
            "",
        ):
            self.check(text, False)

    def test_every_condition_on_the_client_counts(self) -> None:
        self.check("accept from 192.0.2.7 when tls", False)
        self.check("accept from 192.0.2.7 when tls", True, CLIENT.with_(tls="TLSv1.3"))
        self.check("accept from 192.0.2.7 listener 127.0.0.1:2525", False)

    def test_by_login(self) -> None:
        self.check("", True, CLIENT.with_(login="bob"))
