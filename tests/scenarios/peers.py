"""Real mail servers and name servers of Debian, each with a private configuration."""

from __future__ import annotations

import contextlib
import http.server
import imaplib
import mailbox
import os
import poplib
import re
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from tests.scenarios.harness import (
    Scenario,
    free_port,
    greets,
    owner,
    port_is_open,
    program,
    run,
    wait_until,
)

_MAIN_CF = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = {hostname}
mydestination =
mynetworks = 0.0.0.0/0 [::]/0
inet_interfaces = {address}
inet_protocols = {protocols}
smtp_bind_address = {bind}
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_relay_restrictions = permit_mynetworks, reject
alias_maps =
alias_database =
local_recipient_maps =
biff = no
append_dot_mydomain = no
message_size_limit = 0
mailbox_size_limit = 0
virtual_mailbox_limit = 0
smtp_line_length_limit = 0
smtputf8_enable = yes
smtputf8_autodetect_classes = all
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
queue_run_delay = 3s
minimal_backoff_time = 1s
maximal_backoff_time = 3s
smtp_connection_cache_on_demand = yes
smtp_tls_security_level = none
smtpd_tls_security_level = none
virtual_mailbox_base = {folder}/mail
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
"""

_MASTER_CF = """
{listen} inet n - n - - smtpd
pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 3 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def _each_once(settings: str) -> str:
    """Each parameter of a main.cf once, as it was said last.

    Every daemon that starts warns of each parameter said twice, postlogd too, through the socket
    that only itself reads: once its ten places are full, all of Postfix stands still.
    """
    entries = re.split(r"\n(?=\S)", settings.strip())
    return "\n".join({entry.partition("=")[0].strip(): entry for entry in entries}.values()) + "\n"


class Postfix:
    """A whole Postfix: `sendmail` into it, or mail for `domains` into Maildirs."""

    def __init__(
        self,
        scenario: Scenario,
        name: str = "postfix",
        *,
        relayhost: str = "",
        domains: Sequence[str] = (),
        extra: str = "",
        address: str = "127.0.0.1",
        port: int = 0,
        enter: Sequence[str] = (),
    ) -> None:
        self.folder = folder = scenario.room(name)
        self.address = address
        self.port = port or free_port()
        uid, gid = owner("nobody")
        for part in ("queue", "data", "mail", "etc"):
            (folder / part).mkdir()
        os.chown(folder / "data", *owner("postfix"))
        os.chown(folder / "mail", uid, gid)
        six = ":" in address
        settings = _MAIN_CF.format(
            folder=folder,
            hostname=f"{name}.example",
            address=address,
            bind="" if six else address if enter else "",
            protocols="all" if enter else "ipv4",
            uid=uid,
            gid=gid,
        )
        if relayhost:
            settings += f"relayhost = {relayhost}\n"
        if domains:
            settings += f"virtual_mailbox_domains = {' '.join(domains)}\n"
            settings += "virtual_mailbox_maps = static:all/\n"
        (folder / "etc/main.cf").write_text(_each_once(settings + extra))
        listen = f"[{address}]:{self.port}" if six else f"{address}:{self.port}"
        (folder / "etc/master.cf").write_text(_MASTER_CF.format(listen=listen))
        self.enter = list(enter)
        scenario.addCleanup(self.stop)
        self.start()

    @property
    def etc(self) -> str:
        """Its configuration folder."""
        return str(self.folder / "etc")

    def start(self) -> None:
        """Start it and wait until its master has written down who it is."""
        run([program("postfix"), "-c", self.etc, "start"], enter=self.enter)
        wait_until(lambda: self.master_pid, "Postfix's master runs")
        if not self.enter:
            wait_until(lambda: greets((self.address, self.port)), "Postfix greets")

    @property
    def master_pid(self) -> int:
        """Process ID of its master; 0 if it does not run."""
        try:
            return int((self.folder / "queue/pid/master.pid").read_text())
        except (OSError, ValueError):
            return 0

    def stop(self) -> None:
        """End the master; it ends its own children."""
        pid = self.master_pid
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGTERM)
                wait_until(lambda: not Path(f"/proc/{pid}").exists(), "Postfix ends")
        (self.folder / "queue/pid/master.pid").unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL to the master and all it started (they share its process group)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(self.master_pid), signal.SIGKILL)
        (self.folder / "queue/pid/master.pid").unlink(missing_ok=True)

    def submit(self, sender: str, recipients: Sequence[str], content: bytes) -> None:
        """Local submission by its `sendmail`."""
        run(
            [
                *(program("sendmail"), "-C", self.etc, "-i", "-G", "-f", sender, "--"),
                *recipients,
            ],
            data=content.replace(b"\r\n", b"\n"),
        )

    def mailbox(self) -> list[bytes]:
        """The messages in its Maildir, in CRLF form."""
        folder = self.folder / "mail/all/new"
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in files]

    def log(self) -> str:
        """Its whole log."""
        path = self.folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""


_EXIM = """
exim_path = {program}
exim_user = Debian-exim
exim_group = Debian-exim
spool_directory = {folder}/spool
log_file_path = {folder}/log-%slog
pid_file_path = {folder}/pid
primary_hostname = exim.example
keep_environment =
local_from_check = false
untrusted_set_sender = *
message_size_limit = 0
trusted_users = root
never_users =
tls_advertise_hosts =
acl_smtp_rcpt = accept
begin routers
smarthost:
  driver = manualroute
  transport = remote
  route_list = * 127.0.0.1
  self = send
  host_find_failed = defer
begin transports
remote:
  driver = smtp
  port = {port}
  message_linelength_limit = 1000000
  hosts_try_chunking = {chunking}
  hosts_try_fastopen =
  {tls}
begin retry
* * F,1m,1s
begin authenticators
{login}
"""
_EXIM_TLS = """
  hosts_require_tls = *
  hosts_require_auth = *
  protocol = {protocol}
  tls_verify_certificates = {authority}
  tls_verify_hosts = *
"""
_EXIM_LOGIN = """
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^{name}^{password}
"""


class Exim:
    """An Exim that sends everything to one port; each submission delivers in the foreground."""

    def __init__(
        self,
        scenario: Scenario,
        port: int,
        *,
        name: str = "exim",
        chunking: bool = False,
        tls: str = "",
        authority: Path | None = None,
        login: tuple[str, str] = ("", ""),
    ) -> None:
        """`tls`: smtp (STARTTLS) or smtps, with a verified certificate and a login."""
        self.folder = scenario.room(f"{name}-bdat" if chunking else name)
        (self.folder / "spool").mkdir()
        user = owner("Debian-exim")
        os.chown(self.folder, *user)
        os.chown(self.folder / "spool", *user)
        self.config = self.folder / "exim.conf"
        self.config.write_text(
            _EXIM.format(
                program=program("exim4"),
                folder=self.folder,
                port=port,
                chunking="*" if chunking else "",
                tls=_EXIM_TLS.format(protocol=tls, authority=authority)
                if tls
                else "hosts_avoid_tls = *",
                login=_EXIM_LOGIN.format(name=login[0], password=login[1]) if tls else "",
            )
        )

    def submit(self, sender: str, recipients: Sequence[str], content: bytes) -> None:
        """Inject and deliver at once."""
        run(
            [
                *(program("exim4"), "-C", str(self.config), "-odf", "-oi", "-f", sender, "--"),
                *recipients,
            ],
            data=content.replace(b"\r\n", b"\n"),
        )

    def log(self) -> str:
        """What it did and what troubled it."""
        return "".join(
            path.read_text("utf-8", "replace") for path in sorted(self.folder.glob("log-*"))
        )


_DOVECOT = """\
{first}
protocols = imap pop3 lmtp
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
ssl = no
auth_mechanisms = plain
auth_failure_delay = 0
first_valid_uid = 1
postmaster_address = postmaster@example.com
hostname = store.example.com
lmtp_save_to_detail_mailbox = no
default_internal_user = dovecot
default_login_user = dovenull
default_internal_group = dovecot
service imap-login {{
  chroot =
  inet_listener imap {{
    {listen} = 127.0.0.1
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    {listen} = 127.0.0.1
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service lmtp {{
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    {listen} = 127.0.0.1
    port = {lmtp}
  }}
}}
service anvil {{
  chroot =
  # a wrong password costs nobody up to 15 seconds
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {folder}/auth-client {{
    mode = 0666
  }}
}}
"""

# what Dovecot 2.4 has other words for: of Debian 12, of Debian 13
_DOVECOT_2_3 = """
disable_plaintext_auth = no
mail_location = maildir:%h/Maildir
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users
}}
"""
_DOVECOT_2_4 = """
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = %{{home}}/Maildir
passdb passwd-file {{
  passwd_file_path = {folder}/users
}}
userdb passwd-file {{
  passwd_file_path = {folder}/users
}}
"""


def dovecot_is_2_4() -> bool:
    """Whether the configuration of the Dovecot that is here is written in the new way."""
    said = subprocess.run(
        [program("dovecot"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return tuple(map(int, said.split()[0].split(".")[:2])) >= (2, 4)


def dovecot_oauth2(url: str, authority: Path, folder: Path) -> str:
    """The part of a configuration that asks a provider whether a token is good (RFC 7662)."""
    asked = (
        f"introspection_mode = post\nintrospection_url = {url}\n"
        "username_attribute = username\nactive_attribute = active\nactive_value = true\n"
    )
    if dovecot_is_2_4():
        return (
            f"oauth2 {{\n{asked}ssl_client_ca_file = {authority}\n}}\n"
            "passdb oauth2 {\n  mechanisms_filter = xoauth2 oauthbearer\n}\n"
        )
    path = folder / "dovecot-oauth2.conf"
    path.write_text(f"{asked}tls_ca_cert_file = {authority}\n")
    return (
        f"passdb {{\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = {path}\n}}\n"
    )


PASSWORD = "correct horse"


def https(
    scenario: Scenario,
    listening: socket.socket,
    handler: type[http.server.BaseHTTPRequestHandler],
    chain: Path,
    key: Path,
) -> None:
    """Serve HTTPS on this socket, which is in a namespace perhaps, until the scenario ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler, False)
    server.socket.close()
    listening.setblocking(True)
    server.socket = context.wrap_socket(listening, server_side=True)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    scenario.addCleanup(server.server_close)
    scenario.addCleanup(server.shutdown)


class Dovecot:
    """A mail store: LMTP in (unix socket and TCP), IMAP and POP3 out."""

    def __init__(self, scenario: Scenario, users: Sequence[str], extra: str = "") -> None:
        self.folder = folder = scenario.room("dovecot")
        self.imap_port, self.pop3_port, self.lmtp_port = free_port(), free_port(), free_port()
        uid, gid = owner("mail")
        (folder / "state").mkdir()
        lines = []
        for user in users:
            home = scenario.room(f"dovecot/home/{user}")
            os.chown(home, uid, gid)
            lines.append(f"{user}:{{PLAIN}}{PASSWORD}:{uid}:{gid}::{home}::")
        (folder / "users").write_text("\n".join(lines) + "\n")
        self.config = folder / "dovecot.conf"
        modern = dovecot_is_2_4()
        version = "2.4.0"
        self.config.write_text(
            _DOVECOT.format(
                first=f"dovecot_config_version = {version}\ndovecot_storage_version = {version}"
                if modern
                else "",
                listen="listen" if modern else "address",
                folder=folder,
                imap=self.imap_port,
                pop3=self.pop3_port,
                lmtp=self.lmtp_port,
            )
            + (_DOVECOT_2_4 if modern else _DOVECOT_2_3).format(folder=folder)
            + extra
        )
        self.socket = folder / "lmtp"
        self.scenario = scenario
        scenario.addCleanup(self.stop)
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [program("dovecot"), "-F", "-c", str(self.config)]
        self.process = self.scenario.launch(command, "dovecot")
        ports = (self.imap_port, self.pop3_port, self.lmtp_port)
        wait_until(
            lambda: all(port_is_open(("127.0.0.1", port)) for port in ports), "Dovecot listens"
        )
        wait_until(self._asks_for_logins, "Dovecot's auth service greets")

    def _asks_for_logins(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            try:
                connection.connect(str(self.folder / "auth-client"))
                return connection.recv(4096).startswith(b"VERSION")
            except OSError:
                return False

    def stop(self) -> None:
        """SIGTERM to the master, which ends its children."""
        if self.process.running:
            self.process.stop()

    def by_imap(self, user: str) -> list[bytes]:
        """Every message of a mailbox, read by IMAP."""
        with imaplib.IMAP4("127.0.0.1", self.imap_port) as client:
            client.login(user, PASSWORD)
            client.select("INBOX", readonly=True)
            _, (found,) = client.search(None, "ALL")
            messages = []
            for number in found.split():
                _, parts = client.fetch(number.decode(), "(BODY.PEEK[])")
                messages.append(next(part[1] for part in parts if isinstance(part, tuple)))
            return messages

    def by_pop3(self, user: str) -> list[bytes]:
        """Every message of a mailbox, read by POP3."""
        poplib._MAXLINE = 1 << 20  # type: ignore[attr-defined]  # its 2,048 is for commands
        client = poplib.POP3("127.0.0.1", self.pop3_port)
        try:
            client.user(user)
            client.pass_(PASSWORD)
            count = len(client.list()[1])
            return [
                b"".join(line + b"\r\n" for line in client.retr(number + 1)[1])
                for number in range(count)
            ]
        finally:
            client.quit()

    def log(self) -> str:
        """Its whole log."""
        path = self.folder / "log"
        return path.read_text("utf-8", "replace") if path.exists() else ""


class NameServer:
    """nsd with the zones, unbound in front of it as everyone's resolver on port 53."""

    def __init__(
        self,
        scenario: Scenario,
        zones: dict[str, str | None],
        *,
        address: str,
        enter: Sequence[str],
    ) -> None:
        """A zone is the text of its records; None makes a zone that answers SERVFAIL."""
        self.folder = folder = scenario.room("dns")
        server = [
            *("server:", '  chroot: ""', '  username: ""', '  zonesdir: ""'),
            *(f"  ip-address: {address}@5353", f"  pidfile: {folder}/nsd.pid", '  database: ""'),
            *(f"  zonelistfile: {folder}/nsd.list", f"  xfrdfile: {folder}/nsd.xfrd"),
            *(f"  xfrdir: {folder}", "  verbosity: 1", "  server-count: 1"),
            *("remote-control:", "  control-enable: no"),
        ]
        forward = []
        for zone, records in zones.items():
            file = folder / f"{zone}.zone"
            if records is not None:
                head = (
                    f"$ORIGIN {zone}.\n$TTL 60\n"
                    "@ SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 5\n@ NS ns.invalid.\n"
                )
                file.write_text(head + records)
            server += ["zone:", f"  name: {zone}", f"  zonefile: {file}"]
            forward += ["stub-zone:", f"  name: {zone}", f"  stub-addr: {address}@5353"]
            forward += ["  stub-prime: no"]
        (folder / "nsd.conf").write_text("\n".join(server) + "\n")
        (folder / "unbound.conf").write_text(
            "\n".join(
                [
                    *("server:", '  chroot: ""', '  username: ""', '  directory: "/"'),
                    *(f"  interface: {address}@53", "  access-control: 0.0.0.0/0 allow"),
                    *(f"  pidfile: {folder}/unbound.pid", "  use-syslog: no", "  do-daemonize: no"),
                    *('  module-config: "iterator"', "  do-not-query-localhost: no"),
                    *("  num-threads: 1", f"  logfile: {folder}/unbound.log", "  verbosity: 1"),
                    *('  root-hints: ""', "  qname-minimisation: no", "  do-ip6: no"),
                    *('  local-zone: "168.192.in-addr.arpa" transparent',),
                    *('  local-zone: "example." transparent',),
                    *(f'  local-zone: "{zone}." transparent' for zone in zones if ".arpa" in zone),
                    "remote-control:",
                    *("  control-enable: no", *forward),
                ]
            )
            + "\n"
        )
        self.nsd = scenario.launch(
            [*enter, program("nsd"), "-d", "-c", str(folder / "nsd.conf")], "nsd"
        )
        self.scenario = scenario
        self.address = address
        self.enter = list(enter)
        self.zone = next(zone for zone, records in zones.items() if records is not None)
        self.start_resolver()

    def start_resolver(self) -> None:
        """Start unbound, for the first time or again."""
        command = [*self.enter, program("unbound"), "-d", "-c", str(self.folder / "unbound.conf")]
        self.unbound = self.scenario.launch(command, "unbound")
        wait_until(
            lambda: self._answers(self.address, self.zone, self.enter), "the name server answers"
        )

    @staticmethod
    def _answers(address: str, zone: str, enter: Sequence[str]) -> bool:
        # a plain query for the zone's SOA, with no library at all: header, name, type, class
        name = b"".join(bytes([len(x)]) + x.encode() for x in zone.split(".")) + b"\0"
        query = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0" + name + b"\0\x06\0\x01"
        code = (
            "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(0.5);"
            f"s.sendto({query!r}, ({address!r}, 53)); print(s.recv(512)[3] & 15)"
        )
        done = subprocess.run([*enter, "python3", "-c", code], capture_output=True, text=True)
        return done.stdout.strip() == "0"


def maildir(path: Path) -> list[bytes]:
    """The messages of a Maildir in CRLF form."""
    box = mailbox.Maildir(path, create=False)
    return [box.get_bytes(key).replace(b"\n", b"\r\n") for key in sorted(box.keys())]


_UNQUOTED = "".join(map(chr, range(33, 127))).replace("%", "")  # octets that stand for themselves


class PostSrsd:
    """PostSRSd, asked as Postfix asks it: a line each way (tcp_table(5))."""

    def __init__(self, scenario: Scenario, domain: str, keys: Path) -> None:
        self.forward_port, self.reverse_port = free_port(), free_port()
        scenario.launch(
            [
                *(program("postsrsd"), "-4", "-l", "127.0.0.1", "-s", str(keys), "-d", domain),
                *("-f", str(self.forward_port), "-r", str(self.reverse_port)),
            ],
            f"postsrsd-{domain}",
        )
        ports = (self.forward_port, self.reverse_port)
        wait_until(
            lambda: all(port_is_open(("127.0.0.1", port)) for port in ports), "PostSRSd listens"
        )

    def forward(self, sender: str) -> str:
        """The rewritten sender; AssertionError with its words if it does not know."""
        return self._ask(self.forward_port, sender)

    def reverse(self, recipient: str) -> str:
        """The sender inside a rewritten one; AssertionError with its words if it is none."""
        return self._ask(self.reverse_port, recipient)

    @staticmethod
    def _ask(port: int, key: str) -> str:
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(f"get {quote(key, _UNQUOTED)}\n".encode())
            code, _, value = connection.makefile("rb").readline().decode().strip().partition(" ")
        if code != "200":
            raise AssertionError(f"PostSRSd on {key}: {code} {value}")
        return unquote(value)


def nsd_conf(folder: Path, port: int, zones: Iterable[str]) -> str:
    """A configuration of nsd for these zones, each in the folder's NAME.zone."""
    lines = ["server:", '  chroot: ""', '  username: ""', '  zonesdir: ""', '  database: ""']
    lines += [f"  ip-address: 127.0.0.1@{port}", f"  pidfile: {folder}/nsd.pid"]
    lines += [f"  zonelistfile: {folder}/nsd.list", f"  xfrdfile: {folder}/nsd.xfrd"]
    lines += [f"  xfrdir: {folder}", "  server-count: 1", "remote-control:"]
    lines += ["  control-enable: no"]
    for zone in zones:
        lines += ["zone:", f"  name: {zone}", f"  zonefile: {folder}/{zone}.zone"]
    return "\n".join(lines) + "\n"
