"""Sandboxes for model-written Python."""

from toolenv.sandbox.base import ExecJob, ExecResult, Limits, Sandbox
from toolenv.sandbox.check import check_sandbox
from toolenv.sandbox.pool import SandboxPool, make_sandbox, shared_sandbox

__all__ = [
    "ExecJob",
    "ExecResult",
    "Limits",
    "Sandbox",
    "SandboxPool",
    "check_sandbox",
    "make_sandbox",
    "shared_sandbox",
]
