"""`python -m relayd.demo [--once]`: what `make run` runs.

Starts `twistd -n relayd` on its embedded default, with a console, beside a next hop that stores
into a Maildir, sends one message with an attachment through, tells its way on the terminal, and
stays for the reader's own tries. With --once or RELAYD_DEMO_ONCE=1 it ends after that:
exit status 0 if the attachment arrived unchanged.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import smtplib
import socket
import sys
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from relayd.config.default import DEFAULT
from relayd.demo.doorway import Doorway
from relayd.demo.nexthop import MaildirFactory, Stored
from relayd.demo.story import Story, say
from relayd.demo.twistd import Twistd

HOST = "127.0.0.1"
RELAY_PORT = 2525
NEXT_HOP_PORT = 2626
CONSOLE_PORT = 8025
CONSOLE = f"http://localhost:{CONSOLE_PORT}/"
FOLDER = Path("run")
SENDER, RECIPIENT = "you@example.net", "info@example.com"
LOOKED_AT = "look@example.com"
PATIENCE = 60.0  # seconds until the demonstration counts as failed


def configuration(folder: Path) -> str:
    """The embedded default, with a console, and with a mailbox whose mail is held."""
    own = DEFAULT.replace("run/spool", str(folder.resolve() / "spool"), 1)
    held = f'hold     to {LOOKED_AT}   "to be looked at in the console"\n\n'
    console = f"console  listen unix:{folder.resolve() / 'console.sock'}\nconsole  may edit\n"
    own = own.replace("accept ", f"{console}\n{held}accept ", 1)
    return f"{own}expect   from 127.0.0.1 to {LOOKED_AT} -> hold\n"


def attachment() -> bytes:
    """Some 100 KB that no text tool would leave alone: every octet value, CR and LF included."""
    block = bytes(range(256)) + b"\r\n.\r\n\n\r\0"
    return block * 400


def example() -> tuple[EmailMessage, str]:
    """The message, and the SHA-256 of its attachment."""
    data = attachment()
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = f"You <{SENDER}>"
    message["To"] = f"Info <{RECIPIENT}>"
    message["Subject"] = "A first message through relayd"
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = make_msgid(domain="example.net")
    message.set_content("The attachment is to arrive as it left.\n.\n..\nFrom here on: done.\n")
    message.add_attachment(data, maintype="application", subtype="octet-stream", filename="a.bin")
    return message, hashlib.sha256(data).hexdigest()


def attachment_digest(content: bytes) -> str:
    """The SHA-256 of the first attachment of a message; empty if it has none."""
    parsed = message_from_bytes(content, policy=policy.SMTP)
    for part in parsed.walk():
        if part.get_filename():
            data = part.get_payload(decode=True)
            return hashlib.sha256(data if isinstance(data, bytes) else b"").hexdigest()
    return ""


def taken(port: int) -> bool:
    """Whether somebody else has the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def send(message: EmailMessage) -> str:
    """Hand the message to relayd as any program would; its reply to the final dot."""
    with smtplib.SMTP(HOST, RELAY_PORT, timeout=30) as client:
        client.ehlo_or_helo_if_needed()
        client.mail(SENDER)
        code, reply = client.rcpt(RECIPIENT)
        if code != 250:
            raise smtplib.SMTPRecipientsRefused({RECIPIENT: (code, reply)})
        code, reply = client.data(message.as_bytes())
        return f"{code} {reply.decode('ascii', 'replace')}"


class Demo:
    """The demonstration from start to end; `done` fires with the exit status."""

    def __init__(self, once: bool) -> None:
        self.once = once
        self.done: Deferred[int] = Deferred()
        self.story = Story()
        self.message, self.digest = example()
        self.twistd = Twistd(
            ["-n", "--pidfile=", "relayd", "--config", str(FOLDER / "relayd.conf")],
            FOLDER / "relayd.log",
        )
        self.twistd.on_line = self.story.log_line
        self.twistd.on_end = self._relayd_ended
        self._delivered = False
        self._over = False

    def start(self) -> None:
        """Listen as the next hop, start relayd, and send once it greets."""
        try:
            reactor.listenTCP(
                NEXT_HOP_PORT, MaildirFactory(FOLDER / "Maildir", self._stored), interface=HOST
            )
        except CannotListenError:
            self._end(1, port_taken(NEXT_HOP_PORT))
            return
        (FOLDER / "relayd.conf").write_text(configuration(FOLDER))
        reactor.listenTCP(CONSOLE_PORT, Doorway(FOLDER / "console.sock"), interface=HOST)
        say("start", f"next hop on {HOST}:{NEXT_HOP_PORT}, stores in {FOLDER / 'Maildir'}/")
        say("start", f"console at {CONSOLE}: no login, this machine alone gets there")
        say("start", f"$ {self.twistd.shown}        its log: {self.twistd.log}")
        self.twistd.start(reactor)
        reactor.callLater(PATIENCE, self._too_late)
        self._send_when_up()

    def _send_when_up(self) -> None:
        if self._over:
            return
        if not taken(RELAY_PORT):
            reactor.callLater(0.1, self._send_when_up)
            return
        octets = len(self.message.as_bytes())
        say("sent", f"by smtplib, from <{SENDER}> to <{RECIPIENT}>: {octets:,} octets")
        say("", f"its attachment: {len(attachment()):,} octets, sha256 {self.digest[:16]}...")
        deferToThread(send, self.message).addCallbacks(self._sent, self._not_sent)

    def _sent(self, reply: str) -> None:
        self.story.replied(reply)

    def _not_sent(self, failure: Failure) -> None:
        self._end(1, f"relayd did not take the message: {failure.value}")

    def _stored(self, stored: Stored) -> None:
        digest = attachment_digest(stored.content)
        what = f"{stored.path}"
        if digest:
            same = digest == self.digest
            what += f", attachment sha256 {digest[:16]}...{' identical' if same else ''}"
        self.story.received(stored, what)
        if self._delivered or self.message["Message-ID"].encode() not in stored.content:
            return
        self._delivered = True
        # the log line about the same delivery is on its way through a pipe
        reactor.callLater(0.5, self._finish, stored, digest)

    def _finish(self, stored: Stored, digest: str) -> None:
        self.story.flush()
        if digest != self.digest:
            self._end(1, f"the attachment CHANGED on its way: {digest} instead of {self.digest}")
            return
        print(f"\ndelivered: {stored.path}, attachment identical (sha256 {digest})", flush=True)
        if self.once:
            self._end(0)
        else:
            print(INVITATION, flush=True)

    def _too_late(self) -> None:
        if not self._delivered:
            self._end(1, f"nothing arrived within {PATIENCE:.0f} seconds; see {self.twistd.log}")

    def _relayd_ended(self, status: str) -> None:
        if self._delivered:
            self._end(0)  # a Ctrl-C goes to both of us
        else:
            self._end(1, f"relayd ended ({status}):\n{self.twistd.tail()}")

    def _end(self, status: int, why: str = "") -> None:
        if self._over:
            return
        self._over = True
        if why:
            print(f"relayd: {why}", file=sys.stderr, flush=True)
        self.twistd.stop().addBoth(lambda _: self.done.callback(status))


def port_taken(port: int) -> str:
    """What to say of a port that is in use."""
    return (
        f"port {port} on {HOST} is taken by another program;"
        f" end it and try again (who: ss -ltnp 'sport = :{port}')"
    )


def relayctl() -> str:
    """The command as the reader can type it."""
    beside = Path(sys.executable).with_name("relayctl")
    if beside.exists():
        return os.path.relpath(beside)
    return shutil.which("relayctl") or f"{sys.executable} -m relayd.ctl.relayctl"


INVITATION = f"""
relayd stays up until Ctrl-C; what happens to your own mail is shown here, and in the console at
{CONSOLE} (no login: whoever is on this machine). Mail to {LOOKED_AT} is held, so that the
console shows its parts as well: open it there, and release it. Try:

  swaks --server {HOST}:{RELAY_PORT} --from {SENDER} --to {RECIPIENT} --attach README.md
  python3 -c 'import smtplib; smtplib.SMTP("{HOST}", {RELAY_PORT}).sendmail("{SENDER}",
      "{RECIPIENT}", "Subject: mine\\n\\nhello")'
  swaks --server {HOST}:{RELAY_PORT} --from {SENDER} --to {LOOKED_AT} --attach README.md
  {relayctl()} --socket run/spool/control status
  {relayctl()} --socket run/spool/control explain --from {HOST} {RECIPIENT}
  ls run/Maildir/new
"""


def main() -> int:
    """Check, run, and give back the exit status."""
    parser = argparse.ArgumentParser(prog="python -m relayd.demo", description="make run")
    parser.add_argument("--once", action="store_true", help="end after the first message")
    once = parser.parse_args().once or bool(os.environ.get("RELAYD_DEMO_ONCE"))
    for port in (RELAY_PORT, NEXT_HOP_PORT, CONSOLE_PORT):
        if taken(port):
            print(f"relayd: {port_taken(port)}", file=sys.stderr)
            return 1
    FOLDER.mkdir(exist_ok=True)
    demo = Demo(once)
    status: list[int] = []
    stopping: list[bool] = []

    def finished(code: int) -> None:
        status.append(code)
        if not stopping:
            reactor.stop()

    demo.done.addCallback(finished)
    reactor.callWhenRunning(demo.start)
    reactor.addSystemEventTrigger("before", "shutdown", stopping.append, True)
    reactor.addSystemEventTrigger("before", "shutdown", demo.twistd.stop)
    reactor.run()
    return status[0] if status else 0


if __name__ == "__main__":
    sys.exit(main())
