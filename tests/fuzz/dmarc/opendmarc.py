"""Says what libopendmarc (RFC 7489) makes of records. Nothing of ours is used.

A line: {"author": .., "organization": .., "suffixes": [..], "records": {domain: [text]},
"dkim": [domain], "spf": domain}.
"""

import ctypes
import json
import sys
import tempfile
from typing import Any

WORDS = {14: "", 15: "pass", 16: "reject", 17: "quarantine", 18: "none"}


class Library(ctypes.Structure):
    """OPENDMARC_LIB_T."""

    _fields_ = [  # as ctypes wants it
        ("tld_type", ctypes.c_int),
        ("tld_source_file", ctypes.c_char * 4096),
        ("nscount", ctypes.c_int),
        ("nsaddr_list", ctypes.c_char * 4096),  # and more than it can be
    ]


def main() -> None:
    """Answer until there is nothing more."""
    library = ctypes.CDLL("libopendmarc.so.2")
    library.opendmarc_policy_connect_init.restype = ctypes.c_void_p
    cases = [json.loads(line) for line in sys.stdin]
    with tempfile.NamedTemporaryFile("w", suffix=".dat") as suffixes:
        suffixes.write("\n".join([*cases[0]["suffixes"], ""]))
        suffixes.flush()
        settings = Library(tld_type=1, tld_source_file=suffixes.name.encode())
        library.opendmarc_policy_library_init(ctypes.byref(settings))
        for case in cases:
            print(json.dumps(answer(library, case)), flush=True)


def answer(library: ctypes.CDLL, case: dict[str, Any]) -> str:
    """`pass`, what the author's domain asks for, or empty: no policy."""
    author, organization = case["author"], case["organization"]
    for domain in dict.fromkeys((author, organization)):  # RFC 7489 section 6.6.3
        texts = [text for text in case["records"].get(domain, ()) if text.startswith("v=DMARC1")]
        if len(texts) > 1:
            texts = [text for text in texts if text[8:].strip().startswith(";")]
        if len(texts) == 1:
            break
    else:
        return ""
    context = ctypes.c_void_p(library.opendmarc_policy_connect_init(b"192.0.2.7", 4))
    try:
        library.opendmarc_policy_store_from_domain(context, author.encode())
        for each in case["dkim"]:
            library.opendmarc_policy_store_dkim(context, each.encode(), b"s", 1, None)
        if case["spf"]:
            library.opendmarc_policy_store_spf(context, case["spf"].encode(), 1, 1, None)
        above = None if domain == author else organization.encode()
        library.opendmarc_policy_store_dmarc(context, texts[0].encode(), domain.encode(), above)
        return WORDS[library.opendmarc_get_policy_to_enforce(context)]
    finally:
        library.opendmarc_policy_connect_shutdown(context)


main()
