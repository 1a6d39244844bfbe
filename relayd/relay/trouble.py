"""What a failure means: for which recipients, whose fault, and whether another host may be tried.

All failure policy is here, by where it happened:

- before the transaction (connecting, greeting, EHLO) the host is at fault, whatever it says: try
  the next one, and when there is none, try all again later. A 5xx there refuses us, not the mail;
- a connection that is lost, that hangs or that ends in 421 while the transaction has no outcome:
  likewise;
- ... but lost after the end of the content the mail may be delivered already: no other host now;
- a 4xx to MAIL, RCPT, DATA or the content is about the mail: the next host is asked (RFC 5321
  section 5.1), and when there is none, the recipient backs off and not the destination;
- ... but on a connection that has carried mail before it may mean that it has carried enough, and
  so may a 5xx to MAIL: a fresh one to the same host, before it counts (see `spent`);
- a 5xx there is about the mail, too, and final, whatever another host has said before: it is
  reported, no other host is asked to say it differently;
- ... unless it speaks of us and not of the mail: a next hop of our own configuration that wants a
  login or TLS, or does not relay for us. Then the mail waits, for our set-up is not its fault;
  said of a recipient it makes that one wait, said before it the whole next hop;
- what a host does not offer (SMTPUTF8, REQUIRETLS, the size) rules out that host; it is permanent
  where every host of the attempt lacks it;
- trouble of our own (no file descriptors, content unreadable) speaks against nobody.

Several hosts may have spoken before an attempt is over: see `weightier`.
"""

from __future__ import annotations

import errno
import re
from typing import Protocol

from twisted.internet import error

from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import NOT_CONFIGURED, Blame, Meaning, Outcome, postponed
from relayd.mail.pacing import SourceAddress
from relayd.mail.reply import Reply, Severity
from relayd.mail.value import dataclass
from relayd.relay.replies import About, row_of
from relayd.relay.survey import Endpoint, Terms
from relayd.smtp.events import End, TransactionDone, TransactionStage, Unwelcome
from relayd.smtp.extensions import Extensions

_MAY_BE_DELIVERED = "lost after end of data: may be delivered"

_LOCAL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_NOT_CONNECTED: tuple[tuple[type[Exception], str], ...] = (
    (error.ConnectionRefusedError, "refused"),
    (error.TCPTimedOutError, "timed out"),
    (error.TimeoutError, "timed out"),
    (error.NoRouteError, "impossible: no route"),
)
TOO_MUCH = ("4.4.5", "4.7.28")  # system congestion; mail flood detected
_OF_MAILBOX = (1, 2)  # address and mailbox status (RFC 3463 sections 3.2 and 3.3)
_NO_MAILBOX = (550, 551, 553)
_NO_ANSWER = (4, 1)
_TOO_MANY = (452, 552)  # 552 as some say it (RFC 5321 section 4.5.3.1.10)
_WHY = 600  # octets of a private reason that tells of several hosts

# What speaks of us, whoever the mail is for: the codes of RFC 4954 section 6 (523 and 525 are of
# RFC 5248's registry), and "authentication credentials invalid" under any code.
_UNKNOWN_TO_THEM = {523, 525, 530, 534, 535, 538}
_CREDENTIALS = (7, 8)
_WANTS_TLS = {523, 530, 538}
# ... and what does so before there is content, for behind it they are a filter's words: undefined
# security status, encryption needed or required, trust relationship required
_BEFORE_CONTENT = {(7, 0), (7, 10), (7, 11), (7, 14)}
# "Relay access denied" has no code of its own: 550 5.7.1 and 554 5.7.1 are also said of mailboxes
# and senders. So here, and only here, the words decide, as the servers in use write them.
_NO_RELAY = re.compile(
    r"\brelay(?:ing)? (?:access )?(?:(?:mail )?(?:to|for|from) \S+ )?(?:is )?"
    r"(?:denied|disallowed|not (?:permitted|allowed)|prohibited|refused)\b"
    r"|\bno relaying\b"
    r"|\b(?:unable|not (?:allowed|permitted|authori[sz]ed)|cannot|do(?:es)? not|don't)"
    r" (?:to )?relay\b"
    r"|\binvalid credentials for relay\b"
    r"|\bnot a gateway\b"
    r"|\bclient host rejected\b"
    r"|\bauth(?:entication)? (?:is )?required\b"
    r"|\b(?:client|user) (?:is |was )?not authenticated\b"
    r"|\b(?:must (?:first )?|please )authenticate\b"
    r"|(?:\bnot|n't) in my list of allowed rcpthosts\b",
    re.IGNORECASE,
)
# out of sequence: what is missing is a login, not that we know the order of commands
_AUTH_FIRST = re.compile(r"\bauth(?:entication|enticate)?\b", re.IGNORECASE)


class SessionError(Exception):
    """There will be no transaction with this host; `outcome` says why."""

    def __init__(self, outcome: Outcome, *, no_address: bool = False) -> None:
        """`no_address`: this machine does not have the one to come from."""
        super().__init__(str(outcome.reply))
        self.outcome = outcome
        self.no_address = no_address


class Peer(Protocol):
    """The side of a connection that a reply is judged by."""

    endpoint: Endpoint
    target: NextHop | str  # what led there: a next hop of ours, or a domain by its MX records
    tls: str  # empty: we speak in the clear
    serves_us: bool  # it has lately taken mail from us
    terms: Terms

    @property
    def extensions(self) -> Extensions:
        """What it offers."""


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


def lacks_address(failure: BaseException | None) -> bool:
    """The address to come from is none of this machine's."""
    return isinstance(failure, error.ConnectError) and failure.osError == errno.EADDRNOTAVAIL


def missing_source(source: SourceAddress, address: str) -> Outcome:
    """The operator has to bring the address back; until then mail waits."""
    text = f"Source {source.name}: {address} is no address of this host"
    why = "see `ip address`, and the statement that defines it"
    return postponed(NOT_CONFIGURED, text, why=why)


def no_source(source: SourceAddress, endpoint: Endpoint) -> Outcome:
    """The host is of a family that the source has no address of."""
    family = "IPv6" if ":" in endpoint.address else "IPv4"
    text = f"Source {source.name} has no {family} address, which {_named(endpoint)} takes"
    return postponed(NOT_CONFIGURED, text)


def unwelcome(
    endpoint: Endpoint, event: Unwelcome, *, spoken: bool, provider: str | None = None
) -> Outcome:
    """The greeting, or the answer to EHLO, turned us away; or (not `spoken`) it never came.

    `provider`: whose host it is, empty if nobody's with a name; None: a next hop of ours.
    """
    reply = event.reply
    if not spoken:
        return _unsaid(endpoint, reply, why=f"at {event.stage}")
    if provider is not None:
        said = _from(endpoint, reply, Blame.DESTINATION, why=f"at {event.stage}")
        said = _meant(provider, endpoint, said)
        if said.meaning is not None and said.meaning.of_us:
            return said
    if reply.severity is not Severity.TRANSIENT:
        # RFC 5321 section 3.1 makes it permanent; but it speaks of us, or of this host, and
        # a blocked gateway must not bounce all its mail
        status = f"4.{max(reply.subject, 3)}.{max(reply.detail, 0)}"
        text = f"{_named(endpoint)} refused to talk to us: {reply}"
        reply = Reply.of(451, status, text)
    return _from(endpoint, reply, Blame.DESTINATION, why=f"at {event.stage}")


def unsecured(endpoint: Endpoint, reply: Reply) -> Outcome:
    """There was to be TLS, and there is none."""
    return _unsaid(endpoint, reply, why=f"at {TransactionStage.STARTTLS}")


def nonsense(endpoint: Endpoint, reason: str) -> Outcome:
    """It broke the protocol before there was a transaction."""
    return _unsaid(endpoint, Reply.of(451, "4.5.0", f"{_named(endpoint)} {reason}"))


def consequence(peer: Peer, done: TransactionDone, number: int) -> Consequence:
    """What this recipient's reply means."""
    endpoint, reply, stage = peer.endpoint, done.replies[number], done.stages[number]
    if stage is TransactionStage.OFFER:
        why = f"not offered by {endpoint}"
        return Consequence(Outcome(reply, remote_address=str(endpoint), why=why), elsewhere=True)
    if reply.code < 300:
        passed_on = peer.extensions.dsn
        return Consequence(Outcome(reply, endpoint.host, str(endpoint), Blame.RECIPIENT, passed_on))
    match done.ending(number):
        case End.UNSENDABLE:
            return Consequence(Outcome(reply, why=done.trouble))
        case End.SHUT_DOWN:
            outcome = _from(endpoint, reply, Blame.DESTINATION, why=f"at {stage}")
            if isinstance(peer.target, str):
                outcome = _meant(peer.terms.provider, endpoint, outcome)
            return Consequence(outcome, elsewhere=True)
        case End.LOST if stage is TransactionStage.END:
            return Consequence(_unsaid(endpoint, reply, why=_MAY_BE_DELIVERED).but(in_doubt=True))
        case End.LOST:
            return Consequence(_unsaid(endpoint, reply, why=f"at {stage}"), elsewhere=True)
    if reply.severity is Severity.PERMANENT:
        unserved = _unserved(peer, reply, stage)
        if unserved is not None:
            return Consequence(unserved, elsewhere=True)
    transient = reply.severity is Severity.TRANSIENT
    said = _from(endpoint, reply, Blame.RECIPIENT, why=f"at {stage}")
    outcome = _meant(peer.terms.provider, endpoint, said) if isinstance(peer.target, str) else said
    return Consequence(outcome, transient or outcome.severity is Severity.TRANSIENT)


def _meant(provider: str, endpoint: Endpoint, said: Outcome) -> Outcome:
    """With what the words mean beyond the code, of a domain's host.

    What is said of us, or of what a recipient has had for now, waits, whatever the code is: the
    mail is not at fault (promise 11). Else the code has the last word.
    """
    reply = said.reply
    row = row_of(provider, reply)
    if row is None:
        return said
    about_us = row.meaning.of_us
    if reply.severity is Severity.PERMANENT and (about_us or row.meaning is Meaning.RECIPIENT):
        subject, detail = max(reply.subject, 0), max(reply.detail, 0)
        status = f"4.{subject}.{detail}" if subject else "4.7.0"
        words = f"{_named(endpoint)} says {row.meaning.value}: {reply}"
        said = said.but(reply=Reply.of(451, status, words))
    if about_us:
        said = said.but(blame=Blame.DESTINATION)
    elif row.about in (About.RECIPIENT, About.MESSAGE):
        said = said.but(blame=Blame.RECIPIENT)
    return said.but(meaning=row.meaning, pause=row.pause)


def spent(done: TransactionDone, number: int) -> bool:
    """On a connection that has carried mail before: it is over, or has carried enough.

    Whether the host takes this recipient's mail is for a fresh connection to find out. Of RCPT and
    of the content's end that holds if nobody is taken, for no reason of the mailbox, or in so many
    words. What is lost behind the end is not for it: that may be delivered.
    """
    stage = done.stages[number]
    match done.ending(number):
        case End.LOST:
            return stage in (TransactionStage.IDLE, TransactionStage.RSET, TransactionStage.MAIL)
        case End.SHUT_DOWN:
            return True
        case End.ANSWERED:
            reply = done.replies[number]
            if reply.severity is Severity.PERMANENT:
                return stage is TransactionStage.MAIL
            if stage in (TransactionStage.MAIL, TransactionStage.DATA):
                return True
            if stage in (TransactionStage.RCPT, TransactionStage.END):
                return reply.status in TOO_MUCH or (
                    reply.subject not in _OF_MAILBOX
                    and all(each.severity is Severity.TRANSIENT for each in done.replies)
                )
    return False


def unknown(done: TransactionDone, number: int) -> bool:
    """It was refused at RCPT because there is no such mailbox.

    That is said of addresses and mailboxes (RFC 3463 sections 3.2 and 3.3), or without a status
    code of a mailbox alone (RFC 5321 section 4.2.2). Whatever else is refused for good is policy,
    or our set-up, and says nothing about the mailbox; but 5.4.1 is how Exchange Online says it.
    """
    reply = done.replies[number]
    if reply.severity is not Severity.PERMANENT or done.stages[number] is not TransactionStage.RCPT:
        return False
    if done.ending(number) is not End.ANSWERED or reply.code in _UNKNOWN_TO_THEM:
        return False
    if reply.subject < 0:
        return reply.code in _NO_MAILBOX and _NO_RELAY.search(reply.text) is None
    return reply.subject in _OF_MAILBOX or (reply.subject, reply.detail) == _NO_ANSWER


def weightier(before: Outcome | None, now: Outcome) -> Outcome:
    """What counts of two words on one recipient that no host has taken or refused for good.

    - A host that has heard of the mail and said "later" outweighs one that is in trouble: the
      destination is not down, this recipient waits.
    - Trouble that somebody has to mend outweighs a host that cannot be reached.
    - What a host does not offer counts only where every host lacks it. Where another is in
      trouble, the mail waits for that one; others do not, for they may go to the first.
    - Of two that weigh the same the later one is it. The other one stands in `why`.
    """
    if before is None:
        return now
    kept, other = (now, before) if _weight(now) >= _weight(before) else (before, now)
    if other.severity is Severity.PERMANENT and kept.severity is not Severity.PERMANENT:
        kept = kept.but(blame=Blame.RECIPIENT)
    return beside(kept, other)


def beside(outcome: Outcome, other: Outcome) -> Outcome:
    """The outcome, with what another host has said in its private reason."""
    told = f"{other.remote_address}: {other.reply}" if other.remote_address else str(other.reply)
    more = f"{told} ({other.why})" if other.why else told
    return outcome.but(why=f"{outcome.why}; before it {more}".removeprefix("; ")[:_WHY])


def _weight(outcome: Outcome) -> int:
    if outcome.severity is Severity.PERMANENT:
        return 0
    if outcome.blame is Blame.RECIPIENT:
        return 3
    # security or policy status; system incorrectly configured (RFC 3463 sections 3.8 and 3.4)
    reply = outcome.reply
    return 2 if reply.subject == 7 or (reply.subject, reply.detail) == (3, 5) else 1


def _unserved(peer: Peer, reply: Reply, stage: TransactionStage) -> Outcome | None:
    """It does not serve us as we are set up; None: the reply is about the mail.

    Before any recipient the whole destination waits for somebody to mend it, and the operator reads
    why; but one that takes other mail from us may mean this sender after all. Of a recipient it is
    said of that one, and others show whether it is true of all (`relayd.spool.queue.Lane`).
    """
    target, endpoint = peer.target, peer.endpoint
    wants_tls = reply.code in _WANTS_TLS and not peer.tls and peer.extensions.starttls
    if isinstance(target, str):
        if not wants_tls:
            return None
        who = _named(endpoint)
    elif wants_tls or _speaks_of_us(reply, stage):
        who = f"Next hop {target.name} at {_named(endpoint)}"
    else:
        return None
    status = f"4.7.{reply.detail}" if reply.subject == 7 else "4.7.0"
    text = f"{who} does not serve us: {reply} ({_advice(target, reply, wants_tls=wants_tls)})"
    blame = Blame.SERVICE
    if stage is TransactionStage.MAIL and (_is_of_login(reply) or not peer.serves_us):
        blame = Blame.DESTINATION
    return _unsaid(endpoint, Reply.of(451, status, text), blame, why=f"at {stage}")


def _speaks_of_us(reply: Reply, stage: TransactionStage) -> bool:
    if _is_of_login(reply):
        return True
    if reply.code == 503 and _AUTH_FIRST.search(reply.text) is not None:
        return True
    if stage not in (TransactionStage.MAIL, TransactionStage.RCPT, TransactionStage.DATA):
        return False
    if (reply.subject, reply.detail) in _BEFORE_CONTENT:
        return True
    return reply.subject in (-1, 7) and _NO_RELAY.search(reply.text) is not None


def _is_of_login(reply: Reply) -> bool:
    return reply.code in _UNKNOWN_TO_THEM or (reply.subject, reply.detail) == _CREDENTIALS


def _advice(target: NextHop | str, reply: Reply, *, wants_tls: bool) -> str:
    if wants_tls:
        return "it wants TLS, which is turned off here or has failed"
    assert isinstance(target, NextHop)
    if target.login:
        return f"see what login {target.login} may do there"
    if _is_of_login(reply):
        return "give this next hop a login"
    return "ask it to relay for this host, or give this next hop a login"


def too_many_recipients(done: TransactionDone, number: int) -> bool:
    """It was only one too many (RFC 5321 section 4.5.3.1.10): the next transaction has room.

    Only where others of the same transaction were taken, so that it comes to an end.
    """
    reply = done.replies[number]
    return (
        done.stages[number] is TransactionStage.RCPT
        and reply.code in _TOO_MANY
        and (reply.code == 452 or reply.subject < 0 or reply.status == "5.5.3")
        and any(
            each.severity is Severity.SUCCESS and stage is TransactionStage.END
            for each, stage in zip(done.replies, done.stages, strict=True)
        )
    )


def _from(endpoint: Endpoint, reply: Reply, blame: Blame, why: str = "") -> Outcome:
    return Outcome(reply, endpoint.host, str(endpoint), blame, why=why)


def _unsaid(
    endpoint: Endpoint, reply: Reply, blame: Blame = Blame.DESTINATION, why: str = ""
) -> Outcome:
    """The host did not say this: so there is no remote MTA in it."""
    return Outcome(reply, "", str(endpoint), blame, why=why)


def _named(endpoint: Endpoint) -> str:
    """The host as a sender may see it; a socket's path is nobody's business."""
    if endpoint.unix:
        return "the mail store"
    if endpoint.host == endpoint.address:
        return str(endpoint)
    return f"{endpoint.host} [{endpoint.address}]:{endpoint.port}"
