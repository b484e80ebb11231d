"""The sandbox of a worker: what the code that decodes uploads may still reach.

Prepared in templates (or in spawned workers) after the load, entered in each worker before READY.
It has four layers. A layer that the kernel refuses is reported, and the worker serves without it:

- rlimits: no core files, no huge files, few descriptors;
- no_new_privs: no program gives more rights;
- landlock: no files but those named here, no TCP, no signals to other processes;
- seccomp: no sockets, no programs, no processes, no reading of other processes, no administration.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import landlockpy
import seccompy
from landlockpy import AccessFS, Scope
from seccompy import Action, ArgCmp, CmpOp, FilterFlag, syscalls

from ipc.messages import SandboxLayer, WorkerOptions
from model_procs.engine import Engine, EngineConfig, Needs, NeedyEngine, VoiceKeeper

_MB = 1024 * 1024

_LARGEST_FILE = 256 * _MB
"""The largest file that a worker may write. A voice has some ten MB, and uploads in memory one."""

_DESCRIPTORS = 1024
"""How many descriptors a worker may have, besides one for each MB of voices in its memory."""

_PR_SET_NO_NEW_PRIVS = 38  # <sys/prctl.h>
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")

_Folders = tuple[tuple[str, bool, int, int], ...]
"""Path, whether it is written in, and the numbers of its device and its inode."""

_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"),
    *("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"),
    *("/dev/urandom", "/dev/random", "/dev/zero", "/sys/devices/system/cpu"),
)
"""What libraries read late: other libraries, the time zone, random numbers, the processors."""

_LOADERS = ("lib*/ld-*.so*", "lib/*/ld-*.so*")
"""The dynamic loaders. The kernel executes one of them for each program."""

_READ = AccessFS.READ_FILE | AccessFS.READ_DIR
_WRITE = (
    (AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.MAKE_REG | AccessFS.MAKE_DIR)
    | AccessFS.REMOVE_FILE
    | AccessFS.REMOVE_DIR
)

_OF_FILES = (AccessFS.READ_FILE | AccessFS.WRITE_FILE) | AccessFS.TRUNCATE | AccessFS.EXECUTE
"""Rights that a single file can have; the kernel refuses others for it."""

_LANDLOCK_GAPS = {4: "TCP", 6: "signals to other processes"}
"""What Landlock restricts only from this version of its interface on."""
_LANDLOCK_ALL_THREADS = 8
"""From this version on it can restrict threads that run already."""

_PROCESSES = frozenset({"execve", "execveat", "fork", "vfork"})
"""System calls that start programs and processes. `clone` also starts threads; see below."""

_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = (0x00020000, *(1 << bit for bit in range(25, 31)))
"""Flags of clone(2) that make a new namespace: mount, then cgroup to net."""
_INPUT_IOCTLS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: they type into a terminal."""

_FORBIDDEN_GROUPS = (
    # The network, and passing descriptors to other processes.
    "socket socketpair connect bind listen accept accept4 sendto recvfrom sendmsg recvmsg sendmmsg "
    "recvmmsg shutdown getsockname getpeername setsockopt getsockopt",
    # Other processes.
    "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_open "
    "pidfd_getfd pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo migrate_pages move_pages "
    "shmget shmat shmctl shmdt msgget msgsnd msgrcv msgctl semget semop semctl semtimedop "
    "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr setrlimit",
    # Owners and rights: of files, which Landlock does not guard, and of this process.
    "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat setxattr lsetxattr fsetxattr "
    "setxattrat removexattr lremovexattr fremovexattr removexattrat mknod mknodat utime utimes "
    "futimesat file_setattr setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid "
    "setfsgid truncate",
    # Ways around this filter, and parts of the kernel that had many faults.
    "io_uring_setup io_uring_enter io_uring_register bpf perf_event_open userfaultfd keyctl "
    "add_key request_key fanotify_init fanotify_mark name_to_handle_at open_by_handle_at "
    "lookup_dcookie modify_ldt personality uselib ustat sysfs _sysctl vmsplice",
    # Namespaces, mounts, and the administration of the machine.
    "unshare setns chroot pivot_root mount umount2 mount_setattr move_mount open_tree "
    "open_tree_attr fsopen fsconfig fsmount fspick statmount listmount listns quotactl quotactl_fd "
    "swapon swapoff reboot kexec_load kexec_file_load init_module finit_module delete_module "
    "create_module query_module get_kernel_syms nfsservctl acct syslog sethostname setdomainname "
    "settimeofday clock_settime clock_adjtime adjtimex iopl ioperm vhangup",
)
_FORBIDDEN = frozenset(" ".join(_FORBIDDEN_GROUPS).split())
"""System calls that fail with EPERM, so that a library gets an error and the worker lives on."""


class Sandbox:
    """The sandbox for the workers of one engine.

    All that takes time is done here, once for all workers that are forked afterwards.
    """

    def __init__(self, engine: Engine, config: EngineConfig, options: WorkerOptions) -> None:
        needs = engine.needs if isinstance(engine, NeedyEngine) else Needs()
        self._programs = _find(needs.programs)
        self._writable = needs.writable
        self._keeps_voices = isinstance(engine, VoiceKeeper)
        self._readable: list[Path] = []
        self._threads = len(os.listdir("/proc/self/task"))
        self._folders: _Folders = ()
        self._rules: landlockpy.Ruleset | Exception | None = None
        self._filter: seccompy.Filter | Exception | None = None
        if options.sandbox:
            self._folders = self._find_folders(options)
            self._rules = _attempt(lambda: self._first_rules(engine, config))
            all_threads = self._threads > 1
            self._filter = _attempt(lambda: _filter(bool(self._programs), all_threads))
            _attempt(seccompy.supported)  # its first call looks for the C library with programs

    def enter(self, options: WorkerOptions) -> tuple[SandboxLayer, ...]:
        """Enter it for good, and report its layers. An error of a layer is only reported."""
        if not options.sandbox:
            return ()
        return (
            _layer("rlimits", lambda: _limit(options)),
            _layer("no_new_privs", _forbid_privileges),
            _layer("landlock", lambda: self._restrict_files(options)),
            _layer("seccomp", self._restrict_calls),
        )

    def _find_folders(self, options: WorkerOptions) -> _Folders:
        """The folders of `options`, and whether to write there; with numbers that tell them apart.

        A folder that was replaced is another one for the kernel.
        """
        voices = (options.voice_dir, options.voice_cache_dir) if self._keeps_voices else ()
        found = []
        for path, write in (
            *((path, False) for path in options.recordings),
            *((path, True) for path in voices if path),
        ):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                found.append((path, write, status.st_dev, status.st_ino))
        return tuple(found)

    def _first_rules(self, engine: Engine, config: EngineConfig) -> landlockpy.Ruleset:
        weights = (*_weights(config.models_dir), *_weights(config.cache_dir))
        self._readable = [*map(Path, _SYSTEM), *_code(engine), *weights]
        return self._make_rules(self._folders)

    def _make_rules(self, folders: _Folders) -> landlockpy.Ruleset:
        rules = landlockpy.Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL)
        _allow(rules, self._readable, _READ)
        _allow(rules, [Path("/dev/null")], AccessFS.READ_FILE | AccessFS.WRITE_FILE)
        _allow(rules, self._writable, _READ | _WRITE)
        for path, write, _, _ in folders:
            _allow(rules, [Path(path)], _READ | _WRITE if write else _READ)
        if self._programs:
            loaders = [path for each in _LOADERS for path in Path("/").glob(each)]
            _allow(rules, [*self._programs, *loaders], AccessFS.EXECUTE | AccessFS.READ_FILE)
        return rules

    def _restrict_files(self, options: WorkerOptions) -> str | None:
        folders = self._find_folders(options)
        rules = self._rules if folders == self._folders else self._make_rules(folders)
        if not isinstance(rules, landlockpy.Ruleset):
            raise rules or ValueError("it was not prepared")
        with rules:
            rules.restrict(landlockpy.RestrictFlag.TSYNC)
        told = landlock_gaps(rules.abi_version, self._threads)
        if self._writable:
            told.append(f"the engine may write in {', '.join(map(str, self._writable))}")
        return "; ".join(told) or None

    def _restrict_calls(self) -> str | None:
        if not isinstance(self._filter, seccompy.Filter):
            raise self._filter or ValueError("it was not prepared")
        self._filter.load()
        if not self._programs:
            return None
        return f"the engine may start programs: {', '.join(path.name for path in self._programs)}"


def landlock_gaps(version: int, threads: int) -> list[str]:
    """What Landlock leaves open, in words: with this version of its interface, entered by one of
    so many threads.
    """
    gaps = [gap for since, gap in _LANDLOCK_GAPS.items() if version < since]
    if threads > 1 and version < _LANDLOCK_ALL_THREADS:
        gaps.append(f"the {threads - 1} threads that the engine had after loading")
    return [f"ABI {version} cannot restrict {', '.join(gaps)}"] if gaps else []


def _attempt(make: Callable[[], T]) -> T | Exception:
    try:
        return make()
    except Exception as error:  # reported for its layer
        return error


def _layer(name: str, enter: Callable[[], str | None]) -> SandboxLayer:
    try:
        return SandboxLayer(name, active=True, detail=enter())
    except Exception as error:  # whatever it is, the worker must serve
        return SandboxLayer(name, active=False, detail=f"{type(error).__name__}: {error}")


def _limit(options: WorkerOptions) -> None:
    voices = options.voice_cache_memory_bytes // _MB
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS + voices),
    ):
        hard = resource.getrlimit(limit)[1]
        new = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (new, new))


def _forbid_privileges() -> None:
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _allow(rules: landlockpy.Ruleset, paths: Iterable[Path], access: AccessFS) -> None:
    """Allow `access` below each of `paths` that this process can reach itself."""
    for path in paths:
        # These come from opening the path; errors of Landlock are of another class.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            rules.allow_path(path, access if path.is_dir() else access & _OF_FILES)


def _find(programs: Iterable[str]) -> tuple[Path, ...]:
    """The paths of `programs` that are installed."""
    found = (shutil.which(program) for program in programs)
    return tuple(Path(path).resolve() for path in found if path)


def _code(engine: Engine) -> list[Path]:
    """Where Python finds modules that are imported late: of itself, of packages, of this code.

    Not all of `sys.path`, because the current folder may hold secrets.
    """
    folders = {Path(sysconfig.get_path(each)) for each in ("stdlib", "platstdlib", "purelib")}
    folders |= {Path(sysconfig.get_path("platlib")), Path(sys.base_prefix, "lib")}
    for name in ("ipc", "model_procs", *(cls.__module__ for cls in type(engine).__mro__)):
        package = sys.modules.get(name.partition(".")[0])
        folders |= {Path(path) for path in getattr(package, "__path__", ())}
    return sorted(folders)


def _weights(folder: Path) -> list[Path]:
    """A folder of weights, and what symbolic links in it point to."""
    depths = ("*", "*/*", "*/*/*")
    links = (path.resolve() for depth in depths for path in folder.glob(depth) if path.is_symlink())
    try:
        return [folder, *links] if folder.is_dir() else []
    except PermissionError:  # then it cannot be read with or without the sandbox
        return []


def _filter(programs: bool, all_threads: bool) -> seccompy.Filter:
    """The seccomp filter: all system calls that are known, but for the forbidden ones.

    Unknown ones, which include those of the x32 interface, fail as if the kernel had none; that is
    what a C library is prepared for. `clone3` is left out for the same reason: a filter cannot see
    its flags, and the library then uses `clone`.
    """
    flags = FilterFlag.TSYNC | FilterFlag.TSYNC_ESRCH if all_threads else FilterFlag.NONE
    made = seccompy.Filter(Action.ERRNO | errno.ENOSYS, flags=flags)
    forbidden = _FORBIDDEN if programs else _FORBIDDEN | _PROCESSES
    if programs:
        for flag in _CLONE_NAMESPACES:
            made.errno("clone", errno.EPERM, args=[ArgCmp(0, CmpOp.MASKED_EQ, flag, flag)])
        made.allow("clone")
    else:
        thread = ArgCmp(0, CmpOp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD)
        made.allow("clone", args=[thread])
        made.errno("clone", errno.EPERM)
    for request in _INPUT_IOCTLS:
        made.errno("ioctl", errno.EPERM, args=[ArgCmp(1, CmpOp.MASKED_EQ, request, 0xFFFFFFFF)])
    made.errno("prlimit64", errno.EPERM, args=[ArgCmp(2, CmpOp.NE, 0)])  # a new limit
    known = syscalls.X86_64_SYSCALLS if syscalls.arch() == "x86_64" else syscalls.AARCH64_SYSCALLS
    for name in known:
        if name in forbidden:
            made.errno(name, errno.EPERM)
        elif name not in ("clone", "clone3"):
            made.allow(name)
    made.program  # noqa: B018 - compiles it
    return made
