"""The load that the check of a GPU puts on an engine, on the server of the session."""

from tests.gpu_check.engine import load_engine
from tests.serve.live import LiveServer


def test_each_answer_is_that_of_the_version_that_it_names(live: LiveServer) -> None:
    result = load_engine(live, lambda _: None, seconds=4, agents=8, clients=3)
    assert result.errors == []
    assert result.figures["answers"] >= 8
    assert result.figures["promotions"] > 0
