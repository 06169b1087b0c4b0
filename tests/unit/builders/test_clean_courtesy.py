"""Greetings, closes and signature blocks: what goes, and what only looks like them."""

from __future__ import annotations

import pytest

from builders.clean import clean
from builders.clean.names import Author, namelike

PROSE = "The plan is fine by me, but the second part is too long."


def zone_texts(body: str, kind: str, author: str | None = None) -> list[str]:
    return [body[z.start : z.end] for z in clean(body, author=author).zones if z.kind == kind]


@pytest.mark.parametrize(
    "line",
    [
        "Hi Ann,",
        "Hello everyone!",
        "Dear Ms. Lee:",
        "Dear all",
        "Good morning,",
        "Hi,",
        "Ann,",
        "Ann:",
        "Ann -",
        "Ann and Bob,",
        "Ann, Bob & Carl:",
        "All,",
        "Folks:",
        "Sehr geehrte Frau Lee,",
        "Liebe Ann,",
        "Guten Tag Herr Hill,",
        "Bonjour à tous,",
        "Chère Ann,",
        "Hola Ann:",
        "Estimados señores,",
        "Gentile signora Lee,",
        "Ciao a tutti,".replace(" a ", " "),
        "Olá Ann,",
        "Beste Ann,",
        "Hej Ann,",
        "Kære Ann",
        "Cześć Ann,",
        "Здравствуйте, Анна!",
        "Dobrý den,",
        "Merhaba Ann,",
        "您好，",
        "Ann",
    ],
)
def test_greeting_lines_go(line: str) -> None:
    body = f"{line}\n\n{PROSE}"
    assert clean(body).text == PROSE
    assert zone_texts(body, "greeting") == [line]


@pytest.mark.parametrize(
    ("front", "rest"),
    [
        ("Hi Ann,", "could you look at the second part?"),
        ("Ann,", "could you look at the second part?"),
        ("Hello Ann -", "Could you look at the second part?"),
        ("Ann -", "could you look at the second part?"),
        ("Hey,", "could you look at the second part?"),
        ("Hi, Ann.", "Could you look at it?"),
    ],
)
def test_only_the_front_of_a_line_goes(front: str, rest: str) -> None:
    assert clean(f"{front} {rest}").text == rest


@pytest.mark.parametrize(
    "text",
    [
        "However, the second part is too long.",
        "Yes, that would suit me well.",
        "Thanks",
        "Tomorrow, if it suits you.",
        "Time, money and patience are short.",
        "Note: the second part is too long.",
        "Done.",
    ],
)
def test_openings_that_are_no_greetings_stay(text: str) -> None:
    body = f"{text}\n\n{PROSE}"
    assert zone_texts(body, "greeting") == []


@pytest.mark.parametrize(
    "close",
    [
        "Thanks,\nBob",
        "Many thanks and best regards,\n\nBob",
        "Sincerely,\nBob Hill",
        "Talk to you soon,\nBob",
        "Thanks,\nbh",
        "Thanks, Bob",
        "Thank you.",
        "Cheers\n\n- Bob",
        "Bob",
        "--Bob",
        "Viele Grüße\nBob",
        "Mit freundlichen Grüßen\n\nBob Hill",
        "Cordialement,\nBob",
        "Bien à vous,\nBob",
        "Un saludo,\nBob",
        "Cordiali saluti\nBob",
        "Com os melhores cumprimentos,\nBob",
        "Met vriendelijke groet,\nBob",
        "Med vänliga hälsningar\nBob",
        "Venlig hilsen\nBob",
        "Pozdrawiam,\nBob",
        "С уважением,\nБоб",
        "S pozdravem\nBob",
        "Saygılarımla,\nBob",
    ],
)
def test_closes_go_with_the_name_below(close: str) -> None:
    body = f"{PROSE}\n\n{close}\n"
    assert clean(body, author="Bob Hill").text == PROSE
    assert zone_texts(body, "close", "Bob Hill") == [close]


@pytest.mark.parametrize("tail", ["Thanks!", "Thanks, Bob", "Best regards, Bob", "--Bob", "Bob"])
def test_a_close_at_the_end_of_the_last_sentence_goes(tail: str) -> None:
    assert clean(f"{PROSE} {tail}", author="Hill, Bob").text == PROSE


def test_a_close_above_a_quote_is_found_too() -> None:
    body = f"{PROSE}\n\nBob\n\nOn 3 May 2021 Ann wrote:\n> Is it?\n\nBy the way, it will rain.\n"
    assert clean(body, author="Bob Hill").text == f"{PROSE}\n\nBy the way, it will rain."


def test_a_postscript_stays_and_hides_nothing() -> None:
    body = f"{PROSE}\n\nThanks,\nBob\n\nP.S. It will rain."
    assert clean(body, author="Bob Hill").text == f"{PROSE}\n\nP.S. It will rain."


@pytest.mark.parametrize(
    "last",
    [
        "Thanks for the report on the second part.",
        "Will the next part be as long?",
        "Agreed",
        "Please tell the others",
        "apples\npears\nplums",
    ],
)
def test_endings_that_are_no_closes_stay(last: str) -> None:
    body = f"{PROSE}\n\n{last}"
    assert clean(body, author="Bob Hill").text == body


@pytest.mark.parametrize(
    "block",
    [
        "-- \nBob Hill\nanything at all here",
        "Bob Hill\nDirector of Plans\nExample Inc.\n+1 555 010 9999\nbob@example.org",
        "Bob Hill\nExample University\n12 Long Street\nSpringfield, TX 77002",
        "Robert Hill\nPhone: 555-010-9999\nFax: 555-010-9998",
        "**********************\n* Bob Hill           *\n* Example GmbH       *\n* Tel. +49 "
        "30 123456 *\n"
        "**********************",
        "_______________\nBob Hill\nResearch Fellow\nhttp://www.example.org/bob",
        "Bob Hill - 555-010-9999",
    ],
)
def test_signature_blocks_go(block: str) -> None:
    body = f"{PROSE}\n\n{block}\n"
    assert clean(body, author="Bob Hill").text == PROSE
    assert zone_texts(body, "signature", "Bob Hill") == [block]


def test_a_name_over_an_extension_closes_and_the_extension_is_the_signature() -> None:
    body = f"{PROSE}\n\nThanks,\nBob\nx31543"
    assert zone_texts(body, "close", "Bob Hill") == ["Thanks,\nBob"]
    assert zone_texts(body, "signature", "Bob Hill") == ["x31543"]


@pytest.mark.parametrize(
    "ending",
    [
        "These people will come:\n\nAnn Lee\nCarl Fox\nDora Elm",
        "My new address is:\n12 Long Street\nSpringfield, TX 77002\n555-010-9999",
        "Call me at 555-010-9999 when you get there, whatever the hour may be.",
    ],
)
def test_lists_and_contact_data_that_are_the_message_stay(ending: str) -> None:
    body = f"{PROSE}\n\n{ending}"
    assert clean(body, author="Bob Hill").text == body


class TestAuthor:
    @pytest.mark.parametrize(
        "name",
        ["Bob J Hill", "Hill, Bob J.", '"Bob J. Hill" <bh@example.org>', "Bob J Hill/X/Y@Z"],
    )
    def test_the_order_of_parts_does_not_matter(self, name: str) -> None:
        author = Author(name)
        assert author.parts == ("bob", "hill")
        assert author.initials == "bjh"

    @pytest.mark.parametrize(
        "text", ["Bob", "bob hill", "- Bob -", "BH", "bjh", "B", "Bobby", "Bob H."]
    )
    def test_signs(self, text: str) -> None:
        assert Author("Bob J Hill").signs(text)

    @pytest.mark.parametrize(
        "text", ["Ann", "Bob and Ann", "Bob 2", "", "thanks", "XYZ", "The hill"]
    )
    def test_does_not_sign(self, text: str) -> None:
        assert not Author("Bob J Hill").signs(text)

    def test_a_bare_address_gives_its_local_part(self) -> None:
        assert Author("bob.hill@example.org").parts == ("bob", "hill")

    def test_no_name_signs_nothing(self) -> None:
        assert not Author(None).signs("Bob")
        assert not Author("").signs("")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann", True),
        ("Ann M. Lee", True),
        ("Agreed", False),
        ("ann", False),
        ("", False),
        ("Ann 2", False),
    ],
)
def test_namelike(text: str, expected: bool) -> None:
    assert namelike(text) is expected


@pytest.mark.parametrize(
    "close",
    [
        "Sincerely,\n\neNursery LLC",
        "Best Rgds.\nBob",
        "Regards,\nThe Garden Team\n<<plan.doc>>",
        "Regards,\n(signed)\nB. van Hill-Moor",
    ],
)
def test_a_closing_takes_the_one_or_two_lines_that_sign_it(close: str) -> None:
    assert clean(f"{PROSE}\n\n{close}\n", author="plants@example.org").text == PROSE


def test_a_closing_does_not_take_a_sentence_below_it() -> None:
    body = f"{PROSE}\n\nThanks,\n\nI will bring the rest of it along on Monday"
    assert clean(body).text == body


@pytest.mark.parametrize("sign_off", ["-Sully (and Paula)", "--Sully", "-Bob", "  BH", "~Sully"])
def test_dashed_sign_offs_and_initials_go_with_their_dashes(sign_off: str) -> None:
    assert clean(f"{PROSE}\n{sign_off}\n", author="Bob Hill").text == PROSE


def test_a_list_of_dashed_words_stays() -> None:
    body = f"{PROSE} Bring these:\n-Apples\n-Pears"
    assert clean(body, author="Bob Hill").text == body


def test_a_close_in_the_middle_goes_though_an_extension_follows_it() -> None:
    body = f"{PROSE}\n\nRegards,\nGrace\nx8321\n\n{PROSE}\n{PROSE}"
    assert zone_texts(body, "close", "Grace Moor") == ["Regards,\nGrace"]


def test_a_name_after_a_wide_space_ends_the_last_sentence() -> None:
    assert clean(f"{PROSE}  Mark", author="M. Moor").text == PROSE
    body = f"{PROSE} It is in Kent"
    assert clean(body, author="M. Moor").text == body


@pytest.mark.parametrize(
    "body",
    [
        "Thank you for your cooperation",
        f"{PROSE}\n\nThanks again for the patience.",
        "sounds good.  see you there.",
    ],
)
def test_sentences_that_thank_or_promise_are_no_closes(body: str) -> None:
    assert clean(body).text == body


def test_the_same_thanks_are_a_close_above_a_name() -> None:
    body = f"{PROSE}\n\nThanks again for your patience.\nBob"
    assert clean(body, author="Bob Hill").text == PROSE


@pytest.mark.parametrize(
    ("gap", "close"), [("\n", "Regards,\nBob Hill"), ("\n\n", "Regards,\n\nBob Hill")]
)
def test_the_name_below_a_closing_is_part_of_it_though_a_block_follows(
    gap: str, close: str
) -> None:
    body = f"{PROSE}\n\nRegards,{gap}Bob Hill\nDirector of Plans\nTel: +1 555 010 9999"
    assert zone_texts(body, "close", "Bob Hill") == [close]
    assert zone_texts(body, "signature", "Bob Hill") == ["Director of Plans\nTel: +1 555 010 9999"]


def test_a_name_far_below_a_closing_belongs_to_its_block() -> None:
    body = f"{PROSE}\n\nRegards.\n\n\nBob Hill\nDirector of Plans\nTel: +1 555 010 9999"
    assert zone_texts(body, "close", "Bob Hill") == ["Regards."]
