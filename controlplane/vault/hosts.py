"""Host names that a credential may be bound to, in the form that the egress proxy compares with."""

from sandbox.egress.destination import canonical_host

_NOT_IN_NAMES = {"/": "a path", ":": "a port or a scheme", "@": "a user name", "?": "a query", "#": "a fragment"}

_REGISTRY_LABELS = frozenset(
    ["ac", "co", "com", "edu", "go", "gob", "gouv", "gov", "govt", "mil", "ne", "net", "nom", "or", "org", "sch"]
)
"""Second labels under which the registries of two-letter countries give names to anybody, such as in ``co.uk``."""

_SHARED_DOMAINS = frozenset(
    [
        "amazonaws.com",
        "appspot.com",
        "azurefd.net",
        "azurewebsites.net",
        "blogspot.com",
        "cloudfront.net",
        "deno.dev",
        "digitaloceanspaces.com",
        "firebaseapp.com",
        "fly.dev",
        "github.io",
        "gitlab.io",
        "glitch.me",
        "herokuapp.com",
        "netlify.app",
        "on.aws",
        "ngrok.app",
        "ngrok.io",
        "ngrok-free.app",
        "onrender.com",
        "pages.dev",
        "r2.dev",
        "railway.app",
        "repl.co",
        "run.app",
        "trycloudflare.com",
        "vercel.app",
        "web.app",
        "windows.net",
        "workers.dev",
    ]
)
"""Well-known domains in which anybody gets a name within a minute; not the whole list of public suffixes."""

_BY_SERVICE = frozenset(["amazonaws.com", "on.aws", "windows.net"])
"""Those where it is a name under a service's own, such as ``bucket.s3.amazonaws.com``: no wildcard at any depth."""


def bound_host(written: str) -> str:
    """Return a host in the proxy's canonical form, ``*.`` kept in front.

    Raises `ValueError` that says what is wrong with it.
    """
    for character, what in _NOT_IN_NAMES.items():
        if character in written:
            raise ValueError(f"a bare host name is wanted, and this has {what} in it ({character!r})")
    wildcard = written.startswith("*.")
    name = written[2:] if wildcard else written
    if "*" in name:
        raise ValueError("a wildcard stands once, in front, for one label: '*.example.com'")
    if name.endswith("."):
        raise ValueError("write the name without the trailing dot")
    name = canonical_host(name)
    if _is_address(name):
        raise ValueError("an address is no host name: a secret is bound to what a certificate names")
    labels = name.split(".")
    if len(labels) < 2:
        raise ValueError("a full name is wanted: what a name without a dot means depends on who resolves it")
    if wildcard and _is_public(labels):
        raise ValueError(f"anybody can get a name under {name!r}; bind the secret to exact names")
    return f"*.{name}" if wildcard else name


def _is_address(name: str) -> bool:
    return name.rpartition(".")[2].isdigit()


def _is_public(labels: list[str]) -> bool:
    if ".".join(labels) in _SHARED_DOMAINS or ".".join(labels[-2:]) in _BY_SERVICE:
        return True
    return len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _REGISTRY_LABELS
