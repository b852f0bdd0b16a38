"""Any folder of videos of talking people, with an optional CSV of metadata (see data/README.md).

python -m talkjax.build data/clips --manual_dir=DIR [--config=small]
"""

import dataclasses
import os
import pathlib

import tensorflow_datasets as tfds

from talkjax.corpora import building, footage, records, shots
from talkjax.errors import UserError
from talkjax.media import files

VIDEOS = ('.mp4', '.mov', '.m4v', '.mkv', '.webm', '.avi', '.mpg', '.mpeg', '.flv', '.wmv', '.ts', '.3gp')
TEXTS = ('speaker', 'gender', 'caption', 'transcript')
SPLITS = ('train', 'test')
CROPS = {'fixed': footage.FaceWindow(), 'aligned': None}
GENDERS = {'m': 'male', 'male': 'male', 'man': 'male', 'f': 'female', 'female': 'female', 'woman': 'female', '': ''}


@dataclasses.dataclass
class ClipsConfig(tfds.core.BuilderConfig):
  """How videos become records.

  Attributes:
    size: of the crop, pixels.
    crop: 'fixed', a square per shot in which the head moves, or 'aligned', a face that is aligned in every frame.
    max_seconds: longer shots are split; None: they are not.
    silent_ok: keep videos without sound.
  """

  size: int = 512
  crop: str = 'fixed'
  max_seconds: float | None = 10.0
  silent_ok: bool = False


class Builder(tfds.core.GeneratorBasedBuilder):
  """Talking faces in a folder of videos."""

  VERSION = tfds.core.Version('3.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'a folder of videos (in subfolders too), optionally with one .csv that has a column file'
  )
  BUILDER_CONFIGS = [
    ClipsConfig(name='full', description='512 x 512, a fixed crop per shot of at most 10 s.'),
    ClipsConfig(name='small', size=256, description='256 x 256, likewise.'),
    ClipsConfig(name='silent', silent_ok=True, description='As full, including videos without sound.'),
    ClipsConfig(
      name='aligned', size=128, crop='aligned', max_seconds=None, description='128 x 128, faces aligned frame by frame.'
    ),
  ]

  def _info(self):
    return self.dataset_info_from_configs(features=records.features())

  def _split_generators(self, dl_manager):
    config = self.builder_config
    splits = find_clips(pathlib.Path(dl_manager.manual_dir), config.size, config.crop, config.silent_ok)
    return building.generate(self, shots.split(self, splits, config.max_seconds), footage.talking_record)

  def _generate_examples(self):
    raise NotImplementedError  # abstract in TFDS; building.generate makes the examples


def find_clips(
  folder: pathlib.Path, size: int = 512, crop: str = 'fixed', silent_ok: bool = False
) -> dict[str, dict[str, footage.Clip]]:
  """The videos of a folder as clips, by split and name, which is the path in the folder.

  Videos without an entry in the CSV column `split` are split by speaker (by video if the CSV names no speaker): the
  last 5 % by name are the test set, at least one, unless there is only one.

  Raises:
    UserError: there is no video, the CSV is invalid, or an unknown `crop`.
  """
  if crop not in CROPS:
    raise UserError(f"config's crop is {crop!r}: expected {' or '.join(map(repr, CROPS))}")
  rows = read_table(folder)
  names = sorted({p.relative_to(folder).as_posix() for p in footage.find_files(folder, VIDEOS)} | set(rows))
  if not names:
    raise UserError(f'{folder} has no video: expected files ending in {", ".join(VIDEOS)}, in subfolders too')
  groups = {name: rows.get(name, {}).get('speaker') or name for name in names}
  free = sorted({groups[name] for name in names if not rows.get(name, {}).get('split')})
  held = set(free[-max(1, len(free) // 20) :]) if len(free) > 1 else set()
  splits = {split: {} for split in SPLITS}
  for name in names:
    row = rows.get(name, {})
    split = row.get('split') or ('test' if groups[name] in held else 'train')
    clip = _clip(str(folder / name), name, row)
    splits[split][clip.id] = dataclasses.replace(clip, size=size, window=CROPS[crop], silent_ok=silent_ok)
  return splits


def read_table(folder: pathlib.Path) -> dict[str, dict[str, str]]:
  """The folder's CSV: file -> its other columns; {} without a CSV.

  Raises:
    UserError: several CSVs, one that is no CSV, no column `file`, a file listed twice, or an unknown split or gender.
  """
  tables = sorted(folder.glob('*.csv'))
  if not tables:
    return {}
  if len(tables) > 1:
    raise UserError(f'{folder} has several CSV files ({", ".join(t.name for t in tables)}): expected one or none')
  columns, lines = files.read_csv(tables[0])
  if 'file' not in columns:
    raise UserError(
      f'{tables[0]} has no column "file": its first line names the columns, file and any of '
      f'{", ".join((*TEXTS, "split"))}'
    )
  rows = [{k: (v or '').strip() for k, v in row.items() if k} for row in lines]
  table = {}
  for line, row in enumerate(rows, 2):
    name = pathlib.PurePosixPath(row.pop('file')).as_posix()
    where = f'{tables[0]}, line {line}'
    if name in table:
      raise UserError(f'{where}: {name} is already in the table; expected one line per file')
    if row.get('split', '') not in ('', *SPLITS):
      raise UserError(f'{where}: split is {row["split"]!r}; expected train, test or nothing')
    if row.get('gender', '').lower() not in GENDERS:
      raise UserError(f'{where}: gender is {row["gender"]!r}; expected male, female or nothing')
    table[name] = row
  return table


def _clip(path: str, name: str, row: dict[str, str]) -> footage.Clip:
  gender = GENDERS[row.get('gender', '').lower()]
  return footage.Clip(
    id=os.fsencode(name).decode(errors='backslashreplace'),  # records have text: a name may not be UTF-8
    video=path,
    speaker=row.get('speaker', ''),
    gender=gender,
    caption=row.get('caption') or footage.caption_of(gender),
    transcript=row.get('transcript', ''),
    attributes=tuple(sorted((k, v) for k, v in row.items() if v and k not in (*TEXTS, 'split'))),
    problem='' if os.path.lexists(path) else 'listed in the CSV, but there is no such file',
  )
