"""Both sides prove that they know both nonces, and the token if there is one."""

from dataclasses import replace

import pytest

from tests.support.loopback import Pair
from vmferry.errors import PeerError
from vmferry.memory.layout import GuestLayout
from vmferry.migration.handshake import Credentials
from vmferry.migration.status import MigrationStatus
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.wire.format import NO_FEATURES, NONCE_BYTES, PROOF_BYTES, Feature
from vmferry.wire.messages import Challenge, Hello, Pages, Proof

TOKEN, OTHER = b"a secret of both sides", b"a secret of somebody else"
HERE, THERE = bytes([1] * NONCE_BYTES), bytes([2] * NONCE_BYTES)
HELLO = Hello(MemoryGuest(1).layout, HERE)
WIDE_HELLO = replace(HELLO, features=Feature.MULTIFD)


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
    proof = source.answer(destination.challenge(HELLO))
    destination.check(HELLO, proof)
    for checker, hello, value in (
        (destination, replace(HELLO, nonce=THERE), proof.value),
        (Credentials(HERE, token), HELLO, proof.value),
        (Credentials(THERE, OTHER), HELLO, proof.value),
        (destination, HELLO, bytes(PROOF_BYTES)),
        (destination, HELLO, Credentials(THERE, TOKEN).challenge(HELLO).proof),
    ):
        with pytest.raises(PeerError):
            checker.check(hello, Proof(value))


@pytest.mark.parametrize("token", [b"", TOKEN])
def test_nobody_on_the_way_changes_what_was_agreed_on(token: bytes) -> None:
    source, destination = Credentials(HERE, token), Credentials(THERE, token)
    proof = source.answer(destination.challenge(WIDE_HELLO), Feature.MULTIFD, 3)
    destination.check(WIDE_HELLO, proof)
    for changed in (replace(proof, features=NO_FEATURES), replace(proof, channel_count=4)):
        with pytest.raises(PeerError):
            destination.check(WIDE_HELLO, changed)
    if token:
        with pytest.raises(PeerError, match="does not know this token"):
            source.answer(replace(destination.challenge(WIDE_HELLO), features=NO_FEATURES))


def test_a_destination_that_does_not_know_a_feature_is_told_so_by_name() -> None:
    source = Credentials(HERE)
    old = Challenge(THERE)
    assert source.answer(old)
    with pytest.raises(PeerError, match="does not know multifd; switch it off, or use equal versions"):
        source.answer(old, Feature.MULTIFD, 2)


def test_a_feature_of_another_time_is_not_agreed_on() -> None:
    later = Feature(1 << 30) | Feature.MULTIFD
    hello = replace(HELLO, features=later)
    challenge = Credentials(THERE).challenge(hello)
    assert challenge.features == Feature.MULTIFD
    proof = Credentials(HERE).answer(replace(challenge, features=later), later, 2)
    with pytest.raises(PeerError, match="makes use of feature 0x40000000, which was not agreed"):
        Credentials(THERE).check(hello, proof)


@pytest.mark.parametrize("token", [b"", TOKEN])
def test_only_who_has_seen_the_greeting_joins(token: bytes) -> None:
    source, destination = Credentials(HERE, token), Credentials(THERE, token)
    join = source.join(THERE, 2)
    destination.check_join(join)
    for other in (
        replace(join, number=1),
        replace(join, proof=bytes(PROOF_BYTES)),
        replace(join, source_nonce=THERE),
        Credentials(HERE, OTHER).join(THERE, 2),
        Credentials(HERE, token).join(HERE, 2),
    ):
        with pytest.raises(PeerError, match="it does not belong to the migration that it"):
            destination.check_join(other)


def test_a_recorded_challenge_convinces_no_source() -> None:
    recorded = Credentials(THERE, TOKEN).challenge(HELLO)
    with pytest.raises(PeerError, match="does not know this token"):
        Credentials(bytes([3] * NONCE_BYTES), TOKEN).answer(recorded)
    with pytest.raises(PeerError, match="does not know this token"):
        Credentials(HERE, TOKEN).answer(Challenge(THERE, Credentials(HERE, TOKEN).answer(recorded).value))


def test_a_source_of_another_guest_gets_the_same_challenge() -> None:
    others = Pair(there=MemoryGuest(7, running=False), tokens=(TOKEN, TOKEN))
    ours = Pair(tokens=(TOKEN, TOKEN))
    hello = Hello(GuestLayout(ours.here.layout.ram_blocks, 1), HERE)
    assert ours.destination.handle(hello) == others.destination.handle(hello)
