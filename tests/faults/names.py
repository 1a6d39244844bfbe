"""The DNS that tells relayd where mail goes: dead, slow, failing, lying, flipping."""

from __future__ import annotations

import asyncio
import random

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.faults.run import Row, fault
from tests.faults.stage import staged

RULES = "accept from 127.0.0.0/8\nroute any direct\n"
DOMAINS = 300  # so that the cache does not hide what is wrong
KINDS = ("dead", "slow", "fails", "lies", "flips")


class NameServer(asyncio.DatagramProtocol):
    """A resolver on UDP for which every domain has an MX. It is well as long as `kind` is empty."""

    def __init__(self, seed: int) -> None:
        self.kind = ""
        self.asked = 0
        self._random = random.Random(f"dns {seed}")
        self._transport: asyncio.DatagramTransport

    async def start(self) -> int:
        """Listen; the port."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(self._self, ("127.0.0.1", 0))
        return int(transport.get_extra_info("sockname")[1])

    def _self(self) -> NameServer:
        return self

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Ready."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """A query."""
        self.asked += 1
        kind = self.kind
        if kind == "flips":
            kind = self._random.choice(("", "fails", "dead"))
        answer = self._answer(data, kind)
        if kind == "slow":
            asyncio.get_running_loop().call_later(1.5, self._transport.sendto, answer, addr)
            return
        if kind == "lies":  # forged ones first; the true one follows
            flipped = bytes((data[0] ^ 1,))
            self._transport.sendto(flipped + self._answer(data, "fails")[1:], addr)
            self._transport.sendto(data, addr)
            self._transport.sendto(self._random.randbytes(40), addr)
        if kind != "dead":
            self._transport.sendto(answer, addr)

    def _answer(self, data: bytes, kind: str) -> bytes:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        (question,) = query.question
        name = question.name.to_text().lower()
        rdtype = dns.rdatatype.to_text(question.rdtype)
        if kind == "fails":
            reply.set_rcode(dns.rcode.SERVFAIL)
        else:
            texts = self.records(name, rdtype)
            if texts:
                reply.answer.append(dns.rrset.from_text(name, 1, "IN", rdtype, *texts))
        return reply.to_wire()

    def records(self, name: str, rdtype: str) -> list[str]:
        """What it knows of a name, which ends in a dot."""
        if name.startswith("mx.") and rdtype == "A":
            return ["127.0.0.2"]
        return [f"10 mx.{name}"] if rdtype == "MX" else []


def _name(kind: str) -> None:
    async def named(row: Row, seed: int, short: bool) -> None:
        server = NameServer(seed)
        port = await server.start()
        async with staged(seed, host="127.0.0.2") as stage:
            stage.build(
                rules=RULES,
                settings=f"resolver 127.0.0.1:{port}\nrelay-port {stage.sink.port}\n"
                "internal-destinations 127.0.0.0/8",
            )
            await stage.start()
            injector = stage.inject(kinds=("ok", "no", "late"), pause=0.1, domains=DOMAINS)
            for _ in range(1 if short else 5):
                await asyncio.sleep(1.0)
                row.runs += 1
                server.kind = kind
                await asyncio.sleep(4.0 if short else 6.0)
                server.kind = ""
                row.recover = max(row.recover, await stage.flows())
            row.remarks.append(f"{server.asked} queries")
            await injector.stop()
            row.add(await stage.finish(), stage)
            wrong = set(injector.tally.codes) - {250}
            row.demand(not wrong, f"clients heard {sorted(wrong)}")

    fault(f"DNS {kind}")(named)


for each in KINDS:
    _name(each)
