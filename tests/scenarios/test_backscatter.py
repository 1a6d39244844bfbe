"""A dictionary attack with forged senders: few reports, one digest, and those who are known."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import threading
import time
from collections import Counter

from tests.scenarios.harness import Relayd, wait_until
from tests.scenarios.test_names import Names
from tests.sink import Arrived, Asked, Sink

# RELAYD_FORGED=100000 makes the attack as long as it can be
FORGED = int(os.environ.get("RELAYD_FORGED", "400"))
CLIENTS = 4  # at a time
ATTACK = b"From: %s\r\nTo: you@example.com\r\nSubject: buy\r\n\r\nbuy\r\n"
ZONE = """\
passes.example. TXT "v=spf1 ip4:192.0.2.9 -all"
fails.example. TXT "v=spf1 ip4:192.0.2.9 -all"
"""
RULES = """\
next-hop back smtp 127.0.0.1:{back}
next-hop out smtp 127.0.0.1:{out}
next-hop boss smtp 127.0.0.1:{boss}
accept to @example.com
accept from 198.51.100.0/24
forward postmaster@gw.example.com -> boss@corp.example
route to @corp.example via boss
route to @example.com via out
route any via back
"""
INSIDE, VOUCHED, EVIL = "198.51.100.1", "192.0.2.9", "203.0.113.66"


def refuse(asked: Asked) -> str | None:
    if asked.stage == "rcpt":
        return f"550 5.1.1 <{asked.argument.split()[0].strip('<>')}> unknown here"
    return None


class BackscatterCase(Names):
    records = ZONE

    def world(
        self, workers: int = 1, settings: str = "", rules: str = RULES, *, start: bool = True
    ) -> Relayd:
        self.out, self.back, self.boss = Sink(refuse), Sink(), Sink()
        for sink in (self.out, self.back, self.boss):
            self.addCleanup(sink.stop)
        relay = self.relayd(
            rules.format(back=self.back.port, out=self.out.port, boss=self.boss.port),
            name=f"relayd-{workers}",
            settings=f"resolver 127.0.0.1:{self.zone()}\nsessions-per-client 0\n{settings}",
            start=False,
        )
        text = relay.config.read_text()
        text = re.sub(r"^workers .*$", f"workers {workers}", text, flags=re.MULTILINE)
        text = re.sub(r"^listen .*$", r"\g<0> xclient 127.0.0.0/8", text, flags=re.MULTILINE)
        relay.config.write_text(text)
        return relay.start() if start else relay

    def client(self, relay: Relayd, address: str, helo: str = "client.example") -> smtplib.SMTP:
        client = smtplib.SMTP(*relay.address, timeout=60)
        client.ehlo()
        self.assertEqual(client.docmd("XCLIENT", f"ADDR={address}")[0], 220)
        client.ehlo(helo)
        return client

    def attack(self, relay: Relayd, count: int, start: int = 0, address: str = EVIL) -> None:
        """Each with a sender of its own, to a mailbox that is not there."""

        def one(first: int) -> None:
            with self.client(relay, address, "evil.example") as client:
                for number in range(first, start + count, CLIENTS):
                    sender = f"victim{number}@fails.example"
                    client.sendmail(sender, f"guess{number}@example.com", ATTACK % sender.encode())

        threads = [threading.Thread(target=one, args=(start + n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def send(self, relay: Relayd, address: str, sender: str, count: int) -> None:
        with self.client(relay, address) as client:
            for number in range(count):
                to = f"nobody{number}@example.com"
                client.sendmail(sender, to, ATTACK % sender.encode())

    def kept(self, relay: Relayd) -> dict[str, object]:
        answer: dict[str, object] = json.loads(relay.ctl("backscatter", "--json").stdout)
        return answer

    def kept_reports(self, relay: Relayd) -> int:
        found = self.kept(relay)["kept"]
        assert isinstance(found, list)
        return sum(each["reports"] for each in found)

    def reported(self) -> Counter[str]:
        return Counter(each.recipients[0] for each in self.back.arrived)

    def digest(self, relay: Relayd) -> Arrived:
        """The one that the postmaster gets."""
        relay.ctl("backscatter", "--send")
        (digest,) = self.boss.wait(1)
        return digest


class DictionaryAttack(BackscatterCase):
    def check(self, workers: int, count: int) -> None:
        relay = self.world(workers)
        self.attack(relay, count)
        self.send(relay, VOUCHED, "ann@passes.example", 7)
        self.send(relay, INSIDE, "bob@anywhere.example", 7)
        relay.wait_empty(600)
        told = self.reported()
        self.assertEqual(told.pop("ann@passes.example"), 7)
        self.assertEqual(told.pop("bob@anywhere.example"), 7)
        self.assertEqual(sum(told.values()), 100)
        self.assertEqual(self.kept_reports(relay), count - 100)
        status = relay.ctl("status").stdout
        self.assertIn(f"kept back      {count - 100:,} reports to strangers", status)
        digest = self.digest(relay).content
        self.assertIn(f"Subject: {count - 100:,} reports kept back".encode(), digest)
        self.assertIn(EVIL.encode(), digest)
        self.assertIn(b"failed 550 5.1.1", digest)
        self.assertLess(len(digest), 20_000)
        # a recipient whose report was kept says so
        ident = re.findall(rb"relayctl why (\S+)", digest)[0].decode()
        why = relay.ctl("why", ident).stdout
        self.assertIn("not reported: a stranger, and the budget of reports is spent", why)
        kept = 'event="report kept back"'
        log = relay.logged(kept, count - 100)
        self.assertEqual(log.count(kept), count - 100)
        self.assertIn("clean", relay.ctl("audit").stdout)
        time.sleep(1)
        self.assertEqual(len(self.boss.arrived), 1)
        relay.stop()

    def test_one_worker(self) -> None:
        self.check(1, FORGED)

    def test_two_workers(self) -> None:
        self.check(2, 300)


class Kept(BackscatterCase):
    def test_a_restart_and_a_kill_forget_nothing(self) -> None:
        relay = self.world(settings="reports strangers 10/1h\n")
        self.attack(relay, 40)
        relay.wait_empty()
        self.assertEqual((len(self.back.arrived), self.kept_reports(relay)), (10, 30))
        relay.stop()
        relay.start()
        self.attack(relay, 20, 40)
        relay.wait_empty()
        self.assertEqual((len(self.back.arrived), self.kept_reports(relay)), (10, 50))
        assert relay.process is not None
        relay.process.popen.send_signal(signal.SIGKILL)
        relay.process.popen.wait()
        relay.start()
        self.attack(relay, 5, 60)
        relay.wait_empty()
        self.assertEqual(len(self.back.arrived), 10)
        self.assertIn(b"Subject: 55 reports kept back", self.digest(relay).content)
        relay.stop()
        relay.start()
        self.assertEqual(relay.ctl("backscatter", "--send", check=False).returncode, 1)
        self.assertEqual(self.kept_reports(relay), 55)

    def test_a_reload_changes_the_budget(self) -> None:
        relay = self.world(settings="reports strangers none\n")
        self.attack(relay, 10)
        relay.wait_empty()
        self.assertEqual((len(self.back.arrived), self.kept_reports(relay)), (0, 10))
        text = relay.config.read_text()
        relay.config.write_text(text.replace("strangers none", "strangers 1/1h"))
        relay.ctl("reload")
        self.attack(relay, 10, 10)
        relay.wait_empty()
        self.assertEqual((len(self.back.arrived), self.kept_reports(relay)), (1, 19))
        self.assertEqual(self.kept(relay)["budget"], "1/1h")

    def test_a_login_and_the_drop_folder_are_no_strangers(self) -> None:
        settings = "reports strangers none\nreports success from 198.51.100.7\n"
        relay = self.world(settings=settings, start=False)
        drop = relay.folder / "spool" / "drop"
        drop.mkdir(parents=True)
        drop.parent.chmod(0o711)
        drop.chmod(0o3733)
        relay.start()
        self.send(relay, "198.51.100.7", "carl@anywhere.example", 3)
        slip = b'{"relayd": 1, "sender": "%s", "recipients": ["nobody@example.com"]}\n'
        content = ATTACK.replace(b"\r\n", b"\n") % b"dora@anywhere.example"
        (drop / "x.part").write_bytes(slip % b"dora@anywhere.example" + content)
        (drop / "x.part").rename(drop / "x.mail")
        self.send(relay, EVIL, "carl@anywhere.example", 2)
        relay.wait_empty()
        wait_until(lambda: len(self.back.arrived) >= 4, "they are told")
        self.assertEqual(self.reported(), {"carl@anywhere.example": 3, "dora@anywhere.example": 1})
        self.assertEqual(self.kept_reports(relay), 2)

    def test_what_strangers_wish_is_honoured_as_the_setting_says(self) -> None:
        relay = self.world(settings="reports success from 198.51.100.7\n")
        for address in (EVIL, "198.51.100.7", INSIDE):
            with self.client(relay, address) as client:
                client.mail(f"{address}@sender.example", ["RET=FULL"])
                client.rcpt("ok@other.example", ["NOTIFY=SUCCESS"])
                client.rcpt("ok@corp.example", ["NOTIFY=SUCCESS"])
                client.rcpt("no@example.com", ["NOTIFY=SUCCESS,FAILURE"])
                self.assertEqual(client.data(b"Subject: x\r\n\r\nthe body\r\n")[0], 250)
        relay.wait_empty()
        wait_until(lambda: len(self.back.arrived) >= 4, "they are told")
        whole = {
            each.recipients[0]: b"the body" in each.content
            for each in self.back.arrived
            if b"no@example.com" in each.content and each.recipients[0] != "ok@other.example"
        }
        self.assertEqual(
            whole,
            {
                f"{EVIL}@sender.example": False,
                "198.51.100.7@sender.example": True,
                f"{INSIDE}@sender.example": False,
            },
        )

    def test_one_message_that_many_servers_refuse_is_one_report(self) -> None:
        sinks = [Sink(refuse) for _ in range(5)]
        for sink in sinks:
            self.addCleanup(sink.stop)
        hops = "".join(
            f"next-hop n{n} smtp 127.0.0.1:{sink.port}\nroute to @d{n}.example via n{n}\n"
            f"accept to @d{n}.example\n"
            for n, sink in enumerate(sinks)
        )
        relay = self.world(rules=hops + RULES)
        with self.client(relay, EVIL) as client:
            to = [f"u{n}@d{n % 5}.example" for n in range(50)]
            client.sendmail("victim@fails.example", to, ATTACK % b"victim@fails.example")
        relay.wait_empty()
        self.assertEqual(self.reported(), {"victim@fails.example": 1})
