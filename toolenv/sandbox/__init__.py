"""Sandboxes for model-written Python."""

from toolenv.sandbox.base import ExecJob, ExecResult, Limits, Sandbox
from toolenv.sandbox.pool import SandboxPool, make_sandbox, shared_sandbox

__all__ = ["ExecJob", "ExecResult", "Limits", "Sandbox", "SandboxPool", "make_sandbox", "shared_sandbox"]
