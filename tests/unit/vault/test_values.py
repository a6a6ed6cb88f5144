import pytest

from controlplane.vault.values import (
    canonical_method,
    check_name,
    check_parameter,
    check_path_prefix,
    check_secret,
)
from sandbox import outfit


@pytest.mark.parametrize("name", ["GITHUB_TOKEN", "_x", "npm_token", "A1"])
def test_a_name_that_a_shell_takes_is_taken(name: str):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "1A", "A-B", "A B", "A=B", "A\n", "É", "A" * 129, "PATH", "path", "HOME", "LD_PRELOAD", "HTTP_PROXY"),
        *("https_proxy", "no_proxy", "BULKHEAD_MASTER_KEY", "bulkhead_x", "SSL_CERT_FILE", "NODE_OPTIONS", "LC_ALL"),
    ],
)
def test_a_name_that_steers_the_sandbox_or_is_none_is_refused(name: str):
    with pytest.raises(ValueError, match=r"name"):
        check_name(name)


@pytest.mark.parametrize("secret", ["12345678", "p@ss wörd ✓ x", "x" * 65536])
def test_a_secret_that_can_stand_in_a_request_is_taken(secret: str):
    check_secret(secret)


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "shorter"),
        ("1234567", "taking every occurrence"),
        ("x" * 65537, "longer"),
        ("ü" * 32769, "longer"),
        ("secret\r\nX-Evil: 1", "line break"),
        ("secret-x\n", "line break"),
        ("secret\x00-x", "control"),
        ("secret\x7f-x", "control"),
        ("secret\x85-x", "control"),
        (" secret-x", "space"),
        ("secret-x ", "space"),
    ],
)
def test_a_secret_that_could_break_out_of_a_header_is_refused_and_not_shown(secret: str, why: str):
    with pytest.raises(ValueError, match=why) as caught:
        check_secret(secret)
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize(("method", "canonical"), [("get", "GET"), ("PATCH", "PATCH"), ("PROPFIND", "PROPFIND")])
def test_a_method_is_kept_in_capitals(method: str, canonical: str):
    assert canonical_method(method) == canonical


@pytest.mark.parametrize("method", ["", "G T", "TRACE", "connect", "GET\r\n", "*"])
def test_what_is_no_method_is_refused(method: str):
    with pytest.raises(ValueError, match=r".+"):
        canonical_method(method)


@pytest.mark.parametrize("prefix", ["/", "/v1", "/repos/acme/", "/a-b_c.d~e/x:y@z"])
def test_a_plain_path_is_taken(prefix: str):
    assert check_path_prefix(prefix) == prefix


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "v1", "/v1?x=1", "/v1#x", "/a/../b", "/..", "/./a", "/a//b", "//a", "/%2e%2e/a", "/a%2fb", "/a b"),
        *("/a\\b", "/a\n", "/é", "*"),
    ],
)
def test_a_path_that_servers_read_differently_is_refused(prefix: str):
    with pytest.raises(ValueError, match=r"path prefix"):
        check_path_prefix(prefix)


@pytest.mark.parametrize("name", ["", "a=b", "a&b", "a b", "a[]", "x" * 129])
def test_what_is_no_parameter_is_refused(name: str):
    with pytest.raises(ValueError, match=r"query parameter"):
        check_parameter(name)


@pytest.mark.parametrize("name", outfit.variables({}))
def test_no_credential_takes_the_name_of_what_every_command_has(name: str):
    with pytest.raises(ValueError, match="reserved"):
        check_name(name)
