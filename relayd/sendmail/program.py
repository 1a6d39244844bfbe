"""sendmail(8) for local programs: makes a message of what it is given and leaves it for relayd.

Every message goes into the drop folder of the spool, whether relayd runs or not: one way, which
is durable, needs no connection, no set-uid and no set-gid bit (so it also works for services that
systemd runs with NoNewPrivileges), and lets the kernel say who sent it. relayd takes it up within
a second (intake/pickup.py). Nothing but the standard library, and little of that: it starts in a
blink.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from itertools import chain

from relayd.sendmail.composition import (
    InputLines,
    added,
    bare,
    cleaned,
    mailbox,
    name_of,
    named,
    section_of,
    whole,
)
from relayd.sendmail.drop import Drop, Site
from relayd.sendmail.order import (
    CANNOT_CREATE,
    DATA_ERROR,
    NO_INPUT,
    OK,
    SOFTWARE,
    TRY_AGAIN,
    UNAVAILABLE,
    USAGE,
    Order,
    UsageError,
    read_order,
)

MAX_RECIPIENTS = 500  # in one file; more are spread over several


def main(arguments: list[str] | None = None) -> int:
    """Run as sendmail, mailq or newaliases, by the name it is called; returns the exit status."""
    called = os.path.basename(sys.argv[0])  # noqa: PTH119 - pathlib takes half of our start time
    try:
        order = read_order(sys.argv[1:] if arguments is None else arguments)
        mode = {"mailq": "p", "newaliases": "i"}.get(called, order.mode)
        return _MODES.get(mode, _unsupported)(order)
    except UsageError as error:
        return _complain(called, str(error), error.status)
    except OSError as error:
        return _complain(called, f"cannot leave the message for relayd: {error}", TRY_AGAIN)
    except Exception as error:  # whatever it is, programs that call us know these numbers only
        return _complain(called, f"a bug: {error!r}", SOFTWARE)


def _complain(called: str, why: str, status: int) -> int:
    if sys.stderr is not None:  # it may have been closed
        sys.stderr.write(f"{called or 'sendmail'}: {why}\n")
    return status


def _message(order: Order) -> int:
    site = Site.here()
    if sys.stdin is None:
        raise UsageError(NO_INPUT, "there is no standard input")
    reader = InputLines(sys.stdin.buffer, order.dots)
    recipients = order.recipients
    section = section_of(reader, site.section)
    if order.from_header:
        # with -t, what the command line names is added (Postfix, exim's default differs)
        recipients = [*recipients, *named(section)]
        section = [each for each in section if name_of(each).removeprefix(b"resent-") != b"bcc"]
    recipients = [mailbox(each, site, DATA_ERROR) for each in cleaned(recipients)]
    recipients = list(dict.fromkeys(recipients))
    if not recipients:
        raise UsageError(USAGE, "no recipients")
    sender = site.user
    if order.sender is not None:
        sender = order.sender = bare(order.sender)
    sender = mailbox(sender, site, USAGE) if sender else ""
    head = b"".join([*added(section, site, order), *(whole(each, site) for each in section)])
    if len(head) > site.section:
        raise UsageError(DATA_ERROR, f"the header section is larger than {site.section} octets")
    if why := site.refusal():
        raise UsageError(TRY_AGAIN, why)
    slips = [
        {
            "relayd": 1,
            "sender": sender,
            "recipients": recipients[start : start + MAX_RECIPIENTS],
            "body": order.body,
            "ret": order.ret,
            "envid": order.envid,
            "notify": order.notify,
        }
        for start in range(0, len(recipients), MAX_RECIPIENTS)
    ]
    drops: list[Drop] = []
    try:
        drops += (Drop(site.folder, slip) for slip in slips)
        size = 0
        for chunk in chain((head + b"\r\n",), reader.rest()):
            size += len(chunk)
            if size > site.message_size:
                what = f"the message is larger than message-size ({site.message_size} octets)"
                raise UsageError(DATA_ERROR, what)
            for drop in drops:
                drop.write(chunk)
        for drop in drops:
            drop.commit()
    finally:
        for drop in drops:
            drop.rollback()
    return OK


def _queue(_order: Order) -> int:
    from relayd.ctl.relayctl import main as relayctl

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mailq | head` ends quietly
    return UNAVAILABLE if relayctl(["queue"]) else OK


def _aliases(_order: Order) -> int:
    """There is no database to make: a running relayd reads its tables again."""
    from relayd.ctl.client import Daemon, DaemonError, NotRunningError
    from relayd.ctl.socketpath import DEFAULT_CONFIG, FailureError, socket_of

    try:
        complaint = Daemon(socket_of(DEFAULT_CONFIG)).answer("reload")["complaint"]
    except (NotRunningError, FailureError):
        return OK  # it reads them when it starts
    except DaemonError as error:
        raise UsageError(CANNOT_CREATE, str(error)) from None
    if complaint:
        raise UsageError(DATA_ERROR, f"the old aliases stay in force:\n{complaint}")
    return OK


def _flush(order: Order) -> int:
    """All that waits is due now. `-q30m`, to look into the queue for ever, is what relayd does."""
    from relayd.ctl.relayctl import main as relayctl

    if order.every not in ("", "f"):
        return OK
    with contextlib.redirect_stdout(io.StringIO()):
        return UNAVAILABLE if relayctl(["retry", "--all"]) else OK


def _smtp(_order: Order) -> int:
    from relayd.sendmail.dialogue import converse

    if sys.stdin is None or sys.stdout is None:
        raise UsageError(NO_INPUT, "there is no standard input, or no output")
    return converse(sys.stdin.fileno(), sys.stdout.fileno(), Site.here())


def _unsupported(order: Order) -> int:
    raise UsageError(USAGE, f"mode -b{order.mode} is not relayd's: it runs as a service")


_MODES = {"m": _message, "p": _queue, "i": _aliases, "s": _smtp, "q": _flush}


if __name__ == "__main__":
    sys.exit(main())
