"""Says what authheaders (RFC 7489) makes of records. Nothing of ours is used."""

import functools
import json
import sys
from typing import Any

import authheaders  # type: ignore[import-not-found, import-untyped, unused-ignore]

dmarc_lookup: Any = sys.modules["authheaders.dmarc_lookup"]
authheaders.get_org_domain = dmarc_lookup.get_org_domain = functools.lru_cache(10_000)(
    dmarc_lookup.get_org_domain
)


class Passed:
    """A result that counts."""

    result = "pass"

    def __init__(self, domain: str) -> None:
        self.smtp_mailfrom, self.header_d = f"ann@{domain}", domain


def answer(case: dict[str, Any]) -> str:
    """`pass`, what the author's domain asks for, or empty: no policy."""

    def record(name: str) -> "str | None":
        texts = case["records"].get(name.removeprefix("_dmarc."), ())
        texts = [text for text in texts if text.startswith("v=DMARC1")]
        if len(texts) > 1:
            texts = [text for text in texts if text[8:].strip().startswith(";")]
        return texts[0] if len(texts) == 1 else None

    policy = ""
    for signed in case["dkim"] or [None]:
        spf = Passed(case["spf"]) if case["spf"] else None
        dkim = signed and Passed(signed)
        try:
            result, _, _, policy = authheaders.dmarc_per_from(case["author"], spf, dkim, record)
        except Exception:  # a tag without a value, in the words of its version
            return "?"
        if result == "pass":
            return "pass"
    return policy if policy in ("", "none", "quarantine", "reject") else "?"


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
