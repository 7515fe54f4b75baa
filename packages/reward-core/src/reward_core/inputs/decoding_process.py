"""A running process of decoding_worker.py, as seen from its parent process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Pipe

from ..errors import WorkerError
from .decoding_worker import Outcome, Task, WorkerSettings
from .shared_slots import can_share_memory

_COMMAND = (
    "import sys; connection, memory, *sys.path = sys.argv[1:]; "
    "from reward_core.inputs.decoding_worker import main; main(int(connection), int(memory))"
)
_CANNOT_START = "Cannot start a process that decodes images"
_ADVICE = 'Use decoders="threads".'
# Numerical libraries start threads when they are imported; the process does not use them.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def can_decode_in_processes() -> bool:
    """Return whether this system can run the processes: it is Linux, and Python can be started."""
    return can_share_memory() and bool(sys.executable) and not getattr(sys, "frozen", False)


class DecodingProcess:
    """A process that decodes images.

    It is started by running Python, not by multiprocessing: that would run the user's script again in the
    process, and a process that uses a GPU must not be forked.

    Args:
        settings: its settings.
        memory: descriptor of the shared file.

    Raises:
        WorkerError: the system cannot start it.
    """

    def __init__(self, settings: WorkerSettings, memory: int):
        self._settings = settings
        self._connection, other_end = Pipe()
        with other_end:
            descriptors = (other_end.fileno(), memory)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _COMMAND, *map(str, descriptors), *sys.path],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # may be reserved for a summary
                    env={**os.environ, **_ONE_THREAD},
                    start_new_session=True,  # so that Ctrl-C reaches the parent only
                )
            except OSError as error:
                self._connection.close()
                raise WorkerError(f"{_CANNOT_START}: {error}. {_ADVICE}") from error

    def wait_until_ready(self) -> None:
        """Wait until the process has started. Raise WorkerError if it fails."""
        try:
            self._connection.send(self._settings)
            self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerError(f"{_CANNOT_START}: it ended with {self.ending()}. {_ADVICE}") from error

    def send(self, tasks: Sequence[Task]) -> None:
        """Send tasks. Raise OSError if the process has ended."""
        self._connection.send(tasks)

    def receive(self) -> list[Outcome]:
        """Return the outcomes of the oldest tasks. Raise EOFError or OSError if the process has ended."""
        return self._connection.recv()

    def kill(self) -> None:
        """End the process now. It holds nothing that has to be saved."""
        self._process.kill()

    def ending(self) -> str:
        """Return how the process ended: with which signal or exit code."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:  # it closed the connection and hangs
            self._process.kill()
            code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
