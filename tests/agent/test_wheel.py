"""The wheel in a fresh environment: it runs with the packages that it names, and brings all else that the agent reads.

No index is asked: those packages, and what they need in turn, are linked from the environment of the tests, and no
others are there.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from tests.support.ports import free_port
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]


class Environment:
    """A fresh one, in which the wheel was installed with the extra `agent`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "environment" / "bin"
        self._variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory), cwd=ROOT)
        (wheel,) = directory.glob("*.whl")
        run(sys.executable, "-m", "venv", "--without-pip", str(self.bin.parent))
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        run(*pip, "install", "--quiet", "--no-deps", "--no-index", f"{wheel}[agent]")
        (self.packages,) = self.bin.parent.glob("lib/python*/site-packages")
        (metadata,) = self.packages.glob("vmferry-*.dist-info")
        for name in needed_by(PathDistribution(metadata), {"agent"}, set()):
            self._link(name)

    def _link(self, name: str) -> None:
        for file in distribution(name).files or ():
            link = self.packages / file.parts[0]
            if file.parts[0] not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(Path(str(distribution(name).locate_file(file.parts[0]))))

    def vmferry(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "vmferry"), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.directory, env=self._variables
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([self.bin / "vmferry", *words], cwd=self.directory, env=self._variables)


def needed_by(one: PathDistribution, extras: set[str], seen: set[str]) -> Iterator[str]:
    """Yield the names of the packages that one with these extras needs, and those that they need."""
    for requirement in map(Requirement, one.requires or ()):
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})
        if wanted and requirement.name not in seen:
            seen.add(requirement.name)
            found = distribution(requirement.name)
            assert requirement.specifier.contains(found.version, prereleases=True), requirement
            yield requirement.name
            assert isinstance(found, PathDistribution)
            yield from needed_by(found, requirement.extras, seen)


def run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel"))


def test_an_agent_of_the_wheel_reads_its_file_runs_shows_its_page_and_remembers(environment: Environment) -> None:
    where = [str(environment.bin / "python"), "-c", "import vmferry; print(vmferry.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, check=True, cwd=environment.directory).stdout
    assert found.startswith(str(environment.packages))
    directory = environment.directory
    (directory / "vms").mkdir()
    path, page = directory / "agent.toml", directory / "page.sock"
    places = f'database = "sqlite:///{directory}/agent.db"\nsockets = ["{directory}/vms"]\npage = "{page}"\n'
    path.write_text(f'host = "{directory}"\nmetrics = "127.0.0.1:{free_port()}"\n{places}[[rule]]\nmode = "steer"\n')
    with environment.start("agent", "--config", str(path)) as one:
        try:
            wait_until(lambda: page.exists() or one.poll() is not None)
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(page)), base_url="http://agent") as client:
                assert client.get("/page.js").status_code == 200
                assert client.get("/api/migrations").json() == []
        finally:
            one.terminate()
    assert one.returncode == 0
    listed = environment.vmferry("history", "--database", str(path))
    assert (listed.returncode, listed.stdout) == (0, "no such migration is remembered\n"), listed.stderr
