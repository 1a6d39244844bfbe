"""What became of one recipient in one attempt, in the terms of RFC 3464 section 2.3."""

from __future__ import annotations

import enum
from dataclasses import replace

from relayd.mail.reply import Reply, Severity, printable
from relayd.mail.value import dataclass

NOT_CONFIGURED = "4.3.5"  # system incorrectly configured (RFC 3463 section 3.4)
_SEVERITY = {2: Severity.SUCCESS, 5: Severity.PERMANENT}  # all else may be better next time


class Blame(enum.Enum):
    """What an unsuccessful attempt speaks against, and so what backs off."""

    RECIPIENT = "recipient"  # this recipient or this message
    SERVICE = "service"  # ... as the next hop does not serve us for it; does it for anybody?
    DESTINATION = "destination"  # the next hop as a whole: nobody answered, 421, DNS trouble


class Meaning(enum.Enum):
    """What a reply says beyond its code, where it is known (`relayd.relay.replies`)."""

    SLOWER = "slower"  # so many in this time are too many
    LIMIT = "limit"  # so many at a time, or on one connection
    BLOCKED = "blocked"  # nothing of ours, whenever it is tried again
    UNAUTHENTICATED = "not authenticated"
    RECIPIENT = "this recipient"  # has his fill for now
    CONTENT = "content"
    FULL = "full"
    GREYLISTED = "greylisted"
    TEMPORARY = "temporary"

    @property
    def of_us(self) -> bool:
        """It is about whatever comes from this address of ours, and its other hosts say it, too."""
        return self in (Meaning.SLOWER, Meaning.LIMIT, Meaning.BLOCKED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The last word on one recipient: SUCCESS delivered, TRANSIENT try again, PERMANENT report."""

    reply: Reply
    remote_mta: str = ""  # host name that spoke; empty: nobody did, the reply is our own
    remote_address: str = ""  # "198.51.100.7:25" or "unix:/run/dovecot/lmtp"
    blame: Blame = Blame.RECIPIENT
    passed_on: bool = False  # the next hop speaks DSN and took over the duty to report success
    tls: str = ""  # what was negotiated with the next hop
    why: str = ""  # private reason, for the log only
    # all was said and no answer came: it may be delivered already. Of the attempt, not stored.
    in_doubt: bool = False
    meaning: Meaning | None = None  # likewise
    pause: float = 0.0  # likewise: seconds for which it wants nothing, where that is known

    @property
    def severity(self) -> Severity:
        """SUCCESS, TRANSIENT or PERMANENT, never INTERMEDIATE."""
        return _SEVERITY.get(self.reply.code // 100, Severity.TRANSIENT)

    @property
    def of_our_set_up(self) -> bool:
        """Our own words for what somebody here has to mend: a login, TLS, an address, a name."""
        reply = self.reply
        ours = not self.remote_mta and reply.code == 451
        return ours and (reply.subject == 7 or reply.status == NOT_CONFIGURED)

    def but(self, **changes: object) -> Outcome:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # names are checked by replace


def postponed(
    status: str, text: str, *, blame: Blame = Blame.DESTINATION, why: str = "", code: int = 451
) -> Outcome:
    """A transient outcome of our own making."""
    return Outcome(Reply.of(code, status, text), blame=blame, why=why)


def held(by: str) -> Outcome:
    """Why a recipient is on hold, where else stands what the last attempt has met."""
    return Outcome(Reply.of(450, "4.7.0", printable(f"Held by {by}")))


UNANSWERED = Outcome(Reply.of(450, "4.7.0", "Held until its client is answered"))
"""Why a recipient is on hold while its client waits for how the first attempt ends."""


def failed(status: str, text: str, *, code: int = 550, why: str = "") -> Outcome:
    """A permanent outcome of our own making."""
    return Outcome(Reply.of(code, status, text), blame=Blame.RECIPIENT, why=why)
