"""`python -m vmferry` is the `vmferry` command."""

from vmferry.cli.main import main

main()
