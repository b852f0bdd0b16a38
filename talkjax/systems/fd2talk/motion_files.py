"""Motion in files: `generate --save_motion` writes them and `--motion` reads them, to edit motion or to transfer it.

A file is an .npz (`numpy.load`) of

  expression   [f, k_e] float32, expression coefficients of each frame
  angles       [f, 3] radians, as of `talkjax.faces.morphable`
  translation  [f, 3] units of the model, from the portrait's own: 0 where the head is where the portrait has it
  fps          frames per second
  model        the name of the morphable model
  fingerprint  of its arrays: coefficients mean the same only under the same model
"""

import dataclasses

import numpy as np

from talkjax.errors import UserError
from talkjax.media import arrays, outputs
from talkjax.weights.errors import printable

FIELDS = ('expression', 'angles', 'translation', 'fps', 'model', 'fingerprint')


@dataclasses.dataclass(frozen=True)
class Motion:
  """The motion of a video, without who moves: see the module for the fields."""

  expression: np.ndarray
  angles: np.ndarray
  translation: np.ndarray
  fps: float

  def __len__(self) -> int:
    return len(self.expression)

  def rows(self, portrait: np.ndarray) -> np.ndarray:
    """The coefficients [f, k] of a portrait with coefficients [k] that moves like this."""
    identity = portrait[: len(portrait) - self.expression.shape[1] - 6]
    place = portrait[-3:]
    person = np.broadcast_to(identity, (len(self), len(identity)))
    return np.concatenate([person, self.expression, self.angles, self.translation + place], axis=1).astype(np.float32)


def of_rows(rows: np.ndarray, portrait: np.ndarray, expressions: int, fps: float) -> Motion:
  """The motion of coefficients [f, k], of which so many are expressions; the inverse of `Motion.rows`."""
  return Motion(rows[:, -6 - expressions : -6], rows[:, -6:-3], rows[:, -3:] - portrait[-3:], fps)


def write(path: str, motion: Motion, model: str, fingerprint: str) -> None:
  """Writes a motion file atomically.

  Raises:
    UserError: it cannot be written.
  """
  values = {**dataclasses.asdict(motion), 'model': model, 'fingerprint': fingerprint}
  with outputs.replacing(path) as temporary, temporary.open('wb') as file:
    np.savez(file, **{k: np.asarray(v, np.float32) if k in FIELDS[:4] else np.asarray(v) for k, v in values.items()})


def is_one(path: str) -> bool:
  """Whether a file is a motion file."""
  try:
    return set(arrays.read_npz(path, FIELDS, path, '')) == set(FIELDS)
  except UserError:
    return False


def read(path: str, *, model: str, fingerprint: str, expressions: int, fps: float, frames: int) -> Motion:
  """The first `frames` of a motion file.

  Args:
    path: of the file.
    model, fingerprint: of the morphable model that it must be of.
    expressions: coefficients of an expression.
    fps: frames per second that it must have.
    frames: that are needed.

  Raises:
    UserError: it cannot be read, is of another model or frame rate, too short, or not finite.
  """
  remedy = 'write one with `python -m talkjax.generate --save_motion=FILE.npz` and this workdir'
  values = arrays.read_npz(path, FIELDS, f'--motion={path}', remedy)
  if missing := [name for name in FIELDS if name not in values]:
    raise UserError(f'--motion={path} has no {", ".join(missing)}: {remedy}')
  if str(values['model']) != model or str(values['fingerprint']) != fingerprint:
    found = ' '.join(printable(str(values[name])) for name in ('model', 'fingerprint'))
    raise UserError(
      f'--motion={path} is of the morphable model {found}, and this workdir has {model} {fingerprint}, whose '
      f'coefficients mean something else: {remedy}'
    )
  expression, angles, translation = (np.asarray(values[name]) for name in FIELDS[:3])
  count = len(expression) if expression.ndim else 0
  if expression.shape != (count, expressions) or angles.shape != (count, 3) or translation.shape != (count, 3):
    shapes = ', '.join(f'{name} {list(values[name].shape)}' for name in FIELDS[:3])
    raise UserError(
      f'--motion={path} has {shapes}: expected [frames, {expressions}], [frames, 3] and [frames, 3] for the same frames'
    )
  for name in FIELDS[:3]:
    if values[name].dtype.kind not in 'fiu' or not np.isfinite(values[name]).all():
      where = np.argwhere(~np.isfinite(values[name])) if values[name].dtype.kind == 'f' else ()
      frame = f' in frame {where[0][0]}' if len(where) else ''
      raise UserError(f'--motion={path} has values of {name} that are not finite numbers{frame}: correct them')
  is_number = not values['fps'].shape and values['fps'].dtype.kind in 'fiu'
  if not is_number or values['fps'] != fps:
    found = f'{values["fps"].item():g}' if is_number else printable(str(values['fps']))
    raise UserError(f'--motion={path} has {found} frames/s, and this workdir generates {fps:g}: resample it to that')
  if count < frames:
    raise UserError(
      f'--motion={path} has {count} frames, and the sound lasts {frames}: extend the motion, or give shorter sound'
    )
  return Motion(*(x[:frames].astype(np.float32) for x in (expression, angles, translation)), fps)
