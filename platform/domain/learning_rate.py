"""The learning rate of a recipe that gives none: it is chosen for the size of the base model."""

SMALL_BASE_PARAMETERS = 135e6
"""Parameters of SmolLM2-135M, the base model that comes with Looper."""
SMALL_BASE_RATE = 2e-3
"""With replay on SmolLM2-135M it was as good as 1e-3 and better than 4e-3 (docs/results/forgetting.md). Trainers of
releases before there was a rule use it on every base model."""
LARGE_BASE_RATE = 3e-4
"""Best on Llama-3.1-8B-Instruct in the sweep below. It holds for larger base models too, which nobody swept."""
EXPONENT = 0.45


def default_learning_rate(parameters: int) -> float:
    """Return the peak learning rate of AdamW for LoRA adapters of a base model of this size.

    It is 2e-3 (135e6 / N)^0.45, but at most 2e-3 and at least 3e-4: a power law through our own 2e-3 at 135M and the
    3e-4 at 8B of a published sweep. The optimum does not depend on the rank if the update is scaled by alpha / rank.

    Sources: LoRA Without Regret (Schulman et al., Thinking Machines, 2025) and the sweep of its tinker-cookbook, which
    found 1e-3 for Llama-3.2-1B and Qwen3-8B and 3e-4 for Llama-3.1-8B-Instruct. The rule gives 7e-4 for Llama-3.2-1B,
    between that and the 5e-4 of tinker-cookbook's own formula for Llama, 5e-4 (2000 / hidden size)^0.781.

    Args:
        parameters: Number of all parameters of the base model. Those of all experts count.

    Returns:
        The learning rate.
    """
    if parameters <= SMALL_BASE_PARAMETERS:
        return SMALL_BASE_RATE
    rate: float = SMALL_BASE_RATE * (SMALL_BASE_PARAMETERS / parameters) ** EXPONENT
    return max(rate, LARGE_BASE_RATE)
