"""A mailbox, `local-part@domain`, by RFC 5321 section 4.1.2 and RFC 6531 section 3.3."""

from __future__ import annotations

import functools
import ipaddress
import re

import idna

from relayd.mail.value import dataclass

# octets. RFC 5321 section 4.5.3.1.1 has 64, and asks for no limit where none is needed (4.5.3.1):
# senders that carry another mailbox inside (SRS, VERP) are longer, and refusing them loses mail.
# With a domain it still fits into a path (section 4.5.3.1.3).
MAX_LOCAL = 250
MAX_DOMAIN = 255  # octets, RFC 5321 section 4.5.3.1.2
MAX_LABEL = 63  # octets, RFC 1035 section 2.3.4
_MAX_PUNYCODE = MAX_LABEL - len("xn--")

# UTF-8 of RFC 6531 section 3.3, but for C1 controls and what else ends a line for some readers
_UTF8 = r"\u00a0-\u2027\u202a-\U0010ffff"
# atext of RFC 5322 section 3.2.3, widened to it
_ATEXT = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~\-{_UTF8}]"
# Dot-string = Atom *("." Atom)
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*\Z")
# ... and as it is met: dots at its ends and side by side, which the book has in quotes alone
_DOTS_AND_ATOMS = re.compile(rf"(?:{_ATEXT}|\.)+\Z")
# Quoted-string = DQUOTE *(qtextSMTP / quoted-pairSMTP) DQUOTE
_QUOTED = rf'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e{_UTF8}]|\\[\x20-\x7e])*"'
_QUOTED_STRING = re.compile(_QUOTED)
# obs-local-part of RFC 5322 section 4.4, and the quoted pairs outside quotes of RFC 821
_OBSOLETE = re.compile(rf"((?:{_QUOTED}|{_ATEXT}|\.|\\[\x20-\x7e])+)@")
# Local-part = Dot-string / Quoted-string
LOCAL_PART = rf"(?:{_ATEXT}+(?:\.{_ATEXT}+)*|{_QUOTED})"
# sub-domain = Let-dig [Ldh-str]; the underscore is not in the book, but is met in the wild
_SUB_DOMAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]*[A-Za-z0-9_])?\Z")
# what UTS 46 section 4 takes for a dot
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
_QUOTED_PAIR = re.compile(r"\\(.)")
_QUOTING = re.compile(r'"|\\(.)')
# the first separator is - + or =, by whoever made the address
_SRS = re.compile(r"SRS[01][-+=]", re.IGNORECASE | re.ASCII)
_TO_QUOTE = re.compile(r'(["\\])')
_KNOWN = 2048  # domains and local parts that are met again all day: as many are remembered


class AddressError(ValueError):
    """The text is no mailbox; `str(error)` says why in words fit for a reply."""


@functools.lru_cache(_KNOWN)
def fold_domain(domain: str) -> str:
    """The one spelling of a domain that comparisons use: lower-case A-labels (RFC 5890).

    A domain that IDNA refuses raises AddressError; so does one with U-labels that is longer than
    any A-label could be, before IDNA looks at it: some versions take very long over those.
    """
    folded = domain.lower()
    if folded.isascii():
        return folded
    # a U-label has fewer characters than its A-label
    if len(folded) > MAX_DOMAIN:
        raise AddressError(f"domain longer than {MAX_DOMAIN} octets")
    if max(map(len, _DOTS.split(folded))) > MAX_LABEL:
        raise AddressError(f"domain label longer than {MAX_LABEL} octets")
    a_labels, _, why = _labels(folded)
    if why:
        raise AddressError(why)
    return a_labels


@functools.lru_cache(_KNOWN)
def spellings(domain: str) -> tuple[str, ...]:
    """How mail may name a domain, lower-case: in A-labels, and in U-labels if it has some.

    A domain that IDNA refuses has the one that it came in.
    """
    try:
        folded = fold_domain(domain)
        if "xn--" not in folded:
            return (folded,)
        return folded, idna.decode(folded)
    except ValueError:  # AddressError, and all that IDNA has
        return (domain.lower(),)


@functools.lru_cache(maxsize=2048)
def _labels(domain: str) -> tuple[str, str, str]:
    """A domain with U-labels of bounded length in A-labels, in U-labels, or else why not.

    IDNA may take a millisecond, and one command asks several times: an error is no exception here
    so that it is remembered too. Labels that come out too long are known before the dear part.
    """
    try:
        mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
        for label in mapped.split("."):
            if not label.isascii() and len(label.encode("punycode")) > _MAX_PUNYCODE:
                return "", "", f"domain label longer than {MAX_LABEL} octets"
        return idna.encode(mapped).decode("ascii"), mapped, ""
    except idna.IDNAError as error:
        return "", "", f"domain is not a valid internationalized name: {error}"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One addressee. `local` is unquoted and its case is kept; `domain` is as it was written.

    What `parse` reads has either A-labels or U-labels proper, as `spellings` has them.

    An empty `domain` is only ever the bare `Postmaster` of RFC 5321 section 4.1.1.3.
    """

    local: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Mailbox:
        """Read the whole of `text` as `local-part@domain`; raises AddressError."""
        mailbox, rest = cls.parse_prefix(text)
        if rest:
            raise AddressError(f"unexpected {rest[:20]!r} after the address")
        return mailbox

    @classmethod
    def parse_prefix(cls, text: str) -> tuple[Mailbox, str]:
        """Read a mailbox at the start of `text`, up to `>`; returns it and what is left.

        What is only met in the wild is read as the mailbox that is meant: unquoted dots that need
        quotes, needless quotes, a dot behind the domain, capitals in U-labels.
        """
        try:
            if text.startswith('"'):
                local, at = _quoted_local(text)
            else:
                at = text.find("@")
                if at < 0:
                    raise AddressError("no @ in the address")
                local = text[:at]
                check_local(local, quoted=False)
        except AddressError:
            match = _OBSOLETE.match(text)
            if match is None:
                raise
            local, at = _QUOTING.sub(r"\1", match[1]), match.end() - 1
            check_local(local, quoted=True)
        end = text.find(">", at)
        domain, rest = (text[at + 1 :], "") if end < 0 else (text[at + 1 : end], text[end:])
        try:
            check_domain(domain)
        except AddressError:
            if not domain.endswith("."):
                raise
            domain = domain[:-1]
            check_domain(domain)
        if not domain.isascii():
            _, domain, _ = _labels(domain.lower())
        return cls(local, domain), rest

    @property
    def key(self) -> str:
        """What rules and tables compare: case-folded local part, folded domain."""
        return f"{self.local.lower()}@{fold_domain(self.domain)}"

    @property
    def domain_key(self) -> str:
        """The folded domain (see fold_domain)."""
        return fold_domain(self.domain)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a SMTPUTF8 transaction can carry it (RFC 6531 section 3.2).

        A domain in U-labels alone does not: it has an A-label spelling.
        """
        return not self.local.isascii()

    @property
    def ascii(self) -> str:
        """The address with its domain in A-labels, for a peer without SMTPUTF8."""
        local = _local_text(self.local)
        return f"{local}@{fold_domain(self.domain)}" if self.domain else local

    def __str__(self) -> str:
        local = _local_text(self.local)
        return f"{local}@{self.domain}" if self.domain else local


def _quoted_local(text: str) -> tuple[str, int]:
    """The local part that is one quoted string, without its quotes, and where its @ stands."""
    match = _QUOTED_STRING.match(text)
    if match is None:
        raise AddressError("unterminated or malformed quoted local part")
    at = match.end()
    if text[at : at + 1] != "@":
        raise AddressError("no @ after the quoted local part")
    local = _QUOTED_PAIR.sub(r"\1", text[1 : at - 1])
    check_local(local, quoted=True)
    return local, at


@functools.lru_cache(_KNOWN)
def _local_text(local: str) -> str:
    """The local part as it is written, in quotes where it needs them."""
    if _DOT_STRING.match(local):
        return local
    return '"' + _TO_QUOTE.sub(r"\\\1", local) + '"'


ReversePath = Mailbox | None
"""A reverse-path; None is the null one, `<>` (RFC 5321 section 4.5.5)."""


def path_text(path: ReversePath) -> str:
    """The mailbox without its angle brackets; empty for the null reverse-path."""
    return "" if path is None else str(path)


def parse_path_text(text: str) -> ReversePath:
    """The inverse of path_text."""
    if not text:
        return None
    return Mailbox.parse(text) if "@" in text else Mailbox(text, "")


def is_srs(local: str) -> bool:
    """Whether the local part is tagged as that of a rewritten sender, by us or others."""
    return _SRS.match(local) is not None


def check_local(local: str, *, quoted: bool) -> None:
    """Raise AddressError unless `local` (already unquoted) may stand before an @."""
    if not local and not quoted:
        raise AddressError("empty local part")
    if len(local.encode("utf-8", "surrogatepass")) > MAX_LOCAL:
        raise AddressError(f"local part longer than {MAX_LOCAL} octets")
    if not quoted and not _DOTS_AND_ATOMS.match(local):
        raise AddressError("local part has a character that needs quoting")


@functools.lru_cache(_KNOWN)
def check_domain(domain: str) -> None:
    """Raise AddressError unless `domain` is a domain name or an address literal."""
    if domain.startswith("["):
        check_literal(domain)
        return
    if not domain:
        raise AddressError("empty domain")
    folded = fold_domain(domain)
    if len(folded) > MAX_DOMAIN:
        raise AddressError(f"domain longer than {MAX_DOMAIN} octets")
    for label in folded.split("."):
        if len(label) > MAX_LABEL:
            raise AddressError(f"domain label longer than {MAX_LABEL} octets")
        if not _SUB_DOMAIN.match(label):
            raise AddressError("malformed domain")


def check_literal(domain: str) -> None:
    """Raise AddressError unless `domain` is an address literal (RFC 5321 section 4.1.3)."""
    literal_address(domain)


def literal_address(domain: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address inside `[192.0.2.1]` or `[IPv6:2001:db8::1]`; raises AddressError."""
    if not (domain.startswith("[") and domain.endswith("]")):
        raise AddressError("malformed address literal")
    inside = domain[1:-1]
    try:
        if inside[:5].lower() == "ipv6:":
            return ipaddress.IPv6Address(inside[5:])
        return ipaddress.IPv4Address(inside)
    except ValueError:
        raise AddressError("malformed address literal") from None
