"""VolatileCache: a mapping in one file of a mount, shared between processes, that may be purged.

The file (``layout``) holds a head, an index and a log of records in segments (``log``)::

    head | ages of segments | index: buckets of slots | segment 0 | segment 1 | ...
    plain                                             | volatile once full, touched as zeros

**Why no value is ever torn, stale or zeroed.** A slot of the index names bytes of the log and
holds a checksum of them. A reader copies the bytes, compares checksum and full key, and takes
anything else for a miss: a purged page (zeros), a segment used anew, a record or slot that is just
being written or was left half written by a process that died. So what a reader gets is what some
``set`` of this key stored, and its slot was current while it looked. Nothing depends on the
volatile pages being marked, intact or ours; marks decide only how long entries live.

**Why no process ever gets SIGBUS.** Nobody loads or stores through a mapping: bytes are read by
pread(2) and stored by a system call into the mapping (``memory``). A page that cannot be had is
an errno there, whoever marked, purged or truncated the file.

**Writers** take turns by a lock on the file that ends with its process (``locks``). Whatever the
last one left undone costs room in a segment, and nothing else.
"""
