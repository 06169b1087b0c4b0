"""Quotes, forwards, header blocks and attributions, as mail programs of many languages print."""

from __future__ import annotations

import pytest

from builders.clean import clean


def kinds(body: str) -> list[str]:
    return [zone.kind for zone in clean(body).zones]


def test_interleaved_replies_keep_what_stands_between_the_quotes() -> None:
    body = (
        "Ann Lee <ann@example.org> writes:\n"
        "> Should we meet?\n"
        "I think so.\n"
        "\n"
        "> > deeper\n"
        "> Where?\n"
        "\n"
        "At the station, as usual.\n"
    )
    assert clean(body).text == "I think so.\n\nAt the station, as usual."
    assert kinds(body) == ["attribution", "quote", "quote"]


def test_a_fragment_split_off_a_quoted_line_goes_with_it() -> None:
    body = (
        "> This line was so long that the program of the person who quoted it had to\n"
        "wrap\n"
        "> it, as it were.\n"
        "\n"
        "Quite so, I fear.\n"
    )
    assert clean(body).text == "Quite so, I fear."


def test_a_short_reply_between_quotes_is_no_fragment() -> None:
    body = "> Shall we?\nyes\n> And when?\ntomorrow\n"
    assert clean(body).text == "yes\n\ntomorrow" or clean(body).text == "yes\ntomorrow"


@pytest.mark.parametrize("prefix", ["| ", "} ", "] ", "AL> "])
def test_other_prefixes_quote_where_neighbours_share_them(prefix: str) -> None:
    body = f"{prefix}Should we meet?\n{prefix}Or not at all?\n\nWe should indeed.\n"
    assert clean(body).text == "We should indeed."


def test_a_prefix_on_every_line_is_damage_and_not_a_quote() -> None:
    body = "B>We should meet.\nB>\nB>Tomorrow would suit me.\n"
    assert clean(body).text == "We should meet.\n\nTomorrow would suit me."


@pytest.mark.parametrize(
    "line",
    [
        "On Mon, May 3, 2021 at 10:00 AM Ann Lee <ann@example.org> wrote:",
        "On 3 May 2021, Ann Lee wrote:",
        "Am Montag, 3. Mai 2021 um 10:00 schrieb Ann Lee <ann@example.org>:",
        "Am 03.05.21 um 10:00 schrieb Ann Lee:",
        "Le lun. 3 mai 2021 à 10:00, Ann Lee <ann@example.org> a écrit :",
        "El lun, 3 may 2021 a las 10:00, Ann Lee (<ann@example.org>) escribió:",
        "Il giorno lun 3 mag 2021 alle ore 10:00 Ann Lee <ann@example.org> ha scritto:",
        "Em seg., 3 de mai. de 2021 às 10:00, Ann Lee <ann@example.org> escreveu:",
        "Op ma 3 mei 2021 om 10:00 schreef Ann Lee <ann@example.org>:",
        "Den mån 3 maj 2021 kl 10:00 skrev Ann Lee <ann@example.org>:",
        "Den man. 3. maj 2021 kl. 10.00 skrev Ann Lee <ann@example.org>:",
        "man. 3. mai 2021 kl. 10:00 skrev Ann Lee <ann@example.org>:",
        "pon., 3 maj 2021 o 10:00 Ann Lee <ann@example.org> napisał(a):",
        "W dniu 3.05.2021 o 10:00, Ann Lee pisze:",
        "пн, 3 мая 2021 г. в 10:00, Ann Lee <ann@example.org>:",
        "3 мая 2021 г., в 10:00, Ann Lee написал(а):",
        "2021年5月3日(月) 10:00 Ann Lee <ann@example.org>:",
        "Ann Lee <ann@example.org> 于2021年5月3日周一 10:00写道：",
        "Ann Lee <ann@example.org>, 3 May 2021 Pzt, 10:00 tarihinde şunu yazdı:",
        "po 3. 5. 2021 v 10:00 odesílatel Ann Lee <ann@example.org> napsal:",
        "ma 3. toukok. 2021 klo 10.00 Ann Lee (ann@example.org) kirjoitti:",
        "* Ann Lee <ann@example.org> [210503 10:00]:",
        "Quoting Ann Lee <ann@example.org>:",
        "Ann Lee writes:",
    ],
)
def test_attributions_of_many_programs_and_languages(line: str) -> None:
    body = f"Own words come first.\n\n{line}\n> quoted\n\nOwn words come last.\n"
    assert clean(body).text == "Own words come first.\n\nOwn words come last."
    assert kinds(body) == ["attribution", "quote"]


def test_an_attribution_may_be_wrapped() -> None:
    body = (
        "That is right.\n\n"
        "On Thu, Apr 22, 2021 at 09:16:40AM +0200, Someone with a rather long name\n"
        "<someone@lists.example.org> wrote:\n"
        "> Is it?\n"
    )
    assert clean(body).text == "That is right."


def test_an_attribution_without_marks_below_takes_the_rest() -> None:
    body = "Fine.\n\nOn Mon, May 3, 2021, Ann Lee <ann@example.org> wrote:\n\nIs it fine?\n\nAnn\n"
    assert clean(body).text == "Fine."
    assert kinds(body) == ["attribution", "quote"]


def test_a_sentence_that_ends_in_a_colon_is_no_attribution() -> None:
    body = "The report must hold a line like this:\n> #introduced: v5.7\n\nThe rest follows.\n"
    assert clean(body).text == "The report must hold a line like this:\n\nThe rest follows."


@pytest.mark.parametrize(
    "text",
    [
        "This is what I wrote:\n\nThe plan is fine as it stands.",
        "What she said on 3/4/2021 was:\n\nThe plan is fine as it stands.",
        "I keep what Ann wrote here:\n\nThe plan is fine as it stands.",
    ],
)
def test_prose_about_writing_is_no_attribution(text: str) -> None:
    assert clean(text).text == text
    quoting = text.replace("The plan", "> The plan")
    assert clean(quoting).text == text.split("\n")[0]


@pytest.mark.parametrize(
    ("marker", "fields"),
    [
        ("-----Original Message-----", "From|Sent|To|Subject"),
        ("-----Ursprüngliche Nachricht-----", "Von|Gesendet|An|Betreff"),
        ("-----Message d'origine-----", "De|Envoyé|À|Objet"),
        ("-----Mensaje original-----", "De|Enviado el|Para|Asunto"),
        ("-----Messaggio originale-----", "Da|Inviato|A|Oggetto"),
        ("-----Mensagem original-----", "De|Enviada em|Para|Assunto"),
        ("-----Oorspronkelijk bericht-----", "Van|Verzonden|Aan|Onderwerp"),
        ("-----Ursprungligt meddelande-----", "Från|Skickat|Till|Ämne"),
        ("-----Opprinnelig melding-----", "Fra|Sendt|Til|Emne"),
        ("-----Oryginalna wiadomość-----", "Od|Wysłano|Do|Temat"),
        ("-----Исходное сообщение-----", "От|Отправлено|Кому|Тема"),
        ("-----Some Unknown Tongue-----", "From|Sent|To|Subject"),
        ("________________________________", "From|Date|To|Subject"),
        ("", "From|Sent|To|Subject"),
        ("", "Von|Gesendet|An|Betreff"),
        ("", "*From*|*Sent*|*To*|*Subject*"),
        ("", "发件人|发送时间|收件人|主题"),
        ("", "差出人|送信日時|宛先|件名"),
    ],
)
def test_inline_originals_without_marks(marker: str, fields: str) -> None:
    names = fields.split("|")
    values = ["Ann Lee <ann@example.org>", "Monday, May 3, 2021 10:00", "Bob Hill", "the plan"]
    block = "\n".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
    body = f"Own words.\n\n{marker}\n{block}\n\nIs the plan fine?\n\nAnn\n"
    assert clean(body).text == "Own words."


@pytest.mark.parametrize(
    "block",
    [
        "Ann Lee@EXAMPLE\n05/03/2021 10:00 AM\nTo: Bob Hill/X/Y@Z\ncc:  \nSubject: the plan",
        "Ann Lee <ann@example.org> on 05/03/2021 10:00:00 AM\nTo: bob@example.org\ncc: \n\n"
        "Subject: it",
        "Ann Lee <ann@example.org> on 05/03/2021 \n10:00:00 AM\nTo: bob@example.org\ncc: \n"
        "Subject: it",
        "   \n\tExample Corp.\n\t\n\tFrom:  Ann Lee      05/03/2021 10:00 AM\n\t\n\nTo: Bob "
        "Hill/X@Y\n"
        "cc:  \nSubject: it",
        "From: Ann Lee on 05/03/2021 10:00 AM\nTo: Bob Hill/X/Y@Z\ncc: Carl Fox/X/Y@Z, Dora "
        "Elm/X/Y@Z, \n"
        "Emil Gray/X/Y@Z\n\nSubject: it",
        "Please respond to Ann Lee\nTo: Bob Hill/X/Y@Z\ncc: \nSubject: it",
    ],
)
def test_bare_notes_headers(block: str) -> None:
    body = f"Own words come first.\n\n\n\n{block}\n\nIs the plan fine?\n\nAnn\n"
    assert clean(body).text == "Own words come first."
    assert kinds(body) == ["header", "quote"]


def test_a_forward_marker_may_be_wrapped() -> None:
    body = (
        "Please read.\n"
        "---------------------- Forwarded by Ann Lee/X/Y on 05/03/2021 \n"
        "10:00 AM ---------------------------\n\n\n"
        "Carl Fox <carl@example.org> on 05/02/2021 09:00:00 AM\nTo: ann@example.org\ncc: \n"
        "Subject: it\n\n"
        "The text of Carl.\n"
    )
    assert clean(body).text == "Please read."
    assert kinds(body)[0] == "forward"


@pytest.mark.parametrize(
    "marker",
    [
        "---------- Forwarded message ---------",
        "---------- Weitergeleitete Nachricht ---------",
        "Begin forwarded message:",
        "----- Forwarded message from Ann Lee <ann@example.org> -----",
    ],
)
def test_forwards_go_with_all_they_hold(marker: str) -> None:
    body = (
        f"For you.\n\n{marker}\nFrom: Ann Lee <ann@example.org>\nDate: 3 May 2021\n"
        "Subject: it\n\nText.\n"
    )
    assert clean(body).text == "For you."
    assert "forward" in kinds(body)


def test_text_after_the_end_of_a_forward_is_kept() -> None:
    body = (
        "See here.\n\n----- Forwarded message from Ann <ann@example.org> -----\n\nText of Ann.\n\n"
        "----- End forwarded message -----\n\nWhat do you think of it?\n"
    )
    assert clean(body).text == "See here.\n\nWhat do you think of it?"


def test_a_header_block_above_marked_text_leaves_the_reply_below() -> None:
    body = (
        "----- Original Message -----\nFrom: Ann Lee\nTo: Bob Hill\nSent: Monday, May 3, 2021 "
        "10:00\n"
        "Subject: it\n\n> Is the plan fine?\n\nIt is fine by me.\n"
    )
    assert clean(body).text == "It is fine by me."


def test_a_message_that_only_forwards_has_no_own_words() -> None:
    body = (
        "---- Forwarded by Ann Lee on 05/03/2021 10:00 AM ----\n\nFrom: Carl\nTo: Ann\n"
        "Subject: it\n\nText"
    )
    assert clean(body).text == ""


@pytest.mark.parametrize(
    "body",
    [
        "Travel plan:\nFrom: Paris\nTo: Rome\nDate: next week",
        "Date: Friday\nPlace: the usual one\n\nBring what you need.",
        "Subject: of interest to all of us, as I said.",
        "To: do it well is hard.",
        "I asked for three things: time, help and money.",
    ],
)
def test_fields_that_are_the_authors_own_stay(body: str) -> None:
    assert clean(body).text == body
