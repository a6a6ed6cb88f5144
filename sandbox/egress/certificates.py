"""A certificate authority per session, the same in every process, and the certificates it issues for bound hosts."""

import os
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandbox.egress.limits import AUTHORITY_DAYS, LEAF_HOURS, MAX_CERTIFICATES

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_CLOCK_SKEW = timedelta(hours=1)


class Authority:
    """Signs for one session. Key and subject follow from the seed, so any process's leaves hold under any's root."""

    def __init__(self, session_id: str, seed: bytes):
        # 16 bytes more than the order has, so that no part of the range is likelier (FIPS 186-5, A.2.1).
        wide = HKDF(SHA256(), 48, salt=None, info=b"bulkhead egress authority " + session_id.encode()).derive(seed)
        self._key = ec.derive_private_key(int.from_bytes(wide) % (_P256_ORDER - 1) + 1, ec.SECP256R1())
        self._name = _common_name(f"Bulkhead egress {session_id}")

    @cached_property
    def certificate_pem(self) -> bytes:
        """The root that a sandbox has to trust; only its dates differ between processes."""
        return (
            self._builder(self._name, self._key.public_key(), timedelta(days=AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(self._key, SHA256())
            .public_bytes(Encoding.PEM)
        )

    def leaf_pem(self, host: str, key: ec.EllipticCurvePublicKey) -> bytes:
        """Return a certificate for one canonical host."""
        return (
            self._builder(x509.Name([]), key, timedelta(hours=LEAF_HOURS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
            .sign(self._key, SHA256())
            .public_bytes(Encoding.PEM)
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        issuer = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        )


@dataclass(frozen=True)
class _Kept:
    context: ssl.SSLContext
    until: datetime


class Certificates:
    """Server contexts per session and host, the least recently used dropped first."""

    def __init__(self, limit: int = MAX_CERTIFICATES):
        self._limit = limit
        self._kept: OrderedDict[tuple[str, bytes, str], _Kept] = OrderedDict()
        # One key for every leaf of this process: making one costs more than signing, and it never leaves memory.
        self._key = ec.generate_private_key(ec.SECP256R1())

    def __len__(self) -> int:
        return len(self._kept)

    def context(self, session_id: str, seed: bytes, host: str) -> ssl.SSLContext:
        """Return the context with which a client of the session is answered in the name of ``host``."""
        key, now = (session_id, seed, host), datetime.now(UTC)
        kept = self._kept.get(key)
        if kept is None or kept.until < now:
            kept = _Kept(self._issue(Authority(session_id, seed), host), now + timedelta(hours=LEAF_HOURS / 2))
            self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return kept.context

    def _issue(self, authority: Authority, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.num_tickets = 0
        context.options |= ssl.OP_NO_RENEGOTIATION
        private = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem = private + authority.leaf_pem(host, self._key.public_key())
        _with_file(pem, context.load_cert_chain)
        return context


def _with_file(content: bytes, use: Callable[[str], None]) -> None:
    # OpenSSL's loader wants a path; this one exists in memory only.
    descriptor = os.memfd_create("bulkhead-certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        use(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
