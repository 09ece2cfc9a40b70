"""A certificate authority for a lab, in a directory: it certifies hosts, and takes that back.

Each host gets a directory that `tls-creds` may name, with QEMU's file names. The key of the authority stays where it
is. Whoever has a CA of their own uses that; there is nothing here that it could not make.
"""

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vmferry.errors import HostError, UsageError
from vmferry.transport.tls_credentials import CA_CERT, CA_CRL, Endpoint

_CA_KEY = "ca-key.pem"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,63}")
"""What may be a common name and the name of a directory."""
_CLOCKS_DIFFER = timedelta(hours=1)
_PURPOSES = {Endpoint.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Endpoint.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True)
class LabCa:
    """The authority in `directory`."""

    directory: Path
    _key: ec.EllipticCurvePrivateKey
    _certificate: x509.Certificate

    @classmethod
    def open(cls, directory: Path, days: int) -> Self:
        """Return the authority that is there, or make one for so many days. Raises UsageError and HostError."""
        try:
            if not (directory / _CA_KEY).exists():
                return cls._create(directory, days)
            key = load_pem_private_key((directory / _CA_KEY).read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((directory / CA_CERT).read_bytes())
        except (ValueError, TypeError) as error:
            raise UsageError(f"'{directory}' holds no authority that `vmferry certs` has made: {error}") from error
        except OSError as error:
            raise _host_error(directory, error) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError(f"the key in '{directory}' is none that `vmferry certs` has made")
        return cls(directory, key, certificate)

    @classmethod
    def _create(cls, directory: Path, days: int) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("vmferry lab CA")
        builder = _builder(name, name, key.public_key(), days)
        certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(
            _usage(signs_certificates=True), critical=True
        )
        authority = cls(directory, key, certificate.sign(key, SHA256()))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(directory / CA_CERT, authority._certificate.public_bytes(Encoding.PEM))
        _write(directory / CA_CRL, authority._revocations([]))
        _write(directory / _CA_KEY, _private_bytes(key))
        return authority

    def certify(self, host: str, days: int) -> Path:
        """Make the directory of a host, given by its name or number, and return it. Raises UsageError and HostError."""
        if not _HOST.fullmatch(host):
            raise UsageError(f"'{host}' is no name or address of a host; write up to 64 of A-Z a-z 0-9 . : _ -")
        folder, unfinished = self.directory / host, self.directory / f".{host}.new"
        if folder.exists():
            raise UsageError(f"'{folder}' is there already; remove it, after --revoke if its keys were in use")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o700)
            for name in (CA_CERT, CA_CRL):
                _write(unfinished / name, (self.directory / name).read_bytes())
            for endpoint in Endpoint:
                self._certify(unfinished, host, endpoint, days)
            unfinished.rename(folder)
        except OSError as error:
            raise _host_error(folder, error) from error
        return folder

    def revoke(self, host: str) -> list[Path]:
        """Take back the certificates of a host. Return the lists of revoked certificates that were renewed."""
        try:
            certificates = [
                x509.load_pem_x509_certificate((self.directory / host / endpoint.cert).read_bytes())
                for endpoint in Endpoint
            ]
            before = x509.load_pem_x509_crl((self.directory / CA_CRL).read_bytes())
            serials = {entry.serial_number for entry in before} | {each.serial_number for each in certificates}
            lists = [self.directory / CA_CRL, *self.directory.glob(f"*/{CA_CRL}")]
            for path in lists:
                _replace(path, self._revocations(sorted(serials)))
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot revoke the certificates of '{host}': {error}") from error
        return lists

    def _certify(self, folder: Path, host: str, endpoint: Endpoint, days: int) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(host), self._certificate.subject, key.public_key(), days)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=False)
            .add_extension(x509.ExtendedKeyUsage([_PURPOSES[endpoint]]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_alternative_name(host)]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        _write(folder / endpoint.cert, certificate.sign(self._key, SHA256()).public_bytes(Encoding.PEM))
        _write(folder / endpoint.key, _private_bytes(key))

    def _revocations(self, serials: Iterable[int]) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._certificate.subject)
        builder = builder.last_update(now - _CLOCKS_DIFFER).next_update(self._certificate.not_valid_after_utc)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _CLOCKS_DIFFER)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """Write a new file that nobody else may read."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)


def _replace(path: Path, content: bytes) -> None:
    """Put a file in place of another, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    _write(new, content)
    new.replace(path)


def _host_error(path: Path, error: OSError) -> HostError:
    return HostError(f"cannot write certificates in '{path}': {error.strerror or error}", error.errno)
