"""`relayctl dkim check`, as relayd answers it: what the DNS says of each key that signs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relayd.authentication.dkimsigning import SigningKey
from relayd.dns.answer import Answer, DnsTrouble, NoData, NxDomain
from relayd.ops.answers import DkimAnswer
from relayd.ops.dkimdesk import DkimDesk
from relayd.ops.documents import RequestError
from tests.support import TestCase
from tests.unit.ops.test_answers import wrong

KEY = SigningKey("gw.example.com", "s", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = SigningKey("gw.example.com", "s", Ed25519PrivateKey.from_private_bytes(bytes(32)))


class DeskTests(TestCase):
    async def checked(self, *texts: str, error: Exception | None = None) -> tuple[str, str]:
        async def ask(name: str, rdtype: str) -> Answer[str]:
            self.assertEqual((name[:27], rdtype), ("s._domainkey.gw.example.com", "TXT"))
            if error is not None:
                raise error
            return Answer(name, name, texts, secure=False, ttl=60)

        settings: Any = SimpleNamespace(signing={"gateway": (KEY,)})
        answer = await DkimDesk(lambda: settings, ask).answer({"name": "gateway"})
        self.assertEqual(list(wrong(answer, DkimAnswer)), [])
        (key,) = answer["keys"]
        self.assertEqual(key["record"], KEY.record)
        return key["state"], key["why"]

    async def test_what_is_there_and_right(self) -> None:
        self.assertEqual(await self.checked(KEY.record), ("right", ""))
        spaced = KEY.record.replace(";", " ; ").replace("v=DKIM1 ; ", "")
        self.assertEqual(await self.checked(spaced), ("right", ""))
        state, why = await self.checked(KEY.record + "; t=y")
        self.assertEqual(state, "right")
        self.assertIn("t=y", why)

    async def test_what_is_wrong(self) -> None:
        for texts, why in (
            ((OTHER.record,), "it is another key"),
            ((KEY.record, OTHER.record), "there are 2 records"),
            (("v=DKIM1; k=ed25519; p=",), "the key was revoked"),
            (("v=spf1 -all",), "key record"),
        ):
            state, said = await self.checked(*texts)
            self.assertEqual(state, "wrong")
            self.assertIn(why, said)

    async def test_what_forms_for_records_make_of_it(self) -> None:
        record = KEY.record
        half = len(record) // 2
        for texts, why in (
            ((record.replace(";", "\\;"),), "backslashes stand in it"),
            ((f'"{record}"',), "quotation marks stand in it"),
            ((f'"{record[:half]}" "{record[half:]}"',), "quotation marks stand in it"),
            ((record[:-9],), f"it is cut after {len(record) - 9} octets"),
            ((record[:half], record[half:]), "they are the strings of one"),
            (("v=DKIM1; k=ed25519; t=s; p=",), "the key was revoked"),
            ((record.replace("k=ed25519; ", ""),), "the key is no RSA key"),
            ((record + "; s=tlsrpt",), "the key is not for mail"),
            ((record + "; h=sha1",), "the key is not for sha256"),
        ):
            state, said = await self.checked(*texts)
            self.assertEqual(state, "wrong", texts)
            self.assertIn(why, said)
        for text in (record + "; t=s", record + ";", record.replace("p=", "p= ")):
            self.assertEqual((await self.checked(text))[0], "right", text)

    async def test_a_zone_that_stands_there_twice(self) -> None:
        asked = []

        async def ask(name: str, rdtype: str) -> Answer[str]:
            asked.append(name)
            if name == "s._domainkey.gw.example.com.example.com":
                return Answer(name, name, (KEY.record,), secure=False, ttl=60)
            raise NxDomain(name, rdtype, "nothing")

        settings: Any = SimpleNamespace(signing={"gateway": (KEY,)})
        (key,) = (await DkimDesk(lambda: settings, ask).answer({}))["keys"]
        self.assertEqual(key["state"], "missing")
        self.assertIn("but at s._domainkey.gw.example.com.example.com", key["why"])
        self.assertEqual(len(asked), 3)

    async def test_what_is_not_there_or_not_known(self) -> None:
        for kind in (NxDomain, NoData):
            error = kind("s._domainkey.gw.example.com", "TXT", "nothing")
            self.assertEqual(await self.checked(error=error), ("missing", "there is no record"))
        trouble = DnsTrouble("s._domainkey.gw.example.com", "TXT", "SERVFAIL")
        self.assertEqual(await self.checked(error=trouble), ("unknown", "SERVFAIL"))

    async def test_a_name_that_nobody_gave(self) -> None:
        settings: Any = SimpleNamespace(signing={"gateway": (KEY,)})

        async def ask(name: str, rdtype: str) -> Answer[str]:
            raise AssertionError

        with self.assertRaisesRegex(RequestError, 'no dkim gatewey; did you mean "gateway"'):
            await DkimDesk(lambda: settings, ask).answer({"name": "gatewey"})
