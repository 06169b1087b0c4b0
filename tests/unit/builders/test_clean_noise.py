"""What programs write: code, armour, footers, notices, auto-replies, placeholders."""

from __future__ import annotations

import pytest

from builders.clean import clean

PROSE = "The plan is fine by me, but the second part is too long."


def kinds(body: str) -> list[str]:
    return [zone.kind for zone in clean(body).zones]


@pytest.mark.parametrize(
    "code",
    [
        "diff --git a/x.c b/x.c\nindex 123..456 100644\n--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@ f()\n"
        " int a;\n-int b;\n+int c;",
        "--- x.c\t2021-01-01\n+++ x.c\t2021-01-02\n@@ -1 +1 @@\n-a\n+b",
        "```\nany text at all\n```",
        'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    g()\nValueError: bad',
        "Reviewed-by: Ann Lee <ann@example.org>",
        " fs/inode.c | 12 ++++++------\n 1 file changed, 6 insertions(+), 6 deletions(-)",
        "int main(void)\n{\n\treturn 0;\n}",
        "[   12.345678] something broke\n[   12.345679] and again",
        "1 2 3\n4 5 6",
    ],
)
def test_code_goes_and_prose_around_it_stays(code: str) -> None:
    body = f"{PROSE}\n\n{code}\n\nSo much for that, as far as I know.\n"
    assert clean(body).text == f"{PROSE}\n\nSo much for that, as far as I know."
    assert set(kinds(body)) == {"code"}


def test_prose_with_marks_of_code_stays() -> None:
    body = (
        "- the first point is that it is long;\n- the second (as ever) that it is late;\n\n"
        "I paid 3 times 40 in 2019, and 5 times 20 in 2020.\n"
    )
    assert clean(body).text == body.strip()


def test_pgp_armour_goes_and_the_signed_text_stays() -> None:
    body = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
        f"{PROSE}\n\n-----BEGIN PGP SIGNATURE-----\n\niQEzBAEBCAAdFiEE\n=abcd\n-----END PGP "
        f"SIGNATURE-----\n"
    )
    assert clean(body).text == PROSE
    assert kinds(body) == ["pgp", "pgp"]


@pytest.mark.parametrize(
    "footer",
    [
        "Sent from my iPhone",
        "Gesendet von meinem Handy",
        "Envoyé de mon iPhone",
        "Get Outlook for iOS",
        "_______________________________________________\nplans mailing list\n"
        "plans@lists.example.org\n"
        "https://lists.example.org/plans",
        "--\nYou received this message because you are subscribed to the group.",
        "-------------------------\nGet your free mail at http://www.example.org/",
    ],
)
def test_footers_go(footer: str) -> None:
    body = f"{PROSE}\n\n{footer}\n"
    assert clean(body).text == PROSE
    assert set(kinds(body)) <= {"footer", "signature"}


@pytest.mark.parametrize(
    "notice",
    [
        "This e-mail is confidential and intended solely for the addressee. If you are not "
        "the intended "
        "recipient, please notify the sender and delete it.",
        "CONFIDENTIALITY NOTICE\n\nThis message may hold privileged and confidential "
        "information. Any "
        "disclosure or copying\nby other than the intended recipient is prohibited.",
        "Diese Nachricht ist vertraulich und nur für den Adressaten bestimmt. Wenn Sie sie "
        "irrtümlich "
        "erhalten haben, ist jede Weitergabe unbefugt; bitte vernichten Sie sie.",
    ],
)
def test_disclaimers_go(notice: str) -> None:
    body = f"{PROSE}\n\n{notice}\n"
    assert clean(body).text == PROSE
    assert kinds(body) == ["disclaimer"]


def test_a_sentence_about_confidence_stays() -> None:
    body = f"{PROSE} Please keep this confidential and delete the attachments."
    assert clean(body).text == body


@pytest.mark.parametrize(
    "body",
    [
        "I am out of the office until 3 May with limited access to email.\nIn my absence, ask Ann.",
        "Ich bin bis 3. Mai nicht im Büro. In dringenden Fällen rufen Sie bitte an.",
        "This is an automatically generated message. Do not reply.",
        "Delivery to the following recipient failed permanently:\nann@example.org",
    ],
)
def test_automatic_messages_go_entirely(body: str) -> None:
    assert clean(body).text == ""
    assert kinds(body) == ["automatic"]


def test_writing_about_an_office_is_not_automatic() -> None:
    body = "Ann said that she would be out of the office, so let us meet on Friday instead."
    assert clean(body).text == body


def test_calendar_blocks_go_and_the_note_stays() -> None:
    body = (
        "When: Monday, May 3, 2021 10:00\nWhere: Room 3\n\n*~*~*~*~*~*~*~*~*~*\n\nPlease "
        "bring your plans along.\n"
    )
    assert clean(body).text == "Please bring your plans along."
    raw = f"{PROSE}\n\nBEGIN:VCALENDAR\nVERSION:2.0\nEND:VCALENDAR\n"
    assert clean(raw).text == PROSE


@pytest.mark.parametrize(
    "mark", ["<<plan.doc>>", "- plan 2.xls", "[image: logo]", "(See attached file: a.pdf)"]
)
def test_placeholders_of_attachments_go(mark: str) -> None:
    assert clean(f"{PROSE}\n\n{mark}\n").text == PROSE


def test_link_targets_left_over_from_html_go() -> None:
    body = "Please see the page <https://example.org/a?b=c> and tell me."
    assert clean(body).text == "Please see the page and tell me."


RULE = "_" * 40


@pytest.mark.parametrize(
    ("appended", "kind"),
    [
        ("Sent from my phone", "signature"),
        (f"{RULE}\nGet your free mail box at http://mail.example.org", "signature"),
        (f"{RULE}\nThe best seeds in town, www.example.org", "signature"),
        (f"{RULE}\nplans mailing list\nhttps://lists.example.org/plans", "footer"),
        (f"{RULE}\nTo change your profile, go to http://example.org/profile", "footer"),
        ("To unsubscribe, write to leave@example.org", "footer"),
        (
            f"{'*' * 40}\nThis message is confidential and intended solely for the addressee.\n"
            "Any disclosure or copying is prohibited. See http://example.org/legal",
            "disclaimer",
        ),
        (
            f"{'*' * 40}\nTo change your subscription go to http://example.org/profile\n\n"
            "This message is confidential and may be privileged. Unauthorized disclosure or\n"
            "copying is prohibited.",
            "footer",
        ),
    ],
)
def test_what_programs_append_has_the_kind_of_whose_it_is(appended: str, kind: str) -> None:
    body = f"{PROSE}\n\n{appended}\n"
    assert clean(body).text == PROSE
    assert kinds(body) == [kind]
