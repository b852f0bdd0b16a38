"""What the C library does with memory that was freed."""

import ctypes
import sys

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
  """Keeps freed memory in the process instead of handing it back to the system, where that can be asked for (glibc).

  A compiled step on a CPU takes all its temporary memory at its beginning and frees it at its end. Large blocks go back
  to the system by default, which then hands out every page anew, zeroed: an eighth of a training step. Call it before
  the first array is made; afterwards the process stays as large as it was at its largest.

  Returns:
    whether the C library took it.
  """
  if sys.platform != 'linux':
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError):  # another C library
    return False
  return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_ARENA_MAX, 1)])
