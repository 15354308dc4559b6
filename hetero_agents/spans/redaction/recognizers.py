# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The recognizers of personal values: Presidio's, and those that it lacks or that know too few forms."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import tldextract
from phonenumbers.geodata.locale import LOCALE_DATA
from presidio_analyzer import EntityRecognizer, LocalRecognizer, Pattern, PatternRecognizer, RecognizerResult
from presidio_analyzer.predefined_recognizers import (
    CryptoRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    MacAddressRecognizer,
    MedicalLicenseRecognizer,
    NhsRecognizer,
    PhoneRecognizer,
    SpacyRecognizer,
    UsBankRecognizer,
    UsItinRecognizer,
    UsLicenseRecognizer,
    UsPassportRecognizer,
    UsSsnRecognizer,
)

ENTRY_POINTS: Final = "hetero_agents.recognizers"
"""Entry points of this group name functions that return a list of Presidio recognizers."""


def _lines(file: str) -> list[str]:
    """Return the lines of a word list beside this file."""
    return importlib.resources.files("hetero_agents.spans.redaction").joinpath(file).read_text("utf-8").split()


_STREETS = "|".join(_lines("streets.txt"))
"""How streets are called: USPS Publication 28, appendix C1, and the United Kingdom's."""
_STATES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|DC|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|PA|"
    "RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY|AS|FM|GU|MH|MP|PW|PR|VI|AA|AE|AP"
)
_ZIP = rf"\b(?:{_STATES})[ ,]+\d{{5}}(?:-\d{{4}})?\b"
_POSTCODE = r"\b(?:GIR ?0AA|[A-Z]{1,2}\d[A-Z\d]? ?\d[ABD-HJLNP-UW-Z]{2})\b"
"""Of the United Kingdom (BS 7666)."""
_UNIT = r"(?:Apt|Apartment|Suite|Ste|Unit|Flat|Studio|Floor|Room|Box|Building|Bldg|No)\.? ?#? ?\d+\w?"
_NAME = r"\b[A-Z][\w'’.-]{0,40}"
_STREET = rf"\b\d{{1,6}}[A-Za-z]?(?:[ ,]+{_NAME}){{1,4}}?[ ,]+(?i:{_STREETS})\b\.?(?:[ ,\n]+{_UNIT})?"
_BEGIN = rf"(?:{_STREET}|{_UNIT}|\bPSC \d+|\b\d{{1,6}}[A-Za-z]?\b(?=[ ,]+[A-Z])|\bU(?:SNS|SNV|SCGC|SS) {_NAME})"
_BETWEEN = r"(?:(?!(?<!\b(?:St|Ste|Apt|Ave|Rd|Dr|No|Ln|Blvd|Bldg))\. )[^?!:;]){0,80}?"
"""What may stand between a street and its postal code: no end of a sentence."""

_FREQUENT = 3000
"""Surnames that more than half of the people have."""
_TITLE = r"\b(?i:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Sir|Dame)\b\.? "
_CODE_SUFFIXES = set("py sh rs md pl ps so cc ml do zip mov id name info is in as to".split(" "))  # noqa: SIM905
"""Suffixes of hosts that are names of files or words in code far more often."""


def recognizers() -> list[EntityRecognizer]:
    """Return the recognizers of all languages' values: Presidio's, and those that it lacks."""
    presidio = [
        SpacyRecognizer(supported_entities=["PERSON", "LOCATION"]),
        *(make() for make in (CryptoRecognizer, IbanRecognizer, IpRecognizer, MacAddressRecognizer)),
        *(make() for make in (MedicalLicenseRecognizer, NhsRecognizer, UsBankRecognizer, UsItinRecognizer)),
        *(make() for make in (UsLicenseRecognizer, UsPassportRecognizer, UsSsnRecognizer)),
    ]
    own = [_Names(), _Towns(), _Card(), _Email(), _Phone(), _Url(), *_by_patterns()]
    loaded = [r for point in importlib.metadata.entry_points(group=ENTRY_POINTS) for r in point.load()()]
    return [*presidio, *own, *loaded]


def _by_patterns() -> list[EntityRecognizer]:
    countries = "|".join(sorted(map(re.escape, _countries()), key=len, reverse=True))
    return [
        pattern_recognizer(
            "LOCATION",
            {
                "address to a ZIP code": (rf"{_BEGIN}{_BETWEEN}{_ZIP}", 0.8),
                "address to a postcode": (rf"(?:{_BEGIN}{_BETWEEN})?{_POSTCODE}", 0.8),
                "street and number": (_STREET, 0.6),
                "town and ZIP code": (rf"(?:{_NAME}[ ,]+){{1,3}}{_ZIP}", 0.6),
                "country": (rf"\b(?:{countries})\b", 0.6),
            },
        ),
        pattern_recognizer(
            "PERSON",
            {
                "called": (rf"(?i:\b(?:calls? me|called|named|dear)) \K(?-i:{_NAME})(?: {_NAME})?", 0.6),
                "after a title": (rf"{_TITLE}{_NAME}(?: {_NAME}){{0,2}}", 0.7),
                "stated": (
                    rf"(?i:\b(?:sur|maiden |first |last |middle |family )?name(?: on the \w+)?(?: is|'s|:|\?)(?: \w+:)?) \K"
                    rf"(?-i:{_NAME})(?: {_NAME}){{0,2}}",
                    0.6,
                ),
            },
        ),
        pattern_recognizer(
            "DATE_OF_BIRTH",
            {
                "stated": (
                    r"(?i:\b(?:born(?: on)?|birth ?day(?: is| on)?|date of birth|d\.?o\.?b\.?)(?:\W+(?:is|it's|on|was))*)\W*\K"
                    r"(?:\d{1,4}[-/. ]\d{1,2}[-/. ]\d{1,4}|\d{1,2}(?:st|nd|rd|th)? (?:of )?[A-Z][a-z]{2,8}\.?,? \d{4}|"
                    r"[A-Z][a-z]{2,8}\.? \d{1,2}(?:st|nd|rd|th)?,? \d{4})",
                    0.7,
                )
            },
        ),
        pattern_recognizer(
            "MEDICAL_RECORD",
            {
                "stated": (
                    r"(?i:\b(?:MRN|medical record(?: number| no\.?)?|patient (?:id|number|no\.?))\W{1,3}(?:is )?)\K[A-Z]{0,4}-?\d[\d-]{4,12}",
                    0.8,
                )
            },
        ),
        pattern_recognizer(
            "SECRET",
            {
                "key with a known beginning": (
                    r"\b(?:sk|pk|rk)[-_](?:[a-z]+[-_])*[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{22,}|"
                    r"\bglpat-[\w-]{20,}|\bxox[abeprs]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{35}|\bhf_[A-Za-z0-9]{30,}|"
                    r"\bnpm_[A-Za-z0-9]{36}|\bpypi-[\w-]{50,}|\bSG\.[\w-]{16,}\.[\w-]{16,}",
                    0.9,
                ),
                "JSON Web Token": (r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*", 0.9),
                "private key": (
                    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
                    1.0,
                ),
                "stated": (
                    r"(?i:\b(?:api[ _-]?key|access[ _-]?key|secret(?:[ _-]?key)?|token|password|passwd|pwd|bearer|authorization)\b"
                    r"(?:\W{0,2}[:=]\W{0,3}(?:bearer |basic )?|\W{1,4}(?:is |bearer |basic )?(?=\S*[\d_-])))\K[^\s\"',;]{6,}",
                    0.7,
                ),
            },
        ),
        pattern_recognizer(
            "PHONE_NUMBER",
            {
                "with gaps": (
                    r"(?<![\w.-])(?:(?:\+|00)\d{1,3}[-. ]?)?(?:\(\d{2,5}\)[-. ]?|\d{2,5}[-. ])\d{3,4}[-. ]?\d{3,4}(?: ?(?:x|ext\.?) ?\d{1,6})?(?!\w|-\d)",
                    0.5,
                ),
                "with a country": (
                    r"(?<!\w)\+\d{1,3}[-. (]{0,2}\d[\d ().-]{6,16}\d(?: ?(?:x|ext\.?) ?\d{1,6})?(?!\w)",
                    0.6,
                ),
                # Ten digits that no clock and no postal code gives; with a nought in front also nine or eleven.
                "without gaps": (r"(?<![\w.-])(?:[2-9]\d{9}|0\d{8,10})(?![\w-]|\.\d)", 0.45),
                "with an extension": (r"(?<!\w)\d{7,13} ?(?:x|ext\.?) ?\d{1,6}(?!\w)", 0.6),
            },
        ),
        # Also numbers for tests and of temporary kinds, which official checks refuse.
        pattern_recognizer("UK_NINO", {"form": (r"\b[A-Z]{2} ?(?:\d{2} ?){3}[A-Z]\b", 0.6)}),
        pattern_recognizer("USERNAME", {"home folder": (r"(?:/home/|/Users/|\\Users\\)\K[^/\\\s:\"']+", 0.9)}),
    ]


def pattern_recognizer(kind: str, patterns: Mapping[str, tuple[str, float]], language: str = "en") -> EntityRecognizer:
    r"""Return a recognizer by regular expressions, which see the case of letters; `\K` begins the value."""
    return PatternRecognizer(
        supported_entity=kind,
        name=f"hetero_agents {kind}",
        supported_language=language,
        patterns=[Pattern(name, regex, score) for name, (regex, score) in patterns.items()],
        global_regex_flags=re.MULTILINE,
    )


_suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
"""Looks at its own list; Presidio's use of tldextract would fetch one from the network."""


class _Email(EmailRecognizer):
    def validate_result(self, pattern_text: str) -> bool:
        """Hosts inside of a company have no public suffix: every one is an address."""
        return True


class _Card(PatternRecognizer):
    """Payment cards of 12 to 19 digits with a right check digit (ISO/IEC 7812-1); Presidio's knows fewer issuers."""

    def __init__(self) -> None:
        form = Pattern("digits", r"(?<![\w.-])(?:[2-6]\d{3}|1800)(?:[ -]?\d){8,15}(?!\w|-\d)", 0.7)
        super().__init__(supported_entity="CREDIT_CARD", name="hetero_agents CREDIT_CARD", patterns=[form])

    def validate_result(self, pattern_text: str) -> bool:
        digits = [int(c) for c in pattern_text if c.isdigit()][::-1]
        return (sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])) % 10 == 0


class _Phone(PhoneRecognizer):
    """Presidio's for the countries of the language that is spoken, not asked where it cannot find any."""

    def __init__(self) -> None:
        super().__init__(supported_regions=("US", "GB"))

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        return super().analyze(text, entities, nlp_artifacts) if sum(map(str.isdigit, text)) >= 7 else []


class _Names(LocalRecognizer):
    """Names of the United States' census of 1990: a first name with the capitalised words after it, or a frequent surname.

    A small NER model misses names in short texts. A first name that is an ordinary word as well counts before a surname
    only, a surname only where nothing else capitalises it: not at the beginning of a sentence.
    """

    _RUN = re.compile(r"[A-Z][\w'’]+(?:-[A-Z]\w+)*(?: (?:[A-Z]\. )?[A-Z][\w'’]+(?:-[A-Z]\w+)*){0,3}")

    def __init__(self) -> None:
        super().__init__(supported_entities=["PERSON"], name="hetero_agents PERSON by name")
        self._ordinary = set(_lines("ordinary_names.txt"))
        self._frequent = set(list(_surnames())[:_FREQUENT])

    def load(self) -> None:
        pass

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        first, last, frequent = _first_names(), _surnames(), self._frequent
        found: list[RecognizerResult] = []
        for run in self._RUN.finditer(text):
            words = [(m.start() + run.start(), m.end() + run.start(), m[0]) for m in re.finditer(r"\S+", run[0])]
            for place, (start, end, word) in enumerate(words):
                name = re.sub(r"['’]s?$", "", word)
                after = [w for w in words[place + 1 : place + 3] if not w[2].endswith(".")]
                if (
                    len(name) < 3
                    or name.upper() not in first
                    or (name.capitalize() in self._ordinary and not (after and after[0][2].upper() in last))
                ):
                    continue
                end = start + len(name)
                if name == word and (surnames := [w for w in words[place + 1 :] if w[2][-1:] not in ".’'"]):
                    end = surnames[-1][1] - (2 if surnames[-1][2].endswith(("'s", "’s")) else 0)
                found.append(RecognizerResult("PERSON", start, end, 0.6))
                break
            else:
                before = text[max(run.start() - 20, 0) : run.start()].rstrip(" ")
                begins = not before or before[-1] in '.!?:;\n"“'
                names = [re.sub(r"['’]s?$", "", word).upper() for _, _, word in words]
                if not begins and all(name in frequent or name in first for name in names) and names[-1] in frequent:
                    found.append(RecognizerResult("PERSON", run.start(), run.start() + len(run[0].rstrip("'’")), 0.5))
        return found


class _Towns(LocalRecognizer):
    """Towns that are called after somebody, by the form of their names: a census name with `ville`, or `New` before it."""

    _FORM = re.compile(
        r"\b(?:(?P<before>(?:North|South|East|West|New|Lake|Port|Fort|Mount|Saint|St\.?) ))?(?P<word>[A-Z][a-z]{2,}?)"
        rf"(?P<after> (?:{_STREETS})|town|ton|land|ville|berg|burgh|borough|bury|view|port|mouth|stad|furt|chester|fort|haven|side|shire|ford|field)?\b"
    )
    _NOT = frozenset(
        [
            "Passport",
            "Transport",
            "Support",
            "Report",
            "Airport",
            "Import",
            "Export",
            "Overview",
            "Review",
            "Preview",
            "Island",
        ]
    )

    def __init__(self) -> None:
        super().__init__(supported_entities=["LOCATION"], name="hetero_agents LOCATION by form")

    def load(self) -> None:
        pass

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        called_after = _first_names() | _surnames().keys()
        return [
            RecognizerResult("LOCATION", found.start(), found.end(), 0.5)
            for found in self._FORM.finditer(text)
            if (found["before"] or found["after"])
            and found[0] not in self._NOT
            and found["word"].upper() in called_after
        ]


@cache
def _first_names() -> set[str]:
    """First names in capitals, from the package `names`."""
    return {*_census("dist.female.first"), *_census("dist.male.first")}


@cache
def _surnames() -> dict[str, None]:
    """Surnames in capitals, the most frequent first."""
    return dict.fromkeys(_census("dist.all.last"))


def _census(file: str) -> list[str]:
    lines = importlib.resources.files("names").joinpath(file).read_text("utf-8").splitlines()
    return [line.split()[0] for line in lines]


def _countries() -> set[str]:
    """English names of countries, from phonenumbers' tables, where `*xx` means: as in the language xx."""

    def english(entry: Mapping[str, str]) -> str:
        name = entry.get("en", "")
        return (entry.get(name[1:], "") if name.startswith("*") else name).replace(" And ", " and ")

    return {english(entry) for entry in LOCALE_DATA.values()} - {""}


class _Url(PatternRecognizer):
    """Addresses with a scheme, and hosts with a public suffix that is not rather a file's."""

    def __init__(self) -> None:
        super().__init__(
            supported_entity="URL",
            name="hetero_agents URL",
            patterns=[
                Pattern(
                    "with a scheme", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s<>\"'{}|\\^`\])]+[^\s<>\"'{}|\\^`\]).,;:?!]", 0.9
                ),
                Pattern(
                    "host",
                    r"(?<![@\w.-])(?:[a-z0-9](?:[a-z0-9-]{0,62})\.){1,5}[a-z]{2,24}\b(?:/[^\s<>\"']*[^\s<>\"').,;:?!])?(?![\w@(])",
                    0.5,
                ),
            ],
            global_regex_flags=re.IGNORECASE,
        )

    def validate_result(self, pattern_text: str) -> bool | None:
        if "://" in pattern_text:
            return True
        found = _suffixes(pattern_text)
        known = bool(found.domain and found.suffix)
        return known and (found.suffix.split(".")[-1].lower() not in _CODE_SUFFIXES or pattern_text.startswith("www."))
