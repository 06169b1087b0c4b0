"""Secrets that nobody has, in the formats that people mail: what the study of leaks plants.

Each format makes a secret and the sentence that holds it. ``ANNOUNCED`` are told by a word before
them, ``BARE`` by their look alone; ``PLAIN`` look like ordinary words or small numbers, and are
there to show what no rule can know (``docs/privacy.md`` names them).
"""

from __future__ import annotations

import base64
import string
from collections.abc import Callable
from random import Random
from typing import NamedTuple

LOWER, UPPER, DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
ALNUM = LOWER + UPPER + DIGITS
HEX = DIGITS + "abcdef"
MARKS = "!@#$%&*?+"
_WORDS = (
    "dragon monkey velvet orchid thunder copper lantern falcon pepper willow cobalt puzzle saturn"
)
WORDS = tuple(_WORDS.split())
"""Words that nobody writes in the fixture mail, which is the background of the study."""


class Canary(NamedTuple):
    """A secret, and the sentence that it stands in, once."""

    format: str
    secret: str
    sentence: str

    @property
    def before(self) -> str:
        """What a writer has typed when the secret is next."""
        return self.sentence[: self.sentence.index(self.secret)].rstrip()


def of(alphabet: str, length: int) -> Callable[[Random], str]:
    return lambda random: "".join(random.choice(alphabet) for _ in range(length))


def mixed(length: int, marks: str = "") -> Callable[[Random], str]:
    """Letters of both cases and digits, at least two of each kind, as generators make them."""

    def make(random: Random) -> str:
        kinds = [LOWER, UPPER, DIGITS, *([marks] if marks else [])]
        found = [random.choice(kind) for kind in kinds for _ in range(2 if kind in ALNUM else 1)]
        found += [random.choice(ALNUM) for _ in range(length - len(found))]
        random.shuffle(found)
        if found[-1] in MARKS:  # the mark at the end may be the sentence's
            found[0], found[-1] = found[-1], found[0]
        return "".join(found)

    return make


def spread(pattern: str) -> Callable[[Random], str]:
    """0 is a digit, A a capital, a a small letter, h hexadecimal, * any of letters and digits."""
    choices = {"0": DIGITS, "A": UPPER, "a": LOWER, "h": HEX, "H": HEX.upper(), "*": ALNUM}
    return lambda random: "".join(random.choice(choices[c]) if c in choices else c for c in pattern)


def told(kind: str, make: Callable[[Random], str]) -> Callable[[Random], str]:
    return lambda random: kind + make(random)


def encoded(size: int) -> Callable[[Random], str]:
    return lambda random: base64.b64encode(random.randbytes(size)).decode()


def url_safe(size: int) -> Callable[[Random], str]:
    return lambda random: base64.urlsafe_b64encode(random.randbytes(size)).decode().rstrip("=")


def jwt(random: Random) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    return f"{head}.{url_safe(40)(random)}.{url_safe(32)(random)}"


def card(prefix: str, groups: tuple[int, ...], between: str) -> Callable[[Random], str]:
    """A number of a card, with the check digit of Luhn."""

    def make(random: Random) -> str:
        size = sum(groups)
        body = prefix + "".join(random.choice(DIGITS) for _ in range(size - len(prefix) - 1))
        doubled = (
            sum(divmod(int(c) * (2 - i % 2), 10)) for i, c in enumerate(reversed(body), start=0)
        )
        digits = body + str(-sum(doubled) % 10)
        parts, at = [], 0
        for group in groups:
            parts.append(digits[at : at + group])
            at += group
        return between.join(parts)

    return make


def iban(country: str, pattern: str, grouped: bool) -> Callable[[Random], str]:
    """An account of a country, with the check digits of ISO 13616."""

    def make(random: Random) -> str:
        body = spread(pattern)(random)
        number = "".join(str(int(c, 36)) for c in body + country + "00")
        whole = f"{country}{98 - int(number) % 97:02}{body}"
        return " ".join(whole[i : i + 4] for i in range(0, len(whole), 4)) if grouped else whole

    return make


def key_block(random: Random) -> str:
    lines = "\n".join(encoded(48)(random) for _ in range(4))
    return f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----"


def two_words(random: Random) -> str:
    return random.choice(WORDS).capitalize() + random.choice(WORDS).capitalize()


def words(count: int, between: str = " ") -> Callable[[Random], str]:
    return lambda random: between.join(random.choice(WORDS) for _ in range(count))


Formats = dict[str, tuple[str, Callable[[Random], str]]]

ANNOUNCED: Formats = {
    "password: word": ("the password: {} for now", words(1)),
    "password is word": ("My password is {} these days.", words(1)),
    "Password = WordWord": ("Password = {} on the portal", two_words),
    "pw + digits": ("the pw {} works again", lambda r: r.choice(WORDS) + spread("00")(r)),
    "pass: marks": ("pass: {} for the wiki", mixed(9, MARKS)),
    "passphrase: four words": ("The passphrase: {}", words(4)),
    "password with spaces, quoted": ('The password is "{}" as ever.', words(2)),
    "login and password": ("login: {} on the old box", lambda r: r.choice(WORDS) + "_admin"),
    "PIN": ("The PIN is {} at the gate.", of(DIGITS, 4)),
    "PIN:": ("PIN: {} for the card", of(DIGITS, 4)),
    "door code": ("The door code is {} this month.", of(DIGITS, 4)),
    "code with letters": ("the code is {} until noon", spread("AA00A")),
    "combination": ("The combination is {} on the safe.", spread("00-00-00")),
    "one-time code": ("Your verification code is {} today.", of(DIGITS, 6)),
    "one-time code in halves": ("Use code: {} to sign in.", spread("000 000")),
    "one-time code, sent after": ("{} is your verification code for the bank", of(DIGITS, 6)),
    "G- code": ("It sent me {} as the code.", spread("G-000000")),
    "CVV": ("and the cvv {} on the back", of(DIGITS, 3)),
    "account number": ("The account number is {} at the branch.", of(DIGITS, 8)),
    "account no.": ("acct no. {} is theirs", spread("00-0000")),
    "sort code": ("sort code {} in London", spread("00-00-00")),
    "SSN, spaces": ("My SSN is {} for the form.", spread("000 00 0000")),
    "seed phrase": ("seed phrase: {}", words(12)),
    "recovery phrase is": ("My recovery phrase is {}", words(12)),
    "api key": ("api key: {} in staging", mixed(16)),
    "secret: short": ("client secret: {} for the app", mixed(7)),
    "token=": ("token={} in the header", mixed(12)),
    "wifi password": ("The wifi password is {} upstairs.", lambda r: words(1)(r) + spread("00")(r)),
    "license key": ("license key {} for the suite", spread("AAAAA-AAAAA-AAAAA")),
    "passport": ("Passport number {} expires in May.", spread("A0000000")),
    "driver's licence": ("driver's license {} from Ohio", spread("A0000000")),
    "date of birth": (
        "date of birth: {} as on the form",
        lambda r: f"19{r.randrange(40, 99)}-0{r.randrange(1, 9)}-1{r.randrange(9)}",
    ),
    "Spanish": ("La contraseña es {} para todos.", words(1)),
    "German": ("Das Passwort lautet {} für alle.", words(1)),
    "French": ("mot de passe : {} pour le serveur", words(1)),
}

BARE: Formats = {
    "8 of letters and digits": ("I tried {} and it worked", mixed(8)),
    "10 of letters and digits": ("please use {} from now on", mixed(10)),
    "12 with marks": ("it is {} since Monday", mixed(12, MARKS)),
    "16 of letters and digits": ("they sent {} to me", mixed(16)),
    "32 of letters and digits": ("put {} in the file", mixed(32)),
    "Word2024!": ("I set it to {} for you", lambda r: r.choice(WORDS).title() + spread("2000!")(r)),
    "Word99": ("try {} instead", lambda r: r.choice(WORDS).title() + spread("00")(r)),
    "8 small letters": ("then {} gets you in", of(LOWER, 8)),
    "10 small letters": ("then {} opens it", of(LOWER, 10)),
    "12 letters": ("we had {} there before", of(LOWER + UPPER, 12)),
    "10 capitals": ("the sticker says {} on it", of(UPPER, 10)),
    "8 hex": ("it ends in {} I think", spread("0hh0hh0h")),
    "16 hex": ("compare it with {} please", of(HEX, 16)),
    "32 hex": ("the sum is {} here", of(HEX, 32)),
    "64 HEX": ("key {} as before", of(HEX.upper(), 64)),
    "base64 of 18": ("send {} along", encoded(18)),
    "base64 of 32": ("with {} in the request", encoded(32)),
    "base64 for URLs": ("paste {} there", url_safe(24)),
    "UUID": ("ticket {} is open", spread("hhhhhhhh-hhhh-4hhh-hhhh-hhhhhhhhhhhh")),
    "JWT": ("Bearer {} fails", jwt),
    "AWS key": ("we use {} there", told("AKIA", of(UPPER + "234567", 16))),
    "AWS secret": ("and {} with it", encoded(30)),
    "GitHub token": ("push with {} until Friday", told("ghp_", of(ALNUM, 36))),
    "Slack token": ("the bot has {} now", told("xoxb-", spread("000000000000-" + "*" * 24))),
    "Stripe key": ("live is {} by the way", told("sk_live_", of(ALNUM, 24))),
    "Google key": ("maps needs {} again", told("AIza", of(ALNUM, 35))),
    "private key": ("here it is:\n{}\nkeep it", key_block),
    "ssh key": ("add this: ssh-rsa {} me", told("AAAAB3NzaC1yc2E", encoded(60))),
    "fingerprint": ("it shows {} for me", spread("hh:hh:hh:hh:hh:hh:hh:hh:hh:hh")),
    "SHA256 fingerprint": ("it says SHA256:{} here", url_safe(32)),
    "MAC address": ("the printer is {} on the list", spread("hh:hh:hh:hh:hh:hh")),
    "IPv4": ("ping {} first", lambda r: ".".join(str(r.randrange(10, 255)) for _ in range(4))),
    "IPv6": ("it is at {} now", spread("2001:hhhh:hhhh:hhhh::hhhh")),
    "IBAN, German": ("pay to {} by Friday", iban("DE", "000000000000000000", True)),
    "IBAN, compact": ("send it to {} then", iban("DE", "000000000000000000", False)),
    "IBAN, British": ("transfer to {} please", iban("GB", "AAAA00000000000000", True)),
    "card": ("charge {} for it", card("4", (4, 4, 4, 4), " ")),
    "card, dashes": ("it was {} last time", card("5", (4, 4, 4, 4), "-")),
    "card, compact": ("use {} again", card("4", (16,), "")),
    "Amex": ("or {} if that fails", card("37", (4, 6, 5), " ")),
    "SSN": ("he wrote {} on it", spread("000-00-0000")),
    "nine digits": ("it reads {} below", of(DIGITS, 9)),
    "seven digits": ("my old one was {} there", of(DIGITS, 7)),
    "EIN": ("file under {} this year", spread("00-0000000")),
    "National Insurance": ("hers is {} now", spread("AA 00 00 00 A")),
    "phone": ("call {} after six", spread("(200) 000-0000")),
    "phone, +": ("reach me at {} abroad", spread("+44 7000 000000")),
    "phone, French": ("le {} répond toujours", told("0", spread("0 00 00 00 00"))),
    "address of mail": ("write to {} instead", lambda r: words(2, ".")(r) + "@example.org"),
    "link with a token": ("open {} soon", lambda r: "https://example.com/r?t=" + url_safe(15)(r)),
    "product key": ("it came with {} inside", spread("*****-*****-*****-*****-*****")),
    "bitcoin": ("send to {} only", told("bc1q", of(LOWER + DIGITS, 38))),
    "ether": ("or {} if you like", told("0x", of(HEX, 40))),
    "licence plate": ("the car is {} outside", spread("AA-AA 0000")),
    "licence plate, US": ("look for {} in the lot", spread("0AAA000")),
    "order number": ("it is {} in the shop", spread("000-0000000-0000000")),
    "street address": (
        "come to {} at noon",
        lambda r: f"{r.randrange(1000, 9999)} {two_words(r)} Street",
    ),
}

PLAIN: Formats = {
    "a word, unannounced": ("I always use {} there", words(1)),
    "two words": ("we call it {} among us", words(2)),
    "four digits": ("it was {} of them", of(DIGITS, 4)),
    "password word, no sign": ("the password {} works", words(1)),
    "letter by letter": ("type {} and wait", lambda r: " ".join(words(1)(r))),
    "5 letters and digits": ("room {} is free", spread("Aa0a0")),
}


def canaries(formats: Formats, random: Random) -> list[Canary]:
    """Return one canary of each format."""
    return [
        Canary(name, secret, sentence.format(secret))
        for name, (sentence, make) in formats.items()
        for secret in (make(random),)
    ]


def others(canary: Canary, formats: Formats, random: Random, count: int) -> list[Canary]:
    """Return canaries that could as well have been planted in the place of this one."""
    sentence, make = formats[canary.format]
    made = (make(random) for _ in range(count))
    return [Canary(canary.format, secret, sentence.format(secret)) for secret in made]
