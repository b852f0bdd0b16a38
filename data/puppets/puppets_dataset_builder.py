"""Puppets: drawn talking heads with exact ground truth, generated from a seed (see README.md).

python -m talkjax.build data/puppets [--config=tiny]
"""

import dataclasses

import cv2
import numpy as np
import tensorflow_datasets as tfds

from talkjax.corpora import building, records
from talkjax.corpora.records import Record
from talkjax.media import speech
from talkjax.media.segments import AUDIO_RATE, Segment

from . import articulation, drawing, geometry, identities, sentences

FPS = 25.0
QUALITY = 92  # of the JPEG frames


@dataclasses.dataclass
class PuppetsConfig(tfds.core.BuilderConfig):
  """Number of clips of each split, and the seed of people, sentences and motion."""

  train: int = 432
  validation: int = 32
  test: int = 64
  seed: int = 0
  brief: bool = False  # clips of about 1.5 s without a pause


@dataclasses.dataclass(frozen=True)
class Item:
  """Parameters of one clip. `lead` and `trail` are the silence before and after the speech, in seconds."""

  id: str
  number: int  # of the person
  seed: int  # of the people
  motion: int  # seed of the motion
  transcript: str
  spoken: str
  lead: float
  trail: float
  gain: float


class Builder(tfds.core.GeneratorBasedBuilder):
  """Drawn talking heads; people and sentences of the test split are in no other split."""

  VERSION = tfds.core.Version('2.0.0')
  BUILDER_CONFIGS = [
    PuppetsConfig(name='full', description='48 people, 528 clips of about 3 s.'),
    PuppetsConfig(
      name='tiny', train=8, validation=2, test=4, brief=True, description='14 short clips, for tests and trials.'
    ),
  ]

  def _info(self):
    return self.dataset_info_from_configs(features=records.features(), license='Apache-2.0')

  def _split_generators(self, dl_manager):
    return building.generate(self, items(self.builder_config), make_record)

  def _generate_examples(self):
    raise NotImplementedError  # abstract in TFDS; building.generate makes the examples


def items(config: PuppetsConfig) -> dict[str, dict[str, Item]]:
  """Split -> id -> clip, deterministic for a config."""
  counts = {'train': config.train, 'validation': config.validation, 'test': config.test}
  held_out = {'validation': identities.VALIDATION, 'test': identities.TEST}
  used = {n for people in held_out.values() for n in people}
  people = {'train': [n for n in range(identities.COUNT) if n not in used], **held_out}
  rng = np.random.default_rng([config.seed, 0])
  texts = sentences.draw(rng, counts, grid_share=1.0 if config.brief else 0.6)
  out = {}
  for split, count in counts.items():
    numbers = np.resize(people[split], count)
    made = [
      _item(rng, config, f'{split}-{i:04d}', int(number), texts[split][i]) for i, number in enumerate(numbers.tolist())
    ]
    out[split] = {item.id: item for item in made}
  return out


def _item(rng: np.random.Generator, config: PuppetsConfig, name: str, number: int, sentence: str) -> Item:
  text = sentences.spoken(sentence)
  words = text.split()
  # Most sentences get a pause at a random word, so that clips are not silent at the same times.
  if not config.brief and rng.random() < 0.65:
    at = int(rng.integers(2, len(words)))
    text = ' '.join(words[:at]) + rng.choice([',', ',', ':', '.']) + ' ' + ' '.join(words[at:])
  return Item(
    id=f'puppets-{name}',
    number=number,
    seed=config.seed,
    motion=int(rng.integers(2**31)),
    transcript=sentence,
    spoken=str(text),
    lead=_silence(rng, config.brief),
    trail=_silence(rng, config.brief),
    gain=round(float(rng.uniform(0.6, 1.0)), 3),
  )


def _silence(rng: np.random.Generator, brief: bool) -> float:
  """Seconds before or after the speech: mostly short, because long silences would coincide in any two clips."""
  low, high = (0.02, 0.16) if brief or rng.random() < 0.7 else (0.3, 0.9)
  return round(float(rng.uniform(low, high)), 3)


def make_record(item: Item) -> Record:
  """Synthesises, animates and renders one clip; the same item gives the same bytes."""
  cv2.setNumThreads(1)  # clips are built in parallel processes
  person = identities.identity(item.number, item.seed)
  utterance = speech.speak(item.spoken, person.voice, person.rate_wpm, person.pitch)
  frames = int(np.ceil((item.lead + len(utterance.audio) / AUDIO_RATE + item.trail) * FPS))
  audio = np.zeros(round(frames * AUDIO_RATE / FPS), np.float32)
  start = round(item.lead * AUDIO_RATE)
  audio[start : start + len(utterance.audio)] = utterance.audio * item.gain
  lead = start / AUDIO_RATE
  delay = lambda segments: tuple(Segment(s.text, s.start + lead, s.end + lead) for s in segments)  # noqa: E731
  phonemes, words = delay(utterance.phonemes), delay(utterance.words)
  if len(words) == len(item.transcript.split()):  # words as in the transcript, not as spelt for the synthesiser
    words = tuple(dataclasses.replace(s, text=t) for s, t in zip(words, item.transcript.split()))

  mouth = articulation.articulate(phonemes, audio, AUDIO_RATE, frames, FPS)
  motion = articulation.add_motion(np.random.default_rng([item.motion, 1]), phonemes, mouth, FPS)
  puppet = drawing.make_puppet(person)
  landmarks = geometry.landmarks(puppet.anchors, motion.pose, motion.mouth, motion.brow, motion.blink)
  return Record(
    id=item.id,
    speaker=person.name,
    gender=person.gender,
    caption=f'A {"man" if person.gender == "male" else "woman"} is talking',
    transcript=item.transcript,
    fps=FPS,
    frames=tuple(records.encode_picture(frame, QUALITY) for frame in drawing.draw(puppet, motion)),
    size=(drawing.SIZE, drawing.SIZE),
    audio=np.round(audio * 32767).astype(np.int16),
    box=np.concatenate([landmarks.min(1), landmarks.max(1)], axis=1).astype(np.float32),
    landmarks=landmarks,
    pose=motion.pose.angles.astype(np.float32),
    coefficients=motion.coefficients(),
    words=words,
    phonemes=phonemes,
    attributes={'voice': person.voice, 'spoken': item.spoken, 'hair': person.hair_style},
  )
