"""What others know of clients and senders, in a whole relayd with a real name server."""

from __future__ import annotations

import json
import re
import time

from tests.ports import free_port
from tests.scenarios.harness import Relayd, owner, program, unhurried, wait_until
from tests.scenarios.test_names import Names

ZONE = """\
9.100.51.198.zen.test. A 127.0.0.2
10.100.51.198.zen.test. A 127.0.0.10
10.100.51.198.friends.test. A 127.0.10.2
11.100.51.198.zen.test. A 127.255.255.254
7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.zen.test. A 127.0.0.4
sender.example. TXT "v=spf1 ip4:192.0.2.0/24 include:more.example -all"
more.example. TXT "v=spf1 a:mail.example ~all"
mail.example. A 203.0.113.5
"""
RULES = """\
dnsbl   zen zen.test
dnswl   friends friends.test
reject  when listed zen and not listed friends 550 5.7.1 "Your address is on a block list"
reject  to @example.com when spf fail 550 5.7.23 "Not for this domain"
accept  to @example.com
expect  to info@example.com when listed zen -> reject 550
"""


class Decisions(Names):
    records = ZONE

    def decided(self, relay: Relayd, address: str, sender: str = "ann@sender.example") -> str:
        """The reply to RCPT for a client of this address."""
        with relay.session() as client:
            client.ehlo("client.example")
            self.assertEqual(client.docmd("XCLIENT", f"ADDR={address}")[0], 220)
            client.ehlo("client.example")
            client.mail(sender)
            code, text = client.rcpt("bob@example.com")
            return f"{code} {text.decode().split()[0]}"


class LookUps(Decisions):
    def told_once(self, relay: Relayd) -> None:
        """That a list will not say, without the zone's name."""
        wait_until(lambda: "list in the DNS" in relay.log(), "the list's trouble is told")
        (told,) = (line for line in relay.log().splitlines() if "list in the DNS" in line)
        self.assertIn("list=zen", told)
        self.assertNotIn("zen.test", told)

    def test_lists_and_spf_decide(self) -> None:
        dns = self.zone()
        for workers in (1, 2):
            relay, _ = self.gateway(dns, RULES, workers)
            for address, sender, reply in (
                ("192.0.2.7", "ann@sender.example", "250 2.1.5"),
                ("203.0.113.5", "ann@sender.example", "250 2.1.5"),
                ("203.0.113.6", "ann@sender.example", "550 5.7.23"),
                ("203.0.113.6", "ann@none.example", "250 2.1.5"),
                ("198.51.100.9", "ann@none.example", "550 5.7.1"),
                ("198.51.100.10", "ann@none.example", "250 2.1.5"),
                ("198.51.100.11", "ann@none.example", "250 2.1.5"),  # the list will not say
                ("IPV6:2001:db8::7", "ann@none.example", "550 5.7.1"),
            ):
                with self.subTest(address, workers=workers):
                    self.assertEqual(self.decided(relay, address, sender), reply)
            self.told_once(relay)

    def test_rules_that_begin_to_ask_are_in_force_at_once(self) -> None:
        relay, _ = self.gateway(self.zone(), "accept to @example.com")
        self.assertEqual(self.decided(relay, "198.51.100.9"), "250 2.1.5")
        text = relay.config.read_text()
        relay.config.write_text(text.replace("accept to @example.com", RULES))
        relay.ctl("reload")
        self.assertEqual(self.decided(relay, "198.51.100.9"), "550 5.7.1")

    def test_explain_asks_and_says_what_it_heard(self) -> None:
        relay, _ = self.gateway(self.zone(), RULES)
        words = ("--sender", "ann@sender.example", "bob@example.com")
        asked = relay.ctl("explain", "--json", "--from", "198.51.100.9", *words, check=False)
        answer = json.loads(asked.stdout)
        self.assertEqual(answer["reply"][:9], "550 5.7.1")
        told = sorted(each["value"] for each in answer["facts"])
        self.assertEqual(told, ["listed zen", "not listed friends", "spf fail"])
        fact = "not listed zen and spf pass"
        given = relay.ctl("explain", "--with", fact, *words, check=False).stdout
        self.assertIn("not listed zen", given)
        self.assertIn("(given)", given)

    def test_a_silent_name_server_holds_nobody_for_long(self) -> None:
        relay, _ = self.gateway(self.silent(), RULES)
        began = time.monotonic()
        self.assertEqual(self.decided(relay, "198.51.100.9", "ann@none.example"), "250 2.1.5")
        self.assertLess(unhurried(began), 25)


KEY = "k3y0123456789abcdefghijklm"
LISTED = """\
:127.0.0.2:Listed
198.51.100.9
198.51.100.11 :127.255.255.252:Typing error
198.51.100.12 :127.255.255.254:Public resolver
198.51.100.13 :127.255.255.255:Too many queries
198.51.100.14 :127.0.1.255:No such zone
"""
LISTED_SIX = """\
:127.0.0.3:Listed
2001:db8::/64
"""
KEYED = f"""\
dnsbl   zen {KEY}.zen.test
dnsbl   any {KEY}.zen.test 127.0.0.0/8
dnsbl   six {KEY}.six.test
reject  when listed zen 550 5.7.1 "Your address is on a block list"
reject  when listed any 550 5.7.2 "Your address is on a block list"
reject  when listed six 550 5.7.3 "Your address is on a block list"
accept  to @example.com
"""


class RbldnsdTests(Decisions):
    """A real list: Debian's rbldnsd, asked by a name with a key in it."""

    needs = ("rbldnsd",)

    def zone(self) -> int:
        folder, port = self.room("rbldnsd"), free_port()
        folder.chmod(0o755)
        for name, text in (("four", LISTED), ("six", LISTED_SIX)):
            (folder / name).write_text(text)
        served = self.launch(
            [
                *(program("rbldnsd"), "-n", "-u", ":".join(map(str, owner("nobody")))),
                *("-w", str(folder), "-b", f"127.0.0.1/{port}"),
                *(f"{KEY}.zen.test:ip4set:four", f"{KEY}.six.test:ip6trie:six"),
            ],
            "rbldnsd",
        )
        wait_until(lambda: "started" in served.log(), "rbldnsd listens")
        return port

    def test_its_error_codes_list_nobody_and_its_key_is_shown_nowhere(self) -> None:
        relay, sink = self.gateway(self.zone(), KEYED)
        for address, reply in (
            ("198.51.100.9", "550 5.7.1"),
            ("198.51.100.10", "250 2.1.5"),
            *((f"198.51.100.{last}", "250 2.1.5") for last in (11, 12, 13, 14)),
            ("IPV6:2001:db8::7", "550 5.7.3"),
            ("IPV6:2001:db9::7", "250 2.1.5"),
        ):
            with self.subTest(address):
                self.assertEqual(self.decided(relay, address), reply)
        with relay.session() as client:
            client.sendmail("ann@sender.example", ["bob@example.com"], "Subject: x\r\n\r\nx\r\n")
        taken = sink.wait(1)[0]
        relay.logged("list in the DNS")
        (ident,) = re.findall(r" accepted id=(\w+)", relay.logged(" accepted id="))
        commands = [
            *(["status"], ["status", "--json"], ["queue"], ["check"], ["filters"], ["limits"]),
            *(["why", ident], ["why", "bob@example.com"], ["show", ident]),
            ["explain", "--from", "198.51.100.9", "bob@example.com"],
            ["explain", "--json", "--from", "198.51.100.11", "bob@example.com"],
        ]
        told = [relay.ctl(*words, check=False) for words in commands]
        rules = relay.config.read_text().replace("six.test", "six.test 127.0.0.999")
        relay.config.write_text(rules)  # a mistake, on the very line
        told += [relay.ctl(*words, check=False) for words in (["check"], ["reload"], ["status"])]
        wait_until(lambda: "reload refused" in relay.log(), "the complaint")
        for each in told:
            self.assertNotIn(KEY, each.stdout + each.stderr)
        self.assertIn("127.0.0.999", told[-3].stdout + told[-3].stderr)
        self.assertNotIn(KEY, relay.log(5000))
        self.assertNotIn(KEY.encode(), taken.content)
        journal = [*relay.folder.rglob("*")]
        kept = [
            each
            for each in journal
            if each.is_file() and KEY.encode() in each.read_bytes() and each != relay.config
        ]
        self.assertEqual([str(each) for each in kept if "last-good" not in str(each)], [])


class Resolving(Decisions):
    records = ZONE + "null.example. MX 0 .\nreceives.example. MX 10 mail.example.\n"

    def test_senders_to_whom_no_answer_could_go_are_put_off(self) -> None:
        rules = 'reject when not resolves sender 450 4.1.8 "Domain not found"\n'
        dns = self.zone()
        relay, _ = self.gateway(dns, f"{rules}accept to @example.com\n", 2)
        for sender, reply in (
            ("ann@receives.example", "250 2.1.5"),
            ("ann@mail.example", "250 2.1.5"),
            ("ann@null.example", "450 4.1.8"),
            ("ann@sender.example", "450 4.1.8"),
            ("", "250 2.1.5"),
        ):
            self.assertEqual(self.decided(relay, "192.0.2.7", sender), reply, sender)
        told = relay.ctl("explain", "--sender", "ann@null.example", "bob@example.com", check=False)
        self.assertIn("not resolves sender", told.stdout)
        relay.kill()
        silent, _ = self.gateway(free_port(), rules + "accept to @example.com\n", 1)
        self.assertEqual(self.decided(silent, "192.0.2.7", "ann@receives.example")[:3], "451")
