"""The errors that toolenv raises.

::

    ToolEnvError
    |- ToolError                 told to the model, which may recover
    |  `- ToolTimeout
    |- InfrastructureError       never told to the model: retried, then the episode is dropped and counted
    |  |- SandboxError
    |  |  `- SandboxUnavailable
    |  |- RetrieverError
    |  `- SamplerError
    |- RewardError               names the reward, the task and the turn
    |- DataError(ValueError)     names the file, the line and the reason
    |- MissingExtraError(ImportError)   names the command that installs what is missing
    `- ConfigError(ValueError)   raised at construction

The two kinds of failure must not be mixed: what the model did wrong is told to the model, and what the machine did
wrong is never charged to the model.
"""

from __future__ import annotations


class ToolEnvError(Exception):
    """Base of every error that toolenv raises on purpose."""


class ToolError(ToolEnvError):
    """A tool could not do what the model asked; the message is shown to the model."""


class ToolTimeout(ToolError):
    """A tool call ran past its time limit; the message says the limit."""


class InfrastructureError(ToolEnvError):
    """Something that is not the model's fault broke; the model never sees it."""


class SandboxError(InfrastructureError):
    """A sandbox worker was lost, or could not be started."""


class SandboxUnavailable(SandboxError):
    """The program was not run: no worker could be started for it, or the pool or session is closed."""


class RetrieverError(InfrastructureError):
    """A search index or a search server could not answer."""


class SamplerError(InfrastructureError):
    """A language model or its server could not answer."""


class RewardError(ToolEnvError):
    """A reward raised, or returned what is not a score; names the reward, the task and the turn."""


class DataError(ToolEnvError, ValueError):
    """A data file does not hold what it should; names the file, the line and the reason."""


class MissingExtraError(ToolEnvError, ImportError):
    """An optional dependency is not installed; names the command that installs it."""


class ConfigError(ToolEnvError, ValueError):
    """Settings that do not fit together, found at construction."""
