from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from unittest import mock

from relayd.config import load
from relayd.ctl import relayctl
from relayd.migrate.convert import Machine, convert
from relayd.migrate.defaults import DEFAULTS
from relayd.migrate.report import SettingFate
from relayd.migrate.tables import PATTERNS, MapSpec
from relayd.migrate.write import settle
from relayd.rules.language.regex import search
from relayd.verification import verify as verifying
from relayd.verification.postmap import Answers, PostmapError, program
from relayd.verification.samples import samples
from tests.certs import Authority
from tests.unit.migrate.migration import BASE, INSIDE, MACHINE, MASTER, Import


class Settings(Import):
    def test_limits_and_times(self) -> None:
        self.bring(
            "message_size_limit = 20480000\nmaximal_queue_lifetime = 3d\ndelay_warning_time = 6h\n"
            "minimal_backoff_time = 10m\nmaximal_backoff_time = 1h\nsmtpd_recipient_limit = 50\n"
            "default_destination_concurrency_limit = 20\n"
        )
        for line in ("message-size 20480000", "give-up 3d", "warn-after 6h",
                     "retry 10m 10m 20m 40m 1h", "recipients 50"):  # fmt: skip
            self.assertIn(line, self.conf.splitlines())
        self.assertIs(self.fate("default_destination_concurrency_limit"), SettingFate.SAME)
        self.assertIs(self.fate("message_size_limit"), SettingFate.TRANSLATED)

    def test_no_size_limit(self) -> None:
        self.bring("message_size_limit = 0\n")
        self.assertIn("message-size 1024GiB", self.conf)

    def test_a_short_life_warns_in_time(self) -> None:
        self.bring("maximal_queue_lifetime = 1h\n")
        self.assertIn("warn-after 30m", self.conf)

    def test_listeners(self) -> None:
        self.bring(
            "inet_interfaces = 127.0.0.1, [::1]\n",
            master="smtp inet n - y - - smtpd\n192.0.2.25:2525 inet n - y - - smtpd\n"
            "submission inet n - y - - smtpd\n  -o smtpd_sasl_auth_enable=yes\n",
        )
        listens = [line for line in self.conf.splitlines() if line.startswith("listen")]
        self.assertEqual(listens, ["listen 127.0.0.1:25", "listen [::1]:25",
                                   "listen 192.0.2.25:2525"])  # fmt: skip
        self.assertIs(self.fate("master.cf submission/inet"), SettingFate.LOST)

    def test_what_makes_postfix_strict_makes_relayd_strict(self) -> None:
        self.bring(
            "smtpd_helo_required = yes\nstrict_rfc821_envelopes = yes\ninet_protocols = ipv4\n"
        )
        self.assertIn("listen 0.0.0.0:25 strict\n", self.conf + "\n")
        self.assertIn('reject any 503 5.5.1 "Say HELO or EHLO first" when not helo any', self.rules)
        self.bring(
            "smtpd_helo_required = no\nstrict_rfc821_envelopes = no\ninet_protocols = ipv4\n"
        )
        self.assertNotIn("strict", self.conf)
        self.assertNotIn("helo", self.rules)

    def test_only_one_protocol(self) -> None:
        self.bring("inet_protocols = ipv4\n")
        self.assertNotIn("[::]", self.conf)

    def test_each_setting_is_told_of(self) -> None:
        text = "content_filter = smtp:x.example\nalways_bcc = x@y.example\n"
        text += "smtp_tls_security_level = may\nmine = 5\nused = mine\n"
        text += "smtpd_banner = $used\nnobody_knows = 1\nempty_one =\nbiff = no\nbiff = yes\n"
        self.bring(text)
        for line in (BASE + text).splitlines():
            self.assertIn(line.split(" =")[0], self.work.report.findings)
        self.assertIs(self.fate("content_filter"), SettingFate.LOST)
        self.assertIs(self.fate("always_bcc"), SettingFate.TRANSLATED)
        self.assertIs(self.fate("smtp_tls_security_level"), SettingFate.SAME)
        self.assertIs(self.fate("used"), SettingFate.UNNEEDED)
        self.assertIn("does not know it", self.said("nobody_knows"))
        self.assertTrue(any("given again" in note for note in self.work.report.notes))


class WhoMaySend(Import):
    def test_relay_domains_take_in_their_sub_domains(self) -> None:
        self.bring("relay_domains = corp.example\nmynetworks = 10.0.0.0/8 [2001:db8::]/32\n")
        self.assertEqual(self.goes("x@corp.example"), "x@corp.example direct")
        self.assertEqual(self.goes("x@sub.corp.example"), "x@sub.corp.example direct")
        self.assertEqual(self.goes("x@far.example"), "550 5.7.1")
        self.assertEqual(self.goes("x@far.example", client="10.1.2.3"), "x@far.example direct")
        self.assertEqual(self.goes("x@far.example", client="2001:db8::5"), "x@far.example direct")

    def test_what_is_excepted_by_first_match(self) -> None:
        self.bring("mynetworks = !10.0.0.5 10.0.0.0/8 !10.0.0.6\n")
        self.assertEqual(self.goes("x@far.example", client="10.0.0.5"), "550 5.7.1")
        self.assertEqual(self.goes("x@far.example", client="10.0.0.6"), "x@far.example direct")
        self.assertTrue(any("no effect" in note for note in self.work.report.notes))

    def test_lists_in_files_and_tables(self) -> None:
        self.bring(
            "relay_domains = hash:/etc/postfix/rd\n"
            "mynetworks = /etc/postfix/nets cidr:/etc/postfix/c\n",
            rd="one.example x\n.two.example x\n", nets="192.0.2.0/24\n[2001:db8:1::]/48\n",
            c="172.16.0.0/12 OK\n",
        )  # fmt: skip
        self.assertEqual(self.goes("x@one.example"), "x@one.example direct")
        self.assertEqual(self.goes("x@a.one.example"), "x@a.one.example direct")
        self.assertEqual(self.goes("x@a.two.example"), "550 5.7.1")  # Postfix asks for two.example
        for client in ("192.0.2.9", "2001:db8:1::1", "172.20.0.1"):
            self.assertEqual(self.goes("x@far.example", client=client), "x@far.example direct")

    def test_networks_by_style(self) -> None:
        self.bring("")
        self.assertEqual(self.goes("x@far.example", client="192.0.2.25"), "x@far.example direct")
        self.assertEqual(self.goes("x@far.example", client="192.0.2.26"), "550 5.7.1")

    def test_mynetworks_style_takes_in_the_networks_of_the_interfaces(self) -> None:
        for style, inside, outside in (
            ("subnet", ("192.0.2.7", "2001:db8::7"), ("192.0.3.7", "2001:db9::7")),
            ("class", ("192.0.2.200", "2001:db8::7"), ("192.0.3.7",)),
            ("host", ("192.0.2.25",), ("192.0.2.7", "2001:db8::7")),
        ):
            machine = Machine(
                lambda: "mx.example.com", lambda: ["127.0.0.1", "192.0.2.25"],
                networks=lambda: ["192.0.2.25/255.255.255.128", "2001:db8::25/64"],
            )  # fmt: skip
            self.bring(f"mynetworks_style = {style}\n", machine=machine)
            for client in inside:
                self.assertEqual(self.goes("x@far.example", client=client), "x@far.example direct")
            for client in outside:
                self.assertEqual(self.goes("x@far.example", client=client), "550 5.7.1", client)

    def test_unknown_relay_recipients(self) -> None:
        self.bring(
            "relay_domains = corp.example\nrelay_recipient_maps = hash:/etc/postfix/rr\n"
            "virtual_alias_maps = hash:/etc/postfix/v\nvirtual_alias_domains =\n",
            rr="known@corp.example x\n", v="alias@corp.example known@corp.example\n",
        )  # fmt: skip
        self.assertEqual(self.goes("known@corp.example"), "known@corp.example direct")
        self.assertEqual(self.goes("alias@corp.example"), "known@corp.example direct")
        self.assertEqual(self.goes("nobody@corp.example"), "550 5.1.1")

    def test_a_local_name_below_a_relay_domain_is_no_relay_recipient(self) -> None:
        self.bring(
            "mydestination = mx.corp.example\nrelay_domains = corp.example\n"
            "relay_recipient_maps = hash:/etc/postfix/rr\nalias_maps = hash:/etc/postfix/a\n",
            rr="known@corp.example x\n", a="postmaster: admin@far.example\n",
        )  # fmt: skip
        self.assertEqual(self.goes("postmaster@mx.corp.example"), "admin@far.example direct")

    def test_access_maps_by_how_exact_a_key_is(self) -> None:
        self.bring(
            "mynetworks = 127.0.0.0/8\nrelay_domains = corp.example\n"
            "smtpd_sender_restrictions = check_sender_access hash:/etc/postfix/sa\n"
            "smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination,"
            " check_recipient_access hash:/etc/postfix/ra\n",
            sa="bad.example 550 5.7.1 no\nfriend@bad.example OK\nspam@bad.example REJECT\n"
            "drop.example DISCARD\nslow.example DEFER\n",
            ra="out@ 550 gone\n",
        )  # fmt: skip
        cases = {"x@bad.example": "550 5.7.1", "friend@bad.example": "a@corp.example direct",
                 "spam@bad.example": "554 5.7.1", "y@sub.bad.example": "550 5.7.1",
                 "z@drop.example": "discard", "z@slow.example": "450 4.7.1"}  # fmt: skip
        for sender, wanted in cases.items():
            self.assertEqual(self.goes("a@corp.example", sender=sender), wanted, sender)
        self.assertEqual(self.goes("out@corp.example"), "550 5.7.1")
        self.assertEqual(self.goes("out@corp.example", client=INSIDE), "out@corp.example direct")

    def test_client_access_and_what_it_cannot_say(self) -> None:
        self.bring(
            "relay_domains = corp.example\n"
            "smtpd_client_restrictions = check_client_access hash:/etc/postfix/ca,"
            " reject_rbl_client zen.example\n",
            ca="192.0.2.66 REJECT\n198.51.100 554 no\nhost.far.example REJECT\n",
        )
        self.assertEqual(self.goes("a@corp.example", client="192.0.2.66"), "554 5.7.1")
        self.assertEqual(self.goes("a@corp.example", client="198.51.100.7"), "554 5.7.1")
        self.assertEqual(self.goes("a@corp.example", name="host.far.example"), "554 5.7.1")
        self.assertEqual(self.goes("a@corp.example", name="b.host.far.example"), "554 5.7.1")
        self.assertEqual(self.goes("a@corp.example", name="x.example"), "a@corp.example direct")
        self.assertEqual(self.goes("a@corp.example", name="x.example", listed="zen"), "554 5.7.1")
        said = self.said("smtpd_client_restrictions")
        self.assertIn("reject_rbl_client zen.example", said)

    def test_a_list_that_ends_in_reject(self) -> None:
        self.bring("mynetworks = 127.0.0.0/8\nrelay_domains = corp.example\n"
                   "smtpd_relay_restrictions = permit_mynetworks, reject\n")  # fmt: skip
        self.assertEqual(self.goes("a@corp.example"), "550 5.7.1")
        self.assertEqual(self.goes("a@corp.example", client=INSIDE), "a@corp.example direct")

    def test_nothing_that_refuses_makes_no_open_relay(self) -> None:
        self.bring("smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit\n")
        self.assertEqual(self.goes("x@far.example"), "550 5.7.1")
        self.assertIs(self.fate("smtpd_relay_restrictions"), SettingFate.LOST)


class Rewriting(Import):
    def test_canonical_maps_are_followed_to_their_end(self) -> None:
        self.bring(
            "mynetworks = 127.0.0.0/8\ncanonical_maps = hash:/etc/postfix/c\n"
            "sender_canonical_maps = hash:/etc/postfix/s\nmasquerade_domains = corp.example\n",
            c="a@x.example b@x.example\nb@x.example c@sub.corp.example\n@old.example @x.example\n",
            s="app@host.example a@x.example\n",
        )
        self.assertEqual(self.sender("app@host.example"), "c@corp.example")
        self.assertEqual(self.sender("a@old.example"), "c@corp.example")
        self.assertEqual(self.sender("z@old.example"), "z@x.example")
        self.assertEqual(self.sender("z@deep.corp.example"), "z@corp.example")
        # masquerading is for senders only, unless masquerade_classes says more
        self.assertEqual(self.goes("a@x.example", client=INSIDE), "c@sub.corp.example direct")

    def test_header_fields_of_local_clients_only(self) -> None:
        self.bring("canonical_maps = hash:/etc/postfix/c\n", c="a@x.example b@x.example\n")
        self.assertIn("rewrite header From, Sender,", self.rules)
        self.assertIn("when from <this-host>", self.rules)

    def test_classes_choose_envelope_or_header(self) -> None:
        self.bring("canonical_maps = hash:/etc/postfix/c\ncanonical_classes = envelope_sender\n",
                   c="a@x.example b@x.example\n")  # fmt: skip
        self.assertIn("rewrite sender <c>", self.rules)
        self.assertNotIn("rewrite header", self.rules)
        self.assertNotIn("rewrite recipient", self.rules)

    def test_masquerade_exceptions(self) -> None:
        self.bring("mynetworks = 127.0.0.0/8\n"
            "masquerade_domains = !spare.corp.example corp.example\n"
                   "masquerade_exceptions = root\n")  # fmt: skip
        self.assertEqual(self.sender("x@a.corp.example"), "x@corp.example")
        self.assertEqual(self.sender("root@a.corp.example"), "root@a.corp.example")
        self.assertEqual(self.sender("x@b.spare.corp.example"), "x@b.spare.corp.example")

    def test_a_plain_table_is_taken_as_it_stands(self) -> None:
        text = "# ours\na@x.example b@x.example\n"
        self.bring("canonical_maps = hash:/etc/postfix/c\n", c=text)
        self.assertEqual(self.file("tables/c"), text.rstrip("\n"))


class Forwarding(Import):
    def test_virtual_alias_domains_and_unknown_addresses(self) -> None:
        text = "virt.example anything\na@virt.example b@far.example, c@far.example\n"
        self.bring("virtual_alias_maps = hash:/etc/postfix/virtual\n", virtual=text)
        self.assertEqual(self.goes("a@virt.example"), "b@far.example direct, c@far.example direct")
        self.assertEqual(self.goes("nobody@virt.example"), "550 5.1.1")
        self.assertEqual(self.file("tables/virtual"), text.rstrip("\n"))

    def test_whole_addresses_of_all_tables_come_before_whole_domains(self) -> None:
        self.bring(
            "virtual_alias_domains = v.example\n"
            "virtual_alias_maps = hash:/etc/postfix/one, regexp:/etc/postfix/re,"
            " hash:/etc/postfix/two\n",
            one="@v.example all@far.example\n", re=r"/^x(.+)@V\.example$/ $1@re.example" + "\n",
            two="a@v.example two@far.example\n",
        )  # fmt: skip
        self.assertEqual(self.goes("a@v.example"), "two@far.example direct")
        self.assertEqual(self.goes("xyz@v.example"), "yz@re.example direct")
        self.assertEqual(self.goes("else@v.example"), "all@far.example direct")

    def test_names_without_a_domain(self) -> None:
        self.bring(
            "mydestination = mx.example.com, example.com\nmyorigin = example.com\n"
            "virtual_alias_maps = hash:/etc/postfix/v\n", v="info boss@far.example\nsales info\n",
        )  # fmt: skip
        self.assertEqual(self.goes("sales@mx.example.com"), "boss@far.example direct")
        self.assertIn("forward <v> at @example.com, @mx.example.com", self.rules)

    def test_conditions_around_expressions(self) -> None:
        self.bring(
            "mynetworks = 127.0.0.0/8\nvirtual_alias_domains =\n"
            "virtual_alias_maps = pcre:/etc/postfix/p\n",
            p="if !/@skip\\.example$/\n/^info@/ i@far.example\nendif\n!/@/ never@far.example\n",
        )
        self.assertEqual(self.goes("info@a.example", client=INSIDE), "i@far.example direct")
        self.assertEqual(self.goes("info@skip.example", client=INSIDE), "info@skip.example direct")

    def test_an_entry_that_cannot_be_read_waits_and_is_named(self) -> None:
        self.bring("virtual_alias_maps = hash:/etc/postfix/v\n",
                   v="v.example x\na@v.example @@\nb@v.example b@far.example\n")  # fmt: skip
        self.assertEqual(self.goes("a@v.example"), "451 4.3.0")
        self.assertEqual(self.goes("b@v.example"), "b@far.example direct")
        self.assertIn("v:2: a@v.example", self.said("virtual_alias_maps"))

    def test_circles_are_left_out_and_named(self) -> None:
        self.bring("virtual_alias_maps = hash:/etc/postfix/v\n",
                   v="v.example x\na@v.example b@v.example\nb@v.example a@v.example\n"
                   "c@v.example c@far.example\n")  # fmt: skip
        self.assertEqual(self.goes("c@v.example"), "c@far.example direct")
        self.assertEqual(self.goes("a@v.example"), "451 4.3.0")
        self.assertTrue(any("circles" in note for note in self.work.report.notes))

    def test_a_table_that_is_missing_never_says_unknown(self) -> None:
        self.bring(
            "virtual_alias_domains = v.example\nvirtual_alias_maps = ldap:/etc/postfix/l.cf\n"
        )
        self.assertEqual(self.goes("a@v.example"), "451 4.3.0")
        self.assertIs(self.fate("virtual_alias_maps"), SettingFate.LOST)

    def test_aliases_and_mailboxes(self) -> None:
        self.bring(
            "mydestination = mx.example.com, localhost\nalias_maps = hash:/etc/postfix/aliases\n",
            aliases="root: admin@far.example\npostmaster: root\nprog: |/bin/x\nlocal: someone\n"
            "list: :include:/etc/postfix/members\n", members="a@far.example\nb@far.example\n",
        )  # fmt: skip
        self.assertEqual(self.goes("postmaster@localhost"), "admin@far.example direct")
        self.assertEqual(self.goes("list@localhost"), "a@far.example direct, b@far.example direct")
        self.assertEqual(self.goes("prog@mx.example.com"), "451 4.3.0")
        self.assertEqual(self.goes("local@mx.example.com"), "451 4.3.0")
        self.assertIn("prog: |/bin/x runs a command", self.said("alias_maps"))

    def test_a_mail_store_behind_lmtp(self) -> None:
        self.bring(
            "mydestination = mx.example.com\nmailbox_transport = lmtp:unix:private/dovecot\n"
            "local_recipient_maps =\n"
        )
        self.assertEqual(self.goes("any@mx.example.com"), "any@mx.example.com store")
        self.assertIn("next-hop store lmtp unix:/var/spool/postfix/private/dovecot", self.rules)

    def test_users_of_this_system(self) -> None:
        self.put("main.cf", BASE + "mydestination = mx.example.com\n"
                 "mailbox_transport = lmtp:inet:127.0.0.1:24\n")  # fmt: skip
        self.put("master.cf", MASTER)
        self.work = convert(self.folder, Machine(lambda: "mx.example.com", list, lambda: ["joe"]))
        self.written = settle(self.work)
        self.assertEqual(self.goes("joe@mx.example.com"), "joe@mx.example.com store")
        self.assertEqual(self.goes("jim@mx.example.com"), "550 5.1.1")

    def test_relocated(self) -> None:
        self.bring("relay_domains = corp.example\nrelocated_maps = hash:/etc/postfix/r\n",
                   r="gone@corp.example new@far.example\n")  # fmt: skip
        self.assertEqual(self.goes("gone@corp.example"), "550 5.1.6")

    def test_sub_addresses(self) -> None:
        self.bring("recipient_delimiter = +\nvirtual_alias_maps = hash:/etc/postfix/v\n",
                   v="v.example x\na@v.example b@far.example\n")  # fmt: skip
        self.assertEqual(self.goes("a+tag@v.example"), "b+tag@far.example direct")


class Routing(Import):
    def hop(self, to: str, *, sender: str = "a@far.example") -> str:
        plan = self.plan(to, client=INSIDE, sender=sender)
        name = plan.destinations[0].next_hop
        hop = self.written.settings.next_hops.get(name)
        return name if hop is None else str(hop).split(" ", 2)[2]

    def test_relayhost_with_and_without_brackets(self) -> None:
        for text, wanted in (
            ("[smtp.isp.example]:submission", "smtp smtp.isp.example:587"),
            ("isp.example", "smtp isp.example:25 mx"),
            ("[192.0.2.9]", "smtp 192.0.2.9:25"),
            ("[2001:db8::9]:26", "smtp [2001:db8::9]:26"),
            ("[a.example], [b.example]:26", "smtp a.example:25, b.example:26"),
        ):
            self.bring(f"mynetworks = 127.0.0.0/8\nrelayhost = {text}\n")
            self.assertEqual(self.hop("x@far.example"), wanted)

    def test_transport_maps(self) -> None:
        self.bring(
            "mynetworks = 127.0.0.0/8\nrelayhost = [out.example]\n"
            "transport_maps = hash:/etc/postfix/t\n",
            t="one.example smtp:[h1.example]:26\n.one.example :\ntwo.example smtp:\n"
            "u@two.example relay:mx.example\nthree.example :[h3.example]\nfour.example uucp:x\n"
            "five.example error:5.1.2 gone\nsix.example lmtp:unix:private/l\n"
            "seven.example smtp:[a.example], [b.example]\neight.example discard:\n",
        )
        for to, wanted in (
            ("x@one.example", "smtp h1.example:26"),
            ("x@sub.one.example", "smtp out.example:25"),
            ("x@two.example", "direct"),
            ("u@two.example", "smtp mx.example:25 mx"),
            ("x@three.example", "smtp h3.example:25"),
            ("x@six.example", "lmtp unix:/var/spool/postfix/private/l"),
            ("x@seven.example", "smtp a.example:25, b.example:25"),
        ):
            self.assertEqual(self.hop(to), wanted, to)
        self.assertEqual(self.goes("x@four.example", client=INSIDE), "451 4.3.0")
        self.assertEqual(self.goes("x@five.example", client=INSIDE), "550 5.1.2")
        self.assertEqual(self.goes("x@eight.example", client=INSIDE), "discard")
        self.assertIn("four.example uucp:x", self.said("transport_maps"))

    def test_a_transport_of_ones_own_that_is_smtp(self) -> None:
        self.bring("mynetworks = 127.0.0.0/8\n"
            "transport_maps = inline:{ slow.example=slow:[h.example] }\n",
                   master=MASTER + "slow unix - - n - 2 smtp\n")  # fmt: skip
        self.assertEqual(self.hop("x@slow.example"), "smtp h.example:25")

    def test_by_sender(self) -> None:
        self.bring(
            "mynetworks = 127.0.0.0/8\nrelayhost = [out.example]\n"
            "sender_dependent_relayhost_maps = hash:/etc/postfix/s\n",
            s="@brand.example [brand.example]:587\nvip@brand.example vip.example\n"
            "dunno@brand.example DUNNO\n",
        )
        self.assertEqual(self.hop("x@far.example", sender="a@brand.example"),
                         "smtp brand.example:587")  # fmt: skip
        self.assertEqual(self.hop("x@far.example", sender="vip@brand.example"),
                         "smtp vip.example:25 mx")  # fmt: skip
        self.assertEqual(self.hop("x@far.example", sender="a@else.example"), "smtp out.example:25")

    def test_mailboxes_without_a_store_wait(self) -> None:
        self.bring("virtual_mailbox_domains = m.example\n"
                   "virtual_mailbox_maps = hash:/etc/postfix/m\n",
                   m="u@m.example u/\n")  # fmt: skip
        self.assertEqual(self.goes("u@m.example"), "451 4.3.0")
        self.assertEqual(self.goes("no@m.example"), "550 5.1.1")
        self.assertIs(self.fate("virtual_transport"), SettingFate.LOST)

    def test_header_checks(self) -> None:
        self.bring("header_checks = regexp:/etc/postfix/h\n",
                   h="/^X-Inside:/ IGNORE\n/^X-Mailer: .*/ REPLACE X-Mailer: none\n"
                   "/^Subject: buy/ REJECT\n")  # fmt: skip
        self.assertIn("header remove X-Inside", self.rules)
        self.assertIn('header replace X-Mailer "none"', self.rules)
        self.assertIn("/^Subject: buy/ REJECT", self.said("header_checks"))


class Security(Import):
    def test_certificates_and_listeners_with_tls(self) -> None:
        certificate, key = Authority().issue("mx.example.com").write(self.folder, "mx")
        main = f"smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n"
        self.bring(
            main + "smtpd_tls_security_level = encrypt\ninet_interfaces = 127.0.0.1\n",
            master=MASTER + "smtps inet n - y - - smtpd\n  -o smtpd_tls_wrappermode=yes\n",
        )
        self.assertIn(f"certificate {certificate} key {key}", self.conf)
        self.assertIn("listen 127.0.0.1:465 tls implicit", self.conf)
        self.assertEqual(self.goes("x@far.example", client=INSIDE), "530 5.7.0")
        self.bring(main + "smtpd_tls_security_level = none\n")
        self.assertNotIn("certificate ", self.conf)
        self.assertIs(self.fate("smtpd_tls_cert_file"), SettingFate.UNNEEDED)

    def test_a_certificate_that_is_not_there_is_told_of(self) -> None:
        self.bring("smtpd_tls_cert_file = /nowhere/x.pem\nsmtpd_tls_security_level = may\n")
        self.assertIs(self.fate("smtpd_tls_cert_file"), SettingFate.LOST)
        self.assertIs(self.fate("smtpd_tls_security_level"), SettingFate.LOST)

    def test_what_next_hops_have_to_offer(self) -> None:
        self.bring(
            "relayhost = [out.example]:587\nsmtp_tls_security_level = encrypt\n"
            "smtp_tls_policy_maps = hash:/etc/postfix/p\nsmtp_tls_loglevel = 1\n",
            p="bank.example verify\n.deep.example dane-only\n[host.example]:25 encrypt\n",
        )
        self.assertIn("tls to any required", self.conf)
        self.assertIn("tls to @bank.example verify", self.conf)
        self.assertIn("tls to @.deep.example dane", self.conf)
        self.assertIn("next-hop relayhost smtp out.example:587 tls required", self.rules)
        self.assertIn("[host.example]:25", self.said("smtp_tls_policy_maps"))
        self.assertIs(self.fate("smtp_tls_loglevel"), SettingFate.UNNEEDED)


class Documented(Import):
    def test_the_example_of_the_document_comes_out_as_it_shows(self) -> None:
        docs = Path(__file__).parents[3] / "docs"
        example = docs / "examples/postfix"
        self.work = convert(example, MACHINE)
        self.written = settle(self.work)
        document = (docs / "migrate-postfix.md").read_text("utf-8")
        blocks = re.findall(r"^```\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
        [main] = [block for block in blocks if block.startswith("# main.cf")]
        [rules] = [block for block in blocks if block.startswith("# Who may")]
        self.assertEqual(main.partition("\n")[2], (example / "main.cf").read_text("utf-8"))
        shown = self.rules[self.rules.index("# Who may") : self.rules.index("# Tests")]
        self.assertEqual(rules.rstrip(), shown.rstrip())


class Texts(Answers):
    """Answers by the tables' text, in place of postmap."""

    def __init__(self, folder: Path, shelf: object, scratch: Path) -> None:
        with mock.patch("relayd.verification.postmap.program", return_value="postmap"):
            super().__init__(folder, shelf, scratch)  # type: ignore[arg-type]

    def _found(self, table: tuple[MapSpec, bool], keys: object) -> dict[str, str]:
        spec, aliases = table
        text = self._shelf.read(spec, aliases=aliases)
        if text.trouble:
            self.unreadable[spec] = text.trouble
        found = {row.key: row.value for row in text.rows}
        for key in list(keys):  # type: ignore[call-overload]
            for row in text.patterns:
                if spec.type in PATTERNS and search(row.expression.text.lower(), key):
                    found.setdefault(key, row.value)
        return found


class Verifying(Import):
    def outcome(self) -> verifying.Verification:
        with mock.patch.object(verifying, "Answers", Texts), self.values():
            return verifying.verify(self.work, self.written, samples(self.work))

    def values(self) -> contextlib.AbstractContextManager[object]:
        """The parameters as postconf has them, for where there is none."""

        def parameters(folder: Path, *options: str) -> dict[str, str]:
            main = self.work.main
            return {} if options else {name: main[name] for name in {*DEFAULTS, *main.given}}

        return mock.patch("relayd.verification.lookups.parameters", parameters)

    def test_an_import_of_everything_has_no_difference_that_is_not_named(self) -> None:
        self.bring(
            "mydestination = mx.example.com\nalias_maps = hash:/etc/postfix/aliases\n"
            "mynetworks = 127.0.0.0/8\nrelayhost = [out.example]\nrelay_domains = corp.example\n"
            "virtual_alias_maps = hash:/etc/postfix/v, regexp:/etc/postfix/re\n"
            "canonical_maps = hash:/etc/postfix/c\ntransport_maps = hash:/etc/postfix/t\n"
            "recipient_delimiter = +\n",
            aliases="root: admin@far.example\nprog: |/x\n",
            v="v.example x\na@v.example b@corp.example\n@w.example @far.example\nw.example x\n",
            re="/^list-(x+)@v.example$/ l@far.example\n",
            c="old@corp.example new@corp.example\n@legacy.example @corp.example\n",
            t="corp.example smtp:[h.example]\nfar.example uucp:x\n",
        )
        outcome = self.outcome()
        self.assertEqual([each.question for each in outcome.unnamed], [])
        self.assertGreater(outcome.addresses, 20)
        self.assertTrue(outcome.differences)  # uucp, the mailboxes: all named

    def test_a_difference_that_nobody_named_is_found(self) -> None:
        self.bring("virtual_alias_maps = hash:/etc/postfix/v\n",
                   v="v.example x\na@v.example b@far.example\n")  # fmt: skip
        self.assertEqual(self.outcome().unnamed, [])
        self.put("v", "v.example x\na@v.example c@far.example\n")
        self.work.shelf._read.clear()
        [difference, *others] = self.outcome().unnamed
        self.assertEqual(difference.address, "a@v.example")
        self.assertEqual([each for each in others if each.address != "a@v.example"], [])
        self.assertIn("c@far.example", difference.postfix)
        self.assertIn("b@far.example", difference.relayd)

    def test_an_address_that_is_none_is_said(self) -> None:
        self.bring("")
        with mock.patch.object(verifying, "Answers", Texts), self.values():
            outcome = verifying.verify(self.work, self.written, ["no address"])
        self.assertEqual(len(outcome.unasked), 1)


class CommandLine(Import):
    def run_it(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = relayctl.main(["import", "postfix", str(self.folder), *arguments])
        return status, out.getvalue(), err.getvalue()

    def test_writes_what_loads_and_never_over_something_else(self) -> None:
        self.bring("relay_domains = corp.example\n")
        output = self.folder / "out"
        status, out, _ = self.run_it("--output", str(output))
        self.assertEqual(status, 0)
        self.assertIn("main.cf gives 5 settings", out)
        load(output / "relayd.conf")
        self.assertEqual(self.run_it("--output", str(output))[0], 0)  # the same again
        (output / "relayd.conf").write_text("hostname mine.example\n")
        status, _, err = self.run_it("--output", str(output))
        self.assertEqual(status, 1)
        self.assertIn("has another relayd.conf already", err)
        self.assertEqual(self.run_it("--output", str(output), "--force")[0], 0)

    def test_json(self) -> None:
        self.bring("always_bcc = a@x.example, b@x.example\n")  # Postfix has one address there
        status, out, _ = self.run_it("--dry-run", "--json")
        self.assertEqual(status, 0)
        told = {each["setting"]: each for each in json.loads(out)["settings"]}
        self.assertEqual(told["always_bcc"]["fate"], "NOT translated")
        self.assertEqual(told["always_bcc"]["place"], "main.cf:5")

    def test_no_postmap_is_said_plainly_after_the_report(self) -> None:
        self.bring("")
        missing = PostmapError("postmap is not installed here")
        with mock.patch("relayd.verification.postmap.program", side_effect=missing):
            status, out, err = self.run_it("--dry-run", "--verify", "all")
        self.assertEqual(status, 1)
        self.assertIn("main.cf gives", out)
        self.assertIn("not verified: postmap is not installed here", err)

    def test_a_program_that_is_not_there(self) -> None:
        with self.assertRaisesRegex(PostmapError, "no-such-program is not installed"):
            program("no-such-program")

    def test_no_main_cf(self) -> None:
        status, _, err = self.run_it("--dry-run")
        self.assertEqual(status, 1)
        self.assertIn("cannot read", err)

    def test_addresses_that_are_none(self) -> None:
        self.bring("")
        status, _, err = self.run_it("--dry-run", "--verify", "nonsense")
        self.assertEqual(status, 1)
        self.assertIn("expected", err)
