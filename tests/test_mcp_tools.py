"""Tools of an MCP server, against the official SDK's own servers: in this process, and as a command."""

from __future__ import annotations

import asyncio
import copy
import sys
import threading
from pathlib import Path

import pytest

mcp_server = pytest.importorskip("mcp.server", reason="the MCP SDK is not installed")
exceptions = pytest.importorskip("mcp.server.mcpserver.exceptions")

from toolenv import ConfigError, InfrastructureError, Task, ToolCall, ToolError  # noqa: E402
from toolenv.env import ToolEnv  # noqa: E402
from toolenv.errors import ToolTimeout  # noqa: E402
from toolenv.mcp_tools import MCPServer  # noqa: E402
from toolenv.tools import ToolOutput  # noqa: E402
from toolenv.vector import ToolVectorEnv  # noqa: E402

SCRIPT = """
import os
from mcp.server import MCPServer

server = MCPServer("demo")

@server.tool()
def add(a: int, b: int = 1) -> str:
    "Add two numbers."
    return str(a + b)

@server.tool()
def die() -> str:
    "End the server."
    os._exit(3)

@server.tool()
def setting() -> str:
    "Tell a setting."
    return os.environ.get("SETTING", "none")

server.run()
"""


@pytest.fixture(scope="module")
def demo():
    """A server in this process; ``meeting`` waits for a second call before it answers the first."""
    server = mcp_server.MCPServer("demo")
    together = {"count": 0, "event": None}

    @server.tool()
    def add(a: int, b: int = 1) -> str:
        """Add two numbers."""
        if a < 0:
            raise exceptions.ToolError("a must not be below 0")
        return str(a + b)

    @server.tool()
    async def meeting() -> str:
        together["event"] = together["event"] or asyncio.Event()
        together["count"] += 1
        if together["count"] == 2:
            together["event"].set()
        await together["event"].wait()
        return "met"

    @server.tool()
    async def sleepy() -> str:
        await asyncio.Event().wait()
        return "never"

    @server.tool()
    def long() -> str:
        return "\n".join(f"line {i}" for i in range(1000))

    @server.tool()
    def facts() -> dict[str, int]:
        return {"x": 1}

    with MCPServer(server, timeout_s=20.0, max_output_bytes=200) as connected:
        yield connected


def tools(server):
    return {tool.name: tool for tool in server.tools}


def test_a_tool_has_the_servers_schema_and_is_a_good_tool(demo):
    add = tools(demo)["add"]
    assert add.schema["description"] == "Add two numbers."
    assert add.schema["parameters"]["required"] == ["a"]
    assert add(a=2, b=3).content == "5"
    assert copy.deepcopy(add) is add


def test_what_the_tool_says_went_wrong_is_told_to_the_model(demo):
    with pytest.raises(ToolError, match="a must not be below 0"):
        tools(demo)["add"](a=-1)


def test_calls_run_side_by_side_and_each_has_its_own_outcome(demo):
    met = tools(demo)["meeting"].batch([{}, {}])  # one by one the first would wait for ever
    assert [one.content for one in met] == ["met", "met"]
    good, wrong = tools(demo)["add"].batch([{"a": 1}, {"a": -1}])
    assert (good.content, type(wrong)) == ("2", ToolError)


def test_long_results_are_cut_and_structured_ones_are_kept(demo):
    assert "left out" in (content := tools(demo)["long"]().content)
    assert len(content.encode()) < 300
    found = tools(demo)["facts"]()
    assert '"x": 1' in found.content.replace("\n", " ")
    assert found.data["structured"] == {"x": 1}


def test_a_call_that_takes_too_long_is_told_to_the_model():
    server = mcp_server.MCPServer("slow")

    @server.tool()
    async def sleepy() -> str:
        await asyncio.Event().wait()
        return "never"

    @server.tool()
    def quick() -> str:
        return "here"

    with MCPServer(server, timeout_s=0.2) as slow:
        with pytest.raises(ToolTimeout, match=r"longer than 0\.2 s"):
            tools(slow)["sleepy"]()
        assert tools(slow)["quick"]().content == "here"


def test_a_command_serves_an_environment(tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SCRIPT)
    before = threading.active_count()
    with MCPServer([sys.executable, str(script)], prefix="demo_", env={"SETTING": "mine"}) as server:
        assert sorted(tools(server)) == ["demo_add", "demo_die", "demo_setting"]
        assert tools(server)["demo_setting"]().content == "mine"
        tasks = [Task("t", "What is 1 + 2?", answers=("3",))]
        envs = ToolVectorEnv([lambda: ToolEnv(tasks, tools=server.tools)] * 2)
        envs.reset(seed=0)
        call = envs.envs[0].format.write_call(ToolCall("demo_add", {"a": 1, "b": 2}))
        observations, *_ = envs.step([call, call])
        assert all("3" in conversation[-1].content for conversation in observations)
        with pytest.raises(InfrastructureError, match="failed"):
            tools(server)["demo_die"]()
    with pytest.raises(InfrastructureError, match="is closed"):
        tools(server)["demo_add"](a=1)
    assert threading.active_count() <= before + 1


def test_a_server_that_cannot_be_reached_is_said_at_once(tmp_path: Path):
    with pytest.raises(InfrastructureError, match="cannot reach the MCP server no-such-command"):
        MCPServer(["no-such-command"])
    with pytest.raises(ConfigError, match="needs a server"):
        MCPServer([])
    with pytest.raises(ConfigError, match="above 0"):
        MCPServer(["x"], timeout_s=0)


def test_the_output_of_a_call_is_a_tool_output(demo):
    assert isinstance(tools(demo)["add"](a=1), ToolOutput)
