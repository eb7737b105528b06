"""Changes how vLLM's engine process compiles and uses grammars. ``vllm_plugin`` installs it in each process of vLLM.

vLLM compiles with eight threads as soon as it receives a request, which takes the cores from the step loop. And it
computes the allowed tokens of each request in the step loop, for however long that takes.
"""

import logging
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from looper.serve.engine.grammar_process import COMPILE_THREADS, MAX_STEP_CPU_S, NICENESS_INCREMENT

CORE_METHOD = "compile_for_looper"
"""Name of the method that is added to vLLM's ``EngineCore``."""

GRAMMAR_CACHE_BYTES = 2**28
"""Size of the engine's cache of compiled grammars, in bytes."""

log = logging.getLogger(__name__)


def install() -> None:
    """Compile grammars in a thread with a low priority, and end requests whose grammars are slow."""
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.structured_output import StructuredOutputManager
    from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

    vllm_init = StructuredOutputManager.__init__

    def init_with_compiler(self: Any, vllm_config: Any) -> None:
        vllm_init(self, vllm_config)
        if not vllm_config.model_config.skip_tokenizer_init:
            self.backend = _create_backend(self)
            self.compile_executor = ThreadPoolExecutor(1, "compile", _lower_priority)

    def compile_grammar(self: Any, kind: str, spec: str) -> Future[None]:
        manager = self.structured_output_manager
        future: Future[None] = manager.compile_executor.submit(_compile, manager.backend, kind, spec)
        return future

    StructuredOutputManager.__init__ = init_with_compiler
    setattr(EngineCore, CORE_METHOD, compile_grammar)
    _end_slow_grammars(XgrammarGrammar)


def _create_backend(manager: Any) -> Any:
    """Create vLLM's backend at the start. vLLM creates it at the first request, in the step loop."""
    import xgrammar
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

    vocab_size = manager.vllm_config.model_config.get_vocab_size()
    backend = XgrammarBackend(manager.vllm_config, tokenizer=manager.tokenizer, vocab_size=vocab_size)
    tokenizer_info = xgrammar.TokenizerInfo.from_huggingface(manager.tokenizer, vocab_size=vocab_size)
    backend.compiler = xgrammar.GrammarCompiler(
        tokenizer_info, max_threads=COMPILE_THREADS, cache_limit_bytes=GRAMMAR_CACHE_BYTES
    )
    return backend


def _compile(backend: Any, kind: str, spec: str) -> None:
    from vllm.v1.structured_output.backend_types import StructuredOutputOptions

    backend.compile_grammar(StructuredOutputOptions[kind], spec)


def _lower_priority() -> None:
    from looper.serve.cache.staging import leave_engine_cores

    leave_engine_cores()
    # On Linux, threads have priorities of their own.
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS_INCREMENT)


def _end_slow_grammars(grammar_class: Any) -> None:
    """Make a grammar refuse the next token when it took too long for one. vLLM then ends the request with an error.

    The time of an ambiguous grammar grows with the length of the text.
    """
    vllm_fill, vllm_accept = grammar_class.fill_bitmask, grammar_class.accept_tokens

    def fill_bitmask(self: Any, bitmask: Any, index: int) -> None:
        started_s = time.thread_time()
        vllm_fill(self, bitmask, index)
        self.is_too_slow = time.thread_time() - started_s > MAX_STEP_CPU_S

    def accept_tokens(self: Any, request_id: str, tokens: list[int]) -> bool:
        if getattr(self, "is_too_slow", False):
            log.warning("request %s was ended: its grammar takes too long for each token", request_id)
            return False
        accepted: bool = vllm_accept(self, request_id, tokens)
        return accepted

    grammar_class.fill_bitmask, grammar_class.accept_tokens = fill_bitmask, accept_tokens
