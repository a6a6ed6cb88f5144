import pytest

from controlplane.vault.hosts import bound_host


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("api.github.com", "api.github.com"),
        ("API.GitHub.COM", "api.github.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("*.example.com", "*.example.com"),
        ("*.Corp.Internal.Example", "*.corp.internal.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_a_host_is_kept_in_one_form(written: str, canonical: str):
    assert bound_host(written) == canonical


@pytest.mark.parametrize(
    "written",
    [
        "",
        "*",
        "*.",
        "*.com",
        "*.co.uk",
        "*.com.au",
        "*.github.io",
        "*.amazonaws.com",
        "*.ngrok.dev",
        "*.eu.ngrok.io",
        "*.a.run.app",
        "*.uk.com",
        "*.duckdns.org",
        "*.nip.io",
        "*.webhook.site",
        "a.*.com",
        "*.*.example.com",
        "*example.com",
        "**.example.com",
        "https://api.github.com",
        "api.github.com:443",
        "api.github.com/v1",
        "user@api.github.com",
        "api.github.com?x=1",
        "api.github.com#x",
        "api.github.com.",
        ".api.github.com",
        "api..github.com",
        "-api.github.com",
        "api-.github.com",
        "api github.com",
        "api.github.com\n",
        "api.github.com\x00",
        "a" * 64 + ".com",
        ("a" * 60 + ".") * 5 + "com",
        "localhost",
        "127.0.0.1",
        "8.8.8.8",
        "10.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "1.2.3.4.5",
        "::1",
        "[::1]",
        "*.127.0.0.1",
        "xn--a.example",
        "ex\u2024ample.com\u3002",
    ],
)
def test_what_names_no_single_host_is_refused(written: str):
    with pytest.raises(ValueError, match=r".+"):
        bound_host(written)
