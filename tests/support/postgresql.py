"""A PostgreSQL server of a test's own, run as an unprivileged user."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.wait import wait_until

USER = "postgres"
HOME = Path("/usr/lib/postgresql")


def binaries() -> Path | None:
    """The directory of the newest release that is installed; Debian puts it into no PATH."""
    found = sorted(HOME.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def postgresql() -> Iterator[str]:
    """A server that listens at a unix socket; yields the URL of an empty database."""
    programs = binaries()
    assert programs
    with tempfile.TemporaryDirectory(prefix="vmferry-pg-") as name:
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(name, "nobody", "nogroup")
            who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        data = f"{name}/data"
        subprocess.run(
            [programs / "initdb", "--auth=trust", f"--username={USER}", "--no-sync", "-D", data],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=name,
            **who,
        )
        options = ["-D", data, "-k", name, "-c", "listen_addresses=", "-c", "fsync=off"]
        with subprocess.Popen([programs / "postgres", *options], stderr=subprocess.DEVNULL, cwd=name, **who) as server:
            try:
                wait_until(lambda: Path(f"{name}/.s.PGSQL.5432").exists())
                ready = [str(programs / "pg_isready"), "-q", "-h", name]
                wait_until(lambda: subprocess.run(ready, check=False).returncode == 0)
                yield f"postgresql://{USER}@/{USER}?host={name}"
            finally:
                server.send_signal(signal.SIGINT)  # or else it waits for its clients
                server.wait(30)
