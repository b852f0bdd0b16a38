"""GRID: 34 people who read six-word sentences, in the layout of the published corpus (see data/README.md).

python -m talkjax.build data/grid --manual_dir=DIR [--config=speakers]
"""

import dataclasses
import pathlib
import re

import tensorflow_datasets as tfds

from talkjax.corpora import building, footage, records
from talkjax.errors import UserError
from talkjax.media import files, segments

# The corpus has no file with the genders: 16 of the 34 speakers are women.
FEMALE = (4, 7, 11, 15, 16, 18, 20, 21, 22, 23, 24, 25, 29, 31, 33, 34)
HELD_OUT = ('s1', 's2', 's20', 's22')  # two men and two women: the unseen-speaker split of the lip-reading literature
TICKS = 25_000  # per second, the unit of times in alignments
SILENCE = ('sil', 'sp')
SLACK = 0.1  # seconds by which an alignment may exceed its clip
# A clip's name spells its sentence, with one letter (or digit) per word.
SPELLING = (
  {'b': 'bin', 'l': 'lay', 'p': 'place', 's': 'set'},
  {'b': 'blue', 'g': 'green', 'r': 'red', 'w': 'white'},
  {'a': 'at', 'b': 'by', 'i': 'in', 'w': 'with'},
  {c: c for c in 'abcdefghijklmnopqrstuvxyz'},  # w, the only letter with three syllables, does not occur
  dict(zip('z123456789', ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'))),
  {'a': 'again', 'n': 'now', 'p': 'please', 's': 'soon'},
)


@dataclasses.dataclass
class GridConfig(tfds.core.BuilderConfig):
  """`split`: 's1' (speaker 1 only, as in the paper) or 'speakers' (all, some held out). `size`: of the crop, pixels."""

  split: str = 's1'
  size: int = 128


@dataclasses.dataclass(frozen=True)
class Item:
  """A clip and the file of its word times ('' if there is none)."""

  clip: footage.Clip
  alignment: str


class Builder(tfds.core.GeneratorBasedBuilder):
  """Talking faces of the GRID corpus."""

  VERSION = tfds.core.Version('2.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'the folder with GRID unpacked: sN/**/*.mpg, alignments/sN/*.align or sN/align/*.align'
  BUILDER_CONFIGS = [
    GridConfig(name='s1', description='Speaker 1: the last 5 % of the clips by name (at least 20) are the test set.'),
    GridConfig(name='speakers', split='speakers', description='All speakers; s1, s2, s20 and s22 are the test set.'),
  ]

  def _info(self):
    return self.dataset_info_from_configs(
      features=records.features(),
      homepage='https://spandh.dcs.shef.ac.uk/gridcorpus/',
      license='CC BY 4.0',
    )

  def _split_generators(self, dl_manager):
    config = self.builder_config
    items = find_items(pathlib.Path(dl_manager.manual_dir), config.size)
    return building.generate(self, split_items(items, config.split), make_record)

  def _generate_examples(self):
    raise NotImplementedError  # abstract in TFDS; building.generate makes the examples


def split_items(items: dict[str, Item], split: str) -> dict[str, dict[str, Item]]:
  """Names -> items, by split.

  's1' is speaker 1 only. The last 5 % by name are the test set: 50 of the 1,000 clips (the paper says 950/50, but not
  which); with fewer clips at least 20, but at most a tenth. 'speakers' holds out `HELD_OUT`.
  """
  if split == 's1':
    names = sorted(name for name, item in items.items() if item.clip.speaker == 's1')
    if not names:
      raise UserError('config s1 needs clips of speaker s1, but there are none: expected s1/**/*.mpg in --manual_dir')
    held_out = min(max(20, len(names) // 20), len(names) // 10)
    chosen = {'train': names[: len(names) - held_out], 'test': names[len(names) - held_out :]}
  elif split == 'speakers':
    chosen = {'train': [], 'test': []}
    for name, item in items.items():
      chosen['test' if item.clip.speaker in HELD_OUT else 'train'].append(name)
  else:
    raise UserError(f"config's split is {split!r}: expected 's1' or 'speakers'")
  return {split: {name: items[name] for name in names} for split, names in chosen.items()}


def find_items(folder: pathlib.Path, size: int = 128) -> dict[str, Item]:
  """All clips in a folder, by name ('s1_bbaf2n'), sorted by speaker and file name.

  Raises:
    UserError: there are no clips.
  """
  alignments = _by_clip(footage.find_files(folder, ['.align']))
  sounds = _by_clip(
    sorted(footage.find_files(folder, ['.wav']), key=lambda p: '50k' in str(p).lower())
  )  # 50 kHz rather than 25 kHz
  videos = _by_clip(
    sorted(footage.find_files(folder, ['.mpg']), key=lambda p: 'mpg_6000' in p.parts)
  )  # rather than mpg_vcd
  if not videos:
    raise UserError(f'{folder} has no GRID video: expected sN/**/*.mpg, N from 1 to 34')
  items = {}
  for speaker, stem in sorted(videos, key=lambda key: (int(key[0][1:]), key[1])):
    gender = 'female' if int(speaker[1:]) in FEMALE else 'male'
    clip = footage.Clip(
      id=f'{speaker}_{stem}',
      video=str(videos[speaker, stem]),
      audio=str(sounds.get((speaker, stem), '')),
      size=size,
      speaker=speaker,
      gender=gender,
      caption=footage.caption_of(gender),
      transcript=sentence_of(stem),
    )
    items[clip.id] = Item(clip, str(alignments.get((speaker, stem), '')))
  return items


def make_record(item: Item) -> records.Record:
  """The record of one clip, with word times if it has an alignment."""
  if not item.alignment:
    return footage.talking_record(item.clip)
  words = read_alignment(pathlib.Path(item.alignment))
  transcript = ' '.join(word.text for word in words)
  record = footage.talking_record(dataclasses.replace(item.clip, words=words, transcript=transcript))
  if words and words[-1].end > len(record.frames) / record.fps + SLACK:
    raise building.Skip('its alignment is longer than the video')
  return record


def read_alignment(path: pathlib.Path) -> tuple[segments.Segment, ...]:
  """The words of an .align file, whose lines are start, end (1/25000 s) and word; silences are omitted.

  Raises:
    building.Skip: the file is not a valid alignment.
  """
  words, previous_end = [], 0
  for line in files.read_bytes(path, 'an alignment').decode(errors='replace').splitlines():
    parts = line.split()
    if not parts:
      continue
    if len(parts) != 3 or not (parts[0].isdigit() and parts[1].isdigit()):
      raise building.Skip('its alignment has lines other than start, end and word')
    start, end = int(parts[0]), int(parts[1])
    if not previous_end <= start <= end:
      raise building.Skip('the times of its alignment do not increase')
    previous_end = end
    if parts[2] not in SILENCE:
      words.append(segments.Segment(parts[2], start / TICKS, end / TICKS))
  return tuple(words)


def sentence_of(stem: str) -> str:
  """The sentence that a clip's name spells ('bbaf2n' -> 'bin blue at f two now'), or ''."""
  if len(stem) != len(SPELLING) or any(letter not in words for letter, words in zip(stem, SPELLING)):
    return ''
  return ' '.join(words[letter] for letter, words in zip(stem, SPELLING))


def _by_clip(paths) -> dict[tuple[str, str], pathlib.Path]:
  """(speaker, file name) -> path, the last if there are several. The speaker is the nearest folder named s1 to s34."""
  found = {}
  for path in paths:
    speaker = next((p for p in reversed(path.parent.parts) if re.fullmatch(r's([1-9]|[12]\d|3[0-4])', p)), None)
    if speaker:
      found[speaker, path.stem] = path
  return found
