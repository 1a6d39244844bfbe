"""With an aligned signature no octet below our trace fields changes, whatever else is on."""

from __future__ import annotations

import json
import re

from tests.scenarios.corpus import corpus
from tests.scenarios.filterpeers import Milter
from tests.scenarios.test_names import Names
from tests.sink import Sink
from tests.unit.authentication.test_dkim import ED_RECORD, sign

ANN = "ann@example.net"
OURS = {b"dkim-signature", b"authentication-results", b"received", b"x-gateway"}
RULES = """\
milter  quiet {milter} on failure defer
dkim    gateway domain gw.example.com selector g key file {keys}/g.pem
next-hop new   smtp 127.0.0.1:{new}
next-hop store lmtp 127.0.0.1:{store}
next-hop old   smtp 127.0.0.1:{old}
accept  to @example.com
ask     quiet
srs     domain gw.example.com keys file {keys}/srs
forward info@example.com -> a@new.example, b@store.example, c@old.example
header  add X-Gateway "gw.example.com"
header  add X-Breaks "yes" when breaks dmarc
rewrite header From any -> srs when breaks dmarc
reject  when dmarc reject
sign    any with gateway when forwarded
route   to @new.example   via new
route   to @store.example via store
route   to @old.example   via old
"""


class KeptWhole(Names):
    records = (
        f's._domainkey.example.net. TXT "{ED_RECORD}"\n'
        '_dmarc.example.net. TXT "v=DMARC1; p=reject"\n'
        'gw.example.com. A 127.0.0.1\ngw.example.com. TXT "v=spf1 a -all"\n'
    )

    def sink(self, *, lmtp: bool = False, old: bool = False) -> Sink:
        found = Sink(lmtp=lmtp, extensions=("PIPELINING",)) if old else Sink(lmtp=lmtp)
        self.addCleanup(found.stop)
        return found

    def test_the_corpus_comes_as_it_was_signed(self) -> None:
        keys = self.room("keys")
        for name, octets in (("srs", b"secret\n"), ("g.pem", _pem())):
            (keys / name).touch(mode=0o600)
            (keys / name).write_bytes(octets)
        new, store, old = self.sink(), self.sink(lmtp=True), self.sink(old=True)
        relay = self.relayd(
            RULES.format(
                milter=Milter(self, path=str(self.folder / "milter")).where,
                keys=keys,
                new=new.port,
                store=store.port,
                old=old.port,
            ),
            settings=f"resolver 127.0.0.1:{self.zone()}\n",
        )
        sent = {}
        for sample in corpus():
            section, _, body = sample.content.partition(b"\r\n\r\n")
            field = sign(section=section + b"\r\n\r\n", body=body, d="example.net")
            sent[sample.name] = signed = field + b"\r\n" + sample.content
            options = ["BODY=8BITMIME"] if sample.eight_bit else []
            options += ["SMTPUTF8"] if sample.utf8_header else []
            relay.send(ANN, ["info@example.com"], signed, mail_options=options)
        seven_bit = [name for name, content in sent.items() if content.isascii()]
        for sink, names in ((new, [*sent]), (store, [*sent]), (old, seven_bit)):
            copies = [each for each in sink.wait(len(names), 120) if each.sender]
            self.assertEqual(len(copies), len(names))
            for copy in copies:
                found = re.search(rb"(?m)^X-Corpus: (.*)\r$", copy.content)
                assert found is not None
                signed = sent[found[1].decode()]
                self.assertTrue(copy.content.endswith(signed), found[1])
                above = copy.content[: -len(signed)]
                fields = {each.lower() for each in re.findall(rb"(?m)^([\w-]+):", above)}
                self.assertEqual(fields, OURS, found[1])
        relay.wait_empty()
        status = json.loads(relay.ctl("status", "--json").stdout)
        shard = status["shards"][0]
        right = 2 * len(sent) + len(seven_bit)
        self.assertEqual((shard["forecasts_right"], shard["forecasts_wrong"]), (right, 0))
        self.assertIn(f"right {right:,} of {right:,} time", relay.ctl("status").stdout)


def _pem() -> bytes:
    from relayd.authentication.dkimsigning import new_private_key

    return new_private_key(ed25519=True)
