"""The commands of one session, and what becomes of its one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from relayd.intake.arriving import ArrivingMessage
from relayd.intake.checks import Objection
from relayd.intake.contentdecision import ContentDecision, refused_by
from relayd.intake.counting import take_back
from relayd.intake.cutthrough import AwaitedAttempt
from relayd.intake.deadlines import SessionPhase
from relayd.intake.gatheredfacts import GatheredFacts, Gatherer
from relayd.intake.intake import ClientNaming, Intake
from relayd.intake.limits import client_key
from relayd.intake.pending import Pending
from relayd.intake.policy import RELAY, ListenerPolicy
from relayd.intake.replies import FULL, LATE, NO_MEMORY, TOO_MANY, TROUBLE, spool_reply
from relayd.intake.takeover import END_OF_CONTENT, submission_of, taken_over
from relayd.intake.trace import protocol_keyword
from relayd.intake.transaction import (
    FREE_RECIPIENTS,
    RECIPIENT,
    Addressee,
    ReceivedTransaction,
    identity,
    merge_notify,
)
from relayd.mail.address import Mailbox, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.message import Submission
from relayd.mail.plan import Verdict
from relayd.mail.reply import Reply
from relayd.report.wishes import STRANGERS
from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.evaluate import Facts
from relayd.rules.ruleset import Ruleset
from relayd.rules.srsstage import FORGED
from relayd.rules.storedfact import kept
from relayd.rules.view import Unasked
from relayd.smtp import events
from relayd.spool.errors import SpoolError

_MAIL_OK = Reply.of(250, "2.1.0", "Ok")
_HELLO_OK = Reply.bare(250)
_GO_AHEAD = Reply.bare(354, "End data with <CR><LF>.<CR><LF>")
_MAIL_FIRST = Reply.of(503, "5.5.1", "MAIL first")
_ASKED_BY_NOW = Reply.of(421, "4.3.2", "The rules have changed, please connect again")
_NOT_VERIFIED = Reply.of(252, "2.5.0", "Cannot verify, but will take mail for it if the rules do")
_NOT_OFFERED = Reply.of(502, "5.5.1", "Not offered")
_LOGIN_FIRST = Reply.of(530, "5.7.0", "Authentication required")  # RFC 6409 section 4.3
_TOO_MANY_HASHES = Reply.of(450, "4.7.1", "Too many wrong SRS addresses, try again later")
_MOST_TOLD = 100  # refusals of one session that have a line in the log; the rest is counted


class Reception:
    """Answers the events of one session; holds at most one transaction and its message.

    Remember, then speak: only the commit is worth waiting for, and everything else is answered on
    the spot from snapshots; unless others are to be asked (see relayd.intake.asking).
    """

    _keeps_header = False  # also where no rule edits it

    def __init__(self, intake: Intake, client: Client, policy: ListenerPolicy = RELAY) -> None:
        self.client = client
        self.messages = 0  # accepted in this session
        self.refused = 0  # commands and contents refused
        self.attended = True  # the client is there to hear what we say
        self.first: AwaitedAttempt | None = None  # that he waits for
        self.arriving: ArrivingMessage | None = None  # from DATA on
        self._intake = intake
        self._policy = policy
        self._filters = intake.filters
        self._transaction: ReceivedTransaction | None = None
        self._naming: ClientNaming | None = None  # for the client's reverse name
        self._gathering: GatheredFacts | None = None
        self._wishes = STRANGERS
        self._wishing: tuple[Ruleset, Client] | None = None  # whose `_wishes` are
        self._expected = False
        self._expect(soon=True)
        if client.rdns is None:
            self._look_up_name()
        if intake.gatherer is not None:
            self._ask_about_client(intake.gatherer)

    @property
    def in_transaction(self) -> bool:
        """MAIL was accepted, and its transaction is not over."""
        return self._transaction is not None

    def connected(self, greeting: Reply) -> Reply | Pending[Any]:
        """The greeting of a client who has just come, or why he is not welcome."""
        return greeting

    def receive(self, event: events.Event) -> Reply | Pending[Any] | None:
        """The verdict on any event but EndOfContent; None where none is needed."""
        return _VERDICTS[type(event)](self, event)

    def end_of_content(self) -> Reply | Pending[Any]:
        """The verdict on the content; a commit, unless something speaks against it."""
        message, transaction = self.arriving, self._transaction
        if message is None or transaction is None:  # the core does not let it happen
            self.rollback()
            return self.refuse(END_OF_CONTENT, TROUBLE)
        submission: Submission | Reply | None = message.end()
        if submission is None:
            asked = None
            if message.examination is not None:
                asked = ContentDecision(message, message.examination).made()
            elif transaction.signs and not message.body_hash:
                asked = message.hash_body()
            if asked is not None:
                return Pending(
                    asked, self._verdict_on_content, lambda: LATE, SessionPhase.EXAMINATION
                )
            submission = submission_of(message)
        if isinstance(submission, Reply):
            self.rollback()
            return self.refuse(END_OF_CONTENT, submission, message.why)
        self._over()
        return taken_over(message, submission, self)

    def _verdict_on_content(self, objection: Objection) -> Reply | Pending[Any]:
        """What others say was heard before (AskingReception); what is left is ours."""
        if self.arriving is not None:
            self.arriving.examined()
            if objection is not None:
                self.arriving.fail(objection)
        return Reception.end_of_content(self)

    def nobody_waits(self) -> None:
        """The client has gone, or is to go: what is under way for him ends as it stands."""
        self.attended = False
        if self.first is not None:
            self.first.hurry()

    def leave(self) -> None:
        """The session is over, or another client's: tell of the refusals that have no line."""
        self.nobody_waits()
        if self._naming is not None:
            self._naming.cancel()
            self._naming = None
        if self._gathering is not None:
            self._gathering.cancel()
        untold = self.refused - _MOST_TOLD
        if untold > 0:
            self._intake.log.refused(self.client, f"and {untold} more", "not told one by one")

    def rollback(self) -> None:
        """The transaction, if there is one, ends without a message."""
        message, transaction = self.arriving, self._transaction
        if message is not None:
            message.rollback()
        if transaction is not None:
            if transaction.counted:
                take_back(transaction.counted)
            if transaction.held:
                self._intake.memory.change(transaction.held, 0)
        if transaction is not None or self._expected:
            self._over()

    def _over(self) -> None:
        """The transaction is over, with a message or without."""
        self.arriving = self._transaction = None
        if self._expected:
            self._expected = False
            self._intake.expect(-1)

    def _expect(self, *, soon: bool) -> None:
        """A new session, and then one with a transaction, is about to commit something."""
        if soon is not self._expected:
            self._expected = soon
            self._intake.expect(1 if soon else -1)

    def secured(self, tls: str, certificate: str = "") -> None:
        """TLS is up: `tls` says how. All that was said before is forgotten (RFC 3207 4.2)."""
        self.rollback()
        self.client = self.client.with_(login="")
        self.client = self.client.with_(tls=tls, certificate=certificate, helo="", protocol="SMTP")

    def introduced(self, client: Client) -> None:
        """XCLIENT: another client speaks from now on, as in a session of its own."""
        self.rollback()
        self.client = client
        self.messages = self.refused = 0
        self.attended = True
        if self._naming is not None:  # another one's
            self._naming.cancel()
            self._naming = None
        if client.rdns is None:
            self._look_up_name()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering.about_client(self._intake.rules(), client)

    def logged_in(self, name: str, mechanism: str = "") -> None:
        """AUTH succeeded."""
        keyword = protocol_keyword(True, bool(self.client.tls), True, False)
        self.client = self.client.with_(login=name, protocol=keyword)

    # -- the client's name -----------------------------------------------------------------------

    def _look_up_name(self) -> None:
        """Begin; it goes on side by side with the session."""
        names = self._intake.names
        if names is not None:
            name = names.known(self.client.address)
            if name is None:
                self._naming = names.look_up(self.client.address)
            else:
                self.client = self.client.with_(rdns=name)

    def _once_named(
        self, naming: ClientNaming, then: Callable[[], Reply | Pending[Any]]
    ) -> Pending[Any]:
        """What needs the name, when it is there or too late."""
        return Pending(naming.wait(), lambda _: then(), lambda: None)

    def _take_name(self, naming: ClientNaming) -> None:
        if not naming.over:
            return
        self._naming = None
        if naming.name is not None:
            self.client = self.client.with_(rdns=naming.name)
            if self._transaction is not None:
                client = self._transaction.client
                self._transaction.client = client.with_(rdns=naming.name)

    # -- what others know --------------------------------------------------------------------

    def _ask_about_client(self, gatherer: Gatherer) -> GatheredFacts:
        gathering = self._gathering = gatherer.gathering()
        gathering.about_client(self._intake.rules(), self.client)
        return gathering

    # -- verdicts --------------------------------------------------------------------------------

    def _hello(self, event: events.Hello) -> Reply:
        client = self.client
        keyword = protocol_keyword(event.esmtp, bool(client.tls), bool(client.login), False)
        self.client = client.with_(helo=event.name, protocol=keyword)
        return _HELLO_OK

    def _mail(self, event: events.Mail) -> Reply | Pending[Any]:
        if self._transaction is not None:
            self.rollback()
        naming = self._naming
        if naming is not None:
            if naming.worth_waiting and REVERSE_NAME in self._intake.rules().needs:
                return self._once_named(naming, lambda: self._mail(event))
            self._take_name(naming)
        intake, params, client = self._intake, event.params, self.client
        if intake.desk is not None and self._filters is None:
            return self.refuse(mail_text(event), _ASKED_BY_NOW, "the rules ask filters by now")
        if self._policy.login_required and not client.login:
            return self.refuse(mail_text(event), _LOGIN_FIRST)
        ruleset = intake.rules()
        if client.login:
            reply = ruleset.send_as.refusal(client, event.path)
            if reply is not None:
                return self.refuse(mail_text(event), reply, f"login {client.login}")
        if not intake.spool.healthy:
            return self.refuse(mail_text(event), TROUBLE, "spool unhealthy")
        if not intake.spool.room(params.size or 0):
            return self.refuse(mail_text(event), FULL, "no room in the spool")
        if params.smtputf8:
            keyword = protocol_keyword(True, bool(client.tls), bool(client.login), True)
            client = client.with_(protocol=keyword)
        self._note_wishes(ruleset)
        ret = self._wishes.ret(params.ret)
        envelope = Envelope(
            event.path, params.body, params.smtputf8, ret, params.envid, params.require_tls
        )
        self._transaction = ReceivedTransaction(envelope, client, intake.clock(), ruleset)
        if intake.gatherer is not None:
            gathering = self._gathering or self._ask_about_client(intake.gatherer)
            gathering.about_sender(ruleset, client, event.path)
        if not self._expected:
            self._expect(soon=True)
        return _MAIL_OK

    def _note_wishes(self, ruleset: Ruleset) -> None:
        """Once for all messages of a client, unless the rules change."""
        known, client = self._wishing, self.client
        if known is None or known[0] is not ruleset or known[1] is not client:
            self._wishing = ruleset, client
            self._wishes = self._intake.wishes(ruleset, client)

    def _rcpt(self, event: events.Rcpt) -> Reply | Pending[Any]:
        gathering = self._gathering
        if gathering is not None and not gathering.complete:
            return Pending(gathering.wait(), lambda _: self._rcpt(event), lambda: None)
        transaction, limits = self._transaction, self._intake.limits
        if transaction is None:  # the core does not let it happen
            return _MAIL_FIRST
        ruleset, mailbox, params = transaction.ruleset, event.path, event.params
        notify = self._wishes.notify(params.notify) if params.notify else params.notify
        named = identity(mailbox)
        known = transaction.addressees.get(named)
        if known is not None:
            known.notify = merge_notify(known.notify, notify)
            return known.plan.reply
        recipients = len(transaction.addressees)
        if recipients >= limits.recipients:
            transaction.full = TOO_MANY
        if transaction.full is not None:  # to decide again what cannot be taken would be dear
            return self.refuse(rcpt_text(mailbox), transaction.full)
        srs, guesses = ruleset.srs, self._intake.guesses
        guessable = guesses if srs is not None and srs.holds(mailbox) else None
        if guessable is not None and guessable.too_many_hashes(client_key(self.client.address)):
            return self.refuse(rcpt_text(mailbox), _TOO_MANY_HASHES, "guesses at SRS addresses")
        facts = Facts(
            transaction.client,
            transaction.envelope.reverse_path,
            mailbox,
            transaction.started,
            None if gathering is None else gathering.facts,
            asks=gathering is not None,
        )
        try:
            plan = self._intake.decide(ruleset, facts)
        except Unasked as unasked:
            assert gathering is not None
            gathering.about_recipient(ruleset, unasked.fact, facts, transaction.counted)
            return self._rcpt(event)
        if plan.verdict is Verdict.REFUSE:
            if guessable is not None and plan.reply is FORGED:
                guessable.wrong_hash(client_key(self.client.address))
            sender = transaction.envelope.reverse_path
            if gathering is not None:
                plan = replace(plan, trail=(*kept(gathering.facts), *plan.trail))
            self._intake.untold(transaction.client, sender, mailbox, plan, ruleset.hash)
            return self._refuse_recipient(mailbox, plan.reply, refused_by(plan))
        total = transaction.destinations + len(plan.destinations)
        if total > limits.destinations and recipients:
            transaction.full = TOO_MANY
            return self._refuse_recipient(mailbox, TOO_MANY, f"{total} final recipients")
        held = max(total, recipients + 1)  # what is thrown away has no destination
        much = held > FREE_RECIPIENTS and held * RECIPIENT > transaction.held
        if much and not transaction.hold(self._intake.memory, held):
            transaction.full = NO_MEMORY
            return self._refuse_recipient(mailbox, NO_MEMORY)
        told = None
        if gathering is not None and ruleset.examined:  # it may be decided again
            told = dict(gathering.facts)
        transaction.add(named, Addressee(mailbox, params.orcpt, notify, plan, told))
        if gathering is not None:
            transaction.note(gathering.of_recipient, gathering.recipient_decided(taken=True))
        return plan.reply

    def _refuse_recipient(self, mailbox: Mailbox, reply: Reply, why: str = "") -> Reply:
        """After it was decided about: nothing of it is counted."""
        if self._gathering is not None:
            self._gathering.recipient_decided(taken=False)
        return self.refuse(rcpt_text(mailbox), reply, why)

    def _data(self, event: events.Data) -> Reply | Pending[Any]:
        naming = self._naming
        if naming is not None:
            if naming.worth_waiting:
                return self._once_named(naming, lambda: self._data(event))
            self._take_name(naming)
        if self._transaction is None:  # the core does not let it happen
            return _MAIL_FIRST
        try:
            self.arriving = ArrivingMessage(
                self._intake,
                self._transaction,
                self._gathering,
                self._filters,
                self._policy,
                keeps_header=self._keeps_header,
            )
        except SpoolError as error:
            return self.refuse("DATA", spool_reply(error), error.reason)
        return _GO_AHEAD

    def _chunk(self, event: events.Chunk) -> None:
        if self.arriving is not None:
            self.arriving.receive(event.data)

    def _content_refused(self, event: events.ContentRefused) -> None:
        self.rollback()
        self.refuse("content", event.reply)

    def _rset(self, event: events.Rset | events.Quit) -> None:
        self.rollback()

    def _core_refused(self, event: events.Refused) -> None:
        self.refuse(event.command, event.reply)

    def _vrfy(self, event: events.Vrfy) -> Reply:
        return _NOT_VERIFIED

    def _not_offered(self, event: events.Event) -> Reply:
        return _NOT_OFFERED

    def refuse(self, command: str, reply: Reply, why: str = "") -> Reply:
        """The client is to hear this; it is counted and told."""
        self.refused += 1
        if self._expected and self._transaction is None:
            self._expect(soon=False)  # it may try again, but who knows when
        if self.refused <= _MOST_TOLD:
            self._intake.log.refused(self.client, command, str(reply), why)
        return reply


_VERDICTS: Mapping[type, Callable[..., Reply | Pending[Any] | None]] = {
    events.Hello: Reception._hello,
    events.Mail: Reception._mail,
    events.Rcpt: Reception._rcpt,
    events.Data: Reception._data,
    events.Chunk: Reception._chunk,
    events.ContentRefused: Reception._content_refused,
    events.Rset: Reception._rset,
    events.Quit: Reception._rset,
    events.Refused: Reception._core_refused,
    events.Vrfy: Reception._vrfy,
    events.StartTls: Reception._not_offered,
    events.Auth: Reception._not_offered,
    events.AuthResponse: Reception._not_offered,
    events.XClient: Reception._not_offered,
}


def mail_text(event: events.Mail) -> str:
    """The command, for the log."""
    return f"MAIL FROM:<{path_text(event.path)}>"


def rcpt_text(mailbox: Mailbox) -> str:
    """The command, for the log."""
    return f"RCPT TO:<{mailbox}>"
