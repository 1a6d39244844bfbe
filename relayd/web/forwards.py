"""The HTTP API for forwards: `/api/1/domains/DOMAIN/forwards`, `.../forwards/NAME`, `.../rules`.

A token of a domain (relayctl token make --domain) may do this for that one; any
other must be an administrator's. What is written is the domain's file, which is read as any other.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import DeferredLock
from twisted.internet.threads import deferToThread

from relayd.login.apitokens import ApiToken
from relayd.login.roles import Role
from relayd.mail.log import MailLog
from relayd.ops.commands import Operations
from relayd.ops.documents import RequestError
from relayd.ops.forwardsdesk import (
    ChangedError,
    CustomerFile,
    ForwardsDesk,
    ForwardsError,
    NoSuchForwardsError,
    WrongRulesError,
    domain_in,
    mailbox_in,
    tag_of,
    told,
)
from relayd.web.catalogue import API
from relayd.web.exchange import JSON, TurnedAwayError, WebAnswer, WebRequest, read_json
from relayd.web.operations import Gathered

DOMAINS = f"{API}/domains/"
METHODS = ("GET", "HEAD", "PUT", "DELETE")
TEXT = "text/plain; charset=utf-8"
MOST_TARGETS = 1000
_PATH = re.compile(r"/([^/]+)/(rules|forwards)(?:/([^/]+))?\Z")
_STATUS = {
    NoSuchForwardsError: HTTPStatus.NOT_FOUND,
    WrongRulesError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ChangedError: HTTPStatus.PRECONDITION_FAILED,
}


class ForwardsApi:
    """Answers requests below `/api/1/domains/`."""

    def __init__(self, desk: ForwardsDesk, commands: Operations, log: MailLog) -> None:
        self._desk, self._commands, self._log = desk, commands, log
        self._lock = DeferredLock()

    async def answer(self, asked: WebRequest, token: ApiToken) -> WebAnswer:
        """The answer; raises TurnedAwayError."""
        match = _PATH.match(asked.path.removeprefix(DOMAINS[:-1]))
        if match is None or (match[2] == "rules" and match[3]):
            raise TurnedAwayError(HTTPStatus.NOT_FOUND, f"there is no {asked.path}")
        allowed = METHODS if match[2] == "rules" or match[3] else METHODS[:2]
        if asked.method not in allowed:
            fields = [("Allow", ", ".join(allowed))]
            raise TurnedAwayError(HTTPStatus.METHOD_NOT_ALLOWED, "no such method here", fields)
        try:
            domain = domain_in(unquote(match[1], errors="strict"))
            self._permit(token, domain, writes=asked.method not in METHODS[:2])
            name = unquote(match[3] or "", errors="strict")
            await self._lock.acquire()
            try:
                return await self._carried_out(asked, token, domain, match[2], name)
            finally:
                self._lock.release()
        except UnicodeDecodeError:
            raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "the name is not UTF-8") from None
        except ForwardsError as error:
            status = _STATUS.get(type(error), HTTPStatus.BAD_REQUEST)
            raise TurnedAwayError(status, str(error)) from None

    def _permit(self, token: ApiToken, domain: str, *, writes: bool) -> None:
        needed = Role.OPERATOR if writes else Role.VIEWER
        if not token.domain:
            needed = Role.ADMIN
        if not token.about(domain):
            why = f"the token {token.name} is for {token.domain} alone"
        elif token.role < needed:
            whose = "of a token without a domain" if not token.domain else "here"
            why = f"that is for {needed} {whose}; the token {token.name} is {token.role}'s"
        else:
            return
        raise TurnedAwayError(HTTPStatus.FORBIDDEN, why)

    async def _carried_out(
        self, asked: WebRequest, token: ApiToken, domain: str, kind: str, name: str
    ) -> WebAnswer:
        file = self._desk.find(domain)
        if kind == "rules":
            tag = file.tag
        else:
            known = told(file)
            mailbox = mailbox_in(f"{name}@{domain}") if name else None
            there = known if mailbox is None else self._of(known, mailbox.local)
            tag = "" if there is None else tag_of(json.dumps(there).encode())
        if asked.method in METHODS[:2]:
            if not tag:
                raise NoSuchForwardsError(f"there is nothing of {name or domain}")
            if kind == "rules":
                return _answer(HTTPStatus.OK, TEXT, file.octets or b"", tag)
            return _document({"targets" if name else "forwards": there}, HTTPStatus.OK, tag)
        _agree(asked, tag)
        if kind == "rules":
            if asked.method == "PUT":
                await deferToThread(self._desk.replace, file, _text(asked))
            else:
                await deferToThread(self._desk.remove, file)
        elif asked.method == "PUT":
            assert mailbox is not None
            targets = [mailbox_in(each) for each in _targets(asked)]
            await deferToThread(self._desk.set, file, mailbox, targets)
        else:
            assert mailbox is not None
            await deferToThread(self._desk.unset, file, mailbox)
        what = f"{asked.method.lower()} {kind}"
        self._log.notice("operator", command=what, by=f"token:{token.name}", domain=domain)
        return await self._in_force(file, domain, kind, name, made=not tag)

    def _of(self, known: dict[str, list[str]], local: str) -> list[str] | None:
        return next((to for each, to in known.items() if each.lower() == local.lower()), None)

    async def _in_force(
        self, before: CustomerFile, domain: str, kind: str, name: str, *, made: bool
    ) -> WebAnswer:
        """What a reload says, and what there is now."""
        gathered = Gathered()
        try:
            await self._commands.run({"command": "reload"}, gathered, f"api:{domain}")
            said: dict[str, Any] = gathered.documents[-1]["answer"]
        except RequestError as error:
            said = {"complaint": str(error)}
        file = self._desk.find(domain)
        shown = str(before.path)
        answer: dict[str, Any] = {
            "complaint": said.get("complaint", ""),
            "warnings": [each for each in said.get("warnings", ()) if shown in each],
        }
        tag = file.tag
        if kind == "forwards":
            targets = self._of(told(file), mailbox_in(f"{name}@{domain}").local)
            answer["targets"] = targets or []
            tag = "" if targets is None else tag_of(json.dumps(targets).encode())
        return _document(answer, HTTPStatus.CREATED if made and tag else HTTPStatus.OK, tag)


def _agree(asked: WebRequest, tag: str) -> None:
    """What If-Match and If-None-Match ask for (RFC 9110 section 13.1)."""
    wanted, unwanted = asked.header("if-match"), asked.header("if-none-match")
    if wanted and not _fits(wanted, tag):
        raise ChangedError("it is not as it was: somebody else has changed it")
    if unwanted and _fits(unwanted, tag):
        raise ChangedError("it is there already")


def _fits(field: str, tag: str) -> bool:
    tags = [each.strip() for each in field.split(",")]
    return bool(tag) and ("*" in tags or f'"{tag}"' in tags)


def _text(asked: WebRequest) -> str:
    kind = asked.header("content-type").partition(";")[0].strip().lower()
    if kind != "text/plain":
        raise TurnedAwayError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected text/plain")
    try:
        return asked.body.decode()
    except UnicodeDecodeError:
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "the body is not UTF-8") from None


def _targets(asked: WebRequest) -> list[str]:
    kind = asked.header("content-type").partition(";")[0].strip().lower()
    if kind != JSON:
        raise TurnedAwayError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {JSON}")
    found = read_json(asked.body)
    targets = found.get("targets") if isinstance(found, dict) and len(found) == 1 else found
    if (
        not isinstance(targets, list)
        or not 0 < len(targets) <= MOST_TARGETS
        or not all(isinstance(each, str) for each in targets)
    ):
        why = 'expected {"targets": ["ann@example.net"]}'
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, why)
    return targets


def _document(found: object, status: int, tag: str) -> WebAnswer:
    return _answer(status, JSON, json.dumps(found).encode() + b"\n", tag)


def _answer(status: int, kind: str, body: bytes, tag: str) -> WebAnswer:
    fields = (("ETag", f'"{tag}"'),) if tag else ()
    return WebAnswer(status, kind, body, fields)
