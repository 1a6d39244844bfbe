"""Files with secrets in relayd.conf: who may read them, what they hold, what is never shown."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from relayd.login.initiator import Secret
from relayd.login.scram import Verifier
from relayd.login.users import line_of

USER = line_of("alice", Verifier(b"salt", 4096, b"s" * 32, b"k" * 32))
HOOK = "hook crm https://crm.example.com/ events any secret file hookkey\n"
BASE = "hostname gw.example.com\nauth-without-tls yes\n"


class SecretFiles(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def load(self, text: str, mode: int = 0o600, **files: str) -> config.Settings:
        for name, content in files.items():
            path = self.folder / name
            path.write_text(content)
            path.chmod(mode)
        path = self.folder / "relayd.conf"
        path.write_text(BASE + text)
        return config.load(path)

    def complaint(self, text: str, mode: int = 0o600, **files: str) -> str:
        with self.assertRaises(config.ConfigErrors) as caught:
            self.load(text, mode, **files)
        return str(caught.exception)

    def test_secrets(self) -> None:
        hop = "next-hop isp smtp smtp.isp.example:587 tls required login isp\n"
        text = "# ours\n\nisp  user-1   two words \nother u p\n"
        site = self.load(f"secrets secrets\n{hop}accept login any\n", secrets=text)
        self.assertEqual(site.secrets["isp"], Secret("user-1", "two words "))
        self.assertEqual(site.next_hops["isp"].login, "isp")
        self.assertEqual(str(site.next_hops["isp"]) + "\n", hop)
        self.assertIn(self.folder / "secrets", site.files)  # `watch` sees it change
        self.assertNotIn("two words", repr(site))

    def test_what_is_wrong_with_secrets(self) -> None:
        hop = "secrets secrets\nnext-hop isp smtp smtp.isp.example login isp\naccept login any\n"
        for mode, text, expected in (
            (0o640, "isp u p\n", "is open to its group (mode 0640); expected e.g. chmod 600"),
            (0o604, "isp u p\n", "is open to others (mode 0604); expected e.g. chmod 600"),
            (0o600, "isp hunter2\n", "line 1 of secrets: expected NAME USER PASSWORD"),
            (0o600, "isp a hunter2\nisp b hunter2\n", "line 2 of secrets: isp has a line already"),
            (0o600, "ips u hunter2\n", 'there is no secret isp; did you mean "ips"?'),
        ):
            with self.subTest(text=text, mode=mode):
                said = self.complaint(hop, mode, secrets=text)
                self.assertIn(expected, said)
                self.assertNotIn("hunter2", said)
        (self.folder / "secrets").write_bytes(b"isp u hunter2\xff\n")
        said = self.complaint(hop)
        self.assertIn("secrets is not UTF-8", said)
        self.assertNotIn("hunter2", said)

    def test_the_example_of_tokens_in_the_docs(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "login.md").read_text()
        [text] = [each for each in page.split("```\n") if "\noauth " in each]
        text += "accept login any\n"
        site = self.load(text, secrets="isp relay-1 hunter2 of ours\n")
        isp = site.oauth["isp"]
        self.assertEqual((isp.client, isp.secret), ("relay-1", "hunter2 of ours"))
        self.assertEqual((isp.user, isp.scope), ("relay@example.com", "smtp.send offline_access"))
        self.assertEqual(isp.token_url, "https://login.isp.example/oauth2/token")
        self.assertEqual(site.next_hops["isp"].login, "isp")
        self.assertNotIn("hunter2", repr(site))
        said = self.complaint(text.replace("scope", "client c scope"))
        self.assertIn("is said twice, here and in the secrets file", said)
        self.assertNotIn("hunter2", said)

    def test_users(self) -> None:
        text = "table people users file users\nlisten 127.0.0.1:0 auth people\naccept login any\n"
        self.load(text, 0o640, users=USER)
        self.assertIn("is open to others (mode 0644)", self.complaint(text, 0o644, users=USER))
        said = self.complaint(text, 0o600, users="alice:hunter2\n")
        self.assertIn("users:1:1", said)
        self.assertNotIn("hunter2", said)

    def test_a_login_needs_a_certificate_or_a_word(self) -> None:
        (self.folder / "users").write_text(USER)
        (self.folder / "users").chmod(0o600)
        path = self.folder / "relayd.conf"
        path.write_text("table p users file users\nlisten 127.0.0.1:0 auth p\naccept login any\n")
        with self.assertRaises(config.ConfigErrors) as caught:
            config.load(path)
        self.assertIn("has no certificate, and so offers no login", str(caught.exception))

    def test_each_line_is_a_key_and_shown_nowhere(self) -> None:
        text = "0123456789abcdef\nwhsec_MDEyMzQ1Njc4OWFiY2RlZi0tLS0=\n\n"
        (hook,) = self.load(HOOK, hookkey=text).hooks
        self.assertEqual(hook.keys, (b"0123456789abcdef", b"0123456789abcdef----"))
        self.assertNotIn("0123456789abcdef", repr(hook))

    def test_a_file_without_a_good_key_is_complained_of_and_not_shown(self) -> None:
        for content, words in (
            ("", "hookkey holds no key"),
            ("whispered\n", "key 1 in hookkey is shorter than 16 octets"),
            ("whsec_whispered!whispered\n", "begins with whsec_, but what follows is no base64"),
            ("whispered-and-long-enough\n" * 6, "hookkey holds 6 keys"),
            ("whispered" * 500, "hookkey is larger than 4096 octets"),
        ):
            told = self.complaint(HOOK, hookkey=content)
            self.assertIn(words, told)
            self.assertNotIn("whispered", told)
        self.assertIn(
            "hookkey is world-readable (mode 0644)", self.complaint(HOOK, 0o644, hookkey="x" * 32)
        )

    def test_two_hooks_of_one_name_are_one_too_many(self) -> None:
        again = "hook crm https://other.example.com/ events any secret file hookkey\n"
        told = self.complaint(HOOK + again, hookkey="x" * 32)
        self.assertIn("relayd.conf:4:1: there is a hook crm already", told)
