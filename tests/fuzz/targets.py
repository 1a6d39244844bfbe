"""What is fuzzed, and what must hold whatever the input.

Each target takes octets and raises AssertionError, or anything else, when its invariant is
broken. The invariant stands in its docstring.
"""

from __future__ import annotations

import email
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from relayd.config import ConfigErrors
from relayd.config.load import load_text
from relayd.mail.address import AddressError, Mailbox
from relayd.mail.envelope import Recipient
from relayd.mail.outcome import failed
from relayd.report.dsn import write
from relayd.report.smaller import reduced
from relayd.smtp.client import SmtpClient, Transaction
from relayd.smtp.events import Ready, SendContent, TransactionDone
from tests.fuzz import parsers, peers
from tests.unit.report.examples import HOSTNAME, IDENT, NOW, message, recipient, reports, settlement
from tests.unit.smtp.house import House

_REPLIES = re.compile(rb"(?:[2345][0-9]{2}[ -][ -~\x80-\xff]*\r\n)*\Z")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")


def pieces(data: bytes) -> Iterator[bytes]:
    """The octets behind the first, in pieces of the size that it says."""
    size = data[0] % 61 + 1 if data else 1
    yield from (data[at : at + size] for at in range(1, len(data), size))


def server(data: bytes) -> None:
    """A client may say anything: no exception, well-formed replies, and only clean content.

    What is taken as a message holds neither NUL nor a bare CR or LF, and nothing in it was a
    command to us.
    """
    house = House()
    for piece in pieces(data):
        if house.closed:
            break
        house.send(piece)
        assert house.server.buffered <= 1 << 20
    heard = house.receive()
    assert _REPLIES.match(heard), heard
    for content in house.messages:
        assert not _BARE.search(content), content


def server_cut(data: bytes) -> None:
    """However the octets of a client are cut, the same is heard and taken."""
    whole, cut = House(), House()
    whole.send(data[1:])
    for piece in pieces(data):
        cut.send(piece)
    assert (whole.messages, whole.receive()) == (cut.messages, cut.receive())


def client(data: bytes) -> None:
    """A next hop may say anything: no exception, one reply a recipient, 2xx only after our dot."""
    core = SmtpClient("client.example", lmtp=bool(data) and data[0] >= 128)
    to = tuple(
        Recipient(Mailbox(name, "example.com"), Mailbox(name, "example.com")) for name in "abc"
    )
    ended = asked = False
    for piece in pieces(data):
        core.receive_data(piece)
        while (event := core.next_event()) is not None:
            if isinstance(event, Ready) and not asked:
                asked = True
                core.send(Transaction(Mailbox("s", "example.org"), to, size=7))
            elif isinstance(event, SendContent):
                core.send_content(b".text\r\n")
                core.end_content()
                ended = True
            elif isinstance(event, TransactionDone):
                assert len(event.replies) == len(to)
                assert ended or all(reply.code >= 400 for reply in event.replies), event
        assert not _BARE.search(core.data_to_send())


def address(data: bytes) -> None:
    """What is taken for a mailbox is the same when printed and read again, and fits on a line."""
    try:
        mailbox = Mailbox.parse(data.decode("utf-8", "surrogateescape"))
    except AddressError:
        return
    text = str(mailbox)
    assert Mailbox.parse(text) == mailbox, text
    assert text.splitlines() == [text], text
    assert mailbox.domain_key
    assert "\0" not in text


def rules(data: bytes) -> None:
    """A configuration is read, or every complaint about it has a place; nothing else happens."""
    text = "hostname gw.example.com\n" + data.decode("utf-8", "replace")
    try:
        load_text(text, Path("/nonexistent"), "relayd.conf")
    except ConfigErrors as errors:
        assert "relayd.conf" in str(errors), errors


def report(data: bytes) -> None:
    """Whatever a message, a next hop and a sender say: a report of clean lines that tells of one.

    Its lines are no longer than 998 octets, and its own header is not the message's to write.
    """
    head, _, rest = data.partition(b"\0")
    head = _BARE.sub(b"", head).replace(b"\r\n\r\n", b"\r\n")
    about = message(head + b"\r\n\r\n" + _BARE.sub(b"", rest))
    said = rest[:400].decode("utf-8", "replace")
    outcome = failed("5.1.1", said or "no")
    for owed in reports(about, settlement(recipient(), outcome=outcome)):
        written = write(
            owed, ident=IDENT, hostname=HOSTNAME, now=NOW, route=lambda mailbox: ()
        ).content
        assert not _BARE.search(written), written
        assert max(map(len, written.split(b"\r\n"))) <= 998
        parsed = email.message_from_bytes(written)
        assert parsed.get_content_type() == "multipart/report"
        assert len(parsed.get_all("From", [])) == 1
        parts = parsed.get_payload()
        assert len(parts) == 3, parts
        small = reduced(written, bare=False)
        assert small is not None
        assert small.isascii()
        assert not _BARE.search(small), small
        assert len(email.message_from_bytes(small).get_payload()) == 3


_PARSERS = (
    parsers.conversion,
    parsers.header,
    parsers.proxy,
    parsers.dovecot,
    parsers.scram,
    parsers.srs,
    parsers.sts,
)
_PEERS = (
    peers.rewriting,
    peers.submission,
    peers.names,
    peers.greeting,
    peers.paths,
    peers.xtext,
    peers.xclient,
    peers.sasl,
    peers.challenges,
    peers.slip,
    peers.tlsrpt,
)
_OURS = (server, server_cut, client, address, rules, report)
TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (*_OURS, *_PARSERS, *_PEERS)
}
CORPUS = Path(__file__).with_name("corpus")
DIALOGUES = Path(__file__).parents[1] / "dialogues"


def corpus(name: str) -> list[bytes]:
    """What was found before, and what is worth beginning with."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def seeds(name: str) -> list[bytes]:
    """Where to begin: what clients and servers say in tests/dialogues, in one piece."""
    side = {"server": "C: ", "server_cut": "C: ", "client": "S: "}.get(name)
    if side is None:
        return []
    found = []
    for path in sorted(DIALOGUES.glob("*.smtp")):
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
        said = "".join(f"{line[3:]}\r\n" for line in lines if line.startswith(side))
        found.append(b"\xff" + said.encode("utf-8", "surrogateescape"))
    return found
