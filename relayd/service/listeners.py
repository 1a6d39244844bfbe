"""A `listen` statement as the policy of its sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from relayd.config import Listener, Settings
from relayd.config.logins import AUTH, MECHANISMS, SUBMISSION
from relayd.config.peers import PROXY, XCLIENT, XCLIENT_LOGIN
from relayd.config.values import STRICT
from relayd.intake.accounttables import AccountTables
from relayd.intake.authentication import LoginPolicy
from relayd.intake.policy import ListenerPolicy, ServerSide
from relayd.login.guesses import Guesses
from relayd.login.mechanisms import DEFAULT
from relayd.mail.log import MailLog
from relayd.mail.security import IMPLICIT
from relayd.rules.tables.table import Table, Unknown
from relayd.smtp.xclient import ATTRIBUTES, LOGIN


class ListenerPolicies:
    """Makes them; `tables` are those in force, `certificates` has what a listener serves."""

    def __init__(
        self,
        certificates: Callable[[str], ServerSide],
        tables: Callable[[], Mapping[str, Table]],
        accounts: AccountTables,
        guesses: Guesses,
        log: MailLog,
    ) -> None:
        self._certificates = certificates
        self._tables = tables
        self._accounts = accounts
        self._guesses = guesses
        self._log = log

    def of(self, settings: Settings) -> dict[str, ListenerPolicy]:
        """The policy of each listener, by its name."""
        return {str(each): self._policy(each, settings) for each in settings.listeners}

    def _policy(self, listener: Listener, settings: Settings) -> ListenerPolicy:
        tls = listener.option("tls")
        served = self._certificates(str(listener))
        submission, table = bool(listener.option(SUBMISSION)), listener.option(AUTH)
        strict = bool(listener.option(STRICT))
        return ListenerPolicy(
            tls=served if tls != "none" else None,
            implicit=tls == IMPLICIT,
            balancer=self._balancer(listener),
            xclient=self._xclient(listener),
            strict=strict,
            submission=submission,
            login_required=submission and bool(table),
            origin=settings.origin or settings.hostname if submission or not strict else "",
            login=self._login(listener, in_clear=settings.auth_without_tls) if table else None,
        )

    def _balancer(self, listener: Listener) -> Callable[[str], bool] | None:
        peers = listener.peers(PROXY)
        if not peers.patterns:
            return None
        return lambda address: peers.hold(address, self._tables())

    def _xclient(self, listener: Listener) -> Callable[[str], tuple[str, ...]] | None:
        peers = listener.peers(XCLIENT)
        if not peers.patterns:
            return None
        offered = (*ATTRIBUTES, LOGIN) if listener.option(XCLIENT_LOGIN) else ATTRIBUTES

        def xclient(address: str) -> tuple[str, ...]:
            try:
                return offered if peers.hold(address, self._tables()) else ()
            except Unknown:
                return ()

        return xclient

    def _login(self, listener: Listener, *, in_clear: bool) -> LoginPolicy:
        accounts = self._accounts.accounts(listener.option(AUTH))
        said = tuple(listener.option(MECHANISMS).replace(",", " ").split())
        return LoginPolicy(accounts, self._guesses, self._log, in_clear, said or DEFAULT)
