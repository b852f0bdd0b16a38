"""Reads NumPy's files as users give them: no code in them is executed, and their memory is bounded."""

import io
import zipfile
from collections.abc import Sequence

import numpy as np

from talkjax.errors import UserError
from talkjax.media import files

MAX_BYTES = 2**28  # of the arrays of an .npz file: small files can hold many gigabytes


def read_npy(path, what: str) -> np.ndarray:
  """The array of an .npy file, mapped: a false header cannot allocate memory.

  Raises:
    UserError: the file is missing, no regular file, or not readable; the message begins with `what`.
  """
  files.open_regular(path, 'an .npy file').close()  # mapping a FIFO would not end
  try:
    return np.load(path, mmap_mode='r', allow_pickle=False)
  except Exception as error:  # NumPy raises nearly anything for a file that is none of its own
    raise UserError(f'{what}: not a readable .npy file ({_reason(error)}): save it with numpy.save') from error


def read_npz(path, names: Sequence[str], what: str, remedy: str) -> dict[str, np.ndarray]:
  """The arrays of these names in an .npz file; those that it lacks are left out.

  Raises:
    UserError: the file is missing, no regular file, not readable, or its arrays have more than MAX_BYTES; the message
      begins with `what` and ends with `remedy`.
  """
  data = files.read_bytes(path, 'an .npz file')
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      members = [member for member in archive.infolist() if member.filename.removesuffix('.npy') in names]
      if sum(member.file_size for member in members) > MAX_BYTES:
        raise UserError(f'{what} has arrays of more than {MAX_BYTES >> 20} MiB: {remedy}')
      values = {member.filename.removesuffix('.npy'): archive.read(member) for member in members}
    return {name: np.load(io.BytesIO(value), allow_pickle=False) for name, value in values.items()}
  except UserError:
    raise
  except Exception as error:  # as above
    raise UserError(f'{what} cannot be read as an .npz file ({_reason(error)}): {remedy}') from error


def _reason(error: Exception) -> str:
  return f'{type(error).__name__}: {str(error)[:80]}'
