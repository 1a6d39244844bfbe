"""One who receives forwarded mail: Postfix with opendkim and opendmarc; rspamd and mailauth beside.

All of them ask the same name server, and judge the same octets, as they came to Postfix.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from pathlib import Path

from tests.scenarios import peers
from tests.scenarios.filterdaemons import _Daemon as Daemon
from tests.scenarios.harness import MAILAUTH, Scenario, program, wait_until
from tests.scenarios.network import Host

_RSPAMD = """
options {{
  pidfile = "{folder}/pid";
  url_tld = "{folder}/tlds";
  filters = "dkim";
  dns {{ nameserver = ["{dns}:53"]; timeout = 2s; }}
  hs_cache_dir = "{folder}";
  rrd = ""; history_file = ""; stats_file = "";
}}
logging {{ type = "console"; level = "warning"; }}
worker "normal" {{ bind_socket = "127.0.0.1:11333"; count = 1; }}
modules {{
  path = "/usr/share/rspamd/plugins/spf.lua";
  path = "/usr/share/rspamd/plugins/dmarc.lua";
}}
dkim {{ }}
spf {{ }}
dmarc {{ }}
metric "default" {{ actions {{ reject = 1000; }} }}
"""

_MAILAUTH = """
const { authenticate } = require("mailauth");
const dns = new (require("dns").promises.Resolver)();
const fs = require("fs");
const asked = JSON.parse(fs.readFileSync(0));
dns.setServers([asked.dns]);
(async () => {
    const said = [];
    for (const each of asked.messages) {
        const found = await authenticate(fs.readFileSync(each.file), {
            ip: asked.ip, helo: asked.helo, sender: each.sender, mta: "mx.example",
            resolver: (name, kind) => dns.resolve(name, kind),
        });
        said.push(found.dmarc ? found.dmarc.status.result : "none");
    }
    console.log(JSON.stringify(said));
})();
"""


class _Verifier(Daemon):
    """A milter on a host of its own."""

    def __init__(self, scenario: Scenario, host: Host, dns: str) -> None:
        self.host, self.dns = host, dns
        super().__init__(scenario)

    def resolving(self, command: list[str]) -> list[str]:
        """The program, with the name server as its system's."""
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {self.dns}\n")
        shell = f'mount --bind {resolv} /etc/resolv.conf && exec "$@"'
        return [*self.host.enter, "unshare", "-m", "sh", "-c", shell, "sh", *command]


class Opendkim(_Verifier):
    """Writes what it finds of signatures."""

    name = "opendkim"

    def configure(self) -> None:
        """It verifies, and refuses nothing."""
        (self.folder / "conf").write_text(
            "Syslog no\nMode v\nUMask 000\nOn-Default accept\nAlwaysAddARHeader yes\n"
            f"Socket local:{self.socket}\nAuthservID mx.example\nNameservers {self.dns}\n"
        )

    def command(self) -> list[str]:
        """In the foreground."""
        return self.resolving([program("opendkim"), "-f", "-x", str(self.folder / "conf")])


class Opendmarc(_Verifier):
    """Writes what comes of signatures, by opendkim, and of SPF, which it asks for itself."""

    name = "opendmarc"

    def configure(self) -> None:
        """It refuses nothing."""
        (self.folder / "tlds").write_text("com\norg\nexample\n")
        (self.folder / "conf").write_text(
            f"Syslog false\nSocket local:{self.socket}\nUMask 000\nRejectFailures false\n"
            "AuthservID mx.example\nTrustedAuthservIDs mx.example\nIgnoreHosts /dev/null\n"
            "SPFIgnoreResults true\nSPFSelfValidate true\n"
            f"PublicSuffixList {self.folder}/tlds\n"
        )

    def command(self) -> list[str]:
        """In the foreground."""
        return self.resolving([program("opendmarc"), "-f", "-c", str(self.folder / "conf")])


class Rspamd(_Verifier):
    """Asked by HTTP, in its host."""

    name = "rspamd"

    def configure(self) -> None:
        """Its worker, and the three modules that matter here."""
        (self.folder / "tlds").write_text("com\norg\nexample\n")
        (self.folder / "conf").write_text(_RSPAMD.format(folder=self.folder, dns=self.dns))

    def command(self) -> list[str]:
        """In the foreground."""
        conf = str(self.folder / "conf")
        words = [program("rspamd"), "-f", "-i", "-u", "root", "-g", "root", "-c", conf]
        return [*self.host.enter, *words]

    def listens(self) -> bool:
        """Its worker."""
        try:
            return b"pong" in self.host.call(
                lambda: urllib.request.urlopen("http://127.0.0.1:11333/ping", timeout=5).read()
            )
        except OSError:
            return False

    def says(self, message: bytes, ip: str, helo: str, sender: str) -> str:
        """What comes of DMARC: pass, fail or none."""
        headers = {"IP": ip, "Helo": helo, "From": sender, "Rcpt": "alice@outside.example"}
        asked = urllib.request.Request("http://127.0.0.1:11333/checkv2", message, headers)
        told = self.host.call(lambda: urllib.request.urlopen(asked, timeout=60).read())
        symbols = json.loads(told)["symbols"]
        if "DMARC_POLICY_ALLOW" in symbols:
            return "pass"
        failed = [name for name in symbols if re.match("DMARC_(POLICY_|BAD|DNSFAIL)", name)]
        return "fail" if failed else "none"


class Receiver:
    """All of them."""

    def __init__(self, scenario: Scenario, host: Host, address: str, dns: str) -> None:
        self.scenario, self.host, self.dns = scenario, host, dns
        milters = [each(scenario, host, dns) for each in (Opendkim, Opendmarc)]
        self.rspamd = Rspamd(scenario, host, dns)
        self.postfix = peers.Postfix(
            scenario,
            domains=["outside.example"],
            address=address,
            port=25,
            enter=host.enter,
            extra=f"smtpd_milters = {' '.join(each.where for each in milters)}\n"
            "milter_default_action = tempfail\nmilter_protocol = 6\n",
        )
        self.folder = scenario.room("mailauth")

    def wait(self, count: int) -> list[bytes]:
        """So many messages, as Postfix got them but for what it and its filters put in front."""
        wait_until(lambda: len(self.postfix.mailbox()) >= count, f"{count} messages", 60)
        return self.postfix.mailbox()

    def opendmarc(self, stored: bytes) -> str:
        """What it has written: pass, fail or none."""
        found = re.search(rb"mx\.example;\s+dmarc=(\w+)", stored)
        return found[1].decode() if found is not None else "none"

    def mailauth(self, messages: list[tuple[bytes, str]], ip: str, helo: str) -> list[str]:
        """What it says of messages and their senders."""
        asked = []
        for number, (message, sender) in enumerate(messages):
            file = Path(self.folder, f"{number}.eml")
            file.write_bytes(message)
            asked.append({"file": str(file), "sender": sender})
        done = subprocess.run(
            [*self.host.enter, program("node"), "-e", _MAILAUTH],
            input=json.dumps({"dns": self.dns, "ip": ip, "helo": helo, "messages": asked}),
            capture_output=True, text=True, timeout=60,
            env={"NODE_PATH": f"{MAILAUTH}/node_modules"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said: list[str] = json.loads(done.stdout)
        return said
