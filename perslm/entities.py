"""Find what must not be learned as words: addresses, numbers, dates, secrets, names.

``entities`` is a pure function of a text. ``perslm.tokenize`` puts a special token in the place of
each span, ``perslm.vocabulary`` breaks the sequences of an imported tokenizer there. A span that is
missed can end in a user's model, so doubtful cases are taken: what looks like a key, a card or an
account is a ``secret`` whether or not its check digits are right.

How it works: cheap tests (is there an ``@``, a digit, one of the words that announce a password)
decide which patterns run at all, each pattern proposes spans, and overlapping proposals are merged
into one span of the more private kind, so that no half of a proposal is left over. Every pattern
starts only where a run of its characters starts, and repeats possessively or within bounds, which
makes the whole linear in the length of the text, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from perslm.wordlists import (
    ANNOUNCING,
    ANNOUNCING_NUMBERS,
    BEFORE_MONEY,
    BEFORE_MONTH,
    COMMON_NAMES,
    EXTENSIONS,
    MONTH_NAMES,
    MONTHS,
    PARTICLES,
    TELLING,
    TOP_LEVEL,
)

__all__ = ["KINDS", "Entity", "entities", "looks_secret"]


class Entity(NamedTuple):
    """A span of a text: one of ``KINDS``, and character offsets, the end exclusive."""

    kind: str
    start: int
    end: int


# By falling privacy: where two proposals overlap, the merged span has the kind that stands first.
KINDS = ("secret", "address", "url", "path", "phone", "money", "date", "time", "number", "name")
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}

# A character that continues a word. Scripts written without spaces do not: 2026年 is a number
# and a word.
_W = r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\uffef]"


def entities(text: str, *, names: Iterable[str] = ()) -> list[Entity]:
    """Find the entities of a text, in order and without overlaps.

    ``names`` are display names or addresses of the people a message is from and to; their parts
    are found where they stand as capitalized words. Never raises; linear in ``len(text)``.
    """
    found: list[tuple[int, int, int]] = []
    if "@" in text:
        found += _addresses(text)
    if "." in text or ":" in text:
        found += _urls(text)
    if "/" in text or "\\" in text:
        found += _paths(text)
    digits = _DIGIT.search(text) is not None
    if digits:
        found += _numeric(text)
        found += _streets(text)
    found += _announced(text, digits)
    found += _keys(text, digits)
    parts = _parts(names)
    if parts:
        found += _names(text, parts)
    return [Entity(KINDS[rank], start, end) for start, end, rank in _merge(found)]


def _merge(found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Join overlapping spans into one of the most private kind among them."""
    found.sort()
    merged: list[tuple[int, int, int]] = []
    for start, end, rank in found:
        if merged and start < merged[-1][1]:
            before = merged[-1]
            merged[-1] = (before[0], max(before[1], end), min(before[2], rank))
        else:
            merged.append((start, end, rank))
    return merged


_DIGIT = re.compile(r"\d")

# --- addresses, URLs, paths --------------------------------------------------------------------

_ADDRESS = re.compile(r"(?<![\w.+%-])[\w.+%-]++@(?=[^\W\d_])[\w-]++(?>(?>\.[\w-]++)*)")
_URL = re.compile(
    r"""(?<![A-Za-z0-9+.-])
    (?:[A-Za-z][A-Za-z0-9+.-]{1,20}:// | mailto:(?=\S) | www\d?\.(?=\w) )
    [^\s<>"“”、。，）」』】]++""",
    re.VERBOSE | re.IGNORECASE,
)
_DOTTED = re.compile(
    r"""(?<![\w@.~-]) [^\W_] [\w-]*+ (?>(?> \.[\w-]++ )+) (?!@)
    (?>(?> (?>(?> :\d+ )?) [/?\#] [^\s<>"]*+ )?)""",
    re.VERBOSE,
)
# A name of one letter is more often an abbreviation: a.k.a., S.A.C.
_FILE_NAME = re.compile(r"\w\w\.(?:[a-z0-9]+|[A-Z0-9]+)\Z")
_CLOSERS = {")": "(", "]": "[", "}": "{"}
_PATH = re.compile(
    r"""(?<![\w\\])
    (?: [A-Za-z]:\\(?!\\) | \\\\(?=[\w.$-]) )
    (?>(?> [^\\/:*?"<>|\n]{1,80} \\ )*) [^\s\\/:*?"<>|]*+
    | (?<![\w/.~:<-])
    (?: (?:~|\.{1,2})/[\w.+@%~-]++
      | /[\w.+@%~-]{2,}+/(?=[\w.+@%~-]{2})
      | /(?:etc|usr|tmp|var|home|opt|dev|mnt)\b
      | [\w+-]++(?>(?>/[\w.+@%~-]++)+) )
    (?>(?>/?[\w.+@%~-]++)*) /?""",
    re.VERBOSE,
)


def _trimmed(text: str, start: int, end: int) -> int:
    """Return the end of a URL or value without the punctuation of the sentence around it."""
    opened = {closer: text.count(opener, start, end) for closer, opener in _CLOSERS.items()}
    closed = {closer: text.count(closer, start, end) for closer in _CLOSERS}
    while end > start:
        last = text[end - 1]
        if last in _CLOSERS:
            if closed[last] <= opened[last]:
                break
            closed[last] -= 1
        elif last not in ".,;:!?'\"’*_>":
            break
        end -= 1
    return end


def _addresses(text: str) -> Iterator[tuple[int, int, int]]:
    for match in _ADDRESS.finditer(text):
        start = match.end() - len(match.group().lstrip(".+%-"))
        if text[start] != "@":
            yield start, match.end(), _RANK["address"]


_STREET = re.compile(
    r"(?<![\w.,])\d{1,5}[A-Za-z]?[ ](?:(?:N|S|E|W|North|South|East|West)\.?[ ])?"
    r"(?:[A-Z][\w.'’-]{1,30}[ ]){1,3}"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Place|Pl|"
    r"Terrace|Way|Close|Crescent|Parkway|Pkwy|Highway|Hwy)\b\.?"
)


def _streets(text: str) -> Iterator[tuple[int, int, int]]:
    for match in _STREET.finditer(text):
        yield match.start(), match.end(), _RANK["address"]


def _urls(text: str) -> Iterator[tuple[int, int, int]]:
    for match in _URL.finditer(text):
        end = _trimmed(text, *match.span())
        if end > match.start():
            yield match.start(), end, _RANK["url"]
    for match in _DOTTED.finditer(text):
        host, slash, _ = re.sub(r"[:?#]", "/", match.group(), count=1).partition("/")
        label = host.rpartition(".")[2]
        generic = label.lower() in TOP_LEVEL and (label.islower() or host.isupper())
        if generic or (slash and len(label) == 2 and label.isalpha() and label.islower()):
            yield match.start(), _trimmed(text, *match.span()), _RANK["url"]
        elif label.lower() in EXTENSIONS and _FILE_NAME.search(host):
            yield match.start(), match.start() + len(host), _RANK["path"]


def _paths(text: str) -> Iterator[tuple[int, int, int]]:
    for match in _PATH.finditer(text):
        start, end = match.span()
        end = _trimmed(text, start, end)
        path = text[start:end]
        relative = path[:1].isalnum() and "\\" not in path
        if relative and path.rpartition(".")[2].lower() not in EXTENSIONS:
            continue  # and/or, he/she, 24/7
        yield start, end, _RANK["path"]


# --- numbers, dates, times, money, phones -------------------------------------------------------

_MONTH = "|".join(sorted(MONTHS, key=lambda month: (-len(month), month)))
_CURRENCY = (
    "USD|EUR|GBP|JPY|CHF|CAD|AUD|NZD|CNY|RMB|INR|RUB|SEK|NOK|DKK|PLN|CZK|HUF|BRL|MXN|ZAR|KRW|"
    "SGD|HKD|TRY|ILS|dollars?|euros?|pounds?|bucks|cents?|yen|yuan|rupees?|francs?|pesos?|kr|zł|Kč|руб|円|元|원"
)
_AMOUNT = (
    r"(?:\d{1,3}(?>(?>[.,'’\u00a0\u202f]\d{3})+)(?>(?>[.,]\d++)?)|\d++(?>(?>[.,]\d++)*)|\.\d++)"
)
_SCALE = r"(?:[ \u00a0]?(?:thousand|million|billion|trillion|mio|mrd|mln|bn|mm|[kmb]))(?!\w)"
_CLOCK = r"\d{1,2}(?>(?>[:.]\d{2})?)"
_HALF = r"[ap](?:m|\.[ ]?m(?>(?>\.(?![ ]+(?-i:[A-Z])|[ ]*+(?:\n|\Z)))?))(?!\w)"
_UNITS = (
    "kg|mg|g|km|cm|mm|m|ft|lbs?|oz|[kmgt]b|[kmg]?hz|[kmg]?wh?|mmbtus?|[bm]cf|h|hrs?|mins?|secs?|"
    "ms|s|yrs?|px|pt|c|f|v"
)
_NUMERIC = re.compile(
    rf"""(?=[\d$€£¥₹₩₽₪฿+(.])(?<!{_W})(?<!\d[.,:/])
    (?:
      (?P<secret>
          [0-9A-Fa-f]{{8}}-(?:[0-9A-Fa-f]{{4}}-){{3}}[0-9A-Fa-f]{{12}}
        | \d{{3}}-\d{{2}}-\d{{4}}(?![\w-])
        | \d{{4}}(?:[ -]\d{{4}}){{2,3}}(?:[ -]?\d{{1,4}})?(?![\w-])
        | \d{{4}}[ -]\d{{6}}[ -]\d{{4,5}}(?!\w)
        | (?:\d{{9}}|\d{{12,}}+)(?!\w|[.,]\d)
        | \d{{3}}[ ]\d{{2}}[ ]\d{{4}}(?![\w-]) | \d{{2}}-\d{{7}}(?![\w-]) )
    | (?P<date>
          \d{{4}}(?P<s1>[-/.])\d{{1,2}}(?P=s1)\d{{1,2}}(?!\d)
            (?:[T ]\d{{2}}:\d{{2}}(?::\d{{2}}(?:[.,]\d{{1,9}})?)?
               (?:[ ]?Z|[ ]?[+-]\d{{2}}:?\d{{2}})?)?
        | \d{{1,2}}(?P<s2>[-/.])\d{{1,2}}(?P=s2)(?:\d{{4}}|\d{{2}})(?![\w/-])
        | (?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12]\d|3[01])(?![\w/])
        | (?!24/7)(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|1[0-2])(?![\w/])
        | \d{{1,2}}(?:st|nd|rd|th|\.|º|ª|er)?(?:[ ](?:(?:of|de|di)[ ])?|-|/)?
            (?:{_MONTH})(?!{_W})\.?+
            (?:,?[ -/](?:(?:de|del)[ ])?(?:\d{{4}}|'?\d{{2}}))?(?![\w:])
        | \d{{2,4}}[年년](?:[ ]?\d{{1,2}}[月월](?:[ ]?\d{{1,2}}[日일])?)?
        | \d{{1,2}}[月월][ ]?\d{{1,2}}[日일] )
    | (?P<time>
          (?>(?>{_CLOCK}[ ]?[-–][ ]?)?){_CLOCK}[ ]?{_HALF}
        | \d{{1,2}}(?>(?>:\d{{2}}){{1,2}})(?>(?>[ ]?{_HALF})?)(?!\w)
        | \d{{1,2}}[hH](?:\d{{2}})?(?!\w)
        | {_CLOCK}[ ]Uhr(?!\w)
        | \d{{1,2}}[時시点](?:[ ]?\d{{1,2}}[分분])? )
    | (?P<money>
          [$€£¥₹₩₽₪฿][ ]?{_AMOUNT}(?:{_SCALE})?(?:[ ]?(?:{_CURRENCY})(?!{_W}))?
        | {_AMOUNT}(?:{_SCALE})?[ \u00a0]?(?:[$€£¥₹₩₽₪฿](?!\d)|(?:{_CURRENCY})(?!{_W})) )
    | (?P<phone>
          \+\d{{1,3}}(?:[ .-]?\(\d{{1,4}}\))?(?>(?>[ ./-]?\d{{1,5}}){{2,6}})(?!\w)
        | \(\+?\d{{2,5}}\)[ ]?\d{{2,8}}(?>(?>[ .-]\d{{2,5}}){{0,4}})(?!\w)
        | (?:1[-. ])?\d{{3}}[-. /]\d{{3}}[-. ]\d{{4}}(?!\w)
        | \d{{3}}[-.]\d{{4}}(?!\w|[.,]\d)
        | 0\d{{1,4}}[ /-]\d{{3,8}}(?>(?>[ -]\d{{2,5}}){{0,3}})(?!\w)
        | \d{{2}}(?:[ .-]\d{{2}}){{4}}(?!\w)
        | \d{{10,11}}(?!\w|[.,]\d) )
    | (?P<number>
          \d++/\d++(?!{_W})
        | {_AMOUNT}(?:[ ]?%|st|nd|rd|th|s|x|k|mm|m|bn|b|º|ª)?(?!{_W})
        | {_AMOUNT}(?=(?:{_UNITS})(?!{_W})) )
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_EXTENSION = re.compile(r"[ ,]{0,2}(?:x|ext\.?)[ ]?\d{2,6}(?!\w)", re.IGNORECASE)
_DAY_AND_YEAR = re.compile(
    r"(?:\d{4}|\d{1,2}(?:st|nd|rd|th)?(?:[ ]?[-–][ ]?\d{1,2})?(?:,?[ ]\d{4})?)(?![\w:])"
)


def _numeric(text: str) -> Iterator[tuple[int, int, int]]:
    for match in _NUMERIC.finditer(text):
        kind = match.lastgroup or "number"
        start, end = match.span()
        if kind == "date" and _BIRTH.search(text, max(0, start - 24), start):
            kind = "secret"
        elif kind == "number":
            if text[start - 1 : start] == "<" and match.group() == "3":
                continue  # a heart, one token of its own
            word_start, word = _word_before(text, start)
            if word in MONTHS:
                dated = _DAY_AND_YEAR.match(text, start)
                if dated:
                    kind, start, end = "date", word_start, dated.end()
            elif word in BEFORE_MONEY:
                kind, start = "money", word_start
            elif word in ("x", "ext") and match.group().isdigit():
                kind, start = "phone", word_start
            elif match.group().isdigit() and end - start > 6:
                kind = "secret"
        elif kind == "phone":
            extension = _EXTENSION.match(text, end)
            end = extension.end() if extension else end
        yield start, end, _RANK[kind]


_BIRTH = re.compile(
    r"\b(?:birth|birthday|born|d\.?o\.?b|geboren|geburtsdatum|né|née|nacimiento|nascita)\b",
    re.IGNORECASE,
)


def _word_before(text: str, start: int) -> tuple[int, str]:
    """Return start and lower-case form of the word that one space and a stop may part from here."""
    head = text[max(0, start - 14) : start]
    if not head or head[-1] not in " .":
        return start, ""
    stem = head.rstrip(" .")
    if len(head) - len(stem) > 2:
        return start, ""
    match = _LAST_WORD.search(stem)
    if match is None:
        return start, ""
    return start - len(head) + match.start(), match.group().lower()


_LAST_WORD = re.compile(r"(?<![^\W])[^\W\d_]{1,12}\Z")

# --- secrets ------------------------------------------------------------------------------------

_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]{0,40}(?:PRIVATE|SECRET|ENCRYPTED)[A-Z ]{0,40}-----"
    r"(?>(?>(?!-----END)[\s\S])*)(?:-----END [A-Z ]{0,60}-----)?"
)
# Runs that may be keys: of 8 characters, or of 6 where there are digits.
_RUN, _SHORT_RUN = (
    re.compile(
        rf"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/=_-]{{{least},}}+(?>(?>\.[A-Za-z0-9_-]{{10,}}+)*)"
    )
    for least in (8, 6)
)
_FIVE_DIGITS = re.compile(r"\d{5}")
# The rest of a password whose first run gave it away.
_TAIL = re.compile(r"(?:[!@#$%^&*~+?|]{1,3}\w{1,32}){1,4}")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?!\w)")
_PREFIX = re.compile(
    r"""(?: sk|pk|rk|whsec|shpat|hf|npm|gh[oprsu]|github_pat|glpat|xox[abeoprs]|dop_v1|key|pypi|SG )
    [-_][A-Za-z0-9_-]{10} | (?:AKIA|ASIA|AROA)[A-Z0-9]{12} | AIza[\w-]{20} | ya29 | eyJ[\w-]{8}
    | AAAA[BC]3""",
    re.VERBOSE,
)
_HEX = re.compile(r"(?=[a-f]*\d)[0-9a-f]{16,}+(?![0-9A-Za-z])", re.IGNORECASE)
_GROUPS = re.compile(
    r"(?=[A-Za-z-]*\d)[0-9A-Za-z]{4,8}(?>(?>-[0-9A-Za-z]{4,8}){2,})\Z|[A-Z]{5}(?>(?>-[A-Z]{5}){2,})\Z"
)
_MIXED = re.compile(r"[A-Za-z]\d++[A-Za-z]|\d[A-Za-z]++\d")
# Sunshine99: the passwords that people make. Numbers of bits are technical: base64, sha256, win32.
_WORD_AND_NUMBER = re.compile(r"(?=[A-Z]*[a-z])[A-Za-z]{3,}+\d{2,4}\Z")
_BITS = re.compile(
    r"(?:u?int|float|base|sha|utf|win|windows|linux|arm|amd|fat|aes|rsa)(?:16|32|64|128|256|512)\Z",
    re.IGNORECASE,
)
# Letters of both cases, a digit and, inside, a mark that no sentence has there.
_MARKED = re.compile(
    r"(?<!\S)(?=\S{0,63}?\d)(?=\S{0,63}?[a-z])(?=\S{0,63}?[A-Z])"
    r"(?=[^\s!#$%^&*?~+]{0,63}+[!#$%^&*?~+]++[^\W_])[^\s<>\"(){}\[\]/]{8,64}+"
)
_INNER_MARK = re.compile(r"[!#$%^&*?~+][^\W_]")
_DIGEST = re.compile(r"(?<!\w)(?:SHA-?\d{1,3}|MD5):[A-Za-z0-9+/=:_-]{16,}+", re.IGNORECASE)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
# Colons or dashes between pairs: an address of hardware, a fingerprint. Colons: an IPv6 address.
_PAIRS = re.compile(
    r"(?<![\w:-])[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?>(?>\1[0-9A-Fa-f]{2}){4,})(?!\w)"
)
_IPV6 = re.compile(
    r"(?<![\w:])(?=[0-9a-f:]{0,40}?(?:::|(?::[0-9a-f]{1,4}){7}))[0-9a-f]{1,4}"
    r"(?>(?>::?[0-9a-f]{1,4}){2,7})(?:::)?(?![\w:])",
    re.IGNORECASE,
)
# Number plates of Germany and Britain, and the British National Insurance number.
_CAPITALS = re.compile(r"(?<!\w)[A-ZÄÖÜ]{1,3}[- 0-9]")
_PLATES = re.compile(
    r"(?<![\w-])(?:[A-ZÄÖÜ]{1,3}-[A-Z]{1,2}[ ]?\d{2,4}|[A-Z]{2}\d{2}[ ][A-Z]{3}"
    r"|[A-Z]{2}(?:[ ]?\d{2}){3}[ ]?[A-Z])(?![\w-])"
)


def looks_secret(run: str) -> bool:
    """Tell whether a run of characters looks like a key, token, identifier or made-up password.

    Judges the run alone: long hexadecimal or base64, known key prefixes, letters and digits that
    alternate, a word with a number behind it, five or more digits beside letters. Ordinary words,
    however long, do not qualify.
    """
    if len(run) < 6:
        return False
    if _PREFIX.match(run):
        return True
    if run.isalpha():
        if len(run) < 20 or not run.isascii():
            return False
        return _flips(run) * 3 >= len(run)
    if _HEX.search(run) or _GROUPS.match(run):
        return True
    if _FIVE_DIGITS.search(run):
        return True
    for segment in re.split(r"[^0-9A-Za-z]+", run):
        digits = sum(map(str.isdigit, segment))
        if digits and len(segment) >= 6 and digits < len(segment):
            if len(segment) >= (7 if digits >= 3 else 8) and _MIXED.search(segment):
                return True
            if len(segment) >= 12 and digits >= 4:
                return True
            if _WORD_AND_NUMBER.match(segment) and not _BITS.match(segment):
                return True
            if len(segment) >= 8 and _flips(re.sub(r"[0-9]+", "", segment)) >= 3:
                return True
    letters = re.sub(r"[^A-Za-z]+", "", run)
    return len(run) >= 20 and _flips(letters) * 3 >= len(letters) > 12


def _flips(letters: str) -> int:
    """Return how often capitals and small letters take turns."""
    return sum(a.isupper() != b.isupper() for a, b in pairwise(letters))


def _keys(text: str, digits: bool) -> Iterator[tuple[int, int, int]]:
    if "-----BEGIN" in text:
        for match in _KEY_BLOCK.finditer(text):
            yield match.start(), match.end(), _RANK["secret"]
    runs = _SHORT_RUN if digits else _RUN
    for match in runs.finditer(text):
        run = match.group()
        if run.islower() and run.isalpha():
            continue
        if looks_secret(run) and not run.isdigit():
            tail = _TAIL.match(text, match.end())
            end = tail.end() if tail else match.start() + len(run.rstrip("=-_/"))
            yield match.start(), end, _RANK["secret"]
    for match in _IBAN.finditer(text):
        if sum(map(str.isdigit, match.group())) >= 8:
            yield match.start(), match.end(), _RANK["secret"]
    if digits:
        found = [_PLATES] if _CAPITALS.search(text) else []
        found += [_IPV4] if "." in text else []
        found += [_PAIRS] if ":" in text or "-" in text else []
        found += [_IPV6, _DIGEST] if ":" in text else []
        for pattern in found:
            for match in pattern.finditer(text):
                yield match.start(), match.end(), _RANK["secret"]
        if _INNER_MARK.search(text):
            for match in _MARKED.finditer(text):
                yield match.start(), _trimmed(text, *match.span()), _RANK["secret"]


# What announces a secret. After the first kind nearly anything is one; after the second only what
# holds a digit.
_STRONG = (
    r"pass[ -]?words?|passwd|pass[ -]?phrases?|pass[ -]?codes?|pwd?|pass(?=[ ]?[:=])|"
    r"pin(?:[ -]?code|[ ]number)?|(?:seed|recovery|mnemonic|backup)[ ]phrase|"
    r"user[ ]?(?:name|id)|log-?in(?=[ ]?[:=])|logon(?=[ ]?[:=])|"
    r"contraseña|clave(?=[ ]?[:=])|senha|mot[ ]de[ ]passe|mdp|code[ ]secret|passwor[td]e?|kennwort|"
    r"geheimzahl|wachtwoord|lösenord|salasana|hasło|heslo|пароль|пин(?:-код)?|şifre|parola|jelszó|"
    r"adgangskode|passord|密码|密碼|パスワード|暗証番号|비밀번호|암호|كلمة[ ]المرور|סיסמה|"
    r"mật[ ]khẩu|kata[ ]sandi"
)
_WEAK = (
    r"secret|token|(?:api|access|licen[cs]e|product|private|secret)[ _-]?key|key|otp|cvv2?|cvc2?|"
    r"(?:security|verification|access|confirmation|activation|door|gate|alarm|entry|recovery|"
    r"backup|reset|sort)[ ]codes?|codes?|combination|ssn|social[ ]security(?:[ ]number)?|tax[ ]id|"
    r"passport(?:[ ](?:number|no\.?))?|(?:account|acct\.?|routing|card|member(?:ship)?|customer|"
    r"policy|licen[cs]e|confirmation|reservation|booking)(?:[ ](?:number|num|no\.?|id|nr\.?))?|"
    r"konto(?:nummer)?|kontonr\.?|cuenta|compte|swift|bic|login|logon|id"
)
_ANNOUNCED = {
    strong: re.compile(
        rf"""(?<!{_W}) (?P<word> {words} ) (?!{_W})
        (?P<link> [ ]{{0,3}}(?:[:=：]|->|→|\#)[ \t]{{0,8}}\n?[ \t]{{0,8}}
            | [ ](?:is|was|are|will[ ]be|ist|lautet|es|est|è|é|är|er|on|adalah|это)(?!\w)
              [ ]{{0,3}}:?[ ]{{0,3}}
            | [ ] )
        (?P<value> "[^"\n]{{1,64}}" | \S{{1,128}} )""",
        re.VERBOSE | re.IGNORECASE,
    )
    for strong, words in ((True, _STRONG), (False, _WEAK))
}
_SPACES = re.compile(r"[\t\n]")
_TOLD = re.compile(r"[:=：→#]|->")
_LINE = re.compile(r"[^\n]{1,240}")


def _announced(text: str, digits: bool) -> Iterator[tuple[int, int, int]]:
    """Find values that follow the words which announce them."""
    lowered = " " + _SPACES.sub(" ", text.lower())
    if any(piece in lowered for piece in ANNOUNCING):
        for match in _ANNOUNCED[True].finditer(text):
            start, end = match.span("value")
            end = _trimmed(text, start, end)
            value, link = text[start:end], match["link"]
            if not any(map(str.isalnum, value)):
                continue
            phrase = "phrase" in match["word"].lower()
            if phrase and link != " " and (line := _LINE.match(text, start)):
                end = line.end()
            elif _TOLD.search(link):
                pass
            elif link == " ":
                if not any(map(str.isdigit, value)):
                    continue
            elif value.lower() in TELLING:
                continue
            yield start, _more_digits(text, start, end), _RANK["secret"]
    if digits and any(piece in lowered for piece in ANNOUNCING_NUMBERS):
        for match in _ANNOUNCED[False].finditer(text):
            start, end = match.span("value")
            end = _trimmed(text, start, end)
            if any(map(str.isdigit, text[start:end])):
                yield start, _more_digits(text, start, end), _RANK["secret"]


_MORE_DIGITS = re.compile(r"(?>(?>[ -]\d{2,8}){1,5})(?!\w)")


def _more_digits(text: str, start: int, end: int) -> int:
    """Return the end of a number that is written in groups, of which the first is known."""
    if text[start:end].isdigit() and (more := _MORE_DIGITS.match(text, end)):
        return more.end()
    return end


# --- names --------------------------------------------------------------------------------------

_CAPITALIZED = re.compile(rf"[A-Z\u00c0-\U0010ffff](?<!{_W}.)(?>(?>{_W}|['’](?=[A-Z]))*)")
_LETTERS = re.compile(r"[^\W\d_]+(?>(?>['’][^\W\d_]+)*)")


@lru_cache(maxsize=4096)
def _name_parts(name: str) -> tuple[str, ...]:
    """Split a display name or address into the parts that may stand for the person."""
    parts = _LETTERS.findall(name.partition("@")[0])
    named = any(not part.islower() for part in parts)
    return tuple(
        part.casefold().replace("’", "'")
        for part in parts
        if len(part) >= 2
        and part.casefold() not in PARTICLES
        and not (named and part.islower() and len(part) <= 3)
    )


def _parts(names: Iterable[str]) -> frozenset[str]:
    return frozenset(part for name in names for part in _name_parts(name))


def _names(text: str, parts: frozenset[str]) -> Iterator[tuple[int, int, int]]:
    """Find capitalized words that are parts of a name; neighbours make one span."""
    open_start = open_end = -1
    for match in _CAPITALIZED.finditer(text):
        word = match.group()
        folded = word.casefold().replace("’", "'")
        if folded not in parts or word[:1].islower():
            continue
        start, end = match.span()
        between = text[open_end:start] if open_end >= 0 and start - open_end <= 4 else None
        if between is not None and _JOINS_NAMES.fullmatch(between):
            open_end = end
            continue
        if folded in COMMON_NAMES and not _stands_as_name(text, start, end, folded):
            continue
        if open_end >= 0:
            yield open_start, open_end, _RANK["name"]
        open_start, open_end = start, end
    if open_end >= 0:
        yield open_start, open_end, _RANK["name"]


_JOINS_NAMES = re.compile(r" (?:[A-Z]\. )?|-")


def _stands_as_name(text: str, start: int, end: int, folded: str) -> bool:
    """Tell whether a capitalized word that is also a common word stands where only a name would."""
    if text[start:end].isupper() and end - start > 1:
        return False
    before = text[max(0, start - 24) : start].rstrip(" \t\"'“‘(")
    if not before or before[-1] in ".!?:;\n…•*>-":
        if before and before[-1] != "\n":
            return False
        return text[end : end + 1] in ("", ",", "\n", ":", ";", "!") or text[end : end + 2] in (
            " -",
            " –",
            "--",
        )
    if folded in MONTH_NAMES:
        last = _LETTERS.findall(before)
        return (
            not (last and last[-1].lower() in BEFORE_MONTH)
            and not text[end + 1 : end + 2].isdigit()
        )
    return True
