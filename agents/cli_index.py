"""``toolenv index build|add|info|search|verify|serve``."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SHOWN_CHARS = 160


def add_commands(commands: Any, shown: type[argparse.HelpFormatter]) -> None:
    """The commands and their options."""
    index = commands.add_parser("index", help="build a search index of a corpus, look into it, search it, serve it")
    actions = index.add_subparsers(dest="action", required=True, metavar="ACTION")

    build = actions.add_parser(
        "build", help="build the index of a corpus; the same call goes on after a kill", formatter_class=shown
    )
    build.add_argument("corpus", help="a corpus file, or a name that toolenv fetch knows, such as wikipedia-2006")
    build.add_argument("--output", type=Path, help="folder of the index (not given: a named one in the cache)")
    build.add_argument(
        "--retriever", default="hybrid", choices=("hybrid", "faiss", "bm25"), help="vectors, words or both"
    )
    build.add_argument(
        "--encoder", default="minilm", help="minilm, wordllama, a model's folder or hub name, or http://HOST/v1#MODEL"
    )
    build.add_argument(
        "--kind",
        default="auto",
        help="of FAISS index: auto, flat, flat-fp16, sq8, hnsw, ivf-sq8, ivf-pq, rabitq, or a factory string",
    )
    build.add_argument("--recall", type=float, default=0.95, help="part of the 3 nearest passages that auto must find")
    build.add_argument("--memory", type=_bytes, help="what auto may take, such as 5.5GB (not given: a quarter of all)")

    add = actions.add_parser("add", help="add passages to an index, without encoding again what it holds")
    add.add_argument("index", help="folder or name of the index")
    add.add_argument("corpus", help="a corpus file whose ids are new to the index")

    info = actions.add_parser("info", help="say what an index is; without a name: which there are")
    info.add_argument("index", nargs="?", help="folder or name of the index")

    search = actions.add_parser("search", help="search an index", formatter_class=shown)
    search.add_argument("index", help="folder or name of the index")
    search.add_argument("query", nargs="+", help="what to look for; several in quotes are several searches")
    search.add_argument("-k", type=int, default=3, help="passages a query")
    search.add_argument("--json", action="store_true", help="print a line of JSON for each query, with whole passages")

    verify = actions.add_parser("verify", help="read every file of an index again, and compare")
    verify.add_argument("index", help="folder or name of the index")

    serve = actions.add_parser(
        "serve", help="search for others, over HTTP, as Search-R1's server", formatter_class=shown
    )
    serve.add_argument("index", help="folder or name of the index")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at; beyond loopback it needs a token")
    serve.add_argument("--port", type=int, default=8000, help="port to listen at; 0: any free one")
    serve.add_argument("-k", type=int, default=3, help="passages a query where a request does not say")
    serve.add_argument(
        "--token-env", default="TOOLENV_INDEX_TOKEN", help="environment variable that holds the token of the clients"
    )


def run(options: argparse.Namespace) -> int:
    """Run ``toolenv index ACTION``; returns the exit status."""
    try:
        return _ACTIONS[options.action](options)
    except KeyboardInterrupt:
        if options.action in ("build", "add"):  # after the line of progress
            print("\nstopped; what was made is kept, and the same command goes on from there", file=sys.stderr)
        raise


def _build(options: argparse.Namespace) -> int:
    from toolenv.retrieval.index import build_index
    from toolenv.retrieval.index.places import indexes_folder

    folder = build_index(
        options.corpus,
        options.output,
        retriever=options.retriever,
        encoder=options.encoder,
        kind=options.kind,
        recall=options.recall,
        memory_bytes=options.memory,
    )
    name = folder.name if folder.parent == indexes_folder() else str(folder)
    print(f"{folder}\nuse it: gymnasium.make('ToolSearchQA-v0', index={name!r})")
    return 0


def _add(options: argparse.Namespace) -> int:
    from toolenv.retrieval.index import add_to_index

    print(add_to_index(options.index, options.corpus))
    return 0


def _info(options: argparse.Namespace) -> int:
    from toolenv.retrieval.index.info import index_info, list_indexes
    from toolenv.retrieval.index.places import indexes_folder

    if options.index is not None:
        print(index_info(options.index))
        return 0
    lines = list_indexes()
    print("\n".join(lines) or f"no index was built in {indexes_folder()} yet; toolenv index build CORPUS makes one")
    return 0


def _search(options: argparse.Namespace) -> int:
    from toolenv.retrieval.index import open_index

    retriever = open_index(options.index)
    started = time.perf_counter()
    found = retriever.search_scored(options.query, options.k)
    took_ms = 1000 * (time.perf_counter() - started)
    for query, hits in zip(options.query, found, strict=True):
        if options.json:
            hits_json = [
                {"score": hit.score, "id": hit.passage.id, "title": hit.passage.title, "text": hit.passage.text}
                for hit in hits
            ]
            print(json.dumps({"query": query, "hits": hits_json}))
            continue
        print(f"{query}" if hits else f"{query}\n  nothing was found")
        for number, hit in enumerate(hits, start=1):
            text = " ".join(hit.passage.text.split())
            words = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS].rsplit(" ", 1)[0] + " ..."
            print(f"  {number}. {hit.score:.3f}  {hit.passage.title or '(no title)'}  [{hit.passage.id}]\n     {words}")
    if not options.json:
        print(f"{took_ms:.0f} ms, with the start of what is loaded at the first search", file=sys.stderr)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from toolenv.retrieval.index.verify import verify_index

    found = verify_index(options.index)
    print(found)
    return 0 if found.ok else 1


def _serve(options: argparse.Namespace) -> int:
    from toolenv.retrieval.serve import serve

    serve(
        options.index,
        host=options.host,
        port=options.port,
        token=os.environ.get(options.token_env),
        default_topk=options.k,
    )
    return 0


def _bytes(text: str) -> int:
    """A number of bytes, such as ``5.5GB``.

    Example:
        >>> _bytes("5.5GB"), _bytes("300 MB")
        (5500000000, 300000000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if not found or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"must be an amount of memory, such as 5.5GB, not {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


_ACTIONS = {"build": _build, "add": _add, "info": _info, "search": _search, "verify": _verify, "serve": _serve}
