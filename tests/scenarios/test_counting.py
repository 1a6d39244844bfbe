"""Limits and greylisting over several workers, in a whole relayd that is killed and comes back."""

from __future__ import annotations

import json
import smtplib
import threading
import time
from collections import Counter

from tests.scenarios.filterpeers import Policy
from tests.scenarios.harness import Relayd, wait_until
from tests.scenarios.test_names import Names

ZONE = """\
sender.example. TXT "v=spf1 ip4:192.0.2.0/24 ip4:203.0.113.0/24 -all"
"""
LIMITS = """\
limit   hourly 100/1h per sender-domain
limit   letters 3/1h messages per client
hold    to held@example.com when over letters "more than 3 an hour"
defer   when over hourly "Slow down, please"
accept  to @example.com
expect  to info@example.com when over hourly -> defer
expect  to held@example.com when over letters -> hold
"""
THREE = """\
limit   each 30/1h per sender
limit   net 160/1h per client
limit   domain 152/1h per sender-domain
defer   when over each
defer   when over net
defer   when over domain
accept  to @example.com
"""
GREY = """\
defer   to @example.com when first-seen 2s
accept  to @example.com
expect  to info@example.com when first-seen 2s -> defer
expect  to info@example.com -> info@example.com
"""
SLOW_DOWN = "451 4.7.1"


class Counting(Names):
    records = ZONE

    def taken(self, relay: Relayd, count: int, domain: str = "a.example") -> int:
        """How many of so many messages are taken, one recipient each, over one session."""
        taken = 0
        with relay.session() as client:
            for _ in range(count):
                try:
                    client.sendmail(
                        f"ann@{domain}", ["info@example.com"], b"Subject: x\r\n\r\nx\r\n"
                    )
                    taken += 1
                except smtplib.SMTPRecipientsRefused as refused:
                    ((code, _),) = refused.recipients.values()
                    self.assertEqual(code, 451)
        return taken

    def side_by_side(self, relay: Relayd, sessions: int, each: int) -> int:
        """The same over so many sessions at a time."""
        counts: list[int] = []
        threads = [
            threading.Thread(target=lambda: counts.append(self.taken(relay, each)))
            for _ in range(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.assertEqual(len(counts), sessions)
        return sum(counts)

    def reply(self, relay: Relayd, address: str, sender: str, to: str = "bob@example.com") -> str:
        """To RCPT, for a client of this address."""
        with relay.session() as client:
            client.ehlo("client.example")
            self.assertEqual(client.docmd("XCLIENT", f"ADDR={address}")[0], 220)
            client.ehlo("client.example")
            client.mail(sender)
            code, text = client.rcpt(to)
            return f"{code} {text.decode().split()[0]}"


class LimitScenarios(Counting):
    def test_four_workers_take_what_one_limit_allows_and_no_kill_forgets_it(self) -> None:
        relay, _ = self.gateway(self.zone(), LIMITS, 4)
        taken = self.side_by_side(relay, 8, 25)
        self.assertLessEqual(taken, 100)
        self.assertGreaterEqual(taken, 98)
        taken += self.taken(relay, 3)
        self.assertEqual(taken, 100)
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone")
        relay.start()
        self.assertEqual(self.taken(relay, 3), 0)
        self.assertEqual(self.taken(relay, 3, "b.example"), 3)
        relay.ctl("reload")
        self.assertEqual(self.taken(relay, 1), 0)
        self.told(relay)

    def told(self, relay: Relayd) -> None:
        """By relayctl: who is near, and that one is counted anew."""
        (hourly,) = json.loads(relay.ctl("limits", "hourly", "--json").stdout)["limits"]
        self.assertEqual(hourly["near"], [{"key": "a.example", "count": 100, "over": True}])
        self.assertIn("a.example  100  OVER", relay.ctl("limits").stdout)
        words = ("--sender", "x@a.example", "info@example.com")
        asked = relay.ctl("explain", *words, check=False).stdout
        self.assertIn("over hourly", asked)
        self.assertIn(SLOW_DOWN, asked)
        forgotten = relay.ctl("limits", "--forget", "A.example").stdout
        self.assertIn("forgotten by hourly", forgotten)
        self.assertEqual(relay.ctl("limits", "--forget", "a.example", check=False).returncode, 1)
        wrong = relay.ctl("limits", "hurly", check=False)
        self.assertIn('did you mean "hourly"?', wrong.stderr)
        self.assertEqual(self.taken(relay, 2), 2)

    def test_four_workers_keep_to_three_limits_at_once(self) -> None:
        """Who is refused for one of them counts against none; an IPv6 /64 is one client."""
        relay, _ = self.gateway(self.zone(), THREE, 4)
        taken: Counter[str] = Counter()
        refused: Counter[str] = Counter()

        def session(number: int) -> None:
            with relay.session() as client:
                client.ehlo("client.example")
                client.docmd("XCLIENT", f"ADDR=IPV6:2001:db8::{number + 1}")
                client.ehlo("client.example")
                for turn in range(50):
                    sender = f"s{(number + turn) % 5}@a.example"
                    client.mail(sender)
                    code, _ = client.rcpt(f"bob{number}.{turn}@example.com")
                    if code == 250:
                        code, _ = client.data(b"Subject: x\r\n\r\nx\r\n")
                        taken[sender] += 1
                    else:
                        refused[sender] += 1
                        client.rset()

        threads = [threading.Thread(target=session, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.assertEqual(sum(taken.values()) + sum(refused.values()), 400)
        self.assertLessEqual(max(taken.values()), 30)
        self.assertGreaterEqual(min(taken.values()), 29, taken)
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone")
        relay.start()
        # 150 of 160 for the client, and of 152 for the domain
        said = []
        for number in range(12):
            with relay.session() as client:
                client.ehlo("client.example")
                client.docmd("XCLIENT", f"ADDR=IPV6:2001:db8::{number + 99}")
                client.ehlo("client.example")
                client.mail(f"t{number}@a.example")
                said.append(client.rcpt("bob@example.com")[0])
                if said[-1] == 250:
                    client.data(b"Subject: x\r\n\r\nx\r\n")
        limits = json.loads(relay.ctl("limits", "domain", "--json").stdout)["limits"]
        self.assertEqual(limits[0]["near"], [{"key": "a.example", "count": 152, "over": True}])
        self.assertEqual(said, [250] * 2 + [451] * 10)

    def test_two_workers_hold_the_message_that_is_one_too_many(self) -> None:
        relay, _ = self.gateway(self.zone(), LIMITS, 2)
        for _ in range(4):
            relay.send("ann@c.example", ["held@example.com", "info@example.com"], b"\r\nx\r\n")
        held = relay.queue("--state", "held")
        self.assertEqual([each["recipients"][0]["mailbox"] for each in held], ["held@example.com"])
        ident = held[0]["id"]
        self.assertIn("over letters", relay.ctl("why", ident).stdout)
        told = relay.ctl("held").stdout
        self.assertIn("<held@example.com>  450 4.7.0 Held by rule", told)
        self.assertIn("\n    over letters\n", told)
        self.assertIn("1 recipient released", relay.ctl("held", "release", ident).stdout)
        relay.wait_empty()
        relay.send("ann@c.example", ["held@example.com"], b"\r\nx\r\n")
        (again,) = relay.queue("--state", "held")
        self.assertIn("1 recipient discarded", relay.ctl("held", "discard", again["id"]).stdout)
        self.assertIn("Nothing is held.", relay.ctl("held").stdout)

    def test_whom_a_policy_service_refuses_is_not_counted(self) -> None:
        policy = Policy(
            self, answer=lambda asked: "REJECT" if "no@" in asked["recipient"] else "DUNNO"
        )
        rules = f"policy p {policy.where}\nask p to @example.com\n{LIMITS}".replace(
            "100/1h", "2/1h"
        )
        relay, _ = self.gateway(self.zone(), rules)
        for to, expected in (("no", "554"), ("no", "554"), ("info", "250"), ("bob", "250")):
            said = self.reply(relay, "192.0.2.7", "ann@a.example", f"{to}@example.com")
            self.assertEqual(said[:3], expected)
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail("ann@b.example")
            said_in_turn = [client.rcpt(f"{to}@example.com")[0] for to in ("a", "no", "b", "c")]
            self.assertEqual(said_in_turn, [250, 554, 250, 451])


class Greylisting(Counting):
    def test_who_comes_back_passes_also_after_a_kill_and_from_elsewhere(self) -> None:
        relay, _ = self.gateway(self.zone(), GREY, 2)
        cloud, other = "ann@sender.example", "ann@other.example"
        for address, sender in (("192.0.2.7", cloud), ("198.51.100.7", other)):
            self.assertEqual(self.reply(relay, address, sender), SLOW_DOWN)
        explained = relay.ctl(
            *("explain", "--from", "192.0.2.7", "--sender", cloud, "bob@example.com"), check=False
        ).stdout
        self.assertIn("first-seen 2s", explained)
        self.assertIn("spf pass", explained)
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone")
        relay.start()
        time.sleep(2)
        # SPF vouches for the domain: it is the same one from another network
        self.assertEqual(self.reply(relay, "203.0.113.99", cloud), "250 2.1.5")
        self.assertEqual(self.reply(relay, "198.51.100.200", other), "250 2.1.5")
        self.assertEqual(
            self.reply(relay, "192.0.2.8", "b@sender.example", "carl@example.com"), "250 2.1.5"
        )
        self.assertEqual(self.reply(relay, "198.51.100.7", "b@new.example"), "250 2.1.5")
        self.assertEqual(self.reply(relay, "198.18.0.7", other), SLOW_DOWN)
