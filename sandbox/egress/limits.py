"""How much one sandbox may ask of the proxy, and for how long; each value with its reason."""

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers. Servers take 8 to 32 KiB; twice that leaves their own limit to be the one that is met."""

MAX_HEADERS = 200
"""Five times what browsers send; the cost of one request stays bounded."""

MAX_CHUNK_LINE_BYTES = 256
"""A chunk's size with its extensions. Those of signed uploads have 85 bytes; nothing else is known to have any."""

MAX_TRAILER_BYTES = 8 * 1024
"""After the last chunk. Checksums and signatures have a few hundred bytes, and are thrown away."""

MAX_SWAPPED_BODY_BYTES = 256 * 1024
"""A body that may carry a stub is held until it is whole: its length changes. Forms and JSON logins are small."""

CHUNK_BYTES = 64 * 1024
"""What is read at once: four TLS records. Each direction of a connection holds one such chunk at most."""

MAX_CONNECTIONS_PER_SANDBOX = 512
"""A browser opens 6 per host, a parallel download tool some dozens; a leak of connections should meet it soon."""

REFUSALS_AT_ONCE = 100
REFUSALS_PER_SECOND = 5
"""Each is recorded for good, so a sandbox that asks for what it may not have must not fill the record. A tool that
tries a list of mirrors stays far below."""

MAX_CLIENT_HELLO_BYTES = 16 * 1024
"""One TLS record holds that much; hellos with post-quantum keys have about 2 KiB."""

HEAD_SECONDS = 15
"""From a head's first byte to its last; also for the TLS handshake. A slow link sends one in a second."""

KEEP_ALIVE_SECONDS = 75
"""Between two requests of a client; what nginx grants by default."""

IDLE_SECONDS = 600
"""Without a byte in either direction of an exchange or tunnel: a model may think for minutes before it answers."""

BODY_STALL_SECONDS = 30
"""Without a byte of a request's body that was promised. A sender that is alive sends something."""

CONNECT_SECONDS = 10
"""To find, vet and reach an upstream, all addresses together: the tool that waits has its own limit, often 30 s."""

RESOLVE_SECONDS = 5
"""A resolver's usual first timeout is 5 s; who does not answer by then is reported, not waited for."""

DECISION_SECONDS = 5
"""For the policy, the secret or the audit of one request. What takes longer counts as not known, which means no."""

TICK_SECONDS = 0.25
"""How often what is open is looked at again."""

TICK_DECISION_SECONDS = 0.5
"""For the policy at a tick. Together with the tick it keeps a revocation within the second that is promised."""

LINGER_SECONDS = 1.0
"""After a refusal, so that a client that is still sending reads the answer instead of a reset."""

MAX_LINGER_BYTES = 4 * 1024 * 1024
"""What is thrown away meanwhile."""

MAX_ADDRESSES = 8
"""Of one name that are tried. More than some is a broken or hostile zone."""

LEAF_HOURS = 24
"""A host's certificate lives a day: longer than a sandbox, shorter than anything that could be found later."""

AUTHORITY_DAYS = 90
"""A session's CA certificate: longer than any sandbox into which it was put."""

MAX_CERTIFICATES = 512
"""Contexts kept at once, about 50 KB each. Making one again takes a millisecond."""

TUNNEL_BYTES = 256 * 1024
"""What one direction of a tunnel holds at most. Measured: less costs calls, more is pushed out of the caches."""

MAX_AUDIT_PATH = 512
"""Characters of a path in the audit."""

MAX_GUESTS = 4096
"""Sandboxes that are remembered after their last connection from another machine; some hundred bytes each."""

MAX_PREAMBLE_BYTES = 512
"""Who a connection from another machine is of: a name, an id and a password have about 100 bytes."""

PREAMBLE_SECONDS = 5
"""The relay in a pod sends it with the connection's first packet; a busy node may take a second."""

MAX_UNKNOWN = 2048
MAX_UNKNOWN_PER_ADDRESS = 64
"""Connections that have not said yet whose they are. An honest one has within milliseconds, so that one address never
has many; whoever opens more keeps only its own out."""

MAX_LOOKUPS = 4
"""Of ids or passwords that are not known here already, at a time: who guesses must not keep the store busy."""
