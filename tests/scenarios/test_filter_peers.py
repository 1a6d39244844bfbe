"""Those who are asked, as Debian ships them: hanging, cut off between messages, and dead."""

from __future__ import annotations

import smtplib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from tests.scenarios.filterdaemons import (
    ClamavMilter,
    Clamd,
    Opendkim,
    Opendmarc,
    PolicydSpf,
    Postgrey,
    PymilterDaemon,
    RspamdDaemon,
)
from tests.scenarios.filterpeers import answer_to
from tests.scenarios.harness import Scenario, patience, wait_until
from tests.sink import Sink

LETTER = b"From: ann@example.org\r\nDate: Mon, 5 Jan 2026 10:00:00 +0000\r\nSubject: x\r\n\r\nx\r\n"
WORDS = {"accept": 250, "defer": 451, "reject": 550, "hold": 250}


class _MiltersClamd(Clamd):
    name = "clamd-of-the-milter"


class RealFaults(Scenario):
    needs = ("opendkim", "clamav", "rspamd", "opendmarc", "postgrey", "policyd-spf", "socat",
             "pymilter")  # fmt: skip

    def test_the_failure_word_counts_and_what_comes_back_is_asked_again(self) -> None:
        rspamd = RspamdDaemon(self)
        clamd = Clamd(self)
        filters = {
            "opendkim": ("milter", Opendkim(self)),
            "clamav-milter": ("milter", ClamavMilter(self, _MiltersClamd(self))),
            "rspamd-milter": ("milter", rspamd),
            "opendmarc": ("milter", Opendmarc(self)),
            "pymilter": ("milter", PymilterDaemon(self)),
            "clamd": ("clamd", clamd),
            "postgrey": ("policy", Postgrey(self)),
            "policyd-spf": ("policy", PolicydSpf(self)),
            "rspamd": ("rspamd", rspamd),
        }
        daemons = [*dict.fromkeys(daemon for _, daemon in filters.values())]
        rules, limit = "", round(patience(3))
        self.words = dict[str, str]()
        for name, (kind, daemon) in filters.items():
            where = rspamd.url if kind == "rspamd" else daemon.where
            for word in WORDS:
                self.words[f"{name}-{word}"] = word
                rules += f"{kind} {name}-{word} {where} on failure {word} timeout {limit}s\n"
                rules += f"ask {name}-{word} to {name}-{word}@example.com\n"
        rules += "accept to @example.com\nroute any via out\nnext-hop out smtp 127.0.0.1:{}\n"
        with Sink() as sink, ThreadPoolExecutor(len(self.words)) as self.clients:
            relay = self.relayd(rules.format(sink.port), settings="sessions-per-client 500\n")
            self.taken = 0
            # who greylists has to see them twice
            wait_until(lambda: set(self.all_said(relay.address).values()) == {250}, "all are taken")
            for daemon in daemons:
                daemon.hang()
            self.failing(self.all_said(relay.address))
            for daemon in daemons:
                daemon.go_on()
            self.asked(self.all_said(relay.address))
            between = {name: smtplib.SMTP(*relay.address, timeout=60) for name in self.words}
            self.asked(self.all_said(between))
            for daemon in daemons:  # what was connected is cut off
                daemon.stop()
                daemon.start()
            self.asked(self.all_said(between))
            for each in between.values():
                each.close()
            self.asked(self.all_said(relay.address))
            for daemon in daemons:
                daemon.stop()
            self.failing(self.all_said(relay.address))
            held = sum(word == "hold" for word in self.words.values()) * 2
            wait_until(lambda: len(sink.arrived) >= self.taken - held, "what was taken arrives")
            self.assertEqual(len(sink.arrived), self.taken - held)
            self.assertEqual(relay.ctl("queue").stdout.count(" held "), held)
            self.assertNotIn("unhandled", relay.log(9000))
            self.assertNotIn("session failed", relay.log(9000))

    def all_said(self, at: tuple[str, int] | Mapping[str, smtplib.SMTP]) -> dict[str, int]:
        """The code of the first reply that refuses, or of the last, to a message to each filter."""

        def said(name: str) -> int:
            if isinstance(at, tuple):
                with smtplib.SMTP(*at, timeout=60) as client:
                    return self.said(client, name)
            return self.said(at[name], name)

        codes = dict(zip(self.words, self.clients.map(said, self.words), strict=True))
        self.taken += sum(code == 250 for code in codes.values())
        return codes

    def said(self, client: smtplib.SMTP, name: str) -> int:
        client.ehlo_or_helo_if_needed()
        code, _ = answer_to(client, f"{name}@example.com", LETTER)
        if code != 250:
            client.rset()
        return code

    def asked(self, codes: Mapping[str, int]) -> None:
        """All of them, and they have nothing against it."""
        self.assertEqual(codes, dict.fromkeys(self.words, 250))

    def failing(self, codes: Mapping[str, int]) -> None:
        """None of them can say."""
        self.assertEqual(codes, {name: WORDS[word] for name, word in self.words.items()})
