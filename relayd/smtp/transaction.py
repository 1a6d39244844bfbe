"""One transaction as the client is to carry it out, and what a next hop's offer makes of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field

from relayd.mail.address import AddressError, Mailbox, ReversePath
from relayd.mail.envelope import Recipient
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass
from relayd.smtp.extensions import Extensions
from relayd.smtp.xtext import encode_orcpt, encode_xtext


@dataclass(frozen=True, slots=True)
class Transaction:
    """Envelope, and the facts about the content that decide what must be negotiated."""

    reverse_path: ReversePath
    recipients: Sequence[Recipient]  # ORCPT and NOTIFY go along when the next hop speaks DSN
    size: int  # octets of content, exactly
    body: str = ""  # "", "7BIT" or "8BITMIME" as the originator declared it
    ret: str = ""
    envid: str = ""  # decoded
    eight_bit: bool = False  # an octet above 127 is in the content
    utf8_header: bool = False  # ... and in its header section
    ends_with_crlf: bool = True  # else BDAT is used where possible, for DATA would add one
    require_tls: bool = False  # RFC 8689
    smtputf8: bool = False  # the originator asked for it; addresses that need it do, too
    verifies: bool = False  # no content follows: it is only asked whether the recipients are taken
    bcc: bool = False  # whoever sent it must not hear of it: without DSN it is sent by nobody

    def path_for(self, offer: Extensions) -> ReversePath:
        """MAIL FROM; who does not know NOTIFY=NEVER gets none to report to (RFC 3461 5.2.2)."""
        return None if self.bcc and not offer.dsn else self.reverse_path


# Permanent, each where its RFC says so: the next hop's offer will be the same in an hour.
NO_UTF8_ADDRESS = Reply.of(553, "5.6.7", "Next hop takes no non-ASCII addresses")  # RFC 6531 3.5
NO_UTF8_HEADER = Reply.of(554, "5.6.9", "Next hop takes no UTF-8 header fields")  # RFC 6531 3.5
NO_EIGHT_BIT = Reply.of(554, "5.6.3", "Next hop takes no 8-bit content")  # RFC 6152 section 3
NO_SUCH_SIZE = Reply.of(
    552, "5.3.4", "Message is larger than the next hop takes"
)  # RFC 1870 section 6
NO_REQUIRETLS = Reply.of(550, "5.7.30", "Next hop does not support REQUIRETLS")  # RFC 8689 4.2.1
NO_ADDRESS = Reply.of(501, "5.1.3", "Address cannot be put into a command")
NO_REVERSE_PATH = Reply.of(501, "5.1.7", "Reverse-path cannot be put into a command")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOTIFY_ORDER = ("NEVER", "SUCCESS", "FAILURE", "DELAY")


@dataclass(slots=True)
class Commands:
    """The envelope in the words of this next hop, and whom it leaves out."""

    mail: bytes = b""
    rcpt: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # which recipient each `rcpt` is for
    refused: dict[int, Reply] = field(default_factory=dict)
    bdat: bool = False  # the content goes by BDAT
    verifies: bool = False  # there is none


def commands_for(transaction: Transaction, offer: Extensions) -> Commands:
    """Negotiate: nothing is sent that the next hop did not offer, and nothing is mangled."""
    commands = Commands(verifies=transaction.verifies)
    recipients = transaction.recipients
    utf8 = offer.smtputf8 and _wants_smtputf8(transaction)
    path = transaction.path_for(offer) if transaction.bcc else transaction.reverse_path
    text = "" if path is None else _path_text(path, utf8)
    refusal = _refusal(transaction, path, offer)
    if text is None and refusal is None:
        refusal = NO_REVERSE_PATH
    if refusal is not None:
        commands.refused = dict.fromkeys(range(len(recipients)), refusal)
        return commands
    commands.mail = f"MAIL FROM:<{text}>{_mail_params(transaction, offer, utf8)}\r\n".encode()
    for number, recipient in enumerate(recipients):
        mailbox = recipient.mailbox
        if not utf8 and not mailbox.local.isascii():
            commands.refused[number] = NO_UTF8_ADDRESS
            continue
        text = _path_text(mailbox, utf8)
        if text is None:
            commands.refused[number] = NO_ADDRESS
            continue
        params = _rcpt_params(recipient, utf8) if offer.dsn else ""
        commands.rcpt.append(f"RCPT TO:<{text}>{params}\r\n".encode())
        commands.numbers.append(number)
    commands.bdat = offer.chunking and not transaction.ends_with_crlf
    return commands


def _refusal(transaction: Transaction, path: ReversePath, offer: Extensions) -> Reply | None:
    """Why this next hop cannot have the message at all."""
    if not offer.smtputf8:
        if transaction.utf8_header and transaction.smtputf8:
            return NO_UTF8_HEADER
        if path is not None and not path.local.isascii():
            return NO_UTF8_ADDRESS
    if transaction.eight_bit and not offer.eight_bit:
        return NO_EIGHT_BIT
    if 0 < offer.size_limit < transaction.size:
        return NO_SUCH_SIZE
    if transaction.require_tls and not offer.require_tls:
        return NO_REQUIRETLS
    return None


def _wants_smtputf8(transaction: Transaction) -> bool:
    """RFC 6531 section 3.4: asked for when an address or the header section needs it.

    Header fields that came with octets above 127 and without SMTPUTF8 are older than it, and in
    any charset: they go on as 8-bit content, as they came.
    """
    if transaction.utf8_header and transaction.smtputf8:
        return True
    path = transaction.reverse_path
    if path is not None and not (path.local.isascii() and path.domain.isascii()):
        return True
    return any(
        not (recipient.mailbox.local.isascii() and recipient.mailbox.domain.isascii())
        for recipient in transaction.recipients
    )


def _path_text(mailbox: Mailbox, utf8: bool) -> str | None:
    """The mailbox between angle brackets; None: no command can carry it.

    Rules may have made this mailbox, so its text is not trusted to stay on its line.
    """
    try:
        text = str(mailbox) if utf8 or mailbox.domain.isascii() else mailbox.ascii
    except AddressError:
        return None
    if not text.isprintable() and _CONTROL.search(text):
        return None
    return text if ">" not in mailbox.domain and " " not in mailbox.domain else None


def _mail_params(transaction: Transaction, offer: Extensions, utf8: bool) -> str:
    params = f" SIZE={transaction.size}" if offer.size else ""
    if offer.eight_bit:
        body = "8BITMIME" if transaction.eight_bit else transaction.body
        if body:
            params += f" BODY={body}"
    if utf8:
        params += " SMTPUTF8"
    if offer.dsn:
        if transaction.ret:
            params += f" RET={transaction.ret}"
        if transaction.envid:
            params += f" ENVID={encode_xtext(transaction.envid)}"
    if transaction.require_tls:
        params += " REQUIRETLS"
    return params


def _rcpt_params(recipient: Recipient, utf8: bool) -> str:
    params = ""
    if recipient.notify:
        words = [word for word in _NOTIFY_ORDER if word in recipient.notify]
        params = f" NOTIFY={','.join(words)}"
    if recipient.orcpt:
        params += f" ORCPT={encode_orcpt(recipient.orcpt, smtputf8=utf8)}"
    return params
