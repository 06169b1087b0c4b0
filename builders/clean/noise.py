"""Text that programs write or that is not prose: code, armour, footers, notices, auto-replies.

Theory of operation
-------------------
Each rule has a cheap trigger, one substring test over the whole body, and looks at lines only if
that fires, so ordinary mail pays for nothing.

* **pgp**: armour and signature blocks; the text of a signed message stays.
* **code**: unified diffs with their diffstat, fenced blocks, stack traces, kernel and program logs,
  commit trailers ("Reviewed-by: ..."), tables of figures, and paragraphs most of whose lines end or
  begin as only program lines do.
* **footer**: what lists and newsletters append: from a rule of dashes or underscores near the end,
  or the first line that speaks of a subscription.
* **signature**: what programs and providers append under the author's name: "Sent from my ...",
  and below a rule, a slogan or an advertisement with an address of the web.
* **disclaimer**: paragraphs that hold several word stems of confidentiality notices, and what
  stands below them; a block below a rule that reads as one.
* **automatic**: notices of absence and delivery (the whole body), calendar blocks,
  placeholders that stand where an attachment was ("<<report.doc>>"), link targets left
  over from HTML.
"""

from __future__ import annotations

import re
from typing import Final

from builders.clean.lines import LONG, Lines
from builders.clean.names import Author
from builders.clean.words import DISCLAIMER_STEMS, NOTICE_STEMS

_FOOTER_REACH: Final = 16
"""A footer starts at most this many visible lines above the end of the author's text."""

# Machine text about the whole message.

_ABSENCE: Final = re.compile(
    r"\b(?:I|I'm|I’m|we|ich|wir|je|nous|estoy|estaré|sono|sarò|estou|estarei|ik|jag|jeg|jestem|я)"
    r"\b.{0,60}?"
    r"(?:out of (?:the )?office|on (?:annual |vacation |parental |maternity |sick )?leave"
    r"|on vacation|away from (?:the office|my (?:desk|e-?mail))|nicht im (?:büro|hause)"
    r"|abwesend|absente? du bureau|en congés?|fuera de la oficina|fuori ufficio|ausente"
    r"|fora do escritório|niet op kantoor|afwezig|på semester|ikke på kontoret|poza biurem"
    r"|в отпуске)",
    re.IGNORECASE,
)
_ABSENCE_DETAIL: Final = re.compile(
    r"(?:access to (?:my )?e-?mail|in my absence|urgent (?:matters?|issues?|assistance)"
    r"|for (?:immediate|urgent)|will (?:respond|reply|return)|upon my return|dringend"
    r"|in (?:meiner )?abwesenheit|wieder erreichbar|en mon absence|mon retour|urgence"
    r"|en mi ausencia|urgente|in mia assenza|al mio rientro|na minha ausência|bij afwezigheid"
    r"|w pilnych|по возвращении)",
    re.IGNORECASE,
)
_MACHINE: Final = re.compile(
    r"(?:auto(?:matic|matische|matisk)?[- ]?(?:reply|response|antwort)"
    r"|auto(?:matically )?[- ]?generated (?:message|e-?mail)"
    r"|this is an auto(?:mated|matic|matically generated) (?:message|reply|response|e-?mail)"
    r"|réponse automatique|respuesta automática|risposta automatica|resposta automática"
    r"|automatisch(?:e| generierte) (?:antwort|nachricht|e-?mail)|automatisch antwoord|autosvar"
    r"|delivery (?:status notification|to the following recipients? failed)"
    r"|this message was created automatically by mail delivery"
    r"|your message\s+(?:to|was not delivered)|undeliverable:)",
    re.IGNORECASE,
)
_CALENDAR: Final = re.compile(
    r"(?:when|where|wann|wo|quand|où|cuándo|dónde|quando|dove|onde|när|var|hvornår|hvor|wanneer"
    r"|waar|kiedy|gdzie|когда|где|time zone|zeitzone)\s{0,3}:\s",
    re.IGNORECASE,
)


def mark_automatic(lines: Lines) -> None:
    """Mark a body that a program wrote as a whole, calendar blocks, attachment placeholders."""
    own = lines.own()
    if not own:
        return
    head = " ".join(lines.text[i][:LONG] for i in own[:4])
    if _MACHINE.match(head):
        lines.mark(0, len(lines), "automatic")
        return
    if len(own) <= 15 and _ABSENCE.search(head[:300]):
        whole = " ".join(lines.text[i][:LONG] for i in own)
        if _ABSENCE_DETAIL.search(whole):
            lines.mark(0, len(lines), "automatic")
            return
    _calendar(lines, own)
    if "<http" in lines.body or "<mailto:" in lines.body:
        _link_targets(lines, own)
    for i in own:
        text = lines.text[i]
        if text[0] in "<[(-" and _PLACEHOLDER.fullmatch(text[:LONG]):
            lines.mark(i, i + 1, "automatic")


_EXTENSION: Final = (
    r"\.(?:docx?|xls[xmb]?|pptx?|pdf|txt|zip|gz|jpe?g|gif|png|bmp|tiff?|htm|html|rtf|csv|vcf|ics|eml"
    r"|mp3|mp4|mov|avi|wpd|exe|odt|ods|ppsx?|tgz|7z|rar|xml|url|lnk|mdb|patch|diff)"
)
_PLACEHOLDER: Final = re.compile(
    rf"(?:<<[^<>]{{1,120}}>>|\[(?:IMAGE|image|cid:|inline image)[^\]]{{0,120}}\]"
    rf"|- [^<>]{{1,100}}{_EXTENSION}|\((?:See attached file|attached file)[^)]{{1,120}}\))"
    rf"(?:\s+(?:<<[^<>]{{1,120}}>>|- [^<>]{{1,100}}{_EXTENSION}))*\s*",
    re.IGNORECASE,
)


_LINK_TARGET: Final = re.compile(r"\s?<(?:mailto:|https?://)[^<>\s]{1,2000}>")


def _link_targets(lines: Lines, own: list[int]) -> None:
    """Cut the targets that turning HTML into text leaves behind links: ``text <http://...>``."""
    for i in own:
        text = lines.text[i]
        for match in _LINK_TARGET.finditer(text) if "<" in text else ():
            if match.start() or match.end() < len(text):
                lines.cut(i, match.start(), match.end(), "automatic")


def _calendar(lines: Lines, own: list[int]) -> None:
    if "BEGIN:V" in lines.body:
        first = next((i for i in own if lines.text[i].startswith("BEGIN:V")), None)
        last = next((i for i in reversed(own) if lines.text[i].startswith("END:V")), None)
        if first is not None and last is not None and first < last:
            lines.mark(first, last + 1, "automatic")
    if "*~*~*~" in lines.body:
        for position, i in enumerate(own):
            if lines.text[i].startswith("*~*~*~"):
                top = position
                while top and _CALENDAR.match(lines.text[own[top - 1]]):
                    top -= 1
                lines.mark(own[top], i + 1, "automatic")


# PGP


def mark_pgp(lines: Lines) -> None:
    """Mark PGP armour: headers and signature blocks, keys and encrypted messages entirely."""
    if "-----BEGIN PGP" not in lines.body:
        return
    texts = lines.text
    i = 0
    while i < len(texts):
        text = texts[i]
        if not text.startswith("-----BEGIN PGP"):
            i += 1
            continue
        end = i + 1
        if text.startswith("-----BEGIN PGP SIGNED"):
            while end < len(texts) and ":" in texts[end][:20]:
                end += 1
        else:
            while end < len(texts) and not texts[end].startswith("-----END PGP"):
                end += 1
            end = min(end + 1, len(texts))
        lines.mark(i, end, "pgp")
        i = end


# Code

_DIFF_START: Final = re.compile(r"(?:diff --git |diff -\S+ |Index: \S|--- \S+[\t/ ]|@@ -\d)")
_DIFF_LINE: Final = re.compile(
    r"(?:[-+ @\\]|$|diff |index [0-9a-f]|new file|deleted file|old mode|new mode|similarity "
    r"|rename |copy |Binary |GIT binary|Index: |={20})"
)
_DIFFSTAT: Final = re.compile(r"(?:\S{1,200} +\| +(?:\d+|Bin)\b|\d+ files? changed|create mode \d)")
_TRAILER: Final = re.compile(
    r"(?:[A-Z][a-z]+(?:-[A-Za-z]+){0,3}-by: \S|Fixes: [0-9a-f]{7,}|Cc: \S[^:]{0,80}@"
    r"|Link: https?://|Closes: https?://|Change-Id: I|Message-Id: <)"
)
_LOG: Final = re.compile(
    r"(?:\[ *\d{1,8}\.\d{3,9}\]|<\d>\[|\[<[0-9a-f]{8,16}>\]|0x[0-9a-f]{8,16}\b"
    r"|(?:\[T?\d+\] )?Call Trace:|at [\w$.<>]{3,120}\([\w$. ]{1,80}(?::\d+)?\)"
    r"|File \"[^\"]{1,200}\", line \d+|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S{1,60} \S{1,60}:|#\d+ +0x[0-9a-f]{4,}"
    r"|RIP: \d{4}:|[RE][A-Z0-9]{2}: [0-9a-f]{8,16} )"
)
_PROGRAM_END: Final = (";", "{", "}", "};", "*/", "\\", "});", ");")
_PROGRAM_START: Final = re.compile(
    r"(?:[$#%] \S|>>> |#include\b|#define\b|#if(?:n?def)?\b|#endif\b|def \w{1,60}\("
    r"|class \w{1,60}[:({]|import \w|from \w{1,60} import |return\b[^.]{0,60};|if \(|for \("
    r"|while \(|static \w|struct \w{1,60} \{|int \w{1,60}\(|void \w|public |private |/\*|\*/|//"
    r"|</?[a-z][a-z0-9]{0,10}[ >/]|\w{1,60}\(\) ?\{)"
)


def mark_code(lines: Lines) -> None:
    """Mark diffs, fenced blocks, traces, logs, commit trailers and program paragraphs."""
    body = lines.body
    if "\n@@ -" in body or "diff --git" in body or "\n+++ " in body:
        _diffs(lines)
    if "```" in body or "~~~" in body:
        _fences(lines)
    if "-by: " in body or " | " in body:
        for i in lines.own():
            text = lines.text[i]
            if len(text) < LONG and (_TRAILER.match(text) or _DIFFSTAT.match(text)):
                lines.mark(i, i + 1, "code")
    if "Traceback (most" in body:
        _tracebacks(lines)
    _program_text(lines)


def _diffs(lines: Lines) -> None:
    texts, raw = lines.text, lines.raw
    size = len(texts)
    i = 0
    while i < size:
        if lines.kind[i] is not None or not _DIFF_START.match(raw[i]):
            i += 1
            continue
        end = i + 1
        while end < size and lines.kind[end] is None and _DIFF_LINE.match(raw[end]):
            if texts[end] == "--" and raw[end].startswith("--"):
                break
            end += 1
        if any(raw[k].startswith(("@@ ", "+", "diff --git")) for k in range(i, min(end, i + 8))):
            lines.mark(i, end, "code")
        i = end


def _fences(lines: Lines) -> None:
    opened: int | None = None
    for i, text in enumerate(lines.text):
        if text.startswith(("```", "~~~")) and lines.kind[i] is None:
            if opened is None:
                opened = i
            else:
                lines.mark(opened, i + 1, "code")
                opened = None


def _tracebacks(lines: Lines) -> None:
    texts, raw = lines.text, lines.raw
    i = 0
    while i < len(texts):
        if texts[i].startswith("Traceback (most"):
            end = i + 1
            while end < len(texts) and raw[end].startswith((" ", "\t")):
                end += 1
            lines.mark(i, min(end + 1, len(texts)), "code")
            i = end
        i += 1


def _program_text(lines: Lines) -> None:
    """Mark paragraphs of which most lines are those of a program or a log."""
    paragraph: list[int] = []
    score = 0
    previous = -1
    for i in [*lines.own(), len(lines) + 1]:
        if i != previous + 1:
            if score >= 2 and score * 2 >= len(paragraph):
                lines.mark(paragraph[0], paragraph[-1] + 1, "code")
            paragraph, score = [], 0
        if i < len(lines):
            paragraph.append(i)
            text = lines.text[i]
            if text.endswith(_PROGRAM_END) or (
                not text[0].isalnum() or text[0].isdigit() or text[0].islower()
            ):
                line = text[:LONG]
                score += (
                    (text.endswith(_PROGRAM_END) and not _prose(line))
                    or bool(_PROGRAM_START.match(line))
                    or bool(_LOG.match(line))
                )
            elif text[0] in "FRECJASONDM" and _LOG.match(text[:LONG]):
                score += 1
        previous = i


def _prose(text: str) -> bool:
    """Tell whether a line that ends in ``;`` or ``)`` still reads as a sentence."""
    return text.count(" ") > 5 and "=" not in text and "(" not in text


_DIGIT: Final = re.compile(r"\d")


def mark_figures(lines: Lines) -> None:
    """Mark tables as code: two or more neighbouring lines that consist mostly of numbers.

    Comes after the rules for signatures, whose telephone numbers it would take.
    """
    run: list[int] = []
    for i in [*lines.own(), -1]:
        if i >= 0 and _DIGIT.search(lines.text[i]):
            words = lines.text[i][:LONG].split()
            numbers = sum(1 for word in words if _DIGIT.search(word))
            if numbers >= 2 and numbers * 2 >= len(words):
                run.append(i)
                continue
        if len(run) > 1:
            for k in run:
                lines.kind[k] = "code"
        run = []


# Footers and disclaimers

_SENT_FROM: Final = re.compile(
    r"(?:sent (?:from|via|with|by|using) (?:my |a |the )?\S|get outlook for |gesendet (?:von|mit) |"
    r"von meinem \S+ gesendet|diese nachricht wurde von |envoyé (?:de|depuis|à partir) |"
    r"enviado (?:desde|do|de|con) |inviato da|verzonden (?:vanaf|met|vanuit) |verstuurd vanaf "
    r"|skickat från |sendt fra |wysłane z |отправлено (?:с|из) |lähetetty |odesláno z "
    r"|outlook (?:for|für|pour|para) (?:ios|android)|iphone(?:か|から)|发自我的|從我的|나의 )",
    re.IGNORECASE,
)
_SENT_FROM_TAIL: Final = re.compile(
    r"\b(?:iphone|ipad|ipod|android|blackberry|phone|mobile|handheld|wireless|device|tablet|samsung"
    r"|nokia|outlook|mail|handy|smartphone|telefon|mobil\w*|móvil|tel[ée]\w*|yahoo|gmail|proton\w*"
    r"|thunderbird|galaxy|pixel|palm|treo|telefono|cellulare|aquamail|k-9|tutanota|mutt|gnus)\b"
    r"|から送信|我的|에서",
    re.IGNORECASE,
)
_RULE: Final = re.compile(r"[-_=*~#+.\s]*[-_=*~#]{4,}[-_=*~#+.\s]*$")
_FOOTER_SIGN: Final = re.compile(
    r"https?:[/\\]|www\.|mailing list|unsubscribe|subscri|do you yahoo|abmelden|mailingliste"
    r"|désabonner|liste de diffusion|darse de baja|lista de correo|disiscri|uitschrijven"
    r"|free e-?mail|download|scanned|antivirus|virus|powered by|click here|get your",
    re.IGNORECASE,
)
_LIST_FOOTER: Final = re.compile(
    r"\S{1,80} mailing list$|to unsubscribe\b"
    r"|you received this (?:message|e-?mail|bug report) because|you are receiving this"
    r"|to post to this group|for more options, visit this group|you are subscribed to"
    r"|reply to this email directly",
    re.IGNORECASE,
)
_LIST_SIGN: Final = re.compile(
    r"mailing list|unsubscribe|subscri|newsletter|opt[ -]out|all rights reserved|abmelden"
    r"|to (?:change|edit|manage|make changes to|modify|update) your|mailingliste|désabonner"
    r"|liste de diffusion|darse de baja|lista de correo|disiscri|uitschrijven"
    r"|/(?:mailman|listinfo|list)/",
    re.IGNORECASE,
)
_TAGLINE: Final = re.compile(
    r"this email has been checked for viruses|virus-free|no virus found"
    r"|please consider the environment|please avoid printing|diese e-mail wurde von"
    r"|get your free|do you yahoo",
    re.IGNORECASE,
)


def mark_footers(lines: Lines, author: Author) -> None:
    """Mark list footers, disclaimers and the advertisements of mail programs near the end."""
    _appended(lines, author)
    if _disclaimers(lines, lines.own()):
        _appended(lines, author)


def _appended(lines: Lines, author: Author) -> None:
    """Mark what was appended near the end: below a rule, or known by its first words."""
    own = lines.own()[-_FOOTER_REACH:]
    for position, i in enumerate(own):
        text = lines.text[i]
        if len(text) > LONG:
            continue
        below = own[position + 1 :]
        if _RULE.match(text) and len(below) <= 12:
            signs = any(_FOOTER_SIGN.search(lines.text[k][:LONG]) for k in below)
            if signs and not _person_below(lines, below, author):
                lines.mark(i, own[-1] + 1, _appended_kind(lines, below))
                return
        elif _LIST_FOOTER.match(text) or _TAGLINE.match(text):
            kind = _appended_kind(lines, own[position:])
            lines.mark(i, own[-1] + 1, kind)
            _rule_above(lines, i, kind)
            return
        elif len(text) < 90 and _SENT_FROM.match(text) and _SENT_FROM_TAIL.search(text):
            lines.mark(i, i + 1, "signature")
            _rule_above(lines, i, "signature")


def _appended_kind(lines: Lines, block: list[int]) -> str:
    """Tell a list's footer from a notice, and both from what goes with the author's name."""
    text = "\n".join(lines.text[i][:LONG] for i in block)
    if _LIST_SIGN.search(text) or _LIST_FOOTER.match(text):
        return "footer"
    return "disclaimer" if _is_notice(text.casefold()) else "signature"


def _is_notice(folded: str) -> bool:
    return (
        any(stem in folded for stem in NOTICE_STEMS)
        and sum(stem in folded for stem in DISCLAIMER_STEMS) >= 4
    )


_PHONE_OR_ADDRESS: Final = re.compile(r"\d{3}[ .-]\d{3,4}|[^\s@]@[^\s@]")


def _person_below(lines: Lines, below: list[int], author: Author) -> bool:
    """Tell whether a rule introduces someone's contact block rather than a footer."""
    first = lines.text[below[0]]
    if author.signs(first):
        return True
    if len(first) > 40 or _FOOTER_SIGN.search(first):
        return False
    return any(_PHONE_OR_ADDRESS.search(lines.text[k][:LONG]) for k in below)


def mark_last_rule(lines: Lines) -> None:
    """Mark rules of dashes that nothing follows once footers and signature are gone."""
    for i in reversed(lines.own()):
        text = lines.text[i][:LONG]
        if len(text) < 2 or not (_RULE.match(text) or text == text[0] * len(text)):
            return
        if text[0].isalnum():
            return
        lines.kind[i] = "signature"


def _rule_above(lines: Lines, i: int, kind: str) -> None:
    k = i - 1
    while k >= 0 and not lines.text[k]:
        k -= 1
    if k < 0 or lines.kind[k] is not None:
        return
    if lines.text[k] == "--" or _RULE.match(lines.text[k][:LONG]):
        lines.kind[k] = kind


def _disclaimers(lines: Lines, own: list[int]) -> bool:
    """Mark the first paragraph that is a confidentiality notice and what stands below it.

    Return whether there is one.
    """
    folded = lines.body.casefold()
    if not any(stem in folded for stem in NOTICE_STEMS):
        return False
    paragraphs: list[list[int]] = []
    for i in own:
        if paragraphs and paragraphs[-1][-1] == i - 1:
            paragraphs[-1].append(i)
        else:
            paragraphs.append([i])
    for position, paragraph in enumerate(paragraphs):
        text = " ".join(lines.text[i] for i in paragraph).casefold()
        if len(text) > 3000 or not _is_notice(text):
            continue
        first = paragraph[0]
        if position and _heading(lines, paragraphs[position - 1]):
            first = paragraphs[position - 1][0]
        lines.mark(first, own[-1] + 1, "disclaimer")
        _rule_above(lines, first, "disclaimer")
        return True
    return False


def _heading(lines: Lines, paragraph: list[int]) -> bool:
    """Tell whether a paragraph is the title of a notice ("CONFIDENTIALITY NOTICE")."""
    text = lines.text[paragraph[0]]
    return (
        len(paragraph) == 1
        and len(text) < 60
        and text[-1] not in ".,"
        and any(
            stem in text.casefold() for stem in ("confiden", "disclaimer", "notice", "vertraulich")
        )
    )
