"""What has changed of pages, over real sockets."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.wide import PAGES, WideMigration
from vmferry.wire.messages import Barrier

ENOUGH_PAGES = 2000


def migration_by_words(path: Path, how: str) -> WideMigration:
    """A guest that goes on changing a word of each third page until enough of these went as words."""
    migration = WideMigration(path, 0, xbzrle=True, multifd_compression=how, verify=True, downtime_limit=0)
    migration.here.ram[:] = np.arange(PAGES * 512).reshape(PAGES, 512)

    def work() -> None:
        cache = migration.source.info().xbzrle_cache
        for page in range(0, PAGES, 3) if not cache or cache.pages < ENOUGH_PAGES else ():
            migration.here.write(page, int(migration.here.ram[page, 0]) + 1)

    migration.work = work
    return migration


@pytest.mark.parametrize("how", ["none", "zstd", "auto"])
def test_a_guest_arrives_by_its_words_and_what_goes_whole_may_be_packed(tmp_path: Path, how: str) -> None:
    migration = migration_by_words(tmp_path, how)
    migration.run()
    migration.assert_arrived()
    info = migration.source.info()
    assert info.ram
    assert info.xbzrle_cache
    assert info.verified
    assert info.xbzrle_cache.pages >= ENOUGH_PAGES
    assert info.xbzrle_cache.bytes < 64 * info.xbzrle_cache.pages
    assert (info.compression is not None) is (how != "none")
    whole_bytes = info.ram.normal_bytes if how == "none" else 0
    assert whole_bytes < info.ram.transferred < info.ram.normal_bytes + info.xbzrle_cache.pages * 1024
    asked = [m for m in migration.cuts.sent[0] if isinstance(m, Barrier) and m.wants_answer]
    assert asked, "the source waits until everything is in its place before it looks what is left"
