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
    busy: NotRequired[bool]  # it is not what was asked that is wrong: ask again


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
    original: str  # as the client gave it; empty: a copy that a rule sent
    next_hop: str
    state: str  # queued held delivered failed expired discarded removed
    attempts: int
    ended_at: float  # 0: it waits
    reply: str  # the last one, empty where nobody was asked


class FoundPieceAnswer(TypedDict):
    """`find`: a piece of all that is found."""

    found: list[FoundAnswer]


class ProviderFigures(TypedDict):
    """One provider in `figures`."""

    oldest: float  # when the oldest of its messages came, among those that wait longest; 0: none
    rate: float  # messages a second; 0: as they come
    slowed: bool  # it has asked for less
    blocked: bool  # it takes nothing of ours


class FiguresAnswer(TypedDict):
    """`figures`: what `metrics` shows beside what it counts."""

    messages: int  # that wait
    octets: int  # in them
    oldest: dict[str, float]  # by next hop, or "direct": when the oldest message that waits came
    providers: dict[str, ProviderFigures]  # of which there is something to tell
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


class HookEventAnswer(TypedDict):
    """What a webhook posts of one event."""

    id: str  # the same one whenever it is posted again
    type: str  # accepted delivered deferred held bounced expired discarded removed report
    data: EventAnswer  # as `follow` tells it


class HookBodyAnswer(TypedDict):
    """What a webhook posts: events in the order in which they happened."""

    hook: str
    events: list[HookEventAnswer]


class HookStatusAnswer(TypedDict):
    """A `hook` statement's receiver in `status`."""

    name: str
    receiver: str  # scheme and host alone
    events: list[str]
    waiting: int
    oldest: float  # when the first one that waits happened; 0: none waits
    sent: int  # since there is the hook, as is the next one
    dropped: int  # too many, or too old
    retries: int  # requests in vain, since relayd was started
    trouble: str  # why the last request was in vain; empty: it was not
    since: float  # ... and those before; 0: never
    next_try: float  # 0: at once


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
    original: str  # empty: a copy that a rule sent
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
    oldest: NotRequired[float]  # when the oldest of its messages came, where that is known
    in_flight: NotRequired[int]
    window: NotRequired[int]
    interval: NotRequired[float]
    failures: NotRequired[int]
    probe_at: NotRequired[float]
    trouble: NotRequired[str]


class ShardAnswer(TypedDict):
    """One shard of the spool in `status`, and the process that has it."""

    shard: int
    healthy: bool  # it can record
    deliveries: NotRequired[int]  # under way
    lost_reports: NotRequired[int]
    kept_reports: NotRequired[int]  # from strangers, since the start
    forecasts_right: NotRequired[int]
    forecasts_wrong: NotRequired[int]
    sessions: NotRequired[int]
    drop_waiting: NotRequired[int]  # files in the drop folder; of these four what is not 0
    drop_put_off: NotRequired[int]
    drop_set_aside: NotRequired[int]
    drop_over_quota: NotRequired[int]
    tls_handshakes: NotRequired[int]  # with next hops, once there were any
    tls_resumed: NotRequired[int]


class RefusedAnswer(TypedDict):
    """A configuration on disk that is not in force."""

    since: float
    why: str  # as `reload` prints it
    last_good: float | None  # it was so at the start: since when what is in force was so


class PassedOverAnswer(TypedDict):
    """An entry of a directory that is in no table, because it is wrong."""

    key: str
    why: str


class TableAnswer(TypedDict):
    """A table that a directory is read into, in `status` and `table list`."""

    name: str
    kind: str
    entries: int | None  # None: it was never read
    taken: float | None
    confirmed: float | None  # when the source last said that it is so
    stale: bool  # that was too long ago: what is looked up is answered with 451
    trouble: str  # why it was not read the last time
    since: float | None  # ... and the times before
    asks: str  # how much of what was read is gone: it waits for `table accept`
    passed_over: int
    examples: list[PassedOverAnswer]


class LiveTableAnswer(TypedDict):
    """A table whose source is asked for each address, in `status`."""

    name: str
    kind: str
    remembered: int  # answers
    asked: int  # keys that are being asked for
    trouble: str  # why there was no answer the last time
    since: float | None  # ... and the times before


class TablesAnswer(TypedDict):
    """`table list`."""

    tables: list[TableAnswer]


class AcceptedTableAnswer(TypedDict):
    """`table accept`."""

    accepted: str
    entries: int


class TokenAnswer(TypedDict):
    """A token of the HTTP API."""

    name: str
    role: str  # viewer operator admin
    since: float
    domain: str  # it is for mail of this domain alone; empty: for all


class TokensAnswer(TypedDict):
    """`token`: with `make` the one that is new, with `list` all."""

    tokens: list[TokenAnswer]
    token: str  # the new one itself, this once; else empty
    revoked: str  # the name of one that holds no longer


class CertificateAnswer(TypedDict):
    """A `certificate` statement's file, in `status`."""

    file: str
    until: float  # 0: not known
    trouble: str  # why what is in the file now cannot be served


class ReachedLimitAnswer(TypedDict):
    """A `limit` of the rules that somebody has reached."""

    name: str
    most: int
    seconds: float
    counts: str  # messages or recipients
    per: str  # login, client, ...
    over: int  # how many have reached it
    keys: list[str]  # the first of them


class SetUpAnswer(TypedDict):
    """A next hop that waits for somebody to mend how it is configured here."""

    destination: str
    trouble: str


class LostAddressAnswer(TypedDict):
    """An address of a `source` that this host does not have."""

    source: str
    address: str
    since: float


class SuspensionAnswer(TypedDict):
    """What an operator has told to wait."""

    kind: str
    whom: str
    since: float
    until: float
    reason: str
    by: str


class SiteAnswer(TypedDict):
    """One place to send to, which does not take mail as it comes."""

    site: str
    provider: str  # empty: nobody's with a name
    rate: float  # messages a minute; 0: as they come
    pinned: bool  # as configured
    connections: int  # at a time; 0: any
    messages: int  # on one connection; 0: any
    in_flight: int
    taken: int  # since the start
    refused: int
    resume_at: float  # 0: now
    blocked_until: float  # 0: not blocked
    trouble: str  # what it said; empty: nothing


class OauthLoginAnswer(TypedDict):
    """A login by token, without its secrets."""

    login: str
    user: str
    provider: str | None
    grant: str
    state: str
    next_hops: list[str]
    expires_at: NotRequired[float | None]  # None: nobody said
    obtained_at: NotRequired[float]
    renewable: NotRequired[bool]
    trouble: NotRequired[str]
    trouble_at: NotRequired[float | None]
    seconds: NotRequired[float | None]  # `enroll`: for how long the token holds


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
    in_force_since: float  # the configuration
    refused: RefusedAnswer | None  # the one on disk, which is not in force
    warnings: list[str]
    not_listening: list[str]
    tables: NotRequired[list[TableAnswer]]  # those that directories are read into
    hooks: NotRequired[list[HookStatusAnswer]]
    logins: NotRequired[list[OauthLoginAnswer]]  # those by token
    log_dropped: NotRequired[int]  # lines that nobody read in time, since the start
    live_tables: NotRequired[list[LiveTableAnswer]]
    certificates: list[CertificateAnswer]
    limits: list[ReachedLimitAnswer]
    full: list[str]  # limits of the configuration that are reached
    set_up: list[SetUpAnswer]
    reports_kept: int  # of which the postmaster has not been told
    waiting: WaitingAnswer
    shards: list[ShardAnswer]
    destinations: list[LaneAnswer]
    more_destinations: int
    sites: list[SiteAnswer]  # those in trouble
    lost_addresses: list[LostAddressAnswer]
    suspended: list[SuspensionAnswer]


class QueueHeadAnswer(TypedDict):
    """`queue`: before the rows, and again where another shard's begin."""

    columns: NotRequired[list[str]]  # the names of a row's places, said once
    recipient_columns: NotRequired[list[str]]  # ... and of those of a recipient in it
    lanes: dict[str, float]  # queues in which nothing is tried before that time
    behind: dict[str, str]  # ... and what was said there, in the place of each one's reply


class QueueRowsAnswer(TypedDict):
    """`queue`: a piece of the list. `relayctl queue --json` prints objects, a line each."""

    rows: list[list[Any]]


class QueuedRecipientAnswer(TypedDict):
    """A recipient that waits."""

    number: int
    mailbox: str
    original: str
    next_hop: str
    destination: str  # whose queue it is in
    state: str  # queued or held
    attempts: int
    next_attempt: float
    last_reply: str  # or what its next hop as a whole has said; of a held one, who holds it


class QueuedAnswer(TypedDict):
    """`queue --json`, a line each: a message that waits."""

    id: str
    received_at: float
    size: int
    sender: str  # empty: the null reverse-path
    recipients: list[QueuedRecipientAnswer]


class SuspendedAnswer(TypedDict):
    """`suspend` and `suspended`: what waits because an operator said so."""

    suspended: list[SuspensionAnswer]


class ResumedAnswer(TypedDict):
    """`resume`: what goes on."""

    resumed: list[SuspensionAnswer]


class FactAnswer(TypedDict):
    """What is known where rules are asked."""

    fact: str
    value: str
    source: str  # given, looked up, ...


class DestinationAnswer(TypedDict):
    """Where a recipient's mail goes."""

    mailbox: str
    next_hop: str
    reverse_path: str
    signed_by: list[str]
    cut_through: float  # seconds that the client waits for the first attempt; 0: not at all
    hosts: list[str]  # where that is, in words


class BccAnswer(TypedDict):
    """Where a copy goes that a `copy` rule makes, seen by nobody."""

    mailbox: str
    next_hop: str
    reverse_path: str
    signed_by: list[str]
    hosts: list[str]  # where that is, in words


class HeaderAnswer(TypedDict):
    """What becomes of a header section."""

    rules: list[StepAnswer]
    diff: list[str]


class ExplainAnswer(TypedDict):
    """`explain`: what the rules do with a recipient, and why."""

    verdict: str  # accept hold discard refuse
    reply: str
    trail: list[StepAnswer]
    facts: list[FactAnswer]
    destinations: list[DestinationAnswer]
    copies: list[BccAnswer]
    asks: NotRequired[list[StepAnswer]]  # filters that are asked
    header: NotRequired[HeaderAnswer]  # where the question had one


class NearLimitAnswer(TypedDict):
    """Who is near a limit."""

    key: str
    count: int
    over: bool


class LimitAnswer(TypedDict):
    """A `limit` of the rules in `limits`."""

    name: str
    most: int
    seconds: float
    counts: str  # messages or recipients
    per: str  # login, client, ...
    near: list[NearLimitAnswer]  # three quarters of it or more, most first
    more: int  # beside those


class LimitsAnswer(TypedDict):
    """`limits`: all of them, or the one that is named."""

    limits: list[LimitAnswer]


class ForgottenAnswer(TypedDict):
    """`limits` with `forget`."""

    key: str
    forgotten: list[str]  # the limits that had counted it


class OauthAnswer(TypedDict):
    """`oauth` with `status`; `enroll` answers with one OauthLoginAnswer."""

    logins: list[OauthLoginAnswer]


class DkimKeyAnswer(TypedDict):
    """A key that signs, and what the DNS has of it."""

    name: str
    domain: str
    selector: str
    algorithm: str
    at: str
    state: str
    why: str
    record: str  # as it is to be


class DkimAnswer(TypedDict):
    """`dkim`: the keys of all statements, or of the one that is named."""

    keys: list[DkimKeyAnswer]


class CountAnswer(TypedDict):
    """How often something was met, in `digest`."""

    name: str
    count: int
    octets: int  # 0 where that has no meaning


class HourAnswer(TypedDict):
    """What happened in an hour, in `digest`."""

    at: float  # when it began
    messages: int
    recipients: int
    delivered: int
    failed: int  # expired, too
    refused: int


class DigestAnswer(TypedDict):
    """`digest`: what the ledger and the journal know of some time."""

    since: float
    until: float
    messages: int  # accepted
    own: int  # ... of which relayd wrote so many itself
    octets: int  # in them
    recipients: int
    delivered: int  # recipients that ended so
    failed: int
    expired: int
    discarded: int
    removed: int
    deferred: int  # recipients that ended after more than one attempt
    attempts: int  # of all that ended
    refused: int  # recipients that the journal has, the same ones once an hour
    not_noted: int  # ... and those that it only counted
    hours: list[HourAnswer]  # those in which something happened
    senders: list[CountAnswer]  # most messages first; so in all of these
    sender_domains: list[CountAnswer]
    clients: list[CountAnswer]
    mailboxes: list[CountAnswer]  # recipients
    domains: list[CountAnswer]  # ... of which so many
    failures: list[CountAnswer]  # replies to what failed
    refusals: list[CountAnswer]  # replies to what was refused


class ComplaintAnswer(TypedDict):
    """`check` and `reload`: empty when the configuration is good."""

    complaint: str
    warnings: NotRequired[list[str]]
    read: NotRequired[dict[str, Any]]
    restart: NotRequired[list[str]]


class RulesFileAnswer(TypedDict):
    """A file with rules, or other statements, that is in force."""

    file: str  # relative to relayd.conf's folder
    octets: int
    changed: float
    trouble: str  # why it cannot be looked at
    by: str  # who was the last to change it at the console; empty: nobody
    at: float  # when; 0: never


class RulesFilesAnswer(TypedDict):
    """`rules list`: in the order they are read."""

    files: list[RulesFileAnswer]


class KeptRulesAnswer(TypedDict):
    """What a file held before somebody replaced it at the console."""

    id: str
    at: float  # when it was replaced
    by: str  # who has done it
    version: str


class RulesTextAnswer(TypedDict):
    """`rules show`: the text of a file, or of one of its kept versions."""

    file: str
    text: str
    version: str  # of what is there now: said by who replaces it
    kept: list[KeptRulesAnswer]  # the newest first


class RulesProblemAnswer(TypedDict):
    """One complaint."""

    file: str
    line: int  # from 1; 0: of the file as a whole
    column: int  # in characters, from 1
    width: int
    what: str
    expected: str


class RulesCheckAnswer(TypedDict):
    """`rules check`: what a reload would say if the file were this."""

    file: str
    complaint: str  # all of it, with lines and carets; empty: it is good
    problems: list[RulesProblemAnswer]
    warnings: list[str]


class RulesReplayAnswer(TypedDict):
    """`rules replay`: what a text would make of the mail of the last days."""

    envelopes: int  # recipients looked at
    whole: bool  # no more of them were there
    summary: str
    lines: list[str]  # the same with examples
    hits: dict[str, int]  # by a rule's place, `file:line`: to how many it had something to say


class RulesActivatedAnswer(TypedDict):
    """`rules activate` and `rules back`: it is in force."""

    file: str
    version: str
    warnings: list[str]
    restart: list[str]  # statements that wait for one


class ChangedAnswer(TypedDict):
    """`retry`, `hold`, `release`, `remove`: how many recipients it met."""

    recipients: int


class AuditAnswer(TypedDict):
    """`audit`: a piece of it. A discrepancy is an ID, a recipient's number and what is wrong."""

    audited: int
    discrepancies: list[list[Any]]


class PaceAnswer(TypedDict):
    """`pace`: where mail does not go as it comes."""

    sites: list[SiteAnswer]


class OriginAnswer(TypedDict):
    """A login or a forwarded address."""

    origin: str
    messages: float  # of late: old ones count less
    complaints: float
    share: float
    rate: float  # messages a minute; 0: as they come
    last: str


class BlameAnswer(TypedDict):
    """`blame`: whose mail is refused for what it is."""

    origins: list[OriginAnswer]


class FilterAnswer(TypedDict):
    """Somebody who is asked about mail; numbers since the start, of all processes."""

    name: str
    kind: str
    where: str
    on_failure: str
    connections: int
    asked: int
    seconds: float  # of all questions
    slowest: float
    trouble: int
    last_trouble: str
    last_trouble_at: float  # 0: never


class FiltersAnswer(TypedDict):
    """`filters`: who is asked about mail."""

    filters: list[FilterAnswer]


class ReroutedRecipientAnswer(TypedDict):
    """A recipient that goes another way, or would if something did not keep it."""

    id: str
    recipient: str
    kind: str
    left: bool
    then: str
    now: str  # empty: nowhere


class ReroutedAnswer(TypedDict):
    """`reroute`: what goes another way."""

    recipients: int
    under_way: int
    changed: dict[str, int]
    left: dict[str, int]
    changes: list[ReroutedRecipientAnswer]  # a thousand at most
