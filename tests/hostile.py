"""200 texts that somebody could write to do harm where others read them."""

from __future__ import annotations

_FRAGMENTS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)", "javascript:alert(1)", "</td></table><h1>gone</h1>", "<!--", "-->",
    "]]>", "<![CDATA[", "<?php", "&lt;script&gt;", "&#60;b&#62;", "&", "&amp;amp;", "\0",
    "\x1b[31m",
    "\u202egpj.exe", "\u2066\u2069", "\ufeff", "\u2028", "\ud7ff", "\ufffe", "</title><script>",
    "</style><b>", "</textarea><b>", "<base href=//evil.example>", "<meta http-equiv=refresh>",
    "<form action=//evil.example>", "<iframe srcdoc='<b>'>", "<a href=data:text/html,x>", "{{7*7}}",
    "${7*7}", "<%= 1 %>", "\r\nSet-Cookie: a=b", "%0d%0aX: y", "<a\tb>", "<\x00script>", "`",
    "=1+1",
)  # fmt: skip


def hostile() -> list[str]:
    """Each alone, doubled, and where an attribute or an element may end; one is very long."""
    forms = ("{}", "{0}{0}", '"{}', "'>{}", "x {} y")
    found = [form.replace("{0}", "{}").replace("{}", each) for each in _FRAGMENTS for form in forms]
    return [*found[:199], "<b>" * 200]
