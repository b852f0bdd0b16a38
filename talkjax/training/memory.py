"""Settings of the C library's allocator."""

import ctypes
import sys

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
  """Keeps freed memory in the process instead of returning it to the system (glibc only).

  A compiled step on a CPU allocates all its temporary memory at its start and frees it at its end. By default large
  blocks are returned to the system, which must zero every page on the next allocation: an eighth of the time of a
  training step. Call this before the first array is created; the process then never shrinks below its peak size.

  Returns:
    Whether the C library accepted the settings.
  """
  if sys.platform != 'linux':
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError):  # another C library
    return False
  return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_ARENA_MAX, 1)])
