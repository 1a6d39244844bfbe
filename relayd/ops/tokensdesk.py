"""`relayctl token`: makes, lists and revokes the tokens of the HTTP API; in force at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from relayd.login import apitokens, users
from relayd.login.apitokens import ApiToken, ApiTokensError
from relayd.login.roles import ROLES
from relayd.mail.address import AddressError, check_domain, fold_domain
from relayd.mail.log import MailLog
from relayd.ops.answers import TokensAnswer
from relayd.ops.documents import Document, Request, RequestError, text_of

MOST = 1000
FILE = "api-tokens"  # in the spool, for relayd's own user only


class TokensDesk:
    """Those of one relayd, as its file has them."""

    def __init__(self, path: Path, log: MailLog, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._log = log
        self._clock = clock
        self._tokens: dict[str, ApiToken] = {}
        self._by_digest: dict[str, ApiToken] = {}

    def read(self) -> None:
        """Take up what the file has. With a file that is wrong no token is taken."""
        try:
            self._take(apitokens.parse(users.read(self._path)))
        except (OSError, ApiTokensError) as error:
            self._take({})
            self._log.trouble("api tokens", file=str(self._path), why=str(error))

    def find(self, token: str) -> ApiToken | None:
        """Who shows this token."""
        return self._by_digest.get(apitokens.digest_of(token))

    def answer(self, request: Request, who: str) -> Document:
        """The answer to one request; raises RequestError."""
        action, name = text_of(request, "action"), text_of(request, "name")
        answer: TokensAnswer = {"tokens": [], "token": "", "revoked": ""}
        if action == "list":
            answer["tokens"] = [
                {
                    "name": each.name,
                    "role": str(each.role),
                    "since": float(each.since),
                    "domain": each.domain,
                }
                for each in self._tokens.values()
            ]
            return {**answer}
        fresh = dict(self._tokens)
        if action == "make":
            answer["token"], kept = self._made(name, request)
            fresh[name] = kept
        elif action == "revoke":
            if fresh.pop(name, None) is None:
                raise RequestError(f"there is no token {name}")
            answer["revoked"] = name
        else:
            raise RequestError("action: make, list or revoke expected")
        try:
            users.write(self._path, apitokens.lines_of(fresh.values()))
        except OSError as error:
            raise RequestError(f"{self._path}: {error.strerror or error}") from None
        self._take(fresh)
        self._log.notice("operator", command=f"token {action}", by=who, name=name)
        return {**answer}

    def _made(self, name: str, request: Request) -> tuple[str, ApiToken]:
        role, domain = text_of(request, "role"), text_of(request, "domain")
        if not apitokens.NAME.match(name):
            raise RequestError(f"{name!r} is no name: letters, digits, - _ .")
        if name in self._tokens:
            raise RequestError(f"there is a token {name} already; revoke it first")
        if role not in ROLES:
            raise RequestError(f"no role {role!r}; expected one of {', '.join(ROLES)}")
        if len(self._tokens) >= MOST:
            raise RequestError(f"there are {MOST} tokens already; revoke some first")
        if domain:
            try:
                check_domain(domain)
                domain = fold_domain(domain)
            except AddressError as error:
                raise RequestError(f"{domain!r} is no domain: {error}") from None
        return apitokens.made(name, ROLES[role], self._clock(), domain)

    def _take(self, tokens: dict[str, ApiToken]) -> None:
        self._tokens = tokens
        self._by_digest = {each.digest: each for each in tokens.values()}
