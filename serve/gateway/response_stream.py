"""Passes a response from the engine to the client. Used by ``completion_handler``.

On the way it puts the client's model name in place of the digest, records the response, and stops it if its version or
its key has been revoked.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

import orjson

from looper.serve.error_responses import RequestRefused, stream_failed, to_last_events
from looper.serve.gateway.deadlines import RequestDeadline
from looper.serve.gateway.request_recorder import RequestRecorder
from looper.serve.protocol import AdmissionInfo, EngineOutput, FullResponse

log = logging.getLogger(__name__)


class ResponseStream:
    """One response of the engine.

    Args:
        outputs: What the engine yields.
        model: Model name that the client sent.
        digest: Digest of the version, None for the base model.
        recorder: Recorder of this response.
        find_reason_to_stop: Called before anything is sent. It returns the error to send instead, if there is a reason.
        deadline: Deadline of the request. A stream that has started is cut here.

    Attributes:
        admission: How the replica prepared the request. None before ``read_first``, and if the request was refused
            before it was admitted.
    """

    def __init__(
        self,
        outputs: AsyncGenerator[EngineOutput, None],
        model: str,
        digest: str | None,
        recorder: RequestRecorder,
        find_reason_to_stop: Callable[[], FullResponse | None],
        deadline: RequestDeadline,
    ) -> None:
        self._outputs = outputs
        self._model = model
        self._digest = digest
        self._recorder = recorder
        self._find_reason_to_stop = find_reason_to_stop
        self._deadline = deadline
        self.admission: AdmissionInfo | None = None

    async def read_first(self) -> FullResponse | str:
        """Wait for the start of the response.

        Returns:
            The full response, or the first server-sent events of a stream.

        Raises:
            Exception: Whatever the engine raises.
        """
        reason = None
        try:
            while not isinstance(output := await anext(self._outputs), FullResponse):
                if reason := self._find_reason_to_stop():
                    break
                if isinstance(output, AdmissionInfo):
                    self.admission = output
                    self._deadline.begin()
                    self._recorder.record_admission(output)
                    continue
                self._recorder.record_tokens(output.tokens)
                if output.text:
                    break
        except Exception:
            self._recorder.record_failure()
            raise
        if reason := reason or self._find_reason_to_stop():
            if not isinstance(output, AdmissionInfo) and output.tokens:
                self._recorder.record_tokens(output.tokens)  # they were generated, and are charged
            self._recorder.record_failure()
            await self._outputs.aclose()
            return reason
        assert not isinstance(output, AdmissionInfo)
        first = output if isinstance(output, FullResponse) else _error_in(output.text) or output.text
        if isinstance(first, str):
            self._recorder.record_events()
            return self._rename_model(first)
        self._recorder.record_response(first)
        return replace(first, body=self._rename_model(first.body.decode()).encode())

    async def stream_events(self, first: str) -> AsyncIterator[str]:
        """Yield the events of a stream.

        The HTTP status has been sent already, so a failure becomes an error event, as in vLLM.

        Args:
            first: The events that ``read_first`` returned.

        Yields:
            Server-sent events.
        """
        yield first
        try:
            async with aclosing(self._outputs):
                while (output := await self._next_output()) is not None:
                    if reason := self._find_reason_to_stop():
                        self._recorder.record_failure()
                        yield to_last_events(reason)
                        return
                    assert not isinstance(output, AdmissionInfo)
                    if output.tokens:
                        self._recorder.record_tokens(output.tokens)
                    text = f"data: {output.body.decode()}\n\n" if isinstance(output, FullResponse) else output.text
                    if text:
                        self._recorder.record_events()
                        yield self._rename_model(text)
            self._recorder.record_success()
        except RequestRefused as refused:
            self._recorder.record_failure()
            yield to_last_events(refused.response)
        except Exception:
            log.exception("the engine failed during a streamed response of %s", self._digest or self._model)
            self._recorder.record_failure()
            yield to_last_events(stream_failed())

    async def _next_output(self) -> EngineOutput | None:
        """Return the engine's next output, None at the end."""
        async with self._deadline.enforced():
            return await anext(self._outputs, None)

    def _rename_model(self, text: str) -> str:
        """Put the client's model name in place of the digest in vLLM's compact JSON.

        The quotes around ``model`` are not escaped, so they are the JSON's own, and text of the model never matches.
        """
        if self._digest is None:
            return text
        return text.replace(f'"model":"{self._digest}"', f'"model":{orjson.dumps(self._model).decode()}')


def _error_in(events: str) -> FullResponse | None:
    """Return the error with which a stream starts, as a response: vLLM finds some mistakes only after the start."""
    if not events.startswith('data: {"error"'):
        return None
    body = events.removeprefix("data: ").partition("\n")[0]
    return FullResponse(orjson.loads(body)["error"]["code"], body.encode())
