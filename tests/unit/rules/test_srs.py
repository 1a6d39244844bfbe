"""The scheme itself: what goes in comes out, and nothing else does."""

from __future__ import annotations

import unittest
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.address import AddressError, Mailbox, is_srs
from relayd.rules.srs import (
    DAY,
    MAX_MAILBOX,
    ExpiredError,
    ForgedError,
    MalformedError,
    Scheme,
    SrsError,
    TooLongError,
    days_since,
    stamp,
)

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()
OURS = Scheme("srs.example.com", (b"tops3cr3t",))

# What PostSRSd 1.10 makes with the same key.
GOLDEN = {
    "bob@example.net": "SRS0=jKDv=JL=example.net=bob",
    "BoB@Example.NET": "SRS0=jKDv=JL=Example.NET=BoB",
    "u=v@e.example": "SRS0=0DuR=JL=e.example=u=v",
    "SRS0junk@x.example": "SRS0=I1Ay=JL=x.example=SRS0junk",
    "SRS0=abcd=AA=x.example=u@f.example": "SRS1=ZZgc=f.example==abcd=AA=x.example=u",
    "srs0+abcd=AA=x.example=u@f.example": "SRS1=BJtO=f.example=+abcd=AA=x.example=u",
    "SRS0=only@x.example": "SRS1=8spE=x.example==only",
    "SRS1=abcd=x.example==hash=TT=y.example=u@f.example": (
        "SRS1=T5kF=x.example==hash=TT=y.example=u"
    ),
    "SRS1=abcd=x.example=+hash=TT=y.example=u@f.example": (
        "SRS1=oF5M=x.example=+hash=TT=y.example=u"
    ),
}
JL = (9 * 32 + 11 + 19 * 1024) * DAY + 1.0  # a day whose stamp is JL


def mailbox(text: str) -> Mailbox:
    return Mailbox.parse(text)


ATEXT = "abcxyzABCXYZ0189!#$%&'*+/=?^_`{|}~-"
dot_strings = st.lists(st.text(ATEXT, min_size=1, max_size=12), min_size=1, max_size=3).map(
    ".".join
)
quoted = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
utf8 = st.text("äÖßéжщ日本aB.", min_size=1, max_size=20)
labels = st.text("abcXYZ019", min_size=1, max_size=12)
domains = st.one_of(
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["straße.example", "日本.example", "[192.0.2.1]", "[IPv6:2001:db8::1]"]),
)
senders = st.builds(Mailbox, st.one_of(dot_strings, quoted, utf8), domains)
times = st.floats(min_value=0, max_value=4e9)


class Properties(unittest.TestCase):
    @settings(deadline=None)
    @given(senders, times, st.integers(0, 21))
    def test_what_goes_in_comes_out_for_21_days(
        self, sender: Mailbox, now: float, days: int
    ) -> None:
        rewritten = OURS.forward(sender, now)
        self.assertEqual(Mailbox.parse(str(rewritten)), rewritten)  # it can stand in a path
        self.assertTrue(OURS.holds(rewritten))
        back = OURS.reverse(rewritten, now // DAY * DAY + days * DAY)
        if is_srs(sender.local):
            self.assertEqual(back.local[4:], sender.local[4:])
        else:
            self.assertEqual(back.local, sender.local)
        self.assertEqual(back.domain_key, sender.domain_key)

    @settings(deadline=None)
    @given(senders, times, st.integers(22, 1023))
    def test_no_stamp_of_another_day_is_good(self, sender: Mailbox, now: float, days: int) -> None:
        if is_srs(sender.local):
            return
        rewritten = OURS.forward(sender, now)
        self.assertRaises(ExpiredError, OURS.reverse, rewritten, now // DAY * DAY + days * DAY)

    @settings(deadline=None)
    @given(senders, st.data())
    def test_any_character_changed_or_missing_is_refused(
        self, sender: Mailbox, data: st.DataObject
    ) -> None:
        local = OURS.forward(sender, NOW).local
        at = data.draw(st.integers(0, len(local) - 1))
        there = local[at]
        into = data.draw(
            st.one_of(
                st.just(""),
                st.characters(min_codepoint=0x20, max_codepoint=0x2FFF),
                st.sampled_from("=+-ABCabc019/"),
            )
        )
        if there.encode().lower() == into.encode().lower():
            return  # the case of letters may change on the way
        if at == 4 and into in ("-", "+", "="):
            return  # so may the first separator, which the hash does not know
        changed = Mailbox(local[:at] + into + local[at + 1 :], OURS.domain)
        if OURS.holds(changed):
            self.assertRaises(SrsError, OURS.reverse, changed, NOW)

    @settings(deadline=None)
    @given(st.text(max_size=60), st.sampled_from(["SRS0=", "SRS1=", "srs0+", "SRS1-", ""]))
    def test_whatever_comes_is_refused_in_words(self, text: str, tag: str) -> None:
        with self.assertRaises(SrsError) as caught:
            OURS.reverse(Mailbox(tag + text, OURS.domain), NOW)
        self.assertTrue(str(caught.exception).isprintable())

    @settings(deadline=None)
    @given(times)
    def test_stamps_count_days(self, now: float) -> None:
        self.assertEqual(days_since(stamp(now), now), 0)
        self.assertEqual(days_since(stamp(now), now + 5 * DAY), 5)
        self.assertEqual(days_since(stamp(now).lower(), now - DAY), 1023)


class Golden(unittest.TestCase):
    def test_same_as_postsrsd(self) -> None:
        self.assertEqual(stamp(JL), "JL")
        for sender, local in GOLDEN.items():
            rewritten = OURS.forward(mailbox(sender), JL)
            self.assertEqual(str(rewritten), f"{local}@srs.example.com")

    def test_dots_that_need_quotes_come_back_whatever_a_hop_makes_of_the_quotes(self) -> None:
        for local in ("a..b", ".a", "a."):
            sender = Mailbox.parse(f"{local}@docomo.example")
            ours = OURS.forward(sender, NOW)
            for text in (str(ours), str(ours).replace('"', "")):
                self.assertEqual(OURS.reverse(Mailbox.parse(text), NOW), sender)

    def test_quoted_and_utf8_local_parts(self) -> None:
        spaced = OURS.forward(mailbox('"a b"@example.net'), JL)
        self.assertEqual(str(spaced), '"SRS0=d+yC=JL=example.net=a b"@srs.example.com')
        self.assertEqual(OURS.reverse(mailbox(str(spaced)), JL), mailbox('"a b"@example.net'))
        utf8 = OURS.forward(mailbox("jürgen@example.net"), JL)
        self.assertEqual(str(utf8), "SRS0=s/3I=JL=example.net=jürgen@srs.example.com")
        self.assertTrue(utf8.needs_smtputf8)

    def test_domain_goes_in_as_a_labels(self) -> None:
        rewritten = OURS.forward(mailbox("bob@straße.example"), NOW)
        self.assertIn("=xn--strae-oqa.example=bob", rewritten.local)
        self.assertFalse(rewritten.needs_smtputf8)


class Tricks(unittest.TestCase):
    def refused(self, error: type[SrsError], local: str, now: float = JL) -> None:
        with self.assertRaises(error):
            OURS.reverse(Mailbox(local, "srs.example.com"), now)

    def test_case_may_change_on_the_way(self) -> None:
        for spelt in (str.lower, str.upper):
            local = spelt("SRS0=jKDv=JL=example.net=bob")
            back = OURS.reverse(Mailbox(local, "SRS.Example.COM"), JL)
            self.assertEqual(back.key, "bob@example.net")

    def test_first_separator_is_any_of_three(self) -> None:
        for separator in "=+-":
            local = f"SRS0{separator}jKDv=JL=example.net=bob"
            self.assertEqual(OURS.reverse(Mailbox(local, OURS.domain), JL).local, "bob")

    def test_forged(self) -> None:
        for local in (
            "SRS0=AAAA=JL=example.net=bob",
            "SRS0==JL=example.net=bob",
            "SRS0=jKD=JL=example.net=bob",  # too short to be a proof
            "SRS0=jKDvA=JL=example.net=bob",
            "SRS0=jKDv=JM=example.net=bob",
            "SRS0=jKDv=JL=example.org=bob",
            "SRS0=jKDv=JL=example.net=alice",
            "SRS1=AAAA=f.example==abcd=AA=x.example=u",
            "SRS1=ZZgc=g.example==abcd=AA=x.example=u",
            "SRS1=ZZgc=f.example=+abcd=AA=x.example=u",
        ):
            self.refused(ForgedError, local)

    def test_letters_that_only_unicode_folds(self) -> None:
        self.refused(ForgedError, "SRS0=j\u212aDv=JL=example.net=bob")  # the sign for kelvin
        self.assertFalse(is_srs("\u017fR\u017f0=jKDv=JL=example.net=bob"))  # long s

    def test_malformed(self) -> None:
        for local in ("SRS0=", "SRS0=a", "SRS0=a=b=c", "SRS1=a=b=c", "SRS1=a=b", "bob", "SRS2=a"):
            self.refused(MalformedError, local)

    def test_signed_but_no_mailbox(self) -> None:
        for domain in ("exa mple", "", "x..y", "[300.1.1.1]"):
            signed = OURS._hash(OURS.keys[0], "JL", domain, "bob")[:4]
            self.refused(MalformedError, f"SRS0={signed}=JL={domain}=bob")
        signed = OURS._hash(OURS.keys[0], "??", "x.example", "bob")[:4]
        self.refused(MalformedError, f"SRS0={signed}=??=x.example=bob")
        signed = OURS._hash(OURS.keys[0], "\u00df", "x.example", "bob")[:4]
        self.refused(MalformedError, f"SRS0={signed}=\u00df=x.example=bob")

    def test_signed_but_an_address_of_ours_again(self) -> None:
        inner = "SRS0=jKDv=JL=example.net=bob"
        signed = OURS._hash(OURS.keys[0], "JL", OURS.domain, inner)[:4]
        self.refused(MalformedError, f"SRS0={signed}=JL={OURS.domain}={inner}")

    def test_stamp_of_the_future(self) -> None:
        self.refused(ExpiredError, "SRS0=jKDv=JL=example.net=bob", JL - DAY)

    def test_last_good_day(self) -> None:
        local = "SRS0=jKDv=JL=example.net=bob"
        OURS.reverse(Mailbox(local, OURS.domain), JL + 21 * DAY)
        self.refused(ExpiredError, local, JL + 22 * DAY)

    def test_local_part_longer_than_64_octets(self) -> None:
        sender = Mailbox("x" * 64, "bounces.example.net")
        rewritten = OURS.forward(sender, NOW)
        self.assertGreater(len(rewritten.local), 64)
        self.assertEqual(Mailbox.parse(str(rewritten)), rewritten)
        self.assertEqual(OURS.reverse(rewritten, NOW), sender)
        self.assertRaises(AddressError, Mailbox.parse, "x" * 251 + "@example.net")

    def test_longer_than_a_path(self) -> None:
        longest = Mailbox("x" * 64, ".".join(["y" * 50] * 3))
        self.assertLessEqual(len(str(OURS.forward(longest, NOW))), MAX_MAILBOX)
        sender = Mailbox("x" * 64, ".".join(["y" * 50] * 4))
        self.assertRaises(TooLongError, OURS.forward, sender, NOW)


class Wrapping(unittest.TestCase):
    """Three relays, one after the other."""

    def setUp(self) -> None:
        self.first = Scheme("one.example", (b"first",))
        self.second = Scheme("two.example", (b"second",))
        self.third = Scheme("three.example", (b"third",))
        self.bob = mailbox("bob@example.net")

    def test_report_takes_two_steps_back(self) -> None:
        one = self.first.forward(self.bob, NOW)
        two = self.second.forward(one, NOW)
        three = self.third.forward(two, NOW)
        self.assertTrue(two.local.startswith("SRS1="))
        self.assertEqual(len(three.local), len(two.local))  # it does not grow any more
        back = self.third.reverse(three, NOW)
        self.assertEqual(back, one)
        self.assertEqual(self.first.reverse(back, NOW), self.bob)

    def test_mail_that_comes_by_twice(self) -> None:
        again = self.first.forward(self.second.forward(self.first.forward(self.bob, NOW), NOW), NOW)
        self.assertEqual(self.first.reverse(again, NOW), self.bob)
        self.assertRaises(ExpiredError, self.first.reverse, again, NOW + 22 * DAY)

    def test_srs1_that_is_none_is_wrapped_like_any_other(self) -> None:
        odd = mailbox("SRS1=junk@x.example")
        rewritten = self.first.forward(odd, NOW)
        self.assertTrue(rewritten.local.startswith("SRS0="))
        self.assertEqual(self.first.reverse(rewritten, NOW), odd)


class Keys(unittest.TestCase):
    def test_first_signs_and_all_verify(self) -> None:
        bob = mailbox("bob@example.net")
        old, new = Scheme("srs.example.com", (b"old",)), Scheme("srs.example.com", (b"new", b"old"))
        self.assertEqual(new.reverse(old.forward(bob, NOW), NOW), bob)
        self.assertEqual(new.forward(bob, NOW), Scheme(old.domain, (b"new",)).forward(bob, NOW))
        self.assertRaises(ForgedError, old.reverse, new.forward(bob, NOW), NOW)

    def test_longer_hashes(self) -> None:
        bob = mailbox("bob@example.net")
        short, long = OURS, Scheme(OURS.domain, OURS.keys, 10)
        self.assertEqual(len(long.forward(bob, NOW).local), len(short.forward(bob, NOW).local) + 6)
        self.assertEqual(short.reverse(long.forward(bob, NOW), NOW), bob)
        self.assertRaises(ForgedError, long.reverse, short.forward(bob, NOW), NOW)

    def test_a_key_says_how_long_its_hashes_are(self) -> None:
        bob = mailbox("bob@example.net")
        key, plain = b"hash-length-8:secret", OURS.keys[0]
        new = Scheme(OURS.domain, (key, plain))
        made = new.forward(bob, NOW)
        self.assertEqual(len(made.local.split("=")[1]), 8)
        self.assertEqual(new.reverse(made, NOW), bob)
        # what the old key made stays good, at its own length
        self.assertEqual(new.reverse(OURS.forward(bob, NOW), NOW), bob)
        # all of the line is the key, as others have it who read the same file
        self.assertEqual(Scheme(OURS.domain, (key,), 10).forward(bob, NOW).local.split("=")[1][:8],
                         made.local.split("=")[1])  # fmt: skip
        # and a guess at four characters of the new one is worth nothing
        tag, given, *rest = made.local.split("=")
        for length in range(8):
            short = Mailbox("=".join((tag, given[:length], *rest)), made.domain)
            self.assertRaises(ForgedError, Scheme(OURS.domain, (key,)).reverse, short, NOW)
        srs1 = new.forward(mailbox("SRS0=abcd=AA=x.example=u@other.example"), NOW)
        self.assertEqual(len(srs1.local.split("=")[1]), 8)

    def test_keys_are_not_shown(self) -> None:
        self.assertNotIn("tops3cr3t", repr(OURS))
