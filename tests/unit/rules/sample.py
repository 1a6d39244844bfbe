"""The two example files of the language, and short ways to ask a rule set something."""

from __future__ import annotations

from pathlib import Path

from relayd import config
from relayd.mail.address import Mailbox, parse_path_text
from relayd.mail.client import Client
from relayd.mail.plan import Plan
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.ruleset import Ruleset

SETTINGS = """\
# /etc/relayd/relayd.conf
hostname     gw.example.com
spool        /var/spool/relayd
workers      auto                          # auto: one per core
listen       127.0.0.1:2525
listen       [::1]:2525
retry        1m 5m*2 15m*3 1h*6 4h         # the last one repeats
warn-after   4h
give-up      5d
message-size 50MiB
resolver     127.0.0.1:53                  # default: the system's
include      rules.d/*.rules               # relative to this file, in name order
"""

RULES = r"""# /etc/relayd/rules.d/10-site.rules
table    ours      { example.com, example.org, sales.example.com, legacy.example.com, lists.example.com }
table    inside    file inside             # one entry a line: network, address, domain or mailbox
table    people    aliases file aliases    # aliases(5) form   name: address, address

next-hop exchange  smtp ex1.corp.example:25, ex2.corp.example:25      # in order; the next one when one is down
next-hop isp       smtp smtp.isp.example:587
next-hop store     lmtp unix:/run/dovecot/lmtp
next-hop sink      smtp 127.0.0.1:2626

reject   from 192.0.2.66                   550 5.7.1 "Go away"
reject   to old@example.com                550 5.1.6 "Moved to new@example.com"
accept   from <inside>
accept   to <ours>
# nothing matched: 550 5.7.1 Relaying denied

rewrite  recipient @legacy.example.com     -> @example.com
rewrite  sender    @intern.example.com     -> @example.com
rewrite  header From, Reply-To @intern.example.com -> @example.com
header   remove X-Internal-Host
header   add X-Gateway "gw.example.com"

forward  info@example.com                  -> alice@example.net, bob@example.org
forward  boss@example.com                  -> boss@example.com, assistant@example.com    # itself: keep a copy
forward  @sales.example.com                -> @crm.example.net                           # keeps the local part
forward  regex "^(.+)-team@example\.com$"  -> "\1@teams.example.net"
forward  <people> at @example.com                                                   # entries without a domain

route    to @lists.example.com             via store
route    sender @brand.example             via isp
route    to @.internal.example             via exchange    # any sub-domain
route    any                               direct          # by MX

expect   to info@example.com               -> alice@example.net direct, bob@example.org direct
expect   to sales@example.org              -> sales@example.org direct    # no list: the whole domain
expect   from 203.0.113.9 to x@elsewhere.example -> reject 550
"""

INSIDE = "127.0.0.0/8   # ourselves\n::1\n10.0.0.0/8\n"
ALIASES = "postmaster: carol\ncarol: carol@example.net\nlist: a@example.net, b@example.net\nowner-list: carol\n"


def write_site(folder: Path) -> Path:
    """The example as files; the path of its relayd.conf."""
    (folder / "rules.d").mkdir(parents=True)
    (folder / "relayd.conf").write_text(SETTINGS)
    (folder / "rules.d" / "10-site.rules").write_text(RULES)
    (folder / "inside").write_text(INSIDE)
    (folder / "aliases").write_text(ALIASES)
    return folder / "relayd.conf"


def rules(text: str, folder: Path = Path("/nowhere")) -> Ruleset:
    """A rule set from its text."""
    return config.load_text(f"hostname gw.example.com\n{text}", folder).ruleset


def problems(text: str, folder: Path = Path("/nowhere")) -> list[str]:
    """What is wrong with a rule set, without the places."""
    try:
        rules(text, folder)
    except config.ConfigErrors as errors:
        return [f"{problem.what}; {problem.expected}" for problem in errors.problems]
    return []


def plan(
    ruleset: Ruleset,
    to: str,
    *,
    client: str = "203.0.113.9",
    sender: str = "a@partner.example",
    login: str = "",
    listener: str = "",
    helo: str = "",
    tls: str = "",
    certificate: str = "",
) -> Plan:
    """The plan for one recipient."""
    who = Client(client, listener=listener, helo=helo, tls=tls, login=login).with_(
        certificate=certificate
    )
    recipient = Mailbox.parse(to) if "@" in to else Mailbox(to, "")
    return evaluate(ruleset, Facts(who, parse_path_text(sender), recipient))


def outcome(ruleset: Ruleset, to: str, **facts: str) -> str:
    """The plan in one line: `reject 550 5.7.1`, `discard`, `hold a@b direct` or `a@b via x`."""
    decided = plan(ruleset, to, **facts)
    if decided.verdict.value == "refuse":
        return f"reject {decided.reply.code} {decided.reply.status}"
    goals = ", ".join(f"{each.mailbox} {each.next_hop}" for each in decided.destinations)
    verdict = "" if decided.verdict.value == "accept" else decided.verdict.value
    return f"{verdict} {goals}".strip()


def senders(ruleset: Ruleset, to: str, **facts: str) -> list[str]:
    """The reverse-paths of the plan."""
    decided = plan(ruleset, to, **facts)
    return ["<>" if d.reverse_path is None else str(d.reverse_path) for d in decided.destinations]
