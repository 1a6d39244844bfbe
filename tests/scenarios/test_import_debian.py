"""What Debian's Postfix is after its questions were answered becomes a relayd that starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.scenarios.harness import CHECKOUT, Relayd, Scenario, free_port

# its postinst puts these parts together, and then what the answers make
PARTS = [Path("/usr/share/postfix") / name for name in ("main.cf.debian", "main.cf.tls")]
MASTER = Path("/usr/share/postfix/master.cf.dist")
ANSWERED = """
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
myhostname = host.example.com
alias_maps = hash:{folder}/aliases
alias_database = hash:{folder}/aliases
myorigin = {folder}/mailname
mydestination = $myhostname, example.com, host.example.com, localhost.example.com, localhost
relayhost = {relayhost}
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = {interfaces}
inet_protocols = all
"""
LOCAL_ONLY = "default_transport = error\nrelay_transport = error\n"
NOT_YET = 451  # a user of this machine, whose mailbox relayd does not know
ALIAS, USER, FAR = "root@host.example.com", "ann@example.com", "x@far.example"


class Debian(Scenario):
    needs = ("postfix",)

    def start(self, relayhost: str, interfaces: str, more: str = "") -> Relayd:
        postfix = self.room("postfix")
        main = "".join(part.read_text() for part in PARTS)
        answers = ANSWERED.format(folder=postfix, relayhost=relayhost, interfaces=interfaces)
        (postfix / "main.cf").write_text(main + answers + more)
        (postfix / "master.cf").write_text(MASTER.read_text())
        (postfix / "aliases").write_text(
            "postmaster: root\nroot: ann+root@localhost\nann: a@far.example\n"
        )
        (postfix / "mailname").write_text("example.com\n")
        output = self.folder / "relayd"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "relayd.ctl.relayctl", "import", "postfix"),
                *(str(postfix), "--output", str(output)),
            ],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=400,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        text = (output / "relayd.conf").read_text()
        self.assertIn(
            "listen 127.0.0.1:25\n" if interfaces != "all" else "listen 0.0.0.0:25\n", text
        )
        port = free_port()
        text = re.sub(r"(?m)^listen .*\n", "", text)  # not the ports and the spool of this machine
        text = re.sub(r"(?m)^workers .*$", f"workers 1\nlisten 127.0.0.1:{port}", text)
        text = re.sub(r"(?m)^spool .*$", f"spool {output / 'spool'}", text)
        relay = Relayd(output, text, port=port, address="127.0.0.1", host=None)
        self.addCleanup(self._end, relay)
        return relay.start()

    def heard(self, relay: Relayd) -> dict[str, int]:
        """The reply to each recipient, for a client on this machine."""
        with relay.session() as client:
            client.ehlo("localhost")
            client.mail("ann@example.com")
            return {to: client.rcpt(to)[0] for to in (ALIAS, USER, "nobody@example.com", FAR)}

    def test_internet_site(self) -> None:
        heard = self.heard(self.start("", "all"))
        self.assertEqual(heard, {ALIAS: 250, USER: 250, "nobody@example.com": NOT_YET, FAR: 250})

    def test_satellite(self) -> None:
        relay = self.start("smtp.isp.example", "loopback-only")
        self.assertEqual(self.heard(relay)[FAR], 250)
        offline = relay.ctl("explain", "--offline", "--from", "127.0.0.1", FAR).stdout
        self.assertIn("via relayhost", offline)

    def test_local_only(self) -> None:
        heard = self.heard(self.start("", "loopback-only", LOCAL_ONLY))
        self.assertEqual(heard[FAR] // 100, 5)
        self.assertEqual(heard["nobody@example.com"], NOT_YET)
