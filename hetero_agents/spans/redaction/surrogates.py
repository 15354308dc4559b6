"""What stands in the place of a personal value: of the same kind and form, and always the same for the same person.

A surrogate follows from a secret key, the scope (a subject, or a run) and the value, by HMAC-SHA256. So nothing
needs to be remembered, other processes choose the same, and without the key none leads back to its value.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import random
import re
import string
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from faker import Faker

PSEUDONYM: Final = "PSEUDONYM"
"""The kind of identifiers: 16 hexadecimal digits stand for one, the same in all scopes."""

_NUMBERS = {
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "US_SSN",
    "US_ITIN",
    "UK_NINO",
    "UK_NHS",
    "US_BANK_NUMBER",
    "CRYPTO",
}

Maker = Callable[[str, random.Random], str]
"""Makes a surrogate of a value with dice that always fall the same way for it."""

_TITLES = {"mr", "mrs", "ms", "miss", "mx", "dr", "prof", "sir", "dame", "jr", "sr", "phd"}
_MONTHS = [name.lower() for name in calendar.month_name[1:]]
_WORD = re.compile(r"[^\W\d_]+")
_PREFIX = re.compile(r"(?:[A-Za-z]{2,10}[-_])+|AKIA|ASIA|AIza|eyJ")
"""What says whose key or token it is, for example `sk-` and `ghp_`."""


class Surrogates:
    """Gives the surrogates of one vault."""

    def __init__(self, key: bytes) -> None:
        """Take the key.

        Args:
            key: 32 secret bytes. Whoever has it can check guesses of values; it opens nothing.
        """
        self._key = key

    def of(self, scope: str, kind: str, value: str) -> str:
        """Return the surrogate of a value.

        Args:
            scope: a value is replaced alike within one scope, and otherwise in another.
            kind: Presidio's name of the kind of value, for example `PERSON`; of others only the form is kept.
            value: the value as it was found.
        """
        if kind == PSEUDONYM:
            return self._digest("", kind, value).hex()[:16]
        if kind == "PERSON":  # name by name, so that the whole name and the surname alone go together
            return re.sub(r"[^\W\d_]+|\d+", lambda word: self._name(scope, word[0]), value)
        make = _MAKERS.get(kind, _same_form)
        # A number is the same with other gaps.
        folded = re.sub(r"\W", "", value) if kind in _NUMBERS else " ".join(value.split())
        for attempt in range(100):
            dice = self._dice(scope, kind, f"{folded.casefold()}\0{attempt}")
            try:
                surrogate = make(value, dice)
            except ValueError:  # it has not the form of its kind
                surrogate = _same_form(value, dice)
            if surrogate.casefold() != value.casefold():
                return surrogate
        return "*" * len(value)  # a value of no letters and digits

    def _name(self, scope: str, word: str) -> str:
        if word.casefold() in _TITLES:
            return word
        dice = self._dice(scope, "PERSON", word.casefold())
        if word.isdigit():
            return _same_form(word, dice)
        if len(word) == 1:
            return dice.choice(string.ascii_uppercase)
        names = [name for name in _names() if name.casefold() != word.casefold()]
        return _cased(dice.choice(names), word)

    def _digest(self, *parts: str) -> bytes:
        return hmac.digest(self._key, "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256)

    def _dice(self, *parts: str) -> random.Random:
        return random.Random(self._digest(*parts))


@cache
def _faker() -> Faker:
    from faker import Faker

    return Faker("en_US")


@cache
def _names() -> list[str]:
    from faker.providers.person.en_US import Provider

    return sorted({name for names in (Provider.first_names, Provider.last_names) for name in names if len(name) > 2})


def _cased(new: str, like: str) -> str:
    return new.upper() if like.isupper() else new.lower() if like.islower() else new


def _same_form(value: str, dice: random.Random) -> str:
    """Other letters for letters and other digits for digits."""

    def other(place: int, character: str) -> str:
        if character.isdigit():  # a number may not begin with a nought
            return dice.choice(string.digits if place or character == "0" else string.digits[1:])
        if character.isalpha():
            return dice.choice(string.ascii_uppercase if character.isupper() else string.ascii_lowercase)
        return character

    return "".join(other(place, character) for place, character in enumerate(value))


def _email(value: str, dice: random.Random) -> str:
    names = _names()
    return f"{dice.choice(names)}.{dice.choice(names)}@{dice.choice(('example.com', 'example.org', 'example.net'))}".lower()


def _phone(value: str, dice: random.Random) -> str:
    """The same beginning (a country's, or a nought) and the same gaps."""
    begin = re.match(r"\+1|\+7|\+\d{2}|00\d{2}|[01]", value)
    kept = begin.end() if begin else 0
    return value[:kept] + re.sub(r"\d", lambda digit: dice.choice("23456789"), value[kept:])


def _card(value: str, dice: random.Random) -> str:
    """The same issuer's digit and gaps, and a check digit that is right (Luhn, ISO/IEC 7812-1)."""
    places = [place for place, character in enumerate(value) if character.isdigit()]
    digits = [value[places[0]], *(dice.choice(string.digits) for _ in places[1:])]
    doubled = [int(d) * (2 if (len(digits) - place) % 2 == 0 else 1) for place, d in enumerate(digits[:-1])]
    digits[-1] = str(-sum(d - 9 if d > 9 else d for d in doubled) % 10)
    out = list(value)
    for place, digit in zip(places, digits, strict=True):
        out[place] = digit
    return "".join(out)


def _iban(value: str, dice: random.Random) -> str:
    """The same country and gaps, and check digits that are right (ISO 13616)."""
    form = _same_form(value[4:], dice)
    number = "".join(str(int(c, 36)) for c in re.sub(r"\W", "", form) + value[:2] + "00")
    return f"{value[:2]}{98 - int(number) % 97:02d}{form}"


def _ip(value: str, dice: random.Random) -> str:
    """An address that belongs to nobody: of 198.18.0.0/15 (RFC 2544) or 2001:db8::/32 (RFC 3849)."""
    if ":" in value:
        return "2001:db8:" + ":".join(f"{dice.randrange(1, 65536):x}" for _ in range(6))
    return f"198.{dice.choice((18, 19))}.{dice.randrange(256)}.{dice.randrange(1, 255)}"


def _url(value: str, dice: random.Random) -> str:
    """Another host of example.com, and a path of the same form."""
    parts = urlsplit(value if "://" in value else f"//{value}")
    host = f"{dice.choice(_names()).lower()}.example.com"
    rest = value.split(parts.netloc, 1)[-1] if parts.netloc else ""
    return (f"{parts.scheme}://" if parts.scheme else "") + host + _same_form(rest, dice)


def _date(value: str, dice: random.Random) -> str:
    """The same form: month names stay month names, days days, years years."""

    def number(found: re.Match[str]) -> str:
        digits = found[0]
        if len(digits) > 2:
            return str(dice.randrange(1930, 2010)) if len(digits) == 4 else _same_form(digits, dice)
        low, high = (1, 13) if int(digits) <= 12 else (13, 29)
        return str(dice.randrange(low, min(high, 10) if len(digits) == 1 else high)).zfill(len(digits))

    def month(found: re.Match[str]) -> str:
        word = found[0].lower()
        short = len(word) == 3
        if not any(name == word or (short and name.startswith(word)) for name in _MONTHS):
            return found[0]
        name = dice.choice(_MONTHS)
        return _cased((name[:3] if short else name).capitalize(), found[0])

    return _WORD.sub(month, re.sub(r"\d+", number, value))


def _place(value: str, dice: random.Random) -> str:
    """A town for a place; with numbers in it, an address, or digits for a postal code."""
    fake = _faker()
    fake.seed_instance(dice.getrandbits(64))
    if not any(c.isdigit() for c in value):
        return _cased(fake.city(), value)
    if not re.search(r"[^\W\d_]{3}", value):
        return _same_form(value, dice)
    return f"{fake.street_address()}, {fake.city()}" if "," in value or "\n" in value else fake.street_address()


def _secret(value: str, dice: random.Random) -> str:
    kept = found.end() if (found := _PREFIX.match(value)) else 0
    return value[:kept] + _same_form(value[kept:], dice)


_MAKERS: dict[str, Maker] = {
    "EMAIL_ADDRESS": _email,
    "PHONE_NUMBER": _phone,
    "CREDIT_CARD": _card,
    "IBAN_CODE": _iban,
    "IP_ADDRESS": _ip,
    "URL": _url,
    "DATE_OF_BIRTH": _date,
    "LOCATION": _place,
    "SECRET": _secret,
}
