"""What a person reads in the terminal: plain messages instead of tracebacks and scheduler chatter."""

from __future__ import annotations

import difflib
import html
import logging
import multiprocessing
import re
import sys
from collections.abc import Sequence
from traceback import clear_frames
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lakejobs.messages import LakeError, log

if TYPE_CHECKING:
    import luigi

LUIGID_HELP = (
    "no luigid answers at {url}. Start one (scripts/luigid, or: luigid --background --address 127.0.0.1 "
    "--pidfile .luigid/pid --logdir .luigid), or add --local-scheduler to run without one."
)

INTERRUPTED = "Interrupted; what was published stays, run again to go on."
INTERRUPTED_CODE = 130
"""What a shell reports of a command that Ctrl-C ended."""

UNREADABLE_SETTING = re.compile(r"(?:ValueError: |^)(\w+)\[.*\]: Error when parsing the default value of '(\w+)'")
"""How Luigi says that the value of a setting cannot be read; its cause says why."""

# Luigi says these once per task at INFO; for a backfill of a year that is a wall of text.
CHATTER = (
    "Informed scheduler that",
    "[pid %s] Worker",
    "Running Worker with",
    "Done scheduling",
    "Worker Worker(",
    "Did not schedule",
)


class PlainMessages(logging.Filter):
    """Cuts Luigi's log down to what helps.

    An exception that is a person's to mend is shown as its message, once and without a traceback; every other
    exception keeps its traceback. Per-task scheduling notes are dropped below WARNING.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        template = str(record.msg)
        if record.levelno < logging.WARNING and template.startswith(CHATTER):
            return False
        error = record.exc_info[1] if record.exc_info else None
        message = plain_message(error)
        if message is None and "LakeError: " in template:
            # Raised while tasks were scheduled: Luigi has made text of the traceback already.
            message = template.rpartition("LakeError: ")[2].strip()
        if message is None and (setting := UNREADABLE_SETTING.search(template)):
            cause = template.partition("\n\nThe above exception")[0].rpartition("Error: ")[2]
            message = unreadable(setting, cause)
        if message is None:
            # The scheduler that cannot be pinged is the one that does not answer.
            return not (self._shown and template == "Failed pinging scheduler")
        task = (
            f"{record.args[-1]}: " if " failed " in template and isinstance(record.args, tuple) and record.args else ""
        )
        record.msg, record.args, record.exc_info, record.exc_text = "%s%s", (task, message), None, None
        is_new = task + message not in self._shown
        self._shown.add(task + message)
        return is_new


def plain_message(error: BaseException | None) -> str | None:
    """The text to show instead of a traceback, or None where the traceback is what helps."""
    if error is None:
        return None
    if isinstance(error, LakeError):
        return str(error)
    # Luigi's own errors are told by name: to import them here would be to load half of Luigi first.
    kind = f"{type(error).__module__}.{type(error).__name__}"
    if kind == "luigi.rpc.RPCError":
        return LUIGID_HELP.format(url=str(error).rpartition(" ")[2].strip("'"))
    if kind == "luigi.parameter.MissingParameterException":
        task = str(error).partition("[")[0]
        parameter = str(error).rpartition("the '")[2].partition("'")[0]
        return f"{task} needs its parameter {parameter}: --{task}-{parameter.replace('_', '-')} VALUE"
    if kind == "luigi.task_register.TaskClassNotFoundException":
        return no_such_task(str(error).removeprefix("No task ").partition(". ")[0])
    message = _unreadable_value(error) if isinstance(error, ValueError) else None
    return message or plain_message(error.__cause__)


def no_such_task(name: str) -> str:
    """Names the tasks that a person may have meant, and all there are."""
    lowered = {task.lower(): task for task in _tasks}
    close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered)]
    meant = f"did you mean {' or '.join(close)}? There" if close else "there"
    return f"there is no task {name!r}; {meant} are {', '.join(_tasks)}"


def unreadable(setting: re.Match[str], cause: str) -> str:
    return f"[{setting[1]}] {setting[2]} is not understood: {cause.strip()}"


def _unreadable_value(error: ValueError) -> str | None:
    if setting := UNREADABLE_SETTING.search(str(error)):
        return unreadable(setting, str(error.__cause__))
    option = _option_being_read(error.__traceback__)
    return f"{option} is not understood: {error}" if option else None


def _option_being_read(traceback: TracebackType | None) -> str | None:
    """The option of a task, with its value, that Luigi was reading from the command line when an error arose."""
    while traceback:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "_get_task_kwargs" and frame.f_globals["__name__"] == "luigi.cmdline_parser":
            return f"--{frame.f_locals['param_name'].replace('_', '-')} {frame.f_locals['attr']}"
        traceback = traceback.tb_next
    return None


class TaskContext:
    """What Luigi runs every task in, by its setting `task_process_context`.

    Ctrl-C reaches a run and all of its worker processes at once; these end in silence, because it is for the run to
    speak.
    """

    def __init__(self, process: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> bool:
        return kind is KeyboardInterrupt and multiprocessing.parent_process() is not None


def show_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """In place of `sys.excepthook`: a sentence where one helps more than a traceback."""
    if kind is KeyboardInterrupt:
        progress.end()
        # What was at work when it came is let go of, or the libraries whose it is complain after the last word.
        chained: BaseException | None = error
        while chained:
            clear_frames(chained.__traceback__)
            chained = chained.__context__
        sys.stderr.write(f"{INTERRUPTED}\n")
        raise SystemExit(INTERRUPTED_CODE)
    if message := plain_message(error):
        sys.stderr.write(f"{message}\n")
    else:
        sys.__excepthook__(kind, error, traceback)


_tasks: tuple[str, ...] = ()


def install(tasks: Sequence[str]) -> None:
    """Put the filters on Luigi's logger and ours, and plain words in place of tracebacks. `tasks`: those there are."""
    global _tasks
    _tasks = tuple(tasks)
    sys.excepthook = show_uncaught
    luigi_log = logging.getLogger("luigi-interface")
    if not any(isinstance(item, PlainMessages) for item in luigi_log.filters):
        luigi_log.addFilter(PlainMessages())
        luigi_log.addFilter(progress.make_way)
        log.addFilter(progress.make_way)


class Progress:
    """A bar on the terminal for the task that is running; nothing where nobody looks on."""

    def __init__(self) -> None:
        self._task = ""
        self._bar: Any = None

    def show(self, task: str, message: str, percent: int) -> None:
        # Tasks of several workers run side by side, each in a process of its own, and would draw over each other.
        if not sys.stderr.isatty() or multiprocessing.parent_process() is not None:
            return
        from tqdm import tqdm

        if task != self._task:
            self.end()
            self._task = task
            form = "{desc} |{bar:12}| {percentage:.0f}% {elapsed}{postfix}"
            self._bar = tqdm(desc=task, total=100, leave=False, bar_format=form)
        self._bar.n = percent
        self._bar.set_postfix_str(message)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._task, self._bar = "", None

    def make_way(self, record: logging.LogRecord) -> bool:
        """A filter that lets everything pass: a line of the log is not to be written behind the bar."""
        if self._bar is not None:
            self._bar.clear()
        return True


progress = Progress()


def tell(task: luigi.Task, message: str, *, percent: int | None = None, link: str | None = None) -> None:
    """Say what a task is doing or has done: in the log, and in the visualiser while it runs under a worker."""
    progress.end()
    log.info("%s: %s", task, message)
    announce(task, message, percent=percent, link=link)


def show_progress(task: luigi.Task, message: str, percent: int) -> None:
    """Say how far a task has come: in the visualiser, and as a bar where a person looks on."""
    progress.show(str(task), message, percent)
    announce(task, message, percent=percent)


def announce(task: luigi.Task, message: str, *, percent: int | None = None, link: str | None = None) -> None:
    """Say it in the visualiser alone."""
    # Luigi puts these on a task only for the time a worker runs it. Its visualiser takes a message for HTML, and
    # names of delivered files may be anything.
    if set_message := getattr(task, "set_status_message", None):
        set_message(html.escape(message, quote=False))
    if percent is not None and (set_percentage := getattr(task, "set_progress_percentage", None)):
        set_percentage(percent)
    if link and (set_link := getattr(task, "set_tracking_url", None)):
        set_link(link)
