"""The only way out of a sandbox: a proxy that knows which hosts are allowed, and swaps stubs for secrets."""

from sandbox.egress.addresses import AddressRules, Resolver, SystemResolver, parse_cidrs, parse_hosts
from sandbox.egress.certificates import Authority
from sandbox.egress.contract import (
    AuditEntry,
    AuditSink,
    Binding,
    GrantedCredential,
    PolicySource,
    SandboxPolicy,
    Verdict,
)
from sandbox.egress.ears import Ears, EarsClient, EarsError
from sandbox.egress.server import EgressSettings, Proxy

__all__ = [
    "AddressRules",
    "AuditEntry",
    "AuditSink",
    "Authority",
    "Binding",
    "Ears",
    "EarsClient",
    "EarsError",
    "EgressSettings",
    "GrantedCredential",
    "PolicySource",
    "Proxy",
    "Resolver",
    "SandboxPolicy",
    "SystemResolver",
    "Verdict",
    "parse_cidrs",
    "parse_hosts",
]
