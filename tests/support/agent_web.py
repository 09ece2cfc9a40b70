"""An agent's page and API at a real socket, of migrations that the test makes up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from vmferry.agent.actions import Actions
from vmferry.agent.attendants import Attendants
from vmferry.agent.database import open_to_write
from vmferry.agent.following import Followers
from vmferry.agent.forecasts import Forecasts
from vmferry.agent.live import Live
from vmferry.agent.log import Log, as_text
from vmferry.agent.memory import Memory
from vmferry.agent.metrics import Metrics
from vmferry.agent.recording import Facts, Recording
from vmferry.agent.reins import Reins
from vmferry.agent.roster import Roster
from vmferry.agent.rules import Mode, Rule, Rulebook
from vmferry.agent.web.access import Access
from vmferry.agent.web.app import application, metrics_application
from vmferry.agent.web.events import Events
from vmferry.agent.web.serving import serving
from vmferry.agent.web.table import Sources, table_of

READ_TOKEN = "a token of some length"
ACT_TOKEN = "another one, for actions"


class GivenFollowers(Followers):
    """Everybody who follows a migration, and migrations that are made up."""

    def __init__(self, database: str, given: Sequence[Live], rules: Sequence[Rule]) -> None:
        held = Rulebook(rules)
        super().__init__(lambda: held, Memory(open_to_write(database), "a", 36500, print), Log(as_text))
        self._given = given

    @property
    def live(self) -> list[Live]:
        return [*self._given, *super().live]


def sources_of(database: str, given: Sequence[Live] = (), rules: Sequence[Rule] = (), wait_s: float = 10) -> Sources:
    """Where answers come from; a caller of an action waits so long."""
    followers = GivenFollowers(database, given, rules)
    attendants = Attendants(followers)
    return Sources(
        followers=followers,
        roster=Roster((), attendants),
        forecasts=Forecasts(attendants),
        actions=Actions(followers, wait_s),
        events=Events(lambda: followers.live, lambda: followers.change_count),
        database=database,
    )


@contextmanager
def web(sources: Sources, address: str, token: str | None = None, act_token: str | None = ACT_TOKEN) -> Iterator[None]:
    """Serve at an address."""
    app = application(table_of(sources), Access(token, act_token), Log(as_text))
    with serving(app, address, end=sources.events.end):
        yield


@contextmanager
def metrics_at(address: str, metrics: Metrics, token: str | None = None, tls_creds: str = "") -> Iterator[None]:
    """Serve metrics at an address."""
    with serving(metrics_application(metrics, Access(token, None)), address, tls_creds):
        yield


@contextmanager
def client_of(sources: Sources, directory: Path, act_token: str | None = ACT_TOKEN) -> Iterator[httpx.Client]:
    """Serve at a unix socket, and yield a client."""
    path = f"{directory}/page.sock"
    transport = httpx.HTTPTransport(uds=path)
    with (
        web(sources, path, act_token=act_token),
        httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client,
    ):
        yield client


def made_up(facts: Facts, rule: Rule | None = None) -> Live:
    """Return a migration that nobody follows."""
    return Live(Recording(facts), Log(as_text), Reins(rule or Rule(mode=Mode.STEER), facts.rule), f"1-{facts.began_ms}")


def bearer(token: str = ACT_TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
