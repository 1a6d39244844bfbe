"""The statement `oauth`: who gives tokens for a login at a next hop."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from relayd.login.initiator import Secret
from relayd.login.oauth import CLIENT, REFRESH, Provider
from relayd.mail.address import AddressError, check_domain
from relayd.rules.language.source import Complaint, Place, Problem, did_you_mean, one_of
from relayd.rules.language.words import Words

_URL = "the URL of an endpoint, https://..."


def oauth(words: Words) -> Provider:
    """`NAME user USER token URL [device URL] [client ID] [scope TEXT] [grant GRANT]`, any order."""
    name = words.name("the name of the login")
    given: dict[str, str] = {}
    first = words.last
    while words.peek() is not None:
        option = words.choice(_OPTIONS, one_of(list(_OPTIONS)))
        if option in given:
            raise words.complain(f'"{option}" was said already', "expected it once")
        given[option] = _OPTIONS[option](words)
    for option, example in (("user", "USER"), ("token", "https://...")):
        if option not in given:
            what = f'oauth {name} says no "{option}"'
            raise words.complain(what, f'expected "{option} {example}"', first)
    grant = given.get("grant", REFRESH)
    if grant == REFRESH and "device" not in given:
        hint = f'expected "device https://...", or "grant {CLIENT}"'
        raise words.complain(f"oauth {name} says no way to enrol", hint, first)
    if grant == CLIENT and "device" in given:
        what = f"oauth {name} has nobody to enter a code"
        raise words.complain(what, f'expected no "device" with "grant {CLIENT}"', first)
    return Provider(
        name=name,
        user=given["user"],
        token_url=given["token"],
        device_url=given.get("device", ""),
        client=given.get("client", ""),
        scope=given.get("scope", ""),
        grant=grant,
    )


def _text(noun: str, expected: str) -> Callable[[Words], str]:
    def read(words: Words) -> str:
        text = words.next(expected).text
        if not text.strip() or not text.isprintable() or " " in text:
            raise words.complain(f'"{text}" is no {noun}', f"expected {expected}")
        return text

    return read


def _scope(words: Words) -> str:
    text = words.next("one or more scopes, in quotes").text
    if not text.strip() or not text.isascii() or not text.isprintable():
        raise words.complain(f'"{text}" is no scope', "expected ASCII (RFC 6749 section 3.3)")
    return " ".join(text.split())


def _url(words: Words) -> str:
    """Over HTTPS, except to this machine."""
    text = words.next(_URL).text
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise words.complain(f'"{text}" is no URL: {error}', f"expected {_URL}") from None
    good = text.isascii() and text.isprintable() and " " not in text and port != 0
    if parts.scheme not in ("https", "http") or not host or not good:
        raise words.complain(f'"{text}" is no URL', f"expected {_URL}")
    if parts.username is not None or parts.password is not None or parts.fragment:
        what = "the URL says more than where the endpoint is"
        raise words.complain(what, "expected no user, password or fragment in it")
    if parts.scheme == "http" and not _is_loopback(host):
        what = f'"{text}" would carry tokens in the clear'
        raise words.complain(what, f'expected "https{text[4:]}"')
    if not _is_address(host):
        try:
            check_domain(host)
        except AddressError as error:
            raise words.complain(f'"{host}" is no host name: {error}', f"expected {_URL}") from None
    return text


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _grant(words: Words) -> str:
    return words.choice((REFRESH, CLIENT), one_of((REFRESH, CLIENT)))


_OPTIONS: Mapping[str, Callable[[Words], str]] = {
    "user": _text("user", "a name such as ann@example.com"),
    "token": _url,
    "device": _url,
    "client": _text("client ID", "one as the provider gave it"),
    "scope": _scope,
    "grant": _grant,
}


def with_secrets(
    given: Iterable[tuple[Provider, Place]], secrets: Mapping[str, Secret] | None
) -> tuple[dict[str, Provider], list[Problem]]:
    """The providers by name, with the client of the secrets file where it has a line for them.

    And what is wrong: no client, or two of them; or two providers of one name.
    """
    found: dict[str, Provider] = {}
    places: dict[str, Place] = {}
    problems = []
    for provider, place in given:
        name = provider.name
        if name in found:
            what = f"there is an oauth {name} already, at {places[name]}"
            problems.append(Problem(place, what, "expected another name"))
            continue
        places[name] = place
        try:
            found[name] = _with_client(provider, (secrets or {}).get(name), secrets, place)
        except Complaint as complaint:
            problems.append(complaint.problem)
            found[name] = provider  # whoever names it need not be told
    return found, problems


def _with_client(
    provider: Provider, secret: Secret | None, secrets: Mapping[str, Secret] | None, place: Place
) -> Provider:
    name = provider.name
    if secret is not None and provider.client:
        what = f"the client of oauth {name} is said twice, here and in the secrets file"
        raise Complaint(place, what, "expected it once: with a secret, there")
    if secret is not None:
        return dataclasses.replace(provider, client=secret.user, secret=secret.password)
    line = f'a line "{name} CLIENT-ID CLIENT-SECRET" in the secrets file'
    if provider.grant == CLIENT:
        raise Complaint(place, f"oauth {name} has no secret to prove who it is", f"expected {line}")
    if not provider.client:
        hint = did_you_mean(name, secrets or ()) or f'expected "client ID", or {line}'
        raise Complaint(place, f"oauth {name} has no client", hint)
    return provider
