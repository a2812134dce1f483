"""The tools of an MCP server, as tools of an environment."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from toolenv.errors import ConfigError, InfrastructureError, ToolError, ToolTimeout
from toolenv.extras import require
from toolenv.sandbox.shortening import shorten
from toolenv.tools import Tool, ToolOutput

INVALID_PARAMS, REQUEST_TIMEOUT = -32602, -32001
"""Codes of JSON-RPC and MCP for what the caller got wrong, and for a call that took too long."""
CLOSE_S = 10.0
OPEN_S = 60.0


class MCPServer:
    """A connection to an MCP server; ``tools`` are its tools, for any environment that takes some.

    The calls of all environments of a step run side by side. What the tool says went wrong is told to the model, as is
    a call that takes too long; a server that is gone is a failure of the machinery. Whatever the server keeps between
    calls is shared by all episodes.

    Args:
        server: What ``mcp.Client`` takes: an address such as ``"http://localhost:8000/mcp"``, a server object; or the
            command of a server that speaks over its input and output, as a list of words.
        timeout_s: Longest wait for a call.
        max_output_bytes: A longer result is cut in its middle.
        prefix: Stands before each tool's name, so that the tools of two servers do not collide.
        env: Environment variables of the command.

    Attributes:
        tools: The tools.

    Raises:
        ConfigError: Nothing to connect to.
        InfrastructureError: The server did not answer.
        MissingExtraError: The MCP SDK is not installed.

    Example:
        >>> with MCPServer(["my-mcp-server", "--stdio"]) as server:  # doctest: +SKIP
        ...     env = ToolEnv(tasks, tools=server.tools)
    """

    def __init__(
        self,
        server: Any,
        *,
        timeout_s: float = 60.0,
        max_output_bytes: int = 16_000,
        prefix: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        if not server or timeout_s <= 0 or max_output_bytes < 1:
            raise ConfigError(
                f"needs a server, and timeout_s and max_output_bytes above 0; got {server!r}, {timeout_s!r} and "
                f"{max_output_bytes!r}"
            )
        self._mcp = require("mcp", "mcp")
        if isinstance(server, list | tuple):
            server = self._mcp.StdioServerParameters(
                command=server[0], args=list(server[1:]), env=None if env is None else dict(env)
            )
        self._server, self.timeout_s, self.max_output_bytes = server, timeout_s, max_output_bytes
        self._loop = asyncio.new_event_loop()
        self._ready: Future[list[Any]] = Future()
        self._end = asyncio.Event()
        self._client: Any = None
        self._thread = threading.Thread(target=self._run, name="mcp", daemon=True)
        self._thread.start()
        try:
            offered = self._ready.result(OPEN_S)
        except TimeoutError as error:
            self.close()
            raise InfrastructureError(f"the MCP server {self._name} did not answer within {OPEN_S:.0f} s") from error
        self.tools: tuple[Tool, ...] = tuple(MCPTool(self, tool, prefix) for tool in offered)

    def call(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[ToolOutput | Exception]:
        """Make calls side by side: for each its result, or what went wrong.

        Args:
            calls: For each the server's name of a tool, and its arguments.
        """
        if not self._thread.is_alive():
            return [InfrastructureError(f"the connection to the MCP server {self._name} is closed") for _ in calls]
        waiting = [asyncio.run_coroutine_threadsafe(self._call(*call), self._loop) for call in calls]
        return [self._outcome(future) for future in waiting]

    def close(self) -> None:
        """End the connection, and the server where it was started here."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside --------------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return str(getattr(self._server, "command", self._server))

    def _run(self) -> None:
        """The thread of the connection: what opens it also has to close it."""
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(
                    InfrastructureError(f"cannot reach the MCP server {self._name}: {_why(error)}")
                )
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        async with self._mcp.Client(self._server, read_timeout_seconds=self.timeout_s) as client:
            self._client = client
            self._ready.set_result(await _all_tools(client))
            await self._end.wait()

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        return await asyncio.wait_for(self._client.call_tool(name, dict(arguments)), self.timeout_s)

    def _outcome(self, future: Future[Any]) -> ToolOutput | Exception:
        try:
            result = future.result(self.timeout_s + CLOSE_S)
        except TimeoutError:
            return ToolTimeout(f"the call took longer than {self.timeout_s:g} s")
        except self._mcp.MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                return ToolTimeout(f"the call took longer than {self.timeout_s:g} s")
            if error.code == INVALID_PARAMS:
                return ToolError(str(error))
            return InfrastructureError(f"the MCP server {self._name} failed: {error}")
        except Exception as error:
            return InfrastructureError(f"the MCP server {self._name} failed: {_why(error)}")
        text = shorten(_text(result), self.max_output_bytes)
        return ToolError(text) if result.is_error else ToolOutput(text, {"structured": result.structured_content})


class MCPTool:
    """One tool of an MCP server; ``MCPServer`` makes it."""

    checks_arguments = False
    retries = 0  # a tool may have done what it was asked for before its server was lost

    def __init__(self, server: MCPServer, offered: Any, prefix: str) -> None:
        self._server, self._offered_name = server, offered.name
        self.name = f"{prefix}{offered.name}"
        self.schema: Mapping[str, Any] = {
            "name": self.name,
            "description": offered.description or offered.title or "",
            "parameters": dict(offered.input_schema),
        }

    def __call__(self, **arguments: Any) -> ToolOutput:
        """Run one call; see ``toolenv.tools.Tool``."""
        (outcome,) = self.batch([arguments])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def batch(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolOutput | Exception]:
        """Run calls side by side: for each its result, or what went wrong."""
        return self._server.call([(self._offered_name, one) for one in arguments])

    def __deepcopy__(self, memo: dict[int, Any]) -> MCPTool:
        return self

    def __repr__(self) -> str:
        return f"MCPTool({self.name!r})"


async def _all_tools(client: Any) -> list[Any]:
    """The server's tools, page after page."""
    found, cursor = [], None
    while True:
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if not cursor:
            return found


def _text(result: Any) -> str:
    """What a model is shown of a result: its texts; of anything else, what it is."""
    parts = []
    for block in result.content:
        resource = getattr(block, "resource", None)
        text = getattr(block, "text", None) or getattr(resource, "text", None)
        parts.append(text if text is not None else f"[{block.type}, {getattr(block, 'mime_type', None) or 'no text'}]")
    if not parts and result.structured_content is not None:
        parts.append(json.dumps(result.structured_content))
    return "\n".join(parts)


def _why(error: BaseException) -> str:
    """The innermost of what a group of tasks raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
