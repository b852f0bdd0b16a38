"""Measures of 68 landmarks: head pose and speed, mouth opening, sizes. Layout and angles are those of `landmarks`."""

import cv2
import numpy as np

# The points that speech and expression move least, and their positions on a mean face: x to the right, y down, z away
# from the camera, origin between the eyes, in units of the distance between the eyes' centres. The mean of MediaPipe's
# meshes of 19 people, aligned in 3D and made symmetric.
STABLE = np.array([0, 1, 2, 14, 15, 16, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 39, 42, 45])
MEAN_FACE = np.array([
    [-1.126, -0.140, 0.714], [-1.135, 0.356, 0.913], [-1.117, 0.597, 0.898],
    [1.117, 0.597, 0.898], [1.135, 0.356, 0.913], [1.126, -0.140, 0.714],
    [0.0, -0.101, -0.314], [0.0, 0.126, -0.487], [0.0, 0.339, -0.688], [0.0, 0.476, -0.738],
    [-0.215, 0.644, -0.400], [-0.130, 0.696, -0.439], [0.0, 0.699, -0.467],
    [0.130, 0.696, -0.439], [0.215, 0.644, -0.400],
    [-0.724, -0.011, 0.045], [-0.276, 0.011, -0.045], [0.276, 0.011, -0.045], [0.724, -0.011, 0.045],
])  # yapf: disable


def head_pose(points: np.ndarray) -> np.ndarray:
  """3D landmarks [f, 68, 3] (pixels; y down, z away from the camera) -> yaw, pitch, roll [f, 3] float32 in degrees.

  The least-squares rotation from the mean face to the stable points (Kabsch), decomposed as roll after pitch after yaw.
  The signs are defined in `landmarks`.
  """
  source = MEAN_FACE - MEAN_FACE.mean(0)
  target = np.asarray(points, np.float64)[:, STABLE]
  target = target - target.mean(1, keepdims=True)
  u, _, vt = np.linalg.svd(np.einsum('nk,fnj->fkj', source, target))
  flip = np.linalg.det(u @ vt)
  u[:, :, 2] *= np.sign(flip)[:, None]
  rotation = np.swapaxes(u @ vt, 1, 2)  # from the mean face's axes to the image's
  gaze = -rotation[:, :, 2]  # out of the face, towards the camera when it looks into it
  yaw = np.arctan2(gaze[:, 0], -gaze[:, 2])
  pitch = np.arcsin(np.clip(-gaze[:, 1], -1, 1))
  # The remaining rotation about the line of sight: the angle of the line between the eyes to the horizontal.
  level = np.stack([np.cos(yaw), np.zeros_like(yaw), np.sin(yaw)], -1)
  down = np.cross(-gaze, level)
  right = rotation[:, :, 0]
  roll = np.arctan2((right * down).sum(-1), (right * level).sum(-1))
  return np.degrees(np.stack([yaw, pitch, roll], -1)).astype(np.float32)


def head_speed(pose: np.ndarray, fps: float) -> np.ndarray:
  """Angular speed of the head: yaw, pitch, roll [f, 3] in degrees -> [f] degrees/s.

  Poses are first averaged over 5 frames, because the jitter of detected poses would count as speed.
  """
  if len(pose) < 2:
    return np.zeros(len(pose), np.float32)
  window = min(5, len(pose))
  smooth = cv2.blur(np.asarray(pose, np.float64), (1, window), borderType=cv2.BORDER_REPLICATE)
  return (np.linalg.norm(np.gradient(smooth, axis=0), axis=1) * fps).astype(np.float32)


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
  """Mouth opening: [f, 68, 2] -> [f] float32, inner-lip distance divided by face height.

  The distance is the mean over the three pairs of inner-lip points. The face height is that from between the brows to
  the chin with the mouth closed, estimated from eyes and nose, which do not move with the mouth. The value does not
  depend on the head's distance, tilt or rotation.
  """
  points = np.asarray(landmarks, np.float64)
  opening = np.linalg.norm(points[:, [61, 62, 63]] - points[:, [67, 66, 65]], axis=-1).mean(-1)
  return (opening / face_height(points)).astype(np.float32)


def mouth_shape(landmarks: np.ndarray) -> np.ndarray:
  """Opening, width and protrusion of a mouth in face heights: [f, 68, 2] -> [f, 3] float32.

  Two-dimensional landmarks show protrusion only indirectly: rounded lips turn outwards and look thicker. It is measured
  as the mean thickness of both lips.
  """
  points = np.asarray(landmarks, np.float64)
  distance = lambda a, b: np.linalg.norm(points[:, a] - points[:, b], axis=-1)
  thickness = (distance([50, 51, 52], [61, 62, 63]) + distance([58, 57, 56], [67, 66, 65])).mean(-1) / 2
  rest = np.stack([distance(48, 54), thickness], axis=-1) / face_height(points)[:, None]
  return np.concatenate([mouth_opening(landmarks)[:, None], rest], axis=-1).astype(np.float32)


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
  """Distance between the eyes' centres in pixels, corrected for yaw: [..., 68, 2] -> [...].

  Yaw shortens the distance, so it is at least the estimate from the length of the nose.
  """
  points = np.asarray(landmarks)
  eyes = np.linalg.norm(points[..., 42:48, :].mean(-2) - points[..., 36:42, :].mean(-2), axis=-1)
  nose = np.linalg.norm(points[..., 33, :] - points[..., 27, :], axis=-1)
  return np.maximum(eyes, nose / 0.8)


def face_height(landmarks: np.ndarray) -> np.ndarray:
  """Pixels from between the brows to the chin with the mouth closed, 2.2 eye distances: [..., 68, 2] -> [...]."""
  return 2.2 * eye_distance(landmarks)
