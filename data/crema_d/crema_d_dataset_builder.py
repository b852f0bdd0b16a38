"""CREMA-D: 91 actors, 12 sentences, six emotions, in the layout of the published corpus (see data/README.md).

    python -m talkjax.build data/crema_d --manual_dir=DIR

The paper of `speech_edit` lists its held-out actors twice, with different numbers: section 3.3.1 has 15, 20, 21, 30,
33, 52, 62, 81, 82 and 89, section 4.3 has 5 instead of 15. The first list is the test set here.
"""

import dataclasses
import pathlib
import re

import tensorflow_datasets as tfds

from talkjax.corpora import building, footage, records
from talkjax.errors import UserError
from talkjax.media import files

HELD_OUT = tuple(str(1000 + n) for n in (15, 20, 21, 30, 33, 52, 62, 81, 82, 89))
VIDEOS = ('.flv', '.mp4')  # original or converted; a converted file is preferred
SENTENCES = {
  'IEO': "It's eleven o'clock",
  'TIE': 'That is exactly what happened',
  'IOM': "I'm on my way to the meeting",
  'IWW': 'I wonder what this is about',
  'TAI': 'The airplane is almost full',
  'MTI': 'Maybe tomorrow it will be cold',
  'IWL': 'I would like a new alarm clock',
  'ITH': "I think I have a doctor's appointment",
  'DFA': "Don't forget a jacket",
  'ITS': "I think I've seen this before",
  'TSI': 'The surface is slick',
  'WSI': "We'll stop in a couple of minutes",
}
EMOTIONS = {'ANG': 'anger', 'DIS': 'disgust', 'FEA': 'fear', 'HAP': 'happiness', 'NEU': 'neutral', 'SAD': 'sadness'}
LEVELS = {'LO': 'low', 'MD': 'medium', 'HI': 'high', 'XX': 'unspecified', 'X': 'unspecified'}  # one file name has X


@dataclasses.dataclass
class CremaConfig(tfds.core.BuilderConfig):
  """`size`: of the crop, pixels."""

  size: int = 128


class Builder(tfds.core.GeneratorBasedBuilder):
  """Talking faces of the CREMA-D corpus."""

  VERSION = tfds.core.Version('2.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'the CREMA-D folder: VideoFlash/*.flv (or *.mp4), AudioWAV/*.wav, VideoDemographics.csv'
  )
  BUILDER_CONFIGS = [CremaConfig(name='actors', description='Ten actors are the test set, all others train.')]

  def _info(self):
    return self.dataset_info_from_configs(
      features=records.features(),
      homepage='https://github.com/CheyneyComputerScience/CREMA-D',
      license='ODbL 1.0',
    )

  def _split_generators(self, dl_manager):
    clips = find_clips(pathlib.Path(dl_manager.manual_dir), self.builder_config.size)
    splits = {'train': {}, 'test': {}}
    for clip in clips:
      splits['test' if clip.speaker in HELD_OUT else 'train'][clip.id] = clip
    return building.generate(self, splits, footage.talking_record)

  def _generate_examples(self):
    raise NotImplementedError  # abstract in TFDS; building.generate makes the examples


def find_clips(folder: pathlib.Path, size: int = 128) -> list[footage.Clip]:
  """All clips in a folder, sorted by name.

  Raises:
    UserError: there are no clips, or there is no VideoDemographics.csv.
  """
  paths = sorted(footage.find_files(folder, VIDEOS), key=lambda p: VIDEOS.index(p.suffix.lower()))
  videos = {path.stem: path for path in paths}
  if not videos:
    raise UserError(f'{folder} has no CREMA-D video: expected VideoFlash/*.flv, or *.mp4 made from them')
  sounds = {path.stem: path for path in footage.find_files(folder, ['.wav'])}
  people = read_people(folder)
  return [_clip(videos[name], sounds.get(name), people, size) for name in sorted(videos)]


def read_people(folder: pathlib.Path) -> dict[str, dict[str, str]]:
  """VideoDemographics.csv: actor -> {'Age': ..., 'Sex': ..., 'Race': ..., 'Ethnicity': ...}."""
  path = next(iter(footage.find_files(folder, ['videodemographics.csv'])), None)
  if path is None:
    raise UserError(f'{folder} has no VideoDemographics.csv, which describes the actors: copy it from the corpus')
  columns, rows = files.read_csv(path)
  if not rows or not {'ActorID', 'Sex'} <= set(columns):
    raise UserError(f'{path} has no columns ActorID and Sex: expected the file of the corpus')
  return {row['ActorID'].strip(): {k: (v or '').strip() for k, v in row.items() if k} for row in rows}


def _clip(path: pathlib.Path, audio: pathlib.Path | None, people, size: int) -> footage.Clip:
  clip = footage.Clip(id=path.stem, video=str(path), audio=str(audio or ''), size=size)
  name = re.fullmatch(r'(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})', path.stem)
  if name is None:
    return dataclasses.replace(clip, problem='its name is not ACTOR_SENTENCE_EMOTION_LEVEL')
  actor, sentence, emotion, level = name.groups()
  for code, table, what in (
    (sentence, SENTENCES, 'sentence'),
    (emotion, EMOTIONS, 'emotion'),
    (level, LEVELS, 'level'),
  ):
    if code not in table:
      return dataclasses.replace(clip, problem=f'its name has an unknown {what}: {code}')
  person = people.get(actor)
  if person is None:
    return dataclasses.replace(clip, problem=f'actor {actor} is not in VideoDemographics.csv')
  gender = person['Sex'].lower()
  attributes = {
    'sentence': sentence,
    'emotion': EMOTIONS[emotion],
    'level': LEVELS[level],
    **{key.lower(): person[key] for key in ('Age', 'Race', 'Ethnicity') if person.get(key)},
  }
  return dataclasses.replace(
    clip,
    speaker=actor,
    gender=gender,
    caption=footage.caption_of(gender),
    transcript=SENTENCES[sentence],
    attributes=tuple(sorted(attributes.items())),
  )
