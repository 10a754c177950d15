"""The text of the one native function behind every `FastCall`, and what it reads.

Enters nothing but the C layout of ndarrays in this process; leaves LLVM IR of
``PyObject *jitseq_fast_call(PyObject *self, PyObject *const *args, Py_ssize_t n)``.
``self`` is an int64 ndarray, the *state*: the `WORDS`, then a record for each input
and a record for each output::

    input   descr address, ndim, batched (0 or 1), one extent per dimension
    output  NumPy type number, ndim, batched, object, one extent per dimension

The extent of a batched dimension 0 is not compared in an input, and is written by
the function in an output; ``object`` is scratch. Invariant: the text holds no
address, so its object code is valid in any process of the same Python and NumPy.

In other words::

    if nargs != n_inputs or *epoch_address != expected_epoch or busy: decline
    for each input: exact ndarray, descr, flags, ndim and extents, else decline;
                    ctx[i] = its data; batched extents agree and are not 0
    if batch > max_batch: decline
    busy = 1
    for each output: object = PyArray_New(...); ctx[n_inputs + j] = its data
    entry(ctx, arena, batch), perhaps without the GIL
    busy = 0
    return the only object, or a tuple

To decline is to return None. The GIL guards ``busy``; it is set before anything that
can run other Python code (an allocation may collect garbage).
"""

from __future__ import annotations

from jitseq.runtime.fastcall_layout import ALIGNED, C_CONTIGUOUS, ArrayFields

SYMBOL = "jitseq_fast_call"

WORDS = (
    "array_type", "none", "incref", "decref", "array_new", "tuple_new", "tuple_set",
    "save_thread", "restore_thread", "epoch_address", "expected_epoch", "max_batch",
    "busy", "arena", "ctx", "entry", "release_gil", "n_inputs", "n_outputs",
)  # fmt: skip
"""The first words of the state, 8 bytes each, in this order."""

INPUT_HEADER = 3
OUTPUT_HEADER = 4


def function_text() -> str:
    """The module's text; the same for every program and process of this build."""
    return "\n".join((f"define ptr @{SYMBOL}({_ARGUMENTS}) {{", _entry(), _BODY, "}"))


_ARGUMENTS = "ptr %self, ptr %args, i64 %nargs"


def _entry() -> str:
    """Name the address of every word: ``%at.busy`` and so on."""
    lines = [
        "entry:",
        f"  %state.at = getelementptr i8, ptr %self, i64 {ArrayFields.data.offset}",
        "  %state = load ptr, ptr %state.at",
    ]
    for index, word in enumerate((*WORDS, "records")):
        lines.append(f"  %at.{word} = getelementptr i64, ptr %state, i64 {index}")
    return "\n".join(lines)


_BODY = f"""\
  %n.inputs = load i64, ptr %at.n_inputs
  %count.ok = icmp eq i64 %nargs, %n.inputs
  br i1 %count.ok, label %guard, label %decline

guard:
  %epoch.at = load ptr, ptr %at.epoch_address
  %epoch = load i64, ptr %epoch.at
  %expected = load i64, ptr %at.expected_epoch
  %epoch.ok = icmp eq i64 %epoch, %expected
  %busy = load i64, ptr %at.busy
  %idle = icmp eq i64 %busy, 0
  %guard.ok = and i1 %epoch.ok, %idle
  %array.type = load ptr, ptr %at.array_type
  %ctx = load ptr, ptr %at.ctx
  br i1 %guard.ok, label %input, label %decline

; inputs: %in walks the records, %n is the batch extent seen so far, 0 before any
input:
  %i = phi i64 [0, %guard], [%i.next, %input.done]
  %in = phi ptr [%at.records, %guard], [%in.next, %input.done]
  %n = phi i64 [0, %guard], [%n.next, %input.done]
  %inputs.left = icmp slt i64 %i, %nargs
  br i1 %inputs.left, label %input.type, label %extent

input.type:
  %arg.at = getelementptr ptr, ptr %args, i64 %i
  %arg = load ptr, ptr %arg.at
  %type.at = getelementptr i8, ptr %arg, i64 {ArrayFields.type.offset}
  %type = load ptr, ptr %type.at
  %type.ok = icmp eq ptr %type, %array.type
  br i1 %type.ok, label %input.fields, label %decline

input.fields:
  %descr.at = getelementptr i8, ptr %arg, i64 {ArrayFields.descr.offset}
  %descr = load ptr, ptr %descr.at
  %descr.want = load ptr, ptr %in
  %descr.ok = icmp eq ptr %descr, %descr.want
  %ndim.at = getelementptr i8, ptr %arg, i64 {ArrayFields.ndim.offset}
  %ndim.narrow = load i32, ptr %ndim.at
  %ndim = zext i32 %ndim.narrow to i64
  %ndim.want.at = getelementptr i64, ptr %in, i64 1
  %ndim.want = load i64, ptr %ndim.want.at
  %ndim.ok = icmp eq i64 %ndim, %ndim.want
  %flags.at = getelementptr i8, ptr %arg, i64 {ArrayFields.flags.offset}
  %flags = load i32, ptr %flags.at
  %flags.kept = and i32 %flags, {C_CONTIGUOUS | ALIGNED}
  %flags.ok = icmp eq i32 %flags.kept, {C_CONTIGUOUS | ALIGNED}
  %descr.ndim.ok = and i1 %descr.ok, %ndim.ok
  %fields.ok = and i1 %descr.ndim.ok, %flags.ok
  br i1 %fields.ok, label %input.shape, label %decline

input.shape:
  %dims.at = getelementptr i8, ptr %arg, i64 {ArrayFields.dims.offset}
  %dims = load ptr, ptr %dims.at
  %dims.want = getelementptr i64, ptr %in, i64 {INPUT_HEADER}
  %batched.at = getelementptr i64, ptr %in, i64 2
  %batched = load i64, ptr %batched.at
  br label %dim

dim:
  %d = phi i64 [%batched, %input.shape], [%d.next, %dim.compare]
  %dims.left = icmp slt i64 %d, %ndim
  br i1 %dims.left, label %dim.compare, label %input.data

dim.compare:
  %dim.at = getelementptr i64, ptr %dims, i64 %d
  %dim.got = load i64, ptr %dim.at
  %dim.want.at = getelementptr i64, ptr %dims.want, i64 %d
  %dim.want = load i64, ptr %dim.want.at
  %d.next = add i64 %d, 1
  %dim.ok = icmp eq i64 %dim.got, %dim.want
  br i1 %dim.ok, label %dim, label %decline

input.data:
  %data.at = getelementptr i8, ptr %arg, i64 {ArrayFields.data.offset}
  %data = load ptr, ptr %data.at
  %slot = getelementptr ptr, ptr %ctx, i64 %i
  store ptr %data, ptr %slot
  %has.batch = icmp ne i64 %batched, 0
  br i1 %has.batch, label %input.batch, label %input.done

input.batch:
  %extent.got = load i64, ptr %dims
  %first = icmp eq i64 %n, 0
  %agrees = icmp eq i64 %n, %extent.got
  %either = or i1 %first, %agrees
  %some = icmp sgt i64 %extent.got, 0
  %batch.ok = and i1 %either, %some
  br i1 %batch.ok, label %input.done, label %decline

input.done:
  %n.next = phi i64 [%n, %input.data], [%extent.got, %input.batch]
  %i.next = add i64 %i, 1
  %in.next = getelementptr i64, ptr %dims.want, i64 %ndim
  br label %input

extent:
  %no.batch = icmp eq i64 %n, 0
  %batch = select i1 %no.batch, i64 1, i64 %n
  %max.batch = load i64, ptr %at.max_batch
  %extent.ok = icmp sle i64 %batch, %max.batch
  br i1 %extent.ok, label %begin, label %decline

begin:
  store i64 1, ptr %at.busy
  %n.outputs = load i64, ptr %at.n_outputs
  %array.new = load ptr, ptr %at.array_new
  br label %output

; outputs: %in, the end of the inputs' records, is the first output's
output:
  %j = phi i64 [0, %begin], [%j.next, %output.done]
  %out = phi ptr [%in, %begin], [%out.next, %output.done]
  %outputs.left = icmp slt i64 %j, %n.outputs
  br i1 %outputs.left, label %output.shape, label %run

output.shape:
  %out.type.wide = load i64, ptr %out
  %out.type = trunc i64 %out.type.wide to i32
  %out.ndim.at = getelementptr i64, ptr %out, i64 1
  %out.ndim = load i64, ptr %out.ndim.at
  %out.ndim.narrow = trunc i64 %out.ndim to i32
  %out.batched.at = getelementptr i64, ptr %out, i64 2
  %out.batched = load i64, ptr %out.batched.at
  %out.object.at = getelementptr i64, ptr %out, i64 3
  %out.dims = getelementptr i64, ptr %out, i64 {OUTPUT_HEADER}
  %out.has.batch = icmp ne i64 %out.batched, 0
  br i1 %out.has.batch, label %output.batch, label %output.new

output.batch:
  store i64 %batch, ptr %out.dims
  br label %output.new

output.new:
  %array = call ptr %array.new(ptr %array.type, i32 %out.ndim.narrow, ptr %out.dims,
    i32 %out.type, ptr null, ptr null, i32 0, i32 0, ptr null)
  store ptr %array, ptr %out.object.at
  %array.bad = icmp eq ptr %array, null
  br i1 %array.bad, label %fail, label %output.done

output.done:
  %out.data.at = getelementptr i8, ptr %array, i64 {ArrayFields.data.offset}
  %out.data = load ptr, ptr %out.data.at
  %out.index = add i64 %nargs, %j
  %out.slot = getelementptr ptr, ptr %ctx, i64 %out.index
  store ptr %out.data, ptr %out.slot
  %j.next = add i64 %j, 1
  %out.next = getelementptr i64, ptr %out.dims, i64 %out.ndim
  br label %output

run:
  %program = load ptr, ptr %at.entry
  %arena = load ptr, ptr %at.arena
  %release = load i64, ptr %at.release_gil
  %keep = icmp eq i64 %release, 0
  br i1 %keep, label %run.held, label %run.released

run.held:
  call void %program(ptr %ctx, ptr %arena, i64 %batch)
  br label %pack

run.released:
  %save.thread = load ptr, ptr %at.save_thread
  %restore.thread = load ptr, ptr %at.restore_thread
  %thread = call ptr %save.thread()
  call void %program(ptr %ctx, ptr %arena, i64 %batch)
  call void %restore.thread(ptr %thread)
  br label %pack

pack:
  %single = icmp eq i64 %n.outputs, 1
  br i1 %single, label %pack.single, label %pack.tuple

pack.single:
  %only.at = getelementptr i64, ptr %in, i64 3
  %only = load ptr, ptr %only.at
  store i64 0, ptr %at.busy
  ret ptr %only

pack.tuple:
  %tuple.new = load ptr, ptr %at.tuple_new
  %tuple.set = load ptr, ptr %at.tuple_set
  %tuple = call ptr %tuple.new(i64 %n.outputs)
  %tuple.bad = icmp eq ptr %tuple, null
  br i1 %tuple.bad, label %fail, label %item

item:
  %k = phi i64 [0, %pack.tuple], [%k.next, %item.set]
  %item.at = phi ptr [%in, %pack.tuple], [%item.next, %item.set]
  %items.left = icmp slt i64 %k, %n.outputs
  br i1 %items.left, label %item.set, label %pack.done

item.set:
  %item.object.at = getelementptr i64, ptr %item.at, i64 3
  %item.object = load ptr, ptr %item.object.at
  %item.status = call i32 %tuple.set(ptr %tuple, i64 %k, ptr %item.object)
  %item.ndim.at = getelementptr i64, ptr %item.at, i64 1
  %item.ndim = load i64, ptr %item.ndim.at
  %item.dims = getelementptr i64, ptr %item.at, i64 {OUTPUT_HEADER}
  %item.next = getelementptr i64, ptr %item.dims, i64 %item.ndim
  %k.next = add i64 %k, 1
  br label %item

pack.done:
  store i64 0, ptr %at.busy
  ret ptr %tuple

; an exception is set: drop the %made outputs that there are
fail:
  %made = phi i64 [%j, %output.new], [%n.outputs, %pack.tuple]
  %decref = load ptr, ptr %at.decref
  br label %drop

drop:
  %m = phi i64 [0, %fail], [%m.next, %drop.one]
  %drop.at = phi ptr [%in, %fail], [%drop.next, %drop.one]
  %drops.left = icmp slt i64 %m, %made
  br i1 %drops.left, label %drop.one, label %failed

drop.one:
  %drop.object.at = getelementptr i64, ptr %drop.at, i64 3
  %drop.object = load ptr, ptr %drop.object.at
  call void %decref(ptr %drop.object)
  %drop.ndim.at = getelementptr i64, ptr %drop.at, i64 1
  %drop.ndim = load i64, ptr %drop.ndim.at
  %drop.dims = getelementptr i64, ptr %drop.at, i64 {OUTPUT_HEADER}
  %drop.next = getelementptr i64, ptr %drop.dims, i64 %drop.ndim
  %m.next = add i64 %m, 1
  br label %drop

failed:
  store i64 0, ptr %at.busy
  ret ptr null

decline:
  %none = load ptr, ptr %at.none
  %incref = load ptr, ptr %at.incref
  call void %incref(ptr %none)
  ret ptr %none"""
