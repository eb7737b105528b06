import torch

from looper.jobs.consolidation.strategies.i_lora import ILora
from tests.jobs.consolidation.strategies.life import factors, parameters, session


def test_slow_weights_by_hand() -> None:
    # slow starts at 8, fast jumps to 0: 0.75 * 8 = 6, then 0.75 * 6 = 4.5; b, with the scale 2 in it, from 2 to 4: 2.5,
    # then 2.875.
    lora = parameters({"layer": factors([[1]], [[8]], scale=2)})
    strategy = ILora(beta=0.75)
    strategy.begin(session(lora, lora), {})
    with torch.no_grad():
        lora["layer"].a.fill_(0)
        lora["layer"].b.fill_(2)
    strategy.after_step(1.0)
    strategy.after_step(1.0)
    published = strategy.finish(lora)["layer"]
    assert (published.a.item(), published.b.item(), published.scale) == (4.5, 2.875, 1.0)
    assert lora["layer"].a.item() == 0
