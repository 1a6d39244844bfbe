"""The decision for one recipient: pure, total and three-valued, with the trail of how it came.

`explain` prints what this very function returns, so it cannot differ from what happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as but
from typing import NamedTuple

from relayd.mail.address import Mailbox, ReversePath, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import DIRECT, Direction
from relayd.mail.plan import Destination, Plan, Step, Verdict
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass
from relayd.rules.copies import Copies, signed_by
from relayd.rules.fact import Fact, Known
from relayd.rules.forward import Fanned, Loop, fan_out
from relayd.rules.language.model import AdmissionRule, Copy, Rewrite
from relayd.rules.leaving import LeavingCopy
from relayd.rules.replace import replace
from relayd.rules.ruleset import Ruleset
from relayd.rules.senderroute import has_route, takes_route
from relayd.rules.srsstage import SrsStage
from relayd.rules.stage import LAST, ReadyRule, Stage
from relayd.rules.subject import Subject, sender_subject
from relayd.rules.tables.table import NoMailbox, Unknown
from relayd.rules.view import Unasked, View

DENIED = Reply.of(550, "5.7.1", "Relaying denied")
NO_ROUTES = Reply.of(550, "5.7.1", "Relaying denied: no routes in the local part")
TROUBLE = Reply.of(451, "4.3.0", "Temporary local problem, please try again later")
NO_MAILBOX = Reply.of(550, "5.1.0", "Rewriting makes no valid address of this one")
LOOPED = Reply.of(554, "5.4.6", "Forwarding loop detected")
WELCOME = Reply.of(250, "2.1.5", "Recipient OK")
NO_POSTMASTER = Reply.of(451, "4.3.5", "The postmaster's mailbox is not set up yet")
_NOBODY = Step("reject", "", str(DENIED), "no rule accepts it")
_ROUTED = Step(
    "reject",
    "",
    str(NO_ROUTES),
    "% ! or @ in the local part: only for clients we know, or where the mailbox itself is named",
)
_ALWAYS = Step("accept", "", "postmaster", "RFC 5321 section 4.5.1")
_NOWHERE = Step("reject", "", str(NO_POSTMASTER), "wants: forward postmaster@ -> MAILBOX")


class _Admission(NamedTuple):
    """What the rules of the first stage say."""

    verdict: Verdict
    reply: Reply = WELCOME
    matched: bool = True  # some rule said it


_OUT = (Verdict.REFUSE, Verdict.DISCARD)
_ACCEPTED = _Admission(Verdict.ACCEPT)
_HELD = _Admission(Verdict.HOLD)
_DENIED = _Admission(Verdict.REFUSE, DENIED, matched=False)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that rules may look at."""

    client: Client
    sender: ReversePath
    recipient: Mailbox
    now: float = 0.0  # seconds since the epoch: SRS addresses have an age
    gathered: Mapping[Fact, object] | None = None  # what others were asked for; else unknown
    known: Known = Known.RECIPIENT  # how far the session is: rules about the content come last
    asks: bool = False  # of the recipient others may still be asked: Unasked says for what


def evaluate(ruleset: Ruleset, facts: Facts) -> Plan:
    """The plan for these facts. Unknown is refused with 451 4.3.0.

    Raises nothing but Unasked, and that only where the facts say so: then they are to be asked for,
    and it is to be called again.

    What rules make no valid address of is refused for good: it would not come out otherwise later.
    At RCPT rules that look at the content are left out; once it is known all are asked.
    """
    if facts.known is not Known.CONTENT:
        ruleset = ruleset.at_rcpt or ruleset
    if not facts.recipient.domain:
        return _postmaster(ruleset, facts)
    return _plan(ruleset, facts, ruleset.admission)


def _postmaster(ruleset: Ruleset, facts: Facts) -> Plan:
    """The bare Postmaster, whom every relay must have (RFC 5321 section 4.5.1).

    It is that of our own name; one that no rule takes is where a `forward` says, or else that of
    our first domain. Only a rule that says so turns it away, or the lack of any of these.
    """
    local = facts.recipient.local
    here = but(facts, recipient=Mailbox(local, ruleset.hostname))
    plan = _plan(ruleset, here, ruleset.admission)
    if plan.matched:
        return plan
    own = plan_own(ruleset, here)
    if own.verdict is not Verdict.REFUSE and all(
        each.mailbox.key != here.recipient.key for each in own.destinations
    ):
        return but(own, trail=(_ALWAYS, *own.trail))
    if ruleset.home:
        home = but(facts, recipient=Mailbox(local, ruleset.home))
        return _plan(ruleset, home, ruleset.admission)
    return Plan(Verdict.REFUSE, NO_POSTMASTER, (), (_NOWHERE,))


def evaluate_aloud(ruleset: Ruleset, facts: Facts) -> Plan:
    """As evaluate() decides, naming the forward that what no rule accepts would have met."""
    plan = evaluate(ruleset, facts)
    if not plan.trail or plan.trail[-1] is not _NOBODY:
        return plan
    later = plan_own(ruleset, facts).trail
    waiting = next((step for step in later if step.stage == "forward" and step.place), None)
    if waiting is None:
        return plan
    note = f"{_NOBODY.note}; the forward at {waiting.place} comes after accepting"
    return but(plan, trail=(*plan.trail[:-1], _NOBODY._replace(note=note)))


def plan_own(ruleset: Ruleset, facts: Facts) -> Plan:
    """The plan for mail of our own (reports), which nobody has to let in. Never raises.

    Its content is ours, and not looked at.
    """
    return _plan(ruleset.at_rcpt or ruleset, facts, None)


def plan_postmaster(ruleset: Ruleset, facts: Facts) -> Plan:
    """The plan for mail of our own to the postmaster of our name, whose mail goes somewhere else.

    Where no rule says so, he is that of our first domain. Never raises.
    """
    plan = plan_own(ruleset, facts)
    here = facts.recipient.key
    if ruleset.home and any(
        each.mailbox.key == here and Direction.parse(each.next_hop).direct
        for each in plan.destinations
    ):
        home = but(facts, recipient=Mailbox(facts.recipient.local, ruleset.home))
        return plan_own(ruleset, home)
    return plan


def plan_route(ruleset: Ruleset, facts: Facts, mailbox: Mailbox) -> str | None:
    """Where a recipient goes whom the other stages have made of `facts.recipient` before.

    None: that is unknown, or nowhere.
    """
    sender = None if facts.sender is None else sender_subject(facts.sender)
    recipient = Subject(facts.recipient, ruleset.subaddress)
    view = View(facts.client, sender, recipient, facts.gathered)
    try:
        _rewrite(ruleset, view, [])
        fanned = Fanned(Subject(mailbox, ruleset.subaddress))
        view.recipient = fanned.subject
        routed = _route(ruleset, view, fanned, [])
    except (Unknown, NoMailbox):
        return None
    return routed[0] if isinstance(routed, tuple) else None


def plan_copy(ruleset: Ruleset, facts: Facts) -> str | None:
    """Where a copy goes that `copy` rules have sent to `facts.recipient` before.

    None: that is unknown, or no rule sends any there.
    """
    if ruleset.bcc is None:
        return None
    sender = None if facts.sender is None else sender_subject(facts.sender)
    recipient = Subject(facts.recipient, ruleset.subaddress)
    view = View(facts.client, sender, recipient, facts.gathered)
    try:
        fitting = ruleset.bcc.candidates(view)
        for entry in ruleset.bcc.entries:
            target = entry.rule.target
            if target is None:
                if entry in fitting and entry.holds(view):
                    return entry.rule.next_hop
                continue
            for subject, next_hop in _places(ruleset, view, entry.rule, target, []):
                if subject.key == recipient.key:
                    return next_hop
    except Unknown:
        pass
    return None


def copies_from(
    ruleset: Ruleset, facts: Facts, copies: Sequence[Destination]
) -> tuple[Destination, ...] | None:
    """The copies of this recipient's mail, from another sender than they were planned for.

    None: whom they are from is not known now.
    """
    sender = None if facts.sender is None else sender_subject(facts.sender)
    view = View(facts.client, sender, Subject(facts.recipient, ruleset.subaddress), facts.gathered)
    given = view.recipient.key
    try:
        _rewrite(ruleset, view, [])
        return tuple(
            but(each, reverse_path=_path_of_copy(ruleset, view, subject, given, facts.now))
            for each, subject in ((one, Subject(one.mailbox, "")) for one in copies)
        )
    except (Unknown, NoMailbox):
        return None


def _plan(ruleset: Ruleset, facts: Facts, admission: Stage[AdmissionRule] | None) -> Plan:
    trail: list[Step] = []
    try:
        return _decide(ruleset, facts, admission, trail)
    except NoMailbox as nothing:
        trail.append(Step("rewrite", "", str(NO_MAILBOX), str(nothing)))
        return Plan(Verdict.REFUSE, NO_MAILBOX, (), tuple(trail))
    except Unknown as unknown:
        if facts.asks and isinstance(unknown, Unasked) and unknown.fact.known is Known.RECIPIENT:
            raise
        trail.append(Step("unknown", unknown.place, str(TROUBLE), str(unknown)))
    except Loop as loop:
        trail.append(Step("forward", "", str(LOOPED), str(loop)))
        return Plan(Verdict.REFUSE, LOOPED, (), tuple(trail))
    except Exception as bug:  # a bug must neither bounce mail nor relay it
        trail.append(Step("unknown", "", str(TROUBLE), f"bug: {bug!r}"))
    return Plan(Verdict.REFUSE, TROUBLE, (), tuple(trail))


def _decide(
    ruleset: Ruleset, facts: Facts, admission: Stage[AdmissionRule] | None, trail: list[Step]
) -> Plan:
    recipient = facts.recipient
    sender = None if facts.sender is None else sender_subject(facts.sender)
    view = View(facts.client, sender, Subject(recipient, ruleset.subaddress), facts.gathered)
    named, srs = view.recipient, ruleset.srs
    given = named.key
    admitted = _ACCEPTED
    if srs is not None and srs.holds(recipient):
        admitted = _unwrap(ruleset, srs, facts.now, admission, view, trail)
    elif admission is not None:
        admitted = _admit(ruleset, admission.candidates(view), view, trail, _DENIED)
    if facts.known is Known.CONTENT and admission is not None and admitted.verdict not in _OUT:
        as_named = View(view.client, view.sender, named, view.gathered)
        admitted = _examined(ruleset, as_named, trail, admitted)
    if admitted.verdict is Verdict.DISCARD and ruleset.bcc is not None:
        header_rules = _rewrite(ruleset, view, trail)
        further = _copied(ruleset, view, given, header_rules, facts, trail)
        return Plan(admitted.verdict, admitted.reply, (), tuple(trail), bcc=further)
    if admitted.verdict in _OUT:
        return Plan(admitted.verdict, admitted.reply, (), tuple(trail), admitted.matched)
    header_rules = of_all = _rewrite(ruleset, view, trail)
    original = view.recipient
    destinations: list[Destination] = []
    said: set[Step] = set()
    copies = None
    if ruleset.foretells and facts.known is Known.CONTENT:
        copies = view.copies = Copies(ruleset, view, header_rules, facts.now)
        view.named = named
    for fanned in fan_out(ruleset, view, trail):
        view.recipient = fanned.subject
        if copies is not None:
            copies.owner = fanned.owner
            header_rules = _of_copies(ruleset, view, copies.header_rules)
        routed = _route(ruleset, view, fanned, trail)
        if isinstance(routed, Reply):
            return Plan(Verdict.REFUSE, routed, (), tuple(trail))
        if routed is not None:
            next_hop, patience = routed
            path = None if view.sender is None else (fanned.owner or view.sender.mailbox)
            ours = False
            if srs is not None and path is not None and fanned.subject.key != given:
                path, ours, step = srs.rewritten(view, path, facts.now)
                if step is not None and step not in said:
                    said.add(step)  # once, not for each recipient
                    trail.append(step)
            mailbox = fanned.subject.mailbox
            names = () if ruleset.signing is None else signed_by(ruleset.signing, view, trail, said)
            destinations.append(
                Destination(mailbox, next_hop, path, header_rules, ours, names, patience)
            )
            if copies is not None:
                _foretell(copies, destinations[-1], view, facts, trail)
    view.recipient = original
    if copies is not None and destinations and admission is not None:
        admitted = _judged(ruleset, view, named, destinations, trail, admitted)
        if admitted.verdict is Verdict.REFUSE:
            return Plan(admitted.verdict, admitted.reply, (), tuple(trail))
    bcc: tuple[Destination, ...] = ()
    if ruleset.bcc is not None:
        if copies is not None:
            copies.targets = [each.mailbox for each in destinations]
        bcc = _copied(ruleset, view, given, of_all, facts, trail)
    if not destinations or admitted.verdict is Verdict.DISCARD:
        return Plan(Verdict.DISCARD, WELCOME, (), tuple(trail), bcc=bcc)
    return Plan(admitted.verdict, WELCOME, tuple(destinations), tuple(trail), bcc=bcc)


def _copied(
    ruleset: Ruleset,
    view: View,
    given: str,
    header_rules: tuple[int, ...],
    facts: Facts,
    trail: list[Step],
) -> tuple[Destination, ...]:
    """Where `copy` rules send the mail of this recipient, too; all that hold, each place once.

    They see him as `forward` does. The copy is what he gets, with his header and signatures. Of
    mail of our own there is none. Raises Unknown: without its copy nothing is taken.
    """
    assert ruleset.bcc is not None
    recipient = view.recipient
    if not facts.client.address:
        return ()
    found: dict[tuple[str, str], Destination] = {}
    names: tuple[str, ...] | None = None
    for entry in ruleset.bcc.candidates(view):
        view.notes.clear()
        if (entry.of_copies and view.copies is None) or not entry.holds(view):
            continue
        rule = entry.rule
        target = recipient.mailbox if rule.target is None else rule.target
        trail.append(entry.noted(f"{recipient.mailbox} -> {target}", *view.notes))
        if names is None:
            names = () if ruleset.signing is None else signed_by(ruleset.signing, view, [], set())
        for subject, next_hop in _places(ruleset, view, rule, target, trail):
            path = _path_of_copy(ruleset, view, subject, given, facts.now)
            place = Destination(subject.mailbox, next_hop, path, header_rules, signed_by=names)
            found.setdefault((subject.key, next_hop), place)
    return tuple(found.values())


def _path_of_copy(
    ruleset: Ruleset, view: View, subject: Subject, given: str, now: float
) -> ReversePath:
    """Whom a copy is from: as the mail is, or nobody where that would be made ours."""
    path = None if view.sender is None else view.sender.mailbox
    if ruleset.srs is None or path is None or subject.key == given:
        return path
    recipient, view.recipient = view.recipient, subject
    rewritten, ours, _ = ruleset.srs.rewritten(view, path, now)
    view.recipient = recipient
    # a bounce from further on would find its way to the sender
    return None if ours else rewritten


def _places(
    ruleset: Ruleset, view: View, rule: Copy, target: Mailbox, trail: list[Step]
) -> list[tuple[Subject, str]]:
    """Where a copy goes: by the rule's own next hop, or as a forward's target does."""
    subject = Subject(target, ruleset.subaddress)
    if rule.hops:
        return [(subject, rule.next_hop)]
    recipient, view.recipient = view.recipient, subject
    places = []
    try:
        for fanned in fan_out(ruleset, view, trail):
            view.recipient = fanned.subject
            routed = _route(ruleset, view, fanned, trail)
            if not isinstance(routed, tuple):
                what = "thrown away" if routed is None else "refused"
                raise Unknown(f"a copy for {fanned.subject.mailbox} would be {what}")
            places.append((fanned.subject, routed[0]))
    except (Loop, NoMailbox) as nowhere:
        raise Unknown(f"a copy for {target}: {nowhere}") from None
    finally:
        view.recipient = recipient
    return places


def _of_copies(ruleset: Ruleset, view: View, header_rules: tuple[int, ...]) -> tuple[int, ...]:
    """The header rules for this copy, with those that ask what would become of it."""
    asking = [
        entry.number
        for entry in ruleset.headers.candidates(view)
        if entry.of_copies and entry.holds(view)
    ]
    return tuple(sorted((*header_rules, *asking))) if asking else header_rules


def _foretell(
    copies: Copies, destination: Destination, view: View, facts: Facts, trail: list[Step]
) -> None:
    """Say in the trail what is foreseen of a copy that leaves our domains."""
    if copies.of(destination.mailbox) is None:
        return
    copy = LeavingCopy(
        view.named.mailbox,
        destination.mailbox,
        facts.sender,
        destination.reverse_path,
        destination.header_rules,
        destination.signed_by,
        Direction.parse(destination.next_hop).source,
    )
    trail += copies.steps(copy)


def _judged(
    ruleset: Ruleset,
    view: View,
    named: Subject,
    destinations: Sequence[Destination],
    trail: list[Step],
    admitted: _Admission,
) -> _Admission:
    """What admission rules make of a recipient when they see what would become of his copies.

    They are about what came: sender and recipient are as they were named.
    """
    assert ruleset.content is not None
    assert view.copies is not None
    as_named = View(view.client, view.sender, named, view.gathered)
    asking = [entry for entry in ruleset.content.candidates(as_named) if entry.of_copies]
    if not asking:
        return admitted
    as_named.copies = view.copies
    view.copies.targets = [each.mailbox for each in destinations]
    decided = _for_all(ruleset, as_named)
    until = LAST if decided is None else decided.number
    if ruleset.srs is not None and ruleset.srs.holds(named.mailbox):
        until = min(until, ruleset.srs.above)
    for entry in asking:
        if entry.number >= until:
            break
        as_named.notes.clear()
        if not entry.holds(as_named):
            continue
        trail.append(entry.noted(*as_named.notes))
        verb = entry.rule.verb
        if verb == "accept":
            break
        if verb in ("reject", "defer"):
            return _Admission(Verdict.REFUSE, entry.rule.reply or DENIED)
        if verb == "discard":
            return _Admission(Verdict.DISCARD)
        admitted = _HELD
    return admitted


def _unwrap(
    ruleset: Ruleset,
    srs: SrsStage,
    now: float,
    admission: Stage[AdmissionRule] | None,
    view: View,
    trail: list[Step],
) -> _Admission:
    """An SRS address of ours: a good one lets itself in, and its sender is the view's recipient.

    Rules that stand above `srs domain` are asked all the same.
    """
    sender = None if view.sender is None else view.sender.mailbox
    found, step = srs.unwrapped(view.recipient.mailbox, sender, now)
    if isinstance(found, Reply):
        trail.append(step)
        return _Admission(Verdict.REFUSE, found)
    admitted = _ACCEPTED
    if admission is not None:
        above = [entry for entry in admission.candidates(view) if entry.number < srs.above]
        admitted = _admit(ruleset, above, view, trail, _ACCEPTED)
    trail.append(step)
    view.recipient = Subject(found, ruleset.subaddress)
    return admitted


def _admit(
    ruleset: Ruleset,
    entries: Sequence[ReadyRule[AdmissionRule]],
    view: View,
    trail: list[Step],
    otherwise: _Admission,
) -> _Admission:
    """The first rule that says yes or no; a `hold` above it only marks what is then accepted.

    A route that the sender wrote into the local part passes by the rules that only open domains.
    `otherwise`: what is said where none does.
    """
    accepted, passed_by = _ACCEPTED, False
    routed = has_route(view.recipient.local)
    for entry in entries:
        view.notes.clear()
        if entry.needed and not entry.holds(view):
            continue
        rule = entry.rule
        if rule.verb == "hold" and accepted is _HELD:
            continue
        if routed and rule.verb == "accept" and not takes_route(rule, view, ruleset.tables):
            passed_by = True
            trail.append(entry.noted("not with a route in the local part"))
            continue
        trail.append(entry.noted(*view.notes) if view.notes else entry.step)
        if rule.verb == "accept":
            return accepted
        if rule.verb in ("reject", "defer"):
            return _Admission(Verdict.REFUSE, rule.reply or DENIED)
        if rule.verb == "discard":
            return _Admission(Verdict.DISCARD)
        accepted = _HELD
    if otherwise.verdict is Verdict.ACCEPT:
        return accepted
    if passed_by:
        trail.append(_ROUTED)
        return _Admission(Verdict.REFUSE, NO_ROUTES)
    trail.append(_NOBODY)
    return otherwise


def examine(ruleset: Ruleset, facts: Facts) -> Plan:
    """What the content decides for all recipients at once: ACCEPT, or REFUSE. Never raises.

    `facts.recipient` is not looked at. Which rules had a say is in the trail.
    """
    trail: list[Step] = []
    sender = None if facts.sender is None else Subject(facts.sender)
    view = View(facts.client, sender, Subject(Mailbox("", "")), facts.gathered)
    try:
        decided = _for_all(ruleset, view)
    except Unknown as unknown:
        trail.append(Step("unknown", unknown.place, str(TROUBLE), str(unknown)))
        return Plan(Verdict.REFUSE, TROUBLE, (), tuple(trail))
    except Exception as bug:  # a bug must neither bounce mail nor relay it
        trail.append(Step("unknown", "", str(TROUBLE), f"bug: {bug!r}"))
        return Plan(Verdict.REFUSE, TROUBLE, (), tuple(trail))
    if decided is None:
        return Plan(Verdict.ACCEPT, WELCOME, (), ())
    trail.append(decided.noted(*view.notes))
    if decided.rule.verb == "accept":
        return Plan(Verdict.ACCEPT, WELCOME, (), tuple(trail))
    return Plan(Verdict.REFUSE, decided.rule.reply or DENIED, (), tuple(trail))


def _for_all(ruleset: Ruleset, view: View) -> ReadyRule[AdmissionRule] | None:
    """The first rule about the content that refuses it, or takes it. Raises Unknown."""
    for entry in () if ruleset.content is None else ruleset.content.candidates(view):
        if entry.rule.for_all and not entry.of_copies:
            view.notes.clear()
            if entry.holds(view):
                return entry
    return None


def _examined(ruleset: Ruleset, view: View, trail: list[Step], admitted: _Admission) -> _Admission:
    """What rules about the content make of a recipient who was let in.

    What takes or refuses it is asked before what holds it or throws it away, and an `accept`
    leaves nothing to those behind it, as at RCPT.
    """
    if ruleset.content is None:
        return admitted
    until = LAST
    if ruleset.srs is not None and ruleset.srs.holds(view.recipient.mailbox):
        until = ruleset.srs.above
    decided = _for_all(ruleset, view)
    if decided is not None:
        trail.append(decided.noted(*view.notes))
        if decided.rule.verb != "accept":
            return _Admission(Verdict.REFUSE, decided.rule.reply or DENIED)
        until = min(until, decided.number)
    for entry in ruleset.content.candidates(view):
        if entry.number >= until:
            break
        view.notes.clear()
        if entry.of_copies:
            continue  # nothing is known of copies yet
        if entry.rule.for_all or (entry.rule.verb == "hold" and admitted.verdict is Verdict.HOLD):
            continue
        if entry.holds(view):
            trail.append(entry.noted(*view.notes))
            if entry.rule.verb == "discard":
                return _Admission(Verdict.DISCARD)
            admitted = _HELD
    return admitted


def _rewrite(ruleset: Ruleset, view: View, trail: list[Step]) -> tuple[int, ...]:
    """Rewrite the envelope's addresses in the view; the header rules that apply."""
    if ruleset.recipients.entries:
        became = _rewritten(ruleset, ruleset.recipients, view, view.recipient, trail)
        if became is not None and became[0] is not None:
            view.recipient = Subject(became[0], ruleset.subaddress)
    if ruleset.senders.entries:
        became = _rewritten(ruleset, ruleset.senders, view, view.sender, trail)
        if became is not None:
            view.sender = None if became[0] is None else Subject(became[0])
    if ruleset.header_always is not None:
        return ruleset.header_always
    # not in the trail: what they change is known only when the content is there
    return tuple(
        entry.number
        for entry in ruleset.headers.candidates(view)
        if not entry.of_copies and entry.holds(view)
    )


def _rewritten(
    ruleset: Ruleset,
    stage: Stage[Rewrite],
    view: View,
    subject: Subject | None,
    trail: list[Step],
) -> tuple[ReversePath] | None:
    """What the first matching rule makes of a mailbox, in a tuple; None: no rule matches."""
    for entry in stage.candidates(view):
        rule = entry.rule
        if not entry.mapped and not entry.holds(view):
            continue
        targets = () if rule.replacement is None else (rule.replacement,)
        if subject is None:
            if entry.mapped:
                continue  # a table holds no null reverse-path
            new = _target_of_null(rule)
            note = ""
        else:
            became = replace(rule.patterns, targets, subject, ruleset.tables, entry.at)
            if became is None or (entry.mapped and not entry.holds(view)):
                continue
            target, note = became.targets[0], became.note
            new = target if target is None or isinstance(target, Mailbox) else target.mailbox
        old = path_text(subject.mailbox if subject else None) or "<>"
        trail.append(entry.noted(f"{old} -> {path_text(new) or '<>'}", note))
        return (new,)
    return None


def _target_of_null(rule: Rewrite) -> ReversePath:
    """What `rewrite sender null` or `any` makes of the null reverse-path."""
    replacement = rule.replacement
    return getattr(replacement, "mailbox", None)


def _route(
    ruleset: Ruleset, view: View, fanned: Fanned, trail: list[Step]
) -> tuple[str, float] | Reply | None:
    """The next hop's name, and how long its answer is waited for; a refusal; None: thrown away."""
    here = str(fanned.subject.mailbox)
    for entry in ruleset.route.candidates(view):
        view.notes.clear()
        if entry.needed and not entry.holds(view):
            continue
        rule = entry.rule
        if not rule.table:
            trail.append(entry.noted(here, *view.notes))
            return rule.next_hop, rule.cut_through if rule.patience else 0.0
        found = ruleset.tables[rule.table].transport(view.recipient)
        if found is None:
            continue
        transport, note = found
        trail.append(entry.noted(here, note))
        if transport.reply is not None:
            return transport.reply
        if transport.discard:
            return None
        name = DIRECT if transport.next_hop is None else transport.next_hop.name
        return name, rule.cut_through
    trail.append(Step("route", "", "any direct", here))
    return DIRECT, 0.0
