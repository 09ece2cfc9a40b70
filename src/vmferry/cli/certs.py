"""`vmferry certs`: certificates for a lab."""

from pathlib import Path

import click

from vmferry.transport.lab_ca import LabCa


@click.command("certs", short_help="Make a CA and certificates for TLS in a lab.")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long they are valid.")
@click.option("--revoke", is_flag=True, help="Take the certificates of these hosts back instead.")
def command(directory: Path, hosts: tuple[str, ...], days: int, revoke: bool) -> None:
    """Certify each HOST, by its name or IP address, with the CA in DIRECTORY, which is made if it is not there.

    DIRECTORY/HOST is what --tls-creds takes on that host; copy it there. Its files have the names that QEMU's
    tls-creds-x509 expects and mode 0600. With --revoke, DIRECTORY/*/ca-crl.pem are renewed; copy them, too: each side
    reads them when a migration, or the wait for one, begins.
    """
    authority = LabCa.open(directory, days)
    for host in hosts:
        if revoke:
            click.echo("\n".join(map(str, authority.revoke(host))))
        else:
            click.echo(authority.certify(host, days))
