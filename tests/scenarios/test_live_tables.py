"""Tables that are asked at RCPT: right answers, a source that is gone, hangs or says nonsense."""

from __future__ import annotations

import http.server
import json
import sqlite3
import threading
import time
from urllib.parse import unquote

from tests.ports import free_port
from tests.scenarios.harness import Relayd, Scenario, unhurried, wait_until
from tests.scenarios.test_directories import (
    DirectoryTest,
    LdapSource,
    MariadbSource,
    PostgresqlSource,
)

RULES = """\
table people {people} live cache {cache}
accept to <people>
accept to @example.org
forward <people>
next-hop sink smtp 127.0.0.1:1
route any via sink
"""


class Panel(http.server.ThreadingHTTPServer):
    """Says of one address what becomes of it."""

    daemon_threads = True

    def __init__(self) -> None:
        panel = self
        self.forwards: dict[str, object] = {"info@example.com": ["ann@example.net"]}
        self.asked: list[str] = []
        self.gone = False
        self.hangs = threading.Event()
        self.hangs.set()

        class Door(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                key = unquote(self.path.rpartition("/")[2])
                panel.asked.append(key)
                panel.hangs.wait(20)
                if panel.gone:
                    self.close_connection = True
                    return
                found = panel.forwards.get(key)
                answer = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", free_port()), Door)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class LiveTest(Scenario):
    """By HTTP on this machine."""

    def serve(self, cache: str = "5m", workers: int = 1) -> tuple[Panel, Relayd]:
        panel = Panel()
        self.addCleanup(panel.server_close)
        self.addCleanup(panel.shutdown)
        self.addCleanup(panel.hangs.set)
        url = f"http http://127.0.0.1:{panel.server_port}/forwards/$1"
        rules = RULES.format(people=url, cache=cache)
        relay = self.relayd(rules, start=False)
        text = relay.config.read_text("utf-8").replace("\nworkers 1\n", f"\nworkers {workers}\n")
        relay.config.write_text(text, "utf-8")
        return panel, relay.start()

    def reply(self, relay: Relayd, recipient: str) -> int:
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail("a@outside.example")
            return client.rcpt(recipient)[0]

    def test_an_address_is_asked_for_once_and_then_remembered(self) -> None:
        panel, relay = self.serve()
        self.assertEqual(self.reply(relay, "info@example.com"), 250)
        self.assertEqual(self.reply(relay, "Info@example.com"), 250)
        self.assertEqual(panel.asked, ["info@example.com", "ann@example.net", "@example.net"])
        # that there is none is remembered as well
        before = len(panel.asked)
        self.assertEqual(self.reply(relay, "nobody@example.com"), 550)
        self.assertEqual(self.reply(relay, "nobody@example.com"), 550)
        self.assertEqual(
            panel.asked[before:], ["nobody@example.com", "@example.com", "example.com"]
        )
        answer = relay.ctl("explain", "info@example.com").stdout
        self.assertIn("ann@example.net", answer)
        self.assertRegex(answer, r"people: info@example.com, asked \d+ s ago")
        # explain asks live for what nobody has asked for
        panel.forwards["new@example.com"] = "bob@example.net"
        answer = relay.ctl("explain", "new@example.com").stdout
        self.assertRegex(answer, r"table people bob@example\.net +\(new@example\.com: looked up in")

    def test_after_its_time_an_answer_is_asked_for_again(self) -> None:
        panel, relay = self.serve(cache="1s")
        self.assertEqual(self.reply(relay, "info@example.com"), 250)
        del panel.forwards["info@example.com"]
        time.sleep(1.1)
        self.assertEqual(self.reply(relay, "info@example.com"), 550)

    def test_one_question_for_many_who_ask_at_once(self) -> None:
        panel, relay = self.serve()
        panel.hangs.clear()
        replies: list[int] = []
        threads = [
            threading.Thread(target=lambda: replies.append(self.reply(relay, "info@example.com")))
            for _ in range(10)
        ]
        for each in threads:
            each.start()
        wait_until(lambda: panel.asked, "the question")
        time.sleep(1.0)
        panel.hangs.set()
        for each in threads:
            each.join()
        self.assertEqual(replies, [250] * 10)
        self.assertEqual(panel.asked.count("info@example.com"), 1)

    def test_a_server_that_hangs_holds_only_those_who_ask(self) -> None:
        panel, relay = self.serve()
        self.assertEqual(self.reply(relay, "info@example.com"), 250)
        panel.hangs.clear()
        held: list[int] = []
        began = time.monotonic()
        waits = threading.Thread(target=lambda: held.append(self.reply(relay, "x@example.com")))
        waits.start()
        wait_until(lambda: "x@example.com" in panel.asked, "the question")
        self.assertEqual(self.reply(relay, "info@example.com"), 250)
        self.assertLess(unhurried(began), 4)
        waits.join()
        self.assertEqual(held, [451])
        wait_until(lambda: "it has not answered within 5 seconds" in relay.log(200), "the log")
        said = relay.ctl("status", check=False).stdout
        self.assertIn("people (http) not answered since", said)
        self.assertIn("it has not answered within 5 seconds", said)
        panel.hangs.set()  # over with the next answer
        self.assertEqual(self.reply(relay, "y@example.com"), 550)
        self.assertNotIn("not answered", relay.ctl("status", check=False).stdout)

    def test_a_source_that_is_gone_or_talks_nonsense_is_unknown_and_bounces_nothing(self) -> None:
        panel, relay = self.serve()
        panel.forwards |= {"a@example.com": b"{nonsense", "b@example.com": {"no": "list"}}
        panel.forwards |= {"c@example.com": ["a@@b"], "d@example.com": ["a@@b", "d@example.net"]}
        for who in "abc":
            self.assertEqual(self.reply(relay, f"{who}@example.com"), 451, who)
        self.assertEqual(self.reply(relay, "d@example.com"), 250)
        self.assertIn("d@example.net", relay.ctl("explain", "d@example.com").stdout)
        panel.gone = True
        self.assertEqual(self.reply(relay, "e@example.com"), 451)
        wait_until(lambda: "key=e@example.com" in relay.log(200), "the log")

    def test_two_workers(self) -> None:
        panel, relay = self.serve(workers=2)
        answer = relay.ctl("explain", "info@example.com").stdout  # by none of them
        self.assertIn("ann@example.net", answer)
        self.assertRegex(answer, r"people: info@example.com, asked \d+ s ago")
        for _ in range(4):
            self.assertEqual(self.reply(relay, "info@example.com"), 250)
        panel.gone = True
        self.assertEqual(self.reply(relay, "x@example.com"), 451)
        status = json.loads(relay.ctl("status", "--json", check=False).stdout)
        [table] = status["live_tables"]
        self.assertEqual(table["name"], "people")
        self.assertTrue(table["trouble"])


class LiveSourceTest(DirectoryTest):
    """What a source is put through."""

    def put_through_live(self, people: str) -> None:
        """Right; hostile keys; away; back, by connections that were open before."""
        self.hold({"info@example.com": "ann@example.net"})
        if getattr(self, "server", None) is None:
            self.back()
        settings = f"tls-authorities {self.folder / 'ca.pem'}"
        relay = self.start_with(RULES.format(people=people, cache="1s"), settings)
        self.hears(relay, "info@example.com", 250)
        self.hears(relay, "o'x@example.com", 550)
        self.hears(relay, "%s*(|)'--@example.com", 550)
        self.assertIn("ann@example.net", self.becomes(relay, "info@example.com"))
        self.away()
        self.hears(relay, "info@example.com", 451)
        self.back()
        self.hears(relay, "info@example.com", 250)

    def hears(self, relay: Relayd, recipient: str, code: int) -> None:
        """In the end: it is put off where the source takes too long, on a busy machine as well."""
        try:
            wait_until(lambda: self.reply(relay, recipient) == code, f"{recipient} hears {code}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{relay.log()}") from None


class LiveSqliteTest(LiveSourceTest):
    def test_sqlite(self) -> None:
        (self.folder / "beside").mkdir()
        (self.folder / "ca.pem").write_text("")
        path = self.folder / "mail.db"
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE f (alias, target)")
        database.execute("INSERT INTO f VALUES ('info@example.com', 'ann@example.net')")
        database.commit()
        people = f'sqlite file {path} query "SELECT target FROM f WHERE alias = $1"'
        relay = self.relayd(RULES.format(people=people, cache="1s"))
        self.hears(relay, "info@example.com", 250)
        self.hears(relay, "nobody@example.com", 550)


class LivePostgresqlTest(PostgresqlSource, LiveSourceTest):
    def test_live(self) -> None:
        (self.folder / "beside").mkdir()
        self.set_up()
        query = 'query "SELECT target FROM f WHERE alias = $1"'
        self.put_through_live(f'postgresql "service=mail dbname=postgres" {query}')


class LiveMariadbTest(MariadbSource, LiveSourceTest):
    def test_live(self) -> None:
        (self.folder / "beside").mkdir()
        self.set_up()
        query = 'query "SELECT target FROM f WHERE alias = $1"'
        self.put_through_live(f'mysql "service=mail" {query}')


class LiveLdapTest(LdapSource, LiveSourceTest):
    def test_live(self) -> None:
        (self.folder / "beside").mkdir()
        self.set_up()
        people = self.people.replace("(objectClass=inetOrgPerson)", "(mail=$1)")
        self.put_through_live(people.replace(" refresh 1s", ""))
