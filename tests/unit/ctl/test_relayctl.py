from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from relayd.ctl import relayctl
from relayd.ctl.commandline import span
from relayd.ctl.relayctl import main
from relayd.ctl.socketpath import FailureError, socket_of, spools_of
from relayd.ops import text

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "relayctl"
NOW = 1_767_600_600.0
ID = "CHWZE8DE0000"
IDENT = 1_767_600_000_000_000 << 8

ROWS = [
    [IDENT, NOW - 600, 5300, "alice@sender.example", [
        [0, "bob@example.net", "info@example.com", "direct", "direct example.net", 0, 3,
         NOW + 240, "451 4.4.1 Connection refused"],
        [1, "carol@example.org", "carol@example.org", "exchange", "exchange", 1, 0, 0, ""],
    ]],
    [IDENT + 256, NOW - 93600, 21_000_000, "", [
        [0, "d\x1b[31m@evil.example", "d@evil.example", "direct", "direct evil.example", 0, 0,
         NOW - 1, ""],
    ]],
]  # fmt: skip
COLUMNS = {
    "columns": ["ident", "received_at", "size", "sender", "recipients"],
    "recipient_columns": [
        "number", "mailbox", "original", "next_hop", "destination", "state", "attempts",
        "next_attempt", "last_reply",
    ],
}  # fmt: skip
STORY = {
    "id": ID,
    "received_at": NOW - 600,
    "size": 5300,
    "sender": "alice@sender.example",
    "message_id": "<20260105.1@sender.example>",
    "subject": "Offer \u2192 answer",
    "parameters": {"envid": "QQ1", "smtputf8": True},
    "client": {"address": "192.0.2.9", "port": 4711, "helo": "client.example", "protocol": "ESMTP"},
    "rules": "abcdef0123456789",
    "trail": [
        {
            "stage": "accept",
            "place": "rules.d/10-site.rules:14",
            "rule": "accept to <ours>",
            "note": "ours: rules.d/10-site.rules:1",
        },
        {"stage": "route", "place": "", "rule": "any direct", "note": "bob@example.net"},
    ],
    "recipients": [
        {
            "number": 0,
            "mailbox": "bob@example.net",
            "original": "info@example.com",
            "next_hop": "direct",
            "state": "queued",
            "attempts": 3,
            "next_attempt": NOW + 240,
            "reply": "451 4.4.1 Connection refused",
            "remote_mta": "",
            "remote_address": "",
            "why": "ECONNREFUSED at [198.51.100.7]:25",
        },
        {
            "number": 1,
            "mailbox": "carol@example.org",
            "original": "carol@example.org",
            "next_hop": "exchange",
            "state": "delivered",
            "attempts": 1,
            "ended_at": NOW - 599,
            "reply": "250 2.0.0 Ok",
            "remote_mta": "ex1.corp.example",
            "remote_address": "198.51.100.9:25",
            "why": "",
        },
        {
            "number": 2,
            "mailbox": "dan@example.org",
            "original": "dan@example.org",
            "next_hop": "exchange",
            "state": "removed",
            "attempts": 0,
            "ended_at": NOW - 60,
            "note": "spam",
            "reply": "",
            "remote_mta": "",
            "remote_address": "",
            "why": "",
        },
    ],
}
STATUS = {
    "version": "0.1.0",
    "hostname": "gw.example.com",
    "pid": 42,
    "started": NOW - 93600,
    "config": "/etc/relayd/relayd.conf",
    "waiting": {"messages": 1203, "octets": 5_300_000, "queued": 1204, "held": 1, "damaged": 0},
    "shards": [
        {"shard": 0, "healthy": True, "sessions": 3, "in_flight": 2},
        {"shard": 1, "healthy": False, "sessions": 0, "in_flight": 0},
    ],
    "destinations": [
        {
            "destination": "exchange",
            "standing": "down",
            "waiting": 1200,
            "oldest": NOW - 7200,
            "in_flight": 0,
            "failures": 3,
            "probe_at": NOW + 300,
            "trouble": "451 4.4.1 Connection refused",
        },
        {"destination": "direct example.org", "standing": "slowed", "waiting": 180, "in_flight": 1,
         "failures": 0, "probe_at": 0, "window": 2, "interval": 1.1,
         "trouble": "421 4.7.28 Unusual rate of mail"},
        {"destination": "direct example.net", "standing": "open", "waiting": 4, "in_flight": 2,
         "failures": 0, "probe_at": 0, "trouble": ""},
    ],
    "more_destinations": 0,
}  # fmt: skip
# the example in the description of the rule language
EXPLAINED: dict[str, Any] = {
    "verdict": "accept",
    "reply": "250 2.1.5 Recipient OK",
    "trail": [
        {
            "stage": "accept",
            "place": "rules.d/10-site.rules:14",
            "rule": "accept to <ours>",
            "note": "ours: rules.d/10-site.rules:1",
        },
        {
            "stage": "forward",
            "place": "rules.d/10-site.rules:24",
            "rule": "info@example.com -> alice@example.net, bob@example.org",
            "note": "",
        },
        {
            "stage": "route",
            "place": "rules.d/10-site.rules:33",
            "rule": "any direct",
            "note": "alice@example.net",
        },
        {
            "stage": "route",
            "place": "rules.d/10-site.rules:33",
            "rule": "any direct",
            "note": "bob@example.org",
        },
    ],
    "destinations": [
        {
            "mailbox": "alice@example.net",
            "next_hop": "direct",
            "reverse_path": "a@partner.example",
            "hosts": [
                "MX 10 mx1.example.net [198.51.100.7]",
                "MX 20 mx2.example.net [198.51.100.8]",
            ],
        },
        {
            "mailbox": "bob@example.org",
            "next_hop": "direct",
            "reverse_path": "a@partner.example",
            "hosts": ["no MX, implicit: example.org [198.51.100.20]"],
        },
    ],
}
REFUSED: dict[str, Any] = {
    "verdict": "refuse",
    "reply": "550 5.7.1 Relaying denied",
    "trail": [
        {"stage": "reject", "place": "", "rule": "550 5.7.1 Relaying denied", "note": "no rule"}
    ],
    "destinations": [],
}
UNKNOWN: dict[str, Any] = {
    "verdict": "refuse",
    "reply": "451 4.3.0 Temporary local problem",
    "trail": [{"stage": "unknown", "place": "", "rule": "451 4.3.0 ...", "note": "table x"}],
    "destinations": [],
}

Answers = Callable[[dict[str, Any]], list[dict[str, Any]]]


class FakeDaemon:
    """Answers each connection with what `answers` makes of its request."""

    def __init__(self, path: Path, answers: Answers) -> None:
        self.requests: list[dict[str, Any]] = []
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, connection.makefile("rb") as stream:
                    request = json.loads(stream.readline())
                    self.requests.append(request)
                    with contextlib.suppress(OSError):
                        for document in self._answers(request):
                            connection.sendall(json.dumps(document).encode() + b"\n")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def usual(request: dict[str, Any]) -> list[dict[str, Any]]:
    command = request["command"]
    if command == "queue":
        return [COLUMNS, {"rows": ROWS[:1]}, {"rows": ROWS[1:]}, {"done": True}]
    if command == "explain":
        known = {"x@refused.example": REFUSED, "x@unknown.example": UNKNOWN}
        answer: dict[str, Any] = known.get(request["recipient"], EXPLAINED)
    elif command in ("retry", "hold", "release", "remove"):
        answer = {"recipients": 0 if request["recipient"] == "nobody" else 2}
    elif command in ("check", "reload"):
        answer = {"complaint": "relayd.conf:1:1: no"}
    else:
        answer = STATUS if command == "status" else STORY
    if request.get("id") == "0" * 12:
        return [{"error": "no message 000000000000: not waiting, nor in the ledger"}]
    return [{"answer": answer}, {"done": True}]


class RelayctlTestCase(unittest.TestCase):
    maxDiff = None

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ctl"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "control"
        patch = mock.patch("relayd.ctl.relayctl.time.time", return_value=NOW)
        patch.start()
        self.addCleanup(patch.stop)
        zone = mock.patch.dict(os.environ, {"TZ": "UTC"})
        zone.start()
        self.addCleanup(time.tzset)
        self.addCleanup(zone.stop)
        time.tzset()

    def serve(self, answers: Answers = usual) -> FakeDaemon:
        fake = FakeDaemon(self.path, answers)
        self.addCleanup(fake.close)
        return fake

    def run_main(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(["--socket", str(self.path), *arguments])
            except SystemExit as stop:
                status = int(stop.code or 0)
        return status, out.getvalue(), err.getvalue()


class ShapeTests(RelayctlTestCase):
    """What people see; set RELAYD_GOLDEN=write to write the golden files anew."""

    def check(self, name: str, expected_status: int, *arguments: str) -> None:
        self.serve()
        status, out, err = self.run_main(*arguments)
        self.assertEqual((status, err), (expected_status, ""))
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("RELAYD_GOLDEN") == "write":
            path.write_text(out)
        self.assertEqual(out, path.read_text())
        self.assertNotIn("\x1b", out)

    def test_queue(self) -> None:
        self.check("queue", 0, "queue")

    def test_show(self) -> None:
        self.check("show", 0, "show", ID, ID)

    def test_why(self) -> None:
        self.check("why", 0, "why", ID)

    def test_status_of_a_daemon_that_cannot_record(self) -> None:
        self.check("status", 1, "status")

    def test_explain_as_the_design_shows_it(self) -> None:
        self.check(
            "explain",
            0,
            *("explain", "--from", "203.0.113.9", "--sender", "a@partner.example"),
            "info@example.com",
        )

    def test_explain_refused(self) -> None:
        self.check("explain-refused", 1, "explain", "x@refused.example")


class HeldTests(RelayctlTestCase):
    """Quarantine: what is kept back, and why."""

    def answers(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        story: Any = STORY
        first = story["recipients"][0]
        recipients = [
            {**first, "mailbox": "ann@b.test", "state": "held",
             "reply": "450 4.7.0 Held by rule x:1 hold when over l"},
            {**first, "mailbox": "bob@b.test", "state": "queued"},
        ]  # fmt: skip
        if request["command"] == "show":
            facts = ["not listed zen", "over l", "says v none", "score scan 15.2"]
            story = {**STORY, "received_at": NOW - 60, "facts": facts, "recipients": recipients}
            return [{"answer": story}, {"done": True}]
        return usual({"recipient": "", **request})

    def test_each_message_is_told_with_who_holds_it_and_what_is_so(self) -> None:
        fake = self.serve(self.answers)
        status, out, _ = self.run_main("held", "--limit", "5")
        self.assertEqual(status, 0)
        self.assertEqual(fake.requests[0]["state"], "held")
        self.assertEqual(fake.requests[0]["limit"], 5)
        head, recipient, facts = out.splitlines()[:3]
        self.assertRegex(head, rf"^{STORY['id']}  1m  \S+  <{STORY['sender']}>$")
        self.assertEqual(recipient, "    <ann@b.test>  450 4.7.0 Held by rule x:1 hold when over l")
        self.assertEqual(facts, "    over l, score scan 15.2")
        self.assertNotIn("bob", out)
        _, out, _ = self.run_main("held", "list", "--json")
        self.assertEqual(json.loads(out.splitlines()[0])["recipients"][0]["mailbox"], "ann@b.test")

    def test_only_what_is_held_is_released_or_discarded(self) -> None:
        fake = self.serve(self.answers)
        self.assertEqual(self.run_main("held", "release", ID)[:2], (0, "2 recipients released\n"))
        self.assertEqual(self.run_main("held", "discard", ID)[:2], (0, "2 recipients discarded\n"))
        self.run_main("held", "discard", ID, "--note", "spam")
        self.assertEqual(
            [(each["command"], each["state"], each.get("note", "")) for each in fake.requests],
            [("release", "held", ""), ("remove", "held", "discarded from what is held"),
             ("remove", "held", "spam")],
        )  # fmt: skip
        self.assertEqual(self.run_main("held", "release", "--training", "ham", ID)[0], 0)
        self.assertEqual(fake.requests[-1]["training"], "ham")
        self.assertEqual(self.run_main("held", "release", "--training", "eggs", ID)[0], 2)
        self.assertNotIn("eggs", str(fake.requests))

    def test_of_one_it_is_shown_how_rules_decided(self) -> None:
        fake = self.serve(self.answers)
        self.run_main("held", "show", ID)
        self.assertEqual((fake.requests[0]["command"], fake.requests[0]["id"]), ("why", ID))

    def test_nothing_is_held(self) -> None:
        self.serve(lambda request: [COLUMNS, {"done": True}])
        self.assertEqual(self.run_main("held")[:2], (0, "Nothing is held.\n"))


FOUND = [
    {
        "id": ID,
        "received_at": NOW - 600,
        "size": 5300,
        "sender": "alice@sender.example",
        "message_id": "<1@sender.example>",
        "subject": "Offer",
        "number": 0,
        "recipient": "bob@example.net",
        "original": "info@example.com",
        "next_hop": "exchange",
        "state": "failed",
        "attempts": 1,
        "ended_at": NOW - 500,
        "reply": "550 5.1.1 nobody of that name",
    },
    {
        "id": "CHWZE8DE0080",
        "received_at": NOW - 900,
        "size": 512,
        "sender": "",
        "message_id": "",
        "subject": "",
        "number": 0,
        "recipient": "carol@example.org",
        "original": "carol@example.org",
        "next_hop": "direct",
        "state": "queued",
        "attempts": 0,
        "ended_at": 0.0,
        "reply": "",
    },
]


class FindTests(RelayctlTestCase):
    def answers(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        if request["command"] == "show":
            return [{"answer": {**STORY, "id": request["id"]}}, {"done": True}]
        found = [] if "nobody" in request["message_id"] else FOUND
        return [{"found": found[:1]}, {"found": found[1:]}, {"done": True}]

    def test_each_recipient_is_told_with_what_became_of_it(self) -> None:
        fake = self.serve(self.answers)
        status, out, _ = self.run_main(
            *("find", "--recipient", "@example.com", "--since", "2h", "--state", "bounced"),
            *("--until", "2026-01-05T08:00", "--limit", "7", "--subject", "offer"),
        )
        self.assertEqual(status, 0)
        self.assertEqual(
            out,
            f"{ID}  2026-01-05 08:00:00 UTC  failed     <alice@sender.example> ->"
            " <bob@example.net> (given as <info@example.com>)\n"
            "    5.2KiB  <1@sender.example>  Offer\n"
            "    550 5.1.1 nobody of that name\n"
            "CHWZE8DE0080  2026-01-05 07:55:00 UTC  queued     <> -> <carol@example.org>\n"
            "    512B\n",
        )
        asked = fake.requests[0]
        self.assertEqual((asked["since"], asked["until"]), (NOW - 7200, NOW - 600))
        self.assertEqual((asked["state"], asked["limit"]), ("bounced", 7))

    def test_json_is_one_document_a_line(self) -> None:
        self.serve(self.answers)
        status, out, _ = self.run_main("find", "--json")
        self.assertEqual([json.loads(line) for line in out.splitlines()], FOUND)
        self.assertEqual(status, 0)

    def test_nothing_found_is_no_success(self) -> None:
        self.serve(self.answers)
        self.assertEqual(self.run_main("find", "--message-id", "<nobody@x>"),
                         (1, "Nothing is found.\n", ""))  # fmt: skip

    def test_a_time_that_is_none_is_told_those_that_are(self) -> None:
        _, _, err = self.run_main("find", "--since", "yesterday")
        self.assertIn("'yesterday' is no time (2h for two hours ago, 2026-03-01", err)

    def test_a_message_is_shown_by_its_message_id(self) -> None:
        self.serve(self.answers)
        _, out, _ = self.run_main("show", "<1@sender.example>")
        self.assertIn(f"message       {ID}\n", out)
        self.assertIn("message       CHWZE8DE0080\n", out)
        status, _, err = self.run_main("show", "<nobody@x.example>")
        self.assertEqual(
            (status, err), (1, "relayctl: no message has the Message-ID <nobody@x.example>\n")
        )

    def test_errors_are_json_too(self) -> None:
        self.serve(lambda _: [{"error": "the spool is in trouble: disk full"}])
        status, out, err = self.run_main("--json", "find")
        self.assertEqual((status, err), (1, ""))
        self.assertEqual(json.loads(out), {"error": "the spool is in trouble: disk full"})


class CommandTests(RelayctlTestCase):
    def test_filters_are_passed_on(self) -> None:
        fake = self.serve()
        self.run_main(
            *("queue", "--sender", "<>", "--recipient", "@x", "--next-hop", "exchange"),
            *("--state", "held", "--older-than", "1h30m", "--limit", "5"),
        )
        self.assertEqual(
            fake.requests,
            [
                {
                    "command": "queue",
                    "sender": "<>",
                    "recipient": "@x",
                    "destination": "exchange",
                    "state": "held",
                    "older_than": 5400,
                    "limit": 5,
                }
            ],
        )

    def test_queue_as_json(self) -> None:
        self.serve()
        for arguments in (("queue", "--json"), ("--json", "queue")):
            status, out, _ = self.run_main(*arguments)
            self.assertEqual(status, 0)
            messages = [json.loads(line) for line in out.splitlines()]
            self.assertEqual([message["id"] for message in messages], [ID, "CHWZE8DE0080"])
            first = messages[0]["recipients"][0]
            self.assertEqual((first["mailbox"], first["state"]), ("bob@example.net", "queued"))
            self.assertEqual(messages[0]["recipients"][1]["state"], "held")

    def test_mail_behind_a_next_hop_that_is_down(self) -> None:
        lanes = {"direct example.net": NOW + 900.0, "exchange": NOW + 900.0}
        head = {**COLUMNS, "lanes": lanes}
        self.serve(lambda _: [head, {"rows": ROWS}, {"done": True}])
        _, out, _ = self.run_main("queue", "--json")
        due = [
            each["next_attempt"] - NOW
            for line in out.splitlines()
            for each in json.loads(line)["recipients"]
        ]
        self.assertEqual(due, [900, -NOW, -1])  # held mail waits for nobody, others' lanes are open
        _, out, _ = self.run_main("queue")
        self.assertIn("queued      3  in 15m    direct example.net", out)

    def test_what_of_a_reload_waits_for_a_restart(self) -> None:
        answer = {"complaint": "", "restart": ["listen", "workers"]}
        self.serve(lambda _: [{"answer": answer}, {"done": True}])
        said = "but these take effect at a restart only: listen, workers\n"
        expected = (0, f"the new configuration is in force\n{said}", "")
        self.assertEqual(self.run_main("reload"), expected)

    def test_a_configuration_that_nobody_refused_is_not_spoken_of(self) -> None:
        self.serve(lambda _: [{"answer": {**STATUS, "refused": None}}, {"done": True}])
        _, out, _ = self.run_main("status")
        self.assertNotIn("refused ", out)
        self.assertNotIn("None", out)

    def test_to_run_with_the_last_good_configuration_is_no_success(self) -> None:
        why = "relayd.conf:1:1: unknown verb\n    acept any\n    ^^^^^"
        refused: dict[str, Any] = {"since": NOW - 60, "why": why, "last_good": None}
        given: list[dict[str, Any]] = STATUS["shards"]  # type: ignore[assignment]
        shards = [{**each, "healthy": True} for each in given]
        answer = {**STATUS, "shards": shards, "refused": refused}
        self.serve(lambda _: [{"answer": answer}, {"done": True}])
        for last_good, expected, holds in (
            (None, 0, "the old rules hold:"),
            (NOW - 3600, 1, "started with the last good configuration, of "),
        ):
            refused["last_good"] = last_good
            status, out, _ = self.run_main("status")
            self.assertEqual(status, expected)
            self.assertIn(holds, out)
            for line in why.split("\n"):
                self.assertIn(f"{'':13}  {line}\n", out)
            status, out, _ = self.run_main("status", "--json")
            self.assertEqual((status, json.loads(out)["refused"]), (expected, refused))

    @unittest.skipIf(os.geteuid() != 0, "reads with another user's rights: needs root")
    def test_check_reads_with_the_rights_of_him_who_is_to_start_with_it(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        top = Path(folder.name)
        top.chmod(0o755)
        (top / "spool").mkdir()
        nobody = pwd.getpwnam("nobody")
        os.chown(top / "spool", nobody.pw_uid, nobody.pw_gid)
        config, list_ = top / "relayd.conf", top / "list"
        config.write_text("hostname gw.example.com\nspool spool\ntable people file list\n")
        list_.write_text("a@b.example\n")
        list_.chmod(0o600)
        with mock.patch.object(relayctl, "DEFAULT_CONFIG", config):
            for group, status in ((0, 1), (nobody.pw_gid, 0)):
                os.chown(list_, 0, group)
                list_.chmod(0o640)
                out, err = io.StringIO(), io.StringIO()
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    self.assertEqual(main(["check"]), status, err.getvalue())
                self.assertEqual("Permission denied" in err.getvalue(), bool(status))
        self.assertEqual(main(["check", str(config)]), 0)  # a draft is read by whoever asks
        self.assertEqual((os.geteuid(), os.getegid()), (0, 0))

    def test_an_output_that_takes_nothing_is_said_in_a_line(self) -> None:
        self.serve(lambda request: [COLUMNS, {"done": True}])
        out = subprocess.run(
            [
                *("sh", "-c", '"$0" -m relayd.ctl.relayctl --socket "$1" queue >/dev/full'),
                *(sys.executable, str(self.path)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(out.returncode, 1)
        self.assertEqual(out.stderr, "relayctl: [Errno 28] No space left on device\n")

    def test_a_state_that_is_none_is_told_those_that_are(self) -> None:
        complaint = io.StringIO()
        with contextlib.redirect_stderr(complaint):
            self.assertEqual(main(["queue", "--state", "waiting"]), 2)
        self.assertIn('--state "waiting": expected queued or held', complaint.getvalue())

    def test_an_empty_queue(self) -> None:
        self.serve(lambda request: [COLUMNS, {"done": True}])
        self.assertEqual(self.run_main("queue"), (0, "Mail queue is empty\n", ""))

    def test_json_of_the_others(self) -> None:
        self.serve()
        for command, expected in (
            (("status",), STATUS),
            (("show", ID), STORY),
            (("why", ID), STORY),
            (("explain", "a@b"), EXPLAINED),
        ):
            _, out, _ = self.run_main(*command, "--json")
            self.assertEqual(json.loads(out), expected)

    def test_changes(self) -> None:
        fake = self.serve()
        self.assertEqual(self.run_main("retry", "--all"), (0, "2 recipients due now\n", ""))
        self.assertEqual(self.run_main("hold", ID), (0, "2 recipients held\n", ""))
        self.assertEqual(
            self.run_main("release", "--next-hop", "x"), (0, "2 recipients released\n", "")
        )
        self.assertEqual(
            self.run_main("remove", "--sender", "@spam", "--note", "spam")[:2],
            (0, "2 recipients removed\n"),
        )
        self.assertEqual(
            [(each["ids"], each["all"], each["note"]) for each in fake.requests],
            [([], True, ""), ([ID], False, ""), ([], False, ""), ([], False, "spam")],
        )
        status, _, err = self.run_main("remove", "--recipient", "nobody")
        self.assertEqual((status, err), (1, "relayctl: no waiting recipient fits\n"))

    def test_nothing_named_is_not_even_asked(self) -> None:
        fake = self.serve()
        status, _, err = self.run_main("remove")
        self.assertEqual(status, 1)
        self.assertIn("nothing named", err)
        self.assertEqual(fake.requests, [])

    def test_exit_statuses(self) -> None:
        self.serve()
        for arguments, expected in (
            (("explain", "x@refused.example"), 1),
            (("explain", "x@unknown.example"), 2),
            (("explain", "ok@example.com", "x@refused.example"), 1),
            (("show", "0" * 12), 1),
            (("check",), 1),
            (("reload",), 1),
            (("queue", "--older-than", "soon"), 2),
            (("frob",), 2),
            ((), 2),
        ):
            self.assertEqual(self.run_main(*arguments)[0], expected, arguments)

    def test_a_complaint_goes_to_standard_error(self) -> None:
        self.serve()
        self.assertEqual(self.run_main("reload"), (1, "", "relayd.conf:1:1: no\n"))

    def test_not_running(self) -> None:
        status, out, err = self.run_main("status")
        self.assertEqual((status, out), (1, ""))
        where = (
            f"nobody answers at {self.path}; start it, or say where it is with --config or --socket"
        )
        self.assertEqual(err, f"relayctl: relayd is not running: {where}\n")
        status, _, err = self.run_main("explain", "a@b")
        self.assertEqual(status, 2)
        self.assertIn(f"{where}; --offline asks the files\n", err)

    def test_a_suspension_for_a_number_without_a_unit_is_refused(self) -> None:
        status, _, err = self.run_main("suspend", "--login", "bob", "--for", "2")
        self.assertEqual(status, 2)
        self.assertIn("'2' has no unit: 2m, 2h, ...", err)

    def test_resume_says_what_is_not_suspended(self) -> None:
        self.serve(lambda request: [{"answer": {"resumed": []}}, {"done": True}])
        status, _, err = self.run_main("resume", "--provider", "gogle")
        self.assertEqual(status, 1)
        self.assertIn("provider gogle is not suspended; relayctl suspended lists", err)
        self.assertEqual(self.run_main("resume", "--all"), (0, "Nothing is suspended.\n", ""))

    def test_held_release_of_what_is_not_held_is_said(self) -> None:
        self.serve(lambda request: [{"answer": {"recipients": 0}}, {"done": True}])
        status, _, err = self.run_main("held", "release", ID)
        self.assertEqual(status, 1)
        self.assertIn("nothing that is held fits", err)

    def test_why_of_a_report_says_that_no_rule_decided(self) -> None:
        story = {"id": ID, "sender": "", "received_at": 0, "client": {}, "recipients": []}
        self.serve(lambda request: [{"answer": {**story, "rules": ""}}, {"done": True}])
        status, out, _ = self.run_main("why", ID)
        self.assertEqual(status, 0)
        self.assertIn("made by relayd itself", out)

    def test_show_has_the_forecast_of_each_copy(self) -> None:
        story = usual({"command": "show", "id": ID})[0]["answer"]
        mailbox = story["recipients"][0]["mailbox"]
        step = {"stage": "forecast", "place": "", "rule": "at risk", "note": f"{mailbox}: l="}
        story = {**story, "trail": [step, {**step, "note": "x@other.example: no"}]}
        self.serve(lambda request: [{"answer": story}, {"done": True}])
        _, out, _ = self.run_main("show", ID)
        self.assertEqual(out.count("forecast"), 1)
        self.assertIn("    forecast of DMARC: at risk: l=\n", out)

    def test_why_by_message_id(self) -> None:
        asked = []

        def answers(request: dict[str, Any]) -> list[dict[str, Any]]:
            asked.append(request["command"])
            if request["command"] == "find":
                return [{"found": [{"id": ID}]}, {"done": True}]
            story = {"id": ID, "sender": "", "received_at": 0, "client": {}, "recipients": []}
            return [{"answer": story}, {"done": True}]

        self.serve(answers)
        self.assertIn(ID, self.run_main("why", "<1@b.example>")[1])
        self.assertEqual(asked, ["find", "why"])

    def test_a_daemon_that_dies_in_the_middle(self) -> None:
        self.serve(lambda request: [COLUMNS, {"rows": ROWS}])
        status, out, err = self.run_main("queue")
        self.assertEqual(status, 1)
        self.assertIn("bob@example.net", out)
        self.assertIn("hung up", err)


class OfflineTests(RelayctlTestCase):
    """From the files, with nobody listening."""

    def setUp(self) -> None:
        super().setUp()
        self.config = self.directory / "relayd.conf"
        self.write("accept to @example.com\nforward info@example.com -> alice@example.net\n")

    def write(self, rules: str) -> None:
        self.config.write_text(f"hostname gw.example.com\nspool spool\n{rules}")

    def offline(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["--config", str(self.config), *arguments])
        return status, out.getvalue(), err.getvalue()

    def test_explain_names_the_forward_of_what_is_not_accepted(self) -> None:
        self.write("accept to @example.com\nforward a@example.net -> b@example.com\n")
        status, out, _ = self.offline("explain", "--offline", "a@example.net")
        self.assertEqual(status, 1)
        self.assertIn("no rule accepts it; the forward at relayd.conf:4 comes after accepting", out)
        _, out, _ = self.offline("explain", "--offline", "c@example.net")
        self.assertRegex(out, "no rule accepts it\n")

    def test_explain(self) -> None:
        status, out, _ = self.offline("explain", "--offline", "info@example.com")
        self.assertEqual(status, 0)
        self.assertIn("info@example.com -> alice@example.net", out)
        status, out, _ = self.offline("explain", "--offline", "x@elsewhere.example")
        self.assertEqual(status, 1)
        self.assertIn("refused: 550 5.7.1 Relaying denied\n", out)
        for wrong in (("nonsense",), ("--from", "here", "a@b.example")):
            status, _, err = self.offline("explain", "--offline", *wrong)
            self.assertEqual(status, 2)
            self.assertTrue(err.startswith("relayctl: "), err)

    def test_check(self) -> None:
        status, out, err = self.offline("check")
        self.assertEqual(status, 0)
        self.assertEqual(out, f"{self.config} is good\nread: 1 file, 2 rules, 0 tables, 0 tests\n")
        self.assertRegex(err, r"^warning: \S+relayd.conf:\d+:1: this takes mail for any mailbox of")
        self.assertIn("\n    ^^^^^^\n", err)
        self.write("accept to <nowhere>\nroute any via nothing\n")
        status, out, err = self.offline("check")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("relayd.conf:3:", err)
        self.assertIn("relayd.conf:4:", err)
        status, _, err = self.offline("explain", "--offline", "a@b.example")
        self.assertEqual(status, 2)
        self.assertIn("relayd.conf:3:", err)

    @unittest.skipIf(os.geteuid() != 0, "gives a spool to another user: needs root")
    def test_what_the_spools_owner_has_put_there_leads_root_nowhere(self) -> None:
        spool, treasure = self.directory / "spool", self.directory / "treasure"
        (spool / "shard-0").mkdir(parents=True)
        treasure.touch(0o600)
        self.directory.chmod(0o755)
        self.write("tls-reports from postmaster@example.com\naccept to any\n")
        for link, *command in (
            (spool / "tls-results.db", "tls-report"),
            (spool / "shard-0/queue.db", "replay", str(self.config)),
        ):
            with self.subTest(command):
                link.symlink_to(treasure)
                for path in (spool, spool / "shard-0"):
                    os.chown(path, 64321, 64321)
                status, _, err = self.offline(*command)
                self.assertNotEqual(status, 0)
                self.assertIn("unable to open database file", err)
                self.assertEqual(treasure.read_bytes(), b"")
                self.assertEqual(os.geteuid(), 0)
                self.assertEqual(
                    [each.name for each in self.directory.glob("treasure*")], ["treasure"]
                )


class FindingTests(RelayctlTestCase):
    def found(self, config: str) -> Path:
        path = self.directory / "relayd.conf"
        path.write_text(config)
        return socket_of(path)

    def test_socket_of(self) -> None:
        for config, expected in (
            ("spool /var/spool/relayd\n", "/var/spool/relayd/control"),
            ('spool "/var/my spool"  # here\n', "/var/my spool/control"),
            ("spool run/spool\n", f"{self.directory}/run/spool/control"),
            ("spool /a\ncontrol /run/relayd.sock # there\n", "/run/relayd.sock"),
        ):
            self.assertEqual(self.found(config), Path(expected))

    def test_no_setting_means_the_default(self) -> None:
        self.assertEqual(self.found("hostname x\n"), Path("/var/spool/relayd/control"))

    def test_the_whole_language_agrees(self) -> None:
        from relayd.config import load

        for config in (
            *("spool run/spool\n", "control here\n", 'spool "a b"\n', ""),
            'spool postgresql "service=relayd"\n',
            'spool postgresql "service=relayd dbname=\\"x y\\"" folder run/spool # here\n',
            'spool postgresql "service=relayd" folder "a b"\n',
        ):
            path = self.directory / "relayd.conf"
            path.write_text(f"hostname gw.example.com\n{config}")
            self.assertEqual(socket_of(path), load(path).control, config)

    def test_no_configuration(self) -> None:
        with self.assertRaisesRegex(FailureError, "--config or --socket"):
            socket_of(self.directory / "none")

    def test_without_the_configuration_a_relayd_that_runs_is_found(self) -> None:
        """It has started with the last good one."""
        usual = self.directory / "control"
        with (
            mock.patch("relayd.ctl.socketpath.DEFAULT_CONFIG", self.directory / "none"),
            mock.patch("relayd.ctl.socketpath.DEFAULT_SPOOL", str(self.directory)),
        ):
            with self.assertRaises(FailureError):
                socket_of(self.directory / "none")
            usual.touch()
            self.assertEqual(socket_of(self.directory / "none"), usual)
            with self.assertRaises(FailureError):
                socket_of(self.directory / "another")

    def test_where_the_spool_of_a_wrong_configuration_may_be(self) -> None:
        path, others = self.directory / "relayd.conf", [Path.cwd(), Path("/var/spool/relayd")]
        for said, expected in (
            ("acept any\nspool run/spool\n", [self.directory / "run/spool", *others]),
            ("acept any\n", [others[1], others[0]]),
        ):
            path.write_text(said)
            self.assertEqual(spools_of(path), expected)
        self.assertEqual(spools_of(self.directory / "none"), [others[1], others[0]])

    def test_spans(self) -> None:
        for written, seconds in (("90", 90), ("30m", 1800), ("1h30m", 5400), ("5d", 432000)):
            self.assertEqual(span(written), seconds)


class ProcessTests(RelayctlTestCase):
    """The command as a process."""

    def test_it_starts_without_twisted(self) -> None:
        script = (
            "import sys; before = set(sys.modules);"
            "import relayd.ctl.relayctl as r; r.parser();"
            "sys.exit(any(m.split('.')[0] in ('twisted', 'zope', 'sqlite3', 'idna')"
            " for m in set(sys.modules) - before))"
        )
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

    def test_head_ends_it_quietly(self) -> None:
        many = {"rows": ROWS * 500}
        self.serve(lambda request: [COLUMNS, *[many] * 20, {"done": True}])
        command = [sys.executable, "-m", "relayd.ctl.relayctl", "--socket", str(self.path), "queue"]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            self.assertTrue(process.stdout.readline().startswith(b"ID "))
            process.stdout.close()
            self.assertEqual(process.stderr.read(), b"")
            self.assertLess(process.wait(), 0)  # by SIGPIPE, as others do


class WordTests(unittest.TestCase):
    def test_durations(self) -> None:
        for seconds, expected in (
            (-5, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"),
            (11520, "3h12m"), (86400, "1d"), (93600, "1d2h"),
        ):  # fmt: skip
            self.assertEqual(text.duration(seconds), expected)

    def test_sizes(self) -> None:
        for size, expected in (
            (0, "0B"), (999, "999B"), (1000, "1.0KiB"), (5300, "5.2KiB"), (20 << 20, "20MiB"),
            (5000 << 30, "5000GiB"),
        ):  # fmt: skip
            self.assertEqual(text.octets(size), expected)
