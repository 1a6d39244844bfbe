"""Domain names as text, and as dnspython's values."""

from __future__ import annotations

import dns.exception
import dns.name


def fold_name(text: str) -> str:
    """The one spelling of a name that the cache uses: lower case, no final dot."""
    folded = text.lower()
    return folded[:-1] if folded.endswith(".") and folded != "." else folded


def wire_name(text: str) -> dns.name.Name:
    """`text`, in A-labels, as an absolute name; raises ValueError.

    Unlike in a master file a backslash has no meaning here, and is refused.
    """
    if text == ".":
        return dns.name.root
    if "\\" in text:
        raise ValueError("a backslash in a domain name")
    labels = (text[:-1] if text.endswith(".") else text).split(".")
    if not all(labels):
        raise ValueError("an empty label in a domain name")
    try:
        return dns.name.Name([*(label.encode("ascii") for label in labels), b""])
    except dns.exception.DNSException as error:
        raise ValueError(str(error)) from None


def name_text(name: dns.name.Name) -> str:
    """The inverse of wire_name, but for odd octets, which come escaped."""
    return name.to_text(omit_final_dot=True)
