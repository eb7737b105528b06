"""Which tool results are error messages, judged by their text.

``classify_errors.py`` calls ``find_error_message`` for each tool result and then decides what kind of error it is.
"""

import re

from looper.jobs.synthesis.actions import parse_arguments
from looper.jobs.synthesis.json_object import parse_json_object
from looper.platform.domain.trajectory import ToolCall

MAX_SHORT_RESULT_CHARS = 200
"""Length of a result of one or two lines, in which an error is recognized anywhere."""

MAX_MESSAGE_CHARS = 600
"""Length of the part of a long result that tells whether it is an error."""


def compile_alternatives(*patterns: str, flags: re.RegexFlag = re.IGNORECASE) -> re.Pattern[str]:
    """Compile alternatives into one pattern.

    Args:
        *patterns: Regular expressions, any of which may match.
        flags: Flags of the pattern.

    Returns:
        The compiled pattern.
    """
    return re.compile("|".join(patterns), flags)


_ERROR_AT_HEAD = compile_alternatives(
    r"^\W*(an? )?(\w*error\b|err\b|exception|fatal|failed|failure|e_\w+\b|traceback|(http )?[45]\d\d\b|invalid ",
    r"no replacement was performed|unknown |timed? ?out|rate limit|too many req|service unavailable|connection ",
    r"internal server error|bad gateway|permission denied|access denied|syntax error|cannot |could not |unable to ",
    r"refused|your proposed edit has introduced)",
)
"""The beginning of an error message."""

_ERROR_IN_SHORT_RESULT = compile_alternatives(
    r"\btemporarily unavailable|try again (later|in )|connect error|timeout exceeded|server busy",
    r"too many (connections|req)",
    r"\b\w*(error|exception)(:|\n|$)|^(\w+\.)+\w+: |^panic: |nothing (was )?found|\bno [\w ]{0,30}(was |were )?found\b",
    r"(does|do|is|are) not (allow|allowed|permit|permitted|available|found|exist)|not in stock|socket hang up",
)
"""An error anywhere in a short result."""

_REPORTS_NO_ERRORS = re.compile(
    r"^[\w -]+: (0|none|empty|no|false|ok|\[\])\W*$|\bno (errors?|problems?|issues?|failures?) ", re.IGNORECASE
)
"""A result that mentions errors to say that there are none."""

_SHELL_ERROR = re.compile(
    r"^(/\w+)*/?[^\W\d]\w*: (line )?(\d+: )?.*([Nn]ot found|[Nn]o such file|[Pp]ermission denied|can't cd|cannot access"
    r"|[Ss]yntax error)"
    r"|^Traceback \(most recent call last\)|^g?make(\[\d+\])?: \*\*\*|^(E|Err:\d+)[: ]|^CMake Error|^fatal: "
    r"|^error(\[\w+\])?: |^\w*Error: |^Error (with|in|at|on|while|during|when) [^\n:]{1,80}: |✗"
    r"|^FAIL(ED)?\b|\b[1-9]\d* failed\b",
    re.MULTILINE,
)
"""An error anywhere in the output of a shell."""

_SHELL_TOOL = compile_alternatives(r"bash|sh|shell|terminal|execute|exec|run|python|edit|str_replace_editor")
"""Names of tools that run code, for calls whose arguments are no JSON object."""

_CODE_ARGUMENTS = {"command", "cmd", "script", "file_text", "old_str", "new_str"}
"""Names of arguments that hold code or text that the agent wrote."""

_RESULT_PREFIX = re.compile(r"^(OBSERVATION:\s*|#? ?\w+ = \"?)")
"""What the tools of some agents print in front of the result."""


def find_error_message(call: ToolCall, result: str) -> str | None:
    """Return the error message in a tool result.

    Args:
        call: The call that the result answers.
        result: The text of the result.

    Returns:
        The message, at most ``MAX_MESSAGE_CHARS`` characters, or None if the result is no error.
    """
    text = _RESULT_PREFIX.sub("", result.strip())
    fields = parse_json_object(text) if text.startswith("{") else None
    if fields is not None:
        message = fields.get("error") or fields.get("errors")
        if message:
            return str(message)[:MAX_MESSAGE_CHARS]
        has_failed = fields.get("status") in ("error", "failed") or fields.get("isError") is True
        return text[:MAX_MESSAGE_CHARS] if has_failed else None
    if _REPORTS_NO_ERRORS.search(text[:MAX_SHORT_RESULT_CHARS]):
        return None
    is_short = len(text) <= MAX_SHORT_RESULT_CHARS
    if _ERROR_AT_HEAD.match(text) or (is_short and _ERROR_IN_SHORT_RESULT.search(text)):
        return text[:MAX_MESSAGE_CHARS]
    shell_error = _SHELL_ERROR.search(text) if runs_agent_code(call) else None
    return text[shell_error.start() :][:MAX_MESSAGE_CHARS] if shell_error else None


def runs_agent_code(call: ToolCall) -> bool:
    """Return whether a call runs or stores code that the agent wrote, as a shell or an editor does.

    Args:
        call: The tool call.

    Returns:
        True if an argument holds code. If the arguments are no JSON object, the name of the tool decides.
    """
    arguments = parse_arguments(call)
    if arguments is None:
        return bool(_SHELL_TOOL.match(call.name))
    return bool(_CODE_ARGUMENTS & arguments.keys()) or "\n" in str(arguments.get("code", ""))
