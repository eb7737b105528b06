"""Imported by the fork server before it forks the first engine core, so that no core has to: see ``core_process``."""

import setproctitle
import vllm.model_executor.models.llama
import vllm.v1.engine.core
import vllm.v1.worker.cpu_worker

import looper.serve.engine.core_process
import looper.serve.engine.vllm_plugin

__all__ = ["looper", "vllm"]

# vLLM names its core's process. The place for a name is found in the first call, before the variables are changed.
setproctitle.getproctitle()
