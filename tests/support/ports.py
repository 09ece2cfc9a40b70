"""TCP ports that a test names before somebody listens there."""

import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""The kernel gives none of these to who asks for any port, nor to clients, so nobody takes one meanwhile by chance."""


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    while True:
        port = random.SystemRandom().choice(_BELOW_EPHEMERAL)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
