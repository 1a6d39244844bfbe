"""Who is asked: lists in the DNS, policy services, milters, and what postscreen said."""

from __future__ import annotations

import contextlib
import io
import itertools

from relayd.ctl.relayctl import main
from relayd.migrate.asking import combinations
from relayd.migrate.report import SettingFate
from relayd.verification.command import unremarkable
from tests.unit.migrate.migration import INSIDE, MASTER, Import

RELAY = (
    "mynetworks = 127.0.0.0/8\nrelay_domains = corp.example\n"
    "smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n"
)
TAKEN = "a@corp.example direct"


class ListsInTheDns(Import):
    def test_the_answers_that_count(self) -> None:
        for text, wanted in (
            ("zen.spamhaus.example", "127.0.0.0/8"),
            ("zen.spamhaus.example=127.0.0.2", "127.0.0.2"),
            ("zen.spamhaus.example=127.0.0.[2..11]", "127.0.0.2-11"),
            ("zen.spamhaus.example=127.0.0.[2;4..6]", "127.0.0.2, 127.0.0.4-6"),
            ("zen.spamhaus.example=127.0.[0..255].[1..3]", "127.0.0-255.1-3"),
        ):
            self.bring(RELAY + f"smtpd_recipient_restrictions = reject_rbl_client {text}\n")
            self.assertIn(f"dnsbl zen zen.spamhaus.example {wanted}\n", self.rules)
            self.assertEqual(self.goes("a@corp.example"), TAKEN)
            self.assertEqual(self.goes("a@corp.example", listed="zen"), "554 5.7.1")

    def test_a_key_in_the_zone_is_no_name(self) -> None:
        zone = "k3y0123456789abcdefghijklm.zen.dq.spamhaus.example"
        self.bring(RELAY + f"smtpd_recipient_restrictions = reject_rbl_client {zone}=127.0.0.2\n")
        self.assertIn(f"dnsbl zen {zone} 127.0.0.2\n", self.rules)
        self.assertEqual(self.goes("a@corp.example", listed="zen"), "554 5.7.1")

    def test_what_is_no_answer_or_no_zone_is_said(self) -> None:
        for text in ("zen.example=10.0.0.1", "zen.example=127.0.0.[1;2;3].[4", "a..b"):
            self.bring(RELAY + f"smtpd_recipient_restrictions = reject_rbl_client {text}x\n")
            self.assertNotIn("dnsbl", self.rules, text)
            self.assertIn("reject_rbl_client", self.said("smtpd_recipient_restrictions"))

    def test_who_has_passed_is_not_looked_up(self) -> None:
        self.bring(
            RELAY + "smtpd_client_restrictions = permit_mynetworks,"
            " permit_dnswl_client list.dnswl.example, reject_rbl_client bl.one.example\n"
        )
        self.assertEqual(self.goes("a@corp.example", listed="one"), "554 5.7.1")
        self.assertEqual(self.goes("a@corp.example", client=INSIDE, listed="one"), TAKEN)
        self.assertEqual(self.goes("a@corp.example", listed="one dnswl"), TAKEN)

    def test_a_list_of_friends_never_lets_relay(self) -> None:
        self.bring(
            "mynetworks = 127.0.0.0/8\nrelay_domains = corp.example\nsmtpd_relay_restrictions ="
            " permit_mynetworks, permit_dnswl_client list.dnswl.example,"
            " reject_unauth_destination\n"
        )
        self.assertEqual(self.goes("a@far.example", listed="dnswl"), "550 5.7.1")

    def test_lists_of_postfix_2(self) -> None:
        self.bring(RELAY + "maps_rbl_domains = bl.one.example, bl.two.example\n"
                   "smtpd_client_restrictions = reject_maps_rbl\n")  # fmt: skip
        self.assertEqual(self.goes("a@corp.example", listed="two"), "554 5.7.1")

    def test_lists_of_names(self) -> None:
        for word, whose in (
            ("client", "rdns"),
            ("reverse_client", "ptr"),
            ("helo", "helo"),
            ("sender", "sender"),
            ("recipient", "recipient"),
        ):
            for where in ("client", "recipient"):
                setting = f"smtpd_{where}_restrictions"
                self.bring(RELAY + f"{setting} = reject_rhsbl_{word} dbl.example=127.0.1.[2..99]\n")
                self.assertIn("dnsbl dbl dbl.example 127.0.1.2-99\n", self.rules)
                self.assertEqual(self.goes("a@corp.example"), TAKEN)
                self.assertEqual(self.goes("a@corp.example", listed="dbl"), TAKEN)
                heard = self.goes("a@corp.example", listed=f"dbl/{whose}")
                self.assertEqual(heard, "554 5.7.1", word)
                self.assertIs(self.fate(setting), SettingFate.TRANSLATED)

    def test_a_list_of_names_that_is_not_understood_is_said(self) -> None:
        self.bring(RELAY + "smtpd_recipient_restrictions = reject_rhsbl_sender a..b\n")
        self.assertIn("reject_rhsbl_sender a..b", self.said("smtpd_recipient_restrictions"))

    def test_a_list_of_friends_names_spares_and_never_lets_relay(self) -> None:
        self.bring(
            RELAY + "smtpd_client_restrictions = permit_rhswl_client names.example,"
            " reject_rbl_client bl.one.example\n"
        )
        self.assertEqual(self.goes("a@corp.example", listed="one"), "554 5.7.1")
        self.assertEqual(self.goes("a@corp.example", listed="one names/rdns"), TAKEN)
        self.assertEqual(self.goes("a@far.example", listed="names/rdns"), "550 5.7.1")


class UnverifiedRecipients(Import):
    """`reject_unverified_recipient`: whoever the next hop says that it does not know."""

    LIST = "smtpd_recipient_restrictions = permit_mynetworks, reject_unverified_recipient\n"

    def asked(self) -> list[str]:
        return [line for line in self.rules.splitlines() if " unknown at " in line]

    def test_one_next_hop_for_all_is_asked(self) -> None:
        self.bring(RELAY + self.LIST + "relay_transport = smtp:[10.0.0.5]\n"
                   "unverified_recipient_reject_code = 550\n"
                   "parent_domain_matches_subdomains =\n")  # fmt: skip
        self.assertEqual(
            self.asked(),
            ['reject to @corp.example 550 5.1.1 "Recipient address rejected: undeliverable address"'
             " when unknown at relay-transport and not from <mynetworks>"],
        )  # fmt: skip
        self.assertIn("next-hop relay-transport smtp 10.0.0.5:25\n", self.rules)
        self.assertNotIn("unknown at NEXT-HOP", self.said("smtpd_recipient_restrictions"))
        self.assertEqual(self.goes("a@corp.example"), "a@corp.example relay-transport")

    def test_each_domain_has_its_own_and_relayhost_the_rest(self) -> None:
        self.put("transport", "b.example smtp:[10.0.0.6]\n.a.example smtp:[10.0.0.7]\n")
        self.bring("mynetworks = 127.0.0.0/8\nrelay_domains = a.example, b.example, c.a.example\n"
                   "parent_domain_matches_subdomains =\nrelayhost = [10.0.0.5]\n" + self.LIST
                   + "smtpd_relay_restrictions = reject_unauth_destination\n"
                   "transport_maps = texthash:$config_directory/transport\n")  # fmt: skip
        rules = "\n".join(self.asked())
        self.assertIn('reject to @a.example 450 4.1.1 "', rules)
        self.assertRegex(rules, "to @a.example .* unknown at relayhost ")
        self.assertRegex(rules, "to @b.example .* unknown at 10.0.0.6 ")
        self.assertIn("c.a.example: write", self.said("smtpd_recipient_restrictions"))

    def test_where_nobody_can_be_named_it_is_said(self) -> None:
        self.put("transport", "ann@corp.example smtp:[10.0.0.6]\n")
        self.put("virtual", "ann@corp.example bob@corp.example\n")
        for more in (
            "",  # by MX
            "relayhost = [10.0.0.5]\ntransport_maps = texthash:$config_directory/transport\n",
            "relayhost = [10.0.0.5]\nvirtual_alias_maps = texthash:$config_directory/virtual\n",
        ):
            self.bring(RELAY + self.LIST + more)
            self.assertEqual(self.asked(), [], more)
            self.assertIn("unknown at NEXT-HOP", self.said("smtpd_recipient_restrictions"), more)

    def test_what_comes_next_says_that_the_mailbox_exists(self) -> None:
        self.bring(RELAY + self.LIST + "relayhost = [10.0.0.5]\n"
                   "smtpd_client_message_rate_limit = 20\n"
                   "smtpd_client_restrictions = reject_unknown_client_hostname\n")  # fmt: skip
        self.assertEqual(
            list(unremarkable(self.work)),
            ["not over client-messages", "not unknown at relayhost", "rdns mail.example.com"],
        )


class UnknownNames(Import):
    """What Postfix looks up of a domain or of a client's address."""

    def test_a_recipients_domain(self) -> None:
        self.bring("mynetworks = 127.0.0.0/8\nrelay_domains = corp.example\n"
                   "virtual_alias_domains = virtual.example\n"
                   "virtual_alias_maps = inline:{ a@virtual.example=a@corp.example }\n"
                   "smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n"
                   "smtpd_recipient_restrictions = reject_unknown_recipient_domain\n")  # fmt: skip
        for to, wanted in (
            ("a@corp.example", "450 4.1.2"),  # it only passes through
            ("a@far.example", "450 4.1.2"),
            ("a@virtual.example", TAKEN),
        ):
            heard = self.goes(to, client=INSIDE, unresolved="recipient")
            self.assertEqual(heard, wanted, to)
        self.assertEqual(self.goes("a@far.example", client=INSIDE), "a@far.example direct")

    def test_a_senders_domain_that_only_passes_through_is_looked_up_too(self) -> None:
        self.bring(RELAY + "smtpd_sender_restrictions = reject_unknown_sender_domain\n"
                   "unknown_address_reject_code = 550\n")  # fmt: skip
        for sender in ("b@corp.example", "b@far.example"):
            heard = self.goes("a@corp.example", sender=sender, unresolved="sender")
            self.assertEqual(heard, "550 5.1.8", sender)

    def test_a_client_without_any_name(self) -> None:
        self.bring(RELAY + "unknown_client_reject_code = 550\nsmtpd_client_restrictions ="
                   " permit_mynetworks, reject_unknown_reverse_client_hostname\n")  # fmt: skip
        self.assertEqual(self.goes("a@corp.example", unresolved="client"), "550 5.7.25")
        self.assertEqual(self.goes("a@corp.example", name=""), TAKEN)  # it does not lead back
        self.assertEqual(self.goes("a@corp.example", client=INSIDE, unresolved="client"), TAKEN)

    def test_of_a_senders_mailbox_that_mail_could_go_there(self) -> None:
        setting = "smtpd_sender_restrictions"
        text = RELAY + f"{setting} = reject_unverified_sender\n"
        self.bring(text)
        self.assertIn("a sender's mailbox", self.said(setting))
        self.assertEqual(self.goes("a@corp.example", unresolved="sender"), "450 4.1.7")
        self.assertEqual(self.goes("a@corp.example"), TAKEN)
        heard = self.goes("a@corp.example", sender="b@corp.example", unresolved="sender")
        self.assertEqual(heard, TAKEN)
        self.bring(text + "relayhost = [10.0.0.5]\n")  # which it would ask instead
        self.assertIn("a sender's mailbox", self.said(setting))
        self.assertNotIn("resolves", self.rules)

    def test_what_comes_next_says_that_all_is_found(self) -> None:
        self.bring(RELAY + "smtpd_recipient_restrictions = reject_rhsbl_sender dbl.example,"
                   " reject_unknown_recipient_domain, reject_unknown_sender_domain\n")  # fmt: skip
        self.assertEqual(
            list(unremarkable(self.work)),
            ["not listed dbl by sender", "resolves recipient", "resolves sender"],
        )


class WhatComesNext(Import):
    def told(self, *options: str) -> str:
        self.put("main.cf", "myhostname = mx.example.com\n" + RELAY
                 + "smtpd_recipient_restrictions = reject_rbl_client zen.example\n")  # fmt: skip
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            status = main(["import", "postfix", str(self.folder), "--output",
                           str(self.folder / "new"), *options])  # fmt: skip
        self.assertEqual(status, 0)
        return said.getvalue().partition("Next")[2]

    def test_what_was_written_is_checked_and_tried(self) -> None:
        new = self.folder / "new"
        said = self.told()
        self.assertIn(f"relayctl import postfix {self.folder} --output {new} --verify all", said)
        self.assertIn(f"relayctl --config {new}/relayd.conf check\n", said)
        self.assertIn(f'--config {new}/relayd.conf explain --offline --with "not listed zen"', said)

    def test_what_was_only_tried_is_written(self) -> None:
        self.assertIn("--output DIR --verify all", self.told("--dry-run"))

    def test_json_is_nothing_else(self) -> None:
        self.assertEqual(self.told("--json"), "")


class WeightedLists(Import):
    MASTER = "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\n"

    def test_the_least_sets_are_those_that_reach_the_threshold(self) -> None:
        sites = [("a", 3), ("b", 2), ("c", 2), ("d", 1), ("w", -4), ("v", -2)]
        for threshold in range(1, 9):
            found = list(combinations(sites, threshold))
            for mask in itertools.product((False, True), repeat=len(sites)):
                there = {name for (name, _), is_there in zip(sites, mask, strict=True) if is_there}
                score = sum(weight for name, weight in sites if name in there)
                holds = any(
                    all((word.split()[-1] in there) != word.startswith("not") for word in some)
                    for some in found
                )
                self.assertEqual(holds, score >= threshold, (threshold, there))

    def test_postscreen_refuses_by_weight(self) -> None:
        self.bring(
            RELAY + "postscreen_dnsbl_sites = bl.one.example*2 bl.two.example"
            " list.dnswl.example=127.0.[0..255].[1..3]*-2\npostscreen_dnsbl_threshold = 2\n"
            "postscreen_dnsbl_action = enforce\n",
            master=self.MASTER,
        )
        for listed, wanted in (
            ("", TAKEN),
            ("one", "550 5.7.1"),
            ("two", TAKEN),
            ("one dnswl", TAKEN),
            ("one two dnswl", TAKEN),
        ):
            self.assertEqual(self.goes("a@corp.example", listed=listed), wanted, listed)
        self.assertEqual(self.goes("a@corp.example", client=INSIDE, listed="one two"), TAKEN)

    def test_what_postscreen_only_logged_refuses_nobody(self) -> None:
        self.bring(
            RELAY + "postscreen_dnsbl_sites = bl.one.example\n"
            "postscreen_access_list = permit_mynetworks, cidr:/etc/postfix/c\n",
            master=self.MASTER,
            c="203.0.113.0/24 reject\n",
        )
        self.assertEqual(self.goes("a@corp.example", listed="one"), TAKEN)

    def test_its_own_list_of_clients(self) -> None:
        self.bring(
            RELAY + "postscreen_access_list = permit_mynetworks, cidr:/etc/postfix/c\n"
            "postscreen_blacklist_action = enforce\n",
            master=self.MASTER,
            c="203.0.113.9 permit\n203.0.113.0/24 reject\n",
        )
        self.assertEqual(self.goes("a@corp.example"), TAKEN)
        self.assertEqual(self.goes("a@corp.example", client="203.0.113.10"), "550 5.3.2")

    def test_other_listeners_are_not_screened(self) -> None:
        self.bring(
            RELAY + "postscreen_access_list = cidr:/etc/postfix/c\n"
            "postscreen_denylist_action = drop\n",
            master=self.MASTER + "2525 inet n - y - - smtpd\n",
            c="203.0.113.0/24 reject\n",
        )
        self.assertIn("reject listener 0.0.0.0:25, [::]:25 550 5.3.2", self.rules)


class PolicyServices(Import):
    def asked(self, text: str, before: str = "") -> list[str]:
        self.bring(f"{RELAY}smtpd_recipient_restrictions = {before}check_policy_service {text}\n")
        return [line for line in self.rules.splitlines() if line.startswith(("policy", "ask"))]

    def test_where_they_are_and_what_becomes_of_mail_without_them(self) -> None:
        for text, wanted in (
            ("inet:127.0.0.1:10023", "policy postgrey 127.0.0.1:10023"),
            ("unix:private/policyd", "policy policyd unix:/var/spool/postfix/private/policyd"),
            ("{ inet:localhost:9000, timeout=10s, default_action=DUNNO }",
             "policy policy-9000 localhost:9000 on failure accept timeout 10s"),
            ("{ unix:/run/p.sock, default_action = 550 no }", "policy p unix:/run/p.sock"),
        ):  # fmt: skip
            definition, ask = self.asked(text)
            self.assertTrue(definition.startswith(wanted), definition)
            self.assertEqual(ask, f"ask {wanted.split()[1]}")
            self.assertEqual(self.goes("a@corp.example"), TAKEN)

    def test_who_has_passed_is_not_asked_about(self) -> None:
        _, ask = self.asked("inet:127.0.0.1:10023", "permit_mynetworks, ")
        self.assertEqual(ask, "ask postgrey when not from <mynetworks>")

    def test_a_class_in_an_entry(self) -> None:
        self.bring(
            RELAY + "smtpd_restriction_classes = grey\ngrey = check_policy_service inet:h:1\n"
            "smtpd_recipient_restrictions = check_recipient_access hash:/etc/postfix/r\n",
            r="a@corp.example grey\n",
        )
        self.assertIn("ask policy-1 to a@corp.example", self.rules)

    def test_what_is_asked_later_than_rcpt_closes(self) -> None:
        self.bring(RELAY + "smtpd_end_of_data_restrictions = check_policy_service inet:h:1\n")
        self.assertEqual(self.goes("a@corp.example"), "451 4.3.0")
        self.assertIn("asked at RCPT only", self.said("smtpd_end_of_data_restrictions"))


class Milters(Import):
    def test_all_that_is_said_of_one(self) -> None:
        self.bring(
            RELAY + "milter_default_action = accept\nsmtpd_milters = inet:localhost:8891,"
            " unix:clamav/clamav-milter.ctl\n  { inet:[::1]:11332, { content_timeout = 60s },"
            " default_action=quarantine }\nnon_smtpd_milters = $smtpd_milters\n"
            "milter_protocol = 6\n"
        )
        for line in (
            "milter opendkim localhost:8891 on failure accept",
            "milter clamav-milter unix:/var/spool/postfix/clamav/clamav-milter.ctl"
            " on failure accept",
            "milter rspamd [::1]:11332 on failure hold timeout 60s",
            "ask opendkim, clamav-milter, rspamd",
        ):
            self.assertIn(f"\n{line}\n", self.rules)
        for setting in ("smtpd_milters", "non_smtpd_milters", "milter_default_action"):
            self.assertIs(self.work.report.findings[setting].fate, SettingFate.TRANSLATED, setting)

    def test_listeners_with_others_or_none(self) -> None:
        self.bring(
            RELAY + "smtpd_milters = inet:127.0.0.1:1\ninet_interfaces = 192.0.2.1\n",
            master=MASTER + "2525 inet n - y - - smtpd -o receive_override_options=no_milters\n"
            "2526 inet n - y - - smtpd -o smtpd_milters=inet:127.0.0.1:2\n",
        )
        self.assertIn(
            "ask milter-1 when not listener 192.0.2.1:2525 and not listener 192.0.2.1:2526\n",
            self.rules,
        )
        self.assertIn("ask milter-2 listener 192.0.2.1:2526\n", self.rules)

    def test_what_is_not_understood_is_said(self) -> None:
        self.bring(RELAY + "smtpd_milters = future:x, inet:127.0.0.1:1\n")
        self.assertIn("future:x", self.said("smtpd_milters"))
        self.assertIn("ask milter-1\n", self.rules)


class NamesOfClients(Import):
    def test_names_come_before_addresses(self) -> None:
        self.bring(
            RELAY + "smtpd_client_restrictions = check_client_access hash:/etc/postfix/c\n",
            c="good.bad.example OK\nbad.example REJECT\nunknown 450 who\n203.0.113.9 OK\n",
        )
        for name, wanted in (
            ("a.bad.example", "554 5.7.1"),
            ("good.bad.example", TAKEN),
            ("", "450 4.7.1"),
            ("x.example", TAKEN),
        ):
            self.assertEqual(self.goes("a@corp.example", name=name), wanted, name)

    def test_expressions_that_can_only_be_names(self) -> None:
        self.bring(
            RELAY + "smtpd_client_restrictions = check_client_access regexp:/etc/postfix/c\n",
            c="/^dyn-.*\\.isp\\.example$/ REJECT\n",
        )
        self.assertEqual(self.goes("a@corp.example", name="dyn-1.isp.example"), "554 5.7.1")
        self.assertEqual(self.goes("a@corp.example", name="mx.isp.example"), TAKEN)

    def test_expressions_that_may_be_addresses_close(self) -> None:
        for text in ("^192\\.0", "[.]9$", ".", "a"):
            self.bring(
                RELAY + "smtpd_client_restrictions = check_client_access regexp:/etc/postfix/c\n",
                c=f"/{text}/ REJECT\n",
            )
            self.assertEqual(self.goes("a@corp.example"), "451 4.3.0", text)

    def test_clients_without_a_name(self) -> None:
        self.bring(RELAY + "smtpd_client_restrictions = reject_unknown_client_hostname\n")
        self.assertEqual(self.goes("a@corp.example", name=""), "450 4.7.25")
        self.assertEqual(self.goes("a@corp.example"), TAKEN)

    def test_asking_less_than_relayd_does_is_said(self) -> None:
        self.bring(RELAY + "smtpd_client_restrictions = reject_unknown_forward_client_hostname\n")
        self.assertEqual(self.goes("a@corp.example", name=""), TAKEN)
        self.assertIn("leads back to him", self.said("smtpd_client_restrictions"))


class NamesInHelo(Import):
    def test_by_expression(self) -> None:
        self.bring(
            RELAY + "smtpd_helo_restrictions = check_helo_access pcre:/etc/postfix/h\n",
            h="/^dynamic-/ REJECT\n!/\\./ 504 short\n",
        )
        for helo, wanted in (("dynamic-7.example", "554 5.7.1"), ("short", "504 5.7.1"),
                             ("mx.example", TAKEN), ("", TAKEN)):  # fmt: skip
            self.assertEqual(self.goes("a@corp.example", helo=helo), wanted, helo)

    def test_by_form(self) -> None:
        self.bring(RELAY + "smtpd_helo_restrictions = reject_non_fqdn_helo_hostname\n")
        for helo, wanted in (("short", "504 5.5.2"), ("192.0.2.1", "504 5.5.2"),
                             ("a!b.example", "504 5.5.2"), ("[192.0.2.1]", TAKEN),
                             ("[ipv6:2001:db8::1]", TAKEN), ("mx.example.", TAKEN)):  # fmt: skip
            self.assertEqual(self.goes("a@corp.example", helo=helo), wanted, helo)


class Rates(Import):
    def test_what_a_client_may_send_in_a_time(self) -> None:
        self.bring(
            RELAY + "smtpd_client_message_rate_limit = 20\nanvil_rate_time_unit = 2m\n"
            "smtpd_client_recipient_rate_limit = 0\n"
        )
        self.assertIn("\nlimit client-messages 20/120s messages per client\n", self.rules)
        self.assertIn("when over client-messages and not from <mynetworks>", self.rules)
        self.assertEqual(self.goes("a@corp.example"), TAKEN)

    def test_others_that_are_spared_are_said(self) -> None:
        self.bring(
            RELAY + "smtpd_client_recipient_rate_limit = 5\n"
            "smtpd_client_event_limit_exceptions = 192.0.2.0/24\n"
        )
        self.assertIn("limit NAME", self.said("smtpd_client_recipient_rate_limit"))
