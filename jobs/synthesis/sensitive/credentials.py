"""Secrets in free text with a recognizable form: API keys with a provider's prefix, private keys, tokens, passwords.

The patterns of most providers come from detect-secrets, the missing ones are defined here. Its high-entropy and keyword
detectors are not used: in trajectories they find hashes, ids and camelCase. Secrets that only a label shows are found
by ``labeled_values.py``. ``replacement_plan.py`` calls this module.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from looper.jobs.synthesis.sensitive.kinds import SensitiveKind, SensitiveSpan
from looper.jobs.synthesis.sensitive.word_lists import NON_PASSWORDS


class _KeyFormat(NamedTuple):
    """The keys of one provider."""

    marks: tuple[str, ...]
    """Each text with a match contains one of them. Checking that first saves nearly all searches."""
    patterns: tuple[re.Pattern[str], ...]
    has_group: bool
    """Whether the group of a pattern is the secret. In other formats a group is only the prefix."""
    may_be_longer: bool
    """Whether a match may be the beginning of a longer key. Providers make their keys longer over time."""


_KEY_CHARACTERS = re.compile(r"[A-Za-z0-9_-]*")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<name>[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----(?:\\r)?(?:\\n|\s)"
    r"(?P<body>[^-\x00]{16,20000}?)(?:-----END|\Z|\x00)"
)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,4000}\.[\w-]{8,8000}(?:\.[\w-]{0,2000})?")
_BEARER = re.compile(r"\b(?:bearer|basic)\s+(?P<value>[\w.~+/=-]{16,4000})", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^\s:/?#\[\]@!$&'()*+,;=]{1,100}:(?P<value>[^\s:/?#@\"'<>{}]{3,200})@(?=[\w.\[-])")
_OTHER_KEYS = re.compile(
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
_TELEGRAM_BOT_TOKEN = re.compile(r"\d(?<![\w-]\d)\d{7,9}:[\w-]{35}(?![\w-])")
_GITLAB_MARKS = (
    "glpat-",
    "gldt-",
    "glft-",
    "glsoat-",
    "glrt-",
    "glcbt-",
    "glimt-",
    "glptt-",
    "glagent-",
    "gloas-",
    "GR1348",
)
_OTHER_MARKS = (
    *("github_pat_", "AIza", "ya29.", "hf_", "sk-", "k_live_", "k_test_", "whsec_", "npm_", "dop_v1_", "shpat_"),
    *("shpca_", "shppa_", "shpss_", "xapp-", "xox", "glpat-", "AGE-SECRET"),
)
_KEY_JOINS = frozenset("_-")


def find_credentials(text: str) -> Iterator[SensitiveSpan]:
    """Find secrets that their own form shows.

    Args:
        text: The text to search.

    Yields:
        The spans of keys and passwords, which may overlap.
    """
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield SensitiveSpan(*match.span("body"), SensitiveKind.KEY)
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            yield SensitiveSpan(*match.span(), SensitiveKind.KEY)
    if any(mark in text for mark in ("earer ", "asic ", "EARER ")):
        for match in _BEARER.finditer(text):
            if re.search(r"\d", match["value"]):
                yield SensitiveSpan(*match.span("value"), SensitiveKind.KEY)
    if "://" in text and "@" in text:
        for match in _URL_PASSWORD.finditer(text):
            if match["value"].lower() not in NON_PASSWORDS and "$" not in match["value"][:1]:
                yield SensitiveSpan(*match.span("value"), SensitiveKind.PASSWORD)
    if any(mark in text for mark in _OTHER_MARKS):
        for match in _OTHER_KEYS.finditer(text):
            yield SensitiveSpan(*match.span(), SensitiveKind.KEY)
    for key_format in _key_formats():
        if any(mark in text for mark in key_format.marks):
            yield from _find_keys(key_format, text)
    for match in _TELEGRAM_BOT_TOKEN.finditer(text):
        yield SensitiveSpan(*match.span(), SensitiveKind.KEY)


def _find_keys(key_format: _KeyFormat, text: str) -> Iterator[SensitiveSpan]:
    for pattern in key_format.patterns:
        for match in pattern.finditer(text):
            start, end = match.span(1 if key_format.has_group and pattern.groups else 0)
            if key_format.may_be_longer:
                rest = _KEY_CHARACTERS.match(text, end)
                end = rest.end() if rest else end
            if not (_continues_key(text[start - 1 : start]) or _continues_key(text[end : end + 1])):
                yield SensitiveSpan(start, end, SensitiveKind.KEY)


def _continues_key(neighbor: str) -> bool:
    return neighbor.isalnum() or neighbor in _KEY_JOINS


@cache
def _key_formats() -> tuple[_KeyFormat, ...]:
    # Imported late: it imports an HTTP client to verify keys with their providers, which is not used here.
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
        _KeyFormat(marks, tuple(detector.denylist), detector is aws.AWSKeyDetector, may_be_longer)
        for detector, marks, may_be_longer in (
            (aws.AWSKeyDetector, keys, False),
            (azure_storage_key.AzureStorageKeyDetector, ("AccountKey=",), False),
            (github_token.GitHubTokenDetector, ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), True),
            (gitlab_token.GitLabTokenDetector, _GITLAB_MARKS, True),
            (mailchimp.MailchimpDetector, ("-us",), False),
            (pypi_token.PypiTokenDetector, ("pypi-",), True),
            (sendgrid.SendGridDetector, ("SG.",), True),
            (slack.SlackDetector, ("hooks.slack.com",), True),
            (square_oauth.SquareOAuthDetector, ("sq0csp-",), False),
            (stripe.StripeDetector, ("k_live_",), True),
            (twilio.TwilioKeyDetector, ("AC", "SK"), False),
        )
    )
