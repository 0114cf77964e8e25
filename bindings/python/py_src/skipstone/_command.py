"""The `skipstone` command, from within the package."""

import sys


def main():
    """Runs the command line and exits with its code."""
    import signal

    from ._skipstone import command

    # The command has its own handler of Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(command(["skipstone", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
