"""The checks that a user's own parts can be put through, as Gymnasium has ``check_env``."""

from toolenv.retrieval.check import check_retriever
from toolenv.sandbox.check import check_sandbox

__all__ = ["check_retriever", "check_sandbox"]
