"""Tables from real directories: right answers, and what happens when one is away, slow or wrong."""

from __future__ import annotations

import http.server
import json
import os
import pwd
import shutil
import socketserver
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relayd.ctl.client import Daemon
from relayd.ops.text import status_lines
from tests.certs import Authority
from tests.ports import free_port
from tests.scenarios.harness import Process, Relayd, Scenario, port_is_open, program, wait_until

RULES = """\
table people {people}
table ours {ours}
accept to <ours>
forward <people>
next-hop sink smtp 127.0.0.1:1
route any via sink
"""
FORWARDS = {f"user{n}@example.com": f"someone{n}@example.net" for n in range(10)}


def seldom(statement: str, seconds: int = 4) -> str:
    """A process for each look: those that nobody waits for look less often."""
    return statement.replace("refresh 1s", f"refresh {seconds}s")


class DirectoryTest(Scenario):
    """What every source is put through; who derives from it has one."""

    people = ours = wrong = ""  # statements behind `table NAME`
    # statements of what is wrong in another way, and what status says of it
    troubles: Mapping[str, tuple[str, str]] = {}

    def set_up(self) -> None:
        """Make the source, and the statements."""

    def hold(self, forwards: Mapping[str, str]) -> None:
        """The source holds these now."""

    def away(self) -> None:
        """The source ends."""

    def back(self) -> None:
        """It is there again."""

    def start_with(self, rules: str, settings: str = "") -> Relayd:
        relay = self.relayd(rules, settings=settings, start=False)
        shutil.copytree(self.folder / "beside", relay.folder, dirs_exist_ok=True)
        return relay.start()

    def table(self, relay: Relayd, name: str = "people") -> dict[str, Any]:
        status = self.daemon(relay).answer("status")
        found: dict[str, Any] = next(each for each in status["tables"] if each["name"] == name)
        return found

    def wait_for(self, relay: Relayd, name: str, **facts: object) -> dict[str, Any]:
        """Until the table is so."""

        def so() -> dict[str, Any]:
            table = self.table(relay, name)
            fits = all(
                wanted(table[fact]) if callable(wanted) else table[fact] == wanted
                for fact, wanted in facts.items()
            )
            return table if fits else {}

        try:
            return wait_until(so, f"table {name} is so", 150)
        except AssertionError:
            raise AssertionError(f"{facts}: {self.table(relay, name)}\n{relay.log()}") from None

    def reply(self, relay: Relayd, recipient: str) -> int:
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail("a@outside.example")
            return client.rcpt(recipient)[0]

    def becomes(self, relay: Relayd, recipient: str) -> str:
        return json.dumps(self.daemon(relay).answer("explain", recipient=recipient))

    def daemon(self, relay: Relayd) -> Daemon:
        """Asked as relayctl does, without a process for each question."""
        return Daemon(relay.folder / "control")

    def status(self, relay: Relayd) -> str:
        """As relayctl prints it."""
        return "\n".join(status_lines(self.daemon(relay).answer("status"), time.time()))

    def put_through(self) -> None:
        """Never there; then right; away; half; accepted; restarted without it."""
        (self.folder / "beside").mkdir()
        self.set_up()
        self.away()
        settings = f"tls-authorities {self.folder / 'ca.pem'}"
        relay = self.start_with(RULES.format(people=self.people, ours=seldom(self.ours)), settings)

        # never read: the start is not refused, look-ups are unknown, status says so
        table = self.wait_for(relay, "people", trouble=bool)
        self.assertIsNone(table["entries"])
        self.assertIn("never read", self.status(relay))
        self.assertEqual(self.reply(relay, "user1@example.com"), 451)

        self.hold({**FORWARDS, "bad@@example.com": "x@example.net"})
        self.back()
        table = self.wait_for(relay, "people", entries=10, trouble="")
        self.assertEqual(table["passed_over"], 1)
        self.assertEqual(table["examples"][0]["key"], "bad@@example.com")
        self.assertIn("bad@@example.com", self.status(relay))
        check = relay.ctl("check")
        self.assertIn("bad@@example.com", check.stdout + check.stderr)
        relay.logged("key=bad@@example.com")
        self.wait_for(relay, "ours", trouble="", entries=1)
        # a look each second
        wait_until(lambda: self.reply(relay, "user1@example.com") == 250, "it is in force")
        self.assertEqual(self.reply(relay, "user1@elsewhere.example"), 550)
        self.assertIn("someone1@example.net", self.becomes(relay, "user1@example.com"))

        # what is wrong for good is looked at once, when it comes into the file
        wrong = {name: statement for name, (statement, _) in self.troubles.items()}
        if self.wrong:
            wrong["wrong"] = self.wrong
        tables = "".join(f"table {name} {seldom(each, 60)}\n" for name, each in wrong.items())
        relay.config.write_text(relay.config.read_text() + tables)
        relay.ctl("reload")
        if self.wrong:  # a certificate for another name is not believed
            self.assertIsNone(self.wait_for(relay, "wrong", trouble=bool)["entries"])
        for name, (_, why) in self.troubles.items():
            if why == "passed over":  # what is no UTF-8 costs itself, and not the others
                self.assertEqual(self.wait_for(relay, name, passed_over=1)["entries"], 1)
            elif why:
                self.wait_for(relay, name, trouble=lambda said, why=why: why in said)
            else:  # it hangs, and harms no other
                self.assertIsNone(self.table(relay, name)["entries"])

        # away: what was good stays in force, over a restart as well
        self.away()
        self.wait_for(relay, "people", trouble=bool, entries=10)
        self.assertIn("not read since", self.status(relay))
        relay.stop()
        relay.start()
        self.assertEqual(self.reply(relay, "user2@example.com"), 250)
        self.assertIn("someone2@example.net", self.becomes(relay, "user2@example.com"))

        # three of ten are left, then none: nobody takes that up by himself
        self.hold(dict([*FORWARDS.items()][:3]))
        self.back()
        table = self.wait_for(relay, "people", asks="has 3 of 10 entries left")
        self.assertEqual(table["entries"], 10)
        self.assertIn("relayctl table accept people", self.status(relay))
        self.hold({})
        self.wait_for(relay, "people", asks="has lost all 10 entries", entries=10)
        self.assertIn("someone7@example.net", self.becomes(relay, "user7@example.com"))
        self.hold(dict([*FORWARDS.items()][:2]))
        self.wait_for(relay, "people", asks="has 2 of 10 entries left")
        self.daemon(relay).answer("table", accept="people")
        self.wait_for(relay, "people", asks="", entries=2)
        gone = "someone7@example.net"
        wait_until(lambda: gone not in self.becomes(relay, "user7@example.com"), "it is in force")
        kept = relay.folder / "spool" / "tables"
        self.assertEqual({each.stat().st_mode & 0o777 for each in kept.iterdir()}, {0o600})

    def own(self, user: str, folder: Path) -> int:
        """Make a folder of another user's; his number."""
        found = pwd.getpwnam(user)
        folder.mkdir(exist_ok=True)
        for each in (folder, *folder.rglob("*")):
            os.chown(each, found.pw_uid, found.pw_gid)
        return found.pw_uid

    def certificate(self, name: str) -> tuple[Path, Path]:
        authority = Authority()
        (self.folder / "ca.pem").write_bytes(authority.pem)
        return authority.issue(name).write(self.folder / "certs", "server")


class HttpTest(DirectoryTest):
    """JSON by HTTPS."""

    def set_up(self) -> None:
        test = self
        self.asked: list[tuple[str, str]] = []
        self.forwards: Mapping[str, str] = {}
        self.port = free_port()

        class Panel(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                people = self.path == "/forwards.json"
                answer = json.dumps(test.forwards if people else ["example.com"]).encode()
                tag = f'"{hash(answer)}"'
                same = self.headers["If-None-Match"] == tag
                test.asked.append((self.path, "304" if same else "200"))
                if self.headers["Authorization"] != "Bearer sesame":
                    self.send_error(403)
                    return
                self.send_response(304 if same else 200)
                self.send_header("ETag", tag)
                if not same:
                    self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if not same:
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.panel = Panel
        self.server: http.server.ThreadingHTTPServer | None = None
        self.pair = self.certificate("localhost")
        token = self.folder / "beside" / "panel.token"
        token.write_text("sesame\n")
        token.chmod(0o600)
        url = f"https://localhost:{self.port}"
        rest = "secret file panel.token refresh 1s"
        self.people, self.ours = (f"http {url}/{name}.json {rest}" for name in ("forwards", "ours"))
        self.wrong = f"http https://127.0.0.1:{self.port}/ours.json {rest}"
        self.addCleanup(self.away)

    def hold(self, forwards: Mapping[str, str]) -> None:
        self.forwards = forwards

    def away(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def back(self) -> None:
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self.panel)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*map(str, self.pair))
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def test_http(self) -> None:
        self.put_through()
        wait_until(
            lambda: ("/ours.json", "304") in self.asked, "what is as before is not sent again"
        )

    def test_whatever_is_wrong_with_the_answer_is_told_and_changes_nothing(self) -> None:
        """One server, a path for each trouble; all tables were good before."""
        good = json.dumps(FORWARDS)
        head = "HTTP/1.1 200 OK\r\n"
        whole = f"{head}Content-Length: {len(good)}\r\nConnection: close\r\n\r\n{good}"
        columns = json.dumps([["a@example.com", "b@example.net", "c"]])
        far = f"{head}Connection: close\r\n\r\n" + '{"a@example.com": "' + "x" * (3 << 20)
        rows = {  # what is sent, and what status says of it
            "cut": (f"{head}Content-Length: {len(good)}\r\n\r\n{good[:50]}", "breaks off"),
            "chunk": (f"{head}Transfer-Encoding: chunked\r\n\r\n40\r\n{good[:64]}", "breaks off"),
            "short": (f"{head}Content-Length: 20\r\n\r\n{good}", "breaks off"),
            "end": (f"{head}Connection: close\r\n\r\n{good[:-1]}", "breaks off"),
            "huge": (far, "no JSON"),
            "moved": ("HTTP/1.1 302 Found\r\nLocation: /cut\r\nContent-Length: 0\r\n\r\n", "302"),
            "broken": ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "500"),
            "page": (f"{head}Content-Length: 6\r\n\r\n<html>", "no JSON object"),
            "void": (f"{head}Content-Length: 0\r\n\r\n", "no JSON object"),
            "columns": (f"{head}Connection: close\r\n\r\n{columns}", "3 columns"),
            "list": (f'{head}Connection: close\r\n\r\n["a@example.com"]', "columns, and had"),
            "empty": (f"{head}Connection: close\r\n\r\n{{}}", "lost all 10"),
            "half": (f'{head}Connection: close\r\n\r\n{{"user1@example.com": "a@b.example"}}',
                     "1 of 10"),
            "odd": ("SSH-2.0-x\r\n", ""),
            "drip": ("", ""),  # as long as it is asked nobody else waits
        }  # fmt: skip
        answers = dict.fromkeys(rows, whole.encode())
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), None, False)  # type: ignore[arg-type]
        server.daemon_threads = True
        dripping: list[str] = []

        class Answer(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                name = self.rfile.readline().decode().split()[1][1:]
                while self.rfile.readline().strip():
                    pass
                if answers[name] == b"":
                    dripping.append(name)
                    self.wfile.write(head.encode() + b"\r\n")
                    while not stopped.wait(0.5):
                        self.wfile.write(b" ")
                else:
                    self.wfile.write(answers[name])

        server.RequestHandlerClass = Answer
        server.server_bind()
        server.server_activate()
        stopped = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.addCleanup(stopped.set)
        url = f"http://127.0.0.1:{server.server_address[1]}"
        (self.folder / "beside").mkdir()
        rules = "".join(f"table {each} http {url}/{each} refresh 5s\n" for each in rows)
        rules += "".join(f"forward <{each}>\n" for each in rows)
        relay = self.start_with(f"{rules}accept to @example.com\nroute any direct\n")
        for each in rows:
            self.wait_for(relay, each, entries=10)
        for each, (sent, _) in rows.items():
            answers[each] = sent.encode()
        for each, (_, why) in rows.items():
            if each == "drip":
                wait_until(lambda: dripping, "it is asked")
                self.assertEqual(self.table(relay, "drip")["entries"], 10)
                continue

            def says(each: str = each, why: str = why) -> bool:
                table = self.table(relay, each)
                told = f"{table['trouble']}{table['asks']}"
                return bool(told) and why in told

            wait_until(says, f"{each}: {why}", 150)
            self.assertEqual(self.table(relay, each)["entries"], 10)
        self.assertIn("someone7@example.net", self.becomes(relay, "user7@example.com"))
        said = self.status(relay)
        for each, (_, why) in rows.items():
            self.assertTrue(each == "drip" or f" {each} " in said, said)
            self.assertIn(why, said)


class SqliteTest(DirectoryTest):
    """The database that needs no server."""

    def set_up(self) -> None:
        self.database = self.folder / "mail.db"
        rest = "refresh 1s"
        self.people = f'sqlite file {self.database} query "SELECT alias, target FROM f" {rest}'
        self.ours = f"sqlite file {self.database} query \"SELECT 'example.com'\" {rest}"
        query = f"sqlite file {self.database} query"
        raw = "SELECT x'ff406578616d706c652e636f6d' UNION SELECT 'a@example.com'"
        self.troubles = {
            "columns": (f'{query} "SELECT alias, target, 1 FROM f" {rest}', "3 columns"),
            "gone": (f'{query} "SELECT a FROM nowhere" {rest}', "nowhere"),
            "raw": (f'{query} "{raw}" {rest}', "passed over"),
        }
        (self.folder / "ca.pem").write_bytes(Authority().pem)

    def hold(self, forwards: Mapping[str, str]) -> None:
        fresh = sqlite3.connect(self.database.with_name("fresh"))
        fresh.execute("CREATE TABLE f (alias, target)")
        fresh.executemany("INSERT INTO f VALUES (?, ?)", [*forwards.items()])
        fresh.commit()
        fresh.close()
        self.database.with_name("fresh").replace(self.database)

    def away(self) -> None:
        self.database.unlink(missing_ok=True)

    def test_sqlite(self) -> None:
        self.put_through()


class PostgresqlSource(DirectoryTest):
    """PostgreSQL, over TLS."""

    needs = ("postgresql",)

    def set_up(self) -> None:
        chain, key = self.certificate("localhost")
        self.data = self.folder / "postgresql"
        shutil.copy(key, self.folder / "pg.key")
        (self.folder / "pg.key").chmod(0o600)
        self.number = self.own("postgres", self.data)
        os.chown(self.folder / "pg.key", self.number, -1)
        self.bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.run_as(self.bin / "initdb", "-D", self.data, "-A", "trust", "-E", "UTF8", "-N")
        self.port = free_port()
        self.chain = chain
        self.server: Process | None = None
        self.back()
        self.sql("CREATE TABLE f (alias text, target text)")
        service = self.folder / "beside" / "pg_service.conf"
        service.write_text(f"[mail]\nhost=localhost\nport={self.port}\nuser=postgres\n")
        os.environ["PGSERVICEFILE"] = str(service)
        self.addCleanup(os.environ.pop, "PGSERVICEFILE")
        query = 'query "SELECT alias, target FROM f" refresh 1s'
        version = "SELECT md5(string_agg(alias || ' ' || target, ',' ORDER BY alias)) FROM f"
        self.people = f'postgresql "service=mail dbname=postgres" {query} version "{version}"'
        self.ours = (
            'postgresql "service=mail dbname=postgres" query "SELECT \'example.com\'" refresh 1s'
        )
        self.wrong = f'postgresql "service=mail dbname=postgres host=127.0.0.1" {query}'
        self.sql("CREATE DATABASE odd ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' "
                 "LC_CTYPE 'C'")  # fmt: skip
        start = 'postgresql "service=mail dbname=postgres" query'
        raw = "SELECT chr(255) || '@example.com' UNION SELECT 'a@example.com'"
        self.troubles = {
            "columns": (f'{start} "SELECT alias, target, 1 FROM f" refresh 1s', "3 columns"),
            "gone": (f'{start} "SELECT a FROM nowhere" refresh 1s', "nowhere"),
            "nobody": (
                'postgresql "service=mail user=nobody" query "SELECT 1" refresh 1s',
                "nobody",
            ),
            "raw": (
                f'postgresql "service=mail dbname=odd" query "{raw}" refresh 1s',
                "passed over",
            ),
            **{
                f"slow{n}": (f"{start} \"SELECT 'x', pg_sleep(600)::text\" refresh 1s", "")
                for n in range(2)
            },
        }

    def run_as(self, *command: object) -> None:
        subprocess.run(
            list(map(str, command)),
            check=True,
            capture_output=True,
            user="postgres",
            group="postgres",
            cwd="/",
        )

    def sql(self, *statements: str) -> None:
        words = [self.bin / "psql", "-h", "127.0.0.1", "-p", self.port, "postgres", "-q"]
        for each in statements:
            words += ["-c", each]
        self.run_as(*words)

    def hold(self, forwards: Mapping[str, str]) -> None:
        stopped = self.server is None
        if stopped:
            self.back()
        rows = [f"INSERT INTO f VALUES ('{key}', '{value}')" for key, value in forwards.items()]
        self.sql("; ".join(["BEGIN; DELETE FROM f", *rows, "COMMIT"]))
        if stopped:
            self.away()

    def away(self) -> None:
        if self.server is not None:
            self.run_as(self.bin / "pg_ctl", "-D", self.data, "-m", "immediate", "stop")
            self.server = None

    def back(self) -> None:
        options = f"ssl=on ssl_cert_file={self.chain} ssl_key_file={self.folder / 'pg.key'}"
        options += f" port={self.port} unix_socket_directories={self.data} fsync=off"
        words = [word for each in options.split() for word in ("-c", each)]
        self.server = self.launch(
            ["runuser", "-u", "postgres", "--", str(self.bin / "postgres"), "-D", str(self.data),
             *words], "postgres",
        )  # fmt: skip
        ready = [str(self.bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(
            lambda: subprocess.run(ready, capture_output=True).returncode == 0,
            f"PostgreSQL\n{self.server.log()}",
            180,
        )


class PostgresqlTest(PostgresqlSource):
    def test_postgresql(self) -> None:
        self.put_through()


class MariadbSource(DirectoryTest):
    """MariaDB, over TLS."""

    needs = ("mariadb",)

    def set_up(self) -> None:
        self.pair = self.certificate("localhost")
        self.data = self.folder / "mariadb"
        self.socket = self.data / "s"
        self.data.mkdir()
        self.pair[1].chmod(0o644)
        self.own("mysql", self.data)
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={self.data}",
             "--skip-test-db", "--auth-root-authentication-method=normal"],
            check=True, capture_output=True,
        )  # fmt: skip
        self.port = free_port()
        self.server: Process | None = None
        self.back()
        self.sql(
            "CREATE DATABASE mail; CREATE TABLE mail.f (alias varchar(99), target varchar(99));"
            "CREATE USER relayd IDENTIFIED BY 'sesame'; GRANT SELECT ON mail.* TO relayd;"
        )
        service = self.folder / "beside" / "mysql.cnf"
        service.write_text(
            f"[mail]\nhost=localhost\nport={self.port}\nuser=relayd\npassword=sesame\n"
            "database=mail\n"
        )
        service.chmod(0o600)
        query = 'query "SELECT alias, target FROM f" refresh 1s'
        version = "SELECT md5(group_concat(alias, ' ', target ORDER BY alias)) FROM f"
        self.people = f'mysql "service=mail" {query} version "{version}"'
        self.ours = 'mysql "service=mail" query "SELECT \'example.com\'" refresh 1s'
        self.wrong = f'mysql "service=mail host=127.0.0.1" {query}'
        start = 'mysql "service=mail" query'
        raw = "SELECT x'ff406578616d706c652e636f6d' UNION SELECT 'a@example.com'"
        self.troubles = {
            "columns": (f'{start} "SELECT alias, target, 1 FROM f" refresh 1s', "3 columns"),
            "gone": (f'{start} "SELECT a FROM nowhere" refresh 1s', "nowhere"),
            "nobody": ('mysql "service=mail user=nobody" query "SELECT 1" refresh 1s', "nobody"),
            "raw": (f'{start} "{raw}" refresh 1s', "passed over"),
            "slow": (f"{start} \"SELECT 'x', sleep(600)\" refresh 1s", ""),
        }

    def sql(self, text: str) -> None:
        subprocess.run(
            ["mariadb", "--no-defaults", "--skip-ssl", f"--socket={self.socket}", "-u", "root"],
            input=text, text=True, check=True, capture_output=True,
        )  # fmt: skip

    def hold(self, forwards: Mapping[str, str]) -> None:
        stopped = self.server is None
        if stopped:
            self.back()
        rows = [f"INSERT INTO f VALUES ('{key}', '{value}');" for key, value in forwards.items()]
        self.sql("".join(["USE mail; BEGIN; DELETE FROM f;", *rows, "COMMIT;"]))
        if stopped:
            self.away()

    def away(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server = None

    def back(self) -> None:
        self.server = self.launch(
            [program("mariadbd"), "--no-defaults", "--user=mysql", f"--datadir={self.data}",
             f"--socket={self.socket}", f"--port={self.port}", "--bind-address=127.0.0.1",
             f"--ssl-cert={self.pair[0]}", f"--ssl-key={self.pair[1]}", "--skip-name-resolve",
             "--innodb-flush-log-at-trx-commit=2"], "mariadb",
        )  # fmt: skip
        wait_until(
            lambda: port_is_open(("127.0.0.1", self.port)), f"MariaDB\n{self.server.log()}", 180
        )


class MariadbTest(MariadbSource):
    def test_mariadb(self) -> None:
        self.put_through()


class LdapSource(DirectoryTest):
    """OpenLDAP, over TLS, bound by a secret."""

    needs = ("slapd",)

    def set_up(self) -> None:
        chain, key = self.certificate("localhost")
        self.port = free_port()
        self.server: Process | None = None
        secret = self.folder / "beside" / "ldap.secret"
        secret.write_text("sesame\n")
        secret.chmod(0o600)
        self.data = self.room("slapd")
        self.conf = self.folder / "slapd.conf"
        self.conf.write_text(
            "include /etc/ldap/schema/core.schema\n"
            "include /etc/ldap/schema/cosine.schema\n"
            "include /etc/ldap/schema/inetorgperson.schema\n"
            f"TLSCertificateFile {chain}\nTLSCertificateKeyFile {key}\n"
            "modulepath /usr/lib/ldap\nmoduleload back_mdb\n"
            f"database mdb\nsuffix dc=example,dc=com\ndirectory {self.data}\n"
            "rootdn cn=relayd,dc=example,dc=com\nrootpw sesame\n"
            "access to * by anonymous auth\n"
        )
        bind = 'bind "cn=relayd,dc=example,dc=com" secret file ldap.secret refresh 1s'
        search = 'base "ou=people,dc=example,dc=com" filter "(objectClass=inetOrgPerson)"'
        self.people = (
            f"ldap ldaps://localhost:{self.port} {search} key mail value description {bind}"
        )
        self.ours = (
            f'ldap ldaps://localhost:{self.port} base "dc=example,dc=com" filter "(o=*)" '
            f"key o {bind}"
        )
        self.wrong = f"ldap ldaps://127.0.0.1:{self.port} {search} key mail {bind}"

    def hold(self, forwards: Mapping[str, str]) -> None:
        """By a new database, as whoever imports it anew."""
        running = self.server is not None
        self.away()
        for each in self.data.iterdir():
            each.unlink()
        text = (
            "dn: dc=example,dc=com\nobjectClass: dcObject\nobjectClass: organization\n"
            "dc: example\no: example.com\n\n"
            "dn: ou=people,dc=example,dc=com\nobjectClass: organizationalUnit\nou: people\n\n"
        )
        for number, (alias, target) in enumerate(forwards.items()):
            text += (
                f"dn: cn=p{number},ou=people,dc=example,dc=com\nobjectClass: inetOrgPerson\n"
                f"cn: p{number}\nsn: p\nmail: {alias}\ndescription: {target}\n\n"
            )
        subprocess.run(
            [program("slapadd"), "-f", str(self.conf)],
            input=text, text=True, check=True, capture_output=True,
        )  # fmt: skip
        if running:
            self.back()

    def away(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def back(self) -> None:
        self.server = self.launch(
            [program("slapd"), "-d", "0", "-f", str(self.conf),
             "-h", f"ldaps://127.0.0.1:{self.port}"], "slapd",
        )  # fmt: skip
        wait_until(lambda: port_is_open(("127.0.0.1", self.port)), "slapd", 180)


class LdapTest(LdapSource):
    def test_ldap(self) -> None:
        self.put_through()
