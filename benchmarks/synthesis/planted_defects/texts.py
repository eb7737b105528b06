"""Texts for planted defects: error messages and other answers of tools, and remarks of agents."""

from enum import StrEnum

TRANSIENT = (
    "E_TIMEOUT",
    "429 Too Many Requests, retry after 2 s",
    "connection reset by peer",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "Error: request timed out after 30 seconds",
    "Rate limit exceeded. Please try again later.",
    '{"error": {"code": 429, "message": "rate_limit_exceeded"}}',
    "ECONNRESET: socket hang up",
    "upstream connect error or disconnect/reset before headers",
    "The service is temporarily unavailable, try again in a moment.",
    "requests.exceptions.ConnectionError: Network is unreachable",
    "Lock wait timeout exceeded; try restarting transaction",
    "Server busy, too many connections",
)
"""Errors that pass when the call is repeated."""

INFORMATIVE = (
    "no such slot available on that day",
    "Not available: closed today.",
    "Insufficient balance.",
    "Error: the user is not authorized for this",
    "403 Forbidden: approval by the owner is needed",
    "Permission denied",
    '{"error": "out_of_stock"}',
    "Error: cannot be changed, it was completed already",
    "The policy does not allow this after 30 days.",
    "Error: on hold until the review is over",
)
"""Obstacles to a correct call, in words. The workplaces also have their own codes for them."""

NOT_FOUND = ("No earlier records found for {record}.", "404 Not Found: no entries for {record}", "Nothing found.")
"""Answers of a correct lookup that finds nothing."""

ENVIRONMENT = (
    "AttributeError: 'NoneType' object has no attribute 'get'",
    "Internal server error",
    "TypeError: unsupported operand type(s) for +: 'int' and 'str'",
    "500 Internal Server Error",
    "Error: IndexError: list index out of range",
    "Traceback (most recent call last):\n"
    '  File "/srv/tools/{tool}.py", line 41, in {tool}\n'
    "    row = table[key]\n"
    "KeyError: '{parameter}'",
    "NameError: name 'client' is not defined",
    "UnboundLocalError: cannot access local variable 'row' where it is not associated with a value",
    "ModuleNotFoundError: No module named 'ledger'",
    "ZeroDivisionError: division by zero",
    "java.lang.NullPointerException\n\tat com.house.tools.Handler.run(Handler.java:88)",
    "panic: runtime error: invalid memory address or nil pointer dereference",
    'psycopg2.errors.UndefinedColumn: column "{parameter}" does not exist',
)
"""Bugs of a tool."""


class Flaw(StrEnum):
    """What is wrong with a call."""

    MISSING = "missing"
    """The last argument is missing."""
    EXTRA = "extra"
    """There is an argument that the tool does not have."""
    WRONG = "wrong"
    """The last argument has a wrong value."""
    MALFORMED = "malformed"
    """The arguments are not valid JSON."""
    MISNAMED = "misnamed"
    """The tool does not exist."""


CAUSAL = (
    (Flaw.WRONG, "Error: payment amount does not add up"),
    (Flaw.MISSING, "Error: missing required argument '{parameter}'"),
    (Flaw.WRONG, "Invalid value '{value}' for '{parameter}'"),
    (Flaw.EXTRA, "TypeError: {tool}() got an unexpected keyword argument 'urgent'"),
    (Flaw.MALFORMED, "Error: arguments are not valid JSON: Expecting ',' delimiter: line 1 column 17 (char 16)"),
    (Flaw.MISNAMED, "Unknown function: {tool}"),
    (Flaw.MISSING, "TypeError: {tool}() missing 1 required positional argument: '{parameter}'"),
    (Flaw.WRONG, "422 Unprocessable Entity: {parameter}: value is not one of the permitted values"),
    (Flaw.MISSING, "ValidationError: 1 validation error for {tool}\n{parameter}\n  Field required"),
    (Flaw.WRONG, '{{"error": "invalid_request", "param": "{parameter}"}}'),
    (Flaw.MALFORMED, "400 Bad Request: malformed JSON"),
    (Flaw.MISNAMED, "Error: no tool named {tool}"),
)
"""Flaws of a call, with the error messages that they cause."""

HARMLESS_ERRORS = (
    "Checked: no errors found.",
    "0 errors, 0 warnings",
    '{"error": null, "status": "ready"}',
    '{"errors": [], "entries": 2}',
    "Reported an error on the last invoice in May; it was settled.",
    "failed_attempts: 0",
    "See the guide 'Error handling at the desk', page 3.",
    "time-out policy: standard, 30 days",
    "1 earlier entry: E_TIMEOUT at the gate on 3 May, cleared the same day",
    "invalid tickets: none",
    "Team: Failure Analysis, floor 3",
    "exception list: empty",
)
"""Answers that are no errors, although they contain words of an error."""

POLLS = (
    ("queued", "in progress", "ready"),
    ("10 %", "45 %", "80 %", "100 %"),
    ("3 ahead of you", "2 ahead of you", "1 ahead of you", "your turn"),
    ("pending since 09:02", "pending, seen by the desk", "approved"),
)
"""Answers to a call that is repeated until the last one comes."""

REMARKS = ("", "Let me see.", "I look at it.", "One moment.", "Once more, to be sure.", "Next.")
"""Texts of an agent beside a call."""
