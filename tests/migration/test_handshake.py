"""Both sides prove that they know both nonces, and the token if there is one."""

import pytest

from tests.support.loopback import Pair
from vmferry.errors import PeerError
from vmferry.memory.layout import GuestLayout
from vmferry.migration.handshake import Credentials
from vmferry.migration.status import MigrationStatus
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.wire.format import NONCE_BYTES, PROOF_BYTES
from vmferry.wire.messages import Challenge, Hello, Pages, Proof

TOKEN, OTHER = b"a secret of both sides", b"a secret of somebody else"
HERE, THERE = bytes([1] * NONCE_BYTES), bytes([2] * NONCE_BYTES)


@pytest.mark.parametrize("token", [b"", TOKEN])
def test_a_migration_between_sides_that_know_the_same_completes(token: bytes) -> None:
    pair = Pair(tokens=(token, token))
    pair.source.run()
    assert pair.source.status is MigrationStatus.COMPLETED
    assert pair.there.running


@pytest.mark.parametrize(
    ("here", "there", "complaint"),
    [
        (b"", TOKEN, "the destination asks for a token"),
        (TOKEN, b"", "the destination was given no token"),
        (TOKEN, OTHER, "the destination does not know this token"),
    ],
)
def test_without_the_same_token_nothing_is_sent_and_the_guest_runs_on(
    here: bytes, there: bytes, complaint: str
) -> None:
    pair = Pair(tokens=(here, there))
    pair.source.run()
    assert pair.source.status is MigrationStatus.FAILED
    assert (pair.source.error or "").startswith(complaint)
    assert pair.here.running
    assert pair.destination.status is MigrationStatus.SETUP
    assert not any(isinstance(message, Proof | Pages) for message in pair.channel.messages)


def test_the_token_is_in_no_message_and_in_no_text() -> None:
    pair = Pair(tokens=(TOKEN, TOKEN))
    pair.source.run()
    assert TOKEN.hex() not in repr(pair.channel.messages).encode().hex()
    assert "secret" not in repr(Credentials(HERE, TOKEN))


@pytest.mark.parametrize("token", [b"", TOKEN])
def test_a_proof_is_good_for_its_two_nonces_its_token_and_its_role_only(token: bytes) -> None:
    source, destination = Credentials(HERE, token), Credentials(THERE, token)
    proof = source.answer(destination.challenge(HERE))
    destination.check(HERE, proof)
    for checker, source_nonce, value in (
        (destination, THERE, proof.value),
        (Credentials(HERE, token), HERE, proof.value),
        (Credentials(THERE, OTHER), HERE, proof.value),
        (destination, HERE, bytes(PROOF_BYTES)),
        (destination, HERE, Credentials(THERE, TOKEN).challenge(HERE).proof),
    ):
        with pytest.raises(PeerError):
            checker.check(source_nonce, Proof(value))


def test_a_recorded_challenge_convinces_no_source() -> None:
    recorded = Credentials(THERE, TOKEN).challenge(HERE)
    with pytest.raises(PeerError, match="does not know this token"):
        Credentials(bytes([3] * NONCE_BYTES), TOKEN).answer(recorded)
    with pytest.raises(PeerError, match="does not know this token"):
        Credentials(HERE, TOKEN).answer(Challenge(THERE, Credentials(HERE, TOKEN).answer(recorded).value))


def test_a_source_of_another_guest_gets_the_same_challenge() -> None:
    others = Pair(there=MemoryGuest(7, running=False), tokens=(TOKEN, TOKEN))
    ours = Pair(tokens=(TOKEN, TOKEN))
    hello = Hello(GuestLayout(ours.here.layout.ram_blocks, 1), HERE)
    assert ours.destination.handle(hello) == others.destination.handle(hello)
