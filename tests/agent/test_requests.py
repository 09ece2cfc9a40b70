"""Whatever a request has in it, the answer is what it asks for, or one line that says why not."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from tests.agent.test_metrics import live
from tests.support.agent_web import ACT_TOKEN, READ_TOKEN, sources_of
from vmferry.agent.log import Log
from vmferry.agent.web.access import Access
from vmferry.agent.web.app import application
from vmferry.agent.web.table import table_of

PATHS = [
    *("/", "/page.js", "/api/live", "/api/vms", "/api/migrations", "/api/variants", "/api/openapi.json", "/none"),
    *("/api/live/{}/course", "/api/live/{}/steer", "/api/live/{}/limits", "/api/live/{}/cancel"),
    *("/api/vms/{}/forecast", "/migrations/{}"),
]
JUNK = st.sampled_from(
    ["", "0", "-1", "9" * 30, "1e999", "NaN", "null", "[]", "%00", "%ff", "<b>", "☃", "a" * 300, "../../x", live().key]
)
TOKENS = st.sampled_from(["", "Basic AA==", "Basic !", "Bearer é", f"Bearer {READ_TOKEN}", f"Bearer {ACT_TOKEN}"])
BODIES = st.sampled_from(
    [
        *(b"", b"{}", b"[", b"null", b"\xff", b"[" * 4000, b'{"a":' * 1500, b"x" * 5000, b'{"variant":"\\ud800"}'),
        *(b'{"finish_by_ms":1e400}', b'{"finish_by_ms":' + b"9" * 400 + b"}", b'{"variant":"planned"}'),
        *(b'{"max_guest_loss_percent":1e-320}', b'{"max_guest_loss_percent":33.3333333}', b'{"on_limit":"x"}'),
    ]
)
HEADERS = st.fixed_dictionaries(
    {"Authorization": TOKENS},
    optional={
        "Content-Type": st.sampled_from(["application/json", "application/json; charset=x", "text/plain", ""]),
        "Origin": st.sampled_from(["http://agent", "null", "http://[", "http://agent:99999", "é"]),
        "Sec-Fetch-Site": st.sampled_from(["same-origin", "none", "cross-site"]),
    },
)
NAMES = st.sampled_from(["vm", "status", "limit", "since_ms", "until_ms", "policy", "host", "x"])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Starlette:
    directory: Path = tmp_path_factory.mktemp("requests")
    table = table_of(sources_of(f"sqlite:///{directory}/agent.db", [live()], wait_s=0))
    return application(table, Access(READ_TOKEN, ACT_TOKEN), Log(lambda *line: None))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS"]),
    st.sampled_from(PATHS),
    JUNK,
    st.lists(st.tuples(NAMES, JUNK), max_size=3),
    HEADERS,
    BODIES,
)
def test_no_request_brings_about_a_defect(
    app: Starlette,
    method: str,
    path: str,
    junk: str,
    query: list[tuple[str, str]],
    headers: dict[str, str],
    body: bytes,
) -> None:
    url = path.replace("{}", junk) + "?" + "&".join(f"{name}={value}" for name, value in query)
    encoded = [(name.encode(), value.encode("latin1")) for name, value in headers.items()]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # raises what the application lets through
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
            return await client.request(method, url, headers=encoded, content=body)

    answered = asyncio.run(ask())
    assert answered.status_code < 500
    if answered.status_code >= 400 and method != "HEAD" and "json" in answered.headers["content-type"]:
        assert re.fullmatch(r"[^\n]+", answered.json()["error"])
    if READ_TOKEN not in headers["Authorization"] and ACT_TOKEN not in headers["Authorization"]:
        assert answered.status_code == 401
