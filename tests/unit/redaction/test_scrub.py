"""What is taken out of a text and what is left: generated secrets of real forms, and what only looks like one."""

import base64
import json
import random
import string
import uuid
from collections.abc import Callable

import pytest

from controlplane.redaction.marks import mark_of
from controlplane.redaction.scrub import scrub

ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
HEX = "0123456789abcdef"
URL_SAFE = ALNUM + "-_"
EACH = 10

Make = Callable[[random.Random], str]


def _some(alphabet: str, size: int) -> Make:
    return lambda chance: "".join(chance.choice(alphabet) for _ in range(size))


def _form(*parts: str | Make) -> Make:
    return lambda chance: "".join(part if isinstance(part, str) else part(chance) for part in parts)


def _jwt(chance: random.Random) -> str:
    def packed(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return ".".join(
        [packed({"alg": "HS256", "typ": "JWT"}), packed({"sub": str(chance.random())}), _some(URL_SAFE, 43)(chance)]
    )


def _key(chance: random.Random) -> str:
    body = "\n".join(_some(ALNUM + "+/", 64)(chance) for _ in range(4))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"


SECRETS: dict[str, Make] = {
    "github": _form("ghp_", _some(ALNUM, 36)),
    "github app": _form("ghs_", _some(ALNUM, 36)),
    "github fine-grained": _form("github_pat_", _some(ALNUM, 22), "_", _some(ALNUM, 59)),
    "gitlab": _form("glpat-", _some(URL_SAFE, 20)),
    "anthropic": _form("sk-ant-api03-", _some(URL_SAFE, 93), "AA"),
    "openai": _form("sk-", _some(ALNUM, 20), "T3BlbkFJ", _some(ALNUM, 20)),
    "openai project": _form("sk-proj-", _some(URL_SAFE, 74), "T3BlbkFJ", _some(URL_SAFE, 74)),
    "aws id": _form("AKIA", _some("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)),
    "aws secret": _form("aws_secret_access_key = ", _some(ALNUM + "+/", 40)),
    "google": _form("AIza", _some(URL_SAFE, 35)),
    "google oauth": _form("GOCSPX-", _some(URL_SAFE, 28)),
    "slack bot": _form("xoxb-", _some(string.digits, 12), "-", _some(string.digits, 12), "-", _some(ALNUM, 24)),
    "slack hook": _form(
        "https://hooks.slack.com/services/T", _some(UPPER, 8), "/B", _some(UPPER, 8), "/", _some(ALNUM, 24)
    ),
    "stripe": _form("sk_live_", _some(ALNUM, 24)),
    "stripe hook": _form("whsec_", _some(ALNUM, 32)),
    "sendgrid": _form("SG.", _some(URL_SAFE, 22), ".", _some(URL_SAFE, 43)),
    "npm": _form("npm_", _some(ALNUM, 36)),
    "pypi": _form("pypi-AgEIcHlwaS5vcmc", _some(URL_SAFE, 90)),
    "hugging face": _form("hf_", _some(string.ascii_letters, 34)),
    "digital ocean": _form("dop_v1_", _some(HEX, 64)),
    "shopify": _form("shpat_", _some(HEX, 32)),
    "telegram": _form(_some("123456789", 9), ":AA", _some(URL_SAFE, 33)),
    "discord": _form("M", _some(ALNUM, 23), ".", _some(ALNUM, 6), ".", _some(URL_SAFE, 27)),
    "twilio": _form("SK", _some(HEX, 32)),
    "mailgun": _form("key-", _some(HEX, 32)),
    "databricks": _form("dapi", _some(HEX, 32)),
    "azure storage": _form("AccountKey=", _some(ALNUM + "+/", 86), "=="),
    "vault": _form("hvs.", _some(URL_SAFE, 90)),
    "jwt": _jwt,
    "private key": _key,
    "database url": _form("postgresql://app:", _some(ALNUM, 14), "@db.internal:5432/app"),
    "password": _form("password: ", _some(ALNUM + "!$%", 12), "9"),
    "api key": _form("API_KEY='", _some(ALNUM, 32), "'"),
    "bearer": _form("Authorization: Bearer ", _some(ALNUM, 40)),
    "openrouter": _form("sk-or-v1-", _some(HEX, 64)),
    "brevo": _form("xkeysib-", _some(HEX, 64), "-", _some(ALNUM, 16)),
    "rubygems": _form("rubygems_", _some(HEX, 48)),
    "pulumi": _form("pul-", _some(HEX, 40)),
    "airtable": _form("pat", _some(ALNUM, 14), ".", _some(HEX, 64)),
    "docker": _form("dckr_pat_", _some(URL_SAFE, 27)),
    "atlassian": _form("ATATT3xFfGF0", _some(URL_SAFE, 160), "=", _some(HEX.upper(), 8)),
    "azure signature": _form("?sv=2024-01-01&sr=b&sig=", _some(ALNUM, 43), "%3D"),
    "api key in words": _form("the api key: ", _some(HEX, 32)),
    "password in words": _form("the password was ", _some(ALNUM + "!$%", 12), "9"),
    "command line": _form("mysql --user app --password ", _some(ALNUM + "!%", 12), "9"),
    "curl": _form("curl -sS -u app:", _some(ALNUM, 14), " https://example.com"),
    "netrc": _form("machine example.com login ada password ", _some(ALNUM, 14)),
    "random": _some(ALNUM, 40),
    "random base64": _some(ALNUM + "+/", 44),
}


def _camel(chance: random.Random) -> str:
    words = [
        "Customer",
        "Invoice",
        "Factory",
        "Bean",
        "Abstract",
        "Kubernetes",
        "Controller",
        "Manager",
        "V2",
        "Http",
    ]
    return "".join(chance.choice(words) for _ in range(5))


def _slug(chance: random.Random) -> str:
    words = [
        "how",
        "to",
        "move",
        "a",
        "large",
        "database",
        "without",
        "downtime",
        "in",
        "12",
        "steps",
        "part",
        "two",
        "of",
        "three",
        "for",
        "teams",
    ]
    return "-".join(chance.choice(words) for _ in range(9))


LOOK_ALIKES: dict[str, Make] = {
    "uuid": lambda chance: f"order {uuid.UUID(int=chance.getrandbits(128))}",
    "commit": _form("fixed in commit ", _some(HEX, 40)),
    "short commit": _form("see ", _some(HEX, 7), "..", _some(HEX, 7)),
    "digest": _form("image@sha256:", _some(HEX, 64)),
    "md5": _form("the md5 is ", _some(HEX, 32)),
    "integrity": _form("integrity sha512-", _some(ALNUM + "+/", 86), "=="),
    "fingerprint": _form("host key SHA256:", _some(ALNUM + "+/", 43)),
    "our id": _form("session sesn_", _some("0123456789abcdefghjkmnpqrstvwxyz", 26)),
    "ulid": _form("ticket 01", _some("0123456789ABCDEFGHJKMNPQRSTVWXYZ", 24)),
    "path": _form("/home/ada/src/", _camel, "/", _camel, ".java"),
    "class": _form("the class ", _camel, " is too long"),
    "slug": _form("https://blog.example.com/2024/05/", _slug),
    "snake": _form("max_open_connections_per_worker_", _some(string.digits, 3)),
    "version": _form(
        "upgrade to v", _some("123456789", 1), ".", _some(string.digits, 2), ".3-rc.1+build.", _some(string.digits, 5)
    ),
    "iban": _form("IBAN DE", _some(string.digits, 20)),
    "phone": _form("call +49 40 ", _some(string.digits, 8)),
    "isbn": _form("ISBN 978-3-", _some(string.digits, 9)),
    "address": _form(
        "server 2001:db8:", _some(HEX, 4), ":", _some(HEX, 4), "::1 and 10.0.", _some("123456789", 2), ".7"
    ),
    "pod": _form(
        "pod billing-worker-", _some("bcdfghjklmnpqrstvwxz2456789", 9), "-", _some("bcdfghjklmnpqrstvwxz2456789", 5)
    ),
    "time": _form("at 2024-05-0", _some("123456789", 1), "T10:22:33.123456+02:00"),
    "prose about passwords": _form(
        "the password is rotated every ", _some("123456789", 2), " days by the vault team"
    ),
    "placeholder": _form("set API_KEY=${", _some(string.ascii_uppercase, 8), "} and password: <your password>"),
    "token count": _form("the token limit is ", _some("123456789", 5), " tokens"),
    "colour": _form("the brand is #", _some(HEX.upper(), 6)),
    "library": _form("pip install scikit-learn==1.", _some(string.digits, 1), ".2 sk-learn-contrib"),
    "serial": _form("serial number KX-", _some(string.digits, 5), "-", _some(string.ascii_uppercase, 3)),
    "coordinates": _form("at 53.", _some(string.digits, 6), "N 9.", _some(string.digits, 6), "E"),
    "public key": _form("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI", _some(ALNUM + "+/", 43), " ada@example.com"),
    "name of a secret": _form("secret_name: prod/db-", _some(string.ascii_lowercase, 6)),
    "algorithm": _form("password_hash_algorithm: argon2id", _some("123456789", 2)),
    "ipfs": _form("pinned as Qm", _some("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", 44)),
    "option": _form("run it with --token-file /run/secrets/", _some(string.ascii_lowercase, 8)),
    "chess": lambda chance: "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7 " + str(chance.randrange(99)),
}

_SENTENCES = (
    "Note for later: {} was used last week.",
    "{}",
    "We agreed on {} - ask Ada if in doubt.",
    "- item\n- {}\n",
)


def _all(makers: dict[str, Make]) -> list[tuple[str, str, str]]:
    chance = random.Random(20)
    found: list[tuple[str, str, str]] = []
    for kind, make in makers.items():
        for number in range(EACH):
            value = make(chance)
            found.append((kind, value, _SENTENCES[number % len(_SENTENCES)].format(value)))
    return found


def _secret_part(value: str) -> str:
    """Return what of a generated secret must not be left: the longest run of it."""
    return max(value.replace("@", " ").replace("'", " ").replace(":", " ").split(), key=len)


def test_generated_secrets_are_found():
    cases = _all(SECRETS)
    missed = [(kind, value) for kind, value, text in cases if _secret_part(value) in scrub(text).text]
    assert len(cases) >= 200
    assert len(missed) <= 0.02 * len(cases), missed


def test_what_only_looks_like_a_secret_stays():
    cases = _all(LOOK_ALIKES)
    changed = [(kind, scrub(text).text) for kind, _, text in cases if scrub(text).text != text]
    assert len(cases) >= 200
    assert len(changed) <= 0.02 * len(cases), changed


def test_a_secret_of_a_vault_is_known_wherever_it_stands():
    key = b"k" * 32
    known = [
        mark_of(key, "plain words they chose"),
        mark_of(key, "käsebrot1"),
        mark_of(b"other key" * 4, "unrelated"),
    ]
    found = scrub("so: plain words they chose!käsebrot1käsebrot1 unrelated", key=key, known=known)
    assert found.text.count("[redacted: a secret of the vault]") == 3
    assert found.text.endswith(" unrelated")


def test_a_secret_of_a_vault_is_known_where_it_is_escaped():
    key = b"k" * 32
    secret = 'p"w\\ü\n😀 tail'
    known = [mark_of(key, secret)]
    for dumped in (
        json.dumps({"a": secret, "b": "kept"}),
        json.dumps({"a": secret, "b": "kept"}, ensure_ascii=False),
        json.dumps(json.dumps({"a": json.dumps(secret), "b": "kept"})),
    ):
        found = scrub(f"see {dumped} \\ after", key=key, known=known)
        assert found.kinds == ("a secret of the vault",)
        assert "kept" in found.text and found.text.endswith(" \\ after")
        assert "tail" not in found.text and "p" not in found.text.replace("kept", "")
    assert json.loads(scrub(json.dumps([secret]), key=key, known=known).text) == ["[redacted: a secret of the vault]"]


def test_what_meets_is_taken_out_once():
    token = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
    assert scrub(f"token = {token}.").text == "token = [redacted: GitHub Token]."


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "repeated",
    [
        "sk-",
        "sk-ant-",
        "eyJ",
        "eyJaaaaaaaa-",
        "a-",
        "a://x:",
        "//a/:_authToken=",
        "bearer ",
        "password=",
        "curl -u a:",
        "a:1:b:",
    ],
)
def test_no_text_takes_time_by_its_square(repeated: str):
    # Some of these took minutes; nothing here depends on how many seconds it are.
    text = (repeated * 100_000)[:200_000]
    assert scrub(text).text


def test_a_secret_on_every_line_is_taken_out_on_every_line():
    token = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
    assert scrub(f"{token}\n" * 3000).text == "[redacted: GitHub Token]\n" * 3000
