"""Dropped programs give their memory back: code, weights, scratch, tables."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest

import jitseq as js
from jitseq import nn


def test_nothing_of_a_dropped_program_is_left():
    compiled = js.jit(nn.Sequential(nn.Linear(6, 3), nn.ReLU()))
    compiled(np.ones((2, 6), np.float32))
    bound = compiled._programs.latest().bound
    alive = [weakref.ref(part) for part in (bound, bound.code, bound.code._library)]
    alive += [weakref.ref(compiled), weakref.ref(compiled.target)]
    function = compiled._fast
    del compiled, bound
    gc.collect()
    assert [ref() is None for ref in alive] == [True, False, False, True, True]
    assert function(np.ones((2, 6), np.float32)) is None  # it declines for ever
    del function  # the native function keeps the code that a thread may be running
    gc.collect()
    assert [ref() for ref in alive] == [None] * 5


def test_replaced_programs_are_dropped():
    model = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    compiled = js.jit(model)
    x = np.ones((2, 6), np.float32)
    compiled(x)
    old = weakref.ref(compiled._programs.latest().bound)
    model[1] = nn.Tanh()
    compiled(x)
    gc.collect()
    assert old() is None


PROGRAMS = {"cpu": 200, "numba": 50}
LIMITS = {"cpu": 2**18, "numba": 2**19}
"""Bytes that a dropped program may leave behind: of numba's front end, some more."""

SCRIPT = """
import gc
import sys
import numpy as np
import jitseq as js
from jitseq import nn

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

backend, count = sys.argv[1], int(sys.argv[2])

def use(k):
    model = nn.Sequential(nn.Linear(2048, k), nn.ReLU())
    compiled = js.jit(model, backend=backend)
    compiled(np.ones((2, 2048), np.float32))

for k in range(1, 11):
    use(k)
before = resident()
for k in range(11, 11 + count):
    use(k)
print((resident() - before) / count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", PROGRAMS)
def test_many_programs_come_and_go(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("JITSEQ_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-c", SCRIPT, backend, str(PROGRAMS[backend])]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    left = float(found.stdout)
    assert left < LIMITS[backend], "bytes that each dropped program left behind"
