"""Intercept a process's system calls.

Each file system call of a forked child blocks until the parent decides: let it happen, make it fail with an error, or
kill the child on the spot. The kernel reports the calls (seccomp user notifications) of all threads and libraries, so
writes by DuckDB and Arrow are caught too. This needs neither a tracer nor privileges, and works only on Linux x86-64.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

# The number and the kinds of arguments of each call: d a descriptor, p a path, @ the directory that a path is relative
# to, a the address and n the length of a buffer, o an offset, f flags.
# close is not listed: the kernel closes the descriptor even if it returns an error, but a call failed here never runs.
X86_64 = {
    "write": (1, "dan"), "pwrite64": (18, "dano"), "writev": (20, "d"), "pwritev": (296, "d"), "pwritev2": (328, "d"),
    "open": (2, "pf"), "openat": (257, "@pf"), "creat": (85, "p"), "ftruncate": (77, "do"), "truncate": (76, "po"),
    "fallocate": (285, "d"), "rename": (82, "pp"), "renameat": (264, "@p@p"), "renameat2": (316, "@p@pf"),
    "unlink": (87, "p"), "unlinkat": (263, "@pf"), "rmdir": (84, "p"), "mkdir": (83, "p"), "mkdirat": (258, "@p"),
    "link": (86, "pp"), "linkat": (265, "@p@p"), "symlink": (88, "-p"), "symlinkat": (266, "-@p"),
    "fsync": (74, "d"), "fdatasync": (75, "d"), "sync_file_range": (277, "d"), "copy_file_range": (326, "--d"),
    "sendfile": (40, "d"), "utimensat": (280, "@p"), "fchmod": (91, "d"), "chmod": (90, "p"), "flock": (73, "d"),
    "read": (0, "dan"), "pread64": (17, "dano"), "readv": (19, "d"), "preadv": (295, "d"), "getdents64": (217, "d"),
    "stat": (4, "p"), "lstat": (6, "p"), "newfstatat": (262, "@p"), "statx": (332, "@p"),
}  # fmt: skip
NAMES = {number: name for name, (number, _) in X86_64.items()}
READING = ("read", "pread64", "readv", "preadv", "getdents64", "flock")
LOOKING = ("stat", "lstat", "newfstatat", "statx")
MUTATING = tuple(name for name in X86_64 if name not in READING + LOOKING)
WRITES = ("write", "pwrite64", "sendfile")
"""The calls whose data can be read; nothing here uses the others."""
OPENS = ("open", "openat", "creat")

AUDIT_ARCH = 0xC000003E
SYS_SECCOMP = 317
RECEIVE, SEND = 0xC0502100, 0xC0182101
CURRENT_DIRECTORY = -100 & 0xFFFFFFFF
KILL = "kill"
HALF = "half"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Call:
    """A system call, before it happens."""

    name: str
    thread: int
    arguments: tuple[int, ...]

    @cached_property
    def directory(self) -> str:
        """The working directory of the process."""
        return os.readlink(f"/proc/{self.thread}/cwd")

    @cached_property
    def paths(self) -> list[str]:
        """The absolute paths of the files it operates on."""
        kinds = X86_64[self.name][1]
        found, base = [], ""
        for kind, value in zip(kinds, self.arguments, strict=False):
            if kind == "d":
                found.append(self._descriptor(value))
            elif kind == "@":
                base = self.directory if value & 0xFFFFFFFF == CURRENT_DIRECTORY else self._descriptor(value)
            elif kind == "p":
                found.append(os.path.normpath(os.path.join(base or self.directory, self._text(value))))
        return found

    @property
    def path(self) -> str:
        return self.paths[0] if self.paths else ""

    @property
    def flags(self) -> int:
        place = X86_64[self.name][1].find("f")
        return self.arguments[place] if place >= 0 else 0

    @property
    def changes(self) -> bool:
        """Whether the call can change the disk."""
        if self.name in ("open", "openat"):
            return bool(self.flags & (os.O_TRUNC | os.O_CREAT))
        return self.name in MUTATING

    @property
    def data(self) -> bytes:
        """The bytes to be written."""
        assert self.name in WRITES, self.name
        if self.name != "sendfile":
            return self._memory(self.arguments[1], self.arguments[2])
        assert not self.arguments[2], "from where the source stands"
        with open(f"/proc/{self.thread}/fd/{self.arguments[1]}", "rb") as source:
            source.seek(int(self._fdinfo(self.arguments[1])["pos"]))
            return source.read(self.arguments[3])

    @property
    def offset(self) -> int:
        """The offset to be written at."""
        if self.name == "pwrite64":
            return self.arguments[3]
        known = self._fdinfo(self.arguments[0])
        if int(known["flags"], 8) & os.O_APPEND:
            return os.stat(f"/proc/{self.thread}/fd/{self.arguments[0]}").st_size
        return int(known["pos"])

    def do_half(self) -> None:
        """Write the first half of the data on the caller's behalf, like a write cut short by a power cut or a kill."""
        offset, data = self.offset, self.data
        descriptor = os.open(f"/proc/{self.thread}/fd/{self.arguments[0]}", os.O_WRONLY)
        try:
            os.pwrite(descriptor, data[: len(data) // 2], offset)
        finally:
            os.close(descriptor)

    def _fdinfo(self, descriptor: int) -> dict[str, str]:
        with open(f"/proc/{self.thread}/fdinfo/{descriptor}") as handle:
            return dict(line.split(":", 1) for line in handle)

    def _descriptor(self, number: int) -> str:
        try:
            return os.readlink(f"/proc/{self.thread}/fd/{number & 0xFFFFFFFF}")
        except OSError:
            return ""

    def _memory(self, address: int, size: int) -> bytes:
        with open(f"/proc/{self.thread}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(size)

    def _text(self, address: int) -> str:
        read = b""
        while b"\0" not in read:  # never across a page boundary: the next page may not be mapped
            piece = self._memory(address + len(read), 4096 - (address + len(read)) % 4096)
            if not piece:
                break
            read += piece
        return os.fsdecode(read.partition(b"\0")[0])

    def __str__(self) -> str:
        return f"{self.name}({', '.join(os.path.relpath(path, self.directory) for path in self.paths)})"


def supported() -> str | None:
    """Return why this machine cannot intercept calls, or None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "needs Linux on x86-64"
    try:
        supervise(lambda: None, lambda call: None, ["/nowhere"], 10)
    except OSError as error:
        return f"the kernel does not allow intercepting system calls: {error.strerror}"
    return None


Decide = Callable[[Call], "str | int | None"]
"""Returns None to let a call happen, KILL to kill the process before it, HALF to kill it in the middle of a write, or
the errno that the call fails with."""


def supervise(
    function: Callable[[], object],
    decide: Decide,
    roots: Sequence[str],
    timeout: float,
    names: Sequence[str] = MUTATING,
) -> int:
    """Run `function` in a forked child, and ask `decide` about each of the named calls on files below `roots`.

    Returns the child's exit code, or minus the signal that ended it. Kills a child that exceeds `timeout` (seconds) and
    raises TimeoutError.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            ours.close()
            listener = _install([X86_64[name][0] for name in names])
            socket.send_fds(theirs, [b"."], [listener])
            os.close(listener)
            theirs.close()
            code = int(function() or 0)
        except SystemExit as end:
            code = int(end.code or 0)
        except OSError as error:
            theirs.close()
            code = error.errno or 71
        finally:
            os._exit(code)
    theirs.close()
    with ours:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        _, status = os.waitpid(pid, 0)
        raise OSError(os.waitstatus_to_exitcode(status), os.strerror(os.waitstatus_to_exitcode(status)))
    listener = descriptors[0]
    try:
        return _answer(pid, listener, decide, tuple(map(os.path.abspath, roots)), time.monotonic() + timeout)
    finally:
        os.close(listener)


def _answer(pid: int, listener: int, decide: Decide, roots: tuple[str, ...], deadline: float) -> int:
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(ended, select.POLLIN)
    below = tuple(f"{root}/" for root in roots)
    try:
        while True:
            ready = dict(poll.poll(max(0, deadline - time.monotonic()) * 1000))
            if not ready:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise TimeoutError("the process hangs")
            if ended in ready:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if not ready.get(listener, 0) & select.POLLIN:
                poll.unregister(listener)  # the last thread is ending
                continue
            asked = bytearray(80)
            try:
                fcntl.ioctl(listener, RECEIVE, asked)
            except OSError as error:
                if error.errno == errno.ENOENT:  # the caller died meanwhile
                    continue
                raise
            number, thread, _, call_number, _, _ = struct.unpack_from("QIIiIQ", asked)
            call = Call(NAMES[call_number], thread, struct.unpack_from("6Q", asked, 32))
            verdict = None
            try:
                if any(path in roots or path.startswith(below) for path in call.paths):
                    verdict = decide(call)
                if verdict == HALF:
                    call.do_half()
            except (FileNotFoundError, ProcessLookupError):  # the caller died meanwhile
                continue
            if verdict in (KILL, HALF):
                os.kill(pid, signal.SIGKILL)
                poll.unregister(listener)
                continue
            answer = struct.pack("QqiI", number, 0, 0, 1)
            if isinstance(verdict, int):
                answer = struct.pack("QqiI", number, 0, -verdict, 0)
            try:
                fcntl.ioctl(listener, SEND, answer)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
    finally:
        os.close(ended)


def _install(numbers: Sequence[int]) -> int:
    """Have the kernel report these calls from now on, in this thread and those it starts; return the listener."""

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    allow, ask = step(0x06, 0, 0, 0x7FFF0000), step(0x06, 0, 0, 0x7FC00000)
    program = step(0x20, 0, 0, 4) + step(0x15, 1, 0, AUDIT_ARCH) + allow + step(0x20, 0, 0, 0)
    for place, number in enumerate(numbers):
        program += step(0x15, len(numbers) - place, 0, number)
    program += allow + ask
    buffer = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)))
    if _libc.prctl(38, 1, 0, 0, 0):  # no_new_privs, required of an unprivileged process
        raise OSError(ctypes.get_errno(), "no_new_privs")
    listener = _libc.syscall(SYS_SECCOMP, 1, 8, header)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(listener)
