"""What is found as an entity, what is not, and where its span ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perslm.entities import KINDS, entities, looks_secret

# One entity in a sentence: the text in braces is the span.
CASES = {
    "address": """
        mail {ann.lee+x@example.co.uk}, please
        to <{ann@example.org}>.
        at {mailto:ann@example.org}
        ask {Ann Lee/HOU@ECT} or
        """,
    "url": """
        see {https://example.org/a?b=c#d}.
        see ({http://example.org/a_(b)}) there
        at {www.example.org}, or
        our {example.com} page
        it is at {example.com/a/b}!
        a <{ftp://example.org/x}> link
        {git+ssh://host/path} works
        on {bit.ly/3xYz} now
        """,
    "phone": """
        call {+1 (713) 555-0142}.
        call {(713) 555-0142} now
        call {713-555-0142 x345} now
        call {713.555.0142}, ok
        call {7135550142} now
        call {555-0142} now
        call {+49 30 1234567} now
        Tel {030 1234567} now
        appelez le {01 23 45 67 89} merci
        at {ext. 4021} or
        """,
    "date": """
        on {2026-11-21} we
        at {2026-11-21T10:00:00Z} sharp
        on {21/11/2026}.
        on {11/21/26} we
        on {21.11.2026} we
        by {11/21}, ok
        on {Nov 21}, we
        on {Nov. 21, 2026} we
        on {November 21st} we
        in {November 2026} we
        am {21. November 2026} um
        le {3 août 2026} nous
        el {3 de mayo de 2026} nos
        on {21-Nov-2026} we
        on {the} we
        在{2026年11月21日}见
        from {June 3-5} on
        """,
    "time": """
        at {5pm}.
        at {5 p.m.} sharp
        at {17:30}, ok
        at {9:15:30 AM} ok
        at {5:30 am} ok
        um {17:30} Uhr
        à {17h30} ok
        {5-6pm} works
        """,
    "money": """
        pay {$5}.
        pay {$1,250.50} now
        pay {$ 3.5 million} now
        pay {€3.50} now
        pay {3,50 €} now
        pay {5 EUR} now
        pay {3k USD} now
        pay {USD 500} now
        pay {20 dollars} now
        pay {£20k} now
        """,
    "number": """
        take {2} of
        the {1st} of
        in the {1990s} we
        in {2026}, we
        {1,000,000.5} of
        up {3.5%} or
        about {1/80} of
        {24/7} service
        chapter {1.2.3} of
        weighs {5}kg or
        about {2m} people
        """,
    "path": """
        in {C:\\Program Files\\App\\notes.doc} or
        in {\\\\server\\share\\plan.xls} or
        in {/etc/passwd}, or
        in {~/notes/a.txt} or
        in {src/main/notes.c}, or
        open {budget.xls}.
        open {Plan_v2.PDF} now
        """,
    "address ": """
        at {1234 Maple Street}, Springfield
        at {12a N. Old Mill Rd.} now
        """,
    "secret": """
        my password is {hunter}.
        password: {correcthorse}, ok
        Password = {a} end
        pwd {abc123} ok
        the PIN is {4821}.
        pin code: {0042} ok
        passphrase: {correct horse battery staple}
        user name: {annlee} ok
        Passwort: {geheim} ja
        mot de passe : {lapin} oui
        contraseña es {conejo}, si
        пароль: {кролик} да
        密码：{tuzi} 好
        key {sk-abcdEFGH1234567890} ok
        key {ghp_0123456789abcdefABCDEF0123456789abcd} ok
        key {AKIAIOSFODNN7EXAMPLE} ok
        jwt {eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N} ok
        hash {9f86d081884c7d659a2feaa0c55ad015} ok
        id {550e8400-e29b-41d4-a716-446655440000} ok
        base64 {dGhpcyBpcyBhIHNlY3JldCBrZXkK} ok
        card {4111 1111 1111 1111} ok
        card {4111-1111-1111-1112} ok
        card {378282246310005} ok
        amex {3782 822463 10005} ok
        ssn {123-45-6789} ok
        iban {GB29 NWBK 6016 1331 9268 19} ok
        iban {DE89370400440532013000} ok
        account number {12345678} ok
        acct # {12345} ok
        passport {X1234567} ok
        code {482913} ok
        at {x37041} or
        recovery {ab12-cd34-ef56-gh78} ok
        it was {Tr0ub4dor&3} ok
        order {INV20260012345} ok
        set to {Sommer2024} ok
        set to {kettle99} ok
        it is {pWiEY2#aLJ54} since
        it is {xLk+FmHj7n} since
        key {AKIACZICYTBRAGDAERDH} ok
        key {ABCDE-FGHIJ-KLMNO} ok
        printer {00:1b:44:11:3a:b7} ok
        print {SHA256:BfUWZzTn_ATDUnRIwwlusxCNMCYdgondvG} ok
        at {2001:db8:85a3::8a2e:370:7334} ok
        at {192.168.10.20} ok
        the car {B-MW 4711} ok
        a {AB12 CDE} ok
        NI {QQ 12 34 56 C} ok
        ssn {123 45 6789} ok
        EIN {12-3456789} ok
        use code: {482 913} ok
        the code is {482 913}.
        born {12/04/1978}, ok
        my recovery phrase is {walnut copper saturn}
        """,
}
EXACT = [
    (kind.strip(), line.strip())
    for kind, lines in CASES.items()
    for line in lines.splitlines()
    if "{" in line and "{the}" not in line and "HOU@ECT" not in line
]


@pytest.mark.parametrize(("kind", "marked"), EXACT)
def test_span(kind: str, marked: str) -> None:
    text = marked.replace("{", "").replace("}", "")
    start = marked.index("{")
    span = text[start : marked.index("}") - 1]
    found = [(entity.kind, text[entity.start : entity.end]) for entity in entities(text)]
    assert found == [(kind, span)]


@pytest.mark.parametrize(
    "text",
    [
        "and/or he/she w/o c/o",
        "e.g. this, i.e. that, a.k.a. those in the U.S.",
        "The end.Next sentence",
        "version v2.3.1 of B2B",
        "a state-of-the-art internationalization",
        "The password is required. Your password was changed.",
        "token of thanks, a key point, the pin board, login page",
        "getElementByIdentifier characteristically",
        "base64 or sha256, int64 and Windows, not std::vector",
        "one of those ideas",
        "@ home, #tag",
        "I <3 it",
        "",
    ],
)
def test_nothing_here(text: str) -> None:
    assert entities(text) == []


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("Hi John Smith, hi", ["Smith, John"], ["John Smith"]),
        ("Ask JOHN or john", ["John Smith"], ["JOHN"]),
        ("Ann's and Bob", ["Ann Lee", "bob@example.org"], ["Ann", "Bob"]),
        ("O'Brien and Jean-Luc", ["Pat O’Brien", "Jean-Luc Petit"], ["O'Brien", "Jean-Luc"]),
        ("Anna and Johnson", ["Ann", "John"], []),
        ("Müller und Žižek", ["Jörg Müller", "Žižek"], ["Müller", "Žižek"]),
        ("J. van der Berg, the van", ["Jan van der Berg"], ["Berg"]),
        ("The Team of Support", ["Support Team"], []),
        # Names that are words: mid-sentence, or alone as in a greeting.
        ("Will you go? I think Will goes.", ["Will Hope"], ["Will"]),
        ("Will,\nyou go", ["Will Hope"], ["Will"]),
        ("Hi Will, I hope so", ["Will Hope"], ["Will"]),
        ("Mark my words. MARK IT", ["Mark Lee"], []),
        ("thanks\nMark", ["Mark Lee"], ["Mark"]),
        ("in May, but May said", ["May Lee"], ["May"]),
        ("Call May 5", ["May Lee"], []),
        ("Bill it. Ask Bill.", ["Bill Grant"], ["Bill"]),
    ],
)
def test_names(text: str, names: list[str], expected: list[str]) -> None:
    found = [text[e.start : e.end] for e in entities(text, names=names) if e.kind == "name"]
    assert found == expected


def test_private_key_goes_whole() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----"
    text = f"here: {key} bye"
    assert [text[e.start : e.end] for e in entities(text)] == [key]
    cut_short = "x -----BEGIN PRIVATE KEY-----\nMIIEow\nabc"
    assert entities(cut_short)[0].end == len(cut_short)


def test_overlaps_merge_into_the_more_private() -> None:
    text = "password: ann@example.org/x"
    (entity,) = entities(text)
    assert entity.kind == "secret"
    assert text[entity.start : entity.end] == "ann@example.org/x"


@given(
    st.text(max_size=200)
    | st.text("0123456789.,:/-+() $€ax@\\'\"\n", max_size=80)
    | st.text("ABCabc123-_=+/ .", max_size=80)
)
def test_spans_are_in_order_and_apart(text: str) -> None:
    end = 0
    for entity in entities(text, names=["Ann Lee"]):
        assert entity.kind in KINDS
        assert end <= entity.start < entity.end <= len(text)
        end = entity.end


@given(st.text("0123456789", min_size=5, max_size=30), st.sampled_from(["", " ", "(", "#", "no. "]))
def test_no_long_number_is_left_over(digits: str, before: str) -> None:
    text = f"see {before}{digits} there"
    left = text
    for entity in reversed(entities(text)):
        left = left[: entity.start] + left[entity.end :]
    assert not any(map(str.isdigit, left))


@pytest.mark.parametrize(
    "run", ["sk-abcdefghij1234", "deadbeefdeadbeef1234", "a1b2c3d4e5", "X12345"]
)
def test_looks_secret(run: str) -> None:
    assert looks_secret(run)


@pytest.mark.parametrize(
    "run",
    ["", "word", "internationalization", "well-known", "MP3", "Q3-2026", "McDonaldsCorporation"],
)
def test_does_not_look_secret(run: str) -> None:
    assert not looks_secret(run)
