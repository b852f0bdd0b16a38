"""What frozen encoders make of a corpus, kept beside its records: `talkjax.build` writes it, training reads it.

It is a folder. Of each kind, `latents` (moments of an autoencoder, a row a frame) and `speech` (states of wav2vec 2.0),
it has KIND.json: the corpus, the encoder's weights, and each split's clips with their rows, in the corpus' order. The
rows, float16, lie in KIND-SPLIT-NUMBER.f16, CLIPS clips a file, so that training maps them and reads no frame but those
it wants. KIND.json comes last: until then KIND.json.partial tells which files are whole.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from talkjax.corpora.records import Record
from talkjax.errors import UserError

# By kind: what `talkjax.convert` calls its encoder, and the branch of a system's parameters that is it.
KINDS = {'latents': ('sd_vae', 'autoencoder'), 'speech': ('wav2vec2', 'wav2vec2')}
CLIPS = 64  # of a file: what an interrupted run loses at most


def fingerprint(params: Mapping[str, np.ndarray]) -> str:
  """A digest of parameters by path, of their names, shapes and values."""
  digest = hashlib.sha256()
  for path, value in sorted(params.items()):
    digest.update(f'{path} {value.shape}'.encode())
    digest.update(np.ascontiguousarray(value, np.float32))
  return digest.hexdigest()[:16]


def write(
  folder: pathlib.Path,
  kind: str,
  about: Mapping[str, Any],
  splits: Mapping[str, Sequence[Record]],
  encode: Callable[[Record], Iterator[np.ndarray]],
) -> bool:
  """Encodes every record; goes on where it was interrupted. Returns whether there was anything to do.

  Args:
    folder: of the sidecar.
    kind: of KINDS.
    about: what it is made of, for the JSON: all but `workdir` must be as it was to go on; `shape` is that of a row.
    splits: the corpus' records.
    encode: a record's rows, in pieces [n, *shape] float16.

  Raises:
    UserError: the folder has that kind already, of something else; or numbers that are too large for float16.
  """
  done, partial = folder / f'{kind}.json', folder / f'{kind}.json.partial'
  same = lambda other: all(other.get(k) == v for k, v in about.items() if k != 'workdir')
  if done.exists():
    if differs := [k for k in about if k != 'workdir' and _read(done).get(k) != about[k]]:
      was = ', '.join(f'{k} {_read(done).get(k)} instead of {about[k]}' for k in differs)
      raise UserError(f'{done} was made of something else ({was}): name another folder with --encoded=NAME')
    return False
  made = _read(partial) if partial.exists() else {}
  if not made or not same(made):
    made = {**about, 'clips_a_file': CLIPS, 'splits': {split: {'clips': [], 'rows': []} for split in splits}}
  folder.mkdir(parents=True, exist_ok=True)
  count = sum(map(len, splits.values()))
  with tqdm.tqdm(
    total=count, initial=sum(len(s['clips']) for s in made['splits'].values()), desc=kind, unit='clip'
  ) as bar:
    for split, records in splits.items():
      known, each = made['splits'][split], made['clips_a_file']
      for first in range(len(known['clips']), len(records), each):
        with _file(folder, kind, split, first // each).open('wb') as file:
          for i in range(first, min(first + each, len(records))):
            record, rows = records[i], 0
            for piece in encode(record):
              if not np.isfinite(piece).all():
                raise UserError(f'clip {record.id}: its {kind} are too large for float16, or not numbers')
              file.write(np.ascontiguousarray(piece, '<f2'))
              rows += len(piece)
            known['clips'].append(record.id)
            known['rows'].append(rows)
            bar.update()
          file.flush()
          os.fsync(file.fileno())
        _write(partial, made)
  partial.replace(done)
  return True


@dataclasses.dataclass(frozen=True)
class Sidecar:
  """Gives records of one split what was encoded of them: `sidecar(record)`.

  Attributes:
    name: as the config calls it.
    folder: where it lies.
    about: by kind, what its JSON says of how it was made.
    places: by kind and clip, its first row's file and number there, and how many rows it has.
  """

  name: str
  folder: pathlib.Path
  about: Mapping[str, Mapping[str, Any]]
  places: Mapping[str, Mapping[str, tuple[pathlib.Path, int, int]]]

  def __call__(self, record: Record) -> Record:
    return dataclasses.replace(record, **{kind: self._rows(kind, record.id) for kind in self.about})

  def _rows(self, kind: str, clip: str) -> np.ndarray:
    shape = tuple(self.about[kind]['shape'])
    if clip not in self.places[kind]:
      raise UserError(f'{self.folder}/{kind}.json has no clip {clip}: remove it and encode the corpus anew')
    path, first, rows = self.places[kind][clip]
    if not rows:
      return np.zeros((0, *shape), np.float16)
    # Mapped anew each time, as a mapping does not travel to other processes.
    return np.memmap(path, '<f2', 'r', 2 * first * int(np.prod(shape)), (rows, *shape))

  def check_weights(self, params: Mapping[str, np.ndarray], branches: Sequence[str]) -> None:
    """Raises UserError unless a run that starts with `params`, by path, has the encoders that this was made with.

    Args:
      params: what the run does not begin afresh.
      branches: the branches of parameters that it has at all.
    """
    for kind, about in self.about.items():
      foundation, branch = KINDS[kind]
      mine = {path.removeprefix(f'{branch}/'): x for path, x in params.items() if path.startswith(f'{branch}/')}
      if branch in branches and (not mine or fingerprint(mine) != about['weights']):
        raise UserError(
          f'{kind} of config.data.encoded={self.name} were made with the {branch} of {about["workdir"]}, and this run '
          f'{"starts with another" if mine else "has none to start with"}: set '
          f'--config.foundations.{foundation}={about["workdir"]}, or encode the corpus with the one it has'
        )


def open_sidecar(builder, name: str, split: str) -> Sidecar:
  """What was encoded of a split of a corpus.

  Args:
    builder: of TFDS.
    name: of the folder in the corpus' own, or its path.
    split: its name.

  Raises:
    UserError: there is none, it is not finished, or it is of another corpus.
  """
  folder, what = pathlib.Path(builder.data_dir) / name, f'config.data.encoded={name}'
  kinds = [kind for kind in KINDS if (folder / f'{kind}.json').exists()]
  command = f'`python -m talkjax.build data/{builder.name} --latents=WORKDIR --encoded={name}`'
  if not kinds and list(folder.glob('*.json.partial')):
    raise UserError(f'{what}: {folder} is not finished, run the command that makes it again: {command}')
  if not kinds:
    raise UserError(f'{what}: no latents.json or speech.json in {folder}, make it with {command}')
  about, places = {}, {}
  for kind in kinds:
    about[kind] = _read(folder / f'{kind}.json')
    if about[kind]['corpus'] != builder.info.full_name:
      raise UserError(f'{what} has {kind} of {about[kind]["corpus"]}, and the corpus is {builder.info.full_name}')
    known = about[kind].pop('splits').get(split, {'clips': [], 'rows': []})
    count = builder.info.splits[split].num_examples
    if len(known['clips']) != count:
      raise UserError(
        f'{what} has {kind} of {len(known["clips"])} clips of split {split!r}, and the corpus has {count}: remove '
        f'{folder}/{kind}.json and encode the corpus anew'
      )
    places[kind], each = {}, about[kind]['clips_a_file']
    for first in range(0, count, each):
      clips, rows = (known[k][first : first + each] for k in ('clips', 'rows'))
      starts = itertools.accumulate(rows, initial=0)
      file = _file(folder, kind, split, first // each)
      places[kind] |= {clip: (file, start, n) for clip, start, n in zip(clips, starts, rows)}
  return Sidecar(name, folder, about, places)


def _file(folder: pathlib.Path, kind: str, split: str, number: int) -> pathlib.Path:
  return folder / f'{kind}-{split}-{number:05}.f16'


def _read(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text())


def _write(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(json.dumps(values) + '\n')
  temporary.replace(path)
