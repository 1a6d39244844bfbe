"""Filters and clients who log in: what they are told of the login, and what is made clean."""

from __future__ import annotations

from tests.scenarios.filterpeers import Milter, Policy, add, body
from tests.scenarios.test_login import ALICE, LETTER, PASSWORD, Site


class FilterLogins(Site):
    def table(self) -> str:
        self.milter = Milter(
            self,
            edits=lambda fields, content: [
                add("X-Login", "a\rb\ncd"),
                body(b"bare\rone\nand\0nul\r\n.\r\n"),
            ],
        )
        self.policy = Policy(self, lambda asked: "PREPEND X-Policy: seen")
        return (
            f"{super().table()}\nmilter m {self.milter.where}\npolicy p {self.policy.where}\n"
            "ask m login any\nask p login any"
        )

    def test_who_logs_in_is_shown_from_then_on_and_no_bare_octets_get_in(self) -> None:
        before = len(self.milter.heard)
        client = self.client()
        client.starttls(context=self.context())
        client.ehlo("client.example")
        self.assertEqual(len(self.milter.heard), before)  # nobody has logged in
        client.login(ALICE, PASSWORD)
        client.sendmail(ALICE, ["bob@example.org"], LETTER)
        (heard,) = self.milter.heard[before:]
        self.assertEqual([letter for letter, _ in heard.events][:5], [b"O", b"C", b"H", b"M", b"R"])
        macros = {name: value for _, each in heard.macros for name, value in each.items()}
        self.assertEqual(macros["{auth_authen}"], ALICE)
        self.assertRegex(macros["{auth_type}"], "^(PLAIN|SCRAM-|LOGIN|CRAM)")
        self.assertTrue(macros["{tls_version}"].startswith("TLSv1."))
        (asked,) = self.policy.requests
        self.assertIn(f"\nsasl_method={macros['{auth_type}']}\nsasl_username={ALICE}\n", asked)
        self.assertIn(f"\nencryption_protocol={macros['{tls_version}']}\n", asked)
        (arrived,) = self.sink.wait(1)
        content = arrived.content
        rest = content.replace(b"\r\n", b"")
        self.assertFalse(b"\r" in rest or b"\n" in rest or b"\0" in rest, content)
        self.assertIn(b"\r\nX-Policy: seen\r\n", content)
        self.assertIn(b"\r\nX-Login: a\r\n\tb\r\n\tcd\r\n", content)
        self.assertIn(b"From: alice@example.com\r\n", content)  # completed before it was shown
