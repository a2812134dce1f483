"""``toolenv view``: a page over the episodes and metrics of runs."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path

LAST_PORT = 65535


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "view",
        help="write a page over the episodes and metrics of runs: curves, a list to filter, transcripts, groups",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run or an evaluation, or a file of episodes"
    )
    parser.add_argument("--output", type=Path, help="folder for the page (not given: view, in the first run's folder)")
    parser.add_argument("--serve", type=int, metavar="PORT", help="also serve it on this machine; 0: any free port")


def run(options: argparse.Namespace) -> int:
    """Write the page, and serve it where that is asked."""
    from agents.viewer import write_view
    from toolenv.errors import ConfigError

    if options.serve is not None and not 0 <= options.serve <= LAST_PORT:
        raise ConfigError(f"--serve must be a port, 0 to {LAST_PORT}, not {options.serve}")
    page, notes = write_view(options.runs, options.output)
    for note in notes:
        print(note, file=sys.stderr)
    print(f"page: {page}")
    if options.serve is not None:
        _serve(page.parent, options.serve)
    return 0


def _serve(folder: Path, port: int) -> None:
    from agents.viewer.serve import make_server
    from toolenv.errors import ConfigError

    try:
        server = make_server(folder, port)
    except OSError as error:
        raise ConfigError(f"port {port} cannot be listened at: {error.strerror}; give another --serve") from error
    with server, suppress(KeyboardInterrupt):
        host, port = server.server_address[:2]
        print(f"address: http://{host!s}:{port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()
