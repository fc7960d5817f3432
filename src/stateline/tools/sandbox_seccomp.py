"""The system calls that sandboxed code may not make: a filter for the kernel, as bytes.

A list of what is refused, since an allow-list breaks ordinary programs with each C library. What is refused either
leads out (namespaces, mounts, tracing, modules), is where the kernel's own bugs were (bpf, io_uring, userfaultfd,
keys), or takes memory that no limit of a process counts (memfd, System V shared memory, message queues). Of
sockets, only those of a network namespace may be made: AF_VSOCK, for one, would reach the host of a virtual
machine past it. `clone3` answers ENOSYS, because a filter cannot see its flags; C libraries then use `clone`.

Numbers: Linux, arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import NamedTuple

_EVERYWHERE = (
    *(425, 426, 427),  # io_uring_setup, _enter, _register
    *(428, 429, 430, 431, 432, 433, 442),  # open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr
    *(438, 443, 447),  # pidfd_getfd, quotactl_fd, memfd_secret
)
"""Since 2018 each new call has one number on all architectures."""
_X86_64 = (
    *(29, 30, 31, 64, 68, 240),  # shmget, shmat, shmctl, semget, msgget, mq_open
    *(101, 310, 311, 312),  # ptrace, process_vm_readv, process_vm_writev, kcmp
    *(155, 161, 165, 166, 272, 308),  # pivot_root, chroot, mount, umount2, unshare, setns
    *(248, 249, 250),  # add_key, request_key, keyctl
    *(298, 300, 319, 321, 323),  # perf_event_open, fanotify_init, memfd_create, bpf, userfaultfd
    *(303, 304),  # name_to_handle_at, open_by_handle_at
    *(175, 176, 246, 313, 320),  # init_module, delete_module, kexec_load, finit_module, kexec_file_load
    *(103, 135, 153, 154, 163, 167, 168, 169),  # syslog, personality, vhangup, modify_ldt, acct, swapon, -off, reboot
    *(170, 171, 172, 173, 179),  # sethostname, setdomainname, iopl, ioperm, quotactl
    *(159, 164, 227, 305),  # adjtimex, settimeofday, clock_settime, clock_adjtime
    *(237, 238, 256, 278, 279),  # mbind, set_mempolicy, migrate_pages, vmsplice, move_pages
)
_AARCH64 = (
    *(194, 196, 195, 190, 186, 180),
    *(117, 270, 271, 272),
    *(41, 51, 40, 39, 97, 268),
    *(217, 218, 219),
    *(241, 262, 279, 280, 282),
    *(264, 265),
    *(105, 106, 104, 273, 294),
    *(116, 92, 58, 89, 224, 225, 142),
    *(161, 162, 60),
    *(171, 170, 112, 266),
    *(235, 237, 238, 75, 239),
)


class _Machine(NamedTuple):
    audit: int
    clone: int
    socket: int
    refused: tuple[int, ...]
    first_foreign: int | None = None
    """From this number on, calls are those of another binary interface (x32)."""


_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(0xC000003E, 56, 41, _X86_64, 0x4000_0000),
    "aarch64": _Machine(0xC00000B7, 220, 198, _AARCH64),
}
_CLONE3 = 435
_NEW_NAMESPACES = 0x7E02_0080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER_AT, _MACHINE_AT, _ARGUMENT_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`; of the first argument, the lower half on machines that put it first."""


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _refuse(number: int) -> bytes:
    return _step(_RETURN, _ERRNO | number)


def known(machine: str) -> bool:
    """Whether there is a filter for a machine, as `platform.machine` names it."""
    return machine in _MACHINES


def program(machine: str) -> bytes:
    """The filter as the kernel takes it: `struct sock_filter` after `struct sock_filter`.

    Raises:
        KeyError: the machine is not `known`.
    """
    it = _MACHINES[machine]
    steps = [
        _step(_LOAD, _MACHINE_AT),
        _step(_EQUAL, it.audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
    ]
    if it.first_foreign is not None:
        steps += [_step(_AT_LEAST, it.first_foreign, 0, 1), _step(_RETURN, _KILL)]
    steps += [_step(_EQUAL, _CLONE3, 0, 1), _refuse(errno.ENOSYS)]
    for number in (*it.refused, *_EVERYWHERE):
        steps += [_step(_EQUAL, number, 0, 1), _refuse(errno.EPERM)]
    steps += [
        _step(_EQUAL, it.clone, 0, 4),
        _step(_LOAD, _ARGUMENT_AT),
        _step(_ANY_BIT, _NEW_NAMESPACES, 0, 1),
        _refuse(errno.EPERM),
        _step(_RETURN, _ALLOW),
        _step(_EQUAL, it.socket, 0, len(_FAMILIES) + 2),
        _step(_LOAD, _ARGUMENT_AT),
    ]
    steps += [_step(_EQUAL, family, len(_FAMILIES) - at, 0) for at, family in enumerate(_FAMILIES)]
    steps += [_refuse(errno.EAFNOSUPPORT), _step(_RETURN, _ALLOW)]
    return b"".join(steps)
