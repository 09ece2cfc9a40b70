"""Who is at the other end: both sides prove that they know both nonces, and the token if there is one.

A proof is the HMAC-SHA256 (RFC 2104) of the prover's role and both nonces; its key is the token, which never travels.
As each nonce is fresh, a recorded proof is good for nothing. The destination proves first, so that a source tells
nothing to a destination that does not know the token; without a token, all that is proven is that nothing is recorded.

Each proof covers what is agreed on beside it, so nobody on the way can talk the two sides out of a feature. A further
connection of the same migration proves to know both nonces of the first one, which nobody knows who did not see it, and
the token.
"""

import hmac
from dataclasses import dataclass, field

from vmferry.errors import PeerError
from vmferry.wire.format import KNOWN_FEATURES, NO_FEATURES, Feature
from vmferry.wire.messages import Challenge, Hello, Join, Proof

_SOURCE = b"vmferry source\x00"
_DESTINATION = b"vmferry destination\x00"
_CHANNEL = b"vmferry channel\x00"


@dataclass(frozen=True)
class Credentials:
    """What one side brings to a greeting. `nonce` is `NONCE_BYTES` random bytes, used once; `token` may be empty."""

    nonce: bytes
    token: bytes = field(default=b"", repr=False)

    def challenge(self, hello: Hello) -> Challenge:
        """Return the destination's answer to a source, with the features that both know."""
        common = hello.features & KNOWN_FEATURES
        if not self.token:
            return Challenge(self.nonce, features=common)
        return Challenge(self.nonce, self._digest(_DESTINATION, hello.nonce, self.nonce, common), common)

    def answer(self, challenge: Challenge, features: Feature = NO_FEATURES, channel_count: int = 0) -> Proof:
        """Return the source's proof, and what it makes use of.

        Raises PeerError if the destination has not proven what it should, or does not know one of the features.
        """
        if challenge.proof and not self.token:
            raise PeerError("the destination asks for a token; give the source the same token file")
        if self.token and not challenge.proof:
            raise PeerError("the destination was given no token; give it the same token file, or the source none")
        due = self._digest(_DESTINATION, self.nonce, challenge.nonce, challenge.features)
        if self.token and not hmac.compare_digest(due, challenge.proof):
            raise PeerError("the destination does not know this token; give both sides the same token file")
        if unknown := features.without(challenge.features):
            raise PeerError(f"the destination does not know {unknown}; switch it off, or use equal versions")
        value = self._digest(_SOURCE, self.nonce, challenge.nonce, features, channel_count)
        return Proof(value, features, channel_count)

    def check(self, hello: Hello, proof: Proof) -> None:
        """Raise PeerError if this is not the proof of the source that was challenged, or it uses what is not agreed."""
        due = self._digest(_SOURCE, hello.nonce, self.nonce, proof.features, proof.channel_count)
        if not hmac.compare_digest(due, proof.value):
            raise PeerError(
                "the source does not know the token" if self.token else "the source's stream is a recording"
            )
        if unknown := proof.features.without(hello.features & KNOWN_FEATURES):
            raise PeerError(f"the source makes use of {unknown}, which was not agreed on")

    def join(self, destination_nonce: bytes, number: int) -> Join:
        """Return what opens a further connection of the source whose greeting this was."""
        return Join(self.nonce, number, self._digest(_CHANNEL, self.nonce, destination_nonce, number))

    def check_join(self, join: Join) -> None:
        """Raise PeerError if a connection does not belong to the source that was challenged."""
        due = self._digest(_CHANNEL, join.source_nonce, self.nonce, join.number)
        if not hmac.compare_digest(due, join.proof):
            raise PeerError("it does not belong to the migration that it wants to join")

    def _digest(self, role: bytes, source_nonce: bytes, destination_nonce: bytes, *agreed: int) -> bytes:
        numbers = b"".join(number.to_bytes(4, "little") for number in agreed)
        return hmac.digest(self.token, role + source_nonce + destination_nonce + numbers, "sha256")
