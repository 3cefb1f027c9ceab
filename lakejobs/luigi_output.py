"""Terminal output: plain messages instead of tracebacks and scheduler chatter."""

from __future__ import annotations

import _thread
import atexit
import html
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from traceback import clear_frames
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any

from lakejobs.messages import LakeError, log

if TYPE_CHECKING:
    import luigi

LUIGID_HELP = "no luigid answers at {url}. Start one ({start}), or pass --local-scheduler to run without it."
LUIGID_ELSEWHERE_HELP = (
    "no luigid answers at {url}. Check the network and that it runs there, or pass --local-scheduler to run without it."
)
LUIGID_SCRIPT = "scripts/luigid"
LUIGID = "luigid --background --address 127.0.0.1 --pidfile .luigid/pid --logdir .luigid"
LUIGID_PORT = 8082
"""The port of luigid, unless told otherwise."""

PING = "luigid does not answer; the run goes on until it has something to report"
FORGOTTEN = (
    "luigid has forgotten this run, because it was restarted or heard nothing from the run for a minute. Everything "
    "published so far is kept; run again to continue."
)
INTERRUPTED = "Interrupted. Everything published so far is kept; run again to continue."
INTERRUPTED_CODE = 130
"""The exit code shells report for a command ended by Ctrl-C."""

UNREADABLE_SETTING = re.compile(r"(?:ValueError: |^)(\w+)\[.*\]: Error when parsing the default value of '(\w+)'")
"""How Luigi reports a setting that it cannot parse; the error's cause says why."""

RAISED = re.compile(r"^lakejobs\.[\w.]+Error: ", re.MULTILINE)
"""How a traceback formatted as text begins its line about a LakeError."""

UNANSWERED = re.compile(r"^luigi\.rpc\.RPCError: .* '(.+)'$", re.MULTILINE)
"""How such a traceback says that luigid does not answer."""

# Luigi logs these once per task at INFO: a wall of text when a run backfills a year.
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

    An error that the user can fix appears once, as its message without a traceback. Every other exception keeps its
    traceback. Per-task scheduling notes below WARNING are dropped.
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
        if message is None and RAISED.search(template):
            # Raised while tasks were scheduled: Luigi has already formatted the traceback as text.
            message = RAISED.split(template)[-1].strip()
        if message is None and (unanswered := UNANSWERED.search(template)):
            message = _no_luigid(unanswered[1])
        if message is None and (setting := UNREADABLE_SETTING.search(template)):
            cause = template.partition("\n\nThe above exception")[0].rpartition("Error: ")[2]
            message = unreadable(setting, cause)
        if message is None and template == "Failed pinging scheduler":
            if self._shown:
                return False  # once the log says that luigid does not answer, more of these add nothing
            message = PING
        if message is None:
            return True
        task = (
            f"{record.args[-1]}: " if " failed " in template and isinstance(record.args, tuple) and record.args else ""
        )
        record.msg, record.args, record.exc_info, record.exc_text = "%s%s", (task, message), None, None
        is_new = task + message not in self._shown
        self._shown.add(task + message)
        return is_new


def plain_message(error: BaseException | None) -> str | None:
    """The text to show instead of a traceback, or None if the traceback is more helpful."""
    if error is None:
        return None
    if isinstance(error, LakeError):
        option, _ = _option_being_read(error.__traceback__)
        return f"{option}: {error}" if option else str(error)
    # Luigi's own errors are matched by name: importing their classes would load half of Luigi first.
    kind = f"{type(error).__module__}.{type(error).__name__}"
    if kind == "luigi.rpc.RPCError":
        return _no_luigid(str(error).rpartition(" ")[2].strip("'"))
    if kind == "luigi.parameter.MissingParameterException":
        task = str(error).partition("[")[0]
        parameter = str(error).rpartition("the '")[2].partition("'")[0]
        return f"{task} is missing its parameter {parameter}: add --{task}-{parameter.replace('_', '-')} VALUE"
    if kind == "luigi.task_register.TaskClassNotFoundException":
        return no_such_task(str(error).removeprefix("No task ").partition(". ")[0])
    message = _unreadable_value(error) if isinstance(error, ValueError) else None
    return message or plain_message(error.__cause__)


def _no_luigid(url: str) -> str:
    """The message for a luigid that does not answer."""
    from urllib.parse import urlsplit

    # Imported late, because it loads half of Luigi.
    from lakejobs.project import exists

    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        return LUIGID_ELSEWHERE_HELP.format(url=url)
    port = urlsplit(url).port or LUIGID_PORT
    if exists(LUIGID_SCRIPT):
        start = LUIGID_SCRIPT if port == LUIGID_PORT else f"LUIGID_PORT={port} {LUIGID_SCRIPT}"
    else:
        start = LUIGID if port == LUIGID_PORT else f"{LUIGID} --port {port}"
    return LUIGID_HELP.format(url=url, start=start)


def no_such_task(name: str) -> str:
    """The message for an unknown task: similar names, then all tasks."""
    # Imported late: until this module is imported, Ctrl-C prints a traceback.
    import difflib

    lowered = {task.lower(): task for task in _tasks}
    close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered)]
    hint = f"did you mean {' or '.join(close)}? Expected" if close else "expected"
    return f"unknown task {name!r}; {hint} one of {', '.join(_tasks)}"


def unreadable(setting: re.Match[str], cause: str) -> str:
    section, name = setting.groups()
    said = f"--{section}-{name.replace('_', '-')}" if section in _tasks else f"[{section}] {name}"
    return f"{said} cannot be read: {cause.strip()}"


def _unreadable_value(error: ValueError) -> str | None:
    if setting := UNREADABLE_SETTING.search(str(error)):
        return unreadable(setting, str(error.__cause__))
    option, value = _option_being_read(error.__traceback__)
    return f"{option} {value} cannot be read: {error}" if option else None


def _option_being_read(traceback: TracebackType | None) -> tuple[str | None, str]:
    """The task option that Luigi was parsing when the error occurred, and its value; None if it was parsing none."""
    while traceback:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "_get_task_kwargs" and frame.f_globals["__name__"] == "luigi.cmdline_parser":
            return f"--{frame.f_locals['param_name'].replace('_', '-')}", frame.f_locals["attr"]
        traceback = traceback.tb_next
    return None, ""


class TaskContext:
    """The context Luigi runs every task in (`[worker] task_process_context`).

    Ctrl-C reaches a run and its worker processes at the same time. A worker stops its task and exits silently; only the
    run reports it.
    """

    def __init__(self, process: Any) -> None:
        self._in_worker = multiprocessing.parent_process() is not None

    def __enter__(self) -> None:
        if self._in_worker and not _ignores_interrupts():
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> bool:
        if self._in_worker:
            leave_on_interrupt()
        return kind is KeyboardInterrupt and self._in_worker


def leave_on_interrupt() -> None:
    """Let Ctrl-C end this process at once: a worker that has not begun its task, or has ended it."""
    if not _ignores_interrupts():
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED_CODE))


def _ignores_interrupts() -> bool:
    """Whether Ctrl-C is switched off, as shells do for commands in the background."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def show_unraisable(unraisable: Any) -> None:
    """Replacement for `sys.unraisablehook`.

    Python drops an exception that is raised in a callback of its own, for example while a process forks. Ctrl-C must
    not get lost there.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        # Not at once: an interrupt while this hook runs would be dropped as well.
        again = threading.Timer(0.05, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def show_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Replacement for `sys.excepthook`: prints a plain message if there is one, else the traceback."""
    if kind is KeyboardInterrupt:
        progress.end()
        # Release what the interrupted frames hold, or the libraries that own it complain after the last message.
        chained: BaseException | None = error
        while chained:
            clear_frames(chained.__traceback__)
            chained = chained.__context__
        sys.stderr.write(f"{INTERRUPTED}\n")
        if _is_command():
            leave(INTERRUPTED_CODE)  # Python would first wait for threads, which may never end
        raise SystemExit(INTERRUPTED_CODE)
    if message := plain_message(error):
        sys.stderr.write(f"{message}\n")
    else:
        sys.__excepthook__(kind, error, traceback)


def leave(code: int) -> None:
    """End the process and leave it to the system to take it down; replaces `sys.exit` in Luigi's command line.

    Python would first free every object and look for garbage, which takes 0.3 s once Great Expectations is imported.
    """
    if code and code == _not_run():
        sys.stderr.write(f"{FORGOTTEN}\n")
    if runs := sys.modules.get("lakejobs.freshness.runs"):
        runs.finish(code, is_interrupted=code == INTERRUPTED_CODE)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(code)  # Python reports it
    os._exit(code)


def _not_run() -> int:
    """Luigi's exit code for a run that its scheduler gave no more work."""
    from luigi.retcodes import retcode

    return int(retcode().not_run)


def _is_command() -> bool:
    """Whether this is the command `luigi`: other programs may go on after Luigi's command line has ended."""
    return sys.argv[0].rpartition("/")[2] == "luigi"


_tasks: tuple[str, ...] = ()


def install(tasks: Sequence[str]) -> None:
    """Install the log filters, the exception hook and, in the command `luigi`, a fast exit. `tasks` are the names to
    suggest for an unknown task."""
    global _tasks
    _tasks = tuple(tasks)
    sys.excepthook = show_uncaught
    sys.unraisablehook = show_unraisable
    os.register_at_fork(after_in_child=leave_on_interrupt)
    if _is_command() and (command_line := sys.modules.get("luigi.retcodes")):
        command_line.sys = SimpleNamespace(**{**vars(sys), "exit": leave})  # type: ignore[attr-defined]
    luigi_log = logging.getLogger("luigi-interface")
    if not any(isinstance(item, PlainMessages) for item in luigi_log.filters):
        luigi_log.addFilter(PlainMessages())
        luigi_log.addFilter(progress.make_way)
        log.addFilter(progress.make_way)


class Progress:
    """A progress bar for the running task; only on a terminal."""

    def __init__(self) -> None:
        self._task = ""
        self._bar: Any = None

    def show(self, task: str, message: str, percent: int) -> None:
        # With several workers, tasks run in processes of their own, and their bars would overwrite each other.
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
        """A log filter that passes every record, and clears the bar first so that they do not share a line."""
        if self._bar is not None:
            self._bar.clear()
        return True


progress = Progress()


def tell(task: luigi.Task, message: str, *, percent: int | None = None, link: str | None = None) -> None:
    """Report what a task is doing or has done: in the log, and in the visualiser while a worker runs it."""
    progress.end()
    log.info("%s: %s", task, message)
    announce(task, message, percent=percent, link=link)


def show_progress(task: luigi.Task, message: str, percent: int) -> None:
    """Report a task's progress: in the visualiser, and as a bar on a terminal."""
    progress.show(str(task), message, percent)
    announce(task, message, percent=percent)


def announce(task: luigi.Task, message: str, *, percent: int | None = None, link: str | None = None) -> None:
    """Report it in the visualiser only. If luigid does not answer, the task goes on, and tells it no more."""
    if getattr(task, "is_unheard", False):
        return
    try:
        _announce(task, message, percent, link)
    except Exception as error:
        from luigi.rpc import RPCError

        if not isinstance(error, RPCError):
            raise
        task.is_unheard = True  # type: ignore[attr-defined]


def _announce(task: luigi.Task, message: str, percent: int | None, link: str | None) -> None:
    # Luigi adds these methods to a task only while a worker runs it. The visualiser renders a message as HTML, and the
    # names of delivered files may contain anything.
    if set_message := getattr(task, "set_status_message", None):
        set_message(html.escape(message, quote=False))
    if percent is not None and (set_percentage := getattr(task, "set_progress_percentage", None)):
        set_percentage(percent)
    if link and (set_link := getattr(task, "set_tracking_url", None)):
        set_link(link)
