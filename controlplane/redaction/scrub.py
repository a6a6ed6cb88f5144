"""Secrets out of a text: known forms, what assignments call secret, random strings, and a vault's own values."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Protocol, cast

from controlplane.redaction import marks
from controlplane.redaction.marks import Mark

REDACTED = "[redacted: {}]"


@dataclass(frozen=True)
class Found:
    """A secret in a text: where it stood, and what kind it is."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Scrubbed:
    """A text without its secrets, and of which kinds those were, in order."""

    text: str
    kinds: tuple[str, ...]


class _Detector(Protocol):
    secret_type: str

    def analyze_string(self, string: str) -> Iterator[str]: ...


# Forms that the kept rule set does not know yet, as their issuers document them.
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("Bulkhead API Key", r"\bbhk_[A-Za-z0-9_-]{30,}"),
        ("GitHub Token", r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b|\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
        ("Anthropic Key", r"\bsk-ant-[a-z0-9]+-[A-Za-z0-9_-]{24,}"),
        ("OpenAI Key", r"\bsk-(?=[A-Za-z0-9_-]{0,60}\d)(?=[A-Za-z0-9_-]{0,60}[A-Z])[A-Za-z0-9_-]{32,}"),
        ("OpenRouter Key", r"\bsk-or-v1-[0-9a-f]{64}\b"),
        ("Google API Key", r"\bAIza[0-9A-Za-z_-]{35}"),
        ("Google OAuth Token", r"\bya29\.[0-9A-Za-z_-]{20,}|\bGOCSPX-[0-9A-Za-z_-]{28}"),
        ("AWS Access Key", r"\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA|AROA|AIDA)[A-Z2-7]{16}\b"),
        ("GitLab Token", r"\bgl(?:pat|dt|rt|cbt|ptt|ft|agent|oas|soat|ffct|imt)-[0-9A-Za-z_.-]{20,}"),
        ("Slack Token", r"\bxox[abeprs]-[0-9A-Za-z-]{10,}|\bxapp-\d-[A-Z0-9]+-\d+-[0-9a-f]{32,}"),
        ("Stripe Secret", r"\b(?:sk|rk)_(?:live|test)_[0-9A-Za-z]{16,}|\bwhsec_[0-9A-Za-z+/=]{24,}"),
        ("Hugging Face Token", r"\bhf_[A-Za-z]{30,}\b|\bapi_org_[A-Za-z]{30,}\b"),
        ("npm Token", r"\bnpm_[0-9A-Za-z]{36}\b"),
        ("PyPI Token", r"\bpypi-[0-9A-Za-z_-]{50,}"),
        ("SendGrid Key", r"\bSG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{16,64}"),
        ("DigitalOcean Token", r"\bdo[opr]_v1_[0-9a-f]{64}\b"),
        ("Shopify Token", r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b"),
        ("Linear Key", r"\blin_(?:api|oauth)_[0-9A-Za-z]{32,}"),
        ("Notion Token", r"\b(?:ntn_[0-9A-Za-z]{40,}|secret_[0-9A-Za-z]{43})\b"),
        ("Figma Token", r"\bfig[dou]_[0-9A-Za-z_-]{30,}"),
        ("Vault Token", r"\bhv[sbr]\.[0-9A-Za-z_-]{24,}"),
        ("Doppler Token", r"\bdp\.(?:pt|st|sa|ct|scim|audit)\.(?:[a-z0-9_-]+\.)?[0-9A-Za-z]{40,44}\b"),
        ("Postman Key", r"\bPMAK-[0-9a-f]{24}-[0-9a-f]{34}\b"),
        ("Databricks Token", r"\bdapi[0-9a-f]{32}(?:-\d)?\b"),
        ("Grafana Token", r"\bgl(?:sa|c)_[0-9A-Za-z+/=_]{32,}"),
        ("New Relic Key", r"\bNRAK-[0-9A-Z]{27}\b"),
        ("Terraform Token", r"\b[0-9A-Za-z]{14}\.atlasv1\.[0-9A-Za-z_=-]{60,}"),
        ("Age Key", r"\bAGE-SECRET-KEY-1[0-9A-Z]{58}\b"),
        ("Airtable Token", r"\bpat[0-9A-Za-z]{14}\.[0-9a-f]{64}\b"),
        ("Atlassian Token", r"\bAT[AC]TT3[0-9A-Za-z_=-]{50,}"),
        ("Azure Signature", r"[?&;]sig=([0-9A-Za-z%+/]{40,}(?:%3[Dd]|=)?)"),
        ("Brevo Key", r"\bxkeysib-[0-9a-f]{64}-[0-9A-Za-z]{16}\b"),
        ("Docker Token", r"\bdckr_[op]at_[0-9A-Za-z_-]{27,}"),
        ("Pulumi Token", r"\bpul-[0-9a-f]{40}\b"),
        ("RubyGems Key", r"\brubygems_[0-9a-f]{48}\b"),
        ("Supabase Token", r"\bsbp_[0-9a-f]{40}\b"),
        ("Fly Token", r"\bfo1_[0-9A-Za-z_-]{43}\b|\bFlyV1 fm\d+_[0-9A-Za-z+/=_,-]{20,}"),
        ("Sentry Token", r"\bsntry[su]_[0-9A-Za-z+/=_-]{40,}"),
        ("Mailgun Key", r"\bkey-[0-9a-f]{32}\b"),
        ("Mailchimp Key", r"\b[0-9a-f]{32}-us\d{1,2}\b"),
        ("Twilio Key", r"\bSK[0-9a-f]{32}\b"),
        ("Telegram Token", r"\b\d{8,10}:AA[0-9A-Za-z_-]{33}"),
        ("Discord Token", r"\b[MNO][A-Za-z\d_-]{23,27}\.[A-Za-z\d_-]{6}\.[A-Za-z\d_-]{27,38}"),
        ("Square Token", r"\bsq0(?:csp|atp)-[0-9A-Za-z_-]{22,43}|\bEAAA[0-9A-Za-z_-]{60}\b"),
        ("Azure Storage Key", r"AccountKey=[0-9A-Za-z+/]{86}=="),
        ("Azure AD Secret", r"\b[0-9A-Za-z_~.]{3}8Q~[0-9A-Za-z_~.-]{31,34}"),
        ("JSON Web Token", r"\beyJ[0-9A-Za-z_-]{8,2000}\.eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]*"),
        ("Webhook URL", r"https://hooks\.slack\.com/(?:services|workflows)/[0-9A-Za-z_/-]{20,}"
                        r"|https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\d+/[0-9A-Za-z_-]{40,}"),
        ("Bearer Token", r"(?i:\bbearer\s{1,20})(?=[\w.~+/-]{0,200}\d)([0-9A-Za-z._~+/-]{16,}=*)"),
        ("Password in a URL", r"\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@]{0,200}:([^\s/@]{3,500})@"),
        ("Password on a command line",
         r"(?i)\s--(?:password|passwd|pass|pwd|token|secret|api-?key|auth-token|access-token|client-secret)"
         r"(?: {1,4}|=)[\"']?([^\s\"'$<{-][^\s\"']{5,200})"),
        ("Password on a command line",
         r"\b(?:curl|wget|http|xh)\b[^\n|;]{0,300}?\s(?:-u|--user) ?[\"']?[^\s:\"'$]{1,100}:"
         r"([^\s\"'$][^\s\"']{2,200})"),
        ("Password of a .netrc",
         r"\bmachine\s{1,9}\S{1,200}\s{1,9}login\s{1,9}\S{1,200}\s{1,9}password\s{1,9}(\S{3,200})"),
        ("Password of a .pgpass",
         r"(?m:^)[\w.*-]{1,200}:(?:\d{2,5}|\*):[\w*-]{1,100}:[\w*-]{1,100}:(\S{3,200})(?m:$)"),
        ("Private Key", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
                        r"(?s:.*?)(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)"),
    )
)  # fmt: skip

_ASSIGNED = re.compile(
    r"(?i)(?<![a-z])(?P<name>[a-z0-9_.-]{0,40}?(?:password|passwd|passphrase|pwd|secret|token"
    r"|(?:api|access|private|auth)[ _-]?key|credentials?)(?:[_-][a-z0-9]{1,20}){0,2})[\"'`]?\s{0,20}"
    r"(?:=>|:=|=|:|\b(?:is|was)\b)\s{0,20}"
    r"(?P<value>\"[^\"\n]{6,}\"|'[^'\n]{6,}'|`[^`\n]{6,}`|[^\s\"'`,;]{6,})"
)
_NO_VALUE = re.compile(
    r"(?i)^(?:\$.*|<.*>|\{.*|%.*%?|\*+|\.+|x{3,}.*|\(.*|\[.*|https?:.*|/[\w./-]*|true|false|null|none|changeme"
    r"|your[-_ ].*|example.*|placeholder.*|redacted.*|process\.env.*|os\.environ.*|env[.(:].*|vault:.*|secretref.*)$"
)
_ABOUT_IT = frozenset(
    ["algorithm", "arn", "count", "expiry", "field", "file", "id", "ids", "label", "length", "limit", "manager",
     "name", "names", "path", "policy", "ref", "rotation", "ttl", "type", "uri", "url"]
)  # fmt: skip
"""Ends of names, such as `secret_name`, of what is not the secret itself."""
_WORDS = re.compile(r"[A-Za-z]+(?:[-_.'][A-Za-z]+)*[.!?:)]*")

_RANDOM = re.compile(r"(?<![\w+/=.~-])[A-Za-z0-9+/_~.-]{20,}={0,2}(?![\w+/=])")
_HEX = re.compile(r"[0-9a-fA-F-]+")
_HARMLESS_BEFORE = re.compile(
    r"(?i)(?:sha\d*|md5|blake\w*|integrity|digest|etag|checksum|fingerprint|h1)\W{0,3}$"
    r"|(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[\w@.-]{1,40} $"
)
_HARMLESS = re.compile(r"(?i:(?:sha\d+|md5|h1)[-_:]|/|.*\.[a-z]\w{0,4}$)|Qm[1-9A-HJ-NP-Za-km-z]{44}$")
"""Digests that say so, paths from the root, names of files, and addresses of IPFS."""
_ID = re.compile(r"[a-z]{2,12}_[0-9A-Za-z]{20,32}")
_PARTS = re.compile(r"[/._~+-]+")
_PIECE, _OVERLAP = 1_000, 300
"""Characters; what the kept rules find is shorter than what two pieces share."""
_SHORTEST_RANDOM = 20
_LEAST_BITS = 3.6
"""Of Shannon entropy per character: random text of 20 characters and more has more, names and paths less."""
_LEAST_CHANGES = 0.42
"""Random characters change their kind at three places of five, names in camel case at two of seven."""


def scrub(text: str, *, key: bytes = b"", known: Sequence[Mark] = (), guess: bool = True) -> Scrubbed:
    """Return a text without secrets. ``known``: those of the vaults, hashed under ``key``.

    ``guess``: also without what is only likely to be one, by what it is assigned to or by its randomness.
    """
    certain = [*_of_vaults(text, key, known), *_of_known_forms(text)]
    spans = _merged([*certain, *(_assigned(text) if guess else ()), *(_random(text) if guess else ())])
    pieces: list[str] = []
    last = 0
    for span in spans:
        pieces += [text[last : span.start], REDACTED.format(span.kind)]
        last = span.end
    return Scrubbed("".join([*pieces, text[last:]]), tuple(span.kind for span in spans))


def _merged(spans: list[Found]) -> list[Found]:
    """Return spans that do not meet: those that do become one, under the kind that was given first."""
    merged: list[tuple[int, Found]] = []
    for place, span in sorted(enumerate(spans), key=lambda each: (each[1].start, -each[1].end)):
        if merged and span.start < merged[-1][1].end:
            before, last = merged[-1]
            kind = span.kind if place < before else last.kind
            merged[-1] = min(place, before), Found(last.start, max(last.end, span.end), kind)
        else:
            merged.append((place, span))
    return [span for _, span in merged]


def _of_vaults(text: str, key: bytes, known: Sequence[Mark]) -> Iterator[Found]:
    for start, end in marks.found(key, known, text):
        yield Found(start, end, "a secret of the vault")


def _of_known_forms(text: str) -> Iterator[Found]:
    for kind, form in _FORMS:
        for match in form.finditer(text):
            group = 1 if match.lastindex else 0
            yield Found(match.start(group), match.end(group), kind)
    for detector in _detectors():
        for secret in {each for piece in _pieces(text) for each in detector.analyze_string(piece)}:
            yield from _every(text, secret, detector.secret_type)


def _pieces(text: str) -> Iterator[str]:
    """Yield the lines, long ones in pieces that overlap: some of the kept rules take time by a line's square."""
    for line in text.splitlines():
        for start in range(0, max(1, len(line) - _OVERLAP), _PIECE - _OVERLAP):
            yield line[start : start + _PIECE]


def _every(text: str, secret: str, kind: str) -> Iterator[Found]:
    place = text.find(secret) if len(secret) >= 8 else -1
    while place >= 0:
        yield Found(place, place + len(secret), kind)
        place = text.find(secret, place + len(secret))


@cache
def _detectors() -> tuple[_Detector, ...]:
    """Return those of detect-secrets' rules that name one issuer's form and seldom mean anything else."""
    from detect_secrets.plugins import (
        aws,
        azure_storage_key,
        discord,
        github_token,
        gitlab_token,
        jwt,
        npm,
        openai,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        telegram_token,
    )

    found = (
        aws.AWSKeyDetector(),
        azure_storage_key.AzureStorageKeyDetector(),
        discord.DiscordBotTokenDetector(),
        github_token.GitHubTokenDetector(),
        gitlab_token.GitLabTokenDetector(),
        jwt.JwtTokenDetector(),
        npm.NpmDetector(),
        openai.OpenAIDetector(),
        pypi_token.PypiTokenDetector(),
        sendgrid.SendGridDetector(),
        slack.SlackDetector(),
        square_oauth.SquareOAuthDetector(),
        stripe.StripeDetector(),
        telegram_token.TelegramBotTokenDetector(),
    )
    return cast("tuple[_Detector, ...]", found)


def _assigned(text: str) -> Iterator[Found]:
    for match in _ASSIGNED.finditer(text):
        start, end = match.span("value")
        quoted = text[start] in "\"'`"
        value = text[start + 1 : end - 1] if quoted else text[start:end].rstrip(".)]}")
        if _NO_VALUE.match(value) or (not quoted and _WORDS.fullmatch(value)) or " " in value:
            continue
        if match["name"].lower().replace("-", "_").rpartition("_")[2] in _ABOUT_IT:
            continue
        if value.replace("_", "").replace("-", "").isdigit() and len(value) < 8:
            continue
        begin = start + quoted
        yield Found(begin, begin + len(value), f"the value of {match['name'][:40]}")


def _random(text: str) -> Iterator[Found]:
    for match in _RANDOM.finditer(text):
        value = match.group().rstrip(".-~")
        if _HARMLESS_BEFORE.search(text[max(0, match.start() - 24) : match.start()]):
            continue
        if _looks_random(value):
            yield Found(match.start(), match.start() + len(value), "a random string")


def _looks_random(value: str) -> bool:
    if _HEX.fullmatch(value) or _ID.fullmatch(value) or _HARMLESS.match(value):
        return False
    core = max(_PARTS.split(value.rstrip("=")), key=len)
    if len(core) < _SHORTEST_RANDOM:
        # Random characters are cut by the signs among them into parts that look no more like words.
        core = "".join(part for part in _PARTS.split(value.rstrip("=")) if _is_mixed(part))
    if len(core) < _SHORTEST_RANDOM or not _is_mixed(core):
        return False
    return _bits(core) >= _LEAST_BITS and _changes(core) >= _LEAST_CHANGES


def _is_mixed(value: str) -> bool:
    has_digit = any(character.isdigit() for character in value)
    return has_digit and any(c.islower() for c in value) and any(c.isupper() for c in value)


def _changes(value: str) -> float:
    """Return how often neighbours are of different kinds: seldom in names, at every second place in random text."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in value]
    return sum(first != second for first, second in pairwise(kinds)) / (len(value) - 1)


def _bits(value: str) -> float:
    counts = Counter(value)
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
