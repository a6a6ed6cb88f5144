"""Certificates of a session."""

import ssl

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sandbox.egress.certificates import Authority, Certificates

_SEED = b"s" * 32


def test_every_process_makes_the_same_authority() -> None:
    first, second = (x509.load_pem_x509_certificate(Authority("sesn_a", _SEED).certificate_pem) for _ in range(2))
    assert first.public_key() == second.public_key()
    assert first.subject == second.subject


def test_sessions_and_seeds_have_authorities_of_their_own() -> None:
    made = [("sesn_a", _SEED), ("sesn_b", _SEED), ("sesn_a", b"t" * 32)]
    keys = {
        x509.load_pem_x509_certificate(Authority(*each).certificate_pem).public_key().public_numbers()
        for each in made
    }
    assert len(keys) == 3


def test_a_leaf_of_one_process_holds_under_the_root_of_another() -> None:
    root = x509.load_pem_x509_certificate(Authority("sesn_a", _SEED).certificate_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = x509.load_pem_x509_certificate(Authority("sesn_a", _SEED).leaf_pem("api.test", key.public_key()))
    leaf.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["api.test"]
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() < 2 * 86400


def test_openssl_takes_a_leaf_strictly() -> None:
    context = Certificates().context("sesn_a", _SEED, "api.test")
    client = ssl.create_default_context(cadata=Authority("sesn_a", _SEED).certificate_pem.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    pipes = [ssl.MemoryBIO() for _ in range(2)]
    asking = client.wrap_bio(pipes[0], pipes[1], server_hostname="api.test")
    answering = context.wrap_bio(pipes[1], pipes[0], server_side=True)
    for _ in range(4):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert asking.selected_alpn_protocol() is None
    assert asking.getpeercert()


def test_a_context_is_kept_and_the_oldest_is_dropped() -> None:
    certificates = Certificates(limit=2)
    first = certificates.context("sesn_a", _SEED, "a.test")
    assert certificates.context("sesn_a", _SEED, "a.test") is first
    certificates.context("sesn_a", _SEED, "b.test")
    certificates.context("sesn_a", _SEED, "a.test")
    certificates.context("sesn_a", _SEED, "c.test")
    assert certificates.context("sesn_a", _SEED, "a.test") is first
    assert len(certificates) == 2
