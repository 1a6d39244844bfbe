"""Logins of a Postfix configuration: Dovecot's socket for clients, passwords for next hops."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from unittest import mock

from relayd.mail.address import Mailbox
from relayd.mail.reply import Reply
from relayd.migrate.report import SettingFate
from relayd.migrate.security import unreadable
from relayd.migrate.write import put
from tests.certs import Authority
from tests.unit.migrate.migration import MASTER, Import

DOVECOT = "smtpd_sasl_type = dovecot\nsmtpd_sasl_path = private/auth\nqueue_directory = /q\n"
SUBMISSION = (
    MASTER + "submission inet n - y - - smtpd\n  -o syslog_name=postfix/submission\n"
    "  -o smtpd_tls_security_level=encrypt\n  -o smtpd_sasl_auth_enable=yes\n"
    "  -o smtpd_tls_auth_only=yes\n  -o smtpd_client_restrictions=$mua\n"
    "  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject\n"
    "  -o milter_macro_daemon_name=ORIGINATING\n"
    "smtps inet n - y - - smtpd\n  -o smtpd_tls_wrappermode=yes\n  -o smtpd_sasl_auth_enable=yes\n"
)


class Clients(Import):
    def certificate(self) -> str:
        chain, key = Authority().issue("mx.example.com").write(self.folder, "mx")
        return (
            f"smtpd_tls_cert_file = {chain}\nsmtpd_tls_key_file = {key}\n"
            "smtpd_tls_security_level = may\ninet_interfaces = 127.0.0.1\n"
        )

    def test_the_listeners_of_master_cf(self) -> None:
        self.bring(self.certificate() + DOVECOT, master=SUBMISSION)
        for line in (
            "listen 127.0.0.1:25",
            "listen 127.0.0.1:587 auth dovecot-logins submission",
            "listen 127.0.0.1:465 tls implicit auth dovecot-logins",
            "table dovecot-logins dovecot-auth unix:/q/private/auth",
        ):
            self.assertIn(line, self.conf.splitlines())
        self.assertIn("accept login any", self.rules.splitlines())
        self.assertIn("may-send-as any", self.rules.splitlines())
        for name in ("smtpd_sasl_type", "smtpd_sasl_path", "master.cf submission/inet"):
            self.assertIs(self.fate(name), SettingFate.TRANSLATED)

    def test_in_main_cf_for_all_and_said_in_master_cf_only(self) -> None:
        self.bring(self.certificate() + DOVECOT + "smtpd_sasl_auth_enable = yes\n")
        self.assertIn("listen 127.0.0.1:25 auth dovecot-logins", self.conf)
        said = "  -o smtpd_sasl_type=dovecot\n  -o smtpd_sasl_path=/run/d\n"
        self.bring(self.certificate(), master=SUBMISSION + said)
        self.assertIn("dovecot-auth unix:/run/d", self.conf)

    def test_what_a_login_may_send_as(self) -> None:
        main = (
            self.certificate() + DOVECOT + "smtpd_sasl_auth_enable = yes\n"
            f"smtpd_sender_login_maps = hash:{self.folder}/owners\n"
            "smtpd_sender_restrictions = reject_sender_login_mismatch\n"
        )
        self.bring(main, owners="ann@example.com ann\n@sales.example.com bob, ann\n")
        self.assertNotIn("may-send-as any", self.rules)
        self.assertIn("may-send-as <sender-logins>", self.rules)
        refusal = self.written.settings.ruleset.send_as.refusal
        client = mock.Mock(login="bob", address="203.0.113.9")
        self.assertIsNone(refusal(client, Mailbox("x", "sales.example.com")))
        self.assertIsInstance(refusal(client, Mailbox("ann", "example.com")), Reply)

    def test_what_cannot_be_had_is_told_and_stands_as_a_comment(self) -> None:
        for main in (self.certificate(), DOVECOT):  # Cyrus; no certificate
            self.bring(main + "smtpd_sasl_auth_enable = yes\n", master=SUBMISSION)
            self.assertNotIn(" auth ", "\n".join(_statements(self.conf)))
            self.assertIn("# listen", self.conf)
            self.assertIs(self.fate("smtpd_sasl_auth_enable"), SettingFate.LOST)
            self.assertIs(self.fate("master.cf submission/inet"), SettingFate.LOST)
            self.assertTrue(any(each.port == 25 for each in self.written.settings.listeners))

    def test_a_key_that_only_root_can_read_is_told_of(self) -> None:
        key = self.folder / "key"
        key.write_text("")
        key.chmod(0o600)
        self.folder.chmod(0o755)
        nobody = pwd.getpwnam("nobody").pw_name
        if os.geteuid() == 0:
            self.assertIn("closed to the user nobody", unreadable(key, nobody))
        key.chmod(0o644)
        self.assertEqual(unreadable(key, nobody), "")
        self.assertEqual(unreadable(key, "no such user"), "")


class NextHops(Import):
    MAIN = (
        "relayhost = [smtp.isp.example]:587\nsmtp_sasl_auth_enable = yes\n"
        "smtp_sasl_security_options = noanonymous\n"
    )

    def bring_secrets(self, text: str, main: str = "") -> None:
        maps = f"smtp_sasl_password_maps = hash:{self.folder}/sasl\n"
        self.bring(self.MAIN + maps + main, sasl=text)

    def test_the_password_of_the_relayhost(self) -> None:
        self.bring_secrets("[smtp.isp.example]:587 us@isp:pass: word\nother.example a:b\n")
        self.assertIn(
            "next-hop relayhost smtp smtp.isp.example:587 login relayhost", self.rules.splitlines()
        )
        self.assertEqual(self.file("secrets").splitlines()[1:], ["relayhost us@isp pass: word"])
        secret = self.written.settings.secrets["relayhost"]
        self.assertEqual((secret.user, secret.password), ("us@isp", "pass: word"))
        self.assertIn("other.example", self.said("smtp_sasl_password_maps"))
        self.assertIn("no next hop", self.said("smtp_sasl_password_maps"))
        put(self.folder / "out", self.written.files)
        self.assertEqual((self.folder / "out/secrets").stat().st_mode & 0o777, 0o600)

    def test_the_tls_that_was_asked_for_stays(self) -> None:
        self.bring_secrets("smtp.isp.example us:p\n", "smtp_tls_security_level = encrypt\n")
        self.assertIn("smtp.isp.example:587 tls required login relayhost", self.rules)
        self.assertIs(self.fate("smtp_sasl_auth_enable"), SettingFate.TRANSLATED)

    def test_no_password(self) -> None:
        self.bring_secrets("elsewhere.example us:p\n")
        self.assertNotIn("login", self.rules.replace("accept login any", ""))
        self.assertNotIn(Path("secrets"), self.written.files)
        self.assertIs(self.fate("smtp_sasl_auth_enable"), SettingFate.LOST)


def _statements(conf: str) -> list[str]:
    return [line for line in conf.splitlines() if not line.startswith("#")]
