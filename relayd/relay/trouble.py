"""What a failure means: for which recipients, whose fault, and whether another host may be tried.

All failure policy is here, by where it happened:

- before the transaction (connecting, greeting, EHLO) the host is at fault, whatever it says: try
  the next one, and when there is none, try all again later. A 5xx there refuses us, not the mail;
- a connection that is lost, that hangs or that ends in 421 while the transaction has no outcome:
  likewise;
- ... but lost after the end of the content the mail may be delivered already: no other host now;
- a reply to MAIL, RCPT, DATA or the content is about the mail, and final for this attempt: 4xx
  backs off the recipient, 5xx is reported, no other host is asked to say it differently;
- trouble of our own (no file descriptors, content unreadable) speaks against nobody.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from twisted.internet import error

from relayd.mail.outcome import Blame, Outcome, postponed
from relayd.mail.reply import Reply, Severity
from relayd.relay.survey import Endpoint
from relayd.smtp.events import Stage, TransactionDone, Unwelcome

MAY_BE_DELIVERED = "lost after end of data: may be delivered"

_OURS = "content of ours"  # how the protocol core names trouble with what it was given to send
_LOCAL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_NOT_CONNECTED: tuple[tuple[type[Exception], str], ...] = (
    (error.ConnectionRefusedError, "refused"),
    (error.TCPTimedOutError, "timed out"),
    (error.TimeoutError, "timed out"),
    (error.NoRouteError, "impossible: no route"),
)
_TOO_MANY = (452, 552)  # 552 as some say it (RFC 5321 section 4.5.3.1.10)


class SessionError(Exception):
    """There will be no transaction with this host; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Consequence:
    """What became of one recipient, and whether the next host may be tried at once."""

    outcome: Outcome
    elsewhere: bool = False


def not_connected(endpoint: Endpoint, failure: BaseException | None) -> Outcome:
    """No connection."""
    if isinstance(failure, error.ConnectError) and failure.osError in _LOCAL:
        return postponed(
            "4.3.2", "System is busy", blame=Blame.RECIPIENT, why=f"{endpoint}: {failure}"
        )
    words = "failed"
    for kind, said in _NOT_CONNECTED:
        if isinstance(failure, kind):
            words = said
            break
    text = f"Connection to {_named(endpoint)} {words}"
    return postponed("4.4.1", text, why=str(failure)).but(remote_address=str(endpoint))


def unwelcome(endpoint: Endpoint, event: Unwelcome, *, spoken: bool) -> Outcome:
    """The greeting, or the answer to EHLO, turned us away; or (not `spoken`) it never came."""
    reply = event.reply
    if not spoken:
        return _unsaid(endpoint, reply, why=f"at {event.stage}")
    if reply.severity is not Severity.TRANSIENT:
        # RFC 5321 section 3.1 makes it permanent; but it speaks of us, or of this host, and
        # a blocked gateway must not bounce all its mail
        status = f"4.{max(reply.subject, 3)}.{max(reply.detail, 0)}"
        text = f"{_named(endpoint)} refused to talk to us: {reply}"
        reply = Reply.of(451, status, text)
    return _from(endpoint, reply, Blame.DESTINATION, why=f"at {event.stage}")


def nonsense(endpoint: Endpoint, reason: str) -> Outcome:
    """It broke the protocol before there was a transaction."""
    return _unsaid(endpoint, Reply.of(451, "4.5.0", f"{_named(endpoint)} {reason}"))


def consequence(
    endpoint: Endpoint, done: TransactionDone, number: int, *, passed_on: bool = False
) -> Consequence:
    """What this recipient's reply means; `passed_on`: the host speaks DSN."""
    reply, stage = done.replies[number], done.stages[number]
    if stage is Stage.OFFER:
        return Consequence(Outcome(reply, why=f"not offered by {endpoint}"))
    if reply.code < 300:
        return Consequence(Outcome(reply, endpoint.host, str(endpoint), Blame.RECIPIENT, passed_on))
    if done.trouble.startswith(_OURS):
        return Consequence(Outcome(reply, why=done.trouble))
    if reply is done.shutdown:
        outcome = _from(endpoint, reply, Blame.DESTINATION, why=f"at {stage}")
        return Consequence(outcome, elsewhere=True)
    if not _cut(done, reply):
        return Consequence(_from(endpoint, reply, Blame.RECIPIENT, why=f"at {stage}"))
    if stage is Stage.END:
        return Consequence(_unsaid(endpoint, reply, why=MAY_BE_DELIVERED))
    return Consequence(_unsaid(endpoint, reply, why=f"at {stage}"), elsewhere=True)


def stale(done: TransactionDone) -> bool:
    """A connection that was kept turns out to be over: the host said nothing about this mail."""
    return all(
        stage in (Stage.IDLE, Stage.RSET, Stage.MAIL)
        and (reply is done.shutdown or _cut(done, reply))
        for stage, reply in zip(done.stages, done.replies, strict=True)
    )


def too_many_recipients(done: TransactionDone, number: int) -> bool:
    """It was only one too many (RFC 5321 section 4.5.3.1.10): the next transaction has room.

    Only where others of the same transaction were taken, so that it comes to an end.
    """
    reply = done.replies[number]
    return (
        done.stages[number] is Stage.RCPT
        and reply.code in _TOO_MANY
        and (reply.code == 452 or reply.subject < 0 or reply.status == "5.5.3")
        and any(
            each.severity is Severity.SUCCESS and stage is Stage.END
            for each, stage in zip(done.replies, done.stages, strict=True)
        )
    )


def _cut(done: TransactionDone, reply: Reply) -> bool:
    """The reply is our own words for the end of the connection."""
    return done.trouble != "" and reply.text.endswith(done.trouble)


def _from(endpoint: Endpoint, reply: Reply, blame: Blame, why: str = "") -> Outcome:
    return Outcome(reply, endpoint.host, str(endpoint), blame, why=why)


def _unsaid(endpoint: Endpoint, reply: Reply, why: str = "") -> Outcome:
    """The host did not say this: so there is no remote MTA in it."""
    return Outcome(reply, "", str(endpoint), Blame.DESTINATION, why=why)


def _named(endpoint: Endpoint) -> str:
    """The host as a sender may see it; a socket's path is nobody's business."""
    if endpoint.unix:
        return "the mail store"
    if endpoint.host == endpoint.address:
        return str(endpoint)
    return f"{endpoint.host} [{endpoint.address}]:{endpoint.port}"
