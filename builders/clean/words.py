"""Closed-class words of mail, by language: the only vocabulary that the rules may lean on.

Theory of operation
-------------------
Everything here is a word class that any speaker of the language could list: the header fields
that mail programs translate, verbs of attribution ("wrote"), greeting and closing formulas, the
words of confidentiality notices, street and company words. There are no names of people or
companies and no phrases taken from any corpus, so that the rules mean the same on anyone's mail.

Formulas are stored as bags of words instead of sentences: a line is a closing if *every* word of
it is a closing word and at least one is a head ("regards", "Grüße"). That covers "Thanks again,",
"Many thanks and best regards" and "Mit freundlichen Grüßen" without listing combinations, and a
single foreign word ("thanks for the report") vetoes it. All entries are case-folded; spellings
that differ after folding stand side by side.
"""

from __future__ import annotations

from typing import Final


def _words(*groups: str) -> frozenset[str]:
    """Make a set of words from groups separated by spaces."""
    return frozenset(word for group in groups for word in group.casefold().split())


def _phrases(*groups: str) -> tuple[str, ...]:
    """Make a tuple of phrases from groups separated by ``|``."""
    return tuple(phrase for group in groups for phrase in group.casefold().split("|"))


# Header fields of inline originals, as mail programs print them, by canonical field.
_FIELD_NAMES: Final = {
    "from": _phrases(
        "from|von|absender|de|da|expéditeur|remitente|mittente|remetente|van|afzender|från|avsändare",
        "fra|avsender|afsender|od|nadawca|odesílatel|odosielateľ|от|от кого|від|відправник",
        "lähettäjä|feladó|kimden|gönderen|από|de la|מאת|من|dari|pengirim|từ|จาก",
        "差出人|発信者|发件人|寄件者|보낸 사람|보낸사람",
    ),
    "date": _phrases(
        "sent|sent on|date|date sent|gesendet|gesendet am|datum|envoyé|envoyé le|date d'envoi",
        "enviado|enviado el|enviada em|enviado em|fecha|data|inviato|inviata|verzonden|verstuurd",
        "skickat|sendt|dato|dátum|wysłano|wysłane|odesláno|odoslané|отправлено|дата|дата отправки",
        "надіслано|lähetetty|päivämäärä|elküldve|gönderildi|gönderme tarihi|tarih|ημερομηνία",
        "στάλθηκε|trimis|נשלח|תאריך|التاريخ|dikirim|tanggal|ngày|วันที่",
        "送信日時|日時|日付|发送时间|发送日期|日期|寄件日期|傳送時間|보낸 날짜|날짜",
    ),
    "to": _phrases(
        "to|an|empfänger|à|pour|destinataire|para|a|destinatario|destinatário|aan|ontvanger|till",
        "mottagare|til|mottaker|modtager|do|komu|кому|vastaanottaja|címzett|kime|alıcı|προς|către",
        "אל|إلى|kepada|đến|ถึง|宛先|收件人|收件者|받는 사람|받는사람",
    ),
    "cc": _phrases(
        "cc|cc to|bcc|kopie|kopie (cc)|copie|copie à|cci|copia|con copia|cópia|ccn|kopia|kopi",
        "копия|копія|kopio|másolatot kap|bilgi|κοιν|עותק|نسخة|tembusan|抄送|副本|참조",
    ),
    "subject": _phrases(
        "subject|re|betreff|objet|asunto|assunto|oggetto|onderwerp|ämne|emne|temat|тема|aihe",
        "předmět|predmet|tárgy|konu|θέμα|subiect|נושא|الموضوع|perihal|subjek|chủ đề|เรื่อง",
        "件名|主题|主題|主旨|제목",
    ),
    "other": _phrases(
        "reply-to|reply to|importance|priority|sensitivity|attachments|attachment|sent by",
        "please respond to|respond to|message-id|x-mailer|organization|list-id|mailed-by|signed-by",
        "resent-from|resent-to|mime-version|content-type|content-transfer-encoding|user-agent",
        "followup-to|delivered-to|envelope-to|return-path|newsgroups|in-reply-to|references|when",
        "where|wichtigkeit|priorität|anlagen|antwort an|antworten an|répondre à|pièces jointes",
        "importancia|responder a|adjuntos|importanza|allegati|rispondi a|bijlagen|beantwoorden",
        "svar til|bilagor|приоритет|вложения",
    ),
}
FIELDS: Final[dict[str, str]] = {
    name: field for field, names in _FIELD_NAMES.items() for name in names
}
LONGEST_FIELD: Final = max(len(name) for name in FIELDS)

# Announcements of an inline original or of a forward, as printed between dashes.
ORIGINALS: Final = _phrases(
    "original message|original appointment|original e-mail|original email|reply message",
    "reply separator|ursprüngliche nachricht|originalnachricht|original-nachricht",
    "ursprünglicher termin|message d'origine|message original|message initial|mensaje original",
    "mensagem original|messaggio originale|oorspronkelijk bericht|origineel bericht",
    "ursprungligt meddelande|originalmeddelande|oprindelig meddelelse|original meddelelse",
    "opprinnelig melding|original melding|original besked|oryginalna wiadomość",
    "wiadomość oryginalna|původní zpráva|pôvodná správa|исходное сообщение",
    "оригинальное сообщение|оригінальне повідомлення|alkuperäinen viesti|eredeti üzenet",
    "orijinal mesaj|özgün ileti|αρχικό μήνυμα|mesaj original|mesajul original|הודעה מקורית",
    "الرسالة الأصلية|pesan asli|tin nhắn gốc",
    "元のメッセージ|原始邮件|原始郵件|邮件原件|원본 메시지|원본 메일",
)
FORWARDS: Final = _phrases(
    "forwarded message|forwarded by|forwarded from|forward message|forwarded mail",
    "forwarded email|forward header|begin forwarded message|start of forwarded message",
    "resent message|weitergeleitete nachricht|weitergeleitet von|anfang der weitergeleiteten",
    "message transféré|message réexpédié|transféré par|début du message|mensaje reenviado",
    "reenviado por|inicio del mensaje reenviado|mensagem encaminhada|mensagem reencaminhada",
    "encaminhado por|início da mensagem|messaggio inoltrato|inizio messaggio inoltrato",
    "inoltrato da|doorgestuurd bericht|doorgezonden bericht|begin doorgestuurd bericht",
    "vidarebefordrat meddelande|vidarebefordrat brev|videresendt meddelelse|videresendt besked",
    "videresendt melding|videresendt e-post|start på videresendt|przekazana wiadomość",
    "wiadomość przekazana|přeposlaná zpráva|preposlaná správa|пересылаемое сообщение",
    "пересланное сообщение|начало переадресованного|переслане повідомлення|välitetty viesti",
    "edelleenlähetetty viesti|továbbított üzenet|iletilen mesaj|yönlendirilen ileti",
    "προωθημένο μήνυμα|mesaj redirecționat|הודעה שהועברה|رسالة محولة|pesan terusan",
    "転送メッセージ|転送されたメッセージ|转发的邮件|转发邮件|轉寄郵件|전달된 메일|전달된 메시지",
)
END_OF_FORWARD: Final = _phrases(
    "end forwarded|end of forwarded|ende der weitergeleiteten|fin du message",
    "fin del mensaje|fine messaggio inoltrato|конец пересылаемого",
)

# Verbs that close (or sit inside) an attribution such as "On Monday Ann wrote:".
WROTE: Final = _words(
    "wrote writes said says schrieb schreibt geschrieben écrit escribió escribe scritto scrive",
    "escreveu escreve schreef geschreven skrev skriver napisał napisała napisał(a) pisze",
    "napsal napsala napsal(a) píše пишет писал писала написал написала написав пише kirjoitti",
    "írta yazdı έγραψε scris menulis",
)
WROTE_UNSPACED: Final = _phrases(
    "写道|寫道|のメッセージ|書きました|님이 작성|작성:|كتب|כתב|đã viết"
)
ATTRIBUTION_OPENERS: Final = _words(
    "on quoting am zitat le citando el il em op den på w dnia dne în pada на в у"
)

# Greeting formulas: a head first, then names and fillers.
HAILS: Final = _words(
    "hi hello hey hiya howdy dear dearest greetings yo gday aloha",
    "hallo moin servus grüezi guten liebe lieber liebes geehrte geehrter geehrtes sehr werte",
    "bonjour bonsoir salut coucou cher chère chers chères",
    "hola buenos buenas estimado estimada estimados estimadas querido querida queridos queridas",
    "ciao salve buongiorno buonasera gentile gentili egregio egregia caro cara cari care",
    "carissimo carissima spettabile olá oi prezado prezada prezados prezadas bom boa",
    "goede goedemorgen goedemiddag goedenavond beste geachte hoi",
    "hej hejsan tjena hei kære kjære bästa kära käre god moi moikka terve hyvä",
    "cześć czesc witam witaj dzień szanowny szanowna szanowni drogi droga drodzy",
    "dobrý ahoj čau vážený vážená vážení milý milá zdravo dobar poštovani poštovana pozdrav",
    "привет здравствуйте здравствуй добрый доброе уважаемый уважаемая уважаемые дорогой дорогая",
    "дорогие вітаю привіт шановний шановна шановні здраво",
    "merhaba selam sayın sevgili γεια καλημέρα καλησπέρα αγαπητέ αγαπητή αγαπητοί",
    "bună salutare stimate stimată dragă jó szia sziasztok kedves tisztelt tere labas sveiki",
    "halo selamat xin chào kính gửi שלום היי مرحبا السلام عزيزي नमस्ते สวัสดี",
)
HAIL_WORDS: Final = _words(
    "good morning afternoon evening day to from and the my there again both ladies gentlemen",
    "dr prof mr mrs ms miss mx sir madam sirs colleagues group gang people others of & /",
    "all everyone everybody folks team guys friends y'all ya'll",
    "tag morgen abend und sowie herr herrn frau damen herren ihr zusammen alle allerseits kollegen",
    "kolleginnen et à tous toutes monsieur madame mesdames messieurs m mme collègues équipe",
    "y a todos todas señor señora señores señoras sr sra srta días tardes noches equipo compañeros",
    "e tutti tutte signor signora dott dottore dottoressa avv colleghi senhor senhora dia tarde",
    "noite pessoal en heer mevrouw dhr mevr morgon dag allemaal collega's och kväll alla",
    "i og aften ettermiddag kaikki dobry panie pani panowie państwo wszystkim wszyscy den všichni",
    "день вечер утро всем коллеги друзья bey hanım herkese günler sabah napot",
)
HAIL_UNSPACED: Final = _phrases(
    "你好|您好|大家好|各位好|尊敬的|亲爱的|親愛的|こんにちは|こんばんは|おはよう|はじめまして",
    "お世話になっております|いつもお世話に|お疲れ様です|お疲れさまです|안녕하세요|안녕하십니까",
)
GROUPS: Final = _words(
    "all everyone everybody folks team guys gentlemen ladies friends colleagues group gang people",
    "both sir madam sirs y'all al zusammen alle kollegen tous toutes équipe todos todas equipo",
    "tutti tutte pessoal allemaal alla wszyscy kaikki всем коллеги",
)

# Closing formulas: at least one head, every other word a head or a filler.
CLOSE_HEADS: Final = _words(
    "thanks thank thankyou thx thanx tx tks tnx ty regards rgds rgs regs brgds wishes sincerely",
    "truly faithfully cordially respectfully warmly gratefully fondly cheers best love hugs xoxo",
    "xo yours br kr greetings appreciated bye goodbye ttyl peace",
    "grüße grüßen grüsse grüssen gruß gruss gruesse gruessen danke dank besten herzlichst mfg vg",
    "lg hochachtungsvoll tschüss",
    "merci cordialement salutations amicalement sincèrement amitiés bises bisous bàv cdlt",
    "respectueusement gracias saludos saludo atentamente atte cordialmente abrazo abrazos besos",
    "grazie saluti saluto cordialità distinti abbracci baci ciao",
    "obrigado obrigada obg abraços abraço atenciosamente att cumprimentos",
    "bedankt groeten groet groetjes dankjewel mvg tack hälsningar hälsning vänligen mvh",
    "hilsen hilsner hilsning tak takk kiitos terveisin terveiset",
    "pozdrawiam pozdrowienia pozdrawiamy dziękuję dziękujemy dzięki serdecznie poważaniem",
    "děkuji díky pozdravem zdravím ďakujem hvala pozdrav aitäh ačiū paldies lugupidamisega",
    "спасибо уважением пожеланиями благодарностью дякую повагою благодаря поздрави хвала",
    "teşekkürler teşekkür saygılarımla sevgiler selamlar ευχαριστώ εκτίμηση χαιρετισμούς",
    "mulțumesc mulţumesc stimă köszönöm üdvözlettel tisztelettel üdv",
    "terima kasih salam hormat trân trọng cảm ơn תודה בברכה شكرا تحياتي",
)
CLOSE_WORDS: Final = _words(
    "a again all always and as advance appreciate attention back be best bunch care consideration",
    "cooperation co-operation day days efforts enjoy ever everyone everything for friend from",
    "good great guys hard have help holiday holidays hope in is it kind kindest kindly lot lots",
    "luck many me meeting million most much my new next nice of our patience personal prompt",
    "regard regards season season's see seeing sincere so soon speed support talk the then this",
    "till time to tons tomorrow trouble understanding until u ur very warm warmest week weekend",
    "well with work year you you're your yours assistance feedback input hearing reply response",
    "suggestion suggestions comments interest",
    "christmas xmas easter thanksgiving merry happy monday tuesday wednesday thursday friday",
    "saturday sunday n & /",
    "mit freundlichen freundlichem freundliche herzlichen herzliche liebe lieben vielen viele",
    "schöne schönen schönes sonnige beste aus im voraus und dir ihnen euch ihr ihre dein deine",
    "wochenende tag noch für hilfe bis bald",
    "bien à vous toi avec mes nos meilleures sincères bonne journée soirée beaucoup par d'avance",
    "avance et pour votre aide très distinguées cordiales",
    "un una cordial cordiales mis muchas muchos por su tu ayuda de antemano atento mejores feliz",
    "cordiali migliori i miei tanti mille per il tuo suo aiuto anticipo attesa buona giornata",
    "serata muito muita com os meus melhores desde já pela ajuda bom uma grande",
    "met vriendelijke vriendelijk hartelijke bij voorbaat alvast voor je uw hulp veel fijne dag",
    "med vänlig vänliga bästa många på förhand så mycket hjälpen varma ha det bra",
    "venlig venlige vennlig kærlig mange forhånd for hjælpen bedste de beste god helg",
    "ystävällisin ystävällisesti paljon hyvää z wyrazami szacunku serdeczne góry za pomoc bardzo",
    "miłego dnia s přátelským mnoho předem moc hezký lijep sa štovanjem puno unaprijed",
    "с наилучшими искренним всего хорошего доброго большое заранее за помощь найкращими щирою з",
    "çok iyi günler şimdiden çalışmalar με πολλή cu mult anticipat szívélyes előre is szépen ve",
)
# Formulas in which no word alone says "closing".
CLOSE_PHRASES: Final = _phrases(
    "take care|all the best|talk soon|talk to you soon|talk to you later|speak soon|see you",
    "see you soon|see ya|see you tomorrow|see you later|more later",
    "have a good day|have a nice day|have a great day|have a good one|have a good weekend",
    "have a great weekend|have a nice weekend|have a great week|happy holidays|happy new year",
    "good luck|as always|your friend|keep in touch|stay well|stay safe|be well|xxx|xx",
    "looking forward to hearing from you|looking forward to seeing you|looking forward to it",
    "looking forward to meeting you|look forward to meeting you|look forward to seeing you",
    "look forward to hearing from you|bis bald|bis dann|bis morgen|bien à vous|bien à toi",
    "à bientôt|à plus|bonne journée|bonne soirée|hasta luego|hasta pronto|un abrazo|a presto",
    "até logo|até breve|tot ziens|tot snel|vi ses|vi snakkes|ha det|ha det bra|do zobaczenia",
    "všechno dobré|s pozdravem|всего доброго|всего хорошего|с уважением|до встречи",
    "görüşmek üzere|kolay gelsin",
)
CLOSE_UNSPACED: Final = _phrases(
    "此致|敬礼|敬禮|谢谢|謝謝|祝好|顺祝|順頌|よろしくお願い|宜しくお願い|敬具|以上、よろしく",
    "ありがとうございます|감사합니다|고맙습니다|드림",
)

# Ordinary words that open a line or stand alone on one, and so are no names.
NOT_NAMES: Final = _words(
    "yes no yep yeah yea yup nope nah ok okay sure right true wrong false correct agreed done",
    "great good fine nice cool perfect excellent wow congrats congratulations welcome oh ah hmm hm",
    "ack nack ya yay eh err er um uh uhm hum heh hehe ahh aha meh bah sigh nod alas phew ouch fair",
    "apologies fantastic wonderful awesome brilliant funny odd strange fixed nobody somebody",
    "anybody nothing something everything anything",
    "ha haha lol well sorry oops thanks thank please hello hi hey dear cheers best regards",
    "sincerely sir madam dude unsubscribe subscribe help stop wait look listen read remember",
    "forget think know want need try make get go come keep let see call send click",
    "actually anyway also again now then so but and or however therefore thus hence first second",
    "third finally lastly next today tomorrow tonight yesterday soon later earlier currently",
    "lately recently basically obviously apparently generally usually probably maybe perhaps",
    "possibly certainly definitely absolutely exactly indeed unfortunately fortunately hopefully",
    "sadly luckily surely clearly simply naturally ultimately eventually initially originally",
    "previously subsequently consequently accordingly alternatively similarly likewise",
    "specifically especially overall really honestly seriously frankly personally additionally",
    "furthermore moreover meanwhile otherwise instead besides nevertheless nonetheless still yet",
    "just only even too much many most some any all each every both either neither not never",
    "always often sometimes once ditto same",
    "here there this that these those it its he she they we you i my our your his her their me us",
    "him them in on at by for from to of with without as if when while since because although",
    "though after before until unless per regarding concerning about given the a an what who whom",
    "whose where why how which is are was were be been am do does did has have had will would",
    "shall should can could may might must below above inside outside beyond within across during",
    "fyi btw imo imho asap eta n/a na tbd note notes update updates summary question questions",
    "answer answers reminder attention important urgent subject re fw fwd ps pps p.s. nb attached",
    "attachment attachments enclosed cc bcc sent date time place location address phone fax email",
    "agenda background status overview details example step steps option options item items part",
    "section chapter table figure list conclusion introduction page end start new old yours truly",
    "interesting understood noted confirmed approved received test testing total weather news",
    "hope looking based according abstract motivation description problem problems solution",
    "proposal proposals goal goals purpose rationale scope topic topics discussion context",
    "reference references links changes features benefits requirements todo plan plans results",
    "subject preface disclaimer warning caveat spoiler edit ps",
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri",
    "sat sun january february march april june july august september october november december",
    "ja nein doch also danke bitte leider heute morgen gestern hier dort oui non merci demain hier",
    "sí si gracias hoy mañana sì grazie oggi domani sim não obrigado hoje amanhã nee bedankt",
    "vandaag tack tak takk nej nei да нет спасибо сегодня завтра хорошо",
)

# Words of contact blocks.
CONTACT_LABELS: Final = _words(
    "tel telephone phone ph fax facsimile cell cellular mobile mob office direct pager home work",
    "voice switchboard email e-mail mail web website www url skype icq aim twitter linkedin github",
    "irc matrix jabber pgp gpg fingerprint address t f m p e w o d c h",
    "telefon telefax handy mobil büro durchwahl anschrift adresse téléphone portable télécopie",
    "bureau fijo móvil teléfono dirección telefono cellulare ufficio indirizzo telefone celular",
    "telefoon mobiel kantoor puhelin tlf komórka тел телефон моб факс",
)
PLACE_WORDS: Final = _words(
    "street st st. avenue ave ave. road rd rd. boulevard blvd blvd. drive dr lane ln suite ste",
    "floor fl. room rm building bldg plaza square court parkway pkwy highway hwy tower box p.o. po",
    "house park straße strasse str. platz weg allee gasse rue place calle avenida paseo via viale",
    "piazza rua laan straat gatan vej gate ulica ul. улица usa uk u.s.a.",
)
COMPANY_WORDS: Final = _words(
    "inc inc. corp corp. corporation company co co. llc l.l.c. llp l.l.p. ltd ltd. limited plc",
    "gmbh ag kg sa s.a. srl s.r.l. spa s.p.a. bv b.v. nv n.v. ab oy a/s aps sarl pty lp l.p. group",
    "institute university college school department dept dept. division laboratory laboratories",
    "center centre foundation association bank services solutions systems consulting partners",
    "technologies team office desk firm agency ministry networks",
    "universität hochschule université universidad università",
)
TITLE_WORDS: Final = _words(
    "president vice chairman chief officer executive ceo cfo cto coo vp svp evp director manager",
    "managing senior junior sr. jr. assistant associate counsel attorney lawyer partner engineer",
    "developer architect analyst consultant coordinator specialist administrator representative",
    "supervisor professor lecturer researcher scientist student candidate phd ph.d. md m.d. mba",
    "esq esq. secretary leader head lead editor trader broker accountant geologist paralegal",
    "recruiter maintainer founder principal fellow planner buyer technician nurse teacher",
    "librarian treasurer controller clerk advisor adviser deputy",
    "geschäftsführer leiter referent professorin directeur responsable ingénieur gerente ingeniero",
    "direttore responsabile",
)

# Stems that show up together only in confidentiality and virus notices. Any notice has one of the
# first kind.
NOTICE_STEMS: Final = _phrases(
    "confid|intended recipient|intended solely|intended only|privileged|addressee|not secure",
    "vertraulich|riservat|vertrouwelijk|konfidentiell",
    "fortrolig|конфиденциальн|gizli|důvěrn|niniejsz|irrtümlich",
)
DISCLAIMER_STEMS: Final = _phrases(
    "confidential|privileged|intended recipient|intended solely|intended only|solely for",
    "addressee|disclos|disseminat|unauthorized|unauthorised|prohibited|notify the sender",
    "notify us|in error|legally|delete|this e-mail|this email|this message|this transmission",
    "this communication|attachments|reliance|binding|virus|copying|destroy|without prejudice",
    "intercept|not secure|liability",
    "vertraulich|irrtümlich|unbefugt|adressat|empfänger|vernichten",
    "confidentiel|destinataire|par erreur|expéditeur|ce message",
    "confidencial|destinatario|por error|este mensaje|este correo|notifi",
    "riservat|destinatari|per errore|questo messaggio|destinatário|por engano",
    "vertrouwelijk|geadresseerde|dit bericht|onbevoegd|konfidentiell|fortrolig|niniejsz",
    "конфиденциальн|адресат|gizli|důvěrn",
)
