"""What is told of a connection with TLS that broke: one line, in an operator's words."""

import ssl

from vmferry.errors import ChannelError, MigrationError, PeerError

_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE"}
)
_REASONS = {
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no TLS 1.3",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate of ours",
    "TLSV1_ALERT_UNKNOWN_CA": "it refuses our certificate, as it does not know its CA",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it refuses our certificate, which has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it refuses our certificate, which was revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refuses our certificate, which may be of another name",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refuses our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it refuses our certificate, which is for another purpose",
}
"""By OpenSSL's names, the commonest reasons as an operator reads them."""
_FLAWS = {
    **dict.fromkeys((18, 19, 20, 21), "another CA than ours (ca-cert.pem) has certified it"),
    10: "it has expired",
    12: "the list of revoked certificates (ca-crl.pem) has expired",
    23: "it was revoked",
    26: "it is for another purpose",
}
"""By OpenSSL's numbers (`x509_vfy.h`), what is wrong with a certificate."""


def failure(error: OSError, other: str) -> MigrationError:
    """Return what is told of a connection with TLS that broke, in one line; `other` is who is at the other end."""
    if isinstance(error, ssl.SSLCertVerificationError):
        flaw = _FLAWS.get(error.verify_code, error.verify_message)
        return PeerError(f"no TLS with {other}: its certificate is refused: {flaw}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ChannelError(f"no TLS with {other}: it closed the connection")
    if isinstance(error, ssl.SSLError):
        return PeerError(f"no TLS with {other}: {_reason(error)}")
    return ChannelError(f"the connection is lost: {error.strerror or error}")


def _reason(error: ssl.SSLError) -> str:
    name = error.reason or "UNKNOWN"
    if name in _NO_TLS:
        return "it speaks none (tls-creds)"
    return _REASONS.get(name) or name.lower().replace("_", " ")
