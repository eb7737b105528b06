"""A process beside the engine that tries a request's grammar before the engine sees it.

A schema of some kilobytes can take a minute to compile, and a grammar of thirty bytes can take seconds for each token.
Here, each grammar is compiled and tried in a child process of its own, with limits on its processor time, memory and
stack. A child that exceeds one of them dies, and nobody else notices. The children are forks of this process, which has
xgrammar and the tokenizer loaded.

``grammars.GrammarChecker`` starts it as ``python -m`` and sends one request per line: JSON with ``kind`` and ``spec``.
The answer is a line of JSON: ``GrammarVerdict``.
"""

import json
import os
import random
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xgrammar
from transformers import AutoConfig, AutoTokenizer

MAX_COMPILE_CPU_S = 2
"""Maximum processor time to compile and try a grammar, in seconds of one core. Whole seconds."""

MAX_MEMORY_BYTES = 2**29
"""Maximum memory that compiling may take, in bytes."""

MAX_STACK_BYTES = 2**22
"""Maximum stack, in bytes: half of what the engine's compiling thread has."""

MAX_WALL_S = 60.0
"""Time after which a child is killed even if it used less processor time, in seconds."""

MAX_STEP_CPU_S = 0.05
"""Maximum processor time that a grammar may take for one token, in seconds. All requests of a step wait for it."""

TRIAL_TOKENS = 96
"""Number of tokens that are generated with a grammar to try it. Twice: at random, and always the same if possible."""

NICENESS_INCREMENT = 10
"""Added to the niceness of whatever compiles. It then gets about a tenth of a core that the engine computes on."""

COMPILE_THREADS = 1
"""Number of threads that compile a grammar. More would take the engine's cores."""

TOO_SLOW = "is too complex to compile: make it smaller, with less nesting and fewer repetitions"
TOO_AMBIGUOUS = "takes too long for each token: make it less ambiguous"
DEAD_END = "leads to a place from which no text can follow"


class GrammarVerdict(NamedTuple):
    """What came of trying a grammar."""

    problem: str | None
    """What is wrong with it, as the rest of a sentence about it. None: the engine can use it."""
    compiled_bytes: int = 0
    """Size of the compiled grammar, in bytes."""


class GrammarRefused(Exception):
    """The engine cannot use a grammar. The message is the rest of a sentence about it."""


def compile_grammar(compiler: Any, kind: str, spec: str) -> Any:
    """Compile a grammar exactly as vLLM's backend for xgrammar does.

    Args:
        compiler: The ``xgrammar.GrammarCompiler``.
        kind: Name of one of vLLM's ``StructuredOutputOptions``.
        spec: The specification that belongs to the kind.

    Returns:
        The ``xgrammar.CompiledGrammar``.

    Raises:
        GrammarRefused: The kind is unknown.
    """
    match kind:
        case "JSON":
            return compiler.compile_json_schema(spec, any_whitespace=True)
        case "JSON_OBJECT":
            return compiler.compile_json_schema('{"type": "object"}', any_whitespace=True)
        case "GRAMMAR":
            return compiler.compile_grammar(spec)
        case "REGEX":
            return compiler.compile_regex(spec)
        case "STRUCTURAL_TAG":
            tag = json.loads(spec)
            if "structures" not in tag:
                return compiler.compile_structural_tag(spec)
            items = [
                xgrammar.StructuralTagItem(begin=item["begin"], schema=json.dumps(item["schema"]), end=item["end"])
                for item in tag["structures"]
            ]
            return compiler.compile_structural_tag(items, tag["triggers"])
    raise GrammarRefused("is of a kind that is not supported")


def try_grammar(compiled: Any, vocab_size: int) -> None:
    """Generate with a grammar, without a model.

    Args:
        compiled: The ``xgrammar.CompiledGrammar``.
        vocab_size: Vocabulary size of the base model.

    Raises:
        GrammarRefused: It has a dead end, or takes too long for a token.
    """
    bitmask = xgrammar.allocate_token_bitmask(1, vocab_size)
    stop_ids = np.array(compiled.tokenizer_info.stop_token_ids)
    for repeat in (False, True):
        matcher, choose, previous = xgrammar.GrammarMatcher(compiled), random.Random(0), -1
        for _ in range(TRIAL_TOKENS):
            started_s = time.thread_time()
            matcher.fill_next_token_bitmask(bitmask, 0)
            allowed = np.flatnonzero(np.unpackbits(bitmask.numpy().view(np.uint8), bitorder="little")[:vocab_size])
            if not len(allowed):
                raise GrammarRefused(DEAD_END)
            going_on = allowed[~np.isin(allowed, stop_ids)]
            if not len(going_on):
                break  # the text is complete
            previous = previous if repeat and previous in going_on else int(choose.choice(going_on))
            if not matcher.accept_token(previous):
                raise GrammarRefused(DEAD_END)
            if time.thread_time() - started_s > MAX_STEP_CPU_S:
                raise GrammarRefused(TOO_AMBIGUOUS)


class _Trials:
    """Tries grammars in children of this process."""

    def __init__(self, model_dir: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self._vocab_size = int(AutoConfig.from_pretrained(model_dir).get_text_config().vocab_size)
        self._tokenizer_info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=self._vocab_size)

    def run(self, kind: str, spec: str) -> GrammarVerdict:
        """Try a grammar in a child."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            self._run_in_child(kind, spec, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as answers:
            if not select.select([answers], [], [], MAX_WALL_S)[0]:
                os.kill(child, signal.SIGKILL)
            line = answers.readline()
        _, status = os.waitpid(child, 0)
        if line.endswith(b"\n") and os.WIFEXITED(status):
            return GrammarVerdict(*json.loads(line))
        return GrammarVerdict(TOO_SLOW)

    def _run_in_child(self, kind: str, spec: str, writer: int) -> None:
        """Write the verdict to ``writer``, and end this process."""
        try:
            os.nice(NICENESS_INCREMENT)
            used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            for limit, value in (
                (resource.RLIMIT_CPU, MAX_COMPILE_CPU_S),
                (resource.RLIMIT_AS, used_bytes + MAX_MEMORY_BYTES),
                (resource.RLIMIT_STACK, MAX_STACK_BYTES),
                (resource.RLIMIT_CORE, 0),
            ):
                resource.setrlimit(limit, (value, value))
            compiler = xgrammar.GrammarCompiler(self._tokenizer_info, max_threads=COMPILE_THREADS, cache_enabled=False)
            compiled = compile_grammar(compiler, kind, spec)
            try_grammar(compiled, self._vocab_size)
            verdict = GrammarVerdict(None, compiled.memory_size_bytes)
        except GrammarRefused as refused:
            verdict = GrammarVerdict(str(refused))
        except MemoryError:
            verdict = GrammarVerdict(TOO_SLOW)
        except BaseException as error:
            # xgrammar's errors begin with a time and a place in its source.
            reason = str(error).rpartition(": ")[2].strip().splitlines() or [type(error).__name__]
            verdict = GrammarVerdict(f"is invalid: {reason[0][:200]}")
        os.write(writer, json.dumps(verdict).encode() + b"\n")
        os._exit(0)


def main() -> None:
    """Answer requests from standard input until it ends."""
    trials = _Trials(Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(trials.run(request["kind"], request["spec"])), flush=True)


if __name__ == "__main__":
    main()
