"""Compiles the grammar of a request before the request takes a place in the engine.

``SkillServer.generate`` enters ``GrammarChecker.ready`` with the constraint that ``find_constraint`` derives from a
request: a schema, regular expression, choice, grammar or structural tag, or the schemas of tools. The grammar is first
tried in ``grammar_process``, which refuses it if it takes too much time or memory. Then the engine compiles it in a
thread with a low priority, into its own cache. vLLM itself would compile at the place of a running request, and parse
the grammar in the event loop of all requests.

Imports vLLM, and so is imported only in a replica's own process.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from vllm.entrypoints.generate.base import protocol as vllm_protocol
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GenerationError, VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_xgrammar
from vllm.v1.structured_output.request import get_structured_output_key

from looper.platform.domain.errors import Overloaded
from looper.serve.engine.grammar_plugin import CORE_METHOD, GRAMMAR_CACHE_BYTES
from looper.serve.engine.grammar_process import DEAD_END, MAX_WALL_S, TOO_AMBIGUOUS, GrammarVerdict
from looper.serve.error_responses import RequestRefused, error_response
from looper.serve.fair_turns import FairTurns
from looper.serve.protocol import FullResponse

MAX_SPEC_BYTES = 2**18
"""Maximum size of a grammar in the form that is compiled, in bytes."""

MAX_WAITING = 16
"""Maximum number of one tenant's requests that wait for their grammars."""

ENTRY_BYTES = 256
"""Size of a verdict in the cache, in bytes, beside that of the compiled grammar."""

CACHED_BYTES = GRAMMAR_CACHE_BYTES // 2
"""Size of the compiled grammars whose verdicts are cached. Less than the engine caches, so that it has all of them."""

ENGINE_ERROR = "Internal server error"
"""vLLM's message when the engine ends a request with an error, as it does when a grammar accepts no more tokens."""

RESPONSE_FORMAT, STRUCTURED_OUTPUTS, TOOLS = "response_format", "structured_outputs", "tools"


class ConstraintRefused(RequestRefused):
    """A request's constraint cannot be used: status 400 that names the field.

    Args:
        field: The field of the request.
        problem: What is wrong with it, as the rest of a sentence.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(error_response(400, f"{field}: the grammar {problem}", param=field))


class Constraint(NamedTuple):
    """What the text of a response must match."""

    field: str
    """The field of the request that it comes from."""
    kind: str
    """Name of one of vLLM's ``StructuredOutputOptions``."""
    spec: str
    """The specification, in the form that is compiled."""

    @property
    def digest(self) -> bytes:
        """Digest of the kind and the specification."""
        return hashlib.sha256(f"{self.kind}\n{self.spec}".encode(errors="surrogatepass")).digest()


def find_constraint(request: Any, adjust: Callable[[Any], Any]) -> Constraint | None:
    """Return the constraint that vLLM will derive from a request.

    Args:
        request: A validated ``ChatCompletionRequest`` or ``CompletionRequest`` of vLLM. It is not changed.
        adjust: vLLM's parser, which adds the constraint of a request's tools.

    Returns:
        The constraint. None, if any text is allowed.

    Raises:
        ConstraintRefused: It is invalid or too large.
    """
    field = STRUCTURED_OUTPUTS if request.structured_outputs is not None else RESPONSE_FORMAT
    try:
        if getattr(request, "tools", None) and request.tool_choice != "none":
            adjusted = adjust(request.model_copy())
            field = TOOLS if adjusted.structured_outputs is not request.structured_outputs else field
            request = adjusted
        params = request.extract_structured_outputs()
        if params is None or params.all_constraints_none():
            return None
        _check_values(field, params)
        kind, spec = _to_compiled_form(params)
    except (ValueError, TypeError, KeyError, RecursionError, VLLMValidationError) as error:
        raise ConstraintRefused(field, f"is invalid: {str(error)[:200]}") from error
    if (size := len(spec.encode(errors="surrogatepass"))) > MAX_SPEC_BYTES:
        raise ConstraintRefused(field, f"has {size} bytes, but the maximum is {MAX_SPEC_BYTES}")
    return Constraint(field, kind, spec)


def refuse_during_generation(constraint: Constraint | None, output: Any) -> FullResponse | None:
    """Return the response for a request that the engine ended because of its grammar.

    Args:
        constraint: The request's constraint.
        output: An output of vLLM, or an exception that it raised.

    Returns:
        An error with status 400. None, if this is another output.
    """
    if constraint is None:
        return None
    match output:
        case str() | GenerationError():
            text = str(output)
        case ErrorResponse():
            text = output.error.message
        case _:
            return None
    if text == ENGINE_ERROR or ('data: {"error"' in text and f'"{ENGINE_ERROR}"' in text):
        return ConstraintRefused(constraint.field, f"{DEAD_END}, or {TOO_AMBIGUOUS}").response
    return None


def _check_values(field: str, params: StructuredOutputsParams) -> None:
    """Refuse values for which there is nothing to compile."""
    if params.json_object is False:
        raise ConstraintRefused(field, "is empty: json_object must be true if it is set")
    value = next(
        value
        for value in (params.json, params.regex, params.choice, params.grammar, params.structural_tag, True)
        if value is not None
    )
    if value == [] or (isinstance(value, str) and not value.strip()):
        raise ConstraintRefused(field, "is empty")
    if "\0" in str(params.regex):
        raise ConstraintRefused(field, "is invalid: a regular expression must not contain a NUL character")


def _to_compiled_form(params: StructuredOutputsParams) -> tuple[str, str]:
    """Convert choices and Lark grammars in place, as vLLM does. Return the kind and the specification."""
    if params.choice is not None:
        params.grammar, params.choice = backend_xgrammar.choice_as_grammar(params.choice), None
    elif params.grammar is not None and backend_xgrammar.grammar_is_likely_lark(params.grammar):
        params.grammar = backend_xgrammar.convert_lark_to_ebnf(params.grammar)
    elif params.json is not None:
        schema = json.loads(params.json) if isinstance(params.json, str) else params.json
        if backend_xgrammar.has_xgrammar_unsupported_json_features(schema):
            raise ValueError("the JSON schema has keywords that are not supported")
    option, spec = get_structured_output_key(params)
    return option.name, spec


def tool_adjuster(chat: Any) -> Callable[[Any], Any]:
    """Return vLLM's function that adds the constraint of a request's tools to the request.

    Args:
        chat: vLLM's ``OpenAIServingChat``.

    Returns:
        The function.
    """

    def adjust(request: Any) -> Any:
        parser = chat.parser_cls(chat.renderer.tokenizer, request.tools, model_config=chat.model_config)
        return parser.adjust_request(request)

    return adjust


class GrammarChecker:
    """Tries and compiles the grammars of one engine's requests. Create it with ``start``."""

    def __init__(self, model_dir: Path, cores: set[int]) -> None:
        """Store how to start the process.

        Args:
            model_dir: Folder of the base model.
            cores: Cores for the process.
        """
        self._command = [sys.executable, "-m", "looper.serve.engine.grammar_process", str(model_dir)]
        self._cores = cores
        self._core_client: Any = None
        self._trial: asyncio.Task[GrammarVerdict] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._turns = FairTurns("their grammars", concurrent=1, max_waiting=MAX_WAITING)
        self._verdicts: OrderedDict[bytes, GrammarVerdict] = OrderedDict()  # least recently used first
        self._verdict_bytes = 0
        self._in_use: Counter[bytes] = Counter()

    @classmethod
    async def start(cls, model_dir: Path, cores: set[int]) -> Self:
        """Start the process. It takes seconds until it answers, so the engine starts meanwhile.

        Args:
            model_dir: Folder of the base model.
            cores: Cores for the process.

        Returns:
            The checker. It is used after ``attach``.
        """
        checker = cls(model_dir, cores)
        await checker._start_process()
        return checker

    def attach(self, core_client: Any) -> None:
        """Make vLLM's front end in this process refuse grammars that were not compiled in this engine.

        Args:
            core_client: vLLM's client of the engine's process, which compiles them.
        """
        self._core_client = core_client
        self._verdicts.clear()
        self._verdict_bytes = 0
        vllm_protocol.validate_structural_tag_payload = _leave_to_checker
        backend_xgrammar.validate_xgrammar_grammar = self._validate

    @asynccontextmanager
    async def ready(self, constraint: Constraint | None, tenant: str) -> AsyncIterator[None]:
        """Try and compile a grammar. Inside the context, the engine accepts requests with it.

        Args:
            constraint: The constraint. None: nothing to do.
            tenant: Tenant of the request.

        Yields:
            Nothing.

        Raises:
            ConstraintRefused: The grammar is invalid, or takes too much time or memory.
            Overloaded: Too many requests of this tenant wait for their grammars, or the process died.
        """
        if constraint is None:
            yield
            return
        verdict = await self._check(constraint, tenant)
        if verdict.problem:
            raise ConstraintRefused(constraint.field, verdict.problem)
        self._in_use[constraint.digest] += 1
        try:
            yield
        finally:
            self._in_use[constraint.digest] -= 1
            if not self._in_use[constraint.digest]:
                del self._in_use[constraint.digest]

    async def _check(self, constraint: Constraint, tenant: str) -> GrammarVerdict:
        if verdict := self._recall(constraint.digest):
            return verdict
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(self._turns.turn(tenant))
            if verdict := self._recall(constraint.digest):
                return verdict  # somebody before had the same grammar
            # A caller that is canceled leaves at once. The trial ends by itself, and keeps the turn until then.
            self._trial = asyncio.create_task(self._try(constraint, turn.pop_all()))
            self._trial.add_done_callback(lambda done: done.cancelled() or done.exception())
            return await asyncio.shield(self._trial)

    async def _try(self, constraint: Constraint, turn: AsyncExitStack) -> GrammarVerdict:
        """Try a grammar in the process, and then compile it in the engine."""
        async with turn:
            verdict = await self._ask({"kind": constraint.kind, "spec": constraint.spec})
            if not verdict.problem:
                try:
                    async with asyncio.timeout(MAX_WALL_S):  # an engine that died may never answer
                        await self._core_client.call_utility_async(CORE_METHOD, constraint.kind, constraint.spec)
                except TimeoutError as error:
                    raise Overloaded(
                        "the engine is too busy to compile the grammar: try again", retry_after_s=1.0
                    ) from error
            self._remember(constraint.digest, verdict)
            return verdict

    async def _ask(self, request: dict[str, str]) -> GrammarVerdict:
        for _ in range(2):
            process = self._process or await self._start_process()
            assert process.stdin
            assert process.stdout
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()
                if line := await process.stdout.readline():
                    return GrammarVerdict(*json.loads(line))
            self._process = None
        raise Overloaded("grammars cannot be compiled now: try again", retry_after_s=1.0)

    async def _start_process(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe)
        os.sched_setaffinity(self._process.pid, self._cores)
        return self._process

    def _recall(self, digest: bytes) -> GrammarVerdict | None:
        if verdict := self._verdicts.get(digest):
            self._verdicts.move_to_end(digest)
        return verdict

    def _remember(self, digest: bytes, verdict: GrammarVerdict) -> None:
        self._verdicts[digest] = verdict
        self._verdict_bytes += ENTRY_BYTES + verdict.compiled_bytes
        while self._verdict_bytes > CACHED_BYTES and len(self._verdicts) > 1:
            _, oldest = self._verdicts.popitem(last=False)
            self._verdict_bytes -= ENTRY_BYTES + oldest.compiled_bytes

    def _validate(self, sampling_params: SamplingParams) -> None:
        """Replace vLLM's validation, which parses the grammar in the event loop of all requests."""
        if (params := sampling_params.structured_outputs) is None:
            return
        if Constraint("", *_to_compiled_form(params)).digest not in self._in_use:
            raise VLLMValidationError("this grammar was not compiled before the request was admitted")


def _leave_to_checker(payload: Any, *, parameter: str) -> None:
    """Replace vLLM's validation of structural tags while a request is parsed."""
    if not isinstance(payload, str):
        raise VLLMValidationError(f"{parameter}: structural_tag must be a string", parameter=parameter)
