"""Notices replicas from which nothing comes back, such as those of a node that stands still or is cut off.

Ray Serve trusts the queue length that it knows of a replica, and counts what it sends, so it would go on sending to a
silent one until Ray has given up its node, which takes over a minute. A replica says at once whether it accepts a
request. So one that has said nothing since a request was sent to it some time ago is asked first, before it gets
another one: Ray Serve does that where it knows no queue length, and takes the next replica after a tenth of a second.
"""

import time
from typing import Any

from ray.serve.request_router import ReplicaID, RequestRouter
from typing_extensions import override

SILENCE_S = 2.0
"""Time without a sign of life after a request was sent to a replica, in seconds. Then it is asked first."""


class SilenceAwareRouter(RequestRouter):
    """Part of a request router of Ray Serve. Its ``choose_replicas`` calls ``ask_silent_replicas`` first."""

    @override
    def initialize_state(self, **kwargs: Any) -> None:
        super().initialize_state(**kwargs)  # type: ignore[no-untyped-call]
        self._sent_at: dict[ReplicaID, float] = {}  # the first request since anything was heard of the replica

    @override
    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self._sent_at.setdefault(replica_id, time.monotonic())

    @override
    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        super().on_new_queue_len_info(replica_id, num_ongoing_requests)
        self._sent_at.pop(replica_id, None)

    def ask_silent_replicas(self) -> None:
        """Let Ray Serve ask silent replicas before it sends them anything."""
        before = time.monotonic() - SILENCE_S
        for replica_id, sent_at in list(self._sent_at.items()):
            if replica_id not in self.curr_replicas:
                del self._sent_at[replica_id]
            elif sent_at < before:
                self.replica_queue_len_cache.invalidate_key(replica_id)
