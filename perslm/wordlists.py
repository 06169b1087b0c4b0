"""Word lists that entity finding and sentence segmentation look up. Data only.

The lists are part of the tokenizer's settings: a change here is a new ``TOKENIZER`` version.
"""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Top-level domains that make a dotted word without scheme or path a URL.
TOP_LEVEL = _set(
    """
    com org net edu gov mil int info biz name pro io dev app cloud xyz online site shop tech
    blog uk de fr nl eu ch se fi dk pl cz ru ua jp cn kr tw br mx ca au nz za es pt gr ie hu ro
    tv
    """
)

# File name extensions.
EXTENSIONS = _set(
    """
    doc docx xls xlsx ppt pptx pps pdf txt rtf odt ods odp csv tsv zip gz tgz tar bz2 xz rar 7z
    exe dll msi bat cmd sh ps1 jpg jpeg png gif bmp tif tiff svg webp mp3 mp4 wav avi mov mkv
    htm html css js ts jsx tsx json xml yaml yml toml ini cfg conf log md rst tex py pyc ipynb c
    h cc cpp hpp rs go java class jar kt rb php pl lua sql db mdb dat bin iso img patch diff eml
    mbox pst ics vcf bak tmp key pem crt
    """
)

# Month names and abbreviations of several languages.
MONTHS = _set(
    """
    jan january feb february mar march apr april may jun june jul july aug august sep sept
    september oct october nov november dec december januar februar märz mai juni juli oktober
    dezember okt dez janvier février fevrier mars avril juin juillet août aout septembre octobre
    novembre décembre enero febrero marzo abril mayo junio julio agosto septiembre octubre
    noviembre diciembre janeiro fevereiro março maio junho julho setembro outubro novembro
    dezembro gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre januari
    februari maart mei augustus maj augusti января февраля марта апреля мая июня июля августа
    сентября октября ноября декабря
    """
)

# Words that make the number after them an amount of money.
BEFORE_MONEY = _set(
    """
    usd eur gbp jpy chf cad aud nzd cny rmb inr rs r rub us hk
    """
)

# After "the password is" these tell something about it; anything else is taken for it.
TELLING = _set(
    """
    a an the not no in on at to for of and or if as by with from it its this that these my your
    his her our their same still now also just being been going too very so wrong incorrect
    correct right required needed invalid valid expired expiring reset changed changing set sent
    stored saved lost missing unknown secret safe secure weak strong long short case used
    working fine ok okay good bad available attached below above protected encrypted blank empty
    different there here always never what when where how why who which all only already about
    up out down ready
    """
)

# Parts of display names that do not stand for the person.
PARTICLES = _set(
    """
    and at bei behalf by da das de dei del della den der des di do dos du el for from la las le
    los mac mit of on st the to van via von zu zum zur mr mrs ms dr prof jr sr phd md esq inc
    llc ltd gmbh corp company co team group list mailing support info admin administrator sales
    service services office help desk helpdesk news newsletter noreply no reply mail email
    account department dept customer notifications notification www com org net edu gov ou cn
    ect
    """
)

# Names that are words too: taken for a name only where a word would not be capitalized.
COMMON_NAMES = _set(
    """
    art april august autumn baker banks bay bell best bill bishop black blue bond brook brown
    bush carol carter case chance chase chip christian clay cliff cook cross crystal dale daily
    dawn day dean dick don drew duke early earnest ernest faith field fields fish ford foster
    fox frank free gay gene gold good grace grant gray green guy hall harmony harper hart heath
    hill holiday holly hope hunt hunter iris ivy jack jade jay jean jewel joy june justice key
    king knight lance lane law lily little long love major mark marks marsh mason may mercy
    miles mills misty moon more moss olive page park parks pat patience pearl penny pierce pop
    power powers price prince rain ray read reed rich river rivers rob robin rock rose ruby
    rusty sage sandy savage sharp short sky small smart snow star stone storm street sue summer
    sun swift taylor terry tom trip turner victor violet wade walker wall ward waters way wells
    west white will wise wood woods worth young your you we he she it in is are so or an as be
    but my me not all any now new our out
    """
)

# First names that are months.
MONTH_NAMES = _set(
    """
    april august june may
    """
)

# Words after which such a name is the month.
BEFORE_MONTH = _set(
    """
    in of by since until till last next this early late mid during through from to every each
    before after for
    """
)

# Pieces of the words that announce a password, and of those that announce a number to be kept
# secret: where none occurs, no such word does. A slash stands for any white space.
ANNOUNCING = tuple(
    piece.replace("/", " ")
    for piece in _set(
        """
        passw passc passp pass-p pass-c pass-w pass/p pass/c pass/w passe pass: pass=
        pass/: pass/= phrase pw pin/ pin: pin= pin# pin- pincode pin： username user/name
        userid user/id login log-in logon contrase clave senha mdp secret kennwort
        geheim wachtwoord lösenord salasana hasło heslo парол пин şifre parola jelsz
        adgangs passord 密 パスワ 暗証 비밀 암호 كلمة סיסמה mật sandi
        """
    )
)
ANNOUNCING_NUMBERS = tuple(
    piece.replace("/", " ")
    for piece in _set(
        """
        secret token key otp cvv cvc code combination ssn social/sec tax/id passport account acct
        routing card member customer policy licen confirm reserv booking konto cuenta compte swift
        bic login logon id/ id: id= id#
        """
    )
)

# Abbreviations of titles, with a capital letter: a name follows, so no sentence ends with them.
TITLES = _set(
    """
    mr mrs ms dr prof rev hon gen rep sen gov capt lt col sgt cpl maj adm pres st ste mt ft
    messrs mme mlle mgr hr fr frl herr sr sra srta dott sig ing dipl dhr mevr
    """
)

# Abbreviations that another word always follows, in either case.
NEVER_LAST = _set(
    """
    vs e.g i.e eg ie cf viz approx bzw z.b d.h u.a v.a p.ej ej resp mr mrs ms dr
    """
)

# Abbreviations that may also end a sentence.
ABBREVIATIONS = _set(
    """
    etc inc ltd co corp llc llp plc jr sr esq dept assn assoc bros ave blvd rd hwy univ intl
    natl govt misc avg attn addl incl excl mfg mgmt amt acct asst usw etw evtl inkl exkl str pvt
    pty gmbh cie
    """
)

# Abbreviations only where a number follows.
BEFORE_NUMBER = _set(
    """
    no nos nr núm num fig figs sec secs sect ch chap vol vols p pp pg pgs art arts para paras eq
    ext rm apt bldg flr ste ex pt v cl max min tel fax ca est ref
    """
)

# Abbreviations only with a capital letter: "Sun.", but not "in the sun."
DAYS_AND_MONTHS = _set(
    """
    mon tue tues wed weds thu thur thurs fri sat sun jan feb mar apr jun jul aug sep sept oct nov
    dec     okt dez
    """
)

# Words that start a sentence when they follow an abbreviation with a capital letter.
STARTERS = _set(
    """
    The This That These Those I I'm I've I'll I'd We We're We've We'll We'd He He's She She's It
    It's They They're You You're You'll My Our Your Their His Her Its If When While As But And So Or
    Then There There's Here Here's Please Thanks Thank Let Let's What What's Why How Who Where Can
    Could Would Will Should May Do Does Did Don't Is Are Was Were Have Has However Also Just No Yes
    Not Now Once Since Because Although After Before For From In On At To With By A An Any All Some
    One Each Both Hello Hi Hey Dear Sorry Maybe Perhaps Otherwise Therefore Regards Best Sincerely
    """
)
