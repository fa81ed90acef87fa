"""The program `deeplab-repro`, started many times for the price of once.

Most of a short command's time goes into importing torch.  A server imports it, and is copied by
fork for every command; the program in the PATH is then a client that hands over its arguments,
folder, variables, and the three streams, and ends with the exit code.  Whoever kills the client
kills the command; if the client leads a process group, with all processes that the command started.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Warm", "warm_program"]

_CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] == ["crf-tune"]:  # Ctrl-C has to reach what serves
    os.execv(sys.executable, [sys.executable, "-m", "deeplab_repro", *sys.argv[1:]])
leads = os.getpgrp() == os.getpid()
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), leads]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(request + b"\\n")
    code = server.recv(16)
sys.exit(int(code) if code else "the program has crashed")
"""


@dataclass(frozen=True)
class Warm:
    """A server that runs.

    Attributes:
        folder: with the program, for the PATH.
    """

    folder: Path

    def start(
        self, *arguments: object, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start the program, or a Python file, on one thread.

        Args:
            *arguments: of the program; or a file that ends with .py, and its arguments.
            env: more variables.
            **options: of ``Popen``.
        """
        command = [str(self.folder / "deeplab-repro"), *map(str, arguments)]
        variables = {**os.environ, **(env or {})}
        return subprocess.Popen(command, env=variables, **options)

    def team(self, count: int, *arguments: object, **options: Any) -> list[subprocess.Popen[Any]]:
        """As `start`, in processes that find each other as those of torchrun do.

        Without torchrun, the processes of a team of which one fails may wait for it for ever.
        """
        if count == 1:
            return [self.start(*arguments, **options)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {
            **(options.pop("env", None) or {}),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(count),
        }
        return [
            self.start(*arguments, env={**shared, "RANK": str(i), "LOCAL_RANK": str(i)}, **options)
            for i in range(count)
        ]


@contextmanager
def warm_program(folder: Path) -> Iterator[Warm]:
    """Start the server.

    Args:
        folder: for the client and the socket.
    """
    address = folder / "socket"
    program = folder / "bin" / "deeplab-repro"
    program.parent.mkdir()
    program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    words = [sys.executable, "-m", __name__, str(address)]
    root = Path(__file__).parents[2]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, cwd=root, env=one_thread, stdout=subprocess.PIPE, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield Warm(program.parent)
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # with commands that are still running


def _serve(address: str) -> None:
    # What the commands import when they begin; nothing of it starts a thread.
    import matplotlib.figure  # noqa: F401
    import onnxscript  # noqa: F401
    import torch._inductor.compile_fx
    import torch.distributed  # noqa: F401

    import deeplab_repro.inference.segmentation
    import deeplab_repro.train.solver  # noqa: F401
    from deeplab_repro.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os._exit(_serve_one(connection, main))
            connection.close()


def _serve_one(connection: socket.socket, main: object) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    arguments, folder, variables, leads = json.loads(connection.makefile("rb").readline())
    if leads:
        os.setpgid(0, 0)
    _die_with(connection, leads)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    code = 0
    try:
        if arguments and arguments[0].endswith(".py"):
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            sys.argv = ["deeplab-repro", *arguments]
            main()  # type: ignore[operator]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # what a program does that ends by itself: os._exit would leave it out
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    return code


def _die_with(connection: socket.socket, leads: bool) -> None:
    """Have the system kill this process, or its group, when the client's end is closed.

    A thread that waits for it would not get its turn while the command computes.
    """
    fcntl.fcntl(connection, fcntl.F_SETOWN, -os.getpid() if leads else os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    # The client sends nothing more: what can be read by now is its end.
    if select.select([connection], [], [], 0)[0]:
        os._exit(1)


if __name__ == "__main__":
    _serve(sys.argv[1])
