"""The metrics of a run: metrics.jsonl, TensorBoard and sample images."""

import contextlib
import json
import math
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from talkjax.errors import UserError


class MetricsLog:
  """Writes metrics.jsonl (one JSON object per line) and TensorBoard; a resumed run drops the lines after its step."""

  def __init__(self, workdir, resumed_step: int):
    self.active = jax.process_index() == 0
    if not self.active:
      return
    from tensorboardX import SummaryWriter

    self.workdir = epath.Path(workdir)
    self._path = self.workdir / 'metrics.jsonl'
    with _refuse_places():
      if self._path.exists():
        lines = self._path.read_bytes().splitlines()
        temporary = self._path.with_name('metrics.jsonl.tmp')
        temporary.write_bytes(b''.join(line + b'\n' for line in lines if _step(line) <= resumed_step))
        temporary.replace(self._path)
      self._file = self._path.open('a')
      self._board = SummaryWriter(str(self.workdir / 'tensorboard'), purge_step=resumed_step + 1)

  def parameters(self, params, trains) -> str:
    """Writes the shapes of all parameters to parameters.txt; returns a line on how many there are and train.

    Args:
      params: the parameters, or their shapes.
      trains: whether each one trains, in the same tree.
    """
    from clu import parameter_overview

    if self.active:
      table = parameter_overview.get_parameter_overview(params, include_stats=False)
      with _refuse_places():
        (self.workdir / 'parameters.txt').write_text(table + '\n')
    sizes = [x.size for x in jax.tree.leaves(params)]
    training = sum(size for size, train in zip(sizes, jax.tree.leaves(trains), strict=True) if train)
    return f'{sum(sizes):,} parameters, of which {training:,} train (parameters.txt)'

  def scalars(self, step: int, values: dict[str, float]) -> None:
    if self.active:
      self._file.write(json.dumps({'step': step, **values}) + '\n')
      self._file.flush()
      for name, value in values.items():
        self._board.add_scalar(name, value, step)

  def picture(self, step: int, name: str, rgb: np.ndarray) -> None:
    """Writes uint8 [h, w, 3] to TensorBoard and to samples/NAME_STEP.png."""
    if self.active:
      import cv2

      self._board.add_image(name, rgb, step, dataformats='HWC')
      folder = self.workdir / 'samples'
      with _refuse_places():
        folder.mkdir(parents=True, exist_ok=True)
      ok, data = cv2.imencode('.png', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
      assert ok
      (folder / f'{name}_{step:07}.png').write_bytes(data.tobytes())

  def close(self) -> None:
    if self.active:
      self._file.close()
      self._board.close()


@contextlib.contextmanager
def _refuse_places() -> Iterator[None]:
  """Raises UserError for a folder where the block needs a file, or the other way round."""
  try:
    yield
  except (IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError) as error:
    raise UserError(f'cannot write {error.filename} ({error.strerror}): move it out of the workdir') from error


def _step(line: bytes) -> float:
  """The step of a line of metrics; inf if it is none: the last line of a killed run may be incomplete."""
  try:
    values = json.loads(line)
  except ValueError:
    return math.inf
  step = values.get('step') if isinstance(values, dict) else None
  return step if isinstance(step, int) else math.inf
