"""Who may read, who may act, and from where.

Reading at a port takes the token for reading, which browsers ask for as the password of HTTP's basic authentication.
What a browser sends by itself, it sends for other sites' pages as well: so actions take another token, in a header that
only our own page can set, and whatever is more than reading must come from this page's origin or from no page at all.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from pathlib import Path

from vmferry.agent.config import Config, is_loopback
from vmferry.errors import UsageError
from vmferry.transport.tls_credentials import load_server

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""Of the page: nothing inline, nothing from elsewhere, and no text can become markup."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer."""
_LEAST_CHARACTERS = 16
_READING = frozenset({"GET", "HEAD"})


class Access:
    """Decides who may read from one agent, and who may act."""

    def __init__(self, read_token: str | None, act_token: str | None) -> None:
        """Without a token for reading everybody may read who can connect; without one for actions nobody may act.

        Raises UsageError if both are the same.
        """
        if read_token is not None and read_token == act_token:
            raise UsageError("the token for actions is the one for reading; write another one into action-token-file")
        self._read_token = read_token
        self._act_token = act_token

    def may_read(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a request may read; who may act may read, too."""
        return self._read_token is None or any(
            token is not None and _has(headers, token) for token in (self._read_token, self._act_token)
        )

    def why_not_act(self, headers: Mapping[str, str]) -> str | None:
        """Return why a request may not act; None if it may."""
        if self._act_token is None:
            return "the agent takes no actions; an action-token-file in its file allows them"
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not _same(given.strip(), self._act_token):
            return "it takes the token for actions, as 'Authorization: Bearer TOKEN'; the one for reading is not enough"
        return None


def access_to_page(config: Config) -> Access:
    """Return who may use the page, by the tokens in its files. Raises UsageError."""
    return Access(*(read_token(path) if path else None for path in (config.token_file, config.action_token_file)))


def access_to_metrics(config: Config) -> Access:
    """Return who may read metrics: whoever is on this host, and others by the token. Raises UsageError."""
    return Access(None if is_loopback(config.metrics) else read_token(config.token_file), None)


def check_files(config: Config) -> None:
    """Read the files that it takes to serve what is to be served. Raises UsageError for those that will not do."""
    if config.metrics:
        access_to_metrics(config)
    if config.page:
        access_to_page(config)
    if config.tls_creds and any(address and not address.startswith("/") for address in (config.metrics, config.page)):
        load_server(config.tls_creds)


def is_from_elsewhere(method: str, headers: Mapping[str, str]) -> bool:
    """Tell whether a request that is more than reading was made by another site's page."""
    if method in _READING:
        return False
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return True
    return headers.get("sec-fetch-site", "same-origin") != "same-origin"


def read_token(path: str) -> str:
    """Return the token in a file. Raises UsageError for one that is missing, short, or for everybody's eyes."""
    try:
        mode, token = Path(path).stat().st_mode, Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the token in '{path}': {getattr(error, 'strerror', error)}") from error
    if mode & 0o077:
        raise UsageError(f"others may read the token in '{path}'; chmod 600 it")
    if len(token) < _LEAST_CHARACTERS:
        raise UsageError(f"the token in '{path}' has {len(token)} characters; write at least {_LEAST_CHARACTERS}")
    return token


def _has(headers: Mapping[str, str], token: str) -> bool:
    """Tell whether a token is given, as a bearer's or as a password."""
    kind, _, text = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return _same(text.strip(), token)
    try:
        return _same(base64.b64decode(text, validate=True).decode().partition(":")[2], token)
    except (binascii.Error, ValueError):
        return False


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())
