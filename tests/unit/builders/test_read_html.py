"""HTML mail to text: lines, hidden parts, and what each mail program quotes with."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.read.html import html_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("one<br>two<br/>three", "one\ntwo\nthree\n"),
        ("<div>one</div><div>two</div>", "one\ntwo\n"),
        ("<div>one</div><div><br></div><div>two</div>", "one\n\ntwo\n"),
        ("<p>one</p>\n<p>two</p>", "one\n\ntwo\n"),
        ("<p class=MsoNormal>one</p><p class=MsoNormal>two</p>", "one\ntwo\n"),
        ('<p style="margin:0">one</p><p style="margin:0">two</p>', "one\ntwo\n"),
        ("some <b>bold</b>\n  and <i>more</i> text", "some bold and more text\n"),
        ("a&amp;b &lt;c&gt; &eacute;&#8217;", "a&b <c> é’\n"),
        ("<ul><li>one<li>two</ul>after", "- one\n- two\n\nafter\n"),
        ("<ol><li><p>one</p></li></ol>", "- one\n"),
        ("<table><tr><td>a<td>b<tr><td>c</table>", "a b\nc\n"),
        ("<pre>x\n  y</pre>", "x\n  y\n"),
        ("one<hr>two", "one\n\ntwo\n"),
        ("", ""),
        ("<<<>", "<<<>\n"),
    ],
)
def test_lines(html: str, text: str) -> None:
    assert html_text(html) == text


@pytest.mark.parametrize(
    "hidden",
    [
        "<style>p {}</style>",
        "<script>f()</script>",
        "<!-- note -->",
        "<!--[if mso]><p>x</p><![endif]-->",
        '<div style="display: none">x</div>',
        '<span style="font-size:0px">x</span>',
        '<div style="color:red;max-height:0;overflow:hidden">x</div>',
        "<p hidden>x</p>",
        '<img alt="x" src="y">',
        "<title>x</title>",
    ],
)
def test_what_nobody_sees_is_left_out(hidden: str) -> None:
    assert html_text(f"<div>seen{hidden}</div>") == "seen\n"


QUOTE = "<div>mine</div>{}"


@pytest.mark.parametrize(
    ("program", "html"),
    [
        ("any", "<div>mine</div><blockquote>On Monday<br>theirs</blockquote>"),
        (
            "Gmail",
            '<div>mine</div><div class="gmail_quote"><div class="gmail_attr">On Monday</div>'
            '<blockquote class="gmail_quote"><div>theirs</div></blockquote></div>',
        ),
        (
            "Gmail, forwarding",
            '<div>mine</div><div class="gmail_quote">On Monday<br><div>theirs</div></div>',
        ),
        (
            "Thunderbird",
            '<p>mine</p><div class="moz-cite-prefix">On Monday<br></div>'
            '<blockquote type="cite">theirs</blockquote>',
        ),
        (
            "Outlook on the web",
            '<div>mine</div><hr><div id="divRplyFwdMsg">On Monday</div><div>theirs</div>',
        ),
        (
            "Outlook on the web, quoted in Outlook",
            '<div>mine</div><div id="x_divRplyFwdMsg">On Monday</div><div>theirs</div>',
        ),
        (
            "Outlook",
            '<div>mine</div><div><div style="border:none;border-top:solid #E1E1E1 1.0pt">'
            "<p class=MsoNormal><b>From:</b> Bob</p></div></div><p class=MsoNormal>theirs</p>",
        ),
        ("Yahoo", '<div>mine</div><div class="yahoo_quoted">On Monday<div>theirs</div></div>'),
        ("GMX", '<div>mine</div><div name="quote">On Monday<div>theirs</div></div>'),
    ],
)
def test_the_answered_message_is_marked(program: str, html: str) -> None:
    lines = [line for line in html_text(html).splitlines() if line.strip("> ")]
    assert lines[0] == "mine"
    assert len(lines) == 3
    assert all(line.startswith("> ") for line in lines[1:])


def test_answers_between_quotes_are_not_marked() -> None:
    html = (
        '<div class="gmail_quote"><blockquote class="gmail_quote">why?</blockquote>'
        "<div>because</div><blockquote class=gmail_quote>when?</blockquote><div>soon</div></div>"
    )
    assert html_text(html) == "> why?\n\nbecause\n\n> when?\n\nsoon\n"


def test_quotes_nest() -> None:
    html = "<blockquote>one<blockquote>two</blockquote>one again</blockquote>"
    assert html_text(html) == "> one\n>\n>> two\n>\n> one again\n"


def test_indented_text_is_no_quote() -> None:
    style = "margin:0 0 0 40px;border:none;padding:0px"
    assert html_text(f'<blockquote style="{style}">mine</blockquote>') == "mine\n"


def test_a_line_drawn_above_a_signature_is_no_quote() -> None:
    html = '<div>mine</div><div style="border:none;border-top:solid #ccc">Jane Doe</div>'
    assert html_text(html) == "mine\nJane Doe\n"


@given(st.text(st.sampled_from("<>/ab p=\"'&;!-\n") | st.characters(exclude_categories=["Cs"])))
def test_no_html_is_too_strange(html: str) -> None:
    text = html_text(html)
    assert text == "" or text.endswith("\n")


FONTS = "".join(f"<font size={n}>" for n in range(9000))


@pytest.mark.parametrize(
    "hostile",
    [
        "<div>" * 200_000,
        "<blockquote>" * 100_000 + "x",
        f"<p>{FONTS}</p>" + "<p>x</p>" * 9000,
        FONTS.replace(">", "></div>") + "<p>x</p>" * 9000,
        "<table><tr><td>" * 50_000,
    ],
)
def test_hostile_nesting_costs_little(hostile: str) -> None:
    began = time.process_time()
    html_text(hostile)
    assert time.process_time() - began < 5  # without bounds, minutes and gigabytes
