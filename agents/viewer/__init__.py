"""``toolenv view``: a local page over the episodes and metrics of runs, as static files that open from disk."""

from agents.viewer.page import write_view

__all__ = ["write_view"]
