"""The only way out of a sandbox: a proxy that knows which hosts are allowed, and swaps stubs for secrets."""

from sandbox.egress.addresses import AddressRules, Resolver, SystemResolver, parse_cidrs, parse_hosts
from sandbox.egress.certificates import Authority
from sandbox.egress.contract import (
    AuditEntry,
    AuditSink,
    AuthorityError,
    Binding,
    GrantedCredential,
    PolicySource,
    SandboxPolicy,
    Verdict,
)
from sandbox.egress.ears import Ears, EarsClient, EarsError, EarsRefusedError
from sandbox.egress.gate import Gate, GateKeys, parse_address
from sandbox.egress.server import EgressSettings, Proxy

__all__ = [
    "AddressRules",
    "AuditEntry",
    "AuditSink",
    "Authority",
    "AuthorityError",
    "Binding",
    "Ears",
    "EarsClient",
    "EarsError",
    "EarsRefusedError",
    "EgressSettings",
    "Gate",
    "GateKeys",
    "GrantedCredential",
    "PolicySource",
    "Proxy",
    "Resolver",
    "SandboxPolicy",
    "SystemResolver",
    "Verdict",
    "parse_address",
    "parse_cidrs",
    "parse_hosts",
]
