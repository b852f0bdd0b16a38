"""MediaPipe's face mesh on releases without `solutions` (0.10.30 and later; the only ones for Python 3.13).

These releases contain no models. launch/setup.sh copies those of 0.10.21 (Apache-2.0), the last release with models,
into `FOLDER`, and this module bundles them in the newer format. That format needs one output of 478 points, but the
older model has separate outputs for mesh, lips and eyes. Two operators appended to the model merge them, as the older
release does in a later step.
"""

import functools
import io
import pathlib
import sys
import zipfile

import numpy as np

from talkjax.errors import UserError

FOLDER = pathlib.Path(sys.prefix) / 'share' / 'talkjax'
DETECTOR, MESH = 'face_detection_short_range.tflite', 'face_landmark_with_attention.tflite'
POINTS = 478

# The points of the mesh that each refined output replaces (MediaPipe, tensors_to_face_landmarks_with_attention).
LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
    76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408,
    62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407,
)  # yapf: disable
LEFT_EYE = (
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173, 130, 25, 110, 24, 23, 22, 26, 112, 243,
    247, 30, 29, 27, 28, 56, 190, 226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189,
    35, 124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245, 156, 70, 63, 105, 66, 107, 55, 193,
)  # yapf: disable
RIGHT_EYE = (
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398, 359, 255, 339, 254, 253, 252, 256,
    341, 463, 467, 260, 259, 257, 258, 286, 414, 446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442,
    441, 413, 265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465, 383, 300, 293, 334, 296, 336,
    285, 417,
)  # yapf: disable
REFINED = {
  'output_lips': LIPS,
  'output_left_eye': LEFT_EYE,
  'output_right_eye': RIGHT_EYE,
  'output_left_iris': tuple(range(468, 473)),
  'output_right_iris': tuple(range(473, 478)),
}
CONCATENATION, GATHER, INT32 = 2, 36, 2  # codes of the tflite format


class TasksMesh:
  """`process(rgb)` returns a list of [478, 3] meshes, x and y as fractions of the image size."""

  def __init__(self, static: bool, max_faces: int, confidence: float, tracking_confidence: float):
    from mediapipe.tasks.python import BaseOptions, vision

    mode = vision.RunningMode.IMAGE if static else vision.RunningMode.VIDEO
    options = vision.FaceLandmarkerOptions(
      base_options=BaseOptions(model_asset_buffer=_bundle()),
      running_mode=mode,
      num_faces=max_faces,
      min_face_detection_confidence=confidence,
      min_tracking_confidence=tracking_confidence,
    )
    self._landmarker = vision.FaceLandmarker.create_from_options(options)
    self._static, self._time = static, 0

  def process(self, rgb: np.ndarray) -> list[np.ndarray]:
    import mediapipe

    image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)
    if self._static:
      result = self._landmarker.detect(image)
    else:
      self._time += 40  # milliseconds; only has to increase
      result = self._landmarker.detect_for_video(image, self._time)
    return [np.array([(p.x, p.y, p.z) for p in face]) for face in result.face_landmarks]

  def close(self) -> None:
    self._landmarker.close()


@functools.cache
def _bundle() -> bytes:
  """The two models as a .task archive, the format of the newer releases."""
  missing = [name for name in (DETECTOR, MESH) if not (FOLDER / name).is_file()]
  if missing:
    raise UserError(
      f'{FOLDER} lacks the face models {" and ".join(missing)}: run launch/setup.sh, which downloads them'
    )
  archive = io.BytesIO()
  with zipfile.ZipFile(archive, 'w', zipfile.ZIP_STORED) as bundle:
    bundle.writestr('face_detector.tflite', (FOLDER / DETECTOR).read_bytes())
    bundle.writestr('face_landmarks_detector.tflite', with_one_output((FOLDER / MESH).read_bytes()))
  return archive.getvalue()


def with_one_output(data: bytes) -> bytes:
  """The attention model with two outputs (points [1, 1, 1, 478 * 3] and face presence) instead of seven."""
  import flatbuffers
  from mediapipe.tasks.metadata import schema_py_generated as schema

  model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
  graph = model.subgraphs[0]
  outputs = {graph.tensors[i].name.decode(): int(i) for i in graph.outputs}
  mesh, presence = outputs['output_mesh_identity'], outputs['conv_faceflag']
  parts = [mesh, *(outputs[name] for name in REFINED)]
  widths = [int(graph.tensors[i].shape[-1]) for i in parts]

  def add_tensor(name, shape, kind, values=None):
    buffer = schema.BufferT()
    buffer.data = None if values is None else np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1

  def add_operator(code, inputs, output, kind, options):
    entry = schema.OperatorCodeT()
    entry.builtinCode = entry.deprecatedBuiltinCode = code
    entry.version = 1
    model.operatorCodes.append(entry)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes) - 1, inputs, [output]
    operator.builtinOptionsType, operator.builtinOptions = kind, options
    graph.operators.append(operator)

  joined = add_tensor('talkjax_joined', [1, 1, 1, sum(widths)], 0)
  source = add_tensor('talkjax_source', [POINTS * 3], INT32, _sources(np.cumsum(widths)))
  points = add_tensor('talkjax_points', [1, 1, 1, POINTS * 3], 0)
  join, gather = schema.ConcatenationOptionsT(), schema.GatherOptionsT()
  join.axis = gather.axis = 3
  add_operator(CONCATENATION, parts, joined, schema.BuiltinOptions.ConcatenationOptions, join)
  add_operator(GATHER, [joined, source], points, schema.BuiltinOptions.GatherOptions, gather)
  graph.outputs = [points, presence]
  builder = flatbuffers.Builder(len(data) + 65536)
  builder.Finish(model.Pack(builder), b'TFL3')
  return bytes(builder.Output())


def _sources(ends: np.ndarray) -> np.ndarray:
  """Index of each of the 478 x 3 coordinates in the concatenated outputs: int32."""
  source = np.zeros((POINTS, 3), np.int32)
  source[:468] = np.arange(468 * 3).reshape(468, 3)
  source[468:473, 2], source[473:, 2] = (
    3 * 33 + 2,
    3 * 263 + 2,
  )  # irises have no depth: use that of the eyes' outer corners
  for start, points in zip(ends, REFINED.values()):
    source[list(points), :2] = start + np.arange(2 * len(points)).reshape(-1, 2)
  return source.reshape(-1)
