"""Configurations of real Postfixes become ours; what differs is what the report named."""

from __future__ import annotations

import json
import os
import smtplib
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

from tests.scenarios import postfixmaps
from tests.scenarios.harness import CHECKOUT, Relayd, Scenario, free_port, program, run

MORE = {  # main.cf, tables
    "a gateway of old": (
        "myhostname = gw.corp.example\nmydestination =\n"
        "relay_domains = corp.example, !priv.corp.example, partner.example\n"
        "transport_maps = texthash:/etc/postfix/transport\nrelayhost = mx-out.example\n"
        "smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination,\n"
        " check_recipient_access regexp:/etc/postfix/rcpt,\n"
        " check_sender_access inline:{ bad@x.example=REJECT, { ok@x.example = OK } }, permit\n"
        "mynetworks = 10.0.0.0/8, /etc/postfix/nets, cidr:/etc/postfix/nets.cidr\n"
        "relocated_maps = hash:/etc/postfix/relocated\nlocal_recipient_maps =\n",
        {
            "transport": "corp.example smtp:[10.1.1.1], [10.1.1.2]:2525\n"
            ".corp.example relay:[10.1.1.3]\npartner.example :\n* smtp:everything.example\n",
            "rcpt": "/^abuse@/ OK\n/^noreply@/ 550 5.1.1 nobody\n"
            "!/@(corp|partner)\\.example$/ REJECT\n",
            "nets": "192.0.2.0/24\n[2001:db8:1::]/48\n",
            "nets.cidr": "172.16.0.0/12 OK\n",
            "relocated": "gone@corp.example new@other.example\n@dead.corp.example nowhere\n",
        },
    ),
    "a site with its mail store": (
        "compatibility_level = 3.6\nmyhostname = mail.example.com\nrelayhost =\n"
        "mydestination = $myhostname, example.com, localhost\n"
        "alias_maps = hash:/etc/postfix/aliases\nrecipient_delimiter = +\n"
        "mailbox_transport = lmtp:unix:private/dovecot-lmtp\n"
        "virtual_alias_maps = hash:$config_directory/virtual, hash:$config_directory/more\n"
        "virtual_alias_domains = va.example\n",
        {
            "aliases": "root: alice\nwww-data: root\nalice: alice@elsewhere.example\n"
            "bob: bob, bob@backup.example\n",
            "virtual": "a@va.example bob\n@va.example catch@example.com\n",
            "more": "z@va.example zed@x.example\n@va.example no@x.example\n",
        },
    ),
    "virtual mailboxes": (
        "compatibility_level = 3.6\nmyhostname = store.example.org\nmydestination = localhost\n"
        "virtual_mailbox_domains = m1.example, m2.example\n"
        "virtual_mailbox_maps = hash:/etc/postfix/vmailbox\n"
        "virtual_transport = lmtp:inet:127.0.0.1:24\nvirtual_alias_domains = alias.example\n"
        "virtual_alias_maps = mysql:/etc/postfix/mysql.cf, hash:/etc/postfix/virtual\n"
        "canonical_maps = hash:/etc/postfix/canonical\n"
        "sender_canonical_maps = hash:/etc/postfix/scanon\n"
        "recipient_canonical_maps = regexp:/etc/postfix/rcanon\n"
        "masquerade_domains = inner.m1.example m1.example\n"
        "sender_canonical_classes = envelope_sender\n"
        "default_transport = smtp:[out.example]:26\nalias_maps =\n",
        {
            "vmailbox": "u1@m1.example u1/\nu2@m2.example u2/\n@m2.example all/\n",
            "virtual": "info@alias.example u1@m1.example\n"
            "self@m1.example self@m1.example, u1@m1.example\n"
            "loop1@alias.example loop2@alias.example\nloop2@alias.example loop1@alias.example\n",
            "canonical": "u9@m1.example u1@m1.example\n@old.example @m1.example\n"
            "x@y.example u9@m1.example\nlocaluser u2@m2.example\n",
            "scanon": "app@host.m1.example x@y.example\nroot root@host.inner.m1.example\n",
            "rcanon": "/^(.*)\\.(.*)@dots\\.example$/ $2.$1@m1.example\n",
        },
    ),
    "a null client": (
        "compatibility_level = 3.6\nmyhostname = null.example.com\nmydestination =\n"
        "inet_interfaces = loopback-only\nmynetworks = 127.0.0.0/8\n"
        "relayhost = [smarthost.example.com]:587\n"
        "local_transport = error:local delivery is disabled\n"
        "virtual_alias_maps = static:root@example.com\n",
        {},
    ),
}


class Import(Scenario):
    needs = ("postfix",)

    def bring(self, folder: Path, *arguments: str) -> tuple[dict[str, Any], Path]:
        """Import with every address verified; what it tells, and where the result is."""
        output = folder.parent / f"{folder.name}-relayd"
        done = subprocess.run(
            [*(sys.executable, "-m", "relayd.ctl.relayctl", "import", "postfix", str(folder)),
             *("--output", str(output), "--json", *(arguments or ("--verify", "all")))],
            capture_output=True, text=True, timeout=600,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )  # fmt: skip
        self.assertIn(done.returncode, (0, 1), done.stderr)
        self.assertTrue(done.stdout.startswith("{"), done.stderr)
        return json.loads(done.stdout), output

    def need_pcre(self, folder: Path) -> None:
        """Debian has Perl's expressions in a package of their own."""
        kinds = run([program("postconf"), "-c", str(folder), "-m"]).stdout.split()
        if b"pcre" not in kinds:
            reason = "needs pcre tables (apt-get install postfix-pcre)"
            if os.environ.get("RELAYD_REQUIRE_PEERS"):
                self.fail(reason)
            raise unittest.SkipTest(reason)

    def compile_tables(self, folder: Path) -> None:
        """As a running Postfix has them."""
        for name in ("virtual", "canonical", "transport", "relay_domains", "relay_recipients",
                     "access", "client", "relayhosts"):  # fmt: skip
            run([program("postmap"), "-c", str(folder), f"hash:{folder / name}"])
        run([program("postmap"), "-c", str(folder), f"btree:{folder / 'senders'}"])
        run([program("postalias"), "-c", str(folder), f"hash:{folder / 'aliases'}"])

    def assert_all_named(self, told: dict[str, Any]) -> None:
        unnamed = [each for each in told["verified"]["differences"] if not each["named"]]
        self.assertEqual(unnamed, [])

    def assert_told_of_each_setting(self, told: dict[str, Any], main: str) -> None:
        names = {line.partition("=")[0].strip() for line in main.splitlines()
                 if "=" in line and line[0] not in "# \t"}  # fmt: skip
        self.assertEqual(names - {each["setting"] for each in told["settings"]}, set())

    def test_debians_own_extended_by_maps_of_500_entries(self) -> None:
        folder = self.room("postfix")
        postfixmaps.make(folder)
        self.need_pcre(folder)
        self.compile_tables(folder)
        told, output = self.bring(folder)
        verified = told["verified"]
        self.assertEqual(verified["notes"], [])
        self.assertGreater(verified["addresses"], 3 * postfixmaps.ENTRIES)
        self.assert_all_named(told)
        self.assert_told_of_each_setting(told, (folder / "main.cf").read_text())
        run([sys.executable, "-m", "relayd.ctl.relayctl", "check", str(output / "relayd.conf")],
            environment={"PYTHONPATH": str(CHECKOUT)})  # fmt: skip

    def test_a_changed_table_is_seen(self) -> None:
        folder = self.room("postfix")
        postfixmaps.make(folder)
        main = (folder / "main.cf").read_text().replace(" pcre:/etc/postfix/canonical.pcre", "")
        (folder / "main.cf").write_text(main)
        self.compile_tables(folder)
        # Postfix goes on with the compiled table, the import reads the text
        virtual = (folder / "virtual").read_text()
        virtual = virtual.replace("user1@mail1.example.net", "other@mail1.example.net")
        (folder / "virtual").write_text(virtual)
        os.utime(folder / "virtual", (2e9, 2e9))
        told, _ = self.bring(folder, "--verify", "alias1@club.example,alias2@example.com")
        unnamed = [each for each in told["verified"]["differences"] if not each["named"]]
        self.assertTrue(unnamed)
        for each in unnamed:
            self.assertIn("to alias1@club.example", each["question"])
        self.assertIn("is older than its text", told["verified"]["notes"][0])

    def test_other_kinds_of_sites(self) -> None:
        for number, (name, (main, tables)) in enumerate(MORE.items()):
            folder = self.room(f"site{number}")
            (folder / "main.cf").write_text(main)
            (folder / "master.cf").write_text(postfixmaps.SHIPPED_MASTER.read_text())
            for file, text in tables.items():
                (folder / file).write_text(text)
            told, _ = self.bring(folder)
            with self.subTest(name):
                self.assert_all_named(told)
                self.assert_told_of_each_setting(told, main)

    def test_every_parameter_there_is_gets_a_word(self) -> None:
        folder = self.room("postfix")
        (folder / "main.cf").write_text(postfixmaps.SHIPPED.read_text())
        known = run([program("postconf"), "-c", str(folder), "-d"]).stdout.decode()
        main = "\n".join(line for line in known.splitlines() if not line.startswith("config_dir"))
        (folder / "main.cf").write_text(main + "\n")
        told, _ = self.bring(folder, "--verify", "x@example.com")
        self.assert_told_of_each_setting(told, main)

    def test_the_result_starts_and_decides_as_postfix_did(self) -> None:
        folder = self.room("postfix")
        port = free_port()
        master = f"127.0.0.1:{port} inet n - y - - smtpd\nuucp unix - n n - - pipe\n"
        postfixmaps.make(folder, master)
        _, output = self.bring(folder, "--verify", "alias1@club.example")
        text = (output / "relayd.conf").read_text()
        relayd = Relayd(output, text.replace("/var/spool/relayd", str(folder / "spool")),
                        port=port, address="127.0.0.1", host=None)  # fmt: skip
        self.addCleanup(self._end, relayd)
        relayd.start()
        answers = {}
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.ehlo("client.example")
            for address in ("alias1@club.example", "nobody@virt.example", "program@mx1.example.com",
                            "postmaster@mx1.example.com", "nobody@example.com"):  # fmt: skip
                client.mail("")  # of whom no name server need be asked
                answers[address] = client.rcpt(address)[0]
                client.rset()
            client.mail("spammer@bad.example")
            answers["spammer"] = client.rcpt("alias1@club.example")[0]
        self.assertEqual(
            answers,
            {
                "alias1@club.example": 250,
                "nobody@virt.example": 550,
                "program@mx1.example.com": 451,
                "postmaster@mx1.example.com": 250,
                "nobody@example.com": 550,
                "spammer": 554,
            },
        )
        relayd.stop()
