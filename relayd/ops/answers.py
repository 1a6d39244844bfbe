"""What the control protocol answers, as types: `relayctl --json` prints exactly these.

Times are seconds since the epoch, sizes are octets, durations are seconds. A field is never left
out unless its type says so (NotRequired); what is not known is empty, or 0. docs/api.md tells of
each. VERSION grows with a change that a reader could stumble over: a field that is gone, or means
something else. New fields may come at any time.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

VERSION = 1


class Done(TypedDict):
    """The last line of every answer that is whole."""

    done: bool
    version: int  # VERSION


class ErrorAnswer(TypedDict):
    """Instead of an answer, or in the middle of one: why there is none."""

    error: str


class FoundAnswer(TypedDict):
    """`find`: one recipient, waiting or finished; the newest message comes first."""

    id: str
    received_at: float
    size: int
    sender: str  # empty: the null reverse-path
    message_id: str
    subject: str  # decoded
    number: int  # of the recipient in its message, from 0
    recipient: str
    original: str  # as the client gave it
    next_hop: str
    state: str  # queued held delivered failed expired discarded removed
    attempts: int
    ended_at: float  # 0: it waits
    reply: str  # the last one, empty where nobody was asked


class FoundPieceAnswer(TypedDict):
    """`find`: a piece of all that is found."""

    found: list[FoundAnswer]


class FiguresAnswer(TypedDict):
    """`figures`: what `metrics` shows beside what it counts."""

    messages: int  # that wait
    octets: int  # in them
    oldest: dict[str, float]  # by next hop, or "direct": when the oldest message that waits came
    sessions: int
    deliveries: int  # under way
    healthy: bool  # every shard of the spool can record


class EventAnswer(TypedDict):
    """`follow`: something that happened; which fields there are depends on the event."""

    event: str  # accepted refused attempt report notice trouble; or missed, alive
    at: float
    cursor: NotRequired[str]  # go on behind it with `follow --cursor`
    id: NotRequired[str]
    sender: NotRequired[str]
    recipients: NotRequired[list[str]]  # of an accepted message the first ones
    count: NotRequired[int]  # of its recipients; of missed events, 0: nobody knows
    size: NotRequired[int]
    message_id: NotRequired[str]
    subject: NotRequired[str]
    client: NotRequired[str]
    helo: NotRequired[str]
    login: NotRequired[str]
    seconds: NotRequired[float]  # that it took
    command: NotRequired[str]
    reply: NotRequired[str]
    why: NotRequired[str]
    next_hop: NotRequired[str]
    state: NotRequired[str]
    attempts: NotRequired[int]
    remote_mta: NotRequired[str]
    remote_address: NotRequired[str]
    report: NotRequired[str]  # the report's own ID
    kind: NotRequired[str]  # failed delayed delivered relayed
    what: NotRequired[str]  # of a notice or trouble: the event in the log
    facts: NotRequired[dict[str, str]]


class ClientAnswer(TypedDict):
    """Who brought a message; what is not known is left out."""

    address: NotRequired[str]
    port: NotRequired[int]
    rdns: NotRequired[str]
    listener: NotRequired[str]
    helo: NotRequired[str]
    protocol: NotRequired[str]
    tls: NotRequired[str]
    login: NotRequired[str]


class StepAnswer(TypedDict):
    """A rule that had a say."""

    stage: str
    place: str
    rule: str
    note: str


class RecipientAnswer(TypedDict):
    """One recipient in `show` and `why`; some fields only a waiting or only an ended one has."""

    number: int
    mailbox: str
    original: str
    next_hop: str
    state: str
    attempts: int
    reply: str
    remote_mta: str
    remote_address: str
    why: str
    tls: NotRequired[str]
    note: NotRequired[str]  # ended
    ended_at: NotRequired[float]
    reverse_path: NotRequired[str]  # waiting
    notify: NotRequired[list[str]]
    orcpt: NotRequired[str]
    next_attempt: NotRequired[float]
    behind: NotRequired[str]  # what its next hop as a whole has said
    warned: NotRequired[bool]


class StoryAnswer(TypedDict):
    """`show` and `why`: all that is known of one message."""

    id: str
    received_at: float
    size: int
    sender: str
    message_id: str
    subject: str
    parameters: dict[str, Any]  # of MAIL: body, smtputf8, ret, envid, require_tls
    client: ClientAnswer
    rules: NotRequired[str]  # the hash of those that decided
    facts: NotRequired[list[str]]
    trail: NotRequired[list[StepAnswer]]
    recipients: list[RecipientAnswer]


class WaitingAnswer(TypedDict):
    """How much waits."""

    messages: int
    octets: int
    queued: int  # recipients
    held: int  # recipients
    damaged: int  # messages set aside


class LaneAnswer(TypedDict):
    """One destination in `status`; those of which only mail waits have three fields."""

    destination: str
    standing: str
    waiting: int
    in_flight: NotRequired[int]
    window: NotRequired[int]
    interval: NotRequired[float]
    failures: NotRequired[int]
    probe_at: NotRequired[float]
    trouble: NotRequired[str]


class StatusAnswer(TypedDict):
    """`status`: how relayd is, and what waits where."""

    version: str
    pid: int
    hostname: str
    started: float
    config: str
    rules: str
    workers: int
    workers_ready: NotRequired[int]  # where there are several
    restart: list[str]  # statements that wait for one
    refused: dict[str, Any] | None  # the configuration on disk that is not in force: since, why
    warnings: list[str]
    not_listening: list[str]
    tables: list[Any]  # those that directories are read into; see relayd.directories.refresher
    waiting: WaitingAnswer
    shards: list[dict[str, Any]]
    destinations: list[LaneAnswer]
    more_destinations: int
    sites: list[dict[str, Any]]
    suspended: list[dict[str, Any]]


class ComplaintAnswer(TypedDict):
    """`check` and `reload`: empty when the configuration is good."""

    complaint: str
    warnings: NotRequired[list[str]]
    read: NotRequired[dict[str, Any]]
    restart: NotRequired[list[str]]


class ChangedAnswer(TypedDict):
    """`retry`, `hold`, `release`, `remove`: how many recipients it met."""

    recipients: int


class AuditAnswer(TypedDict):
    """`audit`: a piece of it. A discrepancy is an ID, a recipient's number and what is wrong."""

    audited: int
    discrepancies: list[list[Any]]


class PaceAnswer(TypedDict):
    """`pace`: where mail does not go as it comes."""

    sites: list[dict[str, Any]]


class BlameAnswer(TypedDict):
    """`blame`: whose mail is refused for what it is."""

    origins: list[dict[str, Any]]


class FiltersAnswer(TypedDict):
    """`filters`: who is asked about mail."""

    filters: list[dict[str, Any]]


class ReroutedAnswer(TypedDict):
    """`reroute`: what goes another way."""

    recipients: int
    under_way: int
    changed: dict[str, int]
    left: dict[str, int]
    changes: list[dict[str, Any]]
