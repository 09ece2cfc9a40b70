"""Who is at the other end: both sides prove that they know both nonces, and the token if there is one.

A proof is the HMAC-SHA256 (RFC 2104) of the prover's role and both nonces; its key is the token, which never travels.
As each nonce is fresh, a recorded proof is good for nothing. The destination proves first, so that a source tells
nothing to a destination that does not know the token; without a token, all that is proven is that nothing is recorded.
"""

import hmac
from dataclasses import dataclass, field

from vmferry.errors import PeerError
from vmferry.wire.messages import Challenge, Proof

_SOURCE = b"vmferry source\x00"
_DESTINATION = b"vmferry destination\x00"


@dataclass(frozen=True)
class Credentials:
    """What one side brings to a greeting. `nonce` is `NONCE_BYTES` random bytes, used once; `token` may be empty."""

    nonce: bytes
    token: bytes = field(default=b"", repr=False)

    def challenge(self, source_nonce: bytes) -> Challenge:
        """Return the destination's answer to a source."""
        if not self.token:
            return Challenge(self.nonce)
        return Challenge(self.nonce, self._digest(_DESTINATION, source_nonce, self.nonce))

    def answer(self, challenge: Challenge) -> Proof:
        """Return the source's proof. Raises PeerError if the destination has not proven what it should."""
        if challenge.proof and not self.token:
            raise PeerError("the destination asks for a token; give the source the same token file")
        if self.token and not challenge.proof:
            raise PeerError("the destination was given no token; give it the same token file, or the source none")
        if self.token and not self._matches(_DESTINATION, self.nonce, challenge.nonce, challenge.proof):
            raise PeerError("the destination does not know this token; give both sides the same token file")
        return Proof(self._digest(_SOURCE, self.nonce, challenge.nonce))

    def check(self, source_nonce: bytes, proof: Proof) -> None:
        """Raise PeerError if this is not the proof of the source that was challenged."""
        if not self._matches(_SOURCE, source_nonce, self.nonce, proof.value):
            raise PeerError(
                "the source does not know the token" if self.token else "the source's stream is a recording"
            )

    def _digest(self, role: bytes, source_nonce: bytes, destination_nonce: bytes) -> bytes:
        return hmac.digest(self.token, role + source_nonce + destination_nonce, "sha256")

    def _matches(self, role: bytes, source_nonce: bytes, destination_nonce: bytes, proof: bytes) -> bool:
        return hmac.compare_digest(self._digest(role, source_nonce, destination_nonce), proof)
