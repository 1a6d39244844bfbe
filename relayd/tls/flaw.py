"""What was wrong with TLS at a next hop, and by which policy, in the words of RFC 8460."""

from __future__ import annotations

import enum

from relayd.mail.value import dataclass


class Flaw(enum.StrEnum):
    """Section 4.3: the result types."""

    NO_STARTTLS = "starttls-not-supported"
    WRONG_NAME = "certificate-host-mismatch"
    EXPIRED = "certificate-expired"
    NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION = "validation-failure"  # anything else
    TLSA = "tlsa-invalid"
    DNSSEC = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"
    STS_FETCH = "sts-policy-fetch-error"
    STS_INVALID = "sts-policy-invalid"
    STS_WEBPKI = "sts-webpki-invalid"


class PolicyKind(enum.StrEnum):
    """Section 4.4: the policy types."""

    NONE = "no-policy-found"
    TLSA = "tlsa"
    STS = "sts"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a domain publishes about TLS (section 4.4)."""

    domain: str  # of the recipients
    kind: PolicyKind = PolicyKind.NONE
    strings: tuple[str, ...] = ()  # as published
    mx: tuple[str, ...] = ()  # patterns of host names, with STS


@dataclass(frozen=True, slots=True)
class Failure:
    """A session that did not come to what the policy wants, or would want if it were in force."""

    flaw: Flaw
    why: str = ""
    host: str = ""
    address: str = ""  # of the host
    sender: str = ""  # our own address
