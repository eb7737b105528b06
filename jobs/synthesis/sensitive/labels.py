"""Fields in free text: ``password: x``, ``My phone number is x``, ``"ssn": "x"`` in what is not quite JSON."""

import re
from collections.abc import Iterator
from functools import lru_cache

from looper.jobs.synthesis.sensitive.dates import parse_date
from looper.jobs.synthesis.sensitive.fields import LAST_WORDS, holds, kind_of, looks_password, looks_random
from looper.jobs.synthesis.sensitive.kinds import Found, SensitiveKind
from looper.jobs.synthesis.sensitive.words import in_lower_case

_NO_NAME = re.compile(r"[^\w'’ -]+")
_OPTION = re.compile(r"--(?<!\S--)(?P<word>[a-z][a-z-]{2,30})[ =](?P<quote>[\"']?)")
_CAPITALISED = r"[^\W\d_a-zß-öø-ÿ][\w'’-]+"

_VALUES = {
    SensitiveKind.PHONE: re.compile(r"[+(]?\d[\d ().-]{5,20}\d(?!\w)"),
    SensitiveKind.CARD: re.compile(r"\d[\d -]{10,22}\d(?!\w)"),
    SensitiveKind.CODE: re.compile(r"\d{3,8}(?![\w.-])"),
    SensitiveKind.POSTCODE: re.compile(
        r"\d{5}(?:-\d{4})?(?!\w)|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}(?!\w)|[A-Z]\d[A-Z] ?\d[A-Z]\d(?!\w)"
    ),
    SensitiveKind.IDENTITY: re.compile(
        r"(?=(?:[A-Z.-]*\d){5})[A-Z\d][A-Z\d.-]{4,18}[A-Z\d](?!\w)|\d{3} \d{2} \d{4}(?!\w)"
    ),
    SensitiveKind.ACCOUNT: re.compile(r"(?=(?:[A-Z -]*\d){6})[A-Z\d](?:[ -]?[A-Z\d]){5,33}(?!\w)"),
    SensitiveKind.IP: re.compile(r"\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)|[0-9a-fA-F]{1,4}:[0-9a-fA-F:]{3,34}(?!\w)"),
    SensitiveKind.WALLET: re.compile(r"\w{20,100}"),
    SensitiveKind.NAME: re.compile(rf"{_CAPITALISED}(?: (?:de |la |del |van |von )?{_CAPITALISED}){{0,3}}(?!\w)"),
    SensitiveKind.ADDRESS: re.compile(r"""[^\n"'`;|<>{}\\\t]{5,120}"""),
}
_QUOTED = re.compile(r"""[^\n"'`]{3,4000}(?=["'`])""")
_BARE = re.compile(r"""[^\s"'`,;<>()\[\]]{3,4000}""")
_AFTER_ADDRESS = re.compile(
    r"[.!?] |\. ?$| (?:and|but|please|y) |,? \(?(?:phone|tel|mobile|call|e-?mail|contact)\b|,? \S*@|\+\d|\d{7}",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"(?:bearer|basic|token)\s+", re.IGNORECASE)


def labelled(text: str) -> Iterator[Found]:
    """What ``text`` says to be personal or secret by naming it right before."""
    lower = in_lower_case(text)
    present = tuple(word for word in _LAST_WORDS if word in lower)
    if present:
        for match in _label(present).finditer(lower):
            name = _NO_NAME.split(text[max(0, match.start() - 40) : match.end("word")])[-1]
            kind = kind_of(" ".join(name.split(" ")[-4:]).replace("'", "").replace("’", ""))
            found = _value(text, match, kind, said=match["verb"] is not None) if kind else None
            if found:
                yield found
    for match in _OPTION.finditer(text):
        kind = kind_of(match["word"])
        if kind is not None and kind.secret:
            found = _value(text, match, kind, said=False)
            if found:
                yield found


_LAST_WORDS = tuple(sorted({*LAST_WORDS, "contraseña", "dirección", "teléfono", "móvil", "número"}))


@lru_cache(maxsize=1024)
def _label(words: tuple[str, ...]) -> re.Pattern[str]:
    """What a value follows: one of ``words`` at a name's end, then a colon or a verb. In lower case."""
    return re.compile(
        rf"(?P<word>(?:{'|'.join(words)})s?_?\d{{0,2}})(?![^\W_])[\"'`*\\]{{0,4}}"
        r"(?:[ \t]{0,3}(?:=>|[:=])|[ \t]+(?P<verb>is|was|es|to|as)\b[ \t]*:?)[ \t]{0,4}(?P<quote>[\"'`*\\]{0,4})"
    )


def _value(text: str, label: re.Match[str], kind: SensitiveKind, *, said: bool) -> Found | None:
    start = label.end()
    if kind in (SensitiveKind.PASSWORD, SensitiveKind.KEY):
        return _secret(text, start, kind, quoted=bool(label["quote"]))
    if kind is SensitiveKind.BIRTH:
        date = parse_date(text[start : start + 30].split("\n")[0].ljust(8))
        return Found(start + date.start, start + date.end, kind) if date else None
    pattern = _VALUES.get(SensitiveKind.NAME if kind is SensitiveKind.FAMILY else kind)
    match = pattern.match(text, start) if pattern else None
    if match is None or (said and kind is SensitiveKind.ADDRESS and not text[start].isdigit()):
        return None
    value = match[0]
    if kind is SensitiveKind.ADDRESS:
        value = _AFTER_ADDRESS.split(value, maxsplit=1)[0].rstrip(" .,(")
        if re.match(r"\d", value) and not re.match(r"\d+\w? ", value):
            return None
    return Found(start, start + len(value), kind) if holds(kind, value) else None


def _secret(text: str, start: int, kind: SensitiveKind, *, quoted: bool) -> Found | None:
    scheme = _SCHEME.match(text, start)
    start = scheme.end() if scheme else start
    match = (_QUOTED.match(text, start) if quoted else None) or _BARE.match(text, start)
    if match is None:
        return None
    value = match[0].rstrip("\\")
    if not quoted:
        value = value.rstrip(".,:!?")
    if " " in value or text[start + len(value) : start + len(value) + 1] in ("(", "["):
        return None
    fits = looks_password(value) if kind is SensitiveKind.PASSWORD else looks_random(value)
    return Found(start, start + len(value), kind) if fits else None
