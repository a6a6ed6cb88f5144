"""What is taken out of a text before it leaves: secrets of well-known forms, and mentions that call everybody."""

import re

_SECRETS = re.compile(
    r"""
      xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[A-Za-z0-9-]{10,}                # Slack
    | gh[pousr]_[A-Za-z0-9]{30,} | github_pat_[A-Za-z0-9_]{30,}              # GitHub
    | glpat-[A-Za-z0-9_-]{20,}                                               # GitLab
    | sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}                                   # Anthropic, OpenAI
    | bhk_[A-Za-z0-9_-]{30,}                                                 # ours
    | (?:AKIA|ASIA)[A-Z0-9]{16}                                              # AWS
    | AIza[A-Za-z0-9_-]{35}                                                  # Google
    | [sr]k_live_[A-Za-z0-9]{20,}                                            # Stripe
    | npm_[A-Za-z0-9]{36} | pypi-[A-Za-z0-9_-]{40,}                          # registries
    | eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}       # JSON web tokens
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_CODED = re.compile(r"<!\s*(channel|here|everyone|group)\b[^>]*>|<!subteam\^([A-Z0-9]+)[^>]*>", re.IGNORECASE)
_PLAIN = re.compile(r"@(?=(channel|here|everyone)\b)", re.IGNORECASE)

_GAP = "\u200b"
"""Has no width, and makes a mention a word like others."""


def scrub(text: str) -> str:
    """Return the text without secrets."""
    return _SECRETS.sub("[secret removed]", text)


def disarm(text: str) -> str:
    """Return the text with mentions of everybody as plain words."""
    return _PLAIN.sub(f"@{_GAP}", _CODED.sub(lambda found: f"@{_GAP}{(found[1] or found[2]).lower()}", text))


def fit_to_leave(text: str) -> str:
    """Return a text as it may leave."""
    return disarm(scrub(text))
