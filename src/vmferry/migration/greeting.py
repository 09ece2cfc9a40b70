"""How a source introduces itself: what it would make use of, who it is, and which connections are its own."""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.memory.layout import GuestLayout
from vmferry.migration.handshake import Credentials
from vmferry.migration.peer import expect
from vmferry.migration.ports import Channel, Widen
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.choices import MultiFdCompression
from vmferry.settings.parameters import MigrationParameters
from vmferry.wire.format import NO_FEATURES, Feature
from vmferry.wire.messages import Accepted, Challenge, Hello


@dataclass(frozen=True)
class Greeting:
    """What one migration begins with. `widen` opens its further connections."""

    layout: GuestLayout
    credentials: Credentials
    capabilities: MigrationCapabilities
    parameters: MigrationParameters
    widen: Widen | None

    def greet(self, channel: Channel, in_time: Callable[[], None]) -> Channel:
        """Return the channel with all that has joined it, ready for pages. Raises MigrationError."""
        offered = self._required | self._welcome
        channel.send(Hello(self.layout, self.credentials.nonce, offered), in_time)
        challenge = expect(Challenge, channel.receive(in_time))
        used = self._required | (self._welcome & challenge.features)
        channel_count = self.parameters.multifd_channels if used & Feature.MULTIFD else 0
        channel.send(self.credentials.answer(challenge, used, channel_count), in_time)
        expect(Accepted, channel.receive(in_time))
        if self.widen and channel_count:
            joins = [self.credentials.join(challenge.nonce, number) for number in range(1, channel_count + 1)]
            channel = self.widen(channel, joins, in_time)
        if used & Feature.ZSTD:
            channel.compress(self.parameters.multifd_compression, self.parameters.multifd_zstd_level)
        return channel

    @property
    def _required(self) -> Feature:
        """What the migration does not do without."""
        wanted = {
            Feature.MULTIFD: self.capabilities.multifd and self.widen is not None,
            Feature.ZSTD: self._compression is MultiFdCompression.ZSTD,
            Feature.XBZRLE: self.capabilities.xbzrle,
        }
        return Feature(sum(feature for feature, is_wanted in wanted.items() if is_wanted))

    @property
    def _welcome(self) -> Feature:
        """What it makes use of if the destination knows it."""
        return Feature.ZSTD if self._compression is MultiFdCompression.AUTO else NO_FEATURES

    @property
    def _compression(self) -> MultiFdCompression:
        return self.parameters.multifd_compression
