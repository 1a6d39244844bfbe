"""Asks Dovecot's auth socket about passwords: one connection, kept, opened anew when it ends."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector, IDelayedCall
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure

from relayd.login.dovecot import DovecotAnswer, DovecotClient, DovecotError, Result

PATIENCE = 30.0  # seconds; Dovecot holds back a FAIL for two
MOST_WAITING = 1000  # questions without an answer; the next one hears "trouble"


class _Question:
    """One login that waits for its verdict."""

    def __init__(self, user: str, password: str, address: str, *, secured: bool) -> None:
        self.user = user
        self.password = password
        self.address = address
        self.secured = secured
        self.answer: Deferred[DovecotAnswer] = Deferred()
        self.timer: IDelayedCall | None = None

    def end(self, verdict: DovecotAnswer) -> None:
        """Answer, unless that has been done."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        if not self.answer.called:
            self.answer.callback(verdict)


class _Line(Protocol):
    """The connection."""

    def __init__(self, owner: DovecotSocket) -> None:
        self._owner = owner
        self.client = DovecotClient(os.getpid())

    def connectionMade(self) -> None:
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        try:
            verdicts = self.client.receive(data)
        except DovecotError as error:
            self._owner.lost(self, str(error))
            self._transport.abortConnection()
            return
        for verdict in verdicts:
            self._owner.decided(verdict)
        if self.client.ready:
            self._owner.ready(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._owner.lost(self, "the connection is lost")

    def flush(self) -> None:
        """Write what the core has to say."""
        data = self.client.data_to_send()
        if data:
            self._transport.write(data)

    @property
    def _transport(self) -> Any:  # noqa: ANN401  # a unix transport, of which Twisted says less
        return self.transport


class _Dialer(ClientFactory):
    noisy = False

    def __init__(self, owner: DovecotSocket) -> None:
        self._owner = owner

    def buildProtocol(self, addr: object) -> Protocol:
        return self._owner.line()

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._owner.lost(None, reason.getErrorMessage())


class DovecotSocket:
    """One auth socket. `check` never fails: what goes wrong is Result.TROUBLE."""

    def __init__(self, reactor: Any, path: str) -> None:  # noqa: ANN401  # several interfaces
        self._reactor = reactor
        self._path = path
        self._line: _Line | None = None
        self._dialing = False
        self._unasked: list[_Question] = []
        self._asked: dict[int, _Question] = {}

    def check(
        self, user: str, password: str, *, address: str, secured: bool
    ) -> Deferred[DovecotAnswer]:
        """Whether this is the user's password."""
        question = _Question(user, password, address, secured=secured)
        if len(self._unasked) + len(self._asked) >= MOST_WAITING:
            question.end(_trouble("too many logins wait for Dovecot"))
            return question.answer
        question.timer = self._reactor.callLater(PATIENCE, self._too_late, question)
        self._unasked.append(question)
        if self._line is not None and self._line.client.ready:
            self.ready(self._line)
        elif not self._dialing:
            self._dialing = True
            self._reactor.connectUNIX(self._path, _Dialer(self), PATIENCE)
        return question.answer

    def close(self) -> None:
        """Ask no more; who waits hears of trouble."""
        line = self._line
        if line is not None:
            self.lost(line, "stopping")
            line._transport.abortConnection()

    # what the connection says

    def line(self) -> _Line:
        """A new connection, not yet open."""
        self._line = _Line(self)
        return self._line

    def ready(self, line: _Line) -> None:
        """Dovecot has greeted: ask what waits."""
        self._dialing = False
        waiting, self._unasked = self._unasked, []
        for question in waiting:
            if question.answer.called:
                continue
            try:
                number = line.client.ask(
                    question.user,
                    question.password,
                    address=question.address,
                    secured=question.secured,
                )
            except DovecotError as error:
                question.end(_trouble(str(error)))
            else:
                self._asked[number] = question
        line.flush()

    def decided(self, verdict: DovecotAnswer) -> None:
        """One answer."""
        question = self._asked.pop(verdict.number, None)
        if question is not None:
            question.end(verdict)

    def lost(self, line: _Line | None, why: str) -> None:
        """The connection ended or was never made."""
        if line is not self._line and line is not None:
            return
        self._line = None
        self._dialing = False
        questions = [*self._asked.values(), *self._unasked]
        self._asked, self._unasked = {}, []
        for question in questions:
            question.end(_trouble(why))

    def _too_late(self, question: _Question) -> None:
        question.end(_trouble("Dovecot does not answer"))
        self._unasked = [each for each in self._unasked if each is not question]
        self._asked = {n: each for n, each in self._asked.items() if each is not question}
        line = self._line
        if line is not None and not line.client.ready:
            self.lost(line, "Dovecot does not greet")
            line._transport.abortConnection()


def _trouble(why: str) -> DovecotAnswer:
    return DovecotAnswer(0, Result.TROUBLE, why=why)
