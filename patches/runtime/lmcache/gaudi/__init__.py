# SPDX-License-Identifier: Apache-2.0
"""KV-cache transfer between vLLM's paged cache on Intel Gaudi (torch device ``hpu``) and LMCache.

Modules, lowest first. Those of the second list know LMCache; none imports vLLM but to report to it:

* :mod:`.pinning` -- host memory that is pinned, known by address
* :mod:`.headroom` -- how much memory the host, its control groups and its limits leave for pinning
* :mod:`.device` -- the only place that touches ``habana_frameworks`` and ``torch.hpu``
* :mod:`.settings` -- sizes of the transfer, from the environment
* :mod:`.waiting` -- copies of LMCache's own that wait where memory cannot be pinned
* :mod:`.layout` -- every KV-cache layout, normalised once to flat token-major planes
* :mod:`.plan` -- which tokens go into which group of chunks; pure arithmetic on the CPU
* :mod:`.rows` -- which rows of a memory object go where in a pinned buffer, and back
* :mod:`.kernels` -- paged gather and scatter, one graph per group of chunks
* :mod:`.staging` -- pinned host buffers and the copies between them and memory objects
* :mod:`.slabs` -- host memory that is pinned piece by piece, one piece per memory object
* :mod:`.direct` -- copies directly into and out of such memory objects
* :mod:`.transfer` -- a whole request: load, store, warm-up

* :mod:`.compat` -- what differs between LMCache releases
* :mod:`.identity` -- adapter, salt and images in LMCache's keys
* :mod:`.numa` -- the NUMA node of a rank
* :mod:`.guards` -- what cannot work on Gaudi, refused with the reason
* :mod:`.plugin` -- settings of vllm-gaudi under which blocks move or are read elsewhere, refused at start
* :mod:`.pool` -- refusal of host memory that is too small for the longest request
* :mod:`.allocator` -- LMCache's allocator with a slab behind each memory object
* :mod:`.objects` -- memory objects from LMCache's storage, complete or not at all
* :mod:`.backends` -- LMCache's storage backends, with an end to each wait
* :mod:`.patience` -- waits for a slow store no longer than the scheduler waits for a lookup
* :mod:`.promises` -- what a lookup promises is in host memory before it is promised
* :mod:`.server_chunks` -- the chunks of multiprocess mode, in and out of the memory of LMCache's server
* :mod:`.watched` -- no step waits for a server of multiprocess mode that is dead
* :mod:`.multiprocess` -- failed loads in multiprocess mode
* :mod:`.connector` -- LMCache's connector interface over all of this
* :mod:`.adapter` -- the functions that LMCache's vLLM adapter calls

Importing this package imports neither torch nor habana_frameworks.
"""
