"""Sandboxes for model-written Python."""

from toolenv.sandbox.base import ExecJob, ExecResult, Limits, Sandbox
from toolenv.sandbox.check import check_sandbox
from toolenv.sandbox.choosing import make_sandbox, shared_sandbox
from toolenv.sandbox.pool import SandboxPool
from toolenv.sandbox.session import Session

__all__ = [
    "ExecJob",
    "ExecResult",
    "Limits",
    "Sandbox",
    "SandboxPool",
    "Session",
    "check_sandbox",
    "make_sandbox",
    "shared_sandbox",
]
