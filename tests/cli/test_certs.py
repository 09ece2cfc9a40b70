"""Certificates for a lab: what is made, with which modes, and what takes it back."""

import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from vmferry.cli.certs import command
from vmferry.errors import UsageError
from vmferry.transport.tls_credentials import Endpoint, load_credentials

FILES = {"ca-cert.pem", "ca-crl.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"}


def certs(*words: str | Path) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def test_each_host_gets_all_files_of_qemus_and_nobody_else_may_read_them(tmp_path: Path) -> None:
    result = certs(tmp_path / "lab", "a.lab", "192.0.2.7", "2001:db8::7")
    assert result.exit_code == 0
    folders = [Path(line) for line in result.output.splitlines()]
    assert [folder.name for folder in folders] == ["a.lab", "192.0.2.7", "2001:db8::7"]
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == FILES
        for endpoint in Endpoint:
            load_credentials(str(folder), endpoint)
    for path in (tmp_path / "lab").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_certificate_is_for_the_name_or_the_number_of_its_host(tmp_path: Path) -> None:
    certs(tmp_path, "a.lab", "192.0.2.7")
    for host in ("a.lab", "192.0.2.7"):
        certificate = x509.load_pem_x509_certificate((tmp_path / host / "server-cert.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(name.value) for name in names] == [host]


def test_openssl_finds_nothing_wrong_until_a_certificate_is_revoked(tmp_path: Path) -> None:
    certs(tmp_path, "a.lab", "b.lab")

    def verify(host: str, purpose: str, file: str) -> int:
        folder = tmp_path / host
        words = ["verify", "-x509_strict", "-crl_check", "-purpose", purpose, "-CAfile", str(folder / "ca-cert.pem")]
        return subprocess.run(
            ["openssl", *words, "-CRLfile", str(folder / "ca-crl.pem"), str(folder / file)], capture_output=True
        ).returncode

    assert verify("a.lab", "sslserver", "server-cert.pem") == 0
    assert verify("a.lab", "sslclient", "client-cert.pem") == 0
    assert verify("a.lab", "sslclient", "server-cert.pem") != 0
    result = certs(tmp_path, "--revoke", "a.lab")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == 3
    assert verify("a.lab", "sslserver", "server-cert.pem") != 0
    assert verify("b.lab", "sslserver", "server-cert.pem") == 0
    certs(tmp_path, "--revoke", "b.lab")
    crl = x509.load_pem_x509_crl((tmp_path / "a.lab" / "ca-crl.pem").read_bytes())
    assert len(list(crl)) == 4, "those that were revoked before stay revoked"


def refused(*words: str | Path) -> str:
    error = certs(*words).exception
    assert isinstance(error, UsageError)
    assert "\n" not in str(error)
    return str(error)


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    certs(tmp_path, "a.lab")
    before = (tmp_path / "a.lab" / "server-key.pem").read_bytes()
    assert "is there already" in refused(tmp_path, "a.lab")
    assert (tmp_path / "a.lab" / "server-key.pem").read_bytes() == before


@pytest.mark.parametrize("host", ["../a", "", ".new", "a/b", "a b", "*", "x" * 65, "ä"])
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    assert "is no name or address of a host" in refused(tmp_path, host)


def test_a_host_that_was_never_certified_cannot_be_revoked(tmp_path: Path) -> None:
    certs(tmp_path, "a.lab")
    assert "cannot revoke the certificates of 'b.lab'" in refused(tmp_path, "--revoke", "b.lab")


def test_a_directory_with_another_authority_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ca-key.pem").write_text("nonsense")
    assert "holds no authority" in refused(tmp_path, "a.lab")
    assert [path.name for path in tmp_path.iterdir()] == ["ca-key.pem"]
