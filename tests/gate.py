"""Settings of the gate with which tiny random models and a handful of held-out tasks lead to published versions."""

from typing import Any

LENIENT_GATE: dict[str, Any] = {"false_pass_rate": 1, "min_right_actions": 0}
"""Whatever is not evidently worse passes. Somebody who tries every version by hand could want this."""

LENIENT_GATE_ENVIRONMENT = {
    f"LOOPER_CONSOLIDATION__GATE__{name.upper()}": str(value) for name, value in LENIENT_GATE.items()
}
"""The same as environment variables."""
