"""`python -m vmferry` is the `vmferry` command.

Until there is somebody to whom it matters, Ctrl-C ends it without a word; once all is told, it changes nothing more.
"""

import signal


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vmferry.cli.main import main as run

    try:
        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
