"""What the import does not understand closes, whatever it is; what it understands opens no more."""

from __future__ import annotations

from relayd.migrate import restrictions, restrictionwords
from relayd.migrate.moves import Gate, ListState, Passed, Refuse, negated, rule
from relayd.migrate.report import SettingFate
from relayd.migrate.tables import MapSpec, MapText
from relayd.migrate.write import settle
from tests.unit.migrate.migration import BASE, INSIDE, Import

RELAY = "mynetworks = 127.0.0.0/8\nrelay_domains = corp.example\n"
LATER, TAKEN = "451 4.3.0", "a@corp.example direct"


class ByConstruction(Import):
    def test_an_unknown_restriction_closes_in_every_list(self) -> None:
        for setting in restrictionwords.LISTS:
            self.bring(f"{RELAY}{setting} = permit_mynetworks, reject_what_nobody_knows\n")
            self.assertEqual(self.goes("a@corp.example"), LATER, setting)
            self.assertEqual(self.goes("a@corp.example", client=INSIDE), TAKEN, setting)
            self.assertIs(self.fate(setting), SettingFate.LOST)

    def test_a_reader_that_returns_nothing_closes(self) -> None:
        self.bring(RELAY)
        lists = restrictions.Restrictions(self.work, Gate(), self.work.main, None)  # type: ignore[arg-type]
        lists._setting = "smtpd_recipient_restrictions"
        lists._readers["permit_mynetworks"] = lambda word, scope: []
        [move] = lists._moves(["permit_mynetworks"], ())
        self.assertIn("not understood", move.why)
        self.assertEqual(type(move).__name__, "Closed")

    def test_a_table_is_not_understood_until_a_reader_has_understood_it(self) -> None:
        self.assertTrue(MapText(MapSpec("hash", "x")).trouble)

    def test_every_kind_of_check_and_table_closes(self) -> None:
        checks = ("client", "reverse_client_hostname", "helo", "sender", "recipient", "ccert",
                  "sasl", "client_mx", "client_ns", "client_a", "helo_mx", "sender_ns",
                  "recipient_a", "future")  # fmt: skip
        tables = ("mysql:/x", "pgsql:/x", "ldap:/x", "memcache:/x", "sqlite:/x", "tcp:h:1", "nis:x",
                  "socketmap:inet:h:1:x", "unionmap:{static:OK}", "pipemap:{static:x}",
                  "randmap:{OK}", "hash:/nowhere", "future:x", "environ:x")  # fmt: skip
        for check in checks:
            for table in tables:
                text = f"smtpd_recipient_restrictions = check_{check}_access {table}\n"
                self.bring(RELAY + text)
                self.assertEqual(self.goes("a@corp.example"), LATER, text)

    def test_every_action_that_is_none_closes(self) -> None:
        for action in ("no_such_class", "REDIRECT b@x.example", "FILTER smtp:x", "BCC b@x.example",
                       "check_policy_service nowhere", "PREPEND no header", "600x",
                       "reject_rbl_client", "check_sender_access hash:/x"):  # fmt: skip
            self.bring(
                RELAY + "smtpd_sender_restrictions = check_sender_access hash:/etc/postfix/s\n",
                s=f"bad@far.example {action}\n",
            )
            heard = self.goes("a@corp.example", sender="bad@far.example")
            if action != "reject_rbl_client":  # a filter, which is left out and said
                self.assertEqual(heard, LATER, action)
            self.assertEqual(self.goes("a@corp.example", sender="other@far.example"), TAKEN)

    def test_what_perhaps_lets_pass_makes_the_refusals_behind_it_come_later(self) -> None:
        for word in restrictionwords.PERHAPS:
            text = f"smtpd_relay_restrictions = {word} a..b, reject\n"
            if not word.startswith(("permit_dnswl", "permit_rhswl")):
                text = text.replace(" a..b,", ",")
            self.bring(RELAY + text)
            condition = restrictionwords.PERHAPS[word][0]
            wanted = "550 5.7.1" if condition else LATER  # a client in the clear has no certificate
            self.assertEqual(self.goes("a@corp.example"), wanted, word)

    def test_hold_and_discard_open_nothing(self) -> None:
        self.bring(
            RELAY + "smtpd_sender_restrictions = check_sender_access hash:/etc/postfix/s\n",
            s="h@far.example HOLD\nd@far.example DISCARD\n",
        )
        for sender in ("h@far.example", "d@far.example"):
            self.assertEqual(self.goes("x@elsewhere.example", sender=sender), "550 5.7.1")
        self.assertEqual(self.goes("a@corp.example", sender="d@far.example"), "discard")

    def test_an_override_that_no_gate_can_go_by_closes_its_listener(self) -> None:
        master = "smtp inet n - y - - smtpd\n10025 inet n - y - - smtpd\n  -o {}\n"
        for override in ("mydestination=x.example", "receive_override_options=no_address_mappings",
                         "smtpd_recipient_restrictions=reject_the_unknown",
                         "content_filter=f:h",
                         "smtpd_upstream_proxy_protocol=haproxy"):  # fmt: skip
            self.bring(RELAY, master=master.format(override))
            self.assertIn("reject listener 0.0.0.0:10025, [::]:10025 451", self.rules, override)
            self.assertEqual(self.goes("a@corp.example"), TAKEN, override)

    def test_a_rule_that_does_not_load_shuts(self) -> None:
        self.bring(RELAY)
        self.work.draft.rule("admission", 'reject listener 192.0.2.1:99 550 5.7.1 "no"')
        self.written = settle(self.work)
        self.assertEqual(self.goes("a@corp.example"), LATER)


class Moves(Import):
    def test_no_way_is_left_where_an_exception_always_holds(self) -> None:
        self.assertEqual(negated([()]), [])
        self.assertEqual(negated([("from a", "tls")]), [("not from a",), ("not tls",)])
        self.assertEqual(rule("accept", ("from a", "not from a")), "")

    def test_too_many_exceptions_close(self) -> None:
        gate = Gate()
        many = [(f"from 10.0.0.{n}", "tls", f"helo h{n}") for n in range(9)]
        gate.write("reject", ("sender null",), '550 5.7.1 "no"', "", many)
        gate.write("accept", ("sender null",), "", "", many)
        self.assertEqual([text.split()[3] for text, _ in gate.rules], ["451"])

    def test_a_refusal_behind_a_doubt_is_not_for_good(self) -> None:
        state = ListState(Gate(), "x")
        state.take(Passed((), "nothing"))
        state.take(Refuse((), "r", (), '550 5.7.1 "no"'))
        self.assertIn("550", state.gate.rules[-1][0])


class Listed(Import):
    """Faults of an earlier import, each as it was found."""

    def test_a_relative_folder_keeps_config_directory(self) -> None:
        self.bring("mydestination = $config_directory\n")
        self.assertTrue(self.work.main["config_directory"].startswith("/"))

    def test_latin_1_in_a_comment_loses_nothing(self) -> None:
        self.bring(
            "virtual_alias_maps = hash:/etc/postfix/v\n",
            v=b"# d\xe9j\xe0 vu\nv.example x\na@v.example b@far.example\n",
        )
        self.assertEqual(self.goes("a@v.example"), "b@far.example direct")

    def test_latin_1_in_an_entry_closes_that_entry(self) -> None:
        self.bring(
            "virtual_alias_maps = hash:/etc/postfix/v\n",
            v=b"v.example x\na@v.example b\xe9@far.example\nc@v.example d@far.example\n",
        )
        self.assertEqual(self.goes("a@v.example"), LATER)
        self.assertEqual(self.goes("c@v.example"), "d@far.example direct")

    def test_names_of_its_own_are_told_truly(self) -> None:
        master = "smtp inet n - y - - smtpd\n587 inet n - y - - smtpd\n"
        master += "  -o smtpd_client_restrictions=$mua_client_restrictions\n"
        self.bring(f"{RELAY}mua_client_restrictions = permit_mynetworks, reject\n", master=master)
        self.assertIs(self.fate("mua_client_restrictions"), SettingFate.UNNEEDED)
        self.assertIn("a name of its own", self.said("mua_client_restrictions"))

    def test_a_main_cf_of_postfix_2_lets_its_networks_relay(self) -> None:
        base = BASE.partition("\n")[2]
        self.bring(RELAY, base=base)
        self.assertEqual(self.goes("x@far.example", client=INSIDE), "x@far.example direct")
        self.assertEqual(self.goes("x@far.example"), "550 5.7.1")

    def test_domains_in_sql_are_asked_to_come_later_and_not_bounced(self) -> None:
        for setting in ("mydestination", "virtual_mailbox_domains", "relay_domains",
                        "virtual_alias_domains"):  # fmt: skip
            self.bring(f"mynetworks = 127.0.0.0/8\n{setting} = mysql:/x\n")
            self.assertEqual(self.goes("a@ours.example"), LATER, setting)
            self.assertEqual(self.goes("a@ours.example", client=INSIDE), LATER, setting)

    def test_an_exception_that_cannot_be_read_lets_nobody_relay(self) -> None:
        self.bring("mynetworks = !mysql:/x 10.0.0.0/8\n")
        self.assertEqual(self.goes("x@far.example", client="10.0.0.1"), LATER)

    def test_a_part_of_an_alias_is_less_than_was_meant(self) -> None:
        self.bring(
            "mydestination = mx.example.com\nalias_maps = hash:/etc/postfix/a\n"
            "virtual_alias_maps = hash:/etc/postfix/v\nvirtual_alias_domains = v.example\n",
            a="part: ann@far.example, |/bin/x\n", v="b@v.example part@mx.example.com\n",
        )  # fmt: skip
        self.assertEqual(self.goes("part@mx.example.com"), LATER)
        self.assertEqual(self.goes("b@v.example"), LATER)  # also where another one leads to it
