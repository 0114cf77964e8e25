"""A progress bar on stderr."""

import sys
import time

WIDTH = 24


def in_notebook():
    """Whether this is a Jupyter kernel."""
    shell = sys.modules.get("IPython")
    shell = shell.get_ipython() if shell is not None and hasattr(shell, "get_ipython") else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def bar(label, total, progress):
    """A bar of `total` parts; None where there is none to be shown."""
    if progress is None:
        progress = in_notebook() or (sys.stderr is not None and sys.stderr.isatty())
    return Bar(label, total) if progress and sys.stderr is not None else None


class Bar:
    """One line, drawn again and again."""

    def __init__(self, label, total):
        self.label, self.total, self.begun = label, max(total, 1), time.monotonic()
        self.longest = 0
        self.set(0)

    def set(self, done):
        """Draws the bar at `done` parts."""
        seconds = time.monotonic() - self.begun
        share = min(done / self.total, 1.0)
        full = "█" * int(share * WIDTH)
        left = f", {clock(seconds / share - seconds)} left" if 0 < share < 1 and seconds > 1 else ""
        self.write(f"{self.label}: {share:4.0%} |{full:<{WIDTH}}| {done}/{self.total} [{clock(seconds)}{left}]")

    def close(self, done):
        """Draws the bar for the last time."""
        self.set(done)
        self.write_end()

    def write(self, text):
        padding = " " * (self.longest - len(text))
        self.longest = max(self.longest, len(text))
        try:
            sys.stderr.write("\r" + text + padding)
            sys.stderr.flush()
        except (OSError, ValueError, UnicodeEncodeError):
            pass  # a bar is never a reason to fail

    def write_end(self):
        try:
            sys.stderr.write("\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass


def clock(seconds):
    """Minutes and seconds."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
