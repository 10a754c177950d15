"""The values of variables on the device, each shared by all programs that read it.

A `Variable` enters; an address leaves, where its present value lies. Invariant: a value
goes to the device once for each version of the host's, and comes back only when
somebody asks for it: `Variable.pull` is set while the device's value is the newer one.
All functions here are called under the device's lock, except `DeviceCopy.pull`.
"""

from __future__ import annotations

import os
import weakref

import numpy as np

from jitseq.ir.variable import Variable
from jitseq.runtime.cuda.device import Device, Memory, made_device

_copies: weakref.WeakKeyDictionary[Variable, DeviceCopy] = weakref.WeakKeyDictionary()
_pending: weakref.WeakSet[DeviceCopy] = weakref.WeakSet()
_held: list[Device] = []
"""Whose lock a fork has taken."""


class DeviceCopy:
    """The memory of one variable on a device."""

    def __init__(self, device: Device, variable: Variable) -> None:
        self.device = device
        self._variable = weakref.ref(variable)
        self._memory: Memory | None = None
        self._version = -1

    def current(self, variable: Variable) -> Memory:
        """Memory that holds the variable's present value; copied there if need be."""
        if self._memory is None or self._version != variable.version:
            version, host = variable.version, variable.numpy()
            if self._memory is None or self._memory.size != host.nbytes:
                self._memory = self.device.allocate(host.nbytes)
            self.device.run([self.device.upload(self._memory.address, as_bytes(host))])
            self.device.synchronize()  # the host's array may change from now on
            self._version = version
        return self._memory

    def written(self, variable: Variable) -> None:
        """Kernels have been told to change the memory; the host's value is old."""
        self._version = variable.version + 1
        if variable.pull is None:
            variable.pull = self.pull
            _pending.add(self)

    def pull(self) -> None:
        """Bring the value to the host."""
        variable = self._variable()
        with self.device.lock:
            if variable is None or variable.pull is None:
                return  # another thread has done it
            assert self._memory is not None
            host = np.empty(self._memory.size, np.uint8)
            self.device.run([self.device.download(host, self._memory.address)])
            self.device.synchronize()
            variable.take(host.view(variable.dtype).reshape(variable.shape))
            _pending.discard(self)


def device_copy(device: Device, variable: Variable) -> DeviceCopy:
    """The copy of a variable on the device, made when it is first asked for."""
    found = _copies.get(variable)
    if found is None or found.device is not device:
        found = _copies[variable] = DeviceCopy(device, variable)
    return found


def as_bytes(array: np.ndarray) -> np.ndarray:
    """The memory of a contiguous array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _before_fork() -> None:
    """A child cannot ask the device of its parent, so all values come to the host; no
    call changes them again before the fork."""
    device = made_device()
    if device is not None:
        device.lock.acquire()
        _held.append(device)
    for copy in list(_pending):
        copy.pull()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().lock.release()


def _after_fork_in_child() -> None:
    _held.clear()
    _copies.clear()
    _pending.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
