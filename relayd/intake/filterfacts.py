"""What those who are asked are told of a session: macros as Postfix names them, policy attributes.

The order of a policy request, and what is left empty in it, are those of Postfix 3.7.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from relayd.filters.milter import connection, path
from relayd.filters.miltertalk import Happening
from relayd.filters.milterwire import Event, text
from relayd.mail.address import Mailbox, ReversePath, path_text
from relayd.mail.client import Client
from relayd.mail.reply import Reply
from relayd.smtp.events import MailParams, RcptParams

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class AskedAbout:
    """The client of a session, and how it logged in."""

    client: Client
    hostname: str  # ours
    mechanism: str = ""

    @property
    def name(self) -> str:
        """As its address leads to it and back."""
        return self.client.rdns or _UNKNOWN

    @property
    def server(self) -> tuple[str, str]:
        """Our address and port."""
        host, _, port = self.client.listener.rpartition(":")
        return host.strip("[]"), port

    @property
    def tls(self) -> tuple[str, str]:
        """The protocol and the cipher."""
        protocol, _, cipher = self.client.tls.partition(" ")
        return protocol, cipher


def _known(**macros: str) -> dict[str, str]:
    return {name: value for name, value in macros.items() if value}


def connected(peer: AskedAbout) -> Happening:
    """Somebody has come."""
    client = peer.client
    macros = _known(
        j=peer.hostname,
        daemon_name=peer.hostname,
        daemon_addr=peer.server[0],
        daemon_port=peer.server[1],
        v="relayd",
        _=f"{peer.name} [{client.address}]",
        client_addr=client.address,
        client_name=peer.name,
        client_port=str(client.port),
        client_ptr=peer.name,
        client_resolve="OK" if client.rdns else "FAIL",
    )
    return Happening(Event.CONNECT, connection(peer.name, client.address, client.port), macros)


def introduced(peer: AskedAbout) -> Happening:
    """HELO or EHLO."""
    protocol, cipher = peer.tls
    macros = _known(tls_version=protocol, cipher=cipher)
    return Happening(Event.HELO, text(peer.client.helo), macros)


def sent_from(peer: AskedAbout, sender: ReversePath, params: MailParams) -> Happening:
    """MAIL."""
    given = [
        f"SIZE={params.size}" if params.size is not None else "",
        f"BODY={params.body}" if params.body else "",
        "SMTPUTF8" if params.smtputf8 else "",
        f"RET={params.ret}" if params.ret else "",
        f"ENVID={params.envid}" if params.envid else "",
    ]
    login = peer.client.login
    macros = _known(
        auth_type=peer.mechanism if login else "",
        auth_authen=login,
        mail_host=sender.domain if sender is not None else peer.hostname,
        mail_mailer="smtp",
    )
    macros["mail_addr"] = path_text(sender)  # empty for the null one: it is known
    data = path(path_text(sender), tuple(filter(None, given)))
    return Happening(Event.MAIL, data, macros)


def sent_to(mailbox: Mailbox, params: RcptParams) -> Happening:
    """RCPT."""
    given = [
        f"NOTIFY={','.join(sorted(params.notify))}" if params.notify else "",
        f"ORCPT={params.orcpt}" if params.orcpt else "",
    ]
    macros = _known(rcpt_addr=str(mailbox), rcpt_host=mailbox.domain, rcpt_mailer="smtp")
    return Happening(Event.RCPT, path(str(mailbox), tuple(filter(None, given))), macros)


def refused(mailbox: Mailbox, params: RcptParams, reply: Reply) -> Happening:
    """RCPT that we refuse: who wants to hear of it hears why, as Sendmail says it."""
    told = sent_to(mailbox, params)
    macros = {"rcpt_mailer": "error", "rcpt_host": reply.status, "rcpt_addr": reply.text}
    return Happening(told.event, told.data, macros)


def content_begins(ident: str) -> Happening:
    """DATA, or the first BDAT."""
    return Happening(Event.DATA, b"", {"i": ident})


def _unquoted(mailbox: ReversePath) -> str:
    """As Postfix has it inside, where nothing needs quotes."""
    return "" if mailbox is None else f"{mailbox.local}@{mailbox.domain}"


def instance() -> str:
    """What marks the requests about one message."""
    return f"{secrets.token_hex(2)}.{int(time.time()):x}.{secrets.token_hex(3)}.0"


def policy_attributes(
    peer: AskedAbout,
    state: str,
    sender: ReversePath,
    recipient: Mailbox | None,
    *,
    instance: str,
    size: int,
    recipients: int = 0,
    ident: str = "",
) -> Mapping[str, str]:
    """A question about one recipient (`state` RCPT), or about a message (END-OF-MESSAGE)."""
    client = peer.client
    protocol, cipher = peer.tls
    server = peer.server
    return {
        "protocol_state": state,
        "protocol_name": "SMTP" if client.protocol == "SMTP" else "ESMTP",
        "client_address": client.address,
        "client_name": peer.name,
        "client_port": str(client.port),
        "reverse_client_name": peer.name,
        "server_address": server[0],
        "server_port": server[1],
        "helo_name": client.helo,
        "sender": _unquoted(sender),
        "recipient": _unquoted(recipient),
        "recipient_count": str(recipients),
        "queue_id": ident,
        "instance": instance,
        "size": str(size),
        "etrn_domain": "",
        "stress": "",
        "sasl_method": peer.mechanism if client.login else "",
        "sasl_username": client.login,
        "sasl_sender": "",
        "ccert_subject": "",
        "ccert_issuer": "",
        "ccert_fingerprint": client.certificate,
        "ccert_pubkey_fingerprint": "",
        "encryption_protocol": protocol,
        "encryption_cipher": cipher,
        "encryption_keysize": "0",
        "policy_context": "",
    }


def rspamd_headers(
    peer: AskedAbout, sender: ReversePath, recipients: list[Mailbox], ident: str
) -> list[tuple[str, str]]:
    """The envelope of a message, as /checkv2 wants it."""
    client = peer.client
    protocol, cipher = peer.tls
    return [
        ("Ip", client.address),
        ("Helo", client.helo),
        ("Hostname", client.rdns or ""),
        ("From", path_text(sender)),
        *(("Rcpt", str(each)) for each in recipients),
        ("Queue-Id", ident),
        ("User", client.login),
        ("MTA-Name", peer.hostname),
        ("TLS-Cipher", cipher),
        ("TLS-Version", protocol),
    ]
