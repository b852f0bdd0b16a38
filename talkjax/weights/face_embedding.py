"""A face-embedding network that the user brings as an ONNX model, such as an ArcFace; run by onnxruntime (an extra).

Its input is one face [n, 3, h, w], RGB, (x - 127.5) / 127.5, aligned to the five points of ArcFace.
"""

import hashlib
import pathlib

import numpy as np

from talkjax.errors import UserError
from talkjax.weights.scoring import Network

BATCH = 16


def load(path: str | pathlib.Path) -> Network:
  """The network with its function `embed`: uint8 faces [n, size, size, 3] -> float32 [n, d].

  Raises:
    UserError: onnxruntime is not installed, the file is missing or no ONNX model, or its input is not a face.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'--face_embedding={path}: no such file; expected an ONNX model')
  try:
    import onnxruntime
  except ImportError:
    raise UserError(f'--face_embedding={path} needs onnxruntime: pip install "talkjax[onnx]"') from None
  try:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
  except Exception as error:  # onnxruntime's errors have no class of their own
    reason = str(error).split('\n')[0]
    raise UserError(f'--face_embedding={path} cannot be read as an ONNX model ({reason})') from error
  inputs = session.get_inputs()
  shape = inputs[0].shape if len(inputs) == 1 else None
  if not shape or len(shape) != 4 or shape[1] != 3 or inputs[0].type != 'tensor(float)':
    raise UserError(f'--face_embedding={path} takes {[i.shape for i in inputs]}: expected one input [n, 3, 112, 112]')
  size = shape[2] if isinstance(shape[2], int) else 112
  step = shape[0] if isinstance(shape[0], int) else BATCH
  digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

  def embed(faces: np.ndarray) -> np.ndarray:
    made = []
    for first in range(0, len(faces), step):
      block = faces[np.minimum(np.arange(first, first + step), len(faces) - 1)]
      x = ((block.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
      out = session.run(None, {inputs[0].name: np.ascontiguousarray(x)})[0]
      made.append(np.asarray(out, np.float32).reshape(len(block), -1)[: len(faces) - first])
    return np.concatenate(made)

  return Network(digest, {'embed': embed}, size)
