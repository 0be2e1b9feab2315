"""The process of a command: its standard streams and the signals that end it, set up once for all commands."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import TextIO

READER_GONE = 141


class OutputLost(Exception):
    """Standard output takes no more. The command's work is done up to here, only its words are lost."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror}; what was done is kept")
        self.closed = error.errno == errno.EPIPE
        self.exit_code = READER_GONE if self.closed else 1


class _Output(io.FileIO):
    """Standard output. Its errors are told from those of other files, and rich does not end the process for them."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            raise OutputLost(error) from error


class _Messages(io.FileIO):
    """Standard error. No work is given up because nobody reads its messages."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def prepare() -> None:
    """Make the standard streams fit for any text and for readers that leave, and let signals end the command."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened, such as a run's ledger, would be taken for a standard stream.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = _text(_Output(1, "wb", closefd=False), sys.stdout)
    sys.stderr = _text(_Messages(2, "wb", closefd=False), sys.stderr)
    signal.signal(signal.SIGTERM, _stop)
    # Whoever started a command with SIGHUP ignored (nohup) wants it to outlive the terminal. The same holds
    # for SIGINT, which shells have a background job ignore: Ctrl-C is for the job in the foreground.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _stop)


def flush() -> int:
    """Write what is left of standard output. The exit code that it asks for; 0 where all was written."""
    try:
        sys.stdout.flush()
    except OutputLost as lost:
        return abandon(lost)
    return 0


def abandon(loss: OutputLost) -> int:
    """Go on without standard output; the exit code. A reader that left has had what it wanted."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not loss.closed:
        print(f"sia: {loss}", file=sys.stderr)
    return loss.exit_code


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """A stream of text in the encoding of the one before it; what that encoding lacks is written as an escape."""
    terminal = raw.isatty()
    buffered = io.BufferedWriter(raw)
    encoding = before.encoding if before else "utf-8"
    lines = terminal or raw.fileno() == 2
    return io.TextIOWrapper(buffered, encoding, "backslashreplace", line_buffering=lines)


def _stop(number: int, frame: object) -> None:
    """End as by Ctrl-C. A second signal changes nothing: what is set up is being taken down."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) is _stop:
            signal.signal(each, _stopping)  # to ignore one that has arrived already, Python would complain of
    raise KeyboardInterrupt


def _stopping(number: int, frame: object) -> None:
    """Nothing more to do."""
