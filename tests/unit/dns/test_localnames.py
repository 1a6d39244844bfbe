"""/etc/hosts and the search domains of resolv.conf, as the C library reads them."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.dns.localnames import MOST_DOMAINS, LocalNames
from relayd.dns.servers import LOOK

HOSTS = b"""\
# comment
127.0.0.1\tlocalhost
127.0.1.1 gw.example.com gw
10.0.0.9  exchange.corp.example  exchange Mail   # ours
10.0.0.10 mail
2001:DB8::9 exchange
fe80::1%eth0 link
nonsense here
10.0.0.11 a..b x\xff
"""


class LocalNamesTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.hosts, self.resolv_conf = (Path(folder.name) / name for name in ("hosts", "resolv"))
        self.now = 0.0
        self.hosts.write_bytes(HOSTS)
        self.resolv_conf.write_text(
            "nameserver 192.0.2.53\ndomain old.example\nsearch a.example B.Example.\n"
        )
        self.local = LocalNames(lambda: self.now, hosts=self.hosts, resolv_conf=self.resolv_conf)

    def test_addresses_of_a_name(self) -> None:
        for name, addresses in (
            ("exchange.corp.example", ("10.0.0.9",)),
            ("EXCHANGE.corp.example.", ("10.0.0.9",)),
            ("exchange", ("10.0.0.9", "2001:db8::9")),
            ("mail", ("10.0.0.9", "10.0.0.10")),
            ("nobody", ()),
            ("link", ()),
            ("comment", ()),
            ("ours", ()),
            ("here", ()),
        ):
            self.assertEqual(self.local.addresses(name), addresses, name)

    def test_the_first_name_of_an_address(self) -> None:
        self.assertEqual(self.local.name("10.0.0.9"), "exchange.corp.example")
        self.assertEqual(self.local.name("2001:db8::9"), "exchange")
        self.assertEqual(self.local.name("10.0.0.11"), "")

    def test_short_names_stand_for_names_in_our_domains(self) -> None:
        self.assertEqual(
            self.local.candidates("mail"), ("mail.a.example", "mail.b.example", "mail")
        )
        self.assertEqual(self.local.candidates("mail.corp.example"), ("mail.corp.example",))

    def test_changes_are_noticed(self) -> None:
        self.assertEqual(self.local.addresses("new"), ())
        other = self.hosts.with_name("other")
        other.write_bytes(b"10.0.0.12 new\n")
        other.replace(self.hosts)
        self.assertEqual(self.local.addresses("new"), ())
        self.now += LOOK
        self.assertEqual(self.local.addresses("new"), ("10.0.0.12",))
        self.hosts.unlink()
        self.now += LOOK
        self.assertEqual(self.local.addresses("new"), ())

    def test_files_that_are_not_there_or_large(self) -> None:
        none = Path("/nonexistent/file")
        local = LocalNames(lambda: 0.0, hosts=none, resolv_conf=none)
        self.assertEqual((local.addresses("a"), local.candidates("a")[-1]), ((), "a"))
        self.resolv_conf.write_text("search " + " ".join(f"d{n}.example" for n in range(50)))
        self.now += LOOK
        self.assertEqual(len(self.local.candidates("a")), MOST_DOMAINS + 1)
