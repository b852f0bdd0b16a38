"""Whether person and expressions stay the same: F-SIM and delta FaceSim (face embeddings), E-FID (Deep3DFaceRecon)."""

import cv2
import numpy as np

from talkjax.faces import align, align_deep3d
from talkjax.metrics.footage import Footage, chunks

# Where ArcFace expects eyes, nose and corners of the mouth in its pictures of 112 pixels.
TEMPLATE = np.array(
  [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112


def five_points(landmarks: np.ndarray) -> np.ndarray:
  """Eyes, nose and corners of the mouth of landmarks [f, 68, 2]: [f, 5, 2]."""
  eyes = [landmarks[:, 36:42].mean(1), landmarks[:, 42:48].mean(1)]
  return np.stack([*eyes, landmarks[:, 30], landmarks[:, 48], landmarks[:, 54]], axis=1)


def embeddings(footage: Footage, network) -> np.ndarray | None:
  """Embeddings [f, d] of the face in every frame, of length 1; None without a face.

  Args:
    footage: the video.
    network: a face embedding with its function `embed` of faces of its `size`.
  """
  faces, size = footage.faces, network.size
  if faces is None:
    return None

  def compute():
    transforms = align.similarity(five_points(faces.landmarks), TEMPLATE * size / TEMPLATE_SIZE)
    crops = (cv2.warpAffine(f, t, (size, size)) for f, t in zip(footage.frames(), transforms))
    made = np.concatenate([network('embed', block) for block in chunks(crops, 64)])
    return {'embeddings': made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)}

  return footage.features('face_embedding', network.key, compute)['embeddings']


def similarity(made: np.ndarray, portrait: np.ndarray) -> float:
  """F-SIM: mean cosine of unit embeddings [f, d] to that of the portrait [d]."""
  return float((made @ portrait).mean())


def delta(generated: np.ndarray, true: np.ndarray) -> float:
  """Delta FaceSim: 100 |mean F-SIM of generated clips - that of true ones|; lower is better."""
  return float(abs(np.mean(generated) - np.mean(true)) * 100)


def expressions(footage: Footage, network) -> np.ndarray | None:
  """Expression coefficients [f, 64] of every frame, for E-FID; None without a face.

  Args:
    footage: the video.
    network: of Deep3DFaceRecon, with its function `expression` of aligned faces.
  """
  faces = footage.faces
  if faces is None:
    return None

  def crops():
    for frame, points in zip(footage.frames(), faces.landmarks):
      yield align_deep3d.crop(frame, align_deep3d.alignment(points, frame.shape[:2]))

  compute = lambda: {'x': np.concatenate([network('expression', block) for block in chunks(crops(), 64)])}
  return footage.features('expression', network.key, compute)['x']
