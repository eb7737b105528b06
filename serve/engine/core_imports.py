"""Imported by the fork server before it forks the first engine core, so that no core has to: see ``core_process``."""

# ruff: noqa: E402 - the first lines have to run before anything else is imported
import setproctitle

# vLLM names its core's process. The place for a name is looked for in the first call, beside the first environment
# variable, and not found once that variable has changed: the imports below change some, in whatever order they are.
setproctitle.getproctitle()

import vllm.model_executor.models.llama
import vllm.v1.engine.core
import vllm.v1.worker.cpu_worker

import looper.serve.engine.core_process
import looper.serve.engine.vllm_plugin

__all__ = ["looper", "vllm"]
