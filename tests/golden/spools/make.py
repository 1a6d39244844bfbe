"""Makes the golden spools: a real relayd takes mail, is stopped, and exports each format it knows.

Run in a checkout of a release whose format is a new one, with this file copied into it:

    python -m tests.golden.spools.make FOLDER

It leaves `format-N.tar.gz` there, to be kept beside this file. Made once, when the format is
released, and never again: what counts is that it was written by the code of then. Those of the
formats 1 and 2 are by 0.1.0; that of format 3 is the latter's, as relayd has brought it up to date.
What is in them is said in tests/unit/relay/test_golden_spools.py.
"""

from __future__ import annotations

import sys
import tarfile
import time
import unittest
from pathlib import Path

from relayd.spool import formats
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Asked, Sink

ANN = "ann@sender.example"
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 4 * 2000 + b"\r\n"
UTF8 = "Subject: gr\u00fc\u00dfe\r\nX-Old: yes\r\n\r\ntext\r\n".encode()

RULES = """
srs domain srs.example.com keys file {keys}
next-hop up smtp 127.0.0.1:{up}
next-hop down smtp 127.0.0.1:{down}, 127.0.0.1:{down}
next-hop spare smtp 127.0.0.1:{down}
discard to noreply@example.com "nobody reads it"
hold to held@example.com "looked at by the mail team"
accept to @example.com
accept to @lists.example.com
accept to @up.example
header add X-Rewritten "yes" when to header@example.com
forward info@example.com -> alice@outside.example
forward team@example.com -> one@example.com, two@direct.example
route to @up.example via up
route to @direct.example direct
route to @lists.example.com via down, spare
route any via down
"""


class Golden(Scenario):
    """Not a test: the harness is what is wanted of it."""

    target: Path

    def runTest(self) -> None:
        """Make the spool."""

        def answer(asked: Asked) -> str | None:
            no = asked.stage == "rcpt" and asked.argument == "no@up.example"
            return "550 5.1.1 nobody of that name" if no else None

        keys = self.folder / "srs.keys"
        keys.touch(mode=0o600)
        keys.write_text("correct horse battery staple\n")
        down = Sink()
        down.stop()
        with Sink(answer) as up:
            relay = self.relayd(
                RULES.format(keys=keys, up=up.port, down=down.port),
                settings=f"retry 1d\nwarn-after 2s\nresolver 127.0.0.1:{down.port}\n",
            )
            late = fill(relay)
            time.sleep(2.0)
            self.assertEqual(relay.stop(), 0)
            relay.start()  # and looks at once who is to be warned
            wait_until(lambda: warned(relay, late), "the sender is warned")
        self.assertEqual(relay.stop(), 0)
        for number in range(formats.OLDEST, formats.VERSION + 1):
            copy = self.folder / f"format-{number}"
            relay.ctl("spool", "export", str(copy), "--format", str(number))
            with tarfile.open(self.target / f"{copy.name}.tar.gz", "w:gz") as archive:
                archive.add(copy, "spool", filter=by_nobody)
                for log in sorted(copy.parent.glob("relayd/spool/shard-*/journal")):
                    archive.add(log, f"spool/{log.parent.name}/journal", filter=by_nobody)


def fill(relay: Relayd) -> str:
    """One of each kind; returns the one whose sender is to be warned."""
    ended = [
        relay.send(ANN, ["yes@up.example"]),
        relay.send(ANN, ["no@up.example"]),  # a report waits for her
        relay.send(ANN, ["noreply@example.com"]),
        relay.send(ANN, ["removed@example.com"]),
    ]
    relay.settled(ended[0])
    relay.settled(ended[1])
    relay.ctl("remove", ended[3], "--note", "not wanted")
    deferred = [
        relay.send(ANN, ["late@example.com"]),  # ... and is warned of
        relay.send(ANN, ["info@example.com"]),  # with a sender of ours
        relay.send(ANN, ["team@example.com"]),  # by two ways
        relay.send(ANN, ["everybody@lists.example.com"]),
        relay.send("", ["nobody-hears@example.com"]),
        relay.send(ANN, ["large@example.com"], LARGE),
        relay.send(ANN, ["header@example.com", "asis@example.com"]),
        relay.send(
            "j\u00f6rg@sender.example",
            ["j\u00f6rg@example.com"],
            UTF8,
            mail_options=["SMTPUTF8", "BODY=8BITMIME"],
        ),
        relay.send(
            ANN,
            ["dsn@example.com"],
            mail_options=["RET=HDRS", "ENVID=QQ+2B314159"],
            rcpt_options=["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;first@other.example"],
        ),
        relay.send(ANN, ["held@example.com", "beside@example.com"]),
    ]
    refused = relay.session()
    refused.ehlo("client.example")
    refused.mail(ANN)
    refused.rcpt("stranger@elsewhere.example")
    refused.quit()
    for ident in deferred[:-1]:
        relay.settled(ident)
    return deferred[0]


def warned(relay: Relayd, ident: str) -> bool:
    """Whether a report on this message was queued."""
    return any(f"report id={ident} " in line for line in relay.log(5000).splitlines())


def by_nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whoever made it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    Golden.target = Path(sys.argv[1]).absolute()
    done = unittest.TextTestRunner().run(Golden())
    sys.exit(not done.wasSuccessful())
