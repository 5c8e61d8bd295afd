"""Command line of `make view`: start a server on this machine, which ends with Ctrl-C.

Exit status: 0 the server was stopped; 1 reading the output failed; 2 wrong use; 130 Ctrl-C, or
143 SIGTERM, before the server started.
"""

import argparse
import contextlib
import socket

import uvicorn

from open_diht.common.command_line import OK, WrongUse, command, say
from open_diht.common.plugins import PluginError, load_plugin
from open_diht.filters.presets import BadPreset
from open_diht.pipelines.manifests.outputs import root_of
from open_diht.pipelines.output import Output
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.storage import SEE_TO_OUTPUT, store_errors
from open_diht.pipelines.view.app import HOSTS, make_app
from open_diht.pipelines.view.options import parse
from open_diht.pipelines.view.pages import Workbench

_CLOSE_S = 2
"""Seconds that running requests have to finish when the server is stopped."""


def _view(options: argparse.Namespace) -> int:
    for name in options.plugin:
        load_plugin(name)
    bench = Workbench(_opened(options.output, options.preset), options.sample_rows)
    with _listening(options.port) as listening:
        say(
            f"http://{HOSTS[0]}:{listening.getsockname()[1]}/ shows {bench.output.layout.root};"
            " Ctrl-C ends it"
        )
        config = uvicorn.Config(
            make_app(bench),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_CLOSE_S,
        )
        with contextlib.suppress(KeyboardInterrupt):
            # uvicorn raises the signal again after its shutdown.
            uvicorn.Server(config).run(sockets=[listening])
    return OK


main = command(parse, _view, wrong_use=(BadPreset, PluginError), failed=(RunFailed,), stopped=None)


def _opened(output: str, preset: str | None) -> Output:
    root = root_of(output)
    with store_errors(root, WrongUse, SEE_TO_OUTPUT):
        return Output(root, preset)


def _listening(port: int) -> socket.socket:
    """Return a listening socket that only this machine can reach."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOSTS[0], port))
        found.listen()  # now, so that the address works when it is printed
    except OSError as error:
        found.close()
        raise WrongUse(
            f"port {port} cannot be used ({error.strerror}); choose another, or leave --port out"
        ) from error
    return found
