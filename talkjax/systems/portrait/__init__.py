"""What portrait systems (emo, vexpress) share: networks, loss, reading, conditions, and how they are put together.

A system supplies its conditioning and what else is its own, see `build`.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from talkjax.options import SAMPLER, Option
from talkjax.systems import System

if TYPE_CHECKING:
  from talkjax.systems.portrait import networks

OPTIONS = (
  Option('image', str, 'The portrait to animate; a comma-separated list or a pattern.', required=True, several=True),
  Option('audio', str, 'The speech: any audio file, or a video with sound.', required=True, several=True),
  *SAMPLER,
  Option('guidance', float, 'Scale of classifier-free guidance; 1 is none.', key='guidance', sweep=True, evaluate=True),
  Option(
    'reference_weight',
    float,
    'Factor of the reference attention (1: as trained).',
    key='context_scales.reference',
    sweep=True,
    evaluate=True,
  ),
  Option(
    'audio_weight',
    float,
    'Factor of the audio conditioning (1: as trained).',
    key='context_scales.audio',
    sweep=True,
    evaluate=True,
  ),
)
SETTINGS = ('guidance', 'reference_weight', 'audio_weight')  # that every portrait system can sweep


def build(
  config,
  *,
  modules: Callable[[], tuple[ModuleType, ModuleType]],
  nets: 'networks.Networks',
  read: Callable,
  condition: Callable,
  options: tuple[Option, ...],
  samplers: tuple[str, ...] = ('ddim', 'ddpm', 'dpm++'),
  previous: str = 'next',
  **described,
) -> System:
  """The system of a config.

  Args:
    config: of a portrait system.
    modules: imports the system's (`conditions`, with `from_records` and `from_files`; `generation`, with `generate` and
      `Sampler(nets, config, table)`), when they are first used.
    nets: its networks.
    read: records to examples, given also `config` and the `audio` features.
    condition: the conditioning of a training batch, see `loss.Condition`.
    options: what a user can give.
    samplers: the samplers that it supports.
    previous: see `make_table`.
    **described: other fields of the System.

  Raises:
    UserError: the config contradicts itself, or names a sampler that is not supported.
  """
  from talkjax.metrics import suites
  from talkjax.systems.portrait import loss, networks
  from talkjax.systems.sampling import check_sampler, make_schedule, make_table

  encoder = nets.audio_features.encoder
  networks.check(config)
  check_sampler(config, samplers)

  @functools.cache
  def sampler():
    _, generation = modules()
    return generation.Sampler(nets, config, make_table(config, previous))

  def generate(params, batch, seeds, progress=None):
    _, generation = modules()
    return generation.generate(params, batch, seeds, progress, sampler=sampler())

  def from_records(records, **how):
    conditions, _ = modules()
    return conditions.from_records(records, config=config, **how)

  def from_files(params, request):
    conditions, _ = modules()
    return conditions.from_files(params, request, config=config)

  return System(
    read=functools.partial(read, config=config, audio=nets.audio_features),
    init=functools.partial(networks.init, nets=nets),
    loss=functools.partial(
      loss.loss,
      nets=nets,
      condition=functools.partial(condition, nets=nets, config=config),
      schedule=make_schedule(config.diffusion),
      config=config,
    ),
    generate=generate,
    from_records=from_records,
    from_files=from_files,
    options=options,
    scores=(suites.IMAGES, suites.LIPS, suites.PORTRAIT),
    frozen=(*('autoencoder',) * (config.latents.kind == 'vae'), *((encoder.kind,) if encoder else ())),
    encoder=encoder,
    **described,
  )
