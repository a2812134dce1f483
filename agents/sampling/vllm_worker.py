"""What runs inside vLLM's workers: the end of a weight transfer that needs no GPU.

vLLM loads this module before the model where it is started with::

    --worker-extension-cls agents.sampling.vllm_worker.WorkerExtension
    --weight-transfer-config '{"backend": "files"}'

Weights then come as safetensors files, of which a worker is told the path: through shared memory where they lie there,
and through vLLM's own start, update, finish. On a GPU vLLM's ``nccl`` backend is the faster way, and needs nothing of
this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolenv.extras import require

custom_ops = require("vllm._custom_ops", "vllm")
transfer = require("vllm.distributed.weight_transfer.base", "vllm")
factory = require("vllm.distributed.weight_transfer.factory", "vllm")
linear = require("vllm.model_executor.layers.utils", "vllm")
reload = require("vllm.model_executor.model_loader.reload", "vllm")
safetensors = require("safetensors", "vllm")

BACKEND = "files"


def keep_weights_in_place() -> None:
    """Have linear layers on a CPU read their weights at each call.

    vLLM otherwise packs them once, for oneDNN or for AMX, and a tied output head goes on with the packed copy of the
    first weights, whatever is loaded afterwards; nothing says so.
    """
    setattr(custom_ops, "_supports_onednn", False)  # noqa: B010
    setattr(linear, "check_cpu_sgl_kernel", lambda *_: False)  # noqa: B010


class WorkerExtension:
    """Has nothing of its own: naming it makes vLLM load this module in every worker, before the model."""


@dataclass
class InitInfo(transfer.WeightTransferInitInfo):  # type: ignore[misc, name-defined]
    """Files need no meeting point."""


@dataclass
class UpdateInfo(transfer.WeightTransferUpdateInfo):  # type: ignore[misc, name-defined]
    """One file of weights.

    Attributes:
        path: A safetensors file, under the names of a checkpoint.
    """

    path: str


class FileEngine(transfer.WeightTransferEngine):  # type: ignore[misc, name-defined]
    """Loads weights from files that the trainer wrote; see ``agents.sampling.transfer.FileTransfer``."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Refuse a model whose weights were packed away before this module was loaded."""
        packed = [name for name, parameter in self.model.named_parameters() if not parameter.numel()]
        if packed:
            raise RuntimeError(
                f"the weights of {packed[0]} were packed, so that none can be loaded; start vLLM with "
                "--worker-extension-cls agents.sampling.vllm_worker.WorkerExtension"
            )

    def start_weight_update(self) -> None:
        """Have vLLM's loaders collect what comes, layer by layer."""
        reload.initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one file; unlike in the base class nothing is asked of an accelerator, which there may not be."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load one file."""
        if not Path(update_info.path).is_file():
            raise FileNotFoundError(
                f"{update_info.path} is not there; the trainer's weight_dir must be a folder of the same machine"
            )
        with safetensors.safe_open(update_info.path, framework="pt", device="cpu") as file:
            self.model.load_weights((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118

    def finish_weight_update(self) -> None:
        """Put what was loaded in place."""
        reload.finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held."""


keep_weights_in_place()
if BACKEND not in factory.WeightTransferEngineFactory._registry:
    factory.WeightTransferEngineFactory.register_engine(BACKEND, FileEngine)
