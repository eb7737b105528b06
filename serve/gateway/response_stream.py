"""An answer on its way from the engine to the client: renamed, watched, and cut off if its version is revoked."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Container
from contextlib import aclosing
from dataclasses import replace

import orjson

from looper.serve.gateway.request_recorder import RequestRecorder
from looper.serve.protocol import AdmissionInfo, FullResponse, Reply, error

log = logging.getLogger(__name__)


class ResponseStream:
    """One answer of ``model``, given by the version ``digest``, or by the base model if that is None."""

    def __init__(
        self,
        replies: AsyncGenerator[Reply, None],
        model: str,
        digest: str | None,
        watch: RequestRecorder,
        revoked: Container[str | None],
    ) -> None:
        """``revoked`` holds, at any time, the digests of what may speak no more."""
        self._replies = replies
        self._model = model
        self._digest = digest
        self._watch = watch
        self._revoked = revoked
        self.opening: AdmissionInfo | None = None
        """How the engine made ready, once there is a first reply; it refuses some requests before that."""

    async def first(self) -> FullResponse | str:
        """The whole answer or the first events of it. Raises whatever the engine raises."""
        try:
            while not isinstance(reply := await anext(self._replies), FullResponse):
                if isinstance(reply, AdmissionInfo):
                    self.opening = reply
                    self._watch.opened(reply)
                    continue
                self._watch.counted(reply.tokens)
                if reply.text:
                    break
        except Exception:
            self._watch.failed()
            raise
        answer = reply if isinstance(reply, FullResponse) else _refusal(reply.text) or reply.text
        if isinstance(answer, str):
            self._watch.events()
            return self._say(answer)
        self._watch.whole(answer)
        return replace(answer, body=self._say(answer.body.decode()).encode())

    async def events(self, first: str) -> AsyncIterator[str]:
        """``first`` and all that follow it. The status is out, so a failure is told as an event, as vLLM does."""
        yield first
        try:
            async with aclosing(self._replies):
                async for reply in self._replies:
                    if self._digest in self._revoked:
                        self._watch.failed()
                        yield _broken("this version was revoked", "version_revoked")
                        return
                    assert not isinstance(reply, AdmissionInfo)
                    if reply.tokens:
                        self._watch.counted(reply.tokens)
                    text = f"data: {reply.body.decode()}\n\n" if isinstance(reply, FullResponse) else reply.text
                    if text:
                        self._watch.events()
                        yield self._say(text)
            self._watch.ended()
        except Exception:
            log.exception("the engine failed while it streamed an answer of %s", self._digest or self._model)
            self._watch.failed()
            yield _broken("the engine failed: ask again", "engine_failed")

    def _say(self, text: str) -> str:
        """``text``, vLLM's compact JSON, naming the model where it names the digest.

        Unescaped quotes around ``model`` are JSON's own, so this cannot touch what the model wrote.
        """
        if self._digest is None:
            return text
        return text.replace(f'"model":"{self._digest}"', f'"model":{orjson.dumps(self._model).decode()}')


def _refusal(events: str) -> FullResponse | None:
    """What vLLM found wrong with a request once its stream had begun, though nothing of it has been said."""
    if not events.startswith('data: {"error"'):
        return None
    body = events.removeprefix("data: ").partition("\n")[0]
    return FullResponse(orjson.loads(body)["error"]["code"], body.encode())


def _broken(why: str, code: str) -> str:
    return f"data: {error(500, f'the answer broke off: {why}', code=code).body.decode()}\n\ndata: [DONE]\n\n"
