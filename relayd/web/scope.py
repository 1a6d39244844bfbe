"""What a token of one domain sees and does: mail for that domain, and nothing else.

Mail is for a domain where the client named a recipient in it, or the rules made one so. A call that
is not spoken of here is not for such a token, so nothing that comes later is open by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from relayd.login.apitokens import ApiToken
from relayd.mail.address import AddressError, fold_domain
from relayd.web.catalogue import Call
from relayd.web.exchange import TurnedAwayError

_ACTIONS = ("retry", "hold", "release", "remove", "reroute")
_MOST = 100_000  # messages that are counted for `figures`


def scoped(call: Call, request: dict[str, object], token: ApiToken) -> dict[str, object]:
    """What the command is asked for who has this token; raises TurnedAwayError."""
    domain = token.domain
    if not domain:
        return request
    if call.command == "queue" or call.command in _ACTIONS:
        return {**request, "domain": domain}
    if call.command == "figures":
        return {"command": "queue", "domain": domain, "limit": _MOST}
    if call.command == "find":
        return {**request, "recipient": _recipient(request, token)}
    if call.command == "explain":
        if domain_of(str(request.get("recipient", ""))) != domain:
            raise _elsewhere(token, "ask about a recipient there")
        return request
    if call.command == "show":
        return request
    raise _elsewhere(token, f"{call.path} is about all of relayd")


def _recipient(request: Mapping[str, object], token: ApiToken) -> str:
    asked = str(request.get("recipient", "")).strip()
    if not asked:
        return f"@{token.domain}"
    if domain_of(asked) != token.domain:
        raise _elsewhere(token, "look for recipients there")
    return asked


def within(call: Call, found: dict[str, Any], token: ApiToken) -> dict[str, Any]:
    """As much of an answer as is about the token's domain; raises TurnedAwayError."""
    domain = token.domain
    if not domain:
        return found
    if call.command == "figures":
        return _figures(found["messages"])
    if call.command == "show":
        own = [each for each in found["recipients"] if _is_for(domain, each)]
        if not own:
            raise TurnedAwayError(
                HTTPStatus.NOT_FOUND,
                f"no message {found['id']}: not waiting, nor in the ledger",
            )
        if len(own) < len(found["recipients"]):  # what was decided for others is theirs
            found = {**found, "trail": [], "facts": []}
        return {**found, "recipients": own}
    return found


def _is_for(domain: str, recipient: Mapping[str, Any]) -> bool:
    return domain in (domain_of(recipient["mailbox"]), domain_of(recipient["original"]))


def domain_of(mailbox: str) -> str:
    """Of a mailbox as text, folded, as a token has it; none: empty."""
    _, at, domain = mailbox.strip().strip("<>").rpartition("@")
    try:
        return fold_domain(domain) if at else ""
    except AddressError:  # of a message that came by other rules: nobody's
        return domain.lower()


def _figures(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """`figures` of what waits for one domain; whatever is of relayd as a whole is left at 0."""
    oldest: dict[str, float] = {}
    for message in messages:
        for each in message["recipients"]:
            at = oldest.get(each["destination"], message["received_at"])
            oldest[each["destination"]] = min(at, message["received_at"])
    return {
        "messages": len(messages),
        "octets": sum(message["size"] for message in messages),
        "oldest": oldest,
        "providers": {},
        "sessions": 0,
        "deliveries": 0,
        "healthy": True,
    }


def _elsewhere(token: ApiToken, what: str) -> TurnedAwayError:
    why = f"the token {token.name} is for {token.domain} alone: {what}"
    return TurnedAwayError(HTTPStatus.FORBIDDEN, why)
