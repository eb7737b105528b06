"""Secrets in free text, known by their own look: keys with a maker's prefix, private keys, tokens, passwords in URLs.

The patterns of most makers come from detect-secrets; those that it lacks are here. Its finders of high entropy and of
keywords are left out: on trajectories they find hashes, ids and camelCase. ``labels.py`` reads what a secret is called.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from looper.jobs.synthesis.sensitive.kinds import Found, SensitiveKind
from looper.jobs.synthesis.sensitive.words import NO_PASSWORDS


class _Maker(NamedTuple):
    marks: tuple[str, ...]
    """One of them is in every text that has a match: looking for them first saves nearly all searches."""
    patterns: tuple[re.Pattern[str], ...]
    inner: bool
    """Whether the secret is the group of a pattern that has one; others group what is only its prefix."""
    grows: bool
    """Whether a match may be the beginning of a longer key: makers lengthen their keys."""


_TOKEN = re.compile(r"[A-Za-z0-9_-]*")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<name>[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----(?:\\r)?(?:\\n|\s)"
    r"(?P<body>[^-\x00]{16,20000}?)(?:-----END|\Z|\x00)"
)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,4000}\.[\w-]{8,8000}(?:\.[\w-]{0,2000})?")
_BEARER = re.compile(r"\b(?:bearer|basic)\s+(?P<value>[\w.~+/=-]{16,4000})", re.IGNORECASE)
_URL = re.compile(r"://[^\s:/?#\[\]@!$&'()*+,;=]{1,100}:(?P<value>[^\s:/?#@\"'<>{}]{3,200})@(?=[\w.\[-])")
_OTHERS = re.compile(
    r"(?<![\w-])(?:"
    r"github_pat_\w{22,255}"
    r"|AIza[\w-]{30,60}"
    r"|ya29\.[\w-]{20,400}"
    r"|hf_[A-Za-z0-9]{30,60}"
    r"|sk-(?=[\w-]{0,200}\d)(?:ant-|proj-|svcacct-|or-)?[\w-]{20,250}"
    r"|[srp]k_(?:live|test)_[A-Za-z0-9]{16,250}"
    r"|whsec_[A-Za-z0-9+/=]{16,100}"
    r"|npm_[A-Za-z0-9]{30,60}"
    r"|dop_v1_[a-f0-9]{64}"
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"
    r"|xapp-\d-[A-Z0-9]{6,20}-\d{6,20}-[a-f0-9]{20,80}"
    r"|xox[abeoprs]-[\w-]{16,250}"
    r"|glpat-[\w.-]{20,60}"
    r"|AGE-SECRET-KEY-1[A-Z0-9]{40,80}"
    r")(?![\w-])"
)
_BOT = re.compile(r"\d(?<![\w-]\d)\d{7,9}:[\w-]{35}(?![\w-])")
_GITLAB = ("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "glcbt-", "glimt-", "glptt-", "glagent-", "gloas-", "GR1348")
_OTHER_MARKS = (
    *("github_pat_", "AIza", "ya29.", "hf_", "sk-", "k_live_", "k_test_", "whsec_", "npm_", "dop_v1_", "shpat_"),
    *("shpca_", "shppa_", "shpss_", "xapp-", "xox", "glpat-", "AGE-SECRET"),
)
_JOINS = frozenset("_-")


def credentials(text: str) -> Iterator[Found]:
    """All secrets of ``text`` that show by themselves."""
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield Found(*match.span("body"), SensitiveKind.KEY)
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            yield Found(*match.span(), SensitiveKind.KEY)
    if any(mark in text for mark in ("earer ", "asic ", "EARER ")):
        for match in _BEARER.finditer(text):
            if re.search(r"\d", match["value"]):
                yield Found(*match.span("value"), SensitiveKind.KEY)
    if "://" in text and "@" in text:
        for match in _URL.finditer(text):
            if match["value"].lower() not in NO_PASSWORDS and "$" not in match["value"][:1]:
                yield Found(*match.span("value"), SensitiveKind.PASSWORD)
    if any(mark in text for mark in _OTHER_MARKS):
        for match in _OTHERS.finditer(text):
            yield Found(*match.span(), SensitiveKind.KEY)
    for maker in _makers():
        if any(mark in text for mark in maker.marks):
            yield from _made_by(maker, text)
    for match in _BOT.finditer(text):
        yield Found(*match.span(), SensitiveKind.KEY)


def _made_by(maker: _Maker, text: str) -> Iterator[Found]:
    for pattern in maker.patterns:
        for match in pattern.finditer(text):
            start, end = match.span(1 if maker.inner and pattern.groups else 0)
            if maker.grows:
                grown = _TOKEN.match(text, end)
                end = grown.end() if grown else end
            if not (_goes_on(text[start - 1 : start]) or _goes_on(text[end : end + 1])):
                yield Found(start, end, SensitiveKind.KEY)


def _goes_on(neighbour: str) -> bool:
    return neighbour.isalnum() or neighbour in _JOINS


@cache
def _makers() -> tuple[_Maker, ...]:
    # Imported late: it brings an HTTP client, for checking keys with their makers, which nothing here does.
    from detect_secrets.plugins import (
        aws,
        azure_storage_key,
        github_token,
        gitlab_token,
        mailchimp,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        twilio,
    )

    keys = ("AKIA", "ASIA", "ABIA", "ACCA", "A3T", "aws", "AWS", "Aws")
    return tuple(
        _Maker(marks, tuple(detector.denylist), detector is aws.AWSKeyDetector, grows)
        for detector, marks, grows in (
            (aws.AWSKeyDetector, keys, False),
            (azure_storage_key.AzureStorageKeyDetector, ("AccountKey=",), False),
            (github_token.GitHubTokenDetector, ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), True),
            (gitlab_token.GitLabTokenDetector, _GITLAB, True),
            (mailchimp.MailchimpDetector, ("-us",), False),
            (pypi_token.PypiTokenDetector, ("pypi-",), True),
            (sendgrid.SendGridDetector, ("SG.",), True),
            (slack.SlackDetector, ("hooks.slack.com",), True),
            (square_oauth.SquareOAuthDetector, ("sq0csp-",), False),
            (stripe.StripeDetector, ("k_live_",), True),
            (twilio.TwilioKeyDetector, ("AC", "SK"), False),
        )
    )
