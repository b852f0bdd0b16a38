"""A system of picture and sound in one file: it learns the mean image of a corpus and hums at any pitch."""

import functools

import jax.numpy as jnp
import numpy as np

from configs import common
from talkjax import options, systems
from talkjax.media import picture
from talkjax.metrics import suites

RATE, FPS, CLIP = 16_000, 25, 5  # samples and frames per second, frames per chunk
OPTIONS = (
  options.Option('seconds', float, 'How long the video is.', required=True),
  options.Option('pitch', float, 'Of the sound, Hz.', key='pitch', minimum=1, evaluate=True),
)
SOURCES = {}


def get_config(arg=None):
  c = common.base()
  c.update({'system': 'tests.systems.toy', 'size': 16, 'pitch': 440.0, 'batch_size': 4, 'steps': 4, 'log_every': 1})
  c.data.corpus = 'puppets/tiny'
  return common.finish(c, common.parse(arg, ('tiny',))[1])


def build(config):
  return systems.System(
    read=functools.partial(read, config=config),
    init=lambda rng, batch: {'image': jnp.zeros(batch['image'].shape[1:])},
    loss=lambda params, batch, rng, train: (jnp.mean((params['image'] - batch['image']) ** 2), {}),
    generate=functools.partial(generate, config=config),
    from_records=functools.partial(from_records, config=config),
    from_files=functools.partial(from_files, config=config),
    options=OPTIONS,
    scores=(suites.IMAGES, suites.Suite(('pitch_error',), lambda context: functools.partial(score, config=config))),
  )


def read(record, generator, *, config):
  frame = picture.fit_square(record.frame(int(generator.integers(len(record.frames)))), config.size)
  return {'image': picture.to_float(frame)[None], 'id': np.array([record.id])}


def generate(params, conditions, seeds, progress=None, *, config):
  """`conditions`: the number of frames."""
  image = picture.to_uint8(params['image'])
  for start in range(0, conditions, CLIP):
    count = min(CLIP, conditions - start)
    time = np.arange(start * RATE // FPS, (start + count) * RATE // FPS) / RATE
    sound = 0.3 * np.sin(2 * np.pi * config.pitch * time).astype(np.float32)
    frames = np.broadcast_to(image, (len(seeds), count, *image.shape))
    yield systems.Chunk(
      frames, np.tile(sound, (len(seeds), 1)), fps=FPS, sound_rate=RATE, seams=((0,) * bool(start),) * len(seeds)
    )


def from_records(records, speech=None, num_frames=None, settings=None, *, config):
  count = num_frames or max(len(r.frames) for r in records)
  shown = lambda r: [picture.fit_square(r.frame(i), config.size) for i in range(min(count, len(r.frames)))]
  return systems.RecordBatch(count, tuple(systems.Truth(shown(r), r.landmarks) for r in records))


def from_files(params, request, *, config):
  count = round(FPS * request.inputs['seconds'])
  video = systems.Video(request.output, count, FPS, (config.size, config.size))
  return [systems.FileBatch((video,), 1, lambda: count)]


def score(clip, *, config):
  spectrum = np.abs(np.fft.rfft(clip.generated.sound))
  return {'pitch_error': abs(spectrum.argmax() * RATE / len(clip.generated.sound) - config.pitch)}
