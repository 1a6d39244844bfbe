"""What the replies of large providers mean, beyond their code.

One table, read from the top: the first row that fits says it. Texts change, so a row goes by a
provider's own token where there is one, and by the status. What no row fits means what its code
says. A row about us (`Meaning.of_us`) holds whichever class the code is of: a block may be said
with 4xx ("retrying will NOT succeed"), and a rate with 5xx.

Sources: what the providers publish for senders, and what they answer.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator

from relayd.mail.outcome import Meaning
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass

HOUR = 3600.0  # seconds


class About(enum.Enum):
    """What a reply speaks about, and so what it is to be held against."""

    SOURCE = "source address"  # ours
    PROVIDER = "provider"
    RECIPIENT = "recipient"
    MESSAGE = "message"
    SETUP = "our set-up"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of reply."""

    provider: str  # empty: of anybody
    codes: tuple[int, ...]  # empty: any of 4xx and 5xx
    statuses: tuple[str, ...]  # without the class: "7.28"; empty: any, or none
    token: str  # a regular expression; empty: whatever it says
    meaning: Meaning
    about: About
    pause: float = 0.0  # seconds for which nothing more goes there; 0: as it turns out

    def fits(self, reply: Reply) -> bool:
        """Whether the reply is of this kind."""
        if self.codes and reply.code not in self.codes:
            return False
        if self.statuses and f"{reply.subject}.{reply.detail}" not in self.statuses:
            return False
        return not self.token or re.search(self.token, reply.text, re.IGNORECASE) is not None


S, P, R, M, U = About.SOURCE, About.PROVIDER, About.RECIPIENT, About.MESSAGE, About.SETUP
_CONNECTIONS = r"too many (?:concurrent |simultaneous )?connections"

ROWS = (
    # Google: https://support.google.com/a/answer/3726730
    Row("google", (421, 450, 550), (), "UnsolicitedRateLimit|unusual rate", Meaning.SLOWER, S),
    Row("google", (421, 450, 550), ("7.28",), "", Meaning.SLOWER, S),
    Row("google", (421,), ("7.0", "7.29"), r"\bTLS\b", Meaning.TEMPORARY, U),
    Row("google", (421,), ("7.29",), "", Meaning.TEMPORARY, U),
    Row("google", (450, 550), ("2.1",), "ReceivingRate|rate that prevents", Meaning.RECIPIENT, R),
    Row("google", (452, 552), ("2.2",), "", Meaning.FULL, R),
    Row(
        "google", (421, 451, 550), ("7.26", "7.27", "7.30", "7.32"), "", Meaning.UNAUTHENTICATED, M
    ),
    Row("google", (550, 552), ("7.1",), "UnsolicitedMessage|reputation", Meaning.CONTENT, M),
    Row("google", (452,), ("5.3",), "", Meaning.TEMPORARY, M),
    Row("google", (451,), ("3.0",), "Multiple destination domains", Meaning.TEMPORARY, M),
    Row("google", (421, 451), ("3.0", "4.5"), "", Meaning.TEMPORARY, P),
    # Yahoo and AOL: https://senders.yahooinc.com/smtp-error-codes
    Row("yahoo", (421,), (), r"\[(?:TSS04|IPTS04)\]", Meaning.SLOWER, S, 2 * HOUR),
    Row("yahoo", (421,), (), r"\[(?:TSS05|IPTS05)\]", Meaning.SLOWER, S, 4 * HOUR),
    Row("yahoo", (421, 553, 554), (), r"\[TS03\]|Retrying will NOT succeed", Meaning.BLOCKED, S),
    Row("yahoo", (553,), (), r"\[BL\d\d\]", Meaning.BLOCKED, S),
    Row("yahoo", (554,), ("7.9",), "", Meaning.UNAUTHENTICATED, M),
    Row("yahoo", (), (), "Max message per connection", Meaning.LIMIT, S),
    Row("yahoo", (451,), (), r"\[\d+\]|deferred", Meaning.TEMPORARY, P),
    # Microsoft: https://sendersupport.olc.protection.outlook.com/pm/troubleshooting.aspx
    Row("microsoft", (), ("7.650", "7.651"), "", Meaning.SLOWER, S, HOUR / 4),
    Row("microsoft", (), (), r"\((?:S775|S3114)\)", Meaning.SLOWER, S, HOUR / 4),
    Row("microsoft", (550, 554), ("7.606",), "", Meaning.BLOCKED, S),
    Row("microsoft", (550, 554), (), r"\(?\bS31[45]0\b", Meaning.BLOCKED, S),
    Row(
        "microsoft", (421, 550), (), r"maximum number of (?:connections|messages)", Meaning.LIMIT, S
    ),
    Row("microsoft", (421, 550), (), r"\bIB007\b|messages per connection", Meaning.LIMIT, S),
    Row("microsoft", (421,), (), r"\bRP-00[123]\b", Meaning.LIMIT, S),
    Row("microsoft", (550,), ("7.515",), "", Meaning.UNAUTHENTICATED, M),
    # Apple: https://support.apple.com/102322
    Row("apple", (421, 450, 451), (), r"\[(?:HCM1|BS02)\]", Meaning.SLOWER, S, HOUR / 4),
    # GMX, WEB.DE and mail.com: https://postmaster.gmx.net/en/error-messages
    Row("gmx", (421, 554), (), _CONNECTIONS, Meaning.LIMIT, S),
    # Orange and Wanadoo
    Row(
        "orange", (421, 450, 550), (), r"Trop de connexions|too many connections", Meaning.LIMIT, S
    ),
    # QQ: https://service.mail.qq.com; NetEase: https://mail.163.com/help
    Row("qq", (450, 550, 554), (), r"frequency limited", Meaning.SLOWER, S),
    Row("netease", (450, 550, 554), (), r"frequency limited|RP:ORQ", Meaning.SLOWER, S),
    Row("netease", (451, 554), (), r"DT:SPM", Meaning.CONTENT, M),
    Row("netease", (421, 450, 451), (), r"too many|MI:(?:CEL|DMC|CCL)", Meaning.LIMIT, S),
    Row("qq", (451, 554), (), r"DT:SPM", Meaning.CONTENT, M),
    Row("qq", (421, 450, 451, 550), (), r"RP:ORQ", Meaning.SLOWER, S),
    Row("qq", (421,), (), r"too many", Meaning.LIMIT, S),
    # anybody: mail flood detected, system congestion (RFC 3463 and its registry)
    Row("", (421, 450, 451, 452), ("7.28",), "", Meaning.SLOWER, S),
    Row("", (421,), (), _CONNECTIONS, Meaning.LIMIT, S),
    Row("", (421, 450, 451), (), r"\bgr[ae]y-?list", Meaning.GREYLISTED, R),
)


def _by_provider() -> Iterator[tuple[str, tuple[Row, ...]]]:
    for provider in {row.provider for row in ROWS}:
        yield provider, tuple(row for row in ROWS if row.provider in (provider, ""))


_ROWS = dict(_by_provider())


def row_of(provider: str, reply: Reply) -> Row | None:
    """What the reply of this provider (empty: of anybody else) means; None: what its code says."""
    for row in _ROWS.get(provider, _ROWS[""]):
        if row.fits(reply):
            return row
    return None
