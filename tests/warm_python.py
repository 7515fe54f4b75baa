"""Run Python programs in processes that have already imported torch, which saves seconds for each.

``WarmPython`` starts one process (this file as a script), which imports the given modules and then waits.
For each program it forks itself, and the fork becomes the program: with its arguments, environment, folder
and files for output, its own process id, and the usual end of an interpreter. Tests can send signals to it
or kill it. A test of what is imported at all starts a plain process instead.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

AVAILABLE = sys.platform == "linux" and hasattr(os, "pidfd_open")


class WarmPython:
    """Start programs with ``modules`` imported in an environment with ``settings``.

    A module may read the environment when it is imported (huggingface_hub does), so import none whose
    settings differ between the programs.
    """

    def __init__(self, *modules: str, **settings: str):
        self.modules, self.settings = modules, settings
        self.control: socket.socket | None = None

    def start(self, arguments, *, env=None, cwd=None, limits=None) -> Program:
        """Start ``python *arguments``; ``limits`` are names of resource limits and their values."""
        request = {
            "arguments": list(map(str, arguments)),
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
            "limits": limits or {},
        }
        if not AVAILABLE:
            return ColdProgram(request)
        if self.control is None:
            self.control, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with server:
                self.process = subprocess.Popen(
                    [sys.executable, __file__, str(server.fileno()), *self.modules],
                    pass_fds=[server.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": "1", **self.settings},
                )
        return WarmProgram(self.control, request)

    def run(self, arguments, *, timeout=600, **options) -> subprocess.CompletedProcess:
        """Return what ``subprocess.run`` does with ``capture_output`` and ``text``."""
        program = self.start(arguments, **options)
        stdout, stderr = program.communicate(timeout)
        return subprocess.CompletedProcess(arguments, program.returncode, stdout, stderr)

    def start_ranks(self, count: int, arguments, *, env) -> list[Program]:
        """Start a distributed program on ``count`` processes, with the environment that torchrun sets."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        common = {**env, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        ranks = map(str, range(count))
        return [self.start(arguments, env={**common, "RANK": n, "LOCAL_RANK": n}) for n in ranks]

    def stop(self) -> None:
        if self.control is not None:
            self.control.close()
            self.process.wait()


class Program:
    """A running program, with the methods of subprocess.Popen that the tests need."""

    pid: int

    def __init__(self):
        self.returncode: int | None = None
        self.folder = tempfile.TemporaryDirectory()
        self.paths = [Path(self.folder.name, name) for name in ("stdout", "stderr")]

    def poll(self, timeout: float | None = 0) -> int | None:
        """Return the exit code, or None if the program still runs after ``timeout`` seconds."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> int:
        if self.poll(timeout) is None:
            self.kill()
            raise AssertionError(f"The program did not end within {timeout} seconds: {self.output()}")
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def output(self) -> tuple[str, str]:
        """Return what the program has written to stdout and stderr."""
        stdout, stderr = (path.read_text(encoding="utf-8") for path in self.paths)
        return stdout, stderr

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.output()


class WarmProgram(Program):
    def __init__(self, control: socket.socket, request: dict):
        super().__init__()
        self.status, status = os.pipe()
        with (
            open(os.devnull) as stdin,
            self.paths[0].open("wb") as stdout,
            self.paths[1].open("wb") as stderr,
        ):
            files = [stdin.fileno(), stdout.fileno(), stderr.fileno(), status]
            socket.send_fds(control, [json.dumps(request).encode()], files)
        os.close(status)
        self.pid = self._read_number()

    def _read_number(self) -> int:
        number = os.read(self.status, 8)
        if not number:
            raise RuntimeError("the process that forks the programs ended")
        return int(number)

    def poll(self, timeout=0):
        if self.returncode is None and select.select([self.status], [], [], timeout)[0]:
            self.returncode = self._read_number()
            os.close(self.status)
        return self.returncode


class ColdProgram(Program):
    """A plain process, where processes cannot be forked."""

    def __init__(self, request: dict):
        super().__init__()
        limits = request["limits"]
        with self.paths[0].open("wb") as stdout, self.paths[1].open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *request["arguments"]],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=request["env"],
                cwd=request["cwd"], preexec_fn=partial(set_limits, limits) if limits else None,
            )  # fmt: skip
        self.pid = self.process.pid

    def poll(self, timeout=0):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.returncode = self.process.wait(timeout)
        return self.returncode


def next_request(control: socket.socket) -> tuple[dict, list[int]]:
    """Fork for each request, and return it in the fork; report exit codes. Exit with the tests."""
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    message, files, *_ = socket.recv_fds(control, 1 << 20, 4)
                    if not message:
                        os._exit(0)
                    pid = os.fork()
                    if pid == 0:
                        control.close()
                        os.close(files.pop())
                        return json.loads(message), files
                    *others, status = files
                    for file in others:
                        os.close(file)
                    os.write(status, b"%8d" % pid)
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
                else:
                    pid, status = key.data
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(BrokenPipeError):  # no test waits for it
                        os.write(status, b"%8d" % code)
                    os.close(status)
                    selector.unregister(key.fileobj)
                    os.close(key.fileobj)


def set_limits(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        import resource  # not on Windows

        resource.setrlimit(getattr(resource, name), (value, value))


def become(request: dict, files: list[int]) -> None:
    """Run ``python *arguments`` in this process."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    set_limits(request["limits"])
    kind, *rest = request["arguments"]
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    folder = str(Path(kind).parent) if kind not in ("-m", "-c") else os.getcwd() if kind == "-m" else ""
    sys.path[:] = dict.fromkeys([folder, *given, *sys.path[1:]])
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    server = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    become(*next_request(server))
